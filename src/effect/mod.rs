//! The seam through which every effect on the outside goes: everybody may use it, and of the program
//! it uses no more than the error.
//!
//! It gives the error its object and the boot report its timing, so a good boot lists all that
//! it did by itself; and it knows which effects are going on, so that none can last for ever.

#[cfg(feature = "fault")]
pub mod hook;
mod journal;

use std::cell::Cell;
use std::fmt::Display;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use self::journal::Journal;
use crate::error::{Error, Result};

pub use self::journal::Entry;

/// What can be done, to `N` objects: a row of a table that stands beside the code that does it.
/// Reports, benchmarks and fault builds go by the name; the words are for people, and may change.
#[derive(Debug, Clone, Copy)]
pub struct Effect<const N: usize> {
    name: &'static str,
    words: &'static str,
}

impl<const N: usize> Effect<N> {
    /// With a verb and a place for each object in its words: "mount {} on {}".
    ///
    /// # Panics
    /// When there are not as many places, which a constant's compilation shows.
    #[must_use]
    pub const fn new(name: &'static str, words: &'static str) -> Self {
        let (mut places, mut rest) = (0, words.as_bytes());
        while let [first, behind @ ..] = rest {
            if *first == b'{' {
                places += 1;
            }
            rest = behind;
        }
        assert!(places == N, "a place for each object");
        Self { name, words }
    }

    /// The same, done to these objects. The first of them tells it from others of its name.
    #[must_use]
    pub const fn on<'a>(self, objects: &'a [&'a dyn Display; N]) -> Step<'a> {
        Step { name: self.name, words: self.words, objects }
    }
}

/// An effect and what it is done to.
#[derive(Clone, Copy)]
pub struct Step<'a> {
    name: &'static str,
    words: &'static str,
    objects: &'a [&'a dyn Display],
}

impl From<Effect<0>> for Step<'_> {
    fn from(effect: Effect<0>) -> Self {
        effect.on(&[])
    }
}

/// What a step is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// The effect's name and its first object: "mount:proc".
    pub id: String,
    /// The same in words: "mount proc on /proc".
    pub doing: String,
}

impl Name {
    fn of(step: &Step<'_>) -> Self {
        let mut id = step.name.to_owned();
        if let Some(object) = step.objects.first() {
            id = format!("{id}:{object}");
        }
        // A brace stands in a place only.
        let mut words = step.words.split('{');
        let mut doing = words.next().unwrap_or_default().to_owned();
        for (object, behind) in step.objects.iter().zip(words) {
            doing = format!("{doing}{object}{}", behind.trim_start_matches('}'));
        }
        Self { id, doing }
    }
}

static JOURNAL: Mutex<Journal> = Mutex::new(Journal::new());

thread_local! {
    /// When this thread's last effect ended, which is when the next one begins: what the program does in
    /// between is little, and reading the clock is a system call where the processor's own is not to be
    /// trusted.
    static ENDED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Does `act` and writes it down as `step`.
///
/// # Errors
/// "cannot {doing}: {cause}" when `act` fails.
#[cfg_attr(feature = "fault", track_caller)]
pub fn effect<'a, T, E: Display>(
    step: impl Into<Step<'a>>,
    act: impl FnOnce() -> std::result::Result<T, E>,
) -> Result<T> {
    let step = step.into();
    #[cfg(feature = "fault")]
    let act = hook::before(Name::of(&step), act);
    let number = begin(&step);
    match act() {
        Ok(value) => {
            end(number);
            Ok(value)
        }
        Err(cause) => Err(Error::cannot(&end(number), &cause)),
    }
}

/// Returns the number to end it with.
fn begin(step: &Step<'_>) -> u64 {
    let mut journal = journal();
    if journal.closed {
        drop(journal);
        loop {
            thread::park();
        }
    }
    journal.begin(step, ENDED.take().unwrap_or_else(Instant::now))
}

/// Returns what ended, in words.
fn end(number: u64) -> String {
    // A statement of its own lets go of the journal before the line is written: a console that takes
    // no line must not hold up the watchdog, which asks the journal what is overdue.
    let now = Instant::now();
    ENDED.set(Some(now));
    let ended = journal().end(number, now);
    let Some((Name { doing, .. }, took)) = ended else {
        return String::new();
    };
    log::debug!("{doing}: {} us", micros(took));
    doing
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
        // A statement of its own, which lets go of the journal.
        let left = journal().left();
        match left {
            Ok(left) => thread::park_timeout(left),
            Err(error) => return error,
        }
    }
}

/// Has this thread's next effect begin when it does: it has waited since the last one.
pub fn waited() {
    ENDED.set(None);
}

/// Does `act` under the eyes of who calls [`overdue`]. It is no effect of the boot: it is not among
/// what was done, and begins also when nothing else may.
pub fn watch(what: Effect<0>, act: impl FnOnce()) {
    let number = journal().begin(&what.into(), Instant::now());
    act();
    journal().drop_running(number);
}

/// Like [`effect`], for what a good boot can do without: a failure is a warning.
#[cfg_attr(feature = "fault", track_caller)]
pub fn optional<'a, T, E: Display>(
    step: impl Into<Step<'a>>,
    act: impl FnOnce() -> std::result::Result<T, E>,
) -> Option<T> {
    effect(step, act).inspect_err(|error| log::warn!("{error} (going on without)")).ok()
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

/// Whether something of this identifier is going on.
#[cfg(test)]
pub(crate) fn is_running(id: &str) -> bool {
    journal().is_running(id)
}

fn journal() -> MutexGuard<'static, Journal> {
    JOURNAL.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// A console that takes a line only when somebody else has had the journal meanwhile.
    struct Console;

    const WRITE: Effect<0> = Effect::new("write", "write a line");
    const LIST: Effect<0> = Effect::new("list-disks", "list the disks");

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
        effect(WRITE, || Ok::<_, Error>(())).unwrap();
        assert!(TOOK.load(Ordering::Relaxed), "the journal was locked all the while");
    }

    #[test]
    fn a_line_is_watched_and_is_no_effect() {
        const LINE: Effect<0> = Effect::new("line", "write the line that is watched");
        watch(LINE, || {
            assert!(is_running("line"), "nobody watches over it");
        });
        assert!(!is_running("line"));
        assert!(entries().iter().all(|entry| entry.name.id != "line"));
    }

    #[test]
    fn an_effect_is_known_by_its_first_object_and_told_with_all() {
        const MOUNT: Effect<2> = Effect::new("mount", "mount {} on {}, and look");
        let Name { id, doing } = Name::of(&MOUNT.on(&[&"proc", &"/proc"]));
        assert_eq!((id.as_str(), doing.as_str()), ("mount:proc", "mount proc on /proc, and look"));
        let Name { id, doing } = Name::of(&LIST.into());
        assert_eq!((id.as_str(), doing.as_str()), ("list-disks", "list the disks"));
    }
}
