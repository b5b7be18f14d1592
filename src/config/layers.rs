//! The layout of layers: an image whose layers lie on a disk each, below a writable one.
//!
//! The keys `boot=cocoon-overlay`, `cocoon.*` and `ip=` are written by Cocoon's engine, which takes no
//! further words; ours say what of it is proven, and stand in the initramfs where that is so.

use std::time::Duration;

use super::keys::Given;
use super::values::{self, DiskName};
use crate::error::{Error, Result};
use crate::format::network::Network;
use crate::format::verity::RootHash;

/// A root of layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layers {
    /// `cvm.layers=` and `cocoon.layers=`: from the topmost down, one at least.
    pub layers: Vec<Layer>,
    /// `cvm.cow=`, with the disk that it is on.
    pub upper: Upper,
    /// `cocoon.hostname=`
    pub hostname: Option<String>,
    /// `ip=`, as often as it names a device.
    pub networks: Vec<Network>,
    /// Whether an engine has written the words, whose guests expect files of it.
    pub by_engine: bool,
}

impl Layers {
    /// Whether each layer is proven.
    #[must_use]
    pub fn are_verified(&self) -> bool {
        self.layers.iter().all(|layer| layer.proof.is_some())
    }

    /// The disks that are named.
    pub(super) fn disks(&self) -> impl Iterator<Item = &DiskName> {
        self.layers.iter().filter_map(|layer| layer.disk.as_ref()).chain(self.upper.disk())
    }
}

/// A layer: it is named, or proven, or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The disk that it should be on.
    pub disk: Option<DiskName>,
    /// What it must prove. Without, it is whatever the host has on that disk.
    pub proof: Option<Proof>,
}

/// What proves a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proof {
    /// Root hash of its hash tree.
    pub root_hash: RootHash,
    /// Data blocks of 4096 bytes, behind which the hash area begins.
    pub blocks: u64,
}

/// Where what is written goes (`cvm.cow=`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upper {
    /// The encrypted volume, which takes this disk, whole, or where none is named the partition for it
    /// on the disk that the layers are partitions of.
    Volume(Option<DiskName>),
    /// Memory; nothing outlives the boot.
    Memory,
    /// An ext4 on this disk as it is, which the host reads and writes.
    Plain(DiskName),
}

impl Upper {
    /// The disk that is given up for it.
    #[must_use]
    pub fn disk(&self) -> Option<&DiskName> {
        match self {
            Self::Volume(disk) => disk.as_ref(),
            Self::Memory => None,
            Self::Plain(disk) => Some(disk),
        }
    }
}

/// What `cvm.cow=` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cow {
    Encrypted,
    Memory,
    Plain,
}

pub(super) const COWS: &[(&str, Cow)] =
    &[("encrypted", Cow::Encrypted), ("memory", Cow::Memory), ("plain", Cow::Plain)];

/// The value of `boot=` that is meant for this program; others are for others.
pub(super) const BOOT: &str = "cocoon-overlay";

/// What the keys of this layout said.
#[derive(Default)]
pub(super) struct Words {
    pub(super) proofs: Option<Vec<Proof>>,
    pub(super) cow: Option<Cow>,
    pub(super) unverified: Option<bool>,
    pub(super) boot: bool,
    pub(super) disks: Option<Vec<DiskName>>,
    pub(super) cow_disk: Option<DiskName>,
    pub(super) timeout: Option<Duration>,
    pub(super) hostname: Option<String>,
    pub(super) networks: Vec<String>,
}

impl Words {
    /// Whether any of them says that the root is made of layers.
    pub(super) fn are_given(&self) -> bool {
        let Self { proofs, cow, unverified, boot, disks, cow_disk, .. } = self;
        *boot
            || proofs.is_some()
            || cow.is_some()
            || unverified.is_some()
            || disks.is_some()
            || cow_disk.is_some()
    }
}

pub(super) type IsGiven = fn(&Given) -> bool;

