//! Verbs that write and check bytes.

use crate::pattern::pattern;
use crate::verbs::{Answer, Args, Error};
use cvm_init::format::hex;
use rustix::fs::OFlags;
use serde_json::{Value, json};
use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

/// Direct I/O wants the memory aligned as the device's blocks are; a page suits them all.
const ALIGNMENT: usize = 4096;
/// Bytes a call: large enough to be quick, small enough that a mismatch shows early.
const CHUNK: usize = 1 << 20;

pub(crate) fn write(args: &Args<'_>) -> Answer {
    let path = args.text("path")?;
    fs::write(path, args.text("text")?).map_err(Error::of(format!("write {path}")))?;
    Ok(Value::Null)
}

/// A terminal takes input only while somebody has it open.
pub(crate) fn hold(args: &Args<'_>) -> Answer {
    let path = args.text("path")?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlags::NOCTTY.bits().cast_signed())
        .open(path)
        .map_err(Error::of(format!("open {path}")))?;
    std::mem::forget(file);
    Ok(Value::Null)
}

pub(crate) fn remove(args: &Args<'_>) -> Answer {
    let path = args.text("path")?;
    fs::remove_file(path).map_err(Error::of(format!("remove {path}")))?;
    Ok(Value::Null)
}

pub(crate) fn rename(args: &Args<'_>) -> Answer {
    let (from, to) = (args.text("from")?, args.text("to")?);
    fs::rename(from, to).map_err(Error::of(format!("rename {from} to {to}")))?;
    Ok(Value::Null)
}

pub(crate) fn mkdir(args: &Args<'_>) -> Answer {
    let path = args.text("path")?;
    fs::create_dir_all(path).map_err(Error::of(format!("make directory {path}")))?;
    Ok(Value::Null)
}

/// A buffer whose first byte is aligned: part of a vector with room to shift.
pub(crate) struct Aligned {
    room: Vec<u8>,
    start: usize,
}

impl Aligned {
    pub(crate) fn new() -> Self {
        let room = vec![0; CHUNK + ALIGNMENT];
        let start = room.as_ptr().align_offset(ALIGNMENT);
        Self { room, start }
    }

    pub(crate) fn bytes(&mut self, length: usize) -> &mut [u8] {
        self.room.get_mut(self.start..self.start + length).unwrap_or_default()
    }
}

/// Has a device write what it still keeps, and what lies below it.
pub(crate) fn flush(args: &Args<'_>) -> Answer {
    let path = args.text("path")?;
    fs::File::open(path)
        .and_then(|device| device.sync_all())
        .map_err(Error::of(format!("flush {path}")))?;
    Ok(Value::Null)
}

/// What both pattern verbs are told: `bytes` from `offset` on of the file or device at `path`.
struct Span<'a> {
    path: &'a str,
    offset: u64,
    bytes: u64,
    seed: u64,
    flags: OFlags,
}

impl<'a> Span<'a> {
    fn from(args: &Args<'a>) -> Result<Self, Error> {
        Ok(Self {
            path: args.text("path")?,
            offset: args.number("offset")?,
            bytes: args.number("bytes")?,
            seed: args.number("seed")?,
            flags: if args.flag("direct") { OFlags::DIRECT } else { OFlags::empty() },
        })
    }

    /// Offset and length of each chunk.
    fn chunks(&self) -> impl Iterator<Item = (u64, usize)> {
        let end = self.offset.saturating_add(self.bytes);
        (self.offset..end)
            .step_by(CHUNK)
            .map(move |at| (at, usize::try_from(end - at).map_or(CHUNK, |left| left.min(CHUNK))))
    }

    fn open(&self, options: &mut OpenOptions) -> Result<fs::File, Error> {
        options
            .custom_flags(self.flags.bits().cast_signed())
            .open(self.path)
            .map_err(Error::of(format!("open {}", self.path)))
    }
}

