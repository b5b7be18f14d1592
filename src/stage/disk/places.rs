//! Where on a disk the root, its hash tree and the volume lie.

use crate::config::Config;
use crate::effect::{Effect, effect};
use crate::error::Error;
use crate::format::device::SECTOR;
use crate::kernel::block;
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
pub(super) fn examine(config: &Config, disk: &block::Disk) -> Verdict {
    let partitions = match effect(LIST_PARTITIONS.on(&[&disk.name]), || disk.partitions()) {
        Ok(partitions) => partitions,
        Err(error) => return Verdict::NotYet(error.to_string()),
    };
    let numbered = |number| partitions.iter().find(|partition| partition.number == number);
    let (root, verity, cocos) = match [ROOT, VERITY, COCOS].map(numbered) {
        [Some(root), Some(verity), Some(cocos)] => (root, verity, cocos),
        found => {
            let missing: Vec<_> = [ROOT, VERITY, COCOS]
                .iter()
                .zip(found)
                .filter(|(_, partition)| partition.is_none())
                .map(|(number, _)| number.to_string())
                .collect();
            return Verdict::NotYet(if partitions.is_empty() {
                without_partitions(disk)
            } else {
                format!("it has no partition {}", missing.join(", "))
            });
        }
    };
    // What is written to the volume must not reach anything else.
    if !cocos.lies_within(disk.sectors) {
        let error = format!("partition {COCOS} does not lie within the disk");
        return Verdict::Refused(Error::new(error));
    }
    let others = partitions.iter().filter(|other| *other != cocos);
    if let Some(other) = others.into_iter().find(|other| other.overlaps(cocos)) {
        return Verdict::Refused(Error::new(format!(
            "partitions {} and {COCOS} overlap",
            other.number
        )));
    }
    match Verity::prove(root, verity, &config.root_hash, config.verity.as_ref()) {
        Ok(verity) => Verdict::Proven(Box::new(RootDisk {
            name: disk.name.clone(),
            verity,
            volume: VolumePlace {
                disk: disk.name.clone(),
                partition: cocos.clone(),
                to_end: cocos.length_to_end(disk.sectors, &partitions),
            },
        })),
        Err(error) => Verdict::Refused(error),
    }
}

/// What is wrong with a disk on which the kernel found no partition, as far as can be seen.
fn without_partitions(disk: &block::Disk) -> String {
    let guess = match disk.logical_block {
        SECTOR => "is its table missing, damaged, or made for a larger disk?".to_owned(),
        bytes => format!("its sectors have {bytes} bytes, was its table made for {SECTOR}?"),
    };
    format!("the kernel found no partition on it: {guess}")
}
