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
#[cfg_attr(feature = "fault", track_caller)]
pub fn effect<T, E: Display>(
    doing: impl Into<String>,
    act: impl FnOnce() -> std::result::Result<T, E>,
) -> Result<T> {
    let doing = doing.into();
    #[cfg(feature = "fault")]
    let act = crate::fault::befalling(&doing, act);
    let start = Instant::now();
    let outcome = act();
    let took = start.elapsed();
    let outcome = outcome.map_err(|cause| Error::cannot(&doing, &cause));
    record(doing, took);
    outcome
}

/// Out of line, because every effect of the program has a copy of what is in [`effect`].
#[inline(never)]
fn record(doing: String, took: Duration) {
    log::debug!("{doing}: {} us", micros(took));
    journal().push(Entry { doing, took });
}

/// Like [`effect`], for what a good boot can do without: a failure is a warning.
#[cfg_attr(feature = "fault", track_caller)]
pub fn optional<T, E: Display>(
    doing: impl Into<String>,
    act: impl FnOnce() -> std::result::Result<T, E>,
) -> Option<T> {
    effect(doing, act).inspect_err(|error| log::warn!("{error} (going on without)")).ok()
}

/// Whole microseconds.
#[must_use]
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// All effects so far, in order.
#[must_use]
pub fn entries() -> Vec<Entry> {
    journal().clone()
}

fn journal() -> MutexGuard<'static, Vec<Entry>> {
    JOURNAL.lock().unwrap_or_else(PoisonError::into_inner)
}
