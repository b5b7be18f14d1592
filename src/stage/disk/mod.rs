//! Stage 2: the disks. The root's is the one that proves the root hash; the volume's and those of
//! further data are others where the command line says so.
//!
//! Of several that are there at the same time and prove it, the first by name is taken: `sda`, then
//! shorter names before longer ones, then by their letters. All of them hold the same root, and what
//! lies on partition 4 is read of none. Of disks whose partitions the root hash names none is taken
//! but the only one.

mod places;
mod search;
mod volume;

use std::time::Instant;

use self::places::{Verdict, examine};
use self::search::{Search, nothing_found};
use super::data::{self, Verified};
use crate::config::{Config, DataDisk, DiskChoice};
use crate::effect::{Effect, effect};
use crate::error::{Error, Result};
use crate::format::{hex, verity};
use crate::kernel::block::{self, Disk};
use crate::kernel::uevent::{Listener, Wake};
use crate::report::{DiskFacts, Report, VerityFacts};
use crate::stage::verity::Verity;

pub use self::volume::{Growth, VolumePlace};

const LISTEN: Effect<0> = Effect::new("listen", "listen for uevents");
const LIST_DISKS: Effect<0> = Effect::new("list-disks", "list the disks");
const WAIT: Effect<0> = Effect::new("wait-for-disk", "wait for a block device");
const READ_SERIAL: Effect<1> = Effect::new("read-serial", "read the serial of {}");

/// What a boot needs of its disks.
#[derive(Debug)]
pub struct Disks {
    /// The root's data and hash tree, proven.
    pub root: Verity,
    /// Where the volume goes.
    pub volume: VolumePlace,
    /// Further data, proven, as the command line has it in order.
    pub data: Vec<Verified>,
}

/// The disk that holds the root, proven.
struct RootDisk {
    /// Kernel name.
    name: String,
    /// Its partitions are named by the root hash, not numbered.
    by_uuid: bool,
    verity: Verity,
    /// Its partition for the volume, unless that has a disk of its own.
    volume: Option<VolumePlace>,
}

/// Waits for all disks that the boot needs until `cvm.timeout=` is over. Until all are there and
/// proven, nothing is mounted and nothing written.
///
/// # Errors
/// What is missing, and what every disk seen was refused for. At once when the root's disk is pinned
/// by its name, which no other disk can have; another disk with the same serial may still come. At
/// once, too, when there are two to choose from.
pub fn find(config: &Config, report: &mut Report) -> Result<Disks> {
    // Before the first look, so that no device appears unseen between look and wait.
    let listener = effect(LISTEN, Listener::open)?;
    let deadline = Instant::now() + config.timeout;
    let mut searches = Searches::new(config);
    let mut any_seen = false;
    loop {
        let disks = effect(LIST_DISKS, block::disks)?;
        any_seen |= !disks.is_empty();
        if let Some(found) = searches.look(config, &disks)? {
            describe(&found, config, report);
            let Found { root, volume, data, .. } = found;
            return Ok(Disks { root: root.verity, volume, data });
        }
        let wake = effect(WAIT, || listener.wait_for_block(deadline))?;
        if wake == Wake::Timeout {
            return Err(nothing_found(&searches.all(), any_seen, config.timeout));
        }
    }
}

/// All that is looked for.
struct Searches {
    root: Search,
    /// Where the volume has a disk of its own.
    volume: Option<Search>,
    data: Vec<Search>,
}

/// All that was looked for.
struct Found {
    root: RootDisk,
    /// Other disks that prove the root hash.
    also_proven: Vec<String>,
    volume: VolumePlace,
    data: Vec<Verified>,
}

impl Searches {
    fn new(config: &Config) -> Self {
        let root = match &config.disk {
            DiskChoice::Proof => "disk that proves roothash=".to_owned(),
            DiskChoice::Name(name) => format!("usable disk /dev/{name}"),
            DiskChoice::Serial(serial) => format!("usable disk with serial {serial:?}"),
        };
        let volume = |serial: &String| {
            Search::new(
                format!("usable disk with serial {serial:?} for the volume"),
                " for the volume",
            )
        };
        let data = |DataDisk { name, serial, .. }: &DataDisk| {
            Search::new(
                format!("disk with serial {serial:?} that proves the data {name}"),
                format!(" for the data {name}"),
            )
        };
        Self {
            root: Search::new(root, ""),
            volume: config.volume.as_ref().map(volume),
            data: config.data.iter().map(data).collect(),
        }
    }

    fn all(&self) -> Vec<&Search> {
        [&self.root].into_iter().chain(&self.volume).chain(&self.data).collect()
    }

