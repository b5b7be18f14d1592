//! Images of a Debian that `scripts/image` makes, and what a root of one holds for the tests.

use crate::kit::artefacts::{
    DEFAULT_CIPHER, agent, init, initramfs, initramfs_with_overlay, kernel, pack_for, script,
    target,
};
use crate::kit::kernel::{Arch, Kernel, WORDS};
use crate::kit::tool::{Scratch, command, run};
use cvm_init::format::luks2;
use std::env;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

const TREE: &str = env!("CARGO_MANIFEST_DIR");

/// An init of a Debian root that undoes what PID 1 has closed against the firmware's variables.
pub(crate) const UNCLOSED: &str = "/usr/lib/agent/unclosed";

const UNCLOSED_TEXT: &str = "#!/bin/sh
unset SYSTEMD_EFI_OPTIONS
rm -f /run/systemd/system.conf.d/10-cvm-init.conf
exec /sbin/init
";

/// An image that `scripts/image` has made.
pub(crate) struct Image {
    pub(crate) disk: PathBuf,
    pub(crate) initramfs: PathBuf,
    pub(crate) cmdline: String,
}

/// The unit that makes the agent a service of a root with systemd.
const AGENT_UNIT: &str = "[Service]\nExecStart=/usr/lib/agent/init\n";

/// What makes an image of the Debian root `$1`, the agent with the files beside it in the folder
/// `$2` and its unit `$3` in the folder `$4`, by the script `$5` and its arguments. Owners are kept
/// by root or fakeroot only.
const DEBIAN_IMAGE: &str = r#"
    mkdir -p "$4/root"
    bsdtar -xpf "$1" -C "$4/root"
    cp -r "$2" "$4/root/usr/lib/agent"
    units=$4/root/etc/systemd/system
    cp "$3" "$units/agent.service"
    ln -s ../agent.service "$units/multi-user.target.wants/agent.service"
    [ -z "${FSTAB-}" ] || printf '%s' "$FSTAB" >"$4/root/etc/fstab"
    exec "$5" --rootfs "$4/root" "${@:6}"
"#;

/// A volume that asks for what cryptsetup does not know, `volume`, and its key, `key`.
fn write_volume_with_tags_elsewhere(folder: &Path) {
    let key = [0x42; 32];
    let header = luks2::Header {
        uuid: [0x24; 16],
        cipher: DEFAULT_CIPHER,
        integrity: Some("aead"),
        requirement: Some("cvm-init-metadata-in-memory"),
        sector_size: 4096,
        digest: luks2::KeyDigest::new(&key, [1; 32]),
        checksum_salts: [[2; 64], [3; 64]],
    };
    let volume = File::create(folder.join("volume")).expect("the folder is ours");
    volume.set_len(2 * luks2::DATA_OFFSET).expect("a sparse file");
    volume.write_all_at(&header.encode().expect("it fits"), 0).expect("room for a header");
    fs::write(folder.join("key"), key).expect("room for a key");
}

/// The Debian root of `scripts/boot`, which starts the agent.
pub(crate) fn debian_image(scratch: &Scratch) -> Image {
    run(&mut script("debian-root"));
    debian_image_of(scratch, &kernel(), &initramfs(), &target().join("debian/rootfs.tar"), "1G")
}

/// The same with another fstab, and with words more on its command line, `cvm.overlay=` among them.
pub(crate) fn debian_image_with_fstab(scratch: &Scratch, fstab: &str, words: &str) -> Image {
    run(&mut script("debian-root"));
    let root = target().join("debian/rootfs.tar");
    let initramfs = initramfs_with_overlay();
    let more = More { fstab, words: &format!("{WORDS} {words}") };
    debian_image_of_more(scratch, &kernel(), &initramfs, &root, "1G", &more)
}

/// What an image has that others have not.
struct More<'a> {
    fstab: &'a str,
    words: &'a str,
}

/// What a root of another release need not hold.
const DOCKER: [&str; 3] = ["docker.io", "apparmor", "busybox-static"];

/// The same of the release that has this kernel, of which a newer one is without Docker. Its
/// initramfs shows the launcher's files of `fw_cfg`.
pub(crate) fn debian_image_for(scratch: &Scratch, kernel: Kernel) -> Image {
    let root = debian_root_for(kernel);
    let initramfs = pack_for(
        kernel,
        &format!("{kernel}-fw-cfg"),
        init(kernel.arch),
        DEFAULT_CIPHER,
        &[],
        &["qemu_fw_cfg"],
    );
    debian_image_of(scratch, &kernel.image(), &initramfs, &root, "1G")
}

