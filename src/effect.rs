//! The seam through which every effect on the outside goes.
//!
//! It gives the error its object and the boot report its timing, so a good boot lists all that
//! it did by itself.

use std::fmt::Display;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// One effect of this boot.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What was done, as in the error had it failed: "mount proc on /proc".
    pub doing: String,
    /// How long it took.
    pub took: Duration,
}

static JOURNAL: Mutex<Vec<Entry>> = Mutex::new(Vec::new());

/// Does `act` and writes it down as `doing`, a verb with its object ("mount proc on /proc").
///
/// # Errors
/// "cannot {doing}: {cause}" when `act` fails.
pub fn effect<T, E: Display>(
    doing: impl Into<String>,
    act: impl FnOnce() -> std::result::Result<T, E>,
) -> Result<T> {
    let doing = doing.into();
    let start = Instant::now();
    let outcome = act().map_err(|cause| Error::cannot(&doing, cause));
    let took = start.elapsed();
    log::debug!("{doing}: {} us", took.as_micros());
    journal().push(Entry { doing, took });
    outcome
}

/// Like [`effect`], for what a good boot can do without: a failure is a warning.
pub fn optional<T, E: Display>(
    doing: impl Into<String>,
    act: impl FnOnce() -> std::result::Result<T, E>,
) -> Option<T> {
    effect(doing, act)
        .inspect_err(|error| log::warn!("{error} (going on without)"))
        .ok()
}

/// All effects so far, in order.
pub fn entries() -> Vec<Entry> {
    journal().clone()
}

fn journal() -> MutexGuard<'static, Vec<Entry>> {
    JOURNAL.lock().unwrap_or_else(PoisonError::into_inner)
}
