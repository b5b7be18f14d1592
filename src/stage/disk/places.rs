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
mod tests {
    use super::*;
    use crate::config::{Config, Layout};
    use crate::format::device::Dev;
    use crate::kernel::block::Device;

    const HASH: &str = "00112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef";

    /// Data of Linux, which says nothing of its use.
    const LINUX: [u8; 16] = [0x0f; 16];

    fn wanted(words: &str) -> Partitions {
        let wanted = Config::from_cmdline(&format!("roothash={HASH} {words}")).unwrap();
        match wanted.layout {
            Layout::Partitions(partitions) => partitions,
            Layout::Layers(_) => panic!("no layers here"),
        }
    }

    fn disk() -> Disk {
        let dev = Dev { major: 8, minor: 0 };
        Disk { device: Device { name: "sda".into(), dev, sectors: 1 << 20 }, logical_block: 4096 }
    }

    /// Root, hash tree, volume and another partition, with 8 sectors of 4096 bytes each.
    fn table() -> Vec<Entry> {
        let [root, tree] = verity::partition_uuids(&wanted("").root_hash);
        let named = [(root, "root"), (tree, "tree"), ([3; 16], LABEL), ([4; 16], "other")];
        let entry = |(number, (uuid, name)): (u32, ([u8; 16], &str))| {
            let first = u64::from(number) * 8;
            Entry { number, kind: LINUX, uuid, first, last: first + 7, name: name.into() }
        };
        (1..).zip(named).map(entry).collect()
    }

    /// What the kernel has made of a table.
    fn partitions(table: &[Entry]) -> Vec<Partition> {
        let partition = |entry: &Entry| {
            let (start, sectors) = entry.span(4096).unwrap();
            let dev = Dev { major: 8, minor: entry.number };
            let device = Device { name: format!("sda{}", entry.number), dev, sectors };
            Partition { device, number: entry.number, start, label: Some(entry.name.clone()) }
        };
        table.iter().map(partition).collect()
    }

    /// The number of the volume's partition, or what is said in its place.
    fn volume(words: &str, kernels: &[Entry], ours: &[Entry]) -> (&'static str, String) {
        let seen = partitions(kernels);
        match by_uuid(&wanted(words), &disk(), &seen, ours) {
            Ok(Places { volume, .. }) => {
                ("places", volume.map_or("elsewhere".into(), |volume| volume.number.to_string()))
            }
            Err(Verdict::NotYet(misses)) => ("not yet", misses),
            Err(Verdict::Refused(error)) => ("refused", error.to_string()),
            Err(Verdict::Ambiguous(error)) => ("ambiguous", error.to_string()),
            Err(Verdict::Proven(_)) => ("proven", String::new()),
        }
    }

    #[test]
    fn the_root_hash_names_the_partitions() {
        assert_eq!(volume("", &table(), &table()), ("places", "3".into()));
        let elsewhere = volume("cvm.volume=serial:v", &table(), &table());
        assert_eq!(elsewhere, ("places", "elsewhere".into()));
    }

    #[test]
    fn a_partition_that_is_still_to_come_is_waited_for() {
        for number in 1..=3 {
            let mut kernels = table();
            kernels.retain(|entry| entry.number != number);
            let misses = format!("it has no partition {number}");
            assert_eq!(volume("", &kernels, &table()), ("not yet", misses));
        }
    }

    /// The host answers the second read as it likes: nothing may be overwritten by that.
    #[test]
    fn a_table_that_the_kernel_has_not_seen_leads_nowhere() {
        let refused = |number| {
            ("refused", format!("partition {number} is not the one that the kernel has seen"))
        };
        for at in 0..3 {
            let mut ours = table();
            ours[at].last += 1;
            assert_eq!(volume("", &table(), &ours), refused(at + 1));
        }
        let mut ours = table();
        ours[2].name = "other".into();
        ours[3].name = LABEL.into();
        assert_eq!(volume("", &table(), &ours), refused(4));
    }

    #[test]
    fn the_volume_is_neither_root_nor_tree_and_there_is_one() {
        for at in 0..2 {
            let mut table = table();
            table[2].name = "other".into();
            table[at].name = LABEL.into();
            let reason = format!("partition {} is called \"cocos\"", at + 1);
            assert_eq!(volume("", &table, &table), ("refused", reason));
        }
        let mut two = table();
        two[3].name = LABEL.into();
        let reason = "it has two partitions called \"cocos\", 3 and 4".to_owned();
        assert_eq!(volume("", &two, &two), ("ambiguous", reason));
    }
}
