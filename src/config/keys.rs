//! The keys, one a row, and what they come to together.

use std::time::Duration;

use log::LevelFilter;

use super::handoff;
use super::layers::{self, Words};
use super::measure::{MEASURES, Measure};
use super::partitions::{self, Partitions};
use super::values::{
    ACTIONS, DataDisk, DiskChoice, DiskName, LEVELS, Medium, REACTIONS, SHARES, SYSTEMD_BOOLEANS,
    TAGS, Tags, VOLUME_MIN, YES_NO, cipher, data, disk, hash_offset, medium, one_of, overlay,
    root_hash, root_kinds, salt, shares, timeout, volume, volume_min,
};
use super::{Config, Layout};
use crate::error::{Error, Result};
use crate::format::fstab::Share;
use crate::format::rootfs::Kind;
use crate::format::verity::{HashOffset, OnCorruption, RootHash};

/// What the keys said, before the ones that belong together meet.
#[derive(Default)]
pub(super) struct Given {
    pub(super) root_hash: Option<RootHash>,
    pub(super) verity_salt: Option<Vec<u8>>,
    pub(super) verity_data_blocks: Option<u64>,
    pub(super) hash_offset: Option<HashOffset>,
    pub(super) on_corruption: Option<OnCorruption>,
    pub(super) disk: Option<DiskChoice>,
    pub(super) volume: Option<DiskName>,
    pub(super) volume_min: Option<u64>,
    pub(super) data: Vec<DataDisk>,
    pub(super) root_kinds: Option<Vec<Kind>>,
    pub(super) cipher: Option<String>,
    pub(super) integrity: Option<String>,
    pub(super) tags: Option<Tags>,
    pub(super) grow: Option<bool>,
    pub(super) timeout: Option<Duration>,
    pub(super) log: Option<LevelFilter>,
    pub(super) shares: Option<Vec<Share>>,
    pub(super) tmp: Option<Medium>,
    pub(super) var: Option<Medium>,
    pub(super) overlay: Option<Vec<String>>,
    pub(super) credentials: Option<bool>,
    pub(super) measure: Option<Measure>,
    pub(super) init: Option<String>,
    pub(super) module_parameters: Vec<(String, String)>,
    pub(super) layers: Words,
    pub(super) handoff: handoff::Words,
    pub(super) begins: bool,
    pub(super) ends: bool,
}

