//! What keys can say: their words, and what these are read as.

use std::time::Duration;

use log::LevelFilter;

use crate::error::{Error, Result};
use crate::format::crypt::{self, CIPHERS, Cipher};
use crate::format::fstab::Share;
use crate::format::hex;
use crate::format::verity::{OnCorruption, RootHash};
use crate::kernel::power::Action;

/// How the disk is chosen (`cvm.disk=`). Whichever it is, it must prove the root hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskChoice {
    /// Any disk whose third partition proves the root hash.
    Proof,
    /// The disk of this kernel name: `sda`.
    Name(String),
    /// The disk with this serial.
    Serial(String),
}

/// Where the volume's integrity tags live (`cvm.tags=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tags {
    /// In guest memory, out of the host's reach: an older sector of the same boot is noticed.
    Memory,
    /// Beside the data. The host can put an older sector of the same boot back unseen.
    Disk,
}

/// The shares that there can be, by the contract with whoever launches the guest.
pub const SHARES: &[Share] = &[
    Share { tag: "certs_share", target: "/etc/certs" },
    Share { tag: "env_share", target: "/etc/cocos" },
];

pub(super) const TAGS: &[(&str, Tags)] = &[("memory", Tags::Memory), ("disk", Tags::Disk)];

pub(super) const YES_NO: &[(&str, bool)] = &[("yes", true), ("no", false)];

pub(super) const REACTIONS: &[(&str, OnCorruption)] = &[
    ("io-error", OnCorruption::IoError),
    ("restart", OnCorruption::Restart),
    ("panic", OnCorruption::Panic),
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
            Ok(DiskChoice::Name(name.to_owned()))
        }
        (_, Some(serial)) if !serial.is_empty() => Ok(DiskChoice::Serial(serial.to_owned())),
        _ => Err("neither /dev/NAME nor serial:STRING".into()),
    }
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
