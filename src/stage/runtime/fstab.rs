//! The new root's fstab. It covers the old one, which is read-only or below an overlay, by a file in
//! /run: whoever writes to it changes that file, and whoever would rename another one over it is told
//! that it is busy.

use std::io;

use super::{BIND, WRITE};
use crate::effect::effect;
use crate::error::Result;
use crate::format::fstab::{self, Mount};
use crate::format::rootfs::Kind;
use crate::kernel::file;
use crate::kernel::mount::{self, Flags};
use crate::stage::root::mounts::{FSTAB, ShareMount};
use crate::stage::{NewRoot, mapping, node};

const NEW_FSTAB: &str = "/run/cvm-init/fstab";

/// Writes it anew, with the type of the `root`, the lines of tmpfs that are `kept` and the shares that are `mounted`.
///
/// # Errors
/// When the file cannot be written or mounted.
pub(super) fn cover(
    new_root: &NewRoot,
    old: &str,
    root: Kind,
    kept: &[(Mount, String)],
    mounted: &[&ShareMount],
) -> Result<()> {
    let shares = mounted.iter().map(|mounted| (mounted.share.mount(), mounted.options.clone()));
    let lines: Vec<_> = kept.iter().cloned().chain(shares).collect();
    let device = node(mapping::ROOT);
    let root = fstab::Root { device: &device.to_string_lossy(), kind: root.name() };
    let fstab::New { text, dropped } = fstab::generate(old, root, &lines);
    for line in dropped {
        log::warn!("{FSTAB}: not in force: {line}");
    }
    effect(WRITE.on(&[&NEW_FSTAB]), || file::publish(NEW_FSTAB, text.as_bytes()))?;
    effect(BIND.on(&[&NEW_FSTAB, &FSTAB]), || {
        let (new, place) =
            (file::open(NEW_FSTAB, file::PLACE)?, new_root.open(FSTAB, file::PLACE)?);
        Ok::<_, io::Error>(mount::bind(&new, &place, Flags::empty())?)
    })
}
