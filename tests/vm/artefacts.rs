//! What every VM boots: a stock kernel, and initramfs made of the binaries of this tree by the
//! scripts that a user runs. All of it is made once a test run, and only what a test asks for.

use crate::tool::{Scratch, command, run};
use crate::vm::WORDS;
use cvm_init::format::luks2;
use serde_json::Value;
use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

const TREE: &str = env!("CARGO_MANIFEST_DIR");

/// The module that the agent's port needs and a real boot does not.
const AGENT_MODULE: &str = "virtio_console";

/// Where cargo builds, whatever flag or variable says where; this is the tmp of a target triple in it.
fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
        .ancestors()
        .nth(2)
        .expect("cargo's folder lies in another")
}

struct Binaries {
    init: PathBuf,
    agent: PathBuf,
}

/// Builds for release into a folder, and finds a program among what cargo built.
fn build(arguments: &[&str], folder: &Path) -> impl Fn(&str) -> PathBuf {
    let messages = run(Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(TREE)
        .args(["build", "--release", "--target", "x86_64-unknown-linux-musl", "--bins"])
        .args(arguments)
        .args(["--quiet", "--message-format", "json-render-diagnostics"])
        .arg("--target-dir")
        .arg(folder));
    move |name| {
        messages
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .find(|message| message["target"]["name"] == name && message["executable"].is_string())
            .and_then(|message| message["executable"].as_str().map(PathBuf::from))
            .unwrap_or_else(|| panic!("cargo built no {name}"))
    }
}

/// The release binaries: size and speed of what is tested are those of what is shipped.
fn binaries() -> &'static Binaries {
    static BINARIES: OnceLock<Binaries> = OnceLock::new();
    BINARIES.get_or_init(|| {
        let executable = build(&["-p", "cvm-init", "-p", "agent"], target());
        Binaries { init: executable("cvm-init"), agent: executable("agent") }
    })
}

pub(crate) fn agent() -> &'static Path {
    &binaries().agent
}

/// A script of this tree, to be run.
pub(crate) fn script(name: &str) -> Command {
    let mut command = Command::new(Path::new(TREE).join("scripts").join(name));
    command.current_dir(TREE).env("CARGO_TARGET_DIR", target());
    command
}

/// A stock kernel, by the Debian suite that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// That of the running release.
    Running,
    /// 6.12.
    Trixie,
}

impl Kernel {
    /// The suite, where it is not that of the running release.
    fn suite(self) -> Option<&'static str> {
        match self {
            Self::Running => None,
            Self::Trixie => Some("trixie"),
        }
    }

    /// Where `scripts/kernel` has put it.
    fn folder(self) -> &'static Path {
        static RUNNING: OnceLock<PathBuf> = OnceLock::new();
        static TRIXIE: OnceLock<PathBuf> = OnceLock::new();
        let (folder, name) = match self {
            Self::Running => (&RUNNING, "kernel"),
            Self::Trixie => (&TRIXIE, "kernel-trixie"),
        };
        folder.get_or_init(|| {
            run(script("kernel").args(self.suite().iter().flat_map(|suite| ["--suite", suite])));
            target().join(name)
        })
    }

    pub(crate) fn image(self) -> PathBuf {
        self.folder().join("vmlinuz")
    }
}

pub(crate) fn kernel() -> PathBuf {
    Kernel::Running.image()
}

/// What `cvm.cipher=` is when it is not given.
pub(crate) const DEFAULT_CIPHER: &str = "aes-gcm-random";

/// An initramfs whose `/init` is `init`, with all modules for a cipher but those named.
fn pack(name: &str, init: &Path, cipher: &str, without: &[&str]) -> PathBuf {
    pack_with(name, init, cipher, without, &[])
}

fn pack_with(name: &str, init: &Path, cipher: &str, without: &[&str], with: &[&str]) -> PathBuf {
    pack_for(Kernel::Running, name, init, cipher, without, with)
}

fn pack_for(
    kernel: Kernel,
    name: &str,
    init: &Path,
    cipher: &str,
    without: &[&str],
    with: &[&str],
) -> PathBuf {
    let with: Vec<_> = with.iter().flat_map(|module| ["--extra-module", module]).collect();
    let choice = [&["--cipher", cipher][..], &with].concat();
    pack_choice(kernel, name, init, &choice, without)
}

/// The same with what else options of `scripts/initramfs` choose.
fn pack_choice(
    kernel: Kernel,
    name: &str,
    init: &Path,
    choice: &[&str],
    without: &[&str],
) -> PathBuf {
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let list = tmp.join(format!("{name}.modules"));
    let all = fs::read_to_string(Path::new(TREE).join("initramfs/modules"))
        .expect("initramfs/modules lists the modules");
    let kept = all.lines().filter(|line| {
        let module = line.split_whitespace().next().unwrap_or_default();
        !without.contains(&module.trim_start_matches('?'))
    });
    fs::write(&list, kept.flat_map(|line| [line, "\n"]).collect::<String>())
        .expect("the target folder is writable");
    let archive = tmp.join(format!("{name}.cpio.gz"));
    run(script("initramfs")
        .arg("--kernel-modules")
        .arg(kernel.folder().join("modules"))
        .arg("--init")
        .arg(init)
        .arg("--modules-list")
        .arg(list)
        .args(["--extra-module", AGENT_MODULE])
        .args(choice)
        .arg("-o")
        .arg(&archive));
    archive
}

