//! The table of verbs, their arguments and their errors.

use crate::{
    data, exercise, facts, flood, kernel, memory, process, renames, rootfs, tree, writers,
};
use serde_json::Value;
use std::fmt::Display;
use std::io;

/// What a failed verb answers.
#[derive(Debug)]
pub(crate) struct Error {
    /// The system call's error number, when a system call failed.
    pub(crate) errno: Option<i32>,
    pub(crate) message: String,
}

pub(crate) type Answer = Result<Value, Error>;

impl From<String> for Error {
    fn from(message: String) -> Self {
        Self { errno: None, message }
    }
}

impl Error {
    /// `cannot VERB OBJECT: cause`, with the cause's error number.
    pub(crate) fn of<E: Into<io::Error>>(what: impl Display) -> impl FnOnce(E) -> Self {
        move |cause| {
            let cause = cause.into();
            Self { errno: cause.raw_os_error(), message: format!("cannot {what}: {cause}") }
        }
    }
}

/// The arguments of one request.
pub(crate) struct Args<'a>(&'a Value);

impl<'a> Args<'a> {
    pub(crate) fn text(&self, name: &str) -> Result<&'a str, Error> {
        self.0.get(name).and_then(Value::as_str).ok_or_else(|| missing(name, "string"))
    }

    pub(crate) fn number(&self, name: &str) -> Result<u64, Error> {
        self.0.get(name).and_then(Value::as_u64).ok_or_else(|| missing(name, "number"))
    }

    pub(crate) fn numbers(&self, name: &str) -> Result<impl Iterator<Item = u64>, Error> {
        let list =
            self.0.get(name).and_then(Value::as_array).ok_or_else(|| missing(name, "list"))?;
        Ok(list.iter().filter_map(Value::as_u64))
    }

    /// An absent flag is false.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.0.get(name).and_then(Value::as_bool).unwrap_or(false)
    }
}

fn missing(name: &str, kind: &str) -> Error {
    Error::from(format!("the request has no {kind} \"{name}\""))
}

type Verb = fn(&Args<'_>) -> Answer;

/// Every verb, with the arguments it takes.
const VERBS: &[(&str, Verb)] = &[
    ("read", facts::read),                  // path -> text
    ("list", facts::list),                  // path -> [name], sorted
    ("stat", facts::stat),                  // path -> {type, mode, uid, ...}, links not followed
    ("mounts", facts::mounts),              // -> [{id, parent, target, ...}], in mount order
    ("statfs", facts::statfs),              // path -> {type, bsize, blocks, ...}
    ("kmsg", facts::kmsg),                  // -> [{level, text}], all since boot
    ("dm", facts::dm),                      // -> [{name, uuid, kind, table, status, ...}]
    ("claim", facts::claim),                // name of a disk, which nobody may be using
    ("keys", facts::keys),                  // -> the text of /proc/keys
    ("rootfs", rootfs::entries), // -> {type, entries: [{path, type, size}]}, left of the initramfs
    ("write", data::write),      // path, text
    ("hold", data::hold),        // path: opened, and kept open for good
    ("flush", data::flush),      // path of a device: what it was given goes to the disk
    ("mkdir", data::mkdir),      // path, parents too
    ("remove", data::remove),    // path of a file
    ("rename", data::rename),    // from, to
    ("pattern_write", data::pattern_write), // path, offset, bytes, seed, direct
    ("pattern_read", data::pattern_read), // the same -> the first offset that differs, or null
    ("bytes", data::bytes),      // path, offset, bytes or all -> hexadecimal text
    // path and with, two devices -> {unreadable, differing}: numbers of blocks of 4096 bytes
    ("compare", data::compare),
    ("fill", tree::fill),                 // dir, files, seed -> {files, bytes}
    ("alter", tree::alter),               // the same: as a second layer of an image changes it
    ("fills", tree::fill_at_once),        // dir, trees, files, seed: so many of fill, all at once
    ("fills_check", tree::check_at_once), // the same
    ("fill_check", tree::check),          // the same, altered -> {files, bytes}
    // dir, writers, pieces, seed: each writer makes so many directories with files, all at once
    ("writers", writers::write), // -> {files}
    ("writers_check", writers::check),
    ("writers_remove", writers::remove),
    // dir, writers, files, a_directory, size, seed: each writer at most so many files, until all is full
    ("flood", flood::make),        // -> {made: [files], errno}
    ("flood_check", flood::check), // the same and made -> files
    ("exercise", exercise::work),  // dir, writers, steps, seed: each works on a file in every way
    ("exercise_check", exercise::check),
    ("rename_storm", renames::storm), // dir, writers, steps, seed
    ("rename_check", renames::check), // dir -> files
    ("sync", kernel::sync),
    ("drop_caches", kernel::drop_caches), // writes back, then drops page, dentry and inode caches
    ("mount", kernel::mount),             // source, target, fstype, options
    ("umount", kernel::umount),           // target
    ("pages", memory::pages),             // frames -> [flags]
    ("plant", memory::plant),             // seed, bytes, pages -> the bytes, now in each page
    ("unplant", memory::unplant),         // frees those pages as they are
    ("run", process::run),                // command -> {status, stdout, stderr}
    ("poweroff", kernel::power_off),      // does not answer
];

pub(crate) fn perform(request: &Value) -> Answer {
    let args = Args(request);
    let name = args.text("do")?;
    match VERBS.iter().find(|(verb, _)| *verb == name) {
        Some((_, verb)) => verb(&args),
        None => Err(Error::from(format!("no verb \"{name}\""))),
    }
}
