//! Puts the parts of an image behind a partition table.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use clap::Args;
use cvm_init::error::{Error, Result};
use cvm_init::format::gpt::{Entry, HEADER_AT, SECTOR_SIZES, Table, sectors_of_a_copy};
use cvm_init::format::uuid;
use cvm_tools::{files, iso};

use crate::cli::Failure;

const MORE_HELP: &str = "\
Writes a disk whose partition table (GPT) is for sectors of that size. Partitions are numbered in the
order given, from 1 on, and each begins at a multiple of 1 MiB. The same arguments and files make the
same bytes. What is zero takes no space.";

#[derive(Args)]
#[command(after_help = MORE_HELP)]
pub(crate) struct Arguments {
    /// Bytes in a sector: 512 or 4096
    #[arg(long, value_name = "BYTES", value_parser = sector_size)]
    sector_size: u64,
    /// Of the disk
    #[arg(long, value_parser = disk_uuid)]
    uuid: Uuid,
    /// Make the disk a CD as well, from which a firmware starts partition 1: by El Torito, which leads to
    /// the same bytes
    #[arg(long)]
    cd: bool,
    /// Where it goes
    #[arg(short, value_name = "FILE")]
    out: PathBuf,
    /// NAME:TYPE:UUID:FILE, or NAME:TYPE:UUID:=BYTES for one that is left empty
    #[arg(value_name = "PARTITION", value_parser = Part::parse)]
    parts: Vec<Part>,
}

type Uuid = [u8; 16];

/// Where partitions begin, as with every partitioning tool; and what there is behind the last one.
const ALIGNMENT: u64 = 1 << 20;
/// Bytes that are copied at once.
const CHUNK: usize = 1 << 16;

/// A partition before it has its place.
#[derive(Clone)]
struct Part {
    name: String,
    kind: Uuid,
    uuid: Uuid,
    content: Content,
}

/// What a partition holds.
#[derive(Clone)]
enum Content {
    File(PathBuf),
    /// So many zeros.
    Empty(u64),
}

fn sector_size(word: &str) -> std::result::Result<u64, &'static str> {
    let size = word.parse().ok().filter(|size| SECTOR_SIZES.contains(size));
    size.ok_or("is neither 512 nor 4096")
}

fn disk_uuid(word: &str) -> std::result::Result<Uuid, &'static str> {
    uuid::parse(word).ok_or("is not a UUID")
}

pub(crate) fn run(arguments: &Arguments) -> std::result::Result<(), Failure> {
    if arguments.cd && arguments.sector_size != SECTOR_SIZES[0] {
        return Err(Failure::usage(&"--cd is for a disk with sectors of 512 bytes"));
    }
    Ok(write(arguments)?)
}

impl Arguments {
    /// The table for partitions of so many bytes.
    fn table(&self, sizes: &[u64]) -> Result<Table> {
        let too_large = || Error::new("the disk would be too large");
        let aligned = |bytes: u64| bytes.checked_next_multiple_of(ALIGNMENT).ok_or_else(too_large);
        let mut end = HEADER_AT.saturating_add(sectors_of_a_copy(self.sector_size));
        end = end.saturating_mul(self.sector_size);
        let mut entries = Vec::new();
        for (number, (part, bytes)) in (1..).zip(self.parts.iter().zip(sizes)) {
            let sectors = bytes.div_ceil(self.sector_size);
            if sectors == 0 {
                return Err(Error::new(format!("partition {} has no bytes", part.name)));
            }
            let first = aligned(end)? / self.sector_size;
            let behind = first.checked_add(sectors).ok_or_else(too_large)?;
            end = behind.checked_mul(self.sector_size).ok_or_else(too_large)?;
            let (name, kind, uuid) = (part.name.clone(), part.kind, part.uuid);
            entries.push(Entry { number, kind, uuid, first, last: behind - 1, name });
        }
        // Room for the copy of the table.
        let bytes = aligned(end)?.checked_add(ALIGNMENT).ok_or_else(too_large)?;
        let (uuid, sector_size) = (self.uuid, self.sector_size);
        Ok(Table { uuid, sectors: bytes / sector_size, sector_size, entries })
    }
}

