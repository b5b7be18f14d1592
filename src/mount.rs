//! Mounts, as values that tables are made of.
//!
//! Source: mount(2).

use std::ffi::CString;
use std::path::Path;

use rustix::fs::{FileType, Mode, mkdirat, stat};
use rustix::io::{Errno, Result};
use rustix::mount::{MountFlags, UnmountFlags};

pub use rustix::mount::MountFlags as Flags;

/// Flags of a file system that holds neither programs nor devices.
pub const DATA_ONLY: MountFlags =
    MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// Options that mount(2) takes as flags.
const FLAG_OPTIONS: &[(&str, MountFlags)] = &[
    ("ro", MountFlags::RDONLY),
    ("nosuid", MountFlags::NOSUID),
    ("nodev", MountFlags::NODEV),
    ("noexec", MountFlags::NOEXEC),
    ("noatime", MountFlags::NOATIME),
    ("relatime", MountFlags::RELATIME),
];

/// Options that are for whoever reads the fstab; so is all that begins with "x-".
const READERS_OPTIONS: &[&str] = &["defaults", "rw", "auto", "noauto", "nofail", "_netdev"];

/// Parts the options of an fstab line (fstab(5)) into flags and what the file system takes.
#[must_use]
pub fn parse_options(options: &str) -> (Flags, String) {
    let mut flags = Flags::empty();
    let mut data = Vec::new();
    for option in options.split(',') {
        if let Some((_, flag)) = FLAG_OPTIONS.iter().find(|(name, _)| *name == option) {
            flags |= *flag;
        } else if !READERS_OPTIONS.contains(&option) && !option.starts_with("x-") {
            data.push(option);
        }
    }
    (flags, data.join(","))
}

/// Mounts a file system of type `kind`; `data` are its own options, comma-separated.
///
/// # Errors
/// Those of mount(2).
pub fn mount(source: &Path, target: &Path, kind: &str, flags: Flags, data: &str) -> Result<()> {
    let data = CString::new(data).map_err(|_| Errno::INVAL)?;
    let data = (!data.is_empty()).then_some(data.as_c_str());
    rustix::mount::mount(source, target, kind, flags, data)
}

/// Makes `target` show what `source` holds.
///
/// # Errors
/// Those of mount(2).
pub fn bind(source: &Path, target: &Path) -> Result<()> {
    rustix::mount::mount_bind(source, target)
}

/// Moves a mount with all below it.
///
/// # Errors
/// Those of mount(2).
pub fn relocate(from: &Path, to: &Path) -> Result<()> {
    rustix::mount::mount_move(from, to)
}

/// Takes a mount out of sight at once, and lets go of it as soon as nobody uses it.
///
/// # Errors
/// EINVAL when nothing is mounted there.
pub fn detach(target: &Path) -> Result<()> {
    rustix::mount::unmount(target, UnmountFlags::DETACH)
}

/// Makes the directory when it is not there.
///
/// # Errors
/// ENOTDIR when something else is there; those of mkdir(2).
pub fn ensure_dir(path: &Path, mode: u32) -> Result<()> {
    match mkdirat(rustix::fs::CWD, path, Mode::from_raw_mode(mode)) {
        Err(Errno::EXIST) => match FileType::from_raw_mode(stat(path)?.st_mode) {
            FileType::Directory => Ok(()),
            _ => Err(Errno::NOTDIR),
        },
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_fstab_lines_options_are_parted() {
        assert_eq!(
            parse_options("defaults,trans=virtio,ro,nofail,x-systemd.automount,cache=mmap,noexec"),
            (Flags::RDONLY | Flags::NOEXEC, "trans=virtio,cache=mmap".to_owned())
        );
        assert_eq!(parse_options("defaults"), (Flags::empty(), String::new()));
    }
}
