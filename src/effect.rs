//! The seam through which every effect on the outside goes: everybody may use it, and of the program
//! it uses no more than the error.
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

/// How many different effects are told apart. A good boot has some 200; a host that makes disks come
/// and go can make it as many as it likes.
const ENTRIES_MAX: usize = 1024;

/// What stands for those beyond [`ENTRIES_MAX`].
const OTHERS: &str = "other effects";

/// One effect of this boot, however often it was done.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What was done, as in the error had it failed: "mount proc on /proc".
    pub doing: String,
    /// When it first began.
    pub start: Instant,
    /// How long it took, all times together.
    pub took: Duration,
    /// How often it was done.
    pub times: u64,
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

static JOURNAL: Mutex<Journal> = Mutex::new(Journal::new());

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
    let act = hook::before(&doing, act);
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
    // A statement of its own lets go of the journal before the line is written: a console that takes
    // no line must not hold up the watchdog, which asks the journal what is overdue.
    let ended = journal().end(number);
    if let Some((doing, took)) = ended {
        log::debug!("{doing}: {} us", micros(took));
    }
}

impl Journal {
    const fn new() -> Self {
        Self {
            done: Vec::new(),
            running: Vec::new(),
            begun: 0,
            limit: Duration::MAX,
            watchdog: None,
            closed: false,
        }
    }

    /// What it was, and how long it took.
    fn end(&mut self, number: u64) -> Option<(String, Duration)> {
        let at = self.running.iter().position(|running| running.number == number)?;
        let Running { doing, start, .. } = self.running.remove(at);
        let took = start.elapsed();
        self.note(&doing, start, took);
        Some((doing, took))
    }

    fn note(&mut self, doing: &str, start: Instant, took: Duration) {
        let full = self.done.len() >= ENTRIES_MAX;
        let known = |doing: &str| self.done.iter().rposition(|entry| entry.doing == doing);
        let (doing, at) = match known(doing) {
            None if full => (OTHERS, known(OTHERS)),
            at => (doing, at),
        };
        if let Some(entry) = at.and_then(|at| self.done.get_mut(at)) {
            entry.took = entry.took.saturating_add(took);
            entry.times = entry.times.saturating_add(1);
        } else {
            self.done.push(Entry { doing: doing.to_owned(), start, took, times: 1 });
        }
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

/// All effects so far, in the order in which they first ended.
#[must_use]
pub fn entries() -> Vec<Entry> {
    journal().done.clone()
}

fn journal() -> MutexGuard<'static, Journal> {
    JOURNAL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a fault build has asked before each effect. Others have none of this.
#[cfg(feature = "fault")]
pub mod hook {
    use std::fmt::Display;
    use std::panic::Location;
    use std::sync::OnceLock;

    /// What comes of an effect that is not to succeed.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Fault {
        /// It is not done and reports an error.
        Fail,
        /// It is done, and then reports an error.
        Late,
    }

    /// Hears what is about to be done, and where that is called for.
    pub type Hook = fn(doing: &str, caller: &Location<'_>) -> Option<Fault>;

    static HOOK: OnceLock<Hook> = OnceLock::new();

    /// Has `hook` asked before each effect from now on. The first one stays.
    pub fn set(hook: Hook) {
        let _ = HOOK.set(hook);
    }

    /// Wraps `act`, the effect `doing`: the hook is asked when it begins.
    #[track_caller]
    pub(super) fn before<T, E: Display>(
        doing: &str,
        act: impl FnOnce() -> Result<T, E>,
    ) -> impl FnOnce() -> Result<T, String> {
        let caller = Location::caller();
        move || {
            match HOOK.get().and_then(|hook| hook(doing, caller)) {
                None => return act().map_err(|cause| cause.to_string()),
                Some(Fault::Fail) => {}
                // What it yields is lost to the program, and so is its destructor.
                Some(Fault::Late) => drop(act().map(std::mem::forget)),
            }
            Err("injected error".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// A console that takes a line only when somebody else has had the journal meanwhile.
    struct Console;

    static TOOK: AtomicBool = AtomicBool::new(false);

    impl log::Log for Console {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &log::Record<'_>) {
            if !record.args().to_string().starts_with("write a line") {
                return;
            }
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(5) {
                if JOURNAL.try_lock().is_ok() {
                    TOOK.store(true, Ordering::Relaxed);
                    return;
                }
                thread::yield_now();
            }
        }

        fn flush(&self) {}
    }

    #[test]
    fn a_line_is_written_without_the_journal() {
        log::set_logger(&Console).unwrap();
        log::set_max_level(log::LevelFilter::Debug);
        effect("write a line", || Ok::<_, Error>(())).unwrap();
        assert!(TOOK.load(Ordering::Relaxed), "the journal was locked all the while");
    }

    #[test]
    fn what_is_done_again_and_again_is_one_entry() {
        let (mut journal, start) = (Journal::new(), Instant::now());
        for _ in 0..1_000_000 {
            journal.note("list the disks", start, Duration::from_micros(2));
        }
        let [entry] = journal.done.as_slice() else { panic!("{:?}", journal.done) };
        assert_eq!((entry.times, entry.took), (1_000_000, Duration::from_secs(2)));
    }

    #[test]
    fn disks_that_come_and_go_do_not_fill_the_memory() {
        let (mut journal, start) = (Journal::new(), Instant::now());
        for disk in 0..5000 {
            journal.note(&format!("read sd{disk}"), start, Duration::ZERO);
        }
        assert_eq!(journal.done.len(), ENTRIES_MAX + 1);
        let others = journal.done.last().unwrap();
        assert_eq!((others.doing.as_str(), others.times), (OTHERS, 5000 - ENTRIES_MAX as u64));
        journal.note("read sd7", start, Duration::ZERO);
        assert_eq!(journal.done[7].times, 2);
    }
}