    /// Looks for all of it: what was there the last time may have gone since. `None` when something
    /// is missing.
    fn look(&mut self, config: &Config, disks: &[Disk]) -> Result<Option<Found>> {
        let mut proven = look_for_root(config, disks, &mut self.root)?.into_iter();
        let mut root = self.root.end(proven.next());
        let volume = match (&config.volume, &mut self.volume) {
            (Some(serial), Some(search)) => {
                let place = volume::look(serial, disks, root.as_ref(), search);
                search.end(place)
            }
            _ => root.as_mut().and_then(|root| root.volume.take()),
        };
        // Each of them, so that whatever is missing is named.
        let data: Vec<_> = config
            .data
            .iter()
            .zip(&mut self.data)
            .map(|(wanted, search)| {
                let verified = look_for_data(wanted, disks, search);
                search.end(verified)
            })
            .collect();
        let also_proven = proven.map(|other| other.name).collect();
        let found = root.zip(volume).zip(data.into_iter().collect());
        Ok(found.map(|((root, volume), data)| Found { root, also_proven, volume, data }))
    }
}

/// The disks that prove the root hash, in order.
fn look_for_root(config: &Config, disks: &[Disk], search: &mut Search) -> Result<Vec<RootDisk>> {
    let chosen: Vec<_> = match &config.disk {
        DiskChoice::Proof => without_volume(disks, config, search),
        DiskChoice::Name(name) => disks.iter().filter(|disk| disk.device.name == *name).collect(),
        DiskChoice::Serial(serial) => with_serial(disks, serial, search),
    };
    let is_only_one = matches!(config.disk, DiskChoice::Name(_));
    let mut proven = Vec::new();
    for disk in chosen {
        let name = &disk.device.name;
        let of_disk = |error| Error::new(format!("{name}: {error}"));
        match examine(config, disk) {
            Verdict::Proven(disk) => proven.push(*disk),
            Verdict::Ambiguous(error) => return Err(of_disk(error)),
            Verdict::Refused(error) if is_only_one => return Err(of_disk(error)),
            Verdict::Refused(error) => search.refuse(name, &error),
            Verdict::NotYet(reason) => search.refuse(name, &reason),
        }
    }
    require_no_choice(&proven)?;
    Ok(proven)
}

/// The disks but the one that the command line has given to the volume: what it held before may well be
/// an older copy of the same root.
fn without_volume<'a>(disks: &'a [Disk], config: &Config, search: &mut Search) -> Vec<&'a Disk> {
    let Some(serial) = &config.volume else {
        return disks.iter().collect();
    };
    let volume: Vec<_> = with_serial(disks, serial, search);
    for disk in &volume {
        search.refuse(&disk.device.name, &"cvm.volume= has it for the volume");
    }
    let is_volume = |disk: &Disk| volume.iter().any(|other| other.device.dev == disk.device.dev);
    disks.iter().filter(|disk| !is_volume(disk)).collect()
}

/// Makes sure that the root hash does not name the partitions of more than one disk.
fn require_no_choice(proven: &[RootDisk]) -> Result<()> {
    if proven.len() < 2 || proven.iter().all(|disk| !disk.by_uuid) {
        return Ok(());
    }
    let names: Vec<_> = proven.iter().map(|disk| disk.name.as_str()).collect();
    Err(Error::new(format!(
        "{} each have the partitions that roothash= names: cvm.disk= says which disk is meant",
        names.join(", ")
    )))
}

/// The first disk of this serial that proves the data. The serial is the host's word, and any that
/// proves it holds the same.
fn look_for_data(wanted: &DataDisk, disks: &[Disk], search: &mut Search) -> Option<Verified> {
    for disk in with_serial(disks, &wanted.serial, search) {
        match data::prove(wanted, &disk.device) {
            Ok(verified) => return Some(verified),
            Err(error) => search.refuse(&disk.device.name, &error),
        }
    }
    None
}

/// The disks with this serial; one whose serial cannot be read is refused.
fn with_serial<'a>(disks: &'a [Disk], serial: &str, search: &mut Search) -> Vec<&'a Disk> {
    let mut found = Vec::new();
    for disk in disks {
        let name = &disk.device.name;
        match effect(READ_SERIAL.on(&[&name]), || disk.serial()) {
            Ok(theirs) if theirs.as_deref() == Some(serial) => found.push(disk),
            Ok(_) => {}
            Err(error) => search.refuse(name, &error),
        }
    }
    found
}

fn describe(found: &Found, config: &Config, report: &mut Report) {
    let Found { root, also_proven, .. } = found;
    let found_by = match config.disk {
        DiskChoice::Proof => "proof",
        DiskChoice::Name(_) | DiskChoice::Serial(_) => "cvm.disk",
    };
    log::info!("disk {}, proven by the root hash", root.name);
    if !also_proven.is_empty() {
        log::warn!(
            "{} proves it as well: {} is taken, the first by name",
            also_proven.join(", "),
            root.name
        );
    }
    report.disk =
        Some(DiskFacts { name: root.name.clone(), found_by, also_proven: also_proven.clone() });
    report.verity = Some(VerityFacts {
        root_hash: root.verity.root_hash(),
        salt: hex::encode(&root.verity.params.salt),
        data_blocks: root.verity.params.data_blocks,
        block_size: verity::BLOCK_SIZE,
        parameters_from: match config.verity {
            Some(_) => "command line",
            None => "superblock",
        },
        data: root.verity.data.name.clone(),
        hash: root.verity.hash.name.clone(),
        hash_start: root.verity.tree,
    });
}
