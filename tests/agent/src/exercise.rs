//! A file worked on in every way that there is, and a copy of it in memory that says what must be
//! in it: what fsx does. All steps follow from the seed, so that the file can be checked anew.

use crate::at_once::at_once;
use crate::data::Aligned;
use crate::pattern::{mix, pattern};
use crate::verbs::{Answer, Args, Error};
use rustix::fs::{FallocateFlags, OFlags, fallocate};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use serde_json::Value;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Error as IoError};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::ptr;

/// No file becomes larger.
const SIZE_MAX: usize = 2 << 20;
/// No step touches more.
const SPAN_MAX: usize = 128 << 10;
/// Of the file system.
const BLOCK: usize = 4096;

#[derive(Clone, Copy, Debug)]
enum Way {
    Write,
    /// Past the page cache.
    Direct,
    /// By way of a mapping of the file.
    Mapped,
    Truncate,
    Extend,
    PunchHole,
    ZeroRange,
    /// Blocks that are reserved and not written.
    Allocate,
    Collapse,
    Read,
    Sync,
}

const WAYS: [Way; 16] = [
    Way::Write,
    Way::Write,
    Way::Write,
    Way::Direct,
    Way::Direct,
    Way::Mapped,
    Way::Mapped,
    Way::Truncate,
    Way::Extend,
    Way::PunchHole,
    Way::ZeroRange,
    Way::Allocate,
    Way::Collapse,
    Way::Read,
    Way::Read,
    Way::Sync,
];

#[derive(Debug)]
struct Step {
    way: Way,
    span: Range<usize>,
    seed: u64,
}

impl Step {
    fn new(seed: u64) -> Self {
        let random = |n: u64, below: usize| {
            usize::try_from(mix(seed ^ mix(n))).map_or(0, |random| random % below)
        };
        let way = WAYS.get(random(1, WAYS.len())).copied().unwrap_or(Way::Read);
        let (start, length) = (random(2, SIZE_MAX - SPAN_MAX), random(3, SPAN_MAX) + 1);
        let span = match way {
            Way::Direct | Way::Collapse => {
                let start = start - start % BLOCK;
                start..start + length.next_multiple_of(BLOCK)
            }
            _ => start..start + length,
        };
        Self { way, span, seed }
    }

    fn content(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.span.len()];
        pattern(self.seed, 0, &mut bytes);
        bytes
    }

    /// What the file must be after this.
    fn apply_to(&self, model: &mut Vec<u8>) {
        let Range { start, end } = self.span;
        match self.way {
            Way::Write | Way::Direct | Way::Mapped => {
                model.resize(model.len().max(end), 0);
                if let Some(span) = model.get_mut(start..end) {
                    span.copy_from_slice(&self.content());
                }
            }
            Way::Truncate => model.truncate(start),
            Way::Extend | Way::Allocate => model.resize(model.len().max(end), 0),
            Way::ZeroRange => {
                model.resize(model.len().max(end), 0);
                if let Some(span) = model.get_mut(start..end) {
                    span.fill(0);
                }
            }
            Way::PunchHole => {
                let end = end.min(model.len());
                if let Some(span) = model.get_mut(start.min(end)..end) {
                    span.fill(0);
                }
            }
            Way::Collapse => {
                if end < model.len() {
                    model.drain(start..end);
                }
            }
            Way::Read | Way::Sync => {}
        }
    }

    fn perform(&self, path: &str, file: &File, size: usize) -> io::Result<()> {
        let (offset, length) = (self.span.start as u64, self.span.len() as u64);
        let change = |flags| fallocate(file, flags, offset, length).map_err(IoError::from);
        match self.way {
            Way::Write => file.write_all_at(&self.content(), offset),
            Way::Direct => {
                let flags = OFlags::DIRECT.bits().cast_signed();
                let mut room = Aligned::new();
                let bytes = room.bytes(self.span.len());
                bytes.copy_from_slice(&self.content());
                let direct = OpenOptions::new().write(true).custom_flags(flags).open(path)?;
                direct.write_all_at(bytes, offset)
            }
            Way::Mapped => {
                if size < self.span.end {
                    file.set_len(self.span.end as u64)?;
                }
                write_mapped(file, &self.span, &self.content())
            }
            Way::Truncate if self.span.start < size => file.set_len(offset),
            Way::Extend if self.span.end > size => file.set_len(self.span.end as u64),
            Way::PunchHole => change(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE),
            Way::ZeroRange => change(FallocateFlags::ZERO_RANGE),
            Way::Allocate => change(FallocateFlags::empty()),
            Way::Collapse if self.span.end < size => change(FallocateFlags::COLLAPSE_RANGE),
            Way::Sync => file.sync_all(),
            Way::Truncate | Way::Extend | Way::Collapse | Way::Read => Ok(()),
        }
    }
}

/// The file is as long as the span needs.
fn write_mapped(file: &File, span: &Range<usize>, bytes: &[u8]) -> io::Result<()> {
    let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
    #[expect(unsafe_code, reason = "a mapping is what is tested")]
    // SAFETY: a new mapping at a place of the kernel's choice, of a file that nobody else changes,
    // which is at least as long; it is left before it is taken away.
    unsafe {
        let start = mmap(ptr::null_mut(), span.end, protection, flags, file, 0)?;
        let area = std::slice::from_raw_parts_mut(start.cast::<u8>(), span.end);
        if let Some(area) = area.get_mut(span.clone()) {
            area.copy_from_slice(bytes);
        }
        munmap(start, span.end)?;
    }
    Ok(())
}

fn steps(seed: u64, count: u64) -> impl Iterator<Item = Step> {
    (0..count).map(move |number| Step::new(mix(seed ^ mix(number))))
}

fn same(path: &str, model: &[u8], after: &str) -> Result<(), Error> {
    let have = fs::read(path).map_err(Error::of(format!("read {path}")))?;
    if have == model {
        return Ok(());
    }
    let first = have.iter().zip(model).position(|(have, want)| have != want);
    let (have, want) = (have.len(), model.len());
    Err(Error::from(format!("{path} differs at {first:?}, {have} bytes for {want}, after {after}")))
}

fn work_on(path: &str, seed: u64, count: u64) -> Result<(), Error> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).open(path);
    let file = file.map_err(Error::of(format!("make {path}")))?;
    let mut model = Vec::new();
    for step in steps(seed, count) {
        step.perform(path, &file, model.len()).map_err(Error::of(format!("{step:?} of {path}")))?;
        step.apply_to(&mut model);
        if matches!(step.way, Way::Read) {
            same(path, &model, &format!("{step:?}"))?;
        }
    }
    Ok(())
}

fn each(args: &Args<'_>, work: impl Fn(&str, u64) -> Result<(), Error> + Sync) -> Answer {
    let (dir, seed) = (args.text("dir")?, args.number("seed")?);
    at_once(args.number("writers")?, |writer| {
        work(&format!("{dir}/{writer}"), mix(seed ^ writer))
    })?;
    Ok(Value::Null)
}

pub(crate) fn work(args: &Args<'_>) -> Answer {
    let (dir, count) = (args.text("dir")?, args.number("steps")?);
    fs::create_dir_all(dir).map_err(Error::of(format!("make {dir}")))?;
    each(args, |path, seed| work_on(path, seed, count))
}

pub(crate) fn check(args: &Args<'_>) -> Answer {
    let count = args.number("steps")?;
    each(args, |path, seed| {
        let mut model = Vec::new();
        steps(seed, count).for_each(|step| step.apply_to(&mut model));
        same(path, &model, "all")
    })
}
