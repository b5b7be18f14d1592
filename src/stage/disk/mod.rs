//! Stage 2: the disks. The root's is the one that proves the root hash; the volume's and those of
//! further data are others where the command line says so.
//!
//! Of several that are there at the same time and prove it, the first by name is taken: `sda`, then
//! shorter names before longer ones, then by their letters. All of them hold the same root, and what
//! lies on partition 4 is read of none. Of disks whose partitions the root hash names none is taken
//! but the only one.

mod layers;
mod places;
mod search;
mod seen;
mod volume;

use std::time::Instant;

use self::places::{Verdict, examine};
use self::search::{Search, nothing_found};
use self::seen::Seen;
use super::data::{self, Verified};
use super::modules;
use crate::config::{Config, DataDisk, DiskChoice, DiskName, Layers, Layout, Partitions, Upper};
use crate::effect::{Effect, effect};
use crate::error::{Error, Result};
use crate::format::{hex, verity};
use crate::kernel::block::{self, Device, Disk};
use crate::kernel::uevent::{Listener, Wake};
use crate::report::{DiskFacts, Report, Stage, VerityFacts};
use crate::stage::verity::Verity;

pub use self::layers::LayerDisk;
pub use self::volume::{Growth, VolumePlace};

const LISTEN: Effect<0> = Effect::new("listen", "listen for uevents");
const LIST_DISKS: Effect<0> = Effect::new("list-disks", "list the disks");
const WAIT: Effect<0> = Effect::new("wait-for-disk", "wait for a device");

/// What a boot needs of its disks.
#[derive(Debug)]
pub struct Disks<'a> {
    /// What the root is made of.
    pub root: RootDisks<'a>,
    /// Where the volume goes, where there is one.
    pub volume: Option<VolumePlace>,
    /// Further data, proven, as the command line has it in order.
    pub data: Vec<Verified>,
}

/// What the root is made of, and what the command line says of it.
#[derive(Debug)]
pub enum RootDisks<'a> {
    /// A partition of a disk.
    Partition {
        /// Which one.
        wanted: &'a Partitions,
        /// The disk.
        disk: Box<RootDisk>,
    },
    /// Layers on a disk each.
    Layers {
        /// Which ones.
        wanted: &'a Layers,
        /// From the topmost down.
        layers: Vec<LayerDisk>,
        /// What is above them where that is the host's, too.
        plain: Option<Device>,
    },
}

impl RootDisks<'_> {
    /// What the hash tree of a root on a partition was proven with.
    #[must_use]
    pub fn params(&self) -> Option<&verity::Params> {
        match self {
            Self::Partition { disk, .. } => Some(&disk.verity.params),
            Self::Layers { .. } => None,
        }
    }
}

/// The disk that holds the root, proven.
#[derive(Debug)]
pub struct RootDisk {
    /// Kernel name.
    name: String,
    /// Its partitions are named by the root hash, not numbered.
    by_uuid: bool,
    /// Other disks that prove the root hash.
    also_proven: Vec<String>,
    /// Data and hash tree.
    pub verity: Verity,
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
pub fn find<'a>(config: &'a Config, report: &mut Report) -> Result<Disks<'a>> {
    // Before the first look, so that no device appears unseen between look and wait.
    let listener = effect(LISTEN, Listener::open)?;
    let deadline = Instant::now() + config.timeout;
    let mut searches = Searches::new(config);
    let mut any_seen = false;
    loop {
        modules::look_for_devices()?;
        modules::need(Stage::Disk)?;
        let disks = effect(LIST_DISKS, block::disks)?;
        any_seen |= !disks.is_empty();
        if let Some(found) = searches.look(config, &Seen::new(&disks))? {
            describe(&found.root, report);
            return Ok(found);
        }
        let wake = effect(WAIT, || listener.wait_for_device(deadline))?;
        if wake == Wake::Timeout {
            return Err(nothing_found(&searches.all(), any_seen, config.timeout));
        }
    }
}

/// All that is looked for.
struct Searches {
    /// One for a root on a partition, else one a layer.
    root: Vec<Search>,
    /// Where what is written has a disk of its own.
    upper: Option<Search>,
    data: Vec<Search>,
}

