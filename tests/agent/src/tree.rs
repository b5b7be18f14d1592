//! A tree of files that makes a file system work: sizes from nothing to megabytes, owners, modes,
//! attributes, links, renames and deletions; and a second layer of changes to it. It follows from
//! its seed alone, so that it can be checked after a remount.

use crate::at_once::at_once;
use crate::data::holds_pattern;
use crate::pattern::{mix, pattern};
use crate::verbs::{Answer, Args, Error};
use rustix::fs::{Mode, XattrFlags, chmod, getxattr, setxattr};
use serde_json::{Value, json};
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, chown, symlink};

const FILES_PER_DIRECTORY: u64 = 50;

const ATTRIBUTE: &str = "user.layer";

/// What is to become of one file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Stays,
    /// Made under another name in another directory.
    Moves,
    /// Made and deleted again, so that freed blocks and inodes are used anew.
    Dies,
    /// A file with a second name.
    Shared,
    /// Not a file but a symbolic link, every fifth too long to fit in its inode.
    Link,
}

/// What the second layer does to a directory.
#[derive(PartialEq, Eq)]
enum Move {
    Stays,
    /// Removed with all that is in it, and made anew.
    Anew,
    Renamed,
}

/// What the second layer does to a file.
enum Change {
    Kept,
    Removed,
    /// Another one in its place.
    Replaced,
    /// A mode more narrow.
    Restricted,
}

struct Planned {
    number: u64,
    seed: u64,
    size: u64,
    fate: Fate,
    mode: u32,
    owner: u32,
    /// Length of its extended attribute: none, one in the inode, one in a block of its own.
    attribute: usize,
    renamed: bool,
}

fn plan(files: u64, seed: u64) -> impl Iterator<Item = Planned> {
    (0..files).map(move |number| Planned::new(number, mix(seed ^ mix(number))))
}

fn moved(directory: u64) -> Move {
    match directory % 8 {
        3 => Move::Anew,
        5 => Move::Renamed,
        _ => Move::Stays,
    }
}

fn directory(dir: &str, number: u64, renamed: bool) -> String {
    format!("{dir}/{number}{}", if renamed { "-renamed" } else { "" })
}