impl Part {
    fn parse(word: &str) -> std::result::Result<Self, &'static str> {
        let fields: Vec<_> = word.splitn(4, ':').collect();
        let [name, kind, own, content] = fields.as_slice() else {
            return Err("is not NAME:TYPE:UUID:FILE");
        };
        let content = match content.strip_prefix('=') {
            Some(bytes) => Content::Empty(bytes.parse().map_err(|_| "is not =BYTES")?),
            None => Content::File(PathBuf::from(content)),
        };
        Ok(Self {
            name: (*name).to_owned(),
            kind: uuid::parse(kind).ok_or("has a type that is not a UUID")?,
            uuid: uuid::parse(own).ok_or("has a UUID that is not one")?,
            content,
        })
    }

    /// Its bytes.
    fn size(&self, sector_size: u64) -> Result<u64> {
        match &self.content {
            Content::Empty(bytes) if bytes % sector_size == 0 => Ok(*bytes),
            Content::Empty(bytes) => Err(Error::new(format!(
                "partition {}: {bytes} bytes are no whole number of sectors of {sector_size}",
                self.name
            ))),
            Content::File(path) => {
                let metadata =
                    fs::metadata(path).map_err(|cause| files::unreadable(path, &cause))?;
                Ok(metadata.len())
            }
        }
    }
}

fn write(arguments: &Arguments) -> Result<()> {
    let sizes = arguments.parts.iter().map(|part| part.size(arguments.sector_size));
    let table = arguments.table(&sizes.collect::<Result<Vec<_>>>()?)?;
    let (head, tail) = table.encode()?;
    let cd = match table.entries.first() {
        Some(first) if arguments.cd => of_cd(&table, first)?,
        _ => Vec::new(),
    };
    let out = &arguments.out;
    let cannot_write = |cause: io::Error| files::unwritable(out, &cause);
    let disk = files::create(out)?;
    let bytes = table.sectors.saturating_mul(table.sector_size);
    disk.set_len(bytes).map_err(cannot_write)?;
    disk.write_all_at(&head, 0).map_err(cannot_write)?;
    disk.write_all_at(&cd, iso::AT).map_err(cannot_write)?;
    disk.write_all_at(&tail, bytes.saturating_sub(tail.len() as u64)).map_err(cannot_write)?;
    for (part, entry) in arguments.parts.iter().zip(&table.entries) {
        if let Content::File(path) = &part.content {
            let mut file = files::open(path, "")?;
            let place = entry.first.saturating_mul(table.sector_size);
            copy(&mut file, &disk, place).map_err(|cause| {
                let doing = format!("copy {} to {}", path.display(), out.display());
                Error::cannot(&doing, &cause)
            })?;
        }
    }
    Ok(())
}

/// What makes a CD of a disk with this table: the partition is what a firmware starts.
fn of_cd(table: &Table, partition: &Entry) -> Result<Vec<u8>> {
    let bytes = |sectors: u64| sectors.saturating_mul(table.sector_size);
    let sectors = partition.last.saturating_sub(partition.first).saturating_add(1);
    iso::encode(bytes(partition.first), bytes(sectors))
}

/// Copies all but zeros.
fn copy(from: &mut File, to: &File, mut place: u64) -> io::Result<()> {
    let mut chunk = Vec::with_capacity(CHUNK);
    loop {
        chunk.clear();
        from.by_ref().take(CHUNK as u64).read_to_end(&mut chunk)?;
        if chunk.is_empty() {
            return Ok(());
        }
        if chunk.iter().any(|&byte| byte != 0) {
            to.write_all_at(&chunk, place)?;
        }
        place = place.saturating_add(chunk.len() as u64);
    }
}
