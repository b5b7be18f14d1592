//! What a boot leaves behind that has failed, or that another kernel goes on from: nothing.

use std::fs::File;
use std::path::Path;
use std::sync::OnceLock;

use rustix::process::{chroot, fchdir};

use super::root::LAYERS;
use super::{CONTROL, NEW_ROOT, mapping};
use crate::error::{Error, Result};
use crate::kernel::dm::Control;
use crate::kernel::{fd, key, mount};

/// Where the new root is mounted, with all that is mounted in it: before it is moved, and from
/// then on, when it is this process's working directory. Verified data is mounted in /run, and the
/// layers of a root beside it.
const MOUNTS: &[&str] = &[NEW_ROOT, "/run", LAYERS, "."];

/// What /dev may lie in by now: it moves to the new root, and the new root moves.
const PLACES_OF_DEV: &[&str] = &["/", NEW_ROOT, "."];

/// The initramfs, once this process is about to leave it.
static INITRAMFS: OnceLock<File> = OnceLock::new();

/// Keeps the initramfs to go back to.
pub fn keep_initramfs(initramfs: File) -> &'static File {
    INITRAMFS.get_or_init(|| initramfs)
}

/// Takes down whatever there is. What fails is passed over: it may never have been made. The log says
/// what is left.
///
/// # Errors
/// When a mapping is left, or nobody knows.
pub fn run() -> Result<()> {
    // A panic leaves it behind; any other failure has removed it on the way here.
    let _ = key::forget_all();
    // Before its node goes with the mounts.
    let control = PLACES_OF_DEV.iter().find_map(|place| {
        Control::open(&Path::new(place).join(CONTROL.trim_start_matches('/'))).ok()
    });
    // What the failed stage had open, when it does not return to close it.
    let initramfs = match INITRAMFS.get() {
        Some(initramfs) => fd::Mount::of_file(initramfs),
        None => fd::Mount::of(Path::new("/")),
    };
    let mounts = MOUNTS.iter().map(|target| fd::Mount::of(Path::new(target)));
    let mounts: Vec<_> = mounts.filter(|mount| *mount != initramfs).flatten().collect();
    fd::close_on_disks(&mounts);
    for target in MOUNTS {
        let _ = mount::detach(Path::new(target));
    }
    // The new root is in use as long as it is the root of this process.
    if let Some(initramfs) = INITRAMFS.get() {
        let _ = fchdir(initramfs).and_then(|()| chroot("."));
    }
    let control = control.ok_or_else(|| Error::new("there is no device-mapper to ask"))?;
    // A loop device goes with the mapping that uses it.
    for mapping in mapping::ALL {
        let _ = control.remove(mapping);
    }
    for mapping in control.names().unwrap_or_default() {
        if mapping::is_verified(&mapping) {
            let _ = control.remove(&mapping);
        }
    }
    let why = match control.names() {
        Ok(left) if left.is_empty() => {
            log::info!("taken down, mappings left: none");
            return Ok(());
        }
        Ok(left) => format!("taken down, mappings left: {}", left.join(", ")),
        Err(error) => format!("cannot list the mappings left: {error}"),
    };
    log::warn!("{why}");
    Err(Error::new(why))
}
