//! What every VM boots: a stock kernel, and initramfs made of the binaries of this tree by the
//! scripts that a user runs. All of it is made once a test run, and only what a test asks for.

use crate::kit::kernel::{Arch, Kernel};
use crate::kit::tool::{Scratch, command, run};
use serde_json::Value;
use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

const TREE: &str = env!("CARGO_MANIFEST_DIR");

/// The module that the agent's port needs and a real boot does not.
const AGENT_MODULE: &str = "virtio_console";

/// Where cargo builds, whatever flag or variable says where; this is the tmp of a target triple in it.
pub(crate) fn target() -> &'static Path {
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
fn build(arch: Arch, arguments: &[&str], folder: &Path) -> impl Fn(&str) -> PathBuf {
    let triple = format!("{}-unknown-linux-musl", arch.name());
    let messages = run(Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(TREE)
        .args(["build", "--release", "--target", &triple, "--bins"])
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
fn binaries(arch: Arch) -> &'static Binaries {
    static X86: OnceLock<Binaries> = OnceLock::new();
    static ARM: OnceLock<Binaries> = OnceLock::new();
    let built = match arch {
        Arch::X86 => &X86,
        Arch::Arm => &ARM,
    };
    built.get_or_init(|| {
        let executable = build(arch, &["-p", "cvm-init", "-p", "agent"], target());
        Binaries { init: executable("cvm-init"), agent: executable("agent") }
    })
}

pub(crate) fn init(arch: Arch) -> &'static Path {
    &binaries(arch).init
}

pub(crate) fn agent(arch: Arch) -> &'static Path {
    &binaries(arch).agent
}

/// A script of this tree, to be run.
pub(crate) fn script(name: &str) -> Command {
    let mut command = Command::new(Path::new(TREE).join("scripts").join(name));
    command.current_dir(TREE).env("CARGO_TARGET_DIR", target());
    command
}

pub(crate) fn kernel() -> PathBuf {
    Kernel::RUNNING.image()
}

/// What `cvm.cipher=` is when it is not given.
pub(crate) const DEFAULT_CIPHER: &str = "aes-gcm-random";

/// An initramfs whose `/init` is `init`, with all modules for a cipher but those named.
fn pack(name: &str, init: &Path, cipher: &str, without: &[&str]) -> PathBuf {
    pack_with(name, init, cipher, without, &[])
}

fn pack_with(name: &str, init: &Path, cipher: &str, without: &[&str], with: &[&str]) -> PathBuf {
    pack_for(Kernel::RUNNING, name, init, cipher, without, with)
}