/// Keys that say nothing of such a root.
const OF_PARTITIONS: &[(&str, IsGiven)] = &[
    ("roothash", |given| given.root_hash.is_some()),
    ("cvm.verity_salt", |given| given.verity_salt.is_some()),
    ("cvm.verity_data_blocks", |given| given.verity_data_blocks.is_some()),
    ("cvm.verity_hash_offset", |given| given.hash_offset.is_some()),
    ("cvm.disk", |given| given.disk.is_some()),
    ("rootfstype", |given| given.root_kinds.is_some()),
    ("cvm.shares", |given| given.shares.is_some()),
    ("cvm.tmp", |given| given.tmp.is_some()),
    ("cvm.var", |given| given.var.is_some()),
    ("cvm.overlay", |given| given.overlay.is_some()),
];

/// Keys that say something of the encrypted volume only.
const OF_THE_VOLUME: &[(&str, IsGiven)] = &[
    ("cvm.volume", |given| given.volume.is_some()),
    ("cvm.volume_min", |given| given.volume_min.is_some()),
    ("cvm.grow", |given| given.grow.is_some()),
    ("cvm.cipher", |given| given.cipher.is_some()),
    ("cvm.integrity", |given| given.integrity.is_some()),
    ("cvm.tags", |given| given.tags.is_some()),
];

/// Joins the keys.
pub(super) fn settle(given: &mut Given) -> Result<Layers> {
    require_none(given, OF_PARTITIONS, "where the root is made of layers")?;
    let words = std::mem::take(&mut given.layers);
    let layers = join(words.proofs, words.disks)?;
    let allowed = words.unverified.unwrap_or(false);
    let is_verified = layers.iter().all(|layer| layer.proof.is_some());
    if !is_verified && !allowed {
        return Err(Error::new(
            "cocoon.layers= without cvm.layers=: the layers are not verified, which \
             cvm.unverified=yes would allow",
        ));
    }
    let cow = words.cow.unwrap_or(if is_verified { Cow::Encrypted } else { Cow::Plain });
    match (cow, allowed) {
        (Cow::Plain, false) => {
            return Err(Error::new(
                "cvm.cow=plain: what is on it is not verified, which cvm.unverified=yes would allow",
            ));
        }
        (Cow::Encrypted | Cow::Memory, true) if is_verified => {
            return Err(Error::new("cvm.unverified=yes, but all is verified"));
        }
        _ => {}
    }
    if cow != Cow::Encrypted {
        require_none(given, OF_THE_VOLUME, "without cvm.cow=encrypted")?;
    }
    let upper =
        match cow {
            // The engine names a disk in any case.
            Cow::Memory => Upper::Memory,
            Cow::Encrypted => Upper::Volume(upper_disk(words.cow_disk, given.volume.take())?),
            Cow::Plain => Upper::Plain(words.cow_disk.ok_or_else(|| {
                Error::new("cvm.cow=plain: cocoon.cow= does not say on which disk")
            })?),
        };
    if given.timeout.is_some() && words.timeout.is_some() {
        return Err(Error::new("cvm.timeout= and cocoon.timeout= exclude each other"));
    }
    given.timeout = given.timeout.or(words.timeout);
    let by_engine = words.boot || layers.iter().any(|layer| layer.disk.is_some());
    let networks = networks(&words.networks)?;
    Ok(Layers { layers, upper, hostname: words.hostname, networks, by_engine })
}

pub(super) fn require_none(given: &Given, keys: &[(&str, IsGiven)], place: &str) -> Result<()> {
    match keys.iter().find(|(_, is_given)| is_given(given)) {
        Some((key, _)) => Err(Error::new(format!("{key}= says nothing {place}"))),
        None => Ok(()),
    }
}

