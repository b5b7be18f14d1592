//! The seam through which every effect on the outside goes.
//!
//! It gives the error its object and the boot report its timing, so a good boot lists all that
//! it did by itself; and it knows which effects are going on, so that none can last for ever.

use std::fmt::Display;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// What an effect may last beyond the limit: a wait that has the same limit has more to say when
/// it is over.
const GRACE: Duration = Duration::from_secs(1);

/// One effect of this boot.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What was done, as in the error had it failed: "mount proc on /proc".
    pub doing: String,
    /// When it began.
    pub start: Instant,
    /// How long it took.
    pub took: Duration,
}

/// An effect that is going on, in one of the threads.
struct Running {
    number: u64,
    doing: String,
    start: Instant,
}

/// What was done, and what is going on.
struct Journal {
    done: Vec<Entry>,
    /// The one that began first comes first.
    running: Vec<Running>,
    begun: u64,
    limit: Duration,
    /// Who waits in [`overdue`].
    watchdog: Option<Thread>,
    /// An effect was overdue: no other begins.
    closed: bool,
}

static JOURNAL: Mutex<Journal> = Mutex::new(Journal {
    done: Vec::new(),
    running: Vec::new(),
    begun: 0,
    limit: Duration::MAX,
    watchdog: None,
    closed: false,
});

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
    let number = begin(&doing);
    let outcome = act();
    end(number);
    outcome.map_err(|cause| Error::cannot(&doing, &cause))
}

/// Returns the number to end it with.
fn begin(doing: &str) -> u64 {
    let mut journal = journal();
    if journal.closed {
        drop(journal);
        loop {
            thread::park();
        }
    }
    journal.begun = journal.begun.wrapping_add(1);
    let number = journal.begun;
    journal.running.push(Running { number, doing: doing.to_owned(), start: Instant::now() });
    number
}

fn end(number: u64) {
    let mut journal = journal();
    if let Some(at) = journal.running.iter().position(|running| running.number == number) {
        let Running { doing, start, .. } = journal.running.remove(at);
        let took = start.elapsed();
        log::debug!("{doing}: {} us", micros(took));
        journal.done.push(Entry { doing, start, took });
    }
}

/// From now on an effect may last as long as `limit`, the one that is going on included.
pub fn set_limit(limit: Duration) {
    let mut journal = journal();
    journal.limit = limit;
    if let Some(watchdog) = &journal.watchdog {
        watchdog.unpark();
    }
}

/// Sleeps until an effect lasts longer than it may, and says which ones are going on. They may go
/// on, or end, but whoever began them begins no other.
#[must_use]
pub fn overdue() -> Error {
    journal().watchdog = Some(thread::current());
    loop {
        let mut journal = journal();
        let allowed = journal.limit.saturating_add(GRACE);
        // What begins later is due later: it is enough to look again then.
        let oldest = journal.running.first();
        let left = oldest.map_or(allowed, |oldest| allowed.saturating_sub(oldest.start.elapsed()));
        if left.is_zero() {
            // Those beside the oldest wait for the same thing as likely as not.
            let doing: Vec<_> =
                journal.running.iter().map(|running| running.doing.as_str()).collect();
            let cause = format!("no end within {} s", journal.limit.as_secs());
            let error = Error::cannot(&doing.join(" and "), &cause);
            journal.closed = true;
            return error;
        }
        drop(journal);
        thread::park_timeout(left);
    }
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

/// All effects so far, in the order of their ends.
#[must_use]
pub fn entries() -> Vec<Entry> {
    journal().done.clone()
}

fn journal() -> MutexGuard<'static, Journal> {
    JOURNAL.lock().unwrap_or_else(PoisonError::into_inner)
}
