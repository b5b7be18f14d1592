//! Where on a disk the root, its hash tree and the volume lie.
//!
//! There are two rules. What they name must prove the root hash all the same.
//!
//! 1. By number, as Cocos lays its disks out: 2 is the root, 3 its hash tree, and 4 the volume, which
//!    is called `cocos` if it has a name.
//! 2. Where that does not fit, by name: the two ends of the root hash are the UUIDs of the root and of
//!    its hash tree (UAPI group, Discoverable Partitions Specification), and the volume is what is
//!    called `cocos`. No type says that what is on a partition may be lost. Two of one name are an
//!    error and never a choice.
//!
//! Older kernels tell no UUIDs, so the partition table is read once more. What it says this time is
//! held against the partitions that the kernel has made of it.

use std::io;
use std::os::unix::fs::FileExt;

use crate::config::Partitions;
use crate::effect::{Effect, effect};
use crate::error::{Error, Result};
use crate::format::gpt::{self, Entry, Header, Role};
use crate::format::{uuid, verity};
use crate::kernel::block::{Disk, Partition};
use crate::kernel::file;
use crate::stage::verity::{HashArea, Verity};

use super::seen;
use super::{RootDisk, VolumePlace};

const READ_TABLE: Effect<1> = Effect::new("read-partition-table", "read the partition table of {}");

/// Numbers of the partitions that a boot uses.
const ROOT: u32 = 2;
const VERITY: u32 = 3;
const COCOS: u32 = 4;

/// What the volume's partition is called.
const LABEL: &str = "cocos";

/// Bytes in a sector of a CD, of which the kernel makes no partitions.
const CD_SECTOR: u64 = 2048;

/// What a look at a disk says.
pub(super) enum Verdict {
    Proven(Box<RootDisk>),
    /// Its partitions are not there yet.
    NotYet(String),
    /// It is another disk, or a forged one.
    Refused(Error),
    /// More than one of its partitions is what is asked for.
    Ambiguous(Error),
}

impl Verdict {
    /// The same, with what else is not there.
    fn and(self, what: &str) -> Self {
        match self {
            Self::NotYet(misses) => Self::NotYet(format!("{misses}, and {what}")),
            other => other,
        }
    }
}

impl From<Error> for Verdict {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

/// Partitions of a disk, by what they are used for.
struct Places<'a> {
    root: &'a Partition,
    hash: HashArea<'a>,
    /// Unless it has a disk of its own.
    volume: Option<&'a Partition>,
}

/// Looks whether `disk` is the one that holds the root.
pub(super) fn examine(wanted: &Partitions, disk: &Disk) -> Verdict {
    let partitions = match seen::partitions(disk) {
        Ok(partitions) => partitions,
        Err(error) => return Verdict::NotYet(error.to_string()),
    };
    if partitions.is_empty() {
        return without_partitions(disk);
    }
    let verdict =
        |places: &Places<'_>, by_uuid| match take(wanted, disk, &partitions, places, by_uuid) {
            Ok(found) => Verdict::Proven(Box::new(found)),
            Err(error) => Verdict::Refused(error),
        };
    let numbered = match by_number(wanted, &partitions) {
        Ok(places) => verdict(&places, false),
        Err(misses) => Verdict::NotYet(misses),
    };
    if matches!(numbered, Verdict::Proven(_)) {
        return numbered;
    }
    let [root, _] = verity::partition_uuids(&wanted.root_hash);
    match read_table(disk) {
        Ok(table) if table.iter().any(|entry| entry.uuid == root) => {
            match by_uuid(wanted, disk, &partitions, &table) {
                Ok(places) => verdict(&places, true),
                Err(other) => other,
            }
        }
        Ok(_) => numbered.and(&format!(
            "none with the UUID {}, the start of roothash=",
            uuid::hyphenated(&root)
        )),
        Err(error) => numbered.and(&format!("no UUID of them is known: {error}")),
    }
}

