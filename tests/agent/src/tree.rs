//! A tree of files that makes a file system work: sizes from nothing to megabytes, links, renames
//! and deletions. It follows from its seed alone, so that it can be checked after a remount.

use crate::data::holds_pattern;
use crate::pattern::{mix, pattern};
use crate::verbs::{Answer, Args, Error};
use serde_json::json;
use std::fs;
use std::os::unix::fs::symlink;

const FILES_PER_DIRECTORY: u64 = 50;

/// What is to become of one file.
enum Fate {
    Stays,
    /// Made under another name in another directory.
    Moves,
    /// Made and deleted again, so that freed blocks and inodes are used anew.
    Dies,
    /// Not a file but a symbolic link, every fifth too long to fit in its inode.
    Link,
}

struct Planned {
    number: u64,
    seed: u64,
    size: u64,
    fate: Fate,
}

fn plan(files: u64, seed: u64) -> impl Iterator<Item = Planned> {
    (0..files).map(move |number| {
        let random = mix(seed ^ mix(number));
        let size = match random % 64 {
            0 => random >> 44,     // up to 1 MiB
            1..=7 => random >> 47, // up to 128 KiB
            8..=11 => 0,
            _ => random >> 51, // up to 8 KiB
        };
        let fate = match (random >> 8) % 16 {
            0 => Fate::Link,
            1 => Fate::Moves,
            2 => Fate::Dies,
            _ => Fate::Stays,
        };
        Planned { number, seed: random, size, fate }
    })
}

impl Planned {
    fn directory(&self, dir: &str) -> String {
        format!("{dir}/{}", self.number / FILES_PER_DIRECTORY)
    }

    fn path(&self, dir: &str) -> String {
        format!("{}/{}", self.directory(dir), self.number)
    }

    fn target(&self) -> String {
        let long = if self.number.is_multiple_of(5) { "x".repeat(100) } else { String::new() };
        format!("../{}{long}", self.number)
    }
}

pub(crate) fn fill(args: &Args<'_>) -> Answer {
    let dir = args.text("dir")?;
    let (mut files, mut bytes) = (0_u64, 0_u64);
    for entry in plan(args.number("files")?, args.number("seed")?) {
        let path = entry.path(dir);
        let before = format!("{dir}/moving-{}", entry.number);
        let mut content = vec![0; usize::try_from(entry.size).unwrap_or_default()];
        pattern(entry.seed, 0, &mut content);
        fs::create_dir_all(entry.directory(dir))
            .and_then(|()| match entry.fate {
                Fate::Stays => fs::write(&path, content),
                Fate::Moves => {
                    fs::write(&before, content).and_then(|()| fs::rename(&before, &path))
                }
                Fate::Dies => fs::write(&path, content).and_then(|()| fs::remove_file(&path)),
                Fate::Link => symlink(entry.target(), &path),
            })
            .map_err(Error::of(format!("make {path}")))?;
        files += 1;
        bytes += entry.size;
    }
    Ok(json!({ "files": files, "bytes": bytes }))
}

pub(crate) fn check(args: &Args<'_>) -> Answer {
    let dir = args.text("dir")?;
    let (mut files, mut bytes) = (0_u64, 0_u64);
    for entry in plan(args.number("files")?, args.number("seed")?) {
        let path = entry.path(dir);
        let as_planned = match entry.fate {
            Fate::Stays | Fate::Moves => holds_pattern(&path, entry.seed, entry.size)?,
            Fate::Dies => fs::symlink_metadata(&path).is_err(),
            Fate::Link => {
                let target =
                    fs::read_link(&path).map_err(Error::of(format!("read link {path}")))?;
                target.as_os_str() == entry.target().as_str()
            }
        };
        if !as_planned {
            return Err(Error::from(format!("{path} is not what was written")));
        }
        files += 1;
        bytes += entry.size;
    }
    Ok(json!({ "files": files, "bytes": bytes }))
}
