//! What keys can say: their words, and what these are read as.

use std::fmt;
use std::time::Duration;

use log::LevelFilter;

use crate::error::{Error, Result};
use crate::format::crypt::{self, CIPHERS, Cipher};
use crate::format::fstab::Share;
use crate::format::hex;
use crate::format::luks2;
use crate::format::rootfs::Kind;
use crate::format::tmpfs::Size;
use crate::format::verity::{BLOCK_SIZE, HashOffset, OnCorruption, Params, RootHash};
use crate::kernel::power::Action;

/// A disk by one of its names, which are the host's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskName {
    /// The kernel's: `sda`.
    Kernel(String),
    /// Its serial.
    Serial(String),
}

impl fmt::Display for DiskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel(name) => write!(f, "/dev/{name}"),
            Self::Serial(serial) => write!(f, "with serial {serial:?}"),
        }
    }
}

/// How the root's disk is chosen (`cvm.disk=`). Whichever it is, it must prove the root hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskChoice {
    /// Any disk that proves the root hash.
    Proof,
    /// The one of this name.
    Named(DiskName),
}

/// Further verified data on a disk of its own (`cvm.data=`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataDisk {
    /// What it is called in the guest.
    pub name: String,
    /// Serial of the disk, which must prove the root hash all the same.
    pub serial: String,
    /// Root hash of the data.
    pub root_hash: RootHash,
    /// Data blocks of 4096 bytes, behind which the hash area begins; by the size of the disk where
    /// they are not given.
    pub blocks: Option<u64>,
}

/// Where the volume's integrity tags live (`cvm.tags=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tags {
    /// In guest memory, out of the host's reach: an older sector of the same boot is noticed.
    Memory,
    /// Beside the data. The host can put an older sector of the same boot back unseen.
    Disk,
}

impl Tags {
    /// By the name of `cvm.tags=`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
        }
    }
}

/// The shares that there can be, by the contract with whoever launches the guest.
pub const SHARES: &[Share] = &[
    Share { tag: "certs_share", target: "/etc/certs" },
    Share { tag: "env_share", target: "/etc/cocos" },
];

/// What a place is that must be writable although the root is not (`cvm.tmp=`, `cvm.var=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    /// Memory, at most so much of it where a size is given.
    Memory(Option<Size>),
    /// The encrypted volume.
    Volume,
}

/// Directories of the root that every boot mounts on. The root is read-only, so they cannot be made.
pub const MOUNT_POINTS: &[&str] = &["/cocos", "/dev", "/proc", "/run", "/sys", "/tmp", "/var"];

/// What a boot has made writable in any case, where the root has it.
const SCRIPTS: &str = "/cocos_init";

pub(super) const TAGS: &[(&str, Tags)] =
    &[(Tags::Memory.name(), Tags::Memory), (Tags::Disk.name(), Tags::Disk)];

pub(super) const YES_NO: &[(&str, bool)] = &[("yes", true), ("no", false)];

pub(super) const REACTIONS: &[(&str, OnCorruption)] = &[
    (OnCorruption::IoError.name(), OnCorruption::IoError),
    (OnCorruption::Restart.name(), OnCorruption::Restart),
    (OnCorruption::Panic.name(), OnCorruption::Panic),
];

pub(super) const ACTIONS: &[(&str, Action)] = &[
    ("poweroff", Action::PowerOff),
    ("reboot", Action::Reboot),
    ("halt", Action::Halt),
    ("panic", Action::Panic),
];

/// What systemd takes for a boolean (`parse_boolean` in its `src/basic/parse-util.c`).
pub(super) const SYSTEMD_BOOLEANS: &[(&str, bool)] = &[
    ("1", true),
    ("yes", true),
    ("y", true),
    ("true", true),
    ("t", true),
    ("on", true),
    ("0", false),
    ("no", false),
    ("n", false),
    ("false", false),
    ("f", false),
    ("off", false),
];

pub(super) const LEVELS: &[(&str, LevelFilter)] = &[
    ("error", LevelFilter::Error),
    ("warn", LevelFilter::Warn),
    ("info", LevelFilter::Info),
    ("debug", LevelFilter::Debug),
];

/// The least that a volume is made on, in bytes: sixteen megabytes of header, and as much again to make
/// the rest worth its name.
pub(super) const VOLUME_MIN: u64 = 2 * luks2::DATA_OFFSET;

/// The longest name in `cvm.data=`: with what goes before and behind it, it has to fit in the names of
/// the device-mapper (127 bytes).
const DATA_NAME_MAX: usize = 32;

