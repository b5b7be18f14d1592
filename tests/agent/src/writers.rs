//! Many writers at once, each in a directory of its own: what a container engine does that unpacks
//! layers in parallel, and what one writer never shows. What they make follows from the seed alone,
//! so that it can be checked after the caches are dropped.

use crate::at_once::at_once;
use crate::data::holds_pattern;
use crate::pattern::{mix, pattern};
use crate::verbs::{Answer, Args, Error};
use serde_json::json;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};

/// What becomes of the file that a writer puts beside a new directory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Stays,
    /// Into the directory.
    Moves,
    /// Over the file in the directory.
    Replaces,
    /// So that freed inodes and blocks are used anew, maybe by another writer.
    Dies,
}

/// One directory with a file in it and a file beside it.
struct Piece {
    directory: String,
    inner: String,
    beside: String,
    /// Of [`Self::inner`] and [`Self::beside`]: seed and size of their content.
    contents: [(u64, u64); 2],
    fate: Fate,
}

fn size(random: u64) -> u64 {
    match random % 256 {
        0 => random >> 44,      // up to 1 MiB
        1..=16 => random >> 47, // up to 128 KiB
        17..=48 => 0,
        _ => random >> 51, // up to 8 KiB
    }
}

impl Piece {
    fn new(place: &str, number: u64, seed: u64) -> Self {
        let seeds = [mix(seed ^ mix(2 * number)), mix(seed ^ mix(2 * number + 1))];
        let fate = match (seeds[0] >> 8) % 8 {
            0 => Fate::Moves,
            1 => Fate::Replaces,
            2 => Fate::Dies,
            _ => Fate::Stays,
        };
        Self {
            directory: format!("{place}/d{number}"),
            inner: format!("{place}/d{number}/f"),
            beside: format!("{place}/f{number}"),
            contents: seeds.map(|seed| (seed, size(seed))),
            fate,
        }
    }

    /// Where a file is moved to.
    fn moved(&self) -> String {
        format!("{}/moved", self.directory)
    }

    fn make(&self) -> Result<(), Error> {
        let directory = &self.directory;
        fs::create_dir(directory).map_err(Error::of(format!("make {directory}")))?;
        for (path, content) in [&self.inner, &self.beside].into_iter().zip(self.contents) {
            make_file(path, content).map_err(Error::of(format!("make {path}")))?;
        }
        match self.fate {
            Fate::Stays => Ok(()),
            Fate::Moves => fs::rename(&self.beside, self.moved()),
            Fate::Replaces => fs::rename(&self.beside, &self.inner),
            Fate::Dies => fs::remove_file(&self.beside),
        }
        .map_err(Error::of(format!("move or remove {}", self.beside)))
    }

    /// The files that are there in the end, with their content.
    fn left(&self) -> Vec<(String, (u64, u64))> {
        let [inner, beside] = self.contents;
        match self.fate {
            Fate::Stays => vec![(self.inner.clone(), inner), (self.beside.clone(), beside)],
            Fate::Moves => vec![(self.inner.clone(), inner), (self.moved(), beside)],
            Fate::Replaces => vec![(self.inner.clone(), beside)],
            Fate::Dies => vec![(self.inner.clone(), inner)],
        }
    }

    fn check(&self) -> Result<(), Error> {
        for (path, (seed, size)) in self.left() {
            if !holds_pattern(&path, seed, size)? {
                return Err(Error::from(format!("{path} is not what was written")));
            }
        }
        let directory = &self.directory;
        let inside = entries(directory)?;
        let wanted = if self.fate == Fate::Moves { 2 } else { 1 };
        if inside == wanted {
            return Ok(());
        }
        Err(Error::from(format!("{directory} has {inside} entries and not {wanted}")))
    }
}

fn make_file(path: &str, (seed, size): (u64, u64)) -> io::Result<()> {
    let mut content = vec![0; usize::try_from(size).unwrap_or_default()];
    pattern(seed, 0, &mut content);
    OpenOptions::new().write(true).create_new(true).open(path)?.write_all(&content)
}

fn entries(directory: &str) -> Result<usize, Error> {
    let list = fs::read_dir(directory).map_err(Error::of(format!("list {directory}")))?;
    Ok(list.count())
}

/// What all verbs here are told: `writers` in `dir`, each with so many `pieces`.
struct Crowd<'a> {
    dir: &'a str,
    writers: u64,
    pieces: u64,
    seed: u64,
}

impl<'a> Crowd<'a> {
    fn from(args: &Args<'a>) -> Result<Self, Error> {
        let number = |name| args.number(name);
        let (writers, pieces, seed) = (number("writers")?, number("pieces")?, number("seed")?);
        Ok(Self { dir: args.text("dir")?, writers, pieces, seed })
    }

    fn place(&self, writer: u64) -> String {
        format!("{}/{writer}", self.dir)
    }

    fn pieces(&self, writer: u64) -> impl Iterator<Item = Piece> {
        let place = self.place(writer);
        let seed = mix(self.seed ^ mix(writer));
        (0..self.pieces).map(move |number| Piece::new(&place, number, seed))
    }

    fn at_once(&self, work: impl Fn(u64) -> Result<(), Error> + Sync) -> Answer {
        at_once(self.writers, work)?;
        Ok(json!({ "files": self.files() }))
    }

    /// Files that are there in the end.
    fn files(&self) -> usize {
        (0..self.writers).flat_map(|writer| self.pieces(writer)).map(|it| it.left().len()).sum()
    }
}

pub(crate) fn write(args: &Args<'_>) -> Answer {
    let crowd = Crowd::from(args)?;
    fs::create_dir_all(crowd.dir).map_err(Error::of(format!("make {}", crowd.dir)))?;
    crowd.at_once(|writer| {
        let place = crowd.place(writer);
        fs::create_dir(&place).map_err(Error::of(format!("make {place}")))?;
        crowd.pieces(writer).try_for_each(|piece| piece.make())
    })
}

pub(crate) fn check(args: &Args<'_>) -> Answer {
    let crowd = Crowd::from(args)?;
    crowd.at_once(|writer| {
        let place = crowd.place(writer);
        let (mut wanted, found) = (0, entries(&place)?);
        for piece in crowd.pieces(writer) {
            piece.check()?;
            wanted += if piece.fate == Fate::Stays { 2 } else { 1 };
        }
        if found == wanted {
            return Ok(());
        }
        Err(Error::from(format!("{place} has {found} entries and not {wanted}")))
    })
}

/// Removes what they have made, all at the same time too.
pub(crate) fn remove(args: &Args<'_>) -> Answer {
    let crowd = Crowd::from(args)?;
    crowd.at_once(|writer| {
        let place = crowd.place(writer);
        fs::remove_dir_all(&place).map_err(Error::of(format!("remove {place}")))
    })
}
