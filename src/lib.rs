//! PID 1 of the initramfs of a confidential VM.
//!
//! Three floors, and arrows only point down: [`boot`] is the list of what happens, each entry a
//! module of [`stage`] that knows order and policy; below them each module of [`kernel`] is one
//! kernel interface and each of [`format`] one on-disk or on-wire format, and neither knows anything
//! of the boot.

pub mod boot;
pub mod config;
pub mod report;
pub mod stage;

pub mod format;
pub mod kernel;

pub mod effect;
pub mod error;
#[cfg(feature = "fault")]
pub mod fault;

/// Of the program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