/// The places of rule 1, or what misses of them.
fn by_number<'a>(
    wanted: &Partitions,
    partitions: &'a [Partition],
) -> std::result::Result<Places<'a>, String> {
    let numbered = |number| partitions.iter().find(|partition| partition.number == number);
    let hash = match wanted.hash_offset {
        Some(offset) => Some(HashArea::Behind(offset)),
        None => numbered(VERITY).map(|tree| HashArea::Apart(&tree.device)),
    };
    let (root, hash, volume) = match (numbered(ROOT), hash, numbered(COCOS)) {
        (Some(root), Some(hash), _) if !wanted.has_volume() => {
            return Ok(Places { root, hash, volume: None });
        }
        (Some(root), Some(hash), Some(volume)) => (root, hash, volume),
        (root, hash, volume) => {
            let has_volume = volume.is_some() || !wanted.has_volume();
            let there = [(ROOT, root.is_some()), (VERITY, hash.is_some()), (COCOS, has_volume)];
            let missing: Vec<_> = there
                .iter()
                .filter(|(_, is_there)| !is_there)
                .map(|(number, _)| number.to_string())
                .collect();
            return Err(format!("it has no partition {}", missing.join(", ")));
        }
    };
    // On a disk of two roots it may be the other one.
    match volume.label.as_deref() {
        None | Some(LABEL) => Ok(Places { root, hash, volume: Some(volume) }),
        Some(label) => Err(format!("its partition {COCOS} is called {label:?}, not {LABEL:?}")),
    }
}

/// The places of rule 2, on a disk that has a partition of the root's UUID.
fn by_uuid<'a>(
    wanted: &Partitions,
    disk: &Disk,
    partitions: &'a [Partition],
    table: &[Entry],
) -> std::result::Result<Places<'a>, Verdict> {
    let uuids = verity::partition_uuids(&wanted.root_hash);
    let [root, tree] = uuids;
    let of_uuid = |uuid: [u8; 16]| {
        let what = format!("with the UUID {}", uuid::hyphenated(&uuid));
        only(table, &what, |entry| entry.uuid == uuid)
    };
    let root = of_uuid(root)?;
    root.require(Role::Root)?;
    let hash = if let Some(offset) = wanted.hash_offset {
        HashArea::Behind(offset)
    } else {
        let tree = of_uuid(tree)?;
        tree.require(Role::Tree)?;
        HashArea::Apart(&made_of(tree, disk, partitions)?.device)
    };
    let root = made_of(root, disk, partitions)?;
    if !wanted.has_volume() {
        return Ok(Places { root, hash, volume: None });
    }
    let entry = only(table, &format!("called {LABEL:?}"), |entry| entry.name == LABEL)?;
    let volume = made_of(entry, disk, partitions)?;
    // What is on it will be lost, so what the table says of it must be what it said to the kernel.
    if volume.label.as_deref() != Some(LABEL) {
        return Err(another(entry).into());
    }
    if uuids.contains(&entry.uuid) {
        return Err(Error::new(format!("partition {} is called {LABEL:?}", entry.number)).into());
    }
    Ok(Places { root, hash, volume: Some(volume) })
}

/// The entry that is like this, of which there must be one.
fn only<'a>(
    table: &'a [Entry],
    what: &str,
    is: impl Fn(&Entry) -> bool,
) -> std::result::Result<&'a Entry, Verdict> {
    let mut found = table.iter().filter(|entry| is(entry));
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (Some(one), Some(other)) => Err(Verdict::Ambiguous(Error::new(format!(
            "it has two partitions {what}, {} and {}",
            one.number, other.number
        )))),
        (None, _) => Err(Verdict::Refused(Error::new(format!("it has no partition {what}")))),
    }
}

/// The partition that the kernel has made of an entry, which may still be to come.
fn made_of<'a>(
    entry: &Entry,
    disk: &Disk,
    partitions: &'a [Partition],
) -> std::result::Result<&'a Partition, Verdict> {
    let number = entry.number;
    let partition = partitions
        .iter()
        .find(|partition| partition.number == number)
        .ok_or_else(|| Verdict::NotYet(format!("it has no partition {number}")))?;
    if entry.span(disk.logical_block) != Some((partition.start, partition.device.sectors)) {
        return Err(another(entry).into());
    }
    Ok(partition)
}

fn another(entry: &Entry) -> Error {
    Error::new(format!("partition {} is not the one that the kernel has seen", entry.number))
}

