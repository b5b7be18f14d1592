//! Stage 2: the disk, which is the one that proves the root hash.
//!
//! Of several that are there at the same time and prove it, the first by name is taken: `sda`, then
//! shorter names before longer ones, then by their letters. All of them hold the same root, and what
//! lies on partition 4 is read of none.

mod places;

use std::path::{Path, PathBuf};
use std::time::Instant;

use self::places::{Verdict, examine};
use crate::config::{Config, DiskChoice};
use crate::effect::{Effect, effect};
use crate::error::{Error, Result};
use crate::format::{hex, verity};
use crate::kernel::block::{self, Partition};
use crate::kernel::module;
use crate::kernel::uevent::{Listener, Wake};
use crate::report::{DiskFacts, Report, VerityFacts};
use crate::stage::verity::Verity;

const LISTEN: Effect<0> = Effect::new("listen", "listen for uevents");
const LIST_DISKS: Effect<0> = Effect::new("list-disks", "list the disks");
const WAIT: Effect<0> = Effect::new("wait-for-disk", "wait for a block device");
const READ_SERIAL: Effect<1> = Effect::new("read-serial", "read the serial of {}");
/// Where drivers may have come from.
const MODULES: &str = "/modules";

/// What a boot needs of its disks.
#[derive(Debug)]
pub struct Disks {
    /// The root's data and hash tree, proven.
    pub root: Verity,
    /// Where the volume goes.
    pub volume: VolumePlace,
}

/// The disk that holds the root, proven.
struct RootDisk {
    /// Kernel name.
    name: String,
    verity: Verity,
    volume: VolumePlace,
}

/// Where the volume goes. Nothing on it is ever read.
#[derive(Debug)]
pub struct VolumePlace {
    /// Kernel name of its disk.
    pub disk: String,
    /// Partition 4.
    pub partition: Partition,
    /// Length in sectors that it has when it reaches the end of the disk, if that is more.
    pub to_end: Option<u64>,
}

impl VolumePlace {
    /// The node of its disk.
    #[must_use]
    pub fn disk_path(&self) -> PathBuf {
        Path::new("/dev").join(&self.disk)
    }
}

/// Waits for the disk until `cvm.timeout=` is over.
///
/// # Errors
/// What every disk seen was refused for. At once when the disk is pinned by its name, which no other
/// disk can have; another disk with the same serial may still come.
pub fn find(config: &Config, report: &mut Report) -> Result<Disks> {
    // Before the first look, so that no device appears unseen between look and wait.
    let listener = effect(LISTEN, Listener::open)?;
    let deadline = Instant::now() + config.timeout;
    let is_only_one = matches!(config.disk, DiskChoice::Name(_));
    let mut reasons = Vec::new();
    let mut any_seen = false;
    loop {
        let mut proven = Vec::new();
        for candidate in effect(LIST_DISKS, block::disks)? {
            any_seen = true;
            match is_chosen(&candidate, &config.disk) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) => {
                    note(&mut reasons, candidate.name, error.to_string());
                    continue;
                }
            }
            match examine(config, &candidate) {
                Verdict::Proven(disk) => proven.push(*disk),
                Verdict::Refused(error) if is_only_one => {
                    return Err(Error::new(format!("{}: {error}", candidate.name)));
                }
                Verdict::Refused(error) => note(&mut reasons, candidate.name, error.to_string()),
                Verdict::NotYet(reason) => note(&mut reasons, candidate.name, reason),
            }
        }
        let mut proven = proven.into_iter();
        if let Some(disk) = proven.next() {
            describe(&disk, proven.map(|other| other.name).collect(), config, report);
            return Ok(Disks { root: disk.verity, volume: disk.volume });
        }
        let wake = effect(WAIT, || listener.wait_for_block(deadline))?;
        if wake == Wake::Timeout {
            return Err(nothing_found(config, any_seen, &reasons));
        }
    }
}

fn is_chosen(disk: &block::Disk, choice: &DiskChoice) -> Result<bool> {
    Ok(match choice {
        DiskChoice::Proof => true,
        DiskChoice::Name(name) => disk.name == *name,
        DiskChoice::Serial(serial) => {
            effect(READ_SERIAL.on(&[&disk.name]), || disk.serial())?.as_ref() == Some(serial)
        }
    })
}

/// Keeps the latest reason for each disk, and logs it when it is new.
fn note(reasons: &mut Vec<(String, String)>, disk: String, reason: String) {
    let entry = (disk, reason);
    if !reasons.contains(&entry) {
        let (disk, reason) = &entry;
        log::info!("not {disk}: {reason}");
        reasons.retain(|(known, _)| known != disk);
        reasons.push(entry);
    }
}

fn nothing_found(config: &Config, any_seen: bool, reasons: &[(String, String)]) -> Error {
    let what = match &config.disk {
        DiskChoice::Proof => "no disk that proves roothash=".to_owned(),
        DiskChoice::Name(name) => format!("no usable disk /dev/{name}"),
        DiskChoice::Serial(serial) => format!("no usable disk with serial {serial:?}"),
    };
    let mut message = format!("{what} within {} s", config.timeout.as_secs());
    if !any_seen {
        message.push_str("; no disk at all was seen: ");
        // A look at the initramfs, only to say more.
        message.push_str(match module::list(Path::new(MODULES)).as_deref() {
            Ok([]) => "is its driver built into the kernel? The initramfs has no modules",
            _ => "is its driver among the modules of the initramfs, or built into the kernel?",
        });
    }
    for (disk, reason) in reasons {
        message.push_str("; ");
        message.push_str(disk);
        message.push_str(": ");
        message.push_str(reason);
    }
    Error::new(message)
}

fn describe(disk: &RootDisk, also_proven: Vec<String>, config: &Config, report: &mut Report) {
    let found = match config.disk {
        DiskChoice::Proof => "proof",
        DiskChoice::Name(_) | DiskChoice::Serial(_) => "cvm.disk",
    };
    log::info!("disk {}, proven by the root hash", disk.name);
    if !also_proven.is_empty() {
        log::warn!(
            "{} proves it as well: {} is taken, the first by name",
            also_proven.join(", "),
            disk.name
        );
    }
    report.disk = Some(DiskFacts { name: disk.name.clone(), found_by: found, also_proven });
    report.verity = Some(VerityFacts {
        root_hash: hex::encode(&config.root_hash),
        salt: hex::encode(&disk.verity.params.salt),
        data_blocks: disk.verity.params.data_blocks,
        block_size: verity::BLOCK_SIZE,
        parameters_from: match config.verity {
            Some(_) => "command line",
            None => "superblock",
        },
    });
}