/// What the kernel's own `rootfstype=` says of the initramfs (`init_rootfs` in its `init/do_mounts.c`).
const OF_THE_INITRAMFS: &[&str] = &["tmpfs", "ramfs"];

/// The longest `cvm.timeout=`, in seconds: an hour.
const TIMEOUT_MAX: u64 = 3600;

pub(super) fn root_hash(text: &str) -> std::result::Result<RootHash, String> {
    let digits = 2 * size_of::<RootHash>();
    if text.len() != digits {
        return Err(format!("{} characters, a SHA-256 root hash has {digits}", text.len()));
    }
    hex::decode(text)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| "not hexadecimal".into())
}

pub(super) fn salt(text: &str) -> std::result::Result<Vec<u8>, String> {
    // veritysetup writes a missing salt as a dash.
    if text == "-" {
        return Ok(Vec::new());
    }
    hex::decode(text).ok_or_else(|| "not hexadecimal".into())
}

pub(super) fn hash_offset(text: &str) -> std::result::Result<HashOffset, String> {
    let offset = text.parse().ok().and_then(HashOffset::new);
    offset.ok_or_else(|| format!("not a number of bytes that {BLOCK_SIZE} divides"))
}

/// The cipher of this name, with this integrity or else its own.
pub(super) fn cipher(name: &str, integrity: Option<&str>) -> Result<&'static Cipher> {
    crypt::cipher(name, integrity).ok_or_else(|| {
        let mut message = format!("cvm.cipher={name}");
        if let Some(integrity) = integrity {
            message += " with cvm.integrity=";
            message += integrity;
        }
        message += ": not one of";
        for (index, cipher) in CIPHERS.iter().enumerate() {
            message += if index == 0 { " " } else { ", " };
            message += cipher.name;
            message += " with ";
            message += cipher.integrity;
        }
        Error::new(message)
    })
}

pub(super) fn disk(text: &str) -> std::result::Result<DiskChoice, String> {
    match (text.strip_prefix("/dev/"), text.strip_prefix("serial:")) {
        (Some(name), _) if !name.is_empty() && !name.contains('/') => {
            Ok(DiskChoice::Named(DiskName::Kernel(name.to_owned())))
        }
        (_, Some(serial)) if !serial.is_empty() => {
            Ok(DiskChoice::Named(DiskName::Serial(serial.to_owned())))
        }
        _ => Err("neither /dev/NAME nor serial:STRING".into()),
    }
}

/// Another disk.
pub(super) fn volume(text: &str) -> std::result::Result<DiskName, String> {
    match text.strip_prefix("serial:") {
        Some(serial) if !serial.is_empty() => Ok(DiskName::Serial(serial.to_owned())),
        _ => Err("not serial:STRING".into()),
    }
}

/// The least size of the volume's place, in bytes.
pub(super) fn volume_min(text: &str) -> std::result::Result<u64, String> {
    match size(text) {
        Some(bytes @ VOLUME_MIN..) => Ok(bytes),
        _ => Err(format!("not a size of at least {VOLUME_MIN} bytes, such as 64M or 2G")),
    }
}

/// Bytes, or with K, M, G or T behind the number so many times 1024, 1024^2 and so on.
fn size(text: &str) -> Option<u64> {
    let (digits, power) = match text.strip_suffix(['K', 'M', 'G', 'T']) {
        Some(digits) if text.ends_with('K') => (digits, 1),
        Some(digits) if text.ends_with('M') => (digits, 2),
        Some(digits) if text.ends_with('G') => (digits, 3),
        Some(digits) => (digits, 4),
        None => (text, 0),
    };
    number(digits)?.checked_mul(1 << (10 * power))
}

/// Decimal digits and nothing else.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// `NAME:serial:STRING:HASH[@BLOCKS]`, read from both ends: the serial may hold any of these signs.
pub(super) fn data(text: &str) -> std::result::Result<DataDisk, String> {
    let parts = text.split_once(':').and_then(|(name, rest)| {
        let (serial, proof) = rest.strip_prefix("serial:")?.rsplit_once(':')?;
        (!serial.is_empty()).then_some((name, serial, proof))
    });
    let (name, serial, proof) =
        parts.ok_or("not NAME:serial:STRING:HASH, nor the same with @BLOCKS")?;
    let is_known = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
    if !(1..=DATA_NAME_MAX).contains(&name.len()) || !name.bytes().all(is_known) {
        return Err(format!("its name is not 1 to {DATA_NAME_MAX} of a-z, 0-9, _ and -"));
    }
    let (root_hash, blocks) = self::proof(proof)?;
    Ok(DataDisk { name: name.to_owned(), serial: serial.to_owned(), root_hash, blocks })
}

