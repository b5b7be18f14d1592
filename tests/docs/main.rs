//! The documents: what they link to is there, what they name is so, and a newcomer finds them all.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod commands;
mod facts;
mod links;
mod page;
#[path = "../script/mod.rs"]
mod script;
