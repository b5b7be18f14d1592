//! What the firmware starts.

use std::fs;
use std::path::Path;

use crate::script::{run, scratch, tool};
use crate::{MIB, image, key, root, stock_kernel};

/// The files of the EFI partition of a raw disk, by name; folders end in a slash.
fn efi_files(disk: &Path) -> Vec<String> {
    run(tool("mdir").args(["-/", "-b", "-i"]).arg(efi(disk)).arg("::"))
        .lines()
        .map(|line| line.trim_start_matches("::/").to_owned())
        .collect()
}

/// The EFI partition, as mtools want it: it always starts at 1 MiB.
fn efi(disk: &Path) -> String {
    format!("{}@@1M", disk.display())
}

/// A file of the EFI partition, copied to `to`.
pub(crate) fn from_efi(disk: &Path, name: &str, to: &Path) -> Vec<u8> {
    run(tool("mcopy").args(["-n", "-o", "-i"]).arg(efi(disk)).arg(format!("::{name}")).arg(to));
    fs::read(to).unwrap()
}

#[test]
fn the_efi_partition_holds_grub_kernel_initramfs_and_the_command_line() {
    let dir = scratch("grub");
    let root = root(&dir);
    run(image(&dir, &root).args(["--append", "one=$two;three {4} #5"]));
    let disk = dir.join("out/disk.img");
    assert_eq!(
        efi_files(&disk),
        [
            "EFI/",
            "bzImage",
            "rootfs.cpio.gz",
            "EFI/BOOT/",
            "EFI/BOOT/BOOTX64.EFI",
            "EFI/BOOT/grub.cfg",
        ]
    );
    let file = |name: &str| from_efi(&disk, name, &dir.join("from efi"));
    for (name, input) in [("bzImage", "kernel"), ("rootfs.cpio.gz", "initramfs")] {
        let expected = fs::read(dir.join(input)).unwrap();
        assert!(file(name) == expected, "{name}");
        assert!(fs::read(dir.join("out").join(name)).unwrap() == expected);
    }
    let cmdline = fs::read_to_string(dir.join("out/cmdline")).unwrap();
    let quoted: Vec<_> = cmdline.split_whitespace().map(|word| format!("'{word}'")).collect();
    assert_eq!(
        String::from_utf8(file("EFI/BOOT/grub.cfg")).unwrap(),
        format!("linux /bzImage {}\ninitrd /rootfs.cpio.gz\nboot\nhalt\n", quoted.join(" "))
    );
    assert_eq!(&file("EFI/BOOT/BOOTX64.EFI")[..2], b"MZ");
}

#[test]
fn a_unified_kernel_image_is_all_that_the_efi_partition_holds() {
    let dir = scratch("uki");
    let root = root(&dir);
    run(image(&dir, &root).args(["--boot", "uki", "--append", "a=\"b  c\""]));
    let disk = dir.join("out/disk.img");
    assert_eq!(efi_files(&disk), ["EFI/", "EFI/BOOT/", "EFI/BOOT/BOOTX64.EFI"]);
    let uki = dir.join("uki");
    from_efi(&disk, "EFI/BOOT/BOOTX64.EFI", &uki);
    let cmdline = fs::read(dir.join("out/cmdline")).unwrap();
    assert!(cmdline.ends_with(b" console=ttyS0 a=\"b  c\" cvm.end\n"));
    for (section, expected) in [
        (".cmdline", cmdline.trim_ascii_end()),
        (".initrd", &fs::read(dir.join("initramfs")).unwrap()),
        (".linux", &fs::read(dir.join("kernel")).unwrap()),
    ] {
        let found = dir.join("section");
        run(tool("objcopy")
            .arg("--dump-section")
            .arg(format!("{section}={}", found.display()))
            .args([&uki, &dir.join("copy")]));
        assert!(fs::read(&found).unwrap() == expected, "{section}");
    }
    // No section lies on another when it is loaded.
    let table = run(tool("objdump").args(["-h", "-w"]).arg(&uki));
    let mut places: Vec<_> = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|words| words.first().is_some_and(|word| word.parse::<u32>().is_ok()))
        .map(|words| [words[3], words[2]].map(|hex| u64::from_str_radix(hex, 16).unwrap()))
        .collect();
    places.sort_unstable();
    assert!(places.is_sorted_by(|[start, size], [next, _]| start + size <= *next));
}

#[test]
fn what_the_firmware_starts_is_signed_when_there_is_a_key() {
    let dir = scratch("signed");
    let root = root(&dir);
    stock_kernel(&dir);
    let (sb_key, sb_cert) = key(&dir, "owner");
    let (_, other) = key(&dir, "other");
    for (boot, signed) in
        [("grub", &["EFI/BOOT/BOOTX64.EFI", "bzImage"][..]), ("uki", &["EFI/BOOT/BOOTX64.EFI"])]
    {
        run(image(&dir, &root)
            .args(["--boot", boot])
            .env("SB_KEY", &sb_key)
            .env("SB_CERT", &sb_cert));
        for name in signed {
            let file = dir.join("from efi");
            from_efi(&dir.join("out/disk.img"), name, &file);
            let verify = |certificate: &Path| {
                let mut verify = tool("sbverify");
                verify.arg("--cert").arg(certificate).arg(&file);
                verify.output().unwrap().status.success()
            };
            assert!(verify(&sb_cert) && !verify(&other), "{boot}: {name}");
        }
    }
    // Alone, the kernel of a unified image would start with any command line.
    let kernel = fs::read(dir.join("out/bzImage")).unwrap();
    assert!(kernel == fs::read(dir.join("kernel")).unwrap());
}

#[test]
fn an_unsigned_image_is_called_so() {
    let dir = scratch("unsigned");
    let output = image(&dir, &root(&dir)).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    let warnings: Vec<_> = stderr.lines().filter(|l| l.contains("warning")).collect();
    assert_eq!(
        warnings,
        ["scripts/image: warning: the image is unsigned; Secure Boot needs SB_KEY and SB_CERT"]
    );
}

/// The sizes of the files alone decide: folders have another size on each file system.
#[test]
fn the_efi_partition_has_16_mib_more_than_its_files() {
    let dir = scratch("room");
    let root = root(&dir);
    let disk = dir.join("out/disk.img");
    let held = || -> u64 {
        let files = efi_files(&disk).into_iter().filter(|name| !name.ends_with('/'));
        files.map(|name| from_efi(&disk, &name, &dir.join("file")).len() as u64).sum()
    };
    run(&mut image(&dir, &root));
    let initramfs = fs::metadata(dir.join("initramfs")).unwrap().len();
    let others = held() - initramfs;
    // As many as fill the last MiB.
    let size = others.next_multiple_of(MIB) + MIB - others;
    fs::write(dir.join("initramfs"), vec![2; usize::try_from(size).unwrap()]).unwrap();
    run(&mut image(&dir, &root));
    assert_eq!(held() % MIB, 0);
    let table = run(tool("sfdisk").arg("-J").arg(&disk));
    let table: serde_json::Value = serde_json::from_str(&table).unwrap();
    let sectors = table["partitiontable"]["partitions"][0]["size"].as_u64().unwrap();
    assert_eq!(sectors * 512, held() + 16 * MIB);
}