impl Searches {
    fn new(config: &Config) -> Self {
        let on_disk = |disk: &DiskName, what: &str| {
            Search::new(format!("usable disk {disk} {what}"), format!(" {what}"))
        };
        let (root, upper) = match &config.layout {
            Layout::Partitions(partitions) => {
                let root = match &partitions.disk {
                    DiskChoice::Proof => "disk that proves roothash=".to_owned(),
                    DiskChoice::Named(disk) => format!("usable disk {disk}"),
                };
                let upper = partitions.volume.as_ref();
                (vec![Search::new(root, "")], upper.map(|disk| on_disk(disk, "for the volume")))
            }
            Layout::Layers(layers) => {
                let upper = match &layers.upper {
                    Upper::Volume(Some(disk)) => Some(on_disk(disk, "for the volume")),
                    Upper::Volume(None) => {
                        let wanted = "partition for the volume beside the layers";
                        Some(Search::new(wanted, " for the volume"))
                    }
                    Upper::Plain(disk) => Some(on_disk(disk, "for what is written")),
                    Upper::Memory => None,
                };
                (layers::searches(layers), upper)
            }
        };
        let data = |DataDisk { name, serial, .. }: &DataDisk| {
            Search::new(
                format!("disk with serial {serial:?} that proves the data {name}"),
                format!(" for the data {name}"),
            )
        };
        Self { root, upper, data: config.data.iter().map(data).collect() }
    }

    fn all(&self) -> Vec<&Search> {
        self.root.iter().chain(&self.upper).chain(&self.data).collect()
    }

    /// Looks for all of it: what was there the last time may have gone since. `None` when something
    /// is missing.
    fn look<'a>(&mut self, config: &'a Config, seen: &Seen<'_>) -> Result<Option<Disks<'a>>> {
        let found = match &config.layout {
            Layout::Partitions(partitions) => self.look_for_partitions(partitions, seen)?,
            Layout::Layers(layers) => self.look_for_layers(layers, seen)?,
        };
        // Each of them, so that whatever is missing is named.
        let data: Vec<_> = config
            .data
            .iter()
            .zip(&mut self.data)
            .map(|(wanted, search)| {
                let verified = look_for_data(wanted, seen, search);
                search.end(verified)
            })
            .collect();
        let found = found.zip(data.into_iter().collect());
        Ok(found.map(|((root, volume), data)| Disks { root, volume, data }))
    }

    fn look_for_partitions<'a>(
        &mut self,
        wanted: &'a Partitions,
        seen: &Seen<'_>,
    ) -> Result<Option<(RootDisks<'a>, Option<VolumePlace>)>> {
        let [search, ..] = self.root.as_mut_slice() else {
            return Ok(None);
        };
        let mut proven = look_for_root(wanted, seen, search)?.into_iter();
        let mut root = search.end(proven.next());
        let volume = match &wanted.volume {
            _ if wanted.next_kernel.is_some() => None,
            Some(disk) => {
                let roots: Vec<_> = root.iter().map(|root| &*root.name).collect();
                self.look_for_upper(disk, seen, &roots)
            }
            None => root.as_mut().and_then(|root| root.volume.take()),
        };
        let is_complete = volume.is_some() || wanted.next_kernel.is_some();
        Ok(root.filter(|_| is_complete).map(|root| {
            let also_proven = proven.map(|other| other.name).collect();
            let disk = Box::new(RootDisk { also_proven, ..root });
            (RootDisks::Partition { wanted, disk }, volume)
        }))
    }

    fn look_for_layers<'a>(
        &mut self,
        wanted: &'a Layers,
        seen: &Seen<'_>,
    ) -> Result<Option<(RootDisks<'a>, Option<VolumePlace>)>> {
        let upper = wanted.upper.disk();
        let given_up = match (upper, &mut self.upper) {
            (Some(disk), Some(search)) => seen.named(disk, search),
            _ => Vec::new(),
        };
        let found = layers::look(wanted, seen, &given_up, &mut self.root)?;
        let place = match (upper, &mut self.upper) {
            (Some(disk), _) => {
                let roots: Vec<_> = found.iter().flatten().map(|layer| &*layer.disk).collect();
                self.look_for_upper(disk, seen, &roots)
            }
            (None, Some(search)) => match &found {
                Some(found) => {
                    let place = layers::volume(found, seen, search);
                    search.end(place)
                }
                None => search.adjourn(),
            },
            (None, None) => None,
        };
        let (plain, volume) = match (&wanted.upper, place) {
            (Upper::Memory, _) => (None, None),
            (_, None) => return Ok(None),
            (Upper::Plain(_), Some(VolumePlace { device, .. })) => (Some(device), None),
            (Upper::Volume(_), place) => (None, place),
        };
        Ok(found.map(|layers| (RootDisks::Layers { wanted, layers, plain }, volume)))
    }

    /// The disk of its own for what is written, none of the `roots`.
    fn look_for_upper(
        &mut self,
        wanted: &DiskName,
        seen: &Seen<'_>,
        roots: &[&str],
    ) -> Option<VolumePlace> {
        let search = self.upper.as_mut()?;
        let place = volume::look(wanted, seen, roots, search);
        search.end(place)
    }
}

