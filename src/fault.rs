//! Faults on demand. Only builds with the cargo feature `fault`, which are for tests, have this.
//!
//! What a test asks for stands in PID 1's environment: the kernel hands a word `NAME=value` of its
//! command line that it does not know itself to init, before any file system is mounted.
//!
//! | variable | meaning |
//! |---|---|
//! | `CVM_FAULT="KIND:ID#N"` | what happens in place of the N-th effect (from 1) of this identifier |
//! | `CVM_FAULT=ask` | the same, as it is typed on the console, which is waited for first of all: a machine that was kept there can be asked for any fault |
//! | `CVM_TEST_KEY=fixed` | the volume key is the one of [`fixed_key`] |
//!
//! What happens is told in lines that begin with [`MARK`]: `STAGE name` as a stage begins,
//! `EFFECT file:line #N ID: doing` before each effect, `INJECT KIND` when the fault
//! strikes.

use std::collections::BTreeMap;
use std::env;
use std::fmt::Display;
use std::io::{self, Write};
use std::panic::Location;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

use sha2::digest::Output;
use sha2::{Digest, Sha256};

use crate::effect::Name;
use crate::effect::hook::{self, Fault};
use crate::kernel::{key, kmsg};

/// What every line of a fault build begins with, and no line of another.
pub const MARK: &str = "fault build: ";

/// Hashed for the blocks of the fixed key.
const KEY_LABEL: &[u8] = b"cvm-init volume key for tests";

/// What happens in place of an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// An error is returned.
    Return(Fault),
    /// The program panics.
    Panic,
    /// Nothing ever returns.
    Stall,
}

const KINDS: &[(&str, Kind)] = &[
    ("fail", Kind::Return(Fault::Fail)),
    ("late", Kind::Return(Fault::Late)),
    ("panic", Kind::Panic),
    ("stall", Kind::Stall),
];

/// Writes a line that a test reads.
pub fn tell(what: &dyn Display) {
    kmsg::tell(&format!("{MARK}{what}"));
}

/// Has each effect from now on announce itself, and fail where `CVM_FAULT` asks for it.
pub fn install() {
    wanted();
    hook::set(inject);
}

/// `KIND:ID#N`.
fn wanted() -> Option<&'static str> {
    static WANTED: OnceLock<Option<String>> = OnceLock::new();
    let find = || match env::var("CVM_FAULT").ok()? {
        ask if ask == "ask" => read_line().ok(),
        fault => Some(fault),
    };
    WANTED.get_or_init(find).as_deref()
}

/// What is typed. The kernel has opened the console as the standard streams.
fn read_line() -> io::Result<String> {
    writeln!(io::stdout(), "{MARK}ASK")?;
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

/// Announces the effect of this name and says what comes of it, unless it panics or never returns.
fn inject(Name { id, doing }: &Name, caller: &Location<'_>) -> Option<Fault> {
    let number = count(id);
    tell(&format_args!("EFFECT {}:{} #{number} {id}: {doing}", caller.file(), caller.line()));
    let (name, kind) = asked(id, number)?;
    tell(&format_args!("INJECT {name}"));
    match kind {
        Kind::Return(fault) => Some(fault),
        #[expect(clippy::panic, reason = "this is what is asked for")]
        Kind::Panic => panic!("injected panic"),
        Kind::Stall => loop {
            thread::park();
        },
    }
}

/// How many effects of this identifier there are now.
fn count(id: &str) -> usize {
    static COUNTS: Mutex<BTreeMap<String, usize>> = Mutex::new(BTreeMap::new());
    let mut counts = COUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    let count = counts.entry(id.to_owned()).or_default();
    *count += 1;
    *count
}

/// The fault that `CVM_FAULT` asks for, if it is for this effect.
fn asked(id: &str, number: usize) -> Option<(&'static str, Kind)> {
    let (kind, point) = wanted()?.split_once(':')?;
    if point != format!("{id}#{number}") {
        return None;
    }
    KINDS.iter().find(|(name, _)| *name == kind).copied()
}

/// Fills the volume key: at random, or as `CVM_TEST_KEY` asks.
///
/// # Errors
/// Those of [`key::random`].
pub fn fill_key(key: &mut [u8]) -> io::Result<Option<&'static str>> {
    if env::var("CVM_TEST_KEY").is_ok_and(|value| value == "fixed") {
        fixed_key(key);
        return Ok(None);
    }
    key::random(key)
}

/// The key that a test can find again: block after block of 32 bytes, each the SHA-256 of the text
/// `cvm-init volume key for tests` and one byte, the number of the block from 0. It is made where
/// it stays, so that no other copy of it is.
pub fn fixed_key(key: &mut [u8]) {
    for (block, number) in key.chunks_exact_mut(32).zip(0_u8..) {
        if let Ok(block) = <&mut Output<Sha256>>::try_from(block) {
            Sha256::new().chain_update(KEY_LABEL).chain_update([number]).finalize_into(block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effect::{Effect, effect};
    use crate::format::hex;
    use std::cell::Cell;

    /// As one that strikes by the identifier, where this file calls for the effect.
    fn by_id(name: &Name, caller: &Location<'_>) -> Option<Fault> {
        match name.id.as_str() {
            _ if caller.file() != file!() => None,
            "fail" => Some(Fault::Fail),
            "late" => Some(Fault::Late),
            _ => None,
        }
    }

    #[test]
    fn an_effect_that_fails_is_not_done_or_is_done_before() {
        hook::set(by_id);
        let done = Cell::new(0);
        let outcome = |step: Effect<0>| {
            let act = || Ok::<_, String>(done.replace(done.get() + 1));
            effect(step, act).map_err(|error| error.to_string())
        };
        assert_eq!(outcome(Effect::new("succeed", "succeed here")), Ok(0));
        assert_eq!(done.get(), 1);
        assert_eq!(
            outcome(Effect::new("fail", "fail here")),
            Err("cannot fail here: injected error".to_owned())
        );
        assert_eq!(done.get(), 1);
        let late = "cannot fail late here: injected error".to_owned();
        assert_eq!(outcome(Effect::new("late", "fail late here")), Err(late));
        assert_eq!(done.get(), 2);
    }

    /// `printf 'cvm-init volume key for tests\0' | sha256sum`
    #[test]
    fn the_fixed_key_is_the_hash_of_its_label() {
        let mut key = [0; 32];
        fixed_key(&mut key);
        assert_eq!(
            hex::encode(&key),
            "16424a500730dc462a26f80faea1b2a17c609b08ffdae58c05cee2430004ec09"
        );
    }
}
