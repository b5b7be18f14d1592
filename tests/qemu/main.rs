//! The launcher: the command lines it makes, what it refuses, and that a VM leaves nothing behind.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

#[path = "../common/mod.rs"]
mod common;
mod printed;
mod refused;
mod running;
mod tpm;

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::Scratch;

const TREE: &str = env!("CARGO_MANIFEST_DIR");
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The launcher in a folder, with flags, variables of the Manager (without what all their names
/// begin with), and no variable of the caller's but `PATH`.
fn qemu(dir: &Path, flags: &[&str], variables: &[(&str, &str)]) -> Command {
    // Whoever runs the tests in the background may ignore signals, and so would what is run.
    let mut command = Command::new("/usr/bin/env");
    command
        .arg("--default-signal")
        .arg(Path::new(TREE).join("scripts/qemu"))
        .args(flags)
        .current_dir(dir)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("TMPDIR", dir.join("tmp"))
        .env("CARGO_TARGET_DIR", running::target())
        .stdin(Stdio::null());
    for (name, value) in variables {
        command.env(format!("MANAGER_QEMU_{name}"), value);
    }
    command
}

/// A folder with what the launcher looks for by default: `img/` with the parts of an image.
fn image(test: &str) -> Scratch {
    let dir = Scratch::dir(&format!("qemu {test}"));
    fs::create_dir_all(dir.path().join("img")).unwrap();
    fs::create_dir(dir.path().join("tmp")).unwrap();
    for name in ["img/bzImage", "img/rootfs.cpio.gz", "igvm", "ovmf"] {
        fs::write(dir.path().join(name), name).unwrap();
    }
    fs::write(dir.path().join("img/cmdline"), "roothash=00 quiet\n").unwrap();
    fs::create_dir(dir.path().join("layers")).unwrap();
    // Of an image before there is one layer more.
    for name in ["bzImage", "rootfs.cpio.gz", "layer0.img", "layer1.img", "layer2.img"] {
        fs::write(dir.path().join("layers").join(name), name).unwrap();
    }
    fs::write(dir.path().join("layers/layers.json"), r#"{"layers": [{}, {}]}"#).unwrap();
    fs::write(dir.path().join("layers/cmdline"), "cvm.layers=01@2,00@2\n").unwrap();
    let disk = fs::File::create(dir.path().join("img/disk.img")).unwrap();
    disk.set_len(64 * MIB).unwrap();
    // All that the launcher looks for.
    disk.write_all_at(b"EFI PART", 512).unwrap();
    dir
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// The size that a guest sees, from the header of a qcow2 (docs/interop/qcow2.txt of QEMU).
fn virtual_size(file: &Path) -> u64 {
    let header = fs::read(file).unwrap();
    assert_eq!(&header[..4], b"QFI\xfb");
    u64::from_be_bytes(header[24..32].try_into().unwrap())
}
