//! Mounts, as values that tables are made of.
//!
//! Sources: mount(2); `open_tree` and `move_mount` in the kernel's `fs/namespace.c`.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, mkdirat, stat};
use rustix::io::{Errno, Result};
use rustix::mount::{
    MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree,
};

pub use rustix::mount::MountFlags as Flags;

use crate::kernel::file;

/// Flags of a file system that holds neither programs nor devices.
pub const DATA_ONLY: MountFlags =
    MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// Links of the file system lead nowhere (since Linux 5.10); rustix has no name for it yet.
pub const NOSYMFOLLOW: MountFlags = MountFlags::from_bits_retain(0x100);

/// What a generic option of an fstab's line comes to.
#[derive(Clone, Copy)]
enum Generic {
    Set(MountFlags),
    Clear(MountFlags),
    /// For a security module, which takes it from what the file system is given.
    Data,
    /// For whoever reads the fstab in user space.
    Userspace,
}

/// What `owner` and `group` imply (mount(8)).
const OWNER_SECURE: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);

/// What `user` and `users` imply.
const SECURE: MountFlags = OWNER_SECURE.union(MountFlags::NOEXEC);

/// The options that every file system has (mount(8), "filesystem-independent mount options"), but
/// for those that are no mounts of their own, such as `remount` and `bind`.
const GENERIC: &[(&str, Generic)] = {
    use Generic::{Clear, Data, Set, Userspace};
    &[
        ("ro", Set(MountFlags::RDONLY)),
        ("rw", Clear(MountFlags::RDONLY)),
        ("nosuid", Set(MountFlags::NOSUID)),
        ("suid", Clear(MountFlags::NOSUID)),
        ("nodev", Set(MountFlags::NODEV)),
        ("dev", Clear(MountFlags::NODEV)),
        ("noexec", Set(MountFlags::NOEXEC)),
        ("exec", Clear(MountFlags::NOEXEC)),
        ("nosymfollow", Set(NOSYMFOLLOW)),
        ("symfollow", Clear(NOSYMFOLLOW)),
        ("sync", Set(MountFlags::SYNCHRONOUS)),
        ("async", Clear(MountFlags::SYNCHRONOUS)),
        ("dirsync", Set(MountFlags::DIRSYNC)),
        ("noatime", Set(MountFlags::NOATIME)),
        ("atime", Clear(MountFlags::NOATIME)),
        ("nodiratime", Set(MountFlags::NODIRATIME)),
        ("diratime", Clear(MountFlags::NODIRATIME)),
        ("relatime", Set(MountFlags::RELATIME)),
        ("norelatime", Clear(MountFlags::RELATIME)),
        ("strictatime", Set(MountFlags::STRICTATIME)),
        ("nostrictatime", Clear(MountFlags::STRICTATIME)),
        ("lazytime", Set(MountFlags::LAZYTIME)),
        ("nolazytime", Clear(MountFlags::LAZYTIME)),
        ("mand", Set(MountFlags::PERMIT_MANDATORY_FILE_LOCKING)),
        ("nomand", Clear(MountFlags::PERMIT_MANDATORY_FILE_LOCKING)),
        ("silent", Set(MountFlags::SILENT)),
        ("loud", Clear(MountFlags::SILENT)),
        ("context", Data),
        ("fscontext", Data),
        ("defcontext", Data),
        ("rootcontext", Data),
        ("defaults", Userspace),
        ("auto", Userspace),
        ("noauto", Userspace),
        ("nofail", Userspace),
        ("_netdev", Userspace),
        // Who may mount it brings these along, until a later word takes them away.
        ("user", Set(SECURE)),
        ("nouser", Userspace),
        ("users", Set(SECURE)),
        ("owner", Set(OWNER_SECURE)),
        ("noowner", Userspace),
        ("group", Set(OWNER_SECURE)),
        ("nogroup", Userspace),
        ("iversion", Userspace),
        ("noiversion", Userspace),
        ("comment", Userspace),
    ]
};

/// Parts the options of an fstab's line (fstab(5)) into flags and what the file system is given; of
/// two that contradict each other, the later one counts. `is_own` says of an option whether the file
/// system has it.
///
/// # Errors
/// The first option that nobody knows: passed over, it would be one that was asked for and is not in
/// force.
pub fn parse_options(
    options: &str,
    is_own: fn(&str) -> bool,
) -> std::result::Result<(Flags, String), &str> {
    let mut flags = Flags::empty();
    let mut data = Vec::new();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let (name, _) = option.split_once('=').unwrap_or((option, ""));
        let generic = GENERIC.iter().find(|(known, _)| *known == name).map(|(_, generic)| *generic);
        match generic {
            Some(Generic::Set(flag)) if name == option => flags |= flag,
            Some(Generic::Clear(flag)) if name == option => flags -= flag,
            Some(Generic::Data) => data.push(option),
            Some(Generic::Userspace) => {}
            None if name.starts_with("x-") || name.starts_with("X-") => {}
            None if is_own(option) => data.push(option),
            _ => return Err(option),
        }
    }
    Ok((flags, data.join(",")))
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

