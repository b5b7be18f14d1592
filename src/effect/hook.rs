//! What a fault build has asked before each effect. Others have none of this.

use std::fmt::Display;
use std::panic::Location;
use std::sync::OnceLock;

use super::Name;

/// What comes of an effect that is not to succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is not done and reports an error.
    Fail,
    /// It is done, and then reports an error.
    Late,
}

/// Hears what is about to be done, and where that is called for.
pub type Hook = fn(name: &Name, caller: &Location<'_>) -> Option<Fault>;

static HOOK: OnceLock<Hook> = OnceLock::new();

/// Has `hook` asked before each effect from now on. The first one stays.
pub fn set(hook: Hook) {
    let _ = HOOK.set(hook);
}

/// Wraps `act`, the effect of this name: the hook is asked when it begins.
#[track_caller]
pub(super) fn before<T, E: Display>(
    name: Name,
    act: impl FnOnce() -> Result<T, E>,
) -> impl FnOnce() -> Result<T, String> {
    let caller = Location::caller();
    move || {
        match HOOK.get().and_then(|hook| hook(&name, caller)) {
            None => return act().map_err(|cause| cause.to_string()),
            Some(Fault::Fail) => {}
            // What it yields is lost to the program, and so is its destructor.
            Some(Fault::Late) => drop(act().map(std::mem::forget)),
        }
        Err("injected error".to_owned())
    }
}