/// The disks that prove the root hash, in order.
fn look_for_root(
    partitions: &Partitions,
    seen: &Seen<'_>,
    search: &mut Search,
) -> Result<Vec<RootDisk>> {
    let chosen: Vec<_> = match &partitions.disk {
        DiskChoice::Proof => without_volume(seen, partitions, search),
        DiskChoice::Named(disk) => seen.named(disk, search),
    };
    let is_only_one = matches!(partitions.disk, DiskChoice::Named(DiskName::Kernel(_)));
    let mut proven = Vec::new();
    for disk in chosen {
        let name = &disk.device.name;
        let of_disk = |error| Error::new(format!("{name}: {error}"));
        match examine(partitions, disk) {
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
fn without_volume<'a>(
    seen: &Seen<'a>,
    partitions: &Partitions,
    search: &mut Search,
) -> Vec<&'a Disk> {
    let Some(wanted) = &partitions.volume else {
        return seen.disks.iter().collect();
    };
    let volume = seen.named(wanted, search);
    for disk in &volume {
        search.refuse(&disk.device.name, &"cvm.volume= has it for the volume");
    }
    let is_volume = |disk: &Disk| volume.iter().any(|other| other.device.dev == disk.device.dev);
    seen.disks.iter().filter(|disk| !is_volume(disk)).collect()
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
fn look_for_data(wanted: &DataDisk, seen: &Seen<'_>, search: &mut Search) -> Option<Verified> {
    let name = DiskName::Serial(wanted.serial.clone());
    for disk in seen.named(&name, search) {
        match data::prove(wanted, &disk.device) {
            Ok(verified) => return Some(verified),
            Err(error) => search.refuse(&disk.device.name, &error),
        }
    }
    None
}

/// What the log and the report say of the root's disks.
fn describe(root: &RootDisks<'_>, report: &mut Report) {
    match root {
        RootDisks::Partition { wanted, disk } => describe_partition(disk, wanted, report),
        RootDisks::Layers { layers, .. } => {
            for (number, LayerDisk { device, verity, .. }) in layers.iter().enumerate() {
                let proven =
                    if verity.is_some() { "proven by its root hash" } else { "not verified" };
                log::info!("layer {number} on {}, {proven}", device.name);
            }
        }
    }
}

fn describe_partition(root: &RootDisk, partitions: &Partitions, report: &mut Report) {
    let RootDisk { name, also_proven, verity, .. } = root;
    let found_by = match partitions.disk {
        DiskChoice::Proof => "proof",
        DiskChoice::Named(_) => "cvm.disk",
    };
    log::info!("disk {name}, proven by the root hash");
    if !also_proven.is_empty() {
        log::warn!(
            "{} proves it as well: {name} is taken, the first by name",
            also_proven.join(", ")
        );
    }
    report.disk =
        Some(DiskFacts { name: name.clone(), found_by, also_proven: also_proven.clone() });
    report.verity = Some(VerityFacts {
        root_hash: verity.root_hash(),
        salt: hex::encode(&verity.params.salt),
        data_blocks: verity.params.data_blocks,
        block_size: verity::BLOCK_SIZE,
        parameters_from: match partitions.verity {
            Some(_) => "command line",
            None => "superblock",
        },
        data: verity.data.name.clone(),
        hash: verity.hash.name.clone(),
        hash_start: verity.tree,
    });
}
