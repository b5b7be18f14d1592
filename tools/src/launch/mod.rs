//! A launch as the Cocos Manager's: the same [`variables`], the same devices.
//!
//! A [`request`] and the variables become a [`plan`], by pure functions; [`host`] looks at what the plan
//! needs before anything is made; [`own`] makes what the machine has for itself alone; [`command`] is
//! QEMU's command line, which [`shell`] prints or [`run`] runs to its end.

pub mod command;
pub mod firmware;
pub mod host;
pub mod own;
pub mod plan;
pub mod request;
pub mod run;
pub mod shell;
pub mod variables;

use std::fmt::Display;

/// What people type to launch, of which each message is.
pub const NAME: &str = "scripts/qemu";

/// Says something on the way.
pub fn note(message: &dyn Display) {
    eprintln!("{NAME}: {message}");
}
