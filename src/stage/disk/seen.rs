//! The disks that are there at one moment, and which of them are meant by a name.

use std::cell::OnceCell;

use super::search::Search;
use crate::config::DiskName;
use crate::effect::{Effect, effect};
use crate::error::Result;
use crate::kernel::block::{Disk, Partition};

const READ_SERIAL: Effect<1> = Effect::new("read-serial", "read the serial of {}");

const LIST_PARTITIONS: Effect<1> = Effect::new("list-partitions", "list the partitions of {}");

/// All of them, with their serials once somebody asks.
pub(super) struct Seen<'a> {
    /// By name, `sda` first.
    pub(super) disks: &'a [Disk],
    serials: OnceCell<Vec<Result<Option<String>>>>,
    partitions: OnceCell<Vec<Vec<Partition>>>,
}

impl<'a> Seen<'a> {
    pub(super) fn new(disks: &'a [Disk]) -> Self {
        Self { disks, serials: OnceCell::new(), partitions: OnceCell::new() }
    }

    /// Those of this name; one whose serial cannot be read is refused.
    pub(super) fn named(&self, wanted: &DiskName, search: &mut Search) -> Vec<&'a Disk> {
        let serial = match wanted {
            DiskName::Kernel(name) => {
                return self.disks.iter().filter(|disk| disk.device.name == *name).collect();
            }
            DiskName::Serial(serial) => serial,
        };
        let mut found = Vec::new();
        for (disk, theirs) in self.disks.iter().zip(self.serials()) {
            match theirs {
                Ok(theirs) if theirs.as_ref() == Some(serial) => found.push(disk),
                Ok(_) => {}
                Err(error) => search.refuse(&disk.device.name, error),
            }
        }
        found
    }

    /// The one of this name.
    pub(super) fn only_one(&self, wanted: &DiskName, search: &mut Search) -> Option<&'a Disk> {
        let found = self.named(wanted, search);
        if let [disk] = found.as_slice() {
            return Some(disk);
        }
        for disk in found {
            // The serial is the host's word: which of them is meant, nobody can say.
            search.refuse(&disk.device.name, &"another disk has this serial, too");
        }
        None
    }

    /// Each disk with its partitions; none where they cannot be listed, as of a disk that goes away.
    pub(super) fn with_partitions(&self) -> impl Iterator<Item = (&'a Disk, &[Partition])> {
        let partitions = self.partitions.get_or_init(|| {
            let list = |disk: &Disk| partitions(disk).unwrap_or_default();
            self.disks.iter().map(list).collect()
        });
        self.disks.iter().zip(partitions.iter().map(Vec::as_slice))
    }

    fn serials(&self) -> &[Result<Option<String>>] {
        self.serials.get_or_init(|| {
            let serial =
                |disk: &Disk| effect(READ_SERIAL.on(&[&disk.device.name]), || disk.serial());
            self.disks.iter().map(serial).collect()
        })
    }
}

/// The partitions of a disk, in no particular order.
pub(super) fn partitions(disk: &Disk) -> Result<Vec<Partition>> {
    effect(LIST_PARTITIONS.on(&[&disk.device.name]), || disk.partitions())
}
