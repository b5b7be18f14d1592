//! What a failed boot has left, by the kernel's word; in fault builds only.
//!
//! Told in lines of [`fault::tell`]: `LEFT key|mapping|mount|device TEXT` for each thing that is
//! there, and `LOOKED` when all that could be asked was asked.

use std::path::Path;

use crate::error::{Error, Result};
use crate::fault;
use crate::kernel::dm::Control;
use crate::kernel::file;
use crate::kernel::mount::{self, Flags};

/// File systems that answer, mounted anew: the boot may have failed before it had them, or after
/// it gave them away.
const WITNESSES: &[(&str, &str)] = &[("proc", "/.proc"), ("devtmpfs", "/.dev")];

/// Says what is left.
pub fn tell() {
    match look() {
        Ok(()) => fault::tell(&"LOOKED"),
        Err(error) => fault::tell(&error),
    }
}

fn look() -> Result<()> {
    // Before the witnesses are among them.
    for (kind, target) in WITNESSES {
        mount::ensure_dir(Path::new(target), 0o700)
            .and_then(|()| {
                mount::mount(Path::new(kind), Path::new(target), kind, Flags::empty(), "")
            })
            .map_err(|cause| Error::cannot(&format!("mount {kind} on {target}"), &cause))?;
    }
    lines("key", "/.proc/keys", |line| line.contains("logon"))?;
    lines("mount", "/.proc/self/mounts", |line| !line.contains(" /."))?;
    // Loop devices and mappings that have a table.
    lines("device", "/.proc/partitions", |line| line.contains("loop") || line.contains("dm-"))?;
    match Control::open(Path::new("/.dev/mapper/control")) {
        Ok(control) => {
            let names = control.names().map_err(|cause| Error::cannot(&"list mappings", &cause))?;
            for name in names {
                fault::tell(&format_args!("LEFT mapping {name}"));
            }
        }
        // The module is not loaded yet.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(Error::cannot(&"open the device-mapper", &error)),
    }
    Ok(())
}

fn lines(what: &str, file: &str, counts: fn(&str) -> bool) -> Result<()> {
    let text = file::text(file).map_err(|cause| Error::cannot(&format!("read {file}"), &cause))?;
    for line in text.lines().filter(|line| counts(line)) {
        fault::tell(&format_args!("LEFT {what} {line}"));
    }
    Ok(())
}
