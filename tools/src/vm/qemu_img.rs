//! Disks that qemu-img(1) makes, as commands to be run or told.

use std::path::Path;
use std::process::Command;

fn qemu_img(subcommand: &str) -> Command {
    let mut command = Command::new("qemu-img");
    command.args([subcommand, "-q", "-f", "qcow2"]);
    command
}

/// Makes a blank disk of this size, with QEMU's suffixes: `10G`.
#[must_use]
pub fn blank(file: &Path, size: &str) -> Command {
    let mut command = qemu_img("create");
    command.arg(file).arg(size);
    command
}

/// Makes a disk that has the content of `source`, of this format, and what is written to it alone.
/// `source` is absolute: a relative one would be looked for beside `file`.
#[must_use]
pub fn overlay(source: &Path, format: &str, file: &Path) -> Command {
    let mut command = qemu_img("create");
    command.args(["-F", format]).arg("-b").arg(source).arg(file);
    command
}

/// Makes a disk larger: by `+1G`.
#[must_use]
pub fn grow(file: &Path, by: &str) -> Command {
    let mut command = qemu_img("resize");
    command.arg(file).arg(by);
    command
}
