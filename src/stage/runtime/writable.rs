//! Places that are writable although the root is not: in memory, on the volume, or as an overlay of
//! what the root has there.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use super::{MAKE_DIR, bind, inside, make_dir};
use crate::effect::{Effect, effect};
use crate::error::Result;
use crate::format::tmpfs::Directory;
use crate::kernel::mount::{self, Flags};
use crate::kernel::tree;
use crate::stage::NewRoot;
use crate::stage::root::mounts::{Mounts, PLACE_FLAGS, RUN, Tmpfs};

const MOUNT_TMPFS: Effect<1> = Effect::new("mount-tmpfs", "mount tmpfs on {}");
const REMOUNT: Effect<1> = Effect::new("remount", "remount {}");
const COPY_ATTRIBUTES: Effect<2> =
    Effect::new("copy-attributes", "copy the attributes of {} to {}");
const MOUNT_OVERLAY: Effect<1> = Effect::new("mount-overlay", "mount an overlay on {}");

/// Where on the volume these places are. Who is not root comes by them at the places only: flags of
/// their mounts and permissions above them hold for no other name.
const HOME: &str = "/cocos/.writable";

/// What an overlay does, whatever the kernel's builder or the module's options say
/// (`Documentation/filesystems/overlayfs.rst`):
///
/// | option | why | with the other choice |
/// |---|---|---|
/// | `redirect_dir=on` | a directory of the root can be renamed | rename(2) says EXDEV, which not every program takes |
/// | `metacopy=off` | a file whose owner or mode is changed lies on the volume as a whole | its data is looked for in the root, where an attribute of the copy says |
/// | `index=off` | needs nothing of the root's file system | names of one file stay so when it is written to, where that file system can be exported |
/// | `nfs_export=off` | nobody exports it, and it needs the index | - |
/// | `xino=off` | numbers of files have 32 bits, as programs of that size take them | one device number for all files |
const OVERLAY_OPTIONS: &str = "redirect_dir=on,metacopy=off,index=off,nfs_export=off,xino=off";

/// Makes all places writable.
pub(super) fn mount(root: &NewRoot, overlays: &[String], mounts: &Mounts) -> Result<()> {
    let is_on_volume = mounts.places.iter().any(|(_, tmpfs)| tmpfs.is_none());
    if is_on_volume || !overlays.is_empty() {
        effect(MAKE_DIR.on(&[&HOME]), || make_dir(root, HOME, 0o700))?;
    }
    for (place, tmpfs) in &mounts.places {
        let target = place.target;
        if let Some(Tmpfs { flags, data }) = tmpfs {
            effect(MOUNT_TMPFS.on(&[&target]), || {
                root.mount(Path::new("tmpfs"), target, "tmpfs", *flags, data)
            })?;
        } else {
            let source = format!("{HOME}{target}");
            effect(MAKE_DIR.on(&[&source]), || make_dir(root, &source, place.mode))?;
            bind(root, &source, target, PLACE_FLAGS)?;
        }
    }
    if let Some(tmpfs) = &mounts.run {
        effect(REMOUNT.on(&[&RUN]), || remount_run(tmpfs))?;
    }
    for (number, target) in overlays.iter().enumerate() {
        mount_overlay(root, number, target)?;
    }
    Ok(())
}

/// The platform's /run with other options. tmpfs takes those of its directory at the first mount only.
fn remount_run(Tmpfs { flags, data }: &Tmpfs) -> io::Result<()> {
    let run = Path::new(RUN);
    mount::remount(run, *flags, data)?;
    let Directory { mode, uid, gid } = Directory::of(data);
    chown(run, uid, gid)?;
    mode.map_or(Ok(()), |mode| fs::set_permissions(run, Permissions::from_mode(mode)))
}

/// Lays a directory of the volume over one of the root. The overlay has the attributes of the upper
/// one, so these are made the same.
fn mount_overlay(root: &NewRoot, number: usize, target: &str) -> Result<()> {
    let layers = format!("{HOME}/{number}");
    let (upper, work) = (format!("{layers}/upper"), format!("{layers}/work"));
    for dir in [&layers, &upper, &work] {
        effect(MAKE_DIR.on(&[dir]), || make_dir(root, dir, 0o755))?;
    }
    effect(COPY_ATTRIBUTES.on(&[&target, &upper]), || {
        let (lower, upper) = (root.directory(target)?, root.directory(&upper)?);
        tree::copy_attributes(&inside(&lower), &inside(&upper))
    })?;
    effect(MOUNT_OVERLAY.on(&[&target]), || {
        let [lower, upper, work] = [target, &upper, &work].map(|path| root.directory(path));
        let (lower, upper, work) = (lower?, upper?, work?);
        let [lower, upper, work] = [&lower, &upper, &work].map(mount::path_of);
        let data = format!(
            "lowerdir={},upperdir={},workdir={},{OVERLAY_OPTIONS}",
            lower.display(),
            upper.display(),
            work.display()
        );
        Ok::<_, io::Error>(mount::mount(
            Path::new("overlay"),
            &lower,
            "overlay",
            Flags::NODEV,
            &data,
        )?)
    })
}
