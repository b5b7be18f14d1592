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
        ("user", Userspace),
        ("nouser", Userspace),
        ("users", Userspace),
        ("owner", Userspace),
        ("noowner", Userspace),
        ("group", Userspace),
        ("nogroup", Userspace),
        ("iversion", Userspace),
        ("noiversion", Userspace),
        ("comment", Userspace),
    ]
};

/// Parts the options of an fstab's line (fstab(5)) into flags and what the file system is given; of
/// two that contradict each other, the later one counts. `own` are the names of the file system's own
/// options.
///
/// # Errors
/// The first option that nobody knows: passed over, it would be one that was asked for and is not in
/// force.
pub fn parse_options<'a>(
    options: &'a str,
    own: &[&str],
) -> std::result::Result<(Flags, String), &'a str> {
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
            None if own.contains(&name) => data.push(option),
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

    const OWN: &[&str] = &["trans", "cache", "noxattr"];

    #[test]
    fn an_fstab_lines_options_are_parted() {
        assert_eq!(
            parse_options(
                "defaults,trans=virtio,ro,nofail,x-systemd.automount,cache=mmap,noexec,context=a:b",
                OWN
            ),
            Ok((Flags::RDONLY | Flags::NOEXEC, "trans=virtio,cache=mmap,context=a:b".to_owned()))
        );
        assert_eq!(parse_options("defaults", OWN), Ok((Flags::empty(), String::new())));
        assert_eq!(parse_options("", OWN), Ok((Flags::empty(), String::new())));
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
            let (_, data) = parse_options(option, OWN).unwrap();
            assert_eq!(data, "", "{option}");
        }
        for (option, flag) in [
            ("nosymfollow", NOSYMFOLLOW),
            ("sync", Flags::SYNCHRONOUS),
            ("dirsync", Flags::DIRSYNC),
            ("nosuid", Flags::NOSUID),
        ] {
            assert_eq!(parse_options(option, OWN), Ok((flag, String::new())));
        }
    }

    #[test]
    fn the_later_of_two_options_counts() {
        assert_eq!(parse_options("suid,nosuid", OWN), Ok((Flags::NOSUID, String::new())));
        assert_eq!(parse_options("ro,rw", OWN), Ok((Flags::empty(), String::new())));
    }

    #[test]
    fn an_option_that_nobody_knows_is_named() {
        for option in ["ro\r", "nosuid=1", "remount", "bind", "colour=red", "Ro"] {
            assert_eq!(parse_options(&format!("trans=virtio,{option},ro"), OWN), Err(option));
        }
    }
}
