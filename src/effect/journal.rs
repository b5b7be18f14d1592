//! What was done, what is going on, and whether it has lasted too long.

use std::thread::Thread;
use std::time::{Duration, Instant};

use super::{Effect, Name, Step};
use crate::error::Error;

/// What an effect may last beyond the limit: a wait that has the same limit has more to say when
/// it is over.
const GRACE: Duration = Duration::from_secs(1);

/// Different effects of a good boot.
const TYPICAL: usize = 256;

/// How many are told apart: a host that makes disks come and go can make it as many as it likes.
const ENTRIES_MAX: usize = 1024;

/// What stands for those beyond [`ENTRIES_MAX`].
const OTHERS: Effect<0> = Effect::new("others", "other effects");

/// One effect of this boot, however often it was done.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What was done.
    pub name: Name,
    /// When it first began.
    pub start: Instant,
    /// How long it took, all times together, with what the program did before it since the last effect
    /// of its thread.
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
pub(super) struct Journal {
    pub(super) done: Vec<Entry>,
    /// The one that began first comes first.
    running: Vec<Running>,
    begun: u64,
    pub(super) limit: Duration,
    /// Who waits in [`super::overdue`].
    pub(super) watchdog: Option<Thread>,
    /// An effect was overdue: no other begins.
    pub(super) closed: bool,
}

impl Journal {
    pub(super) const fn new() -> Self {
        Self {
            done: Vec::new(),
            running: Vec::new(),
            begun: 0,
            limit: Duration::MAX,
            watchdog: None,
            closed: false,
        }
    }

    /// Returns the number to end it with.
    pub(super) fn begin(&mut self, step: &Step<'_>, start: Instant) -> u64 {
        self.begun = self.begun.wrapping_add(1);
        let (number, name) = (self.begun, Name::of(step));
        self.running.push(Running { number, name, start });
        number
    }

    /// What it was, and how long it took.
    pub(super) fn end(&mut self, number: u64, now: Instant) -> Option<(Name, Duration)> {
        let Running { name, start, .. } = self.take(number)?;
        let took = now.saturating_duration_since(start);
        self.note(&name, start, took);
        Some((name, took))
    }

    /// Ends what is not to be among what was done.
    pub(super) fn drop_running(&mut self, number: u64) {
        let _ = self.take(number);
    }

    #[cfg(test)]
    pub(super) fn is_running(&self, id: &str) -> bool {
        self.running.iter().any(|running| running.name.id == id)
    }

    fn take(&mut self, number: u64) -> Option<Running> {
        let at = self.running.iter().position(|running| running.number == number)?;
        Some(self.running.remove(at))
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
            if self.done.is_empty() {
                self.done.reserve(TYPICAL);
            }
            self.done.push(Entry { name: name.clone(), start, took, times: 1 });
        }
    }

    /// How long it is until something can be overdue.
    ///
    /// # Errors
    /// When something is: says what is going on, and lets nothing begin any more.
    pub(super) fn left(&mut self) -> Result<Duration, Error> {
        let allowed = self.limit.saturating_add(GRACE);
        // What begins later is due later: it is enough to look again then.
        let oldest = self.running.first();
        let left = oldest.map_or(allowed, |oldest| allowed.saturating_sub(oldest.start.elapsed()));
        if !left.is_zero() {
            return Ok(left);
        }
        self.closed = true;
        // Those beside the oldest wait for the same thing as likely as not.
        let doing: Vec<_> =
            self.running.iter().map(|running| running.name.doing.as_str()).collect();
        let cause = format!("no end within {} s", self.limit.as_secs());
        Err(Error::cannot(&doing.join(" and "), &cause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: Effect<0> = Effect::new("list-disks", "list the disks");
    const READ: Effect<1> = Effect::new("read", "read {}");

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

    #[test]
    fn what_lasts_too_long_is_told_with_what_is_beside_it() {
        let mut journal = Journal::new();
        journal.limit = Duration::ZERO;
        let list = journal.begin(&LIST.into(), Instant::now());
        journal.begin(&READ.on(&[&"sda"]), Instant::now());
        assert!(journal.left().is_ok_and(|left| left <= GRACE));
        journal.running[0].start -= GRACE;
        let error = journal.left().unwrap_err();
        assert_eq!(error.to_string(), "cannot list the disks and read sda: no end within 0 s");
        assert!(journal.closed);
        // What ends, after all, is overdue no more.
        journal.drop_running(list);
        assert!(journal.left().is_ok());
        assert_eq!(journal.done.len(), 0);
    }
}
