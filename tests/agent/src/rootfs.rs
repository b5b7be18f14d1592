//! What is left of the initramfs, which lies at the bottom of the mount stack, out of reach of
//! every path: the new root was moved on top of it.

use crate::facts::kind;
use crate::verbs::{Answer, Args, Error};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The type of the initramfs (the magic number of statfs(2)) and its every entry, from within a mount namespace that lives as long as its thread.
pub(crate) fn entries(_: &Args<'_>) -> Answer {
    let thread = std::thread::spawn(|| {
        uncover()?;
        let mut found = Vec::new();
        walk(Path::new("/"), &mut found)?;
        let magic = rustix::fs::statfs("/")?.f_type;
        Ok::<_, io::Error>(json!({ "type": magic, "entries": found }))
    });
    match thread.join() {
        Ok(entries) => entries.map_err(Error::of("look beneath the root")),
        Err(_) => Err(Error::from("the look beneath the root panicked".to_owned())),
    }
}

/// Takes the root off in a copy of the mount table. Entering the same name space anew sets the
/// thread's root to what is then on top: the initramfs.
fn uncover() -> io::Result<()> {
    #[expect(unsafe_code, reason = "rustix has no safe unshare")]
    // SAFETY: without CLONE_FILES no thread loses sight of another's descriptors.
    unsafe {
        unshare_unsafe(UnshareFlags::NEWNS)?;
    }
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let namespace = File::open("/proc/thread-self/ns/mnt")?;
    unmount("/", UnmountFlags::DETACH)?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))?;
    Ok(())
}

fn walk(dir: &Path, found: &mut Vec<Value>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let meta = fs::symlink_metadata(&path)?;
        found.push(json!({ "path": path.to_string_lossy(), "type": kind(meta.mode()), "size": meta.size() }));
        if meta.is_dir() {
            walk(&path, found)?;
        }
    }
    Ok(())
}