/// Proves the root.
fn take(
    wanted: &Partitions,
    disk: &Disk,
    partitions: &[Partition],
    places: &Places<'_>,
    by_uuid: bool,
) -> Result<RootDisk> {
    if let Some(volume) = places.volume {
        require_apart(volume, disk, partitions)?;
    }
    let (root, given) = (&places.root.device, wanted.verity.as_ref());
    Ok(RootDisk {
        name: disk.device.name.clone(),
        by_uuid,
        also_proven: Vec::new(),
        verity: Verity::prove(root, places.hash, &wanted.root_hash, given)?,
        volume: places.volume.map(|volume| VolumePlace::partition(disk, volume, partitions)),
    })
}

/// The one partition for the volume on a disk whose other partitions are layers.
///
/// # Errors
/// When there is none, more than one, or it reaches into another.
pub(super) fn volume_among(disk: &Disk, partitions: &[Partition]) -> Result<VolumePlace> {
    let mut called = partitions.iter().filter(|it| it.label.as_deref() == Some(LABEL));
    match (called.next(), called.next()) {
        (Some(volume), None) => {
            require_apart(volume, disk, partitions)?;
            Ok(VolumePlace::partition(disk, volume, partitions))
        }
        (Some(one), Some(other)) => Err(Error::new(format!(
            "it has two partitions called {LABEL:?}, {} and {}",
            one.number, other.number
        ))),
        (None, _) => Err(Error::new(format!("it has no partition called {LABEL:?}"))),
    }
}

/// What is written to the volume must not reach anything else.
fn require_apart(volume: &Partition, disk: &Disk, partitions: &[Partition]) -> Result<()> {
    let number = volume.number;
    if !volume.lies_within(disk.device.sectors) {
        return Err(Error::new(format!("partition {number} does not lie within the disk")));
    }
    let mut others = partitions.iter().filter(|other| *other != volume);
    match others.find(|other| other.overlaps(volume)) {
        Some(other) => Err(Error::new(format!("partitions {} and {number} overlap", other.number))),
        None => Ok(()),
    }
}

/// The entries of a disk's partition table.
fn read_table(disk: &Disk) -> Result<Vec<Entry>> {
    // No more than the largest sector that tables are made for, whatever the host says.
    let [.., largest] = gpt::SECTOR_SIZES;
    let sector = usize::try_from(disk.logical_block.min(largest)).unwrap_or(usize::MAX);
    let header = read(disk, gpt::HEADER_AT.saturating_mul(disk.logical_block), sector)?;
    let header = Header::parse(&header)?;
    let entries = read(disk, header.entries_at(disk.logical_block)?, header.entries_size())?;
    header.entries(&entries)
}

/// What is wrong with a disk on which the kernel found no partition, as far as can be seen.
fn without_partitions(disk: &Disk) -> Verdict {
    const FOUND: &str = "the kernel found no partition on it";
    let signature_at = |sector_size: u64| {
        let at = gpt::HEADER_AT.saturating_mul(sector_size);
        read(disk, at, gpt::SIGNATURE.len()).is_ok_and(|bytes| bytes == gpt::SIGNATURE)
    };
    let own = disk.logical_block;
    let other = gpt::SECTOR_SIZES.into_iter().find(|&size| size != own && signature_at(size));
    match other {
        // An older table of the other kind may still be there beside the right one.
        Some(other) if !signature_at(own) => Verdict::Refused(Error::new(format!(
            "{FOUND}: its table is made for sectors of {other} bytes, but they have {own}: {}",
            mended_by(own)
        ))),
        _ => Verdict::NotYet(format!(
            "{FOUND}: is its table missing, damaged, or made for a larger disk?"
        )),
    }
}

/// What helps a disk with sectors of this size, for which its table is not made.
fn mended_by(sector_size: u64) -> String {
    match sector_size {
        CD_SECTOR => "attach it as a disk, not as a CD".to_owned(),
        _ => format!("an image for these is made with scripts/image --sector-size {sector_size}"),
    }
}

/// Bytes from `at` on of the disk itself.
fn read(disk: &Disk, at: u64, length: usize) -> Result<Vec<u8>> {
    effect(READ_TABLE.on(&[&disk.device.name]), || {
        let mut bytes = vec![0; length];
        file::open(disk.device.path(), file::READ)?.read_exact_at(&mut bytes, at)?;
        Ok::<_, io::Error>(bytes)
    })
}

#[cfg(test)]
mod tests;
