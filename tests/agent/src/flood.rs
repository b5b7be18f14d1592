//! Files without end, made by several threads in the same directories, until there are enough or the
//! file system or the memory is full.

use crate::at_once::at_once;
use crate::data::holds_pattern;
use crate::pattern::{mix, pattern};
use crate::verbs::{Answer, Args, Error};
use rustix::io::Errno;
use serde_json::json;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::sync::atomic::{AtomicI32, Ordering};

/// What is not a failure but the end.
const FULL: [Errno; 2] = [Errno::NOSPC, Errno::NOMEM];

struct Flood<'a> {
    dir: &'a str,
    writers: u64,
    /// At most, of each writer.
    files: u64,
    /// Files of one writer in a directory.
    a_directory: u64,
    /// Of each file, in bytes.
    size: u64,
    seed: u64,
}

impl<'a> Flood<'a> {
    fn from(args: &Args<'a>) -> Result<Self, Error> {
        let number = |name| args.number(name);
        Ok(Self {
            dir: args.text("dir")?,
            writers: number("writers")?,
            files: number("files")?,
            a_directory: number("a_directory")?.max(1),
            size: number("size")?,
            seed: number("seed")?,
        })
    }

    fn directory(&self, number: u64) -> String {
        format!("{}/{}", self.dir, number / self.a_directory)
    }

    fn path(&self, writer: u64, number: u64) -> String {
        format!("{}/{writer}-{number}", self.directory(number))
    }

    fn content_seed(&self, writer: u64, number: u64) -> u64 {
        mix(self.seed ^ mix(mix(writer) ^ number))
    }

    /// A file that could not be written whole is removed again.
    fn make(&self, writer: u64, number: u64) -> io::Result<()> {
        if number.is_multiple_of(self.a_directory) {
            // Another writer may have been here before.
            fs::create_dir_all(self.directory(number))?;
        }
        let path = self.path(writer, number);
        let mut content = vec![0; usize::try_from(self.size).unwrap_or_default()];
        pattern(self.content_seed(writer, number), 0, &mut content);
        let mut file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        file.write_all(&content).inspect_err(|_| {
            let _ = fs::remove_file(&path);
        })
    }
}

pub(crate) fn make(args: &Args<'_>) -> Answer {
    let flood = Flood::from(args)?;
    fs::create_dir_all(flood.dir).map_err(Error::of(format!("make {}", flood.dir)))?;
    let ended_with = AtomicI32::new(0);
    let made = at_once(flood.writers, |writer| {
        for number in 0..flood.files {
            let Err(error) = flood.make(writer, number) else { continue };
            let errno = error.raw_os_error().unwrap_or_default();
            if !FULL.iter().any(|full| full.raw_os_error() == errno) {
                return Err(Error::of(format!("make {}", flood.path(writer, number)))(error));
            }
            ended_with.store(errno, Ordering::Relaxed);
            return Ok(number);
        }
        Ok(flood.files)
    })?;
    Ok(json!({ "made": made, "errno": ended_with.into_inner() }))
}

/// Also told how many each writer has `made`: those are there, and no others.
pub(crate) fn check(args: &Args<'_>) -> Answer {
    let flood = Flood::from(args)?;
    let made: Vec<_> = args.numbers("made")?.collect();
    at_once(flood.writers, |writer| {
        let index = usize::try_from(writer).unwrap_or(usize::MAX);
        for number in 0..made.get(index).copied().unwrap_or_default() {
            let path = flood.path(writer, number);
            if !holds_pattern(&path, flood.content_seed(writer, number), flood.size)? {
                return Err(Error::from(format!("{path} is not what was written")));
            }
        }
        Ok(())
    })?;
    let (mut found, wanted) = (0, made.iter().sum::<u64>());
    let list = |path: &str| fs::read_dir(path).map_err(Error::of(format!("list {path}")));
    for directory in list(flood.dir)? {
        let directory = directory.map_err(Error::of(format!("list {}", flood.dir)))?;
        found += list(&directory.path().to_string_lossy())?.count() as u64;
    }
    if found == wanted {
        return Ok(json!(found));
    }
    Err(Error::from(format!("{} has {found} files and not {wanted}", flood.dir)))
}
