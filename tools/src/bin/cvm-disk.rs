//! Puts the parts of an image behind a partition table.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cvm_init::format::gpt::{Entry, HEADER_AT, SECTOR_SIZES, Table, sectors_of_a_copy};
use cvm_init::format::uuid;
use cvm_tools::iso;

const USAGE: &str = "usage: cvm-disk --sector-size 512|4096 --uuid UUID [--cd] -o FILE PARTITION...

Writes a disk whose partition table (GPT) is for sectors of that size. A PARTITION is
NAME:TYPE:UUID:FILE, or NAME:TYPE:UUID:=BYTES for one that is left empty. They are numbered in the
order given, from 1 on, and each begins at a multiple of 1 MiB. With --cd the disk is a CD as well, and a
firmware starts partition 1 from it: by El Torito, which leads to the same bytes. The same arguments and
files make the same bytes. What is zero takes no space.";

/// Where partitions begin, as with every partitioning tool; and what there is behind the last one.
const ALIGNMENT: u64 = 1 << 20;
/// Bytes that are copied at once.
const CHUNK: usize = 1 << 16;

/// What is wanted.
struct Arguments {
    sector_size: u64,
    uuid: [u8; 16],
    /// Whether it is a CD as well.
    cd: bool,
    out: PathBuf,
    parts: Vec<Part>,
}

/// A partition before it has its place.
struct Part {
    name: String,
    kind: [u8; 16],
    uuid: [u8; 16],
    content: Content,
}

/// What a partition holds.
enum Content {
    File(PathBuf),
    /// So many zeros.
    Empty(u64),
}

fn main() -> ExitCode {
    let words: Vec<_> = env::args_os().skip(1).collect();
    if words.iter().any(|word| word == "--help" || word == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let arguments = match Arguments::parse(words) {
        Ok(arguments) => arguments,
        Err(reason) => {
            eprintln!("{reason}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match write(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}

impl Arguments {
    fn parse(words: Vec<OsString>) -> Result<Self, String> {
        let (mut sector_size, mut disk_uuid, mut out) = (None, None, None);
        let (mut parts, mut cd) = (Vec::new(), false);
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let word = word.into_string().map_err(|_| "an argument is not UTF-8")?;
            let mut value = || {
                let value = words.next().and_then(|value| value.into_string().ok());
                value.ok_or_else(|| format!("{word} needs a value"))
            };
            match word.as_str() {
                "--sector-size" => {
                    let size =
                        value()?.parse::<u64>().ok().filter(|size| SECTOR_SIZES.contains(size));
                    sector_size = Some(size.ok_or("--sector-size is neither 512 nor 4096")?);
                }
                "--uuid" => {
                    disk_uuid = Some(uuid::parse(&value()?).ok_or("--uuid is not a UUID")?);
                }
                "--cd" => cd = true,
                "-o" => out = Some(PathBuf::from(value()?)),
                flag if flag.starts_with('-') => return Err(format!("unknown argument {flag}")),
                part => parts.push(Part::parse(part)?),
            }
        }
        if cd && sector_size != Some(SECTOR_SIZES[0]) {
            return Err("--cd is for a disk with sectors of 512 bytes".to_owned());
        }
        Ok(Self {
            sector_size: sector_size.ok_or("--sector-size is missing")?,
            uuid: disk_uuid.ok_or("--uuid is missing")?,
            cd,
            out: out.ok_or("-o is missing")?,
            parts,
        })
    }

    /// The table for partitions of so many bytes.
    fn table(&self, sizes: &[u64]) -> Result<Table, String> {
        let too_large = || "the disk would be too large".to_owned();
        let aligned = |bytes: u64| bytes.checked_next_multiple_of(ALIGNMENT).ok_or_else(too_large);
        let mut end = HEADER_AT.saturating_add(sectors_of_a_copy(self.sector_size));
        end = end.saturating_mul(self.sector_size);
        let mut entries = Vec::new();
        for (number, (part, bytes)) in (1..).zip(self.parts.iter().zip(sizes)) {
            let sectors = bytes.div_ceil(self.sector_size);
            if sectors == 0 {
                return Err(format!("partition {} has no bytes", part.name));
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
    fn parse(word: &str) -> Result<Self, String> {
        let wrong = |what: &str| format!("partition {word:?}: {what}");
        let fields: Vec<_> = word.splitn(4, ':').collect();
        let [name, kind, own, content] = fields.as_slice() else {
            return Err(wrong("not NAME:TYPE:UUID:FILE"));
        };
        let content = match content.strip_prefix('=') {
            Some(bytes) => Content::Empty(bytes.parse().map_err(|_| wrong("not =BYTES"))?),
            None => Content::File(PathBuf::from(content)),
        };
        Ok(Self {
            name: (*name).to_owned(),
            kind: uuid::parse(kind).ok_or_else(|| wrong("its type is not a UUID"))?,
            uuid: uuid::parse(own).ok_or_else(|| wrong("its UUID is not one"))?,
            content,
        })
    }

    /// Its bytes.
    fn size(&self, sector_size: u64) -> Result<u64, String> {
        match &self.content {
            Content::Empty(bytes) if bytes % sector_size == 0 => Ok(*bytes),
            Content::Empty(bytes) => Err(format!(
                "partition {}: {bytes} bytes are no whole number of sectors of {sector_size}",
                self.name
            )),
            Content::File(path) => {
                let metadata = fs::metadata(path).map_err(|error| cannot("read", path, &error))?;
                Ok(metadata.len())
            }
        }
    }
}

fn write(arguments: &Arguments) -> Result<(), String> {
    let sizes = arguments.parts.iter().map(|part| part.size(arguments.sector_size));
    let table = arguments.table(&sizes.collect::<Result<Vec<_>, _>>()?)?;
    let (head, tail) = table.encode().map_err(|error| error.to_string())?;
    let cd = match table.entries.first() {
        Some(first) if arguments.cd => of_cd(&table, first)?,
        _ => Vec::new(),
    };
    let out = &arguments.out;
    let cannot_write = |error: io::Error| cannot("write", out, &error);
    let disk = File::create(out).map_err(cannot_write)?;
    let bytes = table.sectors.saturating_mul(table.sector_size);
    disk.set_len(bytes).map_err(cannot_write)?;
    disk.write_all_at(&head, 0).map_err(cannot_write)?;
    disk.write_all_at(&cd, iso::AT).map_err(cannot_write)?;
    disk.write_all_at(&tail, bytes.saturating_sub(tail.len() as u64)).map_err(cannot_write)?;
    for (part, entry) in arguments.parts.iter().zip(&table.entries) {
        if let Content::File(path) = &part.content {
            let mut file = File::open(path).map_err(|error| cannot("read", path, &error))?;
            let place = entry.first.saturating_mul(table.sector_size);
            copy(&mut file, &disk, place).map_err(|error| {
                format!("cannot copy {} to {}: {error}", path.display(), out.display())
            })?;
        }
    }
    Ok(())
}

/// What makes a CD of a disk with this table: the partition is what a firmware starts.
fn of_cd(table: &Table, partition: &Entry) -> Result<Vec<u8>, String> {
    let bytes = |sectors: u64| sectors.saturating_mul(table.sector_size);
    let sectors = partition.last.saturating_sub(partition.first).saturating_add(1);
    iso::encode(bytes(partition.first), bytes(sectors)).map_err(|error| error.to_string())
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

fn cannot(verb: &str, path: &Path, error: &io::Error) -> String {
    format!("cannot {verb} {}: {error}", path.display())
}