/// The root of the release that has this kernel. That of a newer one holds systemd-repart, which the
/// running release has not in the form that needs no loop device.
fn debian_root_for(kernel: Kernel) -> PathBuf {
    let mut debian_root = script("debian-root");
    if let Some(suite) = kernel.suite {
        debian_root.args(["--suite", suite]);
        debian_root.args(REPART.iter().flat_map(|package| ["--include", package]));
        debian_root.args(DOCKER.iter().flat_map(|package| ["--exclude", package]));
    }
    run(&mut debian_root);
    target().join(format!("debian/{}.tar", kernel.suite.unwrap_or("rootfs")))
}

/// The program, and the library that it makes hash trees with, which it can do without.
const REPART: [&str; 2] = ["systemd-repart", "libcryptsetup12"];

/// How the systemd-repart of a newer release runs on this machine: its loader, where its libraries
/// are, and the program.
pub(crate) fn systemd_repart() -> [String; 3] {
    static UNPACKED: OnceLock<PathBuf> = OnceLock::new();
    let folder = UNPACKED.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("trixie-repart");
        fs::create_dir_all(&folder).expect("the target folder is writable");
        run(command("bsdtar")
            .arg("-xf")
            .arg(debian_root_for(Kernel::TRIXIE))
            .arg("-C")
            .arg(&folder)
            .args([
                "./usr/bin/systemd-repart",
                "*/ld-linux-x86-64.so.2",
                "*.so.*",
                "*/systemd/*.so",
            ]));
        folder
    });
    let path = |name: &str| folder.join(name).display().to_string();
    let libraries = path("usr/lib/x86_64-linux-gnu");
    [
        path("usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"),
        format!("{libraries}:{libraries}/systemd"),
        path("usr/bin/systemd-repart"),
    ]
}

/// What such a root holds more for [`debian_image_with_tools`]: what looks at every block device
/// that it finds, and a program that makes a file system work.
const TOOLS: [&str; 7] =
    ["mdadm", "lvm2", "btrfs-progs", "multipath-tools", "parted", "e2fsprogs", "stress-ng"];

/// The same with [`TOOLS`] and containerd's own client.
pub(crate) fn debian_image_with_tools(scratch: &Scratch, cocos_size: &str) -> Image {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    let root = ROOT.get_or_init(|| {
        let root = target().join("debian/tools.tar");
        run(script("debian-root")
            .args(TOOLS.iter().flat_map(|package| ["--include", package]))
            .args(["--keep", "/usr/bin/ctr", "-o"])
            .arg(&root));
        root
    });
    debian_image_of(scratch, &kernel(), &initramfs(), root, cocos_size)
}

fn debian_image_of(
    scratch: &Scratch,
    kernel: &Path,
    initramfs: &Path,
    root: &Path,
    cocos_size: &str,
) -> Image {
    // For a firmware that starts it.
    let more = More { fstab: "", words: WORDS };
    debian_image_of_more(scratch, kernel, initramfs, root, cocos_size, &more)
}

fn debian_image_of_more(
    scratch: &Scratch,
    kernel: &Path,
    initramfs: &Path,
    root: &Path,
    cocos_size: &str,
    more: &More<'_>,
) -> Image {
    let unit = scratch.join("agent.service");
    fs::write(&unit, AGENT_UNIT).expect("the folder is ours");
    let folder = scratch.join("image");
    let beside = scratch.join("agent");
    fs::create_dir(&beside).expect("the folder is ours");
    let cryptsetup = command("cryptsetup");
    for (from, name) in [
        (agent(Arch::X86), "init"),
        (Path::new(cryptsetup.get_program()), "cryptsetup"),
        // The one of its libraries that the root does not have already.
        (Path::new("/usr/lib/x86_64-linux-gnu/libpopt.so.0"), "libpopt.so.0"),
    ] {
        fs::copy(from, beside.join(name))
            .unwrap_or_else(|e| panic!("cannot copy {}: {e}", from.display()));
    }
    write_volume_with_tags_elsewhere(&beside);
    let unclosed = beside.join("unclosed");
    fs::write(&unclosed, UNCLOSED_TEXT).expect("the folder is ours");
    fs::set_permissions(&unclosed, fs::Permissions::from_mode(0o755)).expect("the file is ours");
    run(command("fakeroot")
        .env("FSTAB", more.fstab)
        .args(["bash", "-euc", DEBIAN_IMAGE, "-"])
        .arg(root)
        .arg(&beside)
        .arg(&unit)
        .arg(&folder)
        .arg(Path::new(TREE).join("scripts/image"))
        .arg("--kernel")
        .arg(kernel)
        .arg("--initramfs")
        .arg(initramfs)
        .args(["--append", more.words, "--cocos-size", cocos_size, "-o"])
        .arg(&folder));
    Image {
        disk: folder.join("disk.img"),
        initramfs: folder.join("rootfs.cpio.gz"),
        cmdline: fs::read_to_string(folder.join("cmdline"))
            .expect("scripts/image writes it")
            .trim_end()
            .to_owned(),
    }
}
