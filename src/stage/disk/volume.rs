//! Where the volume goes: a partition of the root's disk, or a disk of its own (`cvm.volume=`,
//! `cocoon.cow=`).

use std::path::PathBuf;

use super::search::Search;
use super::seen::Seen;
use crate::config::DiskName;
use crate::effect::{Effect, effect};
use crate::error::{Error, Result};
use crate::kernel::block::{Device, Disk, Partition};
use crate::kernel::file;

const LOOK_WHETHER_READ_ONLY: Effect<1> =
    Effect::new("look-whether-read-only", "look whether {} is read-only");
const CLAIM: Effect<1> = Effect::new("claim", "have {} for the volume alone");

/// Where the volume goes. Nothing on it is ever read.
#[derive(Debug)]
pub struct VolumePlace {
    /// The partition, or the whole disk.
    pub device: Device,
    /// How much larger it can become, if it can.
    pub growth: Option<Growth>,
}

/// Room behind a partition, on a disk that was grown behind its partition table.
#[derive(Debug)]
pub struct Growth {
    /// Node of the disk.
    pub disk: PathBuf,
    /// Number of the partition.
    pub number: u32,
    /// First sector of the partition.
    pub start: u64,
    /// Length in sectors that it has when it reaches the end of the disk.
    pub sectors: u64,
}

impl VolumePlace {
    /// A partition, which may reach the end of its disk when none of `others` stands in the way.
    pub(super) fn partition(disk: &Disk, partition: &Partition, others: &[Partition]) -> Self {
        let growth = partition.length_to_end(disk, others).map(|sectors| Growth {
            disk: disk.device.path(),
            number: partition.number,
            start: partition.start,
            sectors,
        });
        Self { device: partition.device.clone(), growth }
    }
}

/// Looks for the one disk of this name, and whether all of it can be had. What lies on it, a partition
/// table included, is not looked at: the command line has given it up. `roots` are the disks that
/// hold the root.
pub(super) fn look(
    wanted: &DiskName,
    seen: &Seen<'_>,
    roots: &[&str],
    search: &mut Search,
) -> Option<VolumePlace> {
    let disk = seen.only_one(wanted, search)?;
    match require_free(disk, roots) {
        Ok(()) => Some(VolumePlace { device: disk.device.clone(), growth: None }),
        Err(error) => {
            search.refuse(&disk.device.name, &error);
            None
        }
    }
}

/// Makes sure that nothing is lost with the disk but what the command line has given up.
fn require_free(disk: &Disk, roots: &[&str]) -> Result<()> {
    let name = &disk.device.name;
    if roots.contains(&&**name) {
        return Err(Error::new("it is the disk that holds the root"));
    }
    if effect(LOOK_WHETHER_READ_ONLY.on(&[&name]), || disk.is_read_only())? {
        return Err(Error::new("it is read-only"));
    }
    effect(CLAIM.on(&[&name]), || disk.device.claim(file::READ)).map(drop)
}
