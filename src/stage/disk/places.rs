//! Where on a disk the root, its hash tree and the volume lie.

use crate::config::Config;
use crate::effect::{Effect, effect};
use crate::error::{Error, Result};
use crate::format::device::SECTOR;
use crate::format::verity::HashArea;
use crate::kernel::block::{Disk, Partition};
use crate::stage::verity::Verity;

use super::{RootDisk, VolumePlace};

const LIST_PARTITIONS: Effect<1> = Effect::new("list-partitions", "list the partitions of {}");

/// Numbers of the partitions that a boot uses.
const ROOT: u32 = 2;
const VERITY: u32 = 3;
const COCOS: u32 = 4;

/// What a look at a disk says.
pub(super) enum Verdict {
    Proven(Box<RootDisk>),
    /// Its partitions are not there yet.
    NotYet(String),
    /// It is another disk, or a forged one.
    Refused(Error),
}

/// Looks whether `disk` is the one that holds the root.
pub(super) fn examine(config: &Config, disk: &Disk) -> Verdict {
    let name = &disk.device.name;
    let partitions = match effect(LIST_PARTITIONS.on(&[&name]), || disk.partitions()) {
        Ok(partitions) => partitions,
        Err(error) => return Verdict::NotYet(error.to_string()),
    };
    let numbered = |number| partitions.iter().find(|partition| partition.number == number);
    let (root, verity, cocos) = match [ROOT, VERITY, COCOS].map(numbered) {
        [Some(root), Some(verity), _] if config.volume.is_some() => (root, verity, None),
        [Some(root), Some(verity), Some(cocos)] => (root, verity, Some(cocos)),
        found => {
            let missing: Vec<_> = [ROOT, VERITY, COCOS]
                .iter()
                .zip(found)
                .filter(|(number, partition)| partition.is_none() && is_needed(**number, config))
                .map(|(number, _)| number.to_string())
                .collect();
            return Verdict::NotYet(if partitions.is_empty() {
                without_partitions(disk)
            } else {
                format!("it has no partition {}", missing.join(", "))
            });
        }
    };
    if let Err(error) = cocos.map_or(Ok(()), |cocos| require_apart(cocos, disk, &partitions)) {
        return Verdict::Refused(error);
    }
    let (root, hash) = (&root.device, &verity.device);
    match Verity::prove(root, hash, HashArea::WHOLE, &config.root_hash, config.verity.as_ref()) {
        Ok(verity) => Verdict::Proven(Box::new(RootDisk {
            name: name.clone(),
            verity,
            volume: cocos.map(|cocos| VolumePlace::partition(disk, cocos, &partitions)),
        })),
        Err(error) => Verdict::Refused(error),
    }
}

/// Partition 4 is not, where the volume has a disk of its own.
fn is_needed(number: u32, config: &Config) -> bool {
    number != COCOS || config.volume.is_none()
}

/// What is written to the volume must not reach anything else.
fn require_apart(cocos: &Partition, disk: &Disk, partitions: &[Partition]) -> Result<()> {
    if !cocos.lies_within(disk.device.sectors) {
        return Err(Error::new(format!("partition {COCOS} does not lie within the disk")));
    }
    let mut others = partitions.iter().filter(|other| *other != cocos);
    match others.find(|other| other.overlaps(cocos)) {
        Some(other) => Err(Error::new(format!("partitions {} and {COCOS} overlap", other.number))),
        None => Ok(()),
    }
}

/// What is wrong with a disk on which the kernel found no partition, as far as can be seen.
fn without_partitions(disk: &Disk) -> String {
    let guess = match disk.logical_block {
        SECTOR => "is its table missing, damaged, or made for a larger disk?".to_owned(),
        bytes => format!("its sectors have {bytes} bytes, was its table made for {SECTOR}?"),
    };
    format!("the kernel found no partition on it: {guess}")
}
