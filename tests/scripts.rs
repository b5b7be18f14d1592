//! The scripts: what they make, that they make the same again, and how they refuse bad input.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

use std::fs;
use std::ops::Deref;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const TREE: &str = env!("CARGO_MANIFEST_DIR");
const SCRIPTS: &[&str] = &[
    "setup",
    "kernel",
    "initramfs",
    "image",
    "boot",
    "qemu",
    "sizes",
    "test",
];

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 4096;

/// Where cargo builds, whatever flag or variable set it: `CARGO_TARGET_TMPDIR` is `TARGET/tmp` in
/// there, because `.cargo/config.toml` names a target.
fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
        .ancestors()
        .nth(2)
        .unwrap()
}

/// A folder of one test, empty at its start, and gone when the test has passed.
struct Scratch(PathBuf);

impl Deref for Scratch {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// Its name has a blank, as users' folders may.
fn scratch(test: &str) -> Scratch {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("scripts {test}"));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    Scratch(path)
}

fn script(name: &str) -> Command {
    let mut command = Command::new(Path::new(TREE).join("scripts").join(name));
    command.env("CARGO_TARGET_DIR", target());
    command
}

/// Runs a program that has to succeed, and returns what it wrote to standard output.
fn run(command: &mut Command) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{command:?}: {status}: {stderr}");
    String::from_utf8_lossy(&stdout).into_owned()
}

/// A tool of the system; mke2fs and its kind are not in every user's `PATH`.
fn tool(name: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let mut command = Command::new("env");
    command.env("PATH", path).arg(name);
    command
}

/// A script that has to fail with `status`; its last line says `why`, and nothing but the script
/// itself speaks.
fn refuses(command: &mut Command, status: i32, why: &str) {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{command:?}: {stderr}");
    let last = stderr.lines().last().unwrap_or_default();
    assert!(last.contains(why), "{command:?}: {stderr}");
    for line in stderr.lines() {
        assert!(line.starts_with("scripts/"), "{command:?}: {stderr}");
    }
}

fn assert_empty(dir: &Path) {
    let left: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[test]
fn every_script_explains_itself_and_refuses_what_it_does_not_know() {
    for name in SCRIPTS {
        let help = run(script(name).arg("--help"));
        assert!(
            help.starts_with(&format!("usage: scripts/{name}")),
            "{help}"
        );
        refuses(script(name).arg("--colour"), 2, "unknown argument --colour");
    }
}

#[test]
fn a_flag_without_its_value_is_a_usage_error() {
    refuses(script("initramfs").arg("-o"), 2, "-o needs a value");
    refuses(
        script("initramfs").args(["-o", "x"]),
        2,
        "--kernel-modules is missing",
    );
    refuses(
        script("image").args(["--rootfs", "x"]),
        2,
        "--kernel is missing",
    );
    refuses(
        script("boot").args(["--timeout", "soon"]),
        2,
        "--timeout soon is not a number of seconds",
    );
}

/// What stands for the kernel modules: `top` needs `mid-dle` and `bottom`, `mid-dle` needs
/// `bottom`; each is compressed in its own way.
fn modules(dir: &Path) -> PathBuf {
    let modules = dir.join("modules");
    fs::create_dir_all(modules.join("kernel")).unwrap();
    for (name, compressor) in [
        ("top.ko", None),
        ("mid-dle.ko", Some("xz")),
        ("bottom.ko", Some("zstd")),
        ("lone.ko", Some("gzip")),
    ] {
        let file = modules.join("kernel").join(name);
        fs::write(&file, name).unwrap();
        if let Some(compressor) = compressor {
            run(tool(compressor).args(["-q", "-f"]).arg(&file));
        }
    }
    fs::write(
        modules.join("modules.dep"),
        "kernel/top.ko: kernel/mid-dle.ko.xz kernel/bottom.ko.zst\n\
         kernel/mid-dle.ko.xz: kernel/bottom.ko.zst\n\
         kernel/bottom.ko.zst:\n\
         kernel/lone.ko.gz:\n",
    )
    .unwrap();
    fs::write(modules.join("modules.builtin"), "kernel/fs/built-in.ko\n").unwrap();
    modules
}

/// `scripts/initramfs` with those modules and the list given.
fn initramfs(dir: &Path, list: &str) -> Command {
    fs::write(dir.join("init"), "the init").unwrap();
    fs::write(dir.join("list"), list).unwrap();
    let mut command = script("initramfs");
    command
        .arg("--kernel-modules")
        .arg(modules(dir))
        .arg("--init")
        .arg(dir.join("init"))
        .arg("--modules-list")
        .arg(dir.join("list"))
        .arg("-o")
        .arg(dir.join("rootfs.cpio.gz"));
    command
}

/// Type, mode, owner, size or device, and name of each entry of an archive.
fn entries(archive: &Path) -> Vec<String> {
    run(tool("bsdtar").arg("-tvf").arg(archive))
        .lines()
        .map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let name = words.last().unwrap().trim_start_matches("./");
            format!("{} {}:{} {} {name}", words[0], words[2], words[3], words[4])
        })
        .collect()
}