pub(crate) fn pack_for(
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

/// The same with what else options of `scripts/initramfs` choose; by zstd, which an emulated kernel unpacks
/// half a second sooner than by gzip.
fn pack_choice(
    kernel: Kernel,
    name: &str,
    init: &Path,
    choice: &[&str],
    without: &[&str],
) -> PathBuf {
    let archive = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.cpio.zst"));
    pack_into(archive, kernel, init, choice, without)
}

/// The same in an archive whose name says how it is compressed.
fn pack_into(
    archive: PathBuf,
    kernel: Kernel,
    init: &Path,
    choice: &[&str],
    without: &[&str],
) -> PathBuf {
    let list = archive.with_extension("modules");
    let all = fs::read_to_string(Path::new(TREE).join("initramfs/modules"))
        .expect("initramfs/modules lists the modules");
    let kept = all.lines().filter(|line| {
        let module = line.split_whitespace().next().unwrap_or_default();
        !without.contains(&module.trim_start_matches('?'))
    });
    fs::write(&list, kept.flat_map(|line| [line, "\n"]).collect::<String>())
        .expect("the target folder is writable");
    run(script("initramfs")
        .args(["--arch", kernel.arch.name(), "--kernel-modules"])
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
    DEFAULT.get_or_init(|| pack("default", init(Arch::X86), DEFAULT_CIPHER, &[])).clone()
}

/// The same by gzip, as it is when its name says nothing else.
pub(crate) fn initramfs_by_gzip() -> PathBuf {
    let archive = Path::new(env!("CARGO_TARGET_TMPDIR")).join("by-gzip.cpio.gz");
    pack_into(archive, Kernel::RUNNING, init(Arch::X86), &["--cipher", DEFAULT_CIPHER], &[])
}

/// The fault build: `src/fault.rs` says what can be asked of it. In a folder of its own, so that the
/// two builds do not take turns.
fn fault_build() -> &'static Path {
    static INIT: OnceLock<PathBuf> = OnceLock::new();
    INIT.get_or_init(|| {
        let folder = target().join("fault");
        build(Arch::X86, &["-p", "cvm-init", "--features", "fault"], &folder)("cvm-init")
    })
}

/// The same with the fault build.
pub(crate) fn initramfs_with_faults() -> PathBuf {
    static FAULTS: OnceLock<PathBuf> = OnceLock::new();
    FAULTS.get_or_init(|| pack("faults", fault_build(), DEFAULT_CIPHER, &[])).clone()
}

/// The same for a kernel that lacks the modules named.
pub(crate) fn initramfs_without(modules: &[&str]) -> PathBuf {
    pack(&format!("without-{}", modules.join("-")), init(Arch::X86), DEFAULT_CIPHER, modules)
}

/// The same for a kernel that has everything built in.
pub(crate) fn initramfs_without_modules() -> PathBuf {
    let archive = Path::new(env!("CARGO_TARGET_TMPDIR")).join("without-modules.cpio.gz");
    run(script("initramfs")
        .args(["--kernel-modules", "none", "--init"])
        .arg(init(Arch::X86))
        .arg("-o")
        .arg(&archive));
    archive
}

/// The same with a file that is none in the place of a module, and that file.
pub(crate) fn initramfs_with_a_broken_module(name: &str) -> (PathBuf, String) {
    let listed = run(command("bsdtar").arg("-tf").arg(initramfs()));
    let ending = format!("-{name}.ko");
    let file = listed.lines().find(|line| line.ends_with(&ending)).expect("it is packed");
    let file = file.trim_start_matches("./");
    (initramfs_and(&format!("broken-{name}"), file, "no module"), file.to_owned())
}

/// An initramfs as other tools would pack it, without the list of the modules.
pub(crate) fn without_the_list(packed: &Path) -> PathBuf {
    let name = packed.file_name().expect("it is a file").to_string_lossy();
    let archive = packed.with_file_name(format!("without-list-{name}"));
    let repack = r#"bsdtar -cf - --format newc --exclude "$1" "@$2" | zstd -q >"$3""#;
    run(command("bash")
        .args(["-euo", "pipefail", "-c", repack, "bash", "./modules.list"])
        .args([packed, &archive]));
    archive
}

/// The same for more than one cipher.
pub(crate) fn initramfs_of_ciphers(ciphers: &[&str]) -> PathBuf {
    let choice: Vec<_> = ciphers.iter().flat_map(|cipher| ["--cipher", cipher]).collect();
    pack_choice(Kernel::RUNNING, &ciphers.join("-"), init(Arch::X86), &choice, &[])
}

/// The same with drivers for other disks.
pub(crate) fn initramfs_with_drivers(kernel: Kernel, drivers: &str) -> PathBuf {
    let name = format!("{kernel}-{drivers}");
    pack_choice(kernel, &name, init(kernel.arch), &["--drivers", drivers], &[])
}

/// The same with words beside the kernel command line.
pub(crate) fn initramfs_with_words(name: &str, words: &str) -> PathBuf {
    initramfs_and(name, "cmdline", words)
}

/// The same for a root of layers, with words beside the kernel command line if any.
pub(crate) fn initramfs_of_layers(kernel: Kernel, words: &str) -> PathBuf {
    static MADE: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let name =
        format!("{kernel}-layers-{}", words.replace(|sign: char| !sign.is_alphanumeric(), "-"));
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let choice = ["--with", "layers"];
    let words: &[&str] = if words.is_empty() { &[] } else { &["--append", words] };
    let pack = || pack_choice(kernel, &name, init(kernel.arch), &[&choice, words].concat(), &[]);
    made.entry(name.clone()).or_insert_with(pack).clone()
}

/// What an engine's image has today, in place of all that is ours.
pub(crate) fn engines_initramfs() -> PathBuf {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    let make = || {
        let archive = target().join("engine/initrd.gz");
        run(script("engine-initramfs").arg("-o").arg(&archive));
        archive
    };
    MADE.get_or_init(make).clone()
}

/// The same and a file. The kernel unpacks one archive over the other, each as it is compressed.
pub(crate) fn initramfs_and(name: &str, file: &str, content: &str) -> PathBuf {
    let folder = Scratch::new(name);
    let path = folder.join(file);
    fs::create_dir_all(path.parent().expect("a folder's file")).expect("the folder is ours");
    fs::write(&path, content).expect("the folder is ours");
    let archive = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.cpio"));
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
        .get_or_init(|| pack_with("overlay", init(Arch::X86), DEFAULT_CIPHER, &[], &["overlay"]))
        .clone()
}

/// The same for another kernel, made for `cvm.overlay=`.
pub(crate) fn initramfs_for_overlays_of(kernel: Kernel) -> PathBuf {
    if kernel == Kernel::RUNNING {
        return initramfs_with_overlay();
    }
    let name = format!("{kernel}-overlay");
    pack_for(kernel, &name, init(kernel.arch), DEFAULT_CIPHER, &[], &["overlay"])
}

/// The fault build with it, and with what layers need.
pub(crate) fn initramfs_with_faults_and_overlay() -> PathBuf {
    static OVERLAY: OnceLock<PathBuf> = OnceLock::new();
    OVERLAY
        .get_or_init(|| {
            let choice = ["--with", "overlay", "--with", "layers"];
            pack_choice(Kernel::RUNNING, "faults-overlay", fault_build(), &choice, &[])
        })
        .clone()
}

/// The same for another cipher.
pub(crate) fn initramfs_for(cipher: &str) -> PathBuf {
    pack(cipher, init(Arch::X86), cipher, &[])
}

/// The same for another kernel and cipher, made once a test run.
pub(crate) fn initramfs_of(kernel: Kernel, cipher: &str) -> PathBuf {
    static MADE: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    if kernel == Kernel::RUNNING && cipher == DEFAULT_CIPHER {
        return initramfs();
    }
    let name = format!("{kernel}-{cipher}");
    // Who wants the same one waits until it is there.
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let pack = || pack_for(kernel, &name, init(kernel.arch), cipher, &[], &[]);
    made.entry(name.clone()).or_insert_with(pack).clone()
}

/// The same with every file system that a root can be, but the modules named, made once a test run.
pub(crate) fn initramfs_of_formats(kernel: Kernel, without: &[&str]) -> PathBuf {
    static MADE: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let name = format!("{kernel}-formats-{}", without.join("-"));
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let choice = ["--root-format", "erofs", "--root-format", "squashfs"];
    let pack = || pack_choice(kernel, &name, init(kernel.arch), &choice, without);
    made.entry(name.clone()).or_insert_with(pack).clone()
}
