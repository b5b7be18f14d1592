//! `scripts/image`: what it makes, that it makes the same again, and how it refuses bad input.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod script;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use script::{assert_empty, refuses, run, scratch, script, target, tool};
use serde_json::Value;

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 4096;

/// A folder that serves as root, and files that serve as kernel and initramfs.
fn root(dir: &Path) -> PathBuf {
    let root = dir.join("root");
    for name in ["bin", "cocos", "dev", "proc", "run", "sbin", "sys", "tmp", "var"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    fs::write(root.join("bin/a"), "an init").unwrap();
    // Absolute, as in many a root: it must not be looked for on this machine.
    symlink("/bin/a", root.join("sbin/init")).unwrap();
    fs::hard_link(root.join("bin/a"), root.join("bin/b")).unwrap();
    fs::write(dir.join("kernel"), vec![1; 3 * 1024 * 1024]).unwrap();
    fs::write(dir.join("initramfs"), vec![2; 1024 * 1024]).unwrap();
    root
}

fn image(dir: &Path, rootfs: &Path) -> Command {
    let mut command = script("image");
    command
        .arg("--rootfs")
        .arg(rootfs)
        .arg("--kernel")
        .arg(dir.join("kernel"))
        .arg("--initramfs")
        .arg(dir.join("initramfs"))
        .args(["--cocos-size", "20480M", "-o"])
        .arg(dir.join("out"));
    command
}

#[test]
fn an_image_is_what_the_tools_of_the_field_expect() {
    let dir = scratch("image");
    let root = root(&dir);
    run(image(&dir, &root).args(["--append", "quiet cvm.log=debug"]));
    let part = |name: &str| dir.join("out").join(name);

    let roothash = fs::read_to_string(part("rootfs.roothash")).unwrap();
    let roothash = roothash.trim();
    run(tool("veritysetup")
        .arg("verify")
        .args([part("rootfs.ext4"), part("rootfs.verity")])
        .arg(roothash));
    run(tool("e2fsck").arg("-fn").arg(part("rootfs.ext4")));

    let cmdline = fs::read_to_string(part("cmdline")).unwrap();
    let words: Vec<_> = cmdline.split_whitespace().collect();
    let dump = run(tool("veritysetup").arg("dump").arg(part("rootfs.verity")));
    let dumped = |key: &str| {
        let line = dump.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().last().unwrap().to_owned()
    };
    assert_eq!(
        words,
        [
            format!("roothash={roothash}"),
            format!("cvm.verity_salt={}", dumped("Salt:")),
            format!("cvm.verity_data_blocks={}", dumped("Data blocks:")),
            "systemd.verity=0".to_owned(),
            "systemd.gpt_auto=0".to_owned(),
            "quiet".to_owned(),
            "cvm.log=debug".to_owned(),
        ]
    );
    let size = fs::metadata(part("rootfs.ext4")).unwrap().len();
    assert_eq!(dumped("Data blocks:"), (size / BLOCK).to_string());

    let table = run(tool("sfdisk").arg("-J").arg(part("disk.img")));
    let table: Value = serde_json::from_str(&table).unwrap();
    let partitions = table["partitiontable"]["partitions"].as_array().unwrap();
    let field = |key: &str| -> Vec<_> {
        let of = |partition: &Value| partition[key].as_str().unwrap().to_owned();
        partitions.iter().map(of).collect()
    };
    assert_eq!(field("name"), ["efi", "root", "verity", "cocos"]);
    let types = field("type");
    assert_eq!(types[0], "C12A7328-F81F-11D2-BA4B-00A0C93EC93B");
    assert!(
        types[1..].iter().all(|kind| kind == "0FC63DAF-8483-4772-8E79-3D69D8477DE4"),
        "{types:?}"
    );
    assert_eq!(partitions[3]["size"], 20480 * MIB / 512);
    // The parts lie in their partitions.
    let disk = fs::File::open(part("disk.img")).unwrap();
    for (partition, name) in [(1, "rootfs.ext4"), (2, "rootfs.verity")] {
        let mut found = fs::read(part(name)).unwrap();
        let expected = found.clone();
        let start = partitions[partition]["start"].as_u64().unwrap() * 512;
        std::os::unix::fs::FileExt::read_exact_at(&disk, &mut found, start).unwrap();
        assert!(found == expected, "{name}");
    }
    // The volume's 20 GiB are a hole.
    let taken = disk.metadata().unwrap().blocks() * 512;
    assert!(taken < 32 * MIB, "{taken} bytes on disk");
}

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
fn from_efi(disk: &Path, name: &str, to: &Path) -> Vec<u8> {
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

/// Programs for the firmware: the smallest that can stand for a kernel.
const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";

#[test]
fn a_unified_kernel_image_is_all_that_the_efi_partition_holds() {
    let dir = scratch("uki");
    let root = root(&dir);
    fs::copy(STUB, dir.join("kernel")).unwrap();
    run(image(&dir, &root).args(["--boot", "uki", "--append", "a=\"b  c\""]));
    let disk = dir.join("out/disk.img");
    assert_eq!(efi_files(&disk), ["EFI/", "EFI/BOOT/", "EFI/BOOT/BOOTX64.EFI"]);
    let uki = dir.join("uki");
    from_efi(&disk, "EFI/BOOT/BOOTX64.EFI", &uki);
    let cmdline = fs::read(dir.join("out/cmdline")).unwrap();
    assert!(cmdline.ends_with(b" systemd.gpt_auto=0 a=\"b  c\"\n"));
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

/// A key and its certificate, in PEM: `NAME.key` and `NAME.crt`.
fn key(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    let (key, certificate) = (dir.join(format!("{name}.key")), dir.join(format!("{name}.crt")));
    run(tool("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj"])
        .arg(format!("/CN={name}"))
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate));
    (key, certificate)
}

#[test]
fn what_the_firmware_starts_is_signed_when_there_is_a_key() {
    let dir = scratch("signed");
    let root = root(&dir);
    fs::copy(STUB, dir.join("kernel")).unwrap();
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

#[test]
fn an_image_of_the_same_inputs_has_the_same_bytes() {
    let keys = scratch("keys");
    let (key, certificate) = key(&keys, "owner");
    let dirs: Vec<_> = ["image here", "image there"]
        .iter()
        .map(|place| {
            let dir = scratch(place);
            let root = root(&dir);
            fs::copy(STUB, dir.join("kernel")).unwrap();
            let epoch = ["-exec", "touch", "-h", "-d", "@100", "{}", "+"];
            run(tool("find").arg(&root).args(epoch));
            // Long enough for a time in a header, or in a FAT's two seconds, to differ.
            std::thread::sleep(std::time::Duration::from_secs(2));
            for (boot, format) in [("grub", "raw"), ("uki", "raw"), ("uki", "qcow2")] {
                // cmp reads the hole too.
                run(image(&dir, &root)
                    .args(["--boot", boot, "--format", format, "--cocos-size", "64M"])
                    .arg("-o")
                    .arg(dir.join(boot))
                    .env("SB_KEY", &key)
                    .env("SB_CERT", &certificate));
            }
            dir
        })
        .collect();
    for boot in ["grub", "uki"] {
        let mut names: Vec<_> = fs::read_dir(dirs[0].join(boot))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        let mut made = [
            "bzImage",
            "cmdline",
            "disk.img",
            "rootfs.cpio.gz",
            "rootfs.ext4",
            "rootfs.roothash",
            "rootfs.verity",
        ]
        .to_vec();
        if boot == "uki" {
            made.insert(3, "disk.qcow2");
        }
        assert_eq!(names, made);
        for name in made {
            run(tool("cmp").args(dirs.iter().map(|dir| dir.join(boot).join(name))));
        }
    }
    run(tool("qemu-img")
        .args(["compare", "-f", "raw", "-F", "qcow2"])
        .args(["disk.img", "disk.qcow2"].map(|disk| dirs[0].join("uki").join(disk))));
}

#[test]
fn an_image_of_a_tar_keeps_owners_by_number() {
    let dir = scratch("tar");
    let root = root(&dir);
    let archive = dir.join("root.tar.gz");
    run(tool("bsdtar")
        .args(["--uid", "1234", "--gid", "4321", "--uname", "daemon"])
        .arg("-C")
        .arg(&root)
        .arg("-czf")
        .arg(&archive)
        .arg("."));
    run(&mut image(&dir, &archive));
    let ext4 = dir.join("out/rootfs.ext4");
    let stat = run(tool("debugfs").args(["-R", "stat /bin/a"]).arg(&ext4));
    let words: Vec<_> = stat.split_whitespace().collect();
    let after = |key: &str| words[words.iter().position(|word| *word == key).unwrap() + 1];
    assert_eq!((after("User:"), after("Group:")), ("1234", "4321"));
    assert_eq!(after("Links:"), "2");
    run(tool("e2fsck").arg("-fn").arg(&ext4));
}

#[test]
fn an_image_can_make_its_initramfs() {
    let dir = scratch("modules");
    let root = root(&dir);
    run(&mut script("kernel"));
    let modules = target().join("kernel/modules");
    let command = |init: &Path| {
        let mut command = script("image");
        command
            .env("CARGO_TARGET_DIR", init)
            .arg("--rootfs")
            .arg(&root)
            .arg("--kernel")
            .arg(dir.join("kernel"))
            .arg("--modules")
            .arg(&modules)
            .args(["--cocos-size", "64M", "-o"])
            .arg(dir.join("out"));
        command
    };
    refuses(
        &mut command(&dir.join("nowhere")),
        1,
        "cvm-init: no such file; build it with 'cargo build --release'",
    );
    assert_empty(&dir.join("out"));
    let built = dir.join("x86_64-unknown-linux-musl/release");
    fs::create_dir_all(&built).unwrap();
    fs::write(built.join("cvm-init"), "the init").unwrap();
    run(&mut command(&dir));
    run(script("initramfs")
        .env("CARGO_TARGET_DIR", &*dir)
        .arg("--kernel-modules")
        .arg(&modules)
        .arg("-o")
        .arg(dir.join("expected")));
    run(tool("cmp").arg(dir.join("expected")).arg(dir.join("out/rootfs.cpio.gz")));
}

#[test]
fn an_image_of_an_ext4_holds_it_unchanged() {
    let dir = scratch("ready");
    let root = root(&dir);
    let ready = dir.join("ready.ext4");
    run(tool("mke2fs").args(["-q", "-b", "4096", "-d"]).arg(&root).arg(&ready).arg("8M"));
    run(&mut image(&dir, &ready));
    run(tool("cmp").arg(&ready).arg(dir.join("out/rootfs.ext4")));
}

#[test]
fn an_image_is_refused_by_what_is_wrong_with_its_root() {
    let dir = scratch("bad root");
    let root = root(&dir);
    let small = dir.join("small.ext4");
    run(tool("mke2fs").args(["-q", "-b", "1024"]).arg(&small).arg("8M"));
    refuses(
        &mut image(&dir, &small),
        1,
        "its ext4 has 1024-byte blocks, dm-verity needs 4096; make it with mke2fs -b 4096",
    );
    refuses(&mut image(&dir, &dir.join("kernel")), 1, "it is not an ext4, nor can it be unpacked");
    refuses(&mut image(&dir, &dir.join("nowhere")), 1, "nowhere: no such file");
    fs::remove_dir(root.join("tmp")).unwrap();
    symlink("var", root.join("tmp")).unwrap();
    refuses(&mut image(&dir, &root), 1, "its /tmp is no directory to mount on");
    fs::remove_file(root.join("tmp")).unwrap();
    fs::create_dir(root.join("tmp")).unwrap();
    fs::remove_dir(root.join("cocos")).unwrap();
    refuses(&mut image(&dir, &root), 1, "it has no /cocos");
    fs::remove_file(root.join("sbin/init")).unwrap();
    refuses(&mut image(&dir, &root), 1, "it has no /sbin/init");
    assert_empty(&dir.join("out"));
}

#[test]
fn an_image_that_cannot_be_written_leaves_nothing() {
    let dir = scratch("full");
    let root = root(&dir);
    // A limit on the size of files fails writes as a full disk does.
    let command = image(&dir, &root);
    let mut limited = Command::new("bash");
    limited
        .args(["-c", "trap '' XFSZ; ulimit -f 3500; exec \"$@\"", "bash"])
        .arg(command.get_program())
        .args(command.get_args());
    refuses(&mut limited, 1, "cannot ");
    assert_empty(&dir.join("out"));
}

#[test]
fn an_image_is_refused_by_what_is_wrong_with_its_arguments() {
    let dir = scratch("arguments");
    let root = root(&dir);
    let missing = dir.join("missing");
    let cases: &[(&[&str], i32, &str)] = &[
        (&["--cocos-size", "much"], 2, "--cocos-size much is not a size"),
        (&["--boot", "lilo"], 2, "--boot lilo is neither grub nor uki"),
        (&["--format", "vdi"], 2, "--format vdi is neither raw nor qcow2"),
        (&["--modules", "/lib/modules"], 2, "--initramfs and --modules exclude each other"),
        (&["--append", "a\nhalt"], 2, "--append holds more than printable ASCII"),
        (
            &["--append", "a=\"b c\""],
            2,
            "--append holds a quote or a backslash, which GRUB would change",
        ),
        (&["--append", &"x".repeat(2000)], 1, "the kernel takes 2047"),
        (&["--boot", "uki"], 1, "it has no EFI stub"),
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
    let (key, certificate) = key(&dir, "owner");
    refuses(image(&dir, &root).env("SB_KEY", &key), 2, "of SB_KEY and SB_CERT only one is set");
    let signed = |key: &Path, why: &str| {
        refuses(image(&dir, &root).env("SB_KEY", key).env("SB_CERT", &certificate), 1, why);
    };
    signed(&missing, "missing: no such file");
    // What stands for the kernel is no program that could be signed.
    signed(&key, "cannot sign bzImage");
    fs::copy(STUB, dir.join("kernel")).unwrap();
    signed(&certificate, "cannot sign bzImage");
    assert_empty(&dir.join("out"));
}

#[test]
fn a_missing_tool_is_named_with_its_package() {
    let dir = scratch("tools");
    let root = root(&dir);
    let (key, certificate) = key(&dir, "owner");
    for (tool, package) in [
        ("genimage", "genimage"),
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