/// A word without a value that says something about the line itself.
pub(super) type Mark = (&'static str, fn(&mut Given));

/// The image build puts them around what it writes, because a boot loader that has no room for a
/// line leaves its last words out, and goes on.
pub(super) const MARKS: &[Mark] =
    &[("cvm.begin", |given| given.begins = true), ("cvm.end", |given| given.ends = true)];

/// A key and how its value is taken; the text of an error says what the value should have been.
pub(super) type Key = (&'static str, fn(&mut Given, &str) -> std::result::Result<(), String>);

pub(super) const KEYS: &[Key] = &[
    ("roothash", |given, text| {
        given.root_hash = Some(root_hash(text)?);
        Ok(())
    }),
    ("cvm.verity_salt", |given, text| {
        given.verity_salt = Some(salt(text)?);
        Ok(())
    }),
    ("cvm.verity_data_blocks", |given, text| {
        let blocks = text.parse().map_err(|_| "not a number of blocks")?;
        given.verity_data_blocks = Some(blocks);
        Ok(())
    }),
    ("cvm.verity_hash_offset", |given, text| {
        given.hash_offset = Some(hash_offset(text)?);
        Ok(())
    }),
    ("cvm.verity_on_corruption", |given, text| {
        given.on_corruption = Some(one_of(text, REACTIONS)?);
        Ok(())
    }),
    ("cvm.disk", |given, text| {
        given.disk = Some(disk(text)?);
        Ok(())
    }),
    ("cvm.volume", |given, text| {
        given.volume = Some(volume(text)?);
        Ok(())
    }),
    ("cvm.volume_min", |given, text| {
        given.volume_min = Some(volume_min(text)?);
        Ok(())
    }),
    ("cvm.data", |given, text| {
        let data = data(text)?;
        if given.data.iter().any(|other| other.name == data.name) {
            return Err(format!("the name {} is given twice", data.name));
        }
        given.data.push(data);
        Ok(())
    }),
    ("rootfstype", |given, text| {
        given.root_kinds = Some(root_kinds(text)?);
        Ok(())
    }),
    ("cvm.cipher", |given, text| {
        given.cipher = Some(text.to_owned());
        Ok(())
    }),
    ("cvm.integrity", |given, text| {
        given.integrity = Some(text.to_owned());
        Ok(())
    }),
    ("cvm.tags", |given, text| {
        given.tags = Some(one_of(text, TAGS)?);
        Ok(())
    }),
    // Looked up by itself when it is needed: see `Config::on_failure`.
    ("cvm.on_failure", |_, text| one_of(text, ACTIONS).map(drop)),
    ("cvm.grow", |given, text| {
        given.grow = Some(one_of(text, YES_NO)?);
        Ok(())
    }),
    ("cvm.timeout", |given, text| {
        given.timeout = Some(timeout(text)?);
        Ok(())
    }),
    ("cvm.log", |given, text| {
        given.log = Some(one_of(text, LEVELS)?);
        Ok(())
    }),
    ("cvm.shares", |given, text| {
        given.shares = Some(shares(text)?);
        Ok(())
    }),
    ("cvm.tmp", |given, text| {
        given.tmp = Some(medium(text)?);
        Ok(())
    }),
    ("cvm.var", |given, text| {
        given.var = Some(medium(text)?);
        Ok(())
    }),
    ("cvm.overlay", |given, text| {
        given.overlay = Some(overlay(text)?);
        Ok(())
    }),
    ("systemd.import_credentials", |given, text| {
        given.credentials = Some(one_of(text, SYSTEMD_BOOLEANS)?);
        Ok(())
    }),
    ("cvm.measure", |given, text| {
        given.measure = Some(one_of(text, MEASURES)?);
        Ok(())
    }),
    ("init", |given, text| {
        if !text.starts_with('/') {
            return Err("not an absolute path".into());
        }
        given.init = Some(text.to_owned());
        Ok(())
    }),
];

/// The keys of a root of layers: see [`super::layers`].
pub(super) const LAYER_KEYS: &[Key] = &[
    ("cvm.layers", |given, text| {
        given.layers.proofs = Some(layers::proofs(text)?);
        Ok(())
    }),
    ("cvm.cow", |given, text| {
        given.layers.cow = Some(one_of(text, layers::COWS)?);
        Ok(())
    }),
    ("cvm.unverified", |given, text| {
        given.layers.unverified = Some(one_of(text, YES_NO)?);
        Ok(())
    }),
    ("boot", |given, text| {
        given.layers.boot |= text == layers::BOOT;
        Ok(())
    }),
    ("cocoon.layers", |given, text| {
        given.layers.disks = Some(layers::disks(text)?);
        Ok(())
    }),
    ("cocoon.cow", |given, text| {
        given.layers.cow_disk = Some(layers::disk(text)?);
        Ok(())
    }),
    ("cocoon.timeout", |given, text| {
        given.layers.timeout = Some(timeout(text)?);
        Ok(())
    }),
    ("cocoon.hostname", |given, text| {
        given.layers.hostname = Some(layers::hostname(text)?);
        Ok(())
    }),
    // Of no concern to a root that is no image of an engine, so it is looked at later.
    ("ip", |given, text| {
        given.layers.networks.push(text.to_owned());
        Ok(())
    }),
];

/// The keys of what a boot hands over to: see [`super::handoff`].
pub(super) const HANDOFF_KEYS: &[Key] = &[
    ("cvm.handoff", |given, text| {
        given.handoff.way = Some(one_of(text, handoff::WAYS)?);
        Ok(())
    }),
    ("cvm.kexec_kernel", |given, text| handoff::take(&mut given.handoff.kernel, text)),
    ("cvm.kexec_initramfs", |given, text| handoff::take(&mut given.handoff.initramfs, text)),
    ("cvm.kexec_cmdline", |given, text| handoff::take(&mut given.handoff.cmdline, text)),
];

/// Keys of which each further one says something more.
pub(super) const REPEATABLE: &[&str] = &["cvm.data", "boot", "ip"];

/// Keys that others read as well, and may give without a value.
pub(super) const SHARED: &[&str] = &["boot", "ip"];

/// Long enough for slow firmware to show its disks, short enough that a dead host is noticed.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// What cryptsetup's users get when they ask for authenticated encryption.
const DEFAULT_CIPHER: &str = "aes-gcm-random";

impl Given {
    /// Fills in the defaults and joins the keys that only make sense together.
    pub(super) fn settle(mut self) -> Result<Config> {
        // First, because whatever else is wrong may be for want of the words that were cut off.
        if self.begins != self.ends {
            return Err(Error::new(
                "cvm.begin and cvm.end do not stand together: the command line was cut",
            ));
        }
        let next_kernel = handoff::settle(&mut self)?;
        let layout = if self.layers.are_given() {
            Layout::Layers(layers::settle(&mut self)?)
        } else {
            Layout::Partitions(partitions::settle(&mut self, next_kernel)?)
        };
        require_different_disks(&layout, &self.data)?;
        let cipher_name = self.cipher.as_deref().unwrap_or(DEFAULT_CIPHER);
        let cipher = cipher(cipher_name, self.integrity.as_deref())?;
        let tags = match (&cipher.tag, self.tags) {
            (Some(_), tags) => Some(tags.unwrap_or(Tags::Memory)),
            (None, None) => None,
            (None, Some(_)) => {
                return Err(Error::new(format!(
                    "cvm.tags= with cvm.integrity={}: without integrity there are no tags",
                    cipher.integrity
                )));
            }
        };
        // What is read before the next kernel starts is an error at once, and nothing runs after it.
        let on_corruption = match &layout {
            Layout::Partitions(Partitions { next_kernel: Some(_), .. }) => OnCorruption::IoError,
            _ => self.on_corruption.unwrap_or_default(),
        };
        // The shares are part of the contract of disks with partitions.
        let shares = match &layout {
            Layout::Partitions(_) => self.shares.unwrap_or_else(|| SHARES.to_vec()),
            Layout::Layers(_) => Vec::new(),
        };
        Ok(Config {
            layout,
            on_corruption,
            volume_min: self.volume_min.unwrap_or(VOLUME_MIN),
            data: self.data,
            cipher,
            tags,
            grow: self.grow.unwrap_or(true),
            timeout: self.timeout.unwrap_or(DEFAULT_TIMEOUT),
            log: self.log.unwrap_or(LevelFilter::Info),
            shares,
            tmp: self.tmp,
            var: self.var,
            overlay: self.overlay.unwrap_or_default(),
            credentials: self.credentials.unwrap_or(false),
            measure: self.measure.unwrap_or(Measure::Auto),
            module_parameters: self.module_parameters,
            init: self.init.unwrap_or_else(|| "/sbin/init".to_owned()),
        })
    }
}

/// A name is one disk's, and a disk is for one thing.
fn require_different_disks(layout: &Layout, data: &[DataDisk]) -> Result<()> {
    let mut named = Vec::new();
    match layout {
        Layout::Partitions(partitions) => {
            if let DiskChoice::Named(disk) = &partitions.disk {
                named.push(disk.clone());
            }
            named.extend(partitions.volume.clone());
        }
        Layout::Layers(layers) => named.extend(layers.disks().cloned()),
    }
    named.extend(data.iter().map(|data| DiskName::Serial(data.serial.clone())));
    let twice = named
        .iter()
        .enumerate()
        .find(|(at, disk)| named.iter().take(*at).any(|other| other == *disk));
    match twice {
        Some((_, DiskName::Serial(serial))) => {
            Err(Error::new(format!("the serial {serial:?} is given to two disks")))
        }
        Some((_, disk)) => Err(Error::new(format!("the disk {disk} is given twice"))),
        None => Ok(()),
    }
}
