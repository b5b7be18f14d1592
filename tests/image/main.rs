//! `scripts/image`: what it makes, that it makes the same again, and how it refuses bad input.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

#[allow(dead_code, reason = "each test takes its part")]
#[path = "../layers/archive.rs"]
mod archive;
mod cmdline;
mod efi;
mod formats;
mod iso;
mod layers;
mod machine;
mod measure;
#[allow(dead_code, reason = "each test takes its part")]
#[path = "../layers/image.rs"]
mod oci;
mod refused;
mod root;
#[path = "../script/mod.rs"]
mod script;
mod table;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use script::{assert_empty, first_in_path, refuses, run, scratch, script, target, tool, tool_in};
use serde_json::Value;

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 4096;
const RELEASE: &str = "6.1.0-test";

/// A folder that serves as root, and files that serve as kernel and initramfs.
fn root(dir: &Path) -> PathBuf {
    let root = dir.join("root");
    for name in ["bin", "cocos", "dev", "etc", "proc", "run", "sbin", "sys", "tmp", "var"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    fs::write(root.join("etc/machine-id"), "").unwrap();
    fs::write(root.join("bin/a"), "an init").unwrap();
    // Absolute, as in many a root: it must not be looked for on this machine.
    symlink("/bin/a", root.join("sbin/init")).unwrap();
    fs::hard_link(root.join("bin/a"), root.join("bin/b")).unwrap();
    fs::write(dir.join("kernel"), kernel()).unwrap();
    fs::write(dir.join("initramfs"), vec![2; 1024 * 1024]).unwrap();
    root
}

/// What is taken for a kernel: magic and release are where the setup header has them, and it is a
/// program for the firmware, of one section.
fn kernel() -> Vec<u8> {
    const HEADERS: u32 = 0x400;
    let mut kernel = vec![1; 3 * 1024 * 1024];
    let section = u32::try_from(kernel.len()).unwrap() - HEADERS;
    kernel[..HEADERS as usize].fill(0);
    let mut put = |at: usize, bytes: &[u8]| kernel[at..][..bytes.len()].copy_from_slice(bytes);
    put(0, b"MZ");
    put(0x3c, &[0x40]);
    put(0x40, b"PE\0\0");
    put(0x44, &0x8664_u16.to_le_bytes());
    put(0x46, &[1]);
    put(0x54, &[240]); // size of the optional header
    put(0x58, &0x20b_u16.to_le_bytes());
    put(0x58 + 60, &HEADERS.to_le_bytes());
    put(0x58 + 108, &[16]); // directories
    put(0x148, b".text");
    put(0x148 + 8, &section.to_le_bytes());
    put(0x148 + 12, &0x1000_u32.to_le_bytes());
    put(0x148 + 16, &section.to_le_bytes());
    put(0x148 + 20, &HEADERS.to_le_bytes());
    put(514, b"HdrS");
    put(518, &0x20f_u16.to_le_bytes()); // protocol
    put(526, &0x300_u16.to_le_bytes());
    put(566, &[2]); // takes its initramfs anywhere
    put(0x500, format!("{RELEASE} (somebody) #1\0").as_bytes());
    kernel
}

/// The stock kernel: one that can be signed.
fn stock_kernel(dir: &Path) {
    run(&mut script("kernel"));
    fs::copy(target().join("kernel/vmlinuz"), dir.join("kernel")).unwrap();
}

/// `scripts/image` with all that it has to have.
fn image(dir: &Path, rootfs: &Path) -> Command {
    let mut command = image_without_console(dir, rootfs);
    command.args(["--append", "console=ttyS0"]);
    command
}

fn image_without_console(dir: &Path, rootfs: &Path) -> Command {
    let mut command = image_without_cocos(dir, rootfs);
    command.args(["--cocos-size", "20480M"]);
    command
}

/// Without a partition for /cocos.
fn image_without_cocos(dir: &Path, rootfs: &Path) -> Command {
    image_of(dir, "--rootfs", rootfs)
}

/// With all that it has to have but a size for the volume.
fn image_of(dir: &Path, kind: &str, content: &Path) -> Command {
    let mut command = script("image");
    command
        .arg(kind)
        .arg(content)
        .arg("--kernel")
        .arg(dir.join("kernel"))
        .arg("--initramfs")
        .arg(dir.join("initramfs"))
        .arg("-o")
        .arg(dir.join("out"));
    command
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
        words[1..4],
        [
            format!("roothash={roothash}"),
            format!("cvm.verity_salt={}", dumped("Salt:")),
            format!("cvm.verity_data_blocks={}", dumped("Data blocks:")),
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

#[test]
fn an_image_of_the_same_inputs_has_the_same_bytes() {
    let keys = scratch("keys");
    let (key, certificate) = key(&keys, "owner");
    let dirs: Vec<_> = ["image here", "image there"]
        .iter()
        .map(|place| {
            let dir = scratch(place);
            let root = root(&dir);
            stock_kernel(&dir);
            let epoch = ["-exec", "touch", "-h", "-d", "@100", "{}", "+"];
            run(tool("find").arg(&root).args(epoch));
            // Long enough for a time in a header, or in a FAT's two seconds, to differ.
            std::thread::sleep(std::time::Duration::from_secs(2));
            for (out, boot, format) in
                [("grub", "grub", "raw"), ("uki", "uki", "raw"), ("qcow2", "uki", "qcow2")]
            {
                // cmp reads the hole too.
                run(image(&dir, &root)
                    .args(["--boot", boot, "--format", format, "--cocos-size", "64M"])
                    .arg("-o")
                    .arg(dir.join(out))
                    .env("SB_KEY", &key)
                    .env("SB_CERT", &certificate));
            }
            dir
        })
        .collect();
    for (out, disk) in [("grub", "disk.img"), ("uki", "disk.img"), ("qcow2", "disk.qcow2")] {
        let made = [
            "bzImage",
            "cmdline",
            disk,
            "measurements.json",
            "pcr_values.json",
            "rootfs.cpio.gz",
            "rootfs.ext4",
            "rootfs.roothash",
            "rootfs.verity",
        ];
        assert_eq!(names(&dirs[0].join(out)), made);
        for name in made {
            run(tool("cmp").args(dirs.iter().map(|dir| dir.join(out).join(name))));
        }
    }
    run(tool("qemu-img")
        .args(["compare", "-f", "raw", "-F", "qcow2"])
        .args(["uki/disk.img", "qcow2/disk.qcow2"].map(|disk| dirs[0].join(disk))));
}

/// The names in a folder, in order.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn the_disk_of_an_older_image_goes_before_anything_else_is_replaced() {
    let dir = scratch("older");
    let root = root(&dir);
    run(&mut image(&dir, &root));
    let out = dir.join("out");
    // What makes the new image fail when part of it is there.
    tool_in(&dir, "mv", r#"case $* in *out/cmdline) exit 1 ;; esac; exec /bin/mv "$@""#);
    let mut second = image(&dir, &root);
    second.args(["--append", "second"]).env("PATH", first_in_path(&dir));
    refuses(&mut second, 1, "out/cmdline");
    assert!(!names(&out).contains(&"disk.img".to_owned()), "{:?}", names(&out));
}

#[test]
fn a_disk_of_another_format_does_not_stay_beside_the_new_one() {
    let dir = scratch("formats");
    let root = root(&dir);
    let out = dir.join("out");
    run(&mut image(&dir, &root));
    let output = image(&dir, &root).args(["--format", "qcow2"]).output().unwrap();
    let disks = || names(&out).into_iter().filter(|name| name.starts_with("disk"));
    assert!(disks().eq(["disk.qcow2"]));
    let info = run(tool("qemu-img").args(["info", "--output=json"]).arg(out.join("disk.qcow2")));
    let info: Value = serde_json::from_str(&info).unwrap();
    let mib = |field: &str| info[field].as_u64().unwrap().div_ceil(MIB);
    let said = String::from_utf8(output.stderr).unwrap();
    let sizes = format!(
        "disk.qcow2 (a disk of {} MiB, which takes {} MiB here)",
        mib("virtual-size"),
        mib("actual-size")
    );
    assert!(said.contains(&sizes), "{said}, not {sizes}");
    run(image(&dir, &root).args(["--format", "iso", "--boot", "uki"]));
    let media = || names(&out).into_iter().filter(|name| name == "boot.iso").count();
    assert!(disks().eq(["disk.img"]) && media() == 1);
    run(image(&dir, &root).args(["--format", "iso", "--boot", "uki", "--whole"]));
    assert!(disks().eq(["disk.iso"]) && media() == 0);
    run(&mut image(&dir, &root));
    assert!(disks().eq(["disk.img"]));
}

#[test]
fn an_image_can_make_its_initramfs() {
    let dir = scratch("modules");
    let root = root(&dir);
    stock_kernel(&dir);
    let modules = target().join("kernel/modules");
    let built = dir.join("x86_64-unknown-linux-musl/release");
    fs::create_dir_all(&built).unwrap();
    // There is nothing to build; what writes the disk or measures is in the place of what does, and so is
    // what reads the command line or looks at the root.
    tool_in(&dir, "cargo", "exit 0");
    let tools = r#"case $1 in
        disk) while [ "$1" != -o ]; do shift; done; : >"$2" ;;
        measure-image) for dir; do :; done; echo {} >"$dir/measurements.json" ;;
    esac"#;
    tool_in(&built, "cvm-tools", tools);
    let layers = dir.join("layers");
    fs::create_dir(&layers).unwrap();
    fs::write(layers.join("layers.json"), "{}").unwrap();
    let command_of = |flag: &str, of: &Path| {
        let mut command = script("image");
        command
            .env("CARGO_TARGET_DIR", &*dir)
            .env("PATH", first_in_path(&dir))
            .arg(flag)
            .arg(of)
            .arg("--kernel")
            .arg(dir.join("kernel"))
            .arg("--modules")
            .arg(&modules)
            .args(["--cocos-size", "64M", "-o"])
            .arg(dir.join("out"));
        command
    };
    let command = || command_of("--rootfs", &root);
    refuses(
        &mut command(),
        1,
        "cvm-init: no such file; build it with 'cargo build --release --target x86_64-unknown-linux-musl'",
    );
    assert_empty(&dir.join("out"));
    fs::write(built.join("cvm-init"), "the init").unwrap();
    let same_initramfs = |made: &mut Command, choice: &[&str]| {
        run(made);
        run(script("initramfs")
            .env("CARGO_TARGET_DIR", &*dir)
            .arg("--kernel-modules")
            .arg(&modules)
            .args(choice)
            .arg("-o")
            .arg(dir.join("expected")));
        run(tool("cmp").arg(dir.join("expected")).arg(dir.join("out/rootfs.cpio.gz")));
    };
    for (append, cipher, format) in [
        ("quiet", "aes-gcm-random", "ext4"),
        // Without its modules the boot would end.
        ("cvm.cipher=aegis128-random quiet", "aegis128-random", "ext4"),
        ("quiet", "aes-gcm-random", "erofs"),
    ] {
        let mut made = command();
        made.args(["--append", append, "--root-format", format]);
        same_initramfs(&mut made, &["--cipher", cipher, "--root-format", format]);
    }
    same_initramfs(&mut command_of("--layers", &layers), &["--with", "layers"]);
    fs::write(dir.join("kernel"), kernel()).unwrap();
    let release = fs::read_to_string(target().join("kernel/release")).unwrap();
    let why = format!("modules: the kernel is 6.1.0-test, they are for {}", release.trim());
    refuses(&mut command(), 1, &why);
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