#[test]
fn an_initramfs_without_modules_holds_init_mount_points_and_two_nodes() {
    let dir = scratch("bare");
    let archive = dir.join("rootfs.cpio.gz");
    fs::write(dir.join("init"), "the init").unwrap();
    run(script("initramfs")
        .args(["--kernel-modules", "none", "--init"])
        .arg(dir.join("init"))
        .arg("-o")
        .arg(&archive));
    assert_eq!(
        entries(&archive),
        [
            "drwxr-xr-x 0:0 0 dev/",
            "drwxr-xr-x 0:0 0 proc/",
            "drwxr-xr-x 0:0 0 root/",
            "drwxr-xr-x 0:0 0 run/",
            "drwxr-xr-x 0:0 0 sys/",
            "drwxr-xr-x 0:0 0 tmp/",
            "crw------- 0:0 5,1 dev/console",
            "crw-rw-rw- 0:0 1,3 dev/null",
            "-rwxr-xr-x 0:0 8 init",
        ]
    );
}

#[test]
fn modules_are_unpacked_and_named_in_the_order_of_their_dependencies() {
    let dir = scratch("order");
    let list = "# why\n\n?lone  # first in the list\ntop\nbuilt_in\n?absent\nbottom\n";
    run(initramfs(&dir, list)
        .args(["--extra-module", "mid-dle"])
        .env("LC_ALL", "C.UTF-8"));
    let packed: Vec<_> = entries(&dir.join("rootfs.cpio.gz"))
        .into_iter()
        .filter(|entry| entry.contains("modules/0"))
        .collect();
    // Sizes are those of the unpacked files, which hold their own names.
    assert_eq!(
        packed,
        [
            "-rw-r--r-- 0:0 7 modules/000-lone.ko",
            "-rw-r--r-- 0:0 9 modules/001-bottom.ko",
            "-rw-r--r-- 0:0 10 modules/002-mid_dle.ko",
            "-rw-r--r-- 0:0 6 modules/003-top.ko",
        ]
    );
}

#[test]
fn an_initramfs_of_the_same_inputs_has_the_same_bytes() {
    let archives: Vec<_> = [("here", "022"), ("there", "077")]
        .iter()
        .map(|(place, umask)| {
            let dir = scratch(place);
            let command = initramfs(&dir, "top\nlone\n");
            let mut with_umask = Command::new("sh");
            with_umask
                .args(["-c", &format!("umask {umask}; exec \"$@\""), "sh"])
                .arg(command.get_program())
                .args(command.get_args());
            run(&mut with_umask);
            fs::read(dir.join("rootfs.cpio.gz")).unwrap()
        })
        .collect();
    assert!(archives[0] == archives[1]);
}

#[test]
fn an_initramfs_of_the_stock_kernel_holds_what_the_list_names() {
    run(&mut script("kernel"));
    let dir = scratch("stock");
    fs::write(dir.join("init"), "the init").unwrap();
    run(script("initramfs")
        .arg("--kernel-modules")
        .arg(target().join("kernel/modules"))
        .arg("--init")
        .arg(dir.join("init"))
        .arg("-o")
        .arg(dir.join("rootfs.cpio.gz")));
    let entries = entries(&dir.join("rootfs.cpio.gz"));
    let place = |name: &str| {
        let ending = format!("-{name}.ko");
        entries
            .iter()
            .position(|entry| entry.ends_with(&ending))
            .ok_or(format!("no {name} in {entries:?}"))
    };
    for (first, later) in [
        ("scsi_mod", "virtio_scsi"),
        ("dm_mod", "dm_crypt"),
        ("dm_bufio", "dm_verity"),
        ("crypto_simd", "aesni_intel"),
        ("jbd2", "ext4"),
        ("9pnet", "9pnet_virtio"),
    ] {
        assert!(place(first) < place(later), "{first}, {later}: {entries:?}");
    }
}

#[test]
fn a_kernel_is_held_against_the_options_that_a_boot_needs() {
    run(&mut script("kernel"));
    let stock = fs::read_to_string(target().join("kernel/config")).unwrap();
    let dir = scratch("options");
    let config = dir.join("config");
    let look = |modules: &str, text: &str| {
        fs::write(&config, text).unwrap();
        let mut command = script("initramfs");
        command.args(["--kernel-modules", modules, "--kernel-config"]);
        command.arg(&config);
        command
    };
    let folder = target().join("kernel/modules");
    let folder = folder.to_str().unwrap();
    run(&mut look(folder, &stock));
    refuses(
        &mut look(
            folder,
            &stock
                .replace("CONFIG_DM_CRYPT=m", "# CONFIG_DM_CRYPT is not set")
                .replace("CONFIG_KEYS=y", "CONFIG_KEYS=n"),
        ),
        1,
        "it lacks DM_CRYPT KEYS (",
    );
    // What is a module is missing when none can be loaded.
    refuses(&mut look("none", &stock), 1, " DM_VERITY DM_INTEGRITY ");
    run(&mut look("none", &stock.replace("=m", "=y")));
}

