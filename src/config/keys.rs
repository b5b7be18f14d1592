//! The keys, one a row, and what they come to together.

use std::time::Duration;

use log::LevelFilter;

use super::Config;
use super::measure::{MEASURES, Measure};
use super::values::{
    ACTIONS, DataDisk, DiskChoice, LEVELS, Medium, REACTIONS, SHARES, SYSTEMD_BOOLEANS, TAGS, Tags,
    VOLUME_MIN, YES_NO, cipher, data, disk, hash_offset, medium, one_of, overlay, root_hash,
    root_kinds, salt, shares, timeout, volume, volume_min,
};
use crate::error::{Error, Result};
use crate::format::fstab::Share;
use crate::format::rootfs::Kind;
use crate::format::verity::{self, HashOffset, OnCorruption, RootHash};

/// What the keys said, before the ones that belong together meet.
#[derive(Default)]
pub(super) struct Given {
    root_hash: Option<RootHash>,
    verity_salt: Option<Vec<u8>>,
    verity_data_blocks: Option<u64>,
    hash_offset: Option<HashOffset>,
    on_corruption: Option<OnCorruption>,
    disk: Option<DiskChoice>,
    volume: Option<String>,
    volume_min: Option<u64>,
    data: Vec<DataDisk>,
    root_kinds: Option<Vec<Kind>>,
    cipher: Option<String>,
    integrity: Option<String>,
    tags: Option<Tags>,
    grow: Option<bool>,
    timeout: Option<Duration>,
    log: Option<LevelFilter>,
    shares: Option<Vec<Share>>,
    tmp: Option<Medium>,
    var: Option<Medium>,
    overlay: Option<Vec<String>>,
    credentials: Option<bool>,
    measure: Option<Measure>,
    init: Option<String>,
    begins: bool,
    ends: bool,
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

/// Keys of which each further one says something more.
pub(super) const REPEATABLE: &[&str] = &["cvm.data"];

/// Long enough for slow firmware to show its disks, short enough that a dead host is noticed.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// What cryptsetup's users get when they ask for authenticated encryption.
const DEFAULT_CIPHER: &str = "aes-gcm-random";

impl Given {
    /// Fills in the defaults and joins the keys that only make sense together.
    pub(super) fn settle(self) -> Result<Config> {
        // First, because whatever else is wrong may be for want of the words that were cut off.
        if self.begins != self.ends {
            return Err(Error::new(
                "cvm.begin and cvm.end do not stand together: the command line was cut",
            ));
        }
        self.require_different_disks()?;
        let root_hash = self.root_hash.ok_or_else(|| Error::new("roothash= is missing"))?;
        let verity = match (self.verity_salt, self.verity_data_blocks) {
            (None, None) => None,
            (Some(salt), Some(data_blocks)) => Some(verity::Params::new(salt, data_blocks)?),
            _ => {
                return Err(Error::new(
                    "cvm.verity_salt= and cvm.verity_data_blocks= must be given together",
                ));
            }
        };
        if let (Some(params), Some(offset)) = (&verity, self.hash_offset) {
            require_behind_the_data(params, offset)?;
        }
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
        Ok(Config {
            root_hash,
            verity,
            hash_offset: self.hash_offset,
            on_corruption: self.on_corruption.unwrap_or_default(),
            disk: self.disk.unwrap_or(DiskChoice::Proof),
            volume: self.volume,
            volume_min: self.volume_min.unwrap_or(VOLUME_MIN),
            data: self.data,
            root_kinds: self.root_kinds.unwrap_or_else(|| Kind::ALL.to_vec()),
            cipher,
            tags,
            grow: self.grow.unwrap_or(true),
            timeout: self.timeout.unwrap_or(DEFAULT_TIMEOUT),
            log: self.log.unwrap_or(LevelFilter::Info),
            shares: self.shares.unwrap_or_else(|| SHARES.to_vec()),
            tmp: self.tmp,
            var: self.var,
            overlay: self.overlay.unwrap_or_default(),
            credentials: self.credentials.unwrap_or(false),
            measure: self.measure.unwrap_or(Measure::Auto),
            init: self.init.unwrap_or_else(|| "/sbin/init".to_owned()),
        })
    }

    /// A serial names one disk, and a disk is for one thing.
    fn require_different_disks(&self) -> Result<()> {
        let root = match &self.disk {
            Some(DiskChoice::Serial(serial)) => Some(serial),
            _ => None,
        };
        let data = self.data.iter().map(|data| &data.serial);
        let mut seen = Vec::new();
        for serial in root.into_iter().chain(&self.volume).chain(data) {
            if seen.contains(&serial) {
                return Err(Error::new(format!("the serial {serial:?} is given to two disks")));
            }
            seen.push(serial);
        }
        Ok(())
    }
}

/// Of a superblock's number it can only be told when the disk is there.
fn require_behind_the_data(params: &verity::Params, offset: HashOffset) -> Result<()> {
    if params.data_blocks <= offset.block() {
        return Ok(());
    }
    Err(Error::new(format!(
        "cvm.verity_hash_offset={} lies within the data: cvm.verity_data_blocks={} are {} bytes",
        offset.bytes(),
        params.data_blocks,
        params.data_blocks.saturating_mul(verity::BLOCK_SIZE.into())
    )))
}