/// The initramfs that is shipped, and the module of the agent's port.
pub(crate) fn initramfs() -> PathBuf {
    static DEFAULT: OnceLock<PathBuf> = OnceLock::new();
    DEFAULT.get_or_init(|| pack("default", &binaries().init, DEFAULT_CIPHER, &[])).clone()
}

/// The fault build: `src/fault.rs` says what can be asked of it. In a folder of its own, so that the
/// two builds do not take turns.
fn fault_build() -> &'static Path {
    static INIT: OnceLock<PathBuf> = OnceLock::new();
    INIT.get_or_init(|| {
        let folder = target().join("fault");
        build(&["-p", "cvm-init", "--features", "fault"], &folder)("cvm-init")
    })
}

/// The same with the fault build.
pub(crate) fn initramfs_with_faults() -> PathBuf {
    static FAULTS: OnceLock<PathBuf> = OnceLock::new();
    FAULTS.get_or_init(|| pack("faults", fault_build(), DEFAULT_CIPHER, &[])).clone()
}

/// The same for a kernel that lacks the modules named.
pub(crate) fn initramfs_without(modules: &[&str]) -> PathBuf {
    pack(&format!("without-{}", modules.join("-")), &binaries().init, DEFAULT_CIPHER, modules)
}

/// The same for a kernel that has everything built in.
pub(crate) fn initramfs_without_modules() -> PathBuf {
    let archive = Path::new(env!("CARGO_TARGET_TMPDIR")).join("without-modules.cpio.gz");
    run(script("initramfs")
        .args(["--kernel-modules", "none", "--init"])
        .arg(&binaries().init)
        .arg("-o")
        .arg(&archive));
    archive
}

/// The same with a file among the first modules that is none.
pub(crate) fn initramfs_with_a_broken_module() -> PathBuf {
    initramfs_and("broken-module", "modules/00-001-broken.ko", "no module")
}

/// The same with words beside the kernel command line.
pub(crate) fn initramfs_with_words(name: &str, words: &str) -> PathBuf {
    initramfs_and(name, "cmdline", words)
}

/// The same and a file. The kernel unpacks one archive over the other.
fn initramfs_and(name: &str, file: &str, content: &str) -> PathBuf {
    let folder = Scratch::new(name);
    let path = folder.join(file);
    fs::create_dir_all(path.parent().expect("a folder's file")).expect("the folder is ours");
    fs::write(&path, content).expect("the folder is ours");
    let archive = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.cpio.gz"));
    let append = r#"cp "$1" "$3"; bsdtar -C "$2" -cf - --format newc . | gzip -n >>"$3""#;
    run(command("bash").args(["-euo", "pipefail", "-c", append, "bash"]).args([
        initramfs().as_path(),
        folder.path(),
        &archive,
    ]));
    archive
}

/// The same with what a container engine would load from its root.
pub(crate) fn initramfs_with_overlay() -> PathBuf {
    static OVERLAY: OnceLock<PathBuf> = OnceLock::new();
    OVERLAY
        .get_or_init(|| pack_with("overlay", &binaries().init, DEFAULT_CIPHER, &[], &["overlay"]))
        .clone()
}

/// The same for another kernel, made for `cvm.overlay=`.
pub(crate) fn initramfs_for_overlays_of(kernel: Kernel) -> PathBuf {
    if kernel == Kernel::Running {
        return initramfs_with_overlay();
    }
    let name = format!("{kernel:?}-overlay");
    pack_for(kernel, &name, &binaries().init, DEFAULT_CIPHER, &[], &["overlay"])
}

/// The fault build with it.
pub(crate) fn initramfs_with_faults_and_overlay() -> PathBuf {
    static OVERLAY: OnceLock<PathBuf> = OnceLock::new();
    OVERLAY
        .get_or_init(|| {
            pack_with("faults-overlay", fault_build(), DEFAULT_CIPHER, &[], &["overlay"])
        })
        .clone()
}

/// The same for another cipher.
pub(crate) fn initramfs_for(cipher: &str) -> PathBuf {
    pack(cipher, &binaries().init, cipher, &[])
}

/// The same for another kernel and cipher, made once a test run.
pub(crate) fn initramfs_of(kernel: Kernel, cipher: &str) -> PathBuf {
    static MADE: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    if kernel == Kernel::Running && cipher == DEFAULT_CIPHER {
        return initramfs();
    }
    let name = format!("{kernel:?}-{cipher}");
    // Who wants the same one waits until it is there.
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let pack = || pack_for(kernel, &name, &binaries().init, cipher, &[], &[]);
    made.entry(name.clone()).or_insert_with(pack).clone()
}

/// The same with every file system that a root can be, but the modules named, made once a test run.
pub(crate) fn initramfs_of_formats(kernel: Kernel, without: &[&str]) -> PathBuf {
    static MADE: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let name = format!("{kernel:?}-formats-{}", without.join("-"));
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let choice = ["--root-format", "erofs", "--root-format", "squashfs"];
    let pack = || pack_choice(kernel, &name, &binaries().init, &choice, without);
    made.entry(name.clone()).or_insert_with(pack).clone()
}

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
        &format!("{kernel:?}-fw-cfg"),
        &binaries().init,
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
    if let Some(suite) = kernel.suite() {
        debian_root.args(["--suite", suite]);
        debian_root.args(REPART.iter().flat_map(|package| ["--include", package]));
        debian_root.args(DOCKER.iter().flat_map(|package| ["--exclude", package]));
    }
    run(&mut debian_root);
    target().join(format!("debian/{}.tar", kernel.suite().unwrap_or("rootfs")))
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
            .arg(debian_root_for(Kernel::Trixie))
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
        (agent(), "init"),
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
