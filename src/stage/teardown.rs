//! What a failed boot leaves behind: nothing.

use std::path::Path;

use super::{CONTROL, NEW_ROOT, mapping};
use crate::dm::Control;
use crate::{key, mount};

/// Mounts that hold our mappings, before and after the switch of the root.
const MOUNTS: &[&str] = &[NEW_ROOT, "/cocos_init", "/var/lib/docker", "/cocos"];

/// From the top one down, since each uses the next.
const MAPPINGS: &[&str] = &[mapping::VOLUME, mapping::INTEGRITY, mapping::ROOT];

/// Takes down whatever there is. What fails is passed over: it may never have been made, and
/// the machine stops in any case. The log says what is left.
pub fn run() {
    // A panic leaves it behind; any other failure has removed it on the way here.
    let _ = key::forget_all();
    for target in MOUNTS {
        let _ = mount::detach(Path::new(target));
    }
    let Ok(control) = Control::open(Path::new(CONTROL)) else {
        return;
    };
    for mapping in MAPPINGS {
        let _ = control.remove(mapping);
    }
    match control.names() {
        Ok(left) if left.is_empty() => log::info!("taken down, mappings left: none"),
        Ok(left) => log::warn!("taken down, mappings left: {}", left.join(", ")),
        Err(error) => log::warn!("cannot list the mappings left: {error}"),
    }
}