/// `HASH[@BLOCKS]`: a root hash, and how many blocks there are before the hash area.
pub(super) fn proof(text: &str) -> std::result::Result<(RootHash, Option<u64>), String> {
    let Some((hash, blocks)) = text.split_once('@') else {
        return Ok((root_hash(text)?, None));
    };
    let blocks = number(blocks).ok_or("what is behind @ is not a number of blocks")?;
    Params::new(Vec::new(), blocks).map_err(|error| error.to_string())?;
    Ok((root_hash(hash)?, Some(blocks)))
}

pub(super) fn shares(text: &str) -> std::result::Result<Vec<Share>, String> {
    if text == "no" {
        return Ok(Vec::new());
    }
    let share = |tag: &str| SHARES.iter().find(|share| share.tag == tag).copied();
    text.split(',').map(share).collect::<Option<_>>().ok_or_else(|| {
        let tags: Vec<_> = SHARES.iter().map(|share| share.tag).collect();
        format!("neither \"no\" nor a list of {}", tags.join(", "))
    })
}

/// Of the root; a list may hold what is said of the initramfs as well.
pub(super) fn root_kinds(text: &str) -> std::result::Result<Vec<Kind>, String> {
    let names = text.split(',').filter(|name| !OF_THE_INITRAMFS.contains(name));
    let kind = |name: &str| Kind::ALL.iter().find(|kind| kind.name() == name).copied();
    let kinds: Vec<_> = names
        .map(|name| {
            kind(name).ok_or_else(|| {
                let known: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
                format!("{name:?} is not one of {}", known.join(", "))
            })
        })
        .collect::<std::result::Result<_, _>>()?;
    Ok(if kinds.is_empty() { Kind::ALL.to_vec() } else { kinds })
}

pub(super) fn medium(text: &str) -> std::result::Result<Medium, String> {
    let medium = match text.split_once(':') {
        None if text == "memory" => Some(Medium::Memory(None)),
        None if text == "volume" => Some(Medium::Volume),
        Some(("memory", size)) => Size::parse(size).map(|size| Medium::Memory(Some(size))),
        _ => None,
    };
    medium.ok_or_else(|| {
        "neither volume nor memory nor memory:SIZE, with a SIZE such as 512M or 50%".into()
    })
}

pub(super) fn overlay(text: &str) -> std::result::Result<Vec<String>, String> {
    let mut directories: Vec<&str> = Vec::new();
    for directory in text.split(',') {
        if !is_plain_path(directory) {
            return Err("not a list of absolute paths such as /etc,/opt".into());
        }
        let taken = MOUNT_POINTS.iter().chain([&SCRIPTS]);
        if let Some(place) = taken.into_iter().find(|place| lies_in(directory, place)) {
            return Err(format!("{directory} lies in {place}, over which a boot mounts"));
        }
        if directories.contains(&directory) {
            return Err(format!("{directory} is named twice"));
        }
        for &other in &directories {
            for (inner, outer) in [(directory, other), (other, directory)] {
                if lies_in(inner, outer) {
                    return Err(format!("{inner} lies in {outer}"));
                }
            }
        }
        directories.push(directory);
    }
    Ok(directories.into_iter().map(str::to_owned).collect())
}

/// Whether a path names what lies below the root, and in one way only: no name is empty, `.` or `..`.
fn is_plain_path(path: &str) -> bool {
    path.strip_prefix('/').is_some_and(|names| {
        names.split('/').all(|name| !["", ".", ".."].contains(&name) && !name.contains('\0'))
    })
}

fn lies_in(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

pub(super) fn timeout(text: &str) -> std::result::Result<Duration, String> {
    match text.parse() {
        Ok(seconds @ 1..=TIMEOUT_MAX) => Ok(Duration::from_secs(seconds)),
        _ => Err(format!("not a number of seconds from 1 to {TIMEOUT_MAX}")),
    }
}

pub(super) fn one_of<T: Copy>(text: &str, table: &[(&str, T)]) -> std::result::Result<T, String> {
    table.iter().find(|(name, _)| *name == text).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<_> = table.iter().map(|(name, _)| *name).collect();
        format!("not one of {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests;
