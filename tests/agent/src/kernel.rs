//! Verbs that act on the whole machine: caches, mounts, power.

use crate::verbs::{Answer, Args, Error};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::system::{RebootCommand, reboot};
use serde_json::Value;
use std::ffi::CString;
use std::fs;

/// The options of mount(8) that are flags of mount(2); all others go to the file system.
const FLAGS: &[(&str, MountFlags)] = &[
    ("ro", MountFlags::RDONLY),
    ("nosuid", MountFlags::NOSUID),
    ("nodev", MountFlags::NODEV),
    ("noexec", MountFlags::NOEXEC),
    ("noatime", MountFlags::NOATIME),
    ("bind", MountFlags::BIND),
];

#[expect(clippy::unnecessary_wraps, reason = "a verb may fail")]
pub(crate) fn sync(_: &Args<'_>) -> Answer {
    rustix::fs::sync();
    Ok(Value::Null)
}

pub(crate) fn drop_caches(_: &Args<'_>) -> Answer {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3\n").map_err(Error::of("drop caches"))?;
    Ok(Value::Null)
}

pub(crate) fn mount(args: &Args<'_>) -> Answer {
    let (source, target, fstype) =
        (args.text("source")?, args.text("target")?, args.text("fstype")?);
    let (mut flags, mut rest, mut remount) = (MountFlags::empty(), Vec::new(), false);
    for option in args.text("options")?.split(',').filter(|option| !option.is_empty()) {
        if option == "remount" {
            remount = true;
            continue;
        }
        match FLAGS.iter().find(|(name, _)| *name == option) {
            Some((_, flag)) => flags |= *flag,
            None => rest.push(option),
        }
    }
    let rest = CString::new(rest.join(",")).unwrap_or_default();
    if remount {
        rustix::mount::mount_remount(target, flags, rest.as_c_str())
    } else {
        rustix::mount::mount(source, target, fstype, flags, rest.as_c_str())
    }
    .map_err(Error::of(format!("mount {source} on {target}")))?;
    Ok(Value::Null)
}

pub(crate) fn umount(args: &Args<'_>) -> Answer {
    let target = args.text("target")?;
    rustix::mount::unmount(target, UnmountFlags::empty())
        .map_err(Error::of(format!("unmount {target}")))?;
    Ok(Value::Null)
}

pub(crate) fn power_off(_: &Args<'_>) -> Answer {
    rustix::fs::sync();
    reboot(RebootCommand::PowerOff).map_err(Error::of("power off"))?;
    Ok(Value::Null)
}