#[test]
fn an_initramfs_is_refused_by_what_is_wrong_with_it() {
    let dir = scratch("refused");
    let out = dir.join("out");
    fs::create_dir(&out).unwrap();
    let archive = out.join("rootfs.cpio.gz");
    let with = |modules: &Path, init: &Path| {
        let mut command = script("initramfs");
        command
            .arg("--kernel-modules")
            .arg(modules)
            .arg("--init")
            .arg(init);
        command.arg("-o").arg(&archive);
        command
    };
    let init = dir.join("init");
    refuses(
        &mut with(Path::new("none"), &init),
        1,
        "init: no such file; build it with 'cargo build --release'",
    );
    fs::write(&init, "the init").unwrap();
    refuses(&mut with(&dir, &init), 1, "modules.dep: no such file");
    refuses(
        initramfs(&dir, "top\nbogus\n").arg("-o").arg(&archive),
        1,
        "cannot find module bogus",
    );
    refuses(
        initramfs(&dir, "top\n")
            .args(["--extra-module", "more", "-o"])
            .arg(&archive),
        1,
        "cannot find module more (--extra-module)",
    );
    let mut broken = initramfs(&dir, "top\n");
    fs::write(dir.join("modules/kernel/mid-dle.ko.xz"), "no xz").unwrap();
    refuses(broken.arg("-o").arg(&archive), 1, "cannot unpack");
    assert_empty(&out);
}

/// A folder that serves as root, and files that serve as kernel and initramfs.
fn root(dir: &Path) -> PathBuf {
    let root = dir.join("root");
    for name in [
        "bin", "cocos", "dev", "proc", "run", "sbin", "sys", "tmp", "var",
    ] {
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
            "quiet".to_owned(),
            "cvm.log=debug".to_owned(),
        ]
    );
    let size = fs::metadata(part("rootfs.ext4")).unwrap().len();
    assert_eq!(dumped("Data blocks:"), (size / BLOCK).to_string());

    let table = run(tool("sfdisk").arg("-J").arg(part("disk.img")));
    let table: Value = serde_json::from_str(&table).unwrap();
    let partitions = table["partitiontable"]["partitions"].as_array().unwrap();
    let names: Vec<_> = partitions
        .iter()
        .map(|p| p["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["efi", "root", "verity", "cocos"]);
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
    let dirs: Vec<_> = ["image here", "image there"]
        .iter()
        .map(|place| {
            let dir = scratch(place);
            let root = root(&dir);
            let epoch = ["-exec", "touch", "-h", "-d", "@100", "{}", "+"];
            run(tool("find").arg(&root).args(epoch));
            // cmp reads the hole too.
            run(image(&dir, &root).args(["--cocos-size", "64M"]));
            dir
        })
        .collect();
    for name in [
        "disk.img",
        "rootfs.ext4",
        "rootfs.verity",
        "rootfs.roothash",
        "cmdline",
    ] {
        run(tool("cmp").args(dirs.iter().map(|dir| dir.join("out").join(name))));
    }
}

#[test]
fn an_image_of_an_ext4_holds_it_unchanged() {
    let dir = scratch("ready");
    let root = root(&dir);
    let ready = dir.join("ready.ext4");
    run(tool("mke2fs")
        .args(["-q", "-b", "4096", "-d"])
        .arg(&root)
        .arg(&ready)
        .arg("8M"));
    run(&mut image(&dir, &ready));
    run(tool("cmp").arg(&ready).arg(dir.join("out/rootfs.ext4")));
}

#[test]
fn an_image_is_refused_by_what_is_wrong_with_its_root() {
    let dir = scratch("bad root");
    let root = root(&dir);
    let small = dir.join("small.ext4");
    run(tool("mke2fs")
        .args(["-q", "-b", "1024"])
        .arg(&small)
        .arg("8M"));
    refuses(
        &mut image(&dir, &small),
        1,
        "its ext4 has 1024-byte blocks, dm-verity needs 4096; make it with mke2fs -b 4096",
    );
    refuses(
        &mut image(&dir, &dir.join("kernel")),
        1,
        "it is not an ext4",
    );
    refuses(
        &mut image(&dir, &dir.join("nowhere")),
        1,
        "nowhere: no such file",
    );
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
    refuses(
        image(&dir, &root).args(["--cocos-size", "much"]),
        2,
        "--cocos-size much is not a size",
    );
}