/// Changes a file system that is mounted at `target`, and the flags of that mount. What `data` does
/// not name stays as it is.
///
/// # Errors
/// Those of mount(2).
pub fn remount(target: &Path, flags: Flags, data: &str) -> Result<()> {
    let data = CString::new(data).map_err(|_| Errno::INVAL)?;
    rustix::mount::mount_remount(target, flags, data.as_c_str())
}

/// Makes `target` show what `source` is, and sets flags of that mount where there are any. The times of
/// access are kept as at the source.
///
/// # Errors
/// Those of `open_tree`, `move_mount` and mount(2).
pub fn bind(source: &File, target: &File, flags: Flags) -> Result<()> {
    let clone = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(source, "", clone)?;
    let both = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&tree, "", target, "", both)?;
    if flags.is_empty() {
        return Ok(());
    }
    // What is open is the new mount itself, wherever it has come to lie.
    remount(&path_of(&tree), flags | Flags::BIND, "")
}

/// Moves a mount with all below it.
///
/// # Errors
/// Those of `move_mount`; EINVAL when nothing is mounted at `from`.
pub fn relocate(from: &Path, to: &File) -> Result<()> {
    move_mount(CWD, from, to, "", MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH)
}

/// A path of what is open, for calls that take no descriptor. It needs /proc.
#[must_use]
pub fn path_of(file: &impl AsRawFd) -> PathBuf {
    Path::new("/proc/self/fd").join(file.as_raw_fd().to_string())
}

/// Whether the kernel has a file system of this type, built in or by a module that is loaded.
///
/// # Errors
/// When /proc/filesystems cannot be read.
pub fn is_known(kind: &str) -> io::Result<bool> {
    // A type stands behind "nodev" or nothing, and a tab (proc(5)).
    let known = file::text("/proc/filesystems")?;
    Ok(known.lines().any(|line| line.rsplit('\t').next() == Some(kind)))
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
    match mkdirat(CWD, path, Mode::from_raw_mode(mode)) {
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

    fn own(option: &str) -> bool {
        ["trans=virtio", "cache=mmap", "noxattr"].contains(&option)
    }

    #[test]
    fn an_fstab_lines_options_are_parted() {
        assert_eq!(
            parse_options(
                "defaults,trans=virtio,ro,nofail,x-systemd.automount,cache=mmap,noexec,context=a:b",
                own
            ),
            Ok((Flags::RDONLY | Flags::NOEXEC, "trans=virtio,cache=mmap,context=a:b".to_owned()))
        );
        assert_eq!(parse_options("defaults", own), Ok((Flags::empty(), String::new())));
        assert_eq!(parse_options("", own), Ok((Flags::empty(), String::new())));
    }

    /// As mount(8) lists them.
    #[test]
    fn no_generic_option_reaches_the_file_system() {
        for option in
            "async atime noatime auto noauto defaults dev nodev diratime nodiratime dirsync \
                       exec noexec group iversion noiversion mand nomand _netdev nofail relatime \
                       norelatime strictatime nostrictatime lazytime nolazytime suid nosuid silent \
                       loud owner ro rw sync user nouser users nosymfollow comment=a x-a X-b=c"
                .split_whitespace()
        {
            let (_, data) = parse_options(option, own).unwrap();
            assert_eq!(data, "", "{option}");
        }
        for (option, flag) in [
            ("nosymfollow", NOSYMFOLLOW),
            ("sync", Flags::SYNCHRONOUS),
            ("dirsync", Flags::DIRSYNC),
            ("nosuid", Flags::NOSUID),
            ("user", SECURE),
            ("group", OWNER_SECURE),
            ("users,exec", OWNER_SECURE),
        ] {
            assert_eq!(parse_options(option, own), Ok((flag, String::new())));
        }
    }

    #[test]
    fn the_later_of_two_options_counts() {
        assert_eq!(parse_options("suid,nosuid", own), Ok((Flags::NOSUID, String::new())));
        assert_eq!(parse_options("ro,rw", own), Ok((Flags::empty(), String::new())));
    }

    #[test]
    fn file_systems_are_known_by_their_whole_names() {
        assert!(is_known("proc").unwrap());
        assert!(!is_known("pro").unwrap());
        assert!(!is_known("nodev").unwrap());
    }

    #[test]
    fn an_option_that_nobody_knows_is_named() {
        for option in ["ro\r", "nosuid=1", "remount", "bind", "colour=red", "Ro", "trans=paper"] {
            assert_eq!(parse_options(&format!("trans=virtio,{option},ro"), own), Err(option));
        }
    }
}
