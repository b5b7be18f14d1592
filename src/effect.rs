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
const OTHERS: Effect<0> = Effect::new("others", "other effects");

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

/// One effect of this boot, however often it was done.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What was done.
    pub name: Name,
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
    name: Name,
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
    journal.begun = journal.begun.wrapping_add(1);
    let number = journal.begun;
    journal.running.push(Running { number, name: Name::of(step), start: Instant::now() });
    number
}

/// Returns what ended, in words.
fn end(number: u64) -> String {
    // A statement of its own lets go of the journal before the line is written: a console that takes
    // no line must not hold up the watchdog, which asks the journal what is overdue.
    let ended = journal().end(number);
    let Some((Name { doing, .. }, took)) = ended else {
        return String::new();
    };
    log::debug!("{doing}: {} us", micros(took));
    doing
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
    fn end(&mut self, number: u64) -> Option<(Name, Duration)> {
        let at = self.running.iter().position(|running| running.number == number)?;
        let Running { name, start, .. } = self.running.remove(at);
        let took = start.elapsed();
        self.note(&name, start, took);
        Some((name, took))
    }

    fn note(&mut self, name: &Name, start: Instant, took: Duration) {
        let full = self.done.len() >= ENTRIES_MAX;
        let known = |id: &str| self.done.iter().rposition(|entry| entry.name.id == id);
        let (name, at) = match known(&name.id) {
            None if full => (&Name::of(&OTHERS.into()), known(OTHERS.name)),
            at => (name, at),
        };
        if let Some(entry) = at.and_then(|at| self.done.get_mut(at)) {
            entry.took = entry.took.saturating_add(took);
            entry.times = entry.times.saturating_add(1);
        } else {
            self.done.push(Entry { name: name.clone(), start, took, times: 1 });
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
                journal.running.iter().map(|running| running.name.doing.as_str()).collect();
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

fn journal() -> MutexGuard<'static, Journal> {
    JOURNAL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a fault build has asked before each effect. Others have none of this.
#[cfg(feature = "fault")]
pub mod hook {
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// A console that takes a line only when somebody else has had the journal meanwhile.
    struct Console;

    const WRITE: Effect<0> = Effect::new("write", "write a line");
    const LIST: Effect<0> = Effect::new("list-disks", "list the disks");
    const READ: Effect<1> = Effect::new("read", "read {}");

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
    fn an_effect_is_known_by_its_first_object_and_told_with_all() {
        const MOUNT: Effect<2> = Effect::new("mount", "mount {} on {}, and look");
        let Name { id, doing } = Name::of(&MOUNT.on(&[&"proc", &"/proc"]));
        assert_eq!((id.as_str(), doing.as_str()), ("mount:proc", "mount proc on /proc, and look"));
        let Name { id, doing } = Name::of(&LIST.into());
        assert_eq!((id.as_str(), doing.as_str()), ("list-disks", "list the disks"));
    }

    #[test]
    fn what_is_done_again_and_again_is_one_entry() {
        let (mut journal, start) = (Journal::new(), Instant::now());
        for _ in 0..1_000_000 {
            journal.note(&Name::of(&LIST.into()), start, Duration::from_micros(2));
        }
        let [entry] = journal.done.as_slice() else { panic!("{:?}", journal.done) };
        assert_eq!((entry.times, entry.took), (1_000_000, Duration::from_secs(2)));
    }

    #[test]
    fn disks_that_come_and_go_do_not_fill_the_memory() {
        let (mut journal, start) = (Journal::new(), Instant::now());
        for disk in 0..5000 {
            journal.note(&Name::of(&READ.on(&[&format_args!("sd{disk}")])), start, Duration::ZERO);
        }
        assert_eq!(journal.done.len(), ENTRIES_MAX + 1);
        let others = journal.done.last().unwrap();
        assert_eq!(
            (others.name.id.as_str(), others.times),
            (OTHERS.name, 5000 - ENTRIES_MAX as u64)
        );
        journal.note(&Name::of(&READ.on(&[&"sd7"])), start, Duration::ZERO);
        assert_eq!(journal.done[7].times, 2);
    }
}
