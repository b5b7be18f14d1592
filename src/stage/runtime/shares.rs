//! The host's 9P shares. One that does not mount is the host's doing, and a guest that needs it will
//! say so itself.

use std::io;
use std::path::Path;

use crate::effect::{Effect, effect, optional};
use crate::error::Result;
use crate::format::fstab::Share;
use crate::kernel::{file, mount, share};
use crate::stage::NewRoot;
use crate::stage::root::mounts::{FSTAB, ShareMount};

const LIST_SHARES: Effect<0> = Effect::new("list-shares", "list the 9P shares");
const MOUNT_SHARE: Effect<2> = Effect::new("mount-share", "mount the share {} on {}");
const LOOK_INTO: Effect<1> = Effect::new("look-into", "look into {}");

/// Mounts those of the shares that are on offer, and returns them.
///
/// # Errors
/// When the kernel cannot be asked what is on offer.
pub(super) fn mount<'a>(root: &NewRoot, wanted: &'a [ShareMount]) -> Result<Vec<&'a ShareMount>> {
    let offered = effect(LIST_SHARES, share::offered_tags)?;
    let mut mounted = Vec::new();
    for wanted in wanted {
        let Share { tag, target } = wanted.share;
        if !offered.iter().any(|offer| offer == tag) {
            continue;
        }
        if !wanted.covers && !is_empty(root, target) {
            log::warn!(
                "the share {tag} is on offer, but {target} is not empty, and {FSTAB} does not say \
                 that the share is to cover it (going on without)"
            );
            continue;
        }
        let outcome = optional(MOUNT_SHARE.on(&[&tag, &target]), || {
            root.mount(Path::new(tag), target, "9p", wanted.flags, &wanted.data)
        });
        mounted.extend(outcome.map(|()| wanted));
    }
    Ok(mounted)
}

/// Whether a directory of the root holds nothing; one that is not there does. What cannot be read, as
/// the host may have it, is not empty.
fn is_empty(root: &NewRoot, directory: &str) -> bool {
    let empty = optional(LOOK_INTO.on(&[&directory]), || match root.directory(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
        Ok(directory) => file::is_empty(mount::path_of(&directory)),
    });
    empty == Some(true)
}