/// Each layer, by what is said of it in either list.
fn join(proofs: Option<Vec<Proof>>, disks: Option<Vec<DiskName>>) -> Result<Vec<Layer>> {
    match (proofs, disks) {
        (None, None) => {
            Err(Error::new("neither cvm.layers= nor cocoon.layers= says what the root is made of"))
        }
        (Some(proofs), None) => {
            Ok(proofs.into_iter().map(|proof| Layer { disk: None, proof: Some(proof) }).collect())
        }
        (None, Some(disks)) => {
            Ok(disks.into_iter().map(|disk| Layer { disk: Some(disk), proof: None }).collect())
        }
        (Some(proofs), Some(disks)) if proofs.len() == disks.len() => Ok(disks
            .into_iter()
            .zip(proofs)
            .map(|(disk, proof)| Layer { disk: Some(disk), proof: Some(proof) })
            .collect()),
        // What is longer than the kernel takes loses its end.
        (Some(proofs), Some(disks)) => Err(Error::new(format!(
            "cvm.layers= has {}, but cocoon.layers= has {}: was the command line cut?",
            proofs.len(),
            disks.len()
        ))),
    }
}

/// The disk of what is above the layers, if one is named.
fn upper_disk(by_engine: Option<DiskName>, ours: Option<DiskName>) -> Result<Option<DiskName>> {
    match (by_engine, ours) {
        (Some(disk), Some(other)) => Err(Error::new(format!(
            "cocoon.cow= and cvm.volume= both name a disk for what is written, {disk} and {other}"
        ))),
        (disk, other) => Ok(disk.or(other)),
    }
}

/// Those that name a device.
fn networks(values: &[String]) -> Result<Vec<Network>> {
    let mut networks: Vec<Network> = Vec::new();
    for value in values {
        let of_value = |cause: String| Error::new(format!("ip={value}: {cause}"));
        match Network::parse(value).map_err(of_value)? {
            Some(network) if networks.iter().any(|other| other.device == network.device) => {
                return Err(of_value(format!("{} is given twice", network.device)));
            }
            Some(network) => networks.push(network),
            None => log::info!("ip={value} is passed over: it names no network device"),
        }
    }
    Ok(networks)
}

/// `HASH@BLOCKS,…`
pub(super) fn proofs(text: &str) -> std::result::Result<Vec<Proof>, String> {
    text.split(',')
        .map(|entry| match values::proof(entry)? {
            (root_hash, Some(blocks)) => Ok(Proof { root_hash, blocks }),
            (_, None) => Err("not a list of HASH@BLOCKS".into()),
        })
        .collect()
}

/// The engine's list of disks.
pub(super) fn disks(text: &str) -> std::result::Result<Vec<DiskName>, String> {
    let mut disks = Vec::new();
    for entry in text.split(',') {
        let disk = disk(entry)?;
        if disks.contains(&disk) {
            return Err(format!("{disk} is named twice"));
        }
        disks.push(disk);
    }
    Ok(disks)
}

/// As the engine names a disk: by a serial, or by `/dev/NAME`.
pub(super) fn disk(text: &str) -> std::result::Result<DiskName, String> {
    match text.strip_prefix("/dev/") {
        Some(name) if !name.is_empty() && !name.contains('/') => {
            Ok(DiskName::Kernel(name.to_owned()))
        }
        None if !text.is_empty() && !text.contains('/') => Ok(DiskName::Serial(text.to_owned())),
        _ => Err(format!("{text:?} is neither a serial nor /dev/NAME")),
    }
}

/// The longest name of a machine that Linux takes (`__NEW_UTS_LEN`) is one longer.
const HOSTNAME_MAX: usize = 63;

pub(super) fn hostname(text: &str) -> std::result::Result<String, String> {
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let begins = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if begins && text.len() <= HOSTNAME_MAX && text.bytes().all(is_known) {
        return Ok(text.to_owned());
    }
    Err(format!("not 1 to {HOSTNAME_MAX} letters, digits, dots, _ and -, a letter or digit first"))
}

#[cfg(test)]
mod tests;