impl Planned {
    fn new(number: u64, random: u64) -> Self {
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
            3 => Fate::Shared,
            _ => Fate::Stays,
        };
        let mode = match (random >> 12) % 8 {
            0 => 0o755,
            1 => 0o4755,
            2 => 0o2755,
            3 => 0o600,
            4 => 0o444,
            _ => 0o644,
        };
        let (owner, attribute) = match (random >> 20) % 16 {
            0 => (1000, 0),
            1 => (70_000, 20),
            2 => (0, 20),
            3 => (0, 1000),
            _ => (0, 0),
        };
        Self { number, seed: random, size, fate, mode, owner, attribute, renamed: false }
    }

    fn change(&self) -> Change {
        match (self.seed >> 24) % 8 {
            0 => Change::Removed,
            1 => Change::Replaced,
            2 => Change::Restricted,
            _ => Change::Kept,
        }
    }

    /// What is there after the second layer.
    fn changed(self) -> Self {
        let moved = moved(self.number / FILES_PER_DIRECTORY);
        let mut after = match self.change() {
            _ if moved == Move::Anew => self.replacement(),
            Change::Replaced => self.replacement(),
            Change::Removed => Self { fate: Fate::Dies, ..self },
            Change::Restricted => Self { mode: self.restricted_mode(), ..self },
            Change::Kept => self,
        };
        after.renamed = moved == Move::Renamed;
        after
    }

    fn replacement(&self) -> Self {
        Self::new(self.number, mix(self.seed))
    }

    fn restricted_mode(&self) -> u32 {
        self.mode & 0o4700
    }

    fn directory(&self, dir: &str) -> String {
        directory(dir, self.number / FILES_PER_DIRECTORY, self.renamed)
    }

    fn path(&self, dir: &str) -> String {
        format!("{}/{}", self.directory(dir), self.number)
    }

    fn second_name(&self, dir: &str) -> String {
        format!("{}-shared", self.path(dir))
    }

    fn target(&self) -> String {
        let long = if self.number.is_multiple_of(5) { "x".repeat(100) } else { String::new() };
        format!("../{}{long}", self.number)
    }

    fn attribute(&self) -> Vec<u8> {
        let mut value = vec![0; self.attribute];
        pattern(!self.seed, 0, &mut value);
        value
    }

    fn make(&self, dir: &str) -> Result<(), Error> {
        let path = self.path(dir);
        self.try_make(dir, &path).map_err(Error::of(format!("make {path}")))
    }

    fn try_make(&self, dir: &str, path: &str) -> io::Result<()> {
        if self.fate == Fate::Link {
            return symlink(self.target(), path);
        }
        let before = format!("{dir}/moving-{}", self.number);
        let first = if self.fate == Fate::Moves { &before } else { path };
        let mut content = vec![0; usize::try_from(self.size).unwrap_or_default()];
        pattern(self.seed, 0, &mut content);
        fs::write(first, content)?;
        // The mode comes last: a new owner takes set-user-ID away.
        chown(first, Some(self.owner), Some(self.owner))?;
        chmod(first, Mode::from_raw_mode(self.mode))?;
        if self.attribute > 0 {
            setxattr(first, ATTRIBUTE, &self.attribute(), XattrFlags::CREATE)?;
        }
        match self.fate {
            Fate::Moves => fs::rename(first, path),
            Fate::Dies => fs::remove_file(path),
            Fate::Shared => fs::hard_link(path, self.second_name(dir)),
            Fate::Stays | Fate::Link => Ok(()),
        }
    }

    /// What it is found under.
    fn names(&self, dir: &str) -> Vec<String> {
        match self.fate {
            Fate::Dies => vec![],
            Fate::Shared => vec![self.path(dir), self.second_name(dir)],
            Fate::Stays | Fate::Moves | Fate::Link => vec![self.path(dir)],
        }
    }

    fn remove(&self, dir: &str) -> Result<(), Error> {
        for name in self.names(dir) {
            fs::remove_file(&name).map_err(Error::of(format!("remove {name}")))?;
        }
        Ok(())
    }

    fn restrict(&self, dir: &str) -> Result<(), Error> {
        if self.fate == Fate::Link {
            return Ok(());
        }
        // An overlay that copies a file of a lower layer up copies one of its names.
        for name in self.names(dir) {
            chmod(&name, Mode::from_raw_mode(self.restricted_mode()))
                .map_err(Error::of(format!("change the mode of {name}")))?;
        }
        Ok(())
    }

    fn is_there(&self, dir: &str) -> Result<bool, Error> {
        let names = self.names(dir);
        for name in [self.path(dir), self.second_name(dir)] {
            let there = fs::symlink_metadata(&name).is_ok();
            if there != names.contains(&name) || (there && !self.holds(&name)?) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a link has its target, and a file the content and the metadata that it was given.
    fn holds(&self, path: &str) -> Result<bool, Error> {
        if self.fate == Fate::Link {
            let target = fs::read_link(path).map_err(Error::of(format!("read link {path}")))?;
            return Ok(target.as_os_str() == self.target().as_str());
        }
        let meta = fs::symlink_metadata(path).map_err(Error::of(format!("stat {path}")))?;
        let mut attribute = vec![0; 4096];
        let length = match getxattr(path, ATTRIBUTE, &mut attribute) {
            Err(rustix::io::Errno::NODATA) => 0,
            found => found.map_err(Error::of(format!("read the attribute of {path}")))?,
        };
        attribute.truncate(length);
        Ok(meta.mode() & 0o7777 == self.mode
            && [meta.uid(), meta.gid()] == [self.owner; 2]
            && attribute == self.attribute()
            && holds_pattern(path, self.seed, self.size)?)
    }
}

fn fill_tree(dir: &str, files: u64, seed: u64) -> Result<u64, Error> {
    let mut bytes = 0_u64;
    for entry in plan(files, seed) {
        let parent = entry.directory(dir);
        fs::create_dir_all(&parent).map_err(Error::of(format!("make directory {parent}")))?;
        entry.make(dir)?;
        bytes += entry.size;
    }
    Ok(bytes)
}

pub(crate) fn fill(args: &Args<'_>) -> Answer {
    let files = args.number("files")?;
    let bytes = fill_tree(args.text("dir")?, files, args.number("seed")?)?;
    Ok(json!({ "files": files, "bytes": bytes }))
}

/// What is done to each of several trees at the same time. The seeds follow each other.
fn each_tree<T: Send>(
    args: &Args<'_>,
    work: impl Fn(&str, u64, u64) -> Result<T, Error> + Sync,
) -> Answer {
    let (dir, files, seed) = (args.text("dir")?, args.number("files")?, args.number("seed")?);
    at_once(args.number("trees")?, |tree| work(&format!("{dir}/{tree}"), files, seed + tree))?;
    Ok(Value::Null)
}

pub(crate) fn fill_at_once(args: &Args<'_>) -> Answer {
    each_tree(args, fill_tree)
}

pub(crate) fn check_at_once(args: &Args<'_>) -> Answer {
    each_tree(args, |dir, files, seed| check_tree(dir, files, seed, false))
}

/// Changes a tree of `fill` as the second layer of an image does: removes, replaces and restricts
/// files, makes directories anew and renames others.
pub(crate) fn alter(args: &Args<'_>) -> Answer {
    let (dir, files, seed) = (args.text("dir")?, args.number("files")?, args.number("seed")?);
    let directories = || 0..files.div_ceil(FILES_PER_DIRECTORY);
    for number in directories().filter(|number| moved(*number) == Move::Anew) {
        let path = directory(dir, number, false);
        fs::remove_dir_all(&path)
            .and_then(|()| fs::create_dir(&path))
            .map_err(Error::of(format!("make {path} anew")))?;
    }
    for entry in plan(files, seed) {
        match entry.change() {
            _ if moved(entry.number / FILES_PER_DIRECTORY) == Move::Anew => {
                entry.replacement().make(dir)?;
            }
            Change::Removed => entry.remove(dir)?,
            Change::Replaced => {
                entry.remove(dir)?;
                entry.replacement().make(dir)?;
            }
            Change::Restricted => entry.restrict(dir)?,
            Change::Kept => {}
        }
    }
    for number in directories().filter(|number| moved(*number) == Move::Renamed) {
        let [from, to] = [false, true].map(|renamed| directory(dir, number, renamed));
        fs::rename(&from, &to).map_err(Error::of(format!("rename {from}")))?;
    }
    Ok(Value::Null)
}

fn check_tree(dir: &str, files: u64, seed: u64, altered: bool) -> Result<u64, Error> {
    let mut bytes = 0_u64;
    for entry in plan(files, seed) {
        let entry = if altered { entry.changed() } else { entry };
        if !entry.is_there(dir)? {
            return Err(Error::from(format!("{} is not what was written", entry.path(dir))));
        }
        bytes += entry.size;
    }
    Ok(bytes)
}

pub(crate) fn check(args: &Args<'_>) -> Answer {
    let files = args.number("files")?;
    let (dir, seed, altered) = (args.text("dir")?, args.number("seed")?, args.flag("altered"));
    let bytes = check_tree(dir, files, seed, altered)?;
    Ok(json!({ "files": files, "bytes": bytes }))
}