pub(crate) fn pattern_write(args: &Args<'_>) -> Answer {
    let span = Span::from(args)?;
    let file = span.open(OpenOptions::new().write(true).create(true).truncate(false))?;
    let mut buffer = Aligned::new();
    for (at, length) in span.chunks() {
        let bytes = buffer.bytes(length);
        pattern(span.seed, at, bytes);
        file.write_all_at(bytes, at).map_err(Error::of(format!("write {} at {at}", span.path)))?;
    }
    file.sync_all().map_err(Error::of(format!("sync {}", span.path)))?;
    Ok(Value::Null)
}

pub(crate) fn pattern_read(args: &Args<'_>) -> Answer {
    let span = Span::from(args)?;
    let file = span.open(OpenOptions::new().read(true))?;
    let (mut buffer, mut wanted) = (Aligned::new(), Vec::new());
    for (at, length) in span.chunks() {
        let found = buffer.bytes(length);
        file.read_exact_at(found, at).map_err(Error::of(format!("read {} at {at}", span.path)))?;
        wanted.resize(length, 0);
        pattern(span.seed, at, &mut wanted);
        if *found == *wanted {
            continue;
        }
        if let Some(first) = found.iter().zip(&wanted).position(|(have, want)| have != want) {
            return Ok(json!(at + first as u64));
        }
    }
    Ok(Value::Null)
}

/// What a file or device holds, by way of the page cache.
pub(crate) fn bytes(args: &Args<'_>) -> Answer {
    let path = args.text("path")?;
    // Of many a file of the kernel's nobody knows how long it is.
    let found = match args.number("bytes") {
        Err(_) => fs::read(path).map_err(Error::of(format!("read {path}")))?,
        Ok(length) => {
            let offset = args.number("offset")?;
            let mut found = vec![0; usize::try_from(length).unwrap_or_default()];
            fs::File::open(path)
                .and_then(|file| file.read_exact_at(&mut found, offset))
                .map_err(Error::of(format!("read {path} at {offset}")))?;
            found
        }
    };
    Ok(json!(hex::encode(&found)))
}

/// Reads a device block by block, past every cache, and holds it against another one: which blocks
/// cannot be read, and which say something else.
pub(crate) fn compare(args: &Args<'_>) -> Answer {
    let open = |name: &str| {
        let path = args.text(name)?;
        let flags = OFlags::DIRECT.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
        file.map_err(Error::of(format!("open {path}")))
    };
    let (device, original) = (open("path")?, open("with")?);
    let (mut have, mut want) = (Aligned::new(), Aligned::new());
    let (mut unreadable, mut differing) = (Vec::new(), Vec::new());
    let end = (&original).seek(SeekFrom::End(0)).map_err(Error::of("find the original's end"))?;
    let (mut at, block) = (0, ALIGNMENT as u64);
    while at < end {
        let length = usize::try_from(end - at).map_or(CHUNK, |left| left.min(CHUNK));
        let want = want.bytes(length);
        original.read_exact_at(want, at).map_err(Error::of("read the original"))?;
        let have = have.bytes(length);
        // One block that cannot be read fails the whole call: then each is asked for by itself.
        let whole = device.read_exact_at(have, at).is_ok();
        let places = (at / block..).zip(have.chunks_mut(ALIGNMENT).zip(want.chunks(ALIGNMENT)));
        for (number, (have, want)) in places {
            if !whole && device.read_exact_at(have, number * block).is_err() {
                unreadable.push(number);
            } else if have != want {
                differing.push(number);
            }
        }
        at += length as u64;
    }
    Ok(json!({ "unreadable": unreadable, "differing": differing }))
}

/// Whether a file holds `size` bytes of the pattern and no more.
pub(crate) fn holds_pattern(path: &str, seed: u64, size: u64) -> Result<bool, Error> {
    let mut have = Vec::new();
    fs::File::open(path)
        .and_then(|mut file| file.read_to_end(&mut have))
        .map_err(Error::of(format!("read {path}")))?;
    let mut want = vec![0; have.len()];
    pattern(seed, 0, &mut want);
    Ok(have.len() as u64 == size && have == want)
}
