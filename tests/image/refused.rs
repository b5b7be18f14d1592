//! What is refused, and in which words.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::script::{assert_empty, refuses, run, scratch};
use crate::{image, image_without_cocos, key, root, stock_kernel};

#[test]
fn an_image_is_refused_by_what_is_wrong_with_its_arguments() {
    let dir = scratch("arguments");
    let root = root(&dir);
    let missing = dir.join("missing");
    let cases: &[(&[&str], i32, &str)] = &[
        (&["--cocos-size", "much"], 2, "--cocos-size much is not a size"),
        (&["--boot", "lilo"], 2, "--boot lilo is neither grub nor uki"),
        (&["--format", "vdi"], 2, "--format vdi is none of raw, qcow2 and iso"),
        (&["--whole"], 2, "--whole is for --format iso, not raw"),
        (
            &["--format", "iso"],
            2,
            "--format iso and --boot grub exclude each other: GRUB looks for its files on a disk",
        ),
        (
            &["--format", "iso", "--boot", "uki", "--sector-size", "4096"],
            2,
            "--format iso and --sector-size 4096 exclude each other: El Torito counts in sectors of 512",
        ),
        (&["--sector-size", "2048"], 2, "--sector-size 2048 is neither 512 nor 4096"),
        (
            &["--sector-size", "4096", "--cocos-size", "33554944"],
            2,
            "--cocos-size 33554944 is no whole number of sectors of 4096 bytes",
        ),
        (&["--cocos-size", "33554433"], 2, "is no whole number of sectors of 512 bytes"),
        (&["--modules", "/lib/modules"], 2, "--initramfs and --modules exclude each other"),
        (&["--append", "a\nhalt"], 2, "--append holds more than printable ASCII"),
        (
            &["--append", "a=\"b c\""],
            2,
            "--append holds a quote or a backslash, which GRUB would change",
        ),
        (&["--append", &"x".repeat(2000)], 1, "the kernel takes 2047"),
        (&["--cocos-size", "10M"], 2, "--cocos-size 10M is less than the 32M that a boot needs"),
        (&["--cocos-size", "32767k"], 2, "is less than the 32M"),
        (
            &["--append", "cvm.volume=serial:v"],
            2,
            "--cocos-size 20480M and cvm.volume=serial:v exclude each other",
        ),
        (&["--boot", "uki", "--append", "a=\"b"], 2, "--append holds a quote that does not end"),
        (
            &["--initramfs", missing.to_str().unwrap()],
            1,
            "missing: no such file; make it with scripts/initramfs",
        ),
        (&["--kernel", "/"], 1, "cannot read /: not a readable file"),
    ];
    for (arguments, status, why) in cases {
        refuses(image(&dir, &root).args(*arguments), *status, why);
    }
    refuses(
        &mut image_without_cocos(&dir, &root),
        2,
        "--cocos-size is missing; only with cvm.volume=",
    );
    let (key, certificate) = key(&dir, "owner");
    refuses(image(&dir, &root).env("SB_KEY", &key), 2, "of SB_KEY and SB_CERT only one is set");
    let signed = |key: &Path, why: &str| {
        refuses(image(&dir, &root).env("SB_KEY", key).env("SB_CERT", &certificate), 1, why);
    };
    signed(&missing, "missing: no such file");
    let mut no_program = crate::kernel();
    no_program[..2].fill(0);
    fs::write(dir.join("kernel"), no_program).unwrap();
    signed(&key, "cannot sign bzImage");
    stock_kernel(&dir);
    signed(&certificate, "cannot sign bzImage");
    assert_empty(&dir.join("out"));
}

#[test]
fn what_is_no_kernel_is_refused() {
    let dir = scratch("no kernel");
    let root = root(&dir);
    refuses(
        image(&dir, &root).args(["--kernel", "/etc/passwd"]),
        1,
        "cannot use /etc/passwd: it is no Linux kernel (a bzImage has HdrS at byte 514, an arm64 Image ARMd at byte 56)",
    );
    let mut kernel = crate::kernel();
    kernel[..2].fill(0);
    fs::write(dir.join("kernel"), kernel).unwrap();
    refuses(image(&dir, &root).args(["--boot", "uki"]), 1, "it has no EFI stub");
    assert!(!dir.join("out").exists());
}

/// An Image, by its magic, and one that unpacks itself.
#[test]
fn a_kernel_of_aarch64_is_started_by_a_stub_of_its_own_only() {
    let dir = scratch("aarch64");
    let root = root(&dir);
    let mut kernel = vec![0; 4096];
    kernel[..2].copy_from_slice(b"MZ");
    kernel[56..60].copy_from_slice(b"ARMd");
    fs::write(dir.join("kernel"), &kernel).unwrap();
    let grub = "it is for aarch64, whose images are made with --boot uki only";
    refuses(&mut image(&dir, &root), 1, grub);
    let uki = ["--boot", "uki"];
    let stub = "linuxaa64.efi.stub: no such file; name it with --stub; 'scripts/kernel --arch arm64' \
        fetches one: stub.efi";
    refuses(image(&dir, &root).args(uki), 1, stub);
    refuses(image(&dir, &root).args(["--stub", "x"]), 2, "--stub is for --boot uki");
    kernel[56..60].fill(0);
    kernel[4..8].copy_from_slice(b"zimg");
    fs::write(dir.join("kernel"), &kernel).unwrap();
    refuses(image(&dir, &root).args(uki), 1, "it unpacks itself (EFI_ZBOOT)");
    assert!(!dir.join("out").exists());
}

#[test]
fn the_least_volume_is_that_of_pid_1() {
    let dir = scratch("least");
    let root = root(&dir);
    let least = 2 * cvm_init::format::luks2::DATA_OFFSET;
    run(image(&dir, &root).args(["--cocos-size", &least.to_string()]));
    let less = (least - 512).to_string();
    refuses(image(&dir, &root).args(["--cocos-size", &less]), 2, "is less than the 32M");
}

#[test]
fn a_missing_tool_is_named_with_its_package() {
    let dir = scratch("tools");
    let root = root(&dir);
    let (key, certificate) = key(&dir, "owner");
    for (tool, package) in [
        ("mcopy", "mtools"),
        ("grub-mkimage", "grub-common"),
        ("qemu-img", "qemu-utils"),
        ("sbsign", "sbsigntool"),
        ("faketime", "faketime"),
    ] {
        let bin = dir.join("bin").join(tool);
        fs::create_dir_all(&bin).unwrap();
        for entry in fs::read_dir("/usr/bin").unwrap().flatten() {
            if entry.file_name() != tool {
                symlink(entry.path(), bin.join(entry.file_name())).unwrap();
            }
        }
        refuses(
            image(&dir, &root)
                .args(["--format", "qcow2"])
                .env("SB_KEY", &key)
                .env("SB_CERT", &certificate)
                .env("PATH", &bin),
            1,
            &format!("cannot find {tool}: install it with 'apt-get install {package}'"),
        );
    }
    assert!(!dir.join("out").exists());
}
