//! Stage 2: the disk, which is the one that proves the root hash.
//!
//! Of several that are there at the same time and prove it, the first by name is taken: `sda`, then
//! shorter names before longer ones, then by their letters. All of them hold the same root, and what
//! lies on partition 4 is read of none.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::config::{Config, DiskChoice};
use crate::effect::{Effect, effect};
use crate::error::{Error, Result};
use crate::format::device::SECTOR;
use crate::format::hex;
use crate::format::verity::{self, Params};
use crate::kernel::block::{self, Partition};
use crate::kernel::module;
use crate::kernel::uevent::{Listener, Wake};
use crate::report::{DiskFacts, Report, VerityFacts};

const LISTEN: Effect<0> = Effect::new("listen", "listen for uevents");
const LIST_DISKS: Effect<0> = Effect::new("list-disks", "list the disks");
const WAIT: Effect<0> = Effect::new("wait-for-disk", "wait for a block device");
const READ_SERIAL: Effect<1> = Effect::new("read-serial", "read the serial of {}");
const LIST_PARTITIONS: Effect<1> = Effect::new("list-partitions", "list the partitions of {}");
const OPEN: Effect<1> = Effect::new("open", "open {}");
const READ_SUPERBLOCK: Effect<1> =
    Effect::new("read-verity-superblock", "read the verity superblock of {}");
const READ_TOP_HASH_BLOCK: Effect<1> =
    Effect::new("read-top-hash-block", "read the top hash block of {}");

/// Numbers of the partitions that a boot uses.
const ROOT: u32 = 2;
const VERITY: u32 = 3;
const COCOS: u32 = 4;

/// Where drivers may have come from.
const MODULES: &str = "/modules";

/// The disk, proven.
#[derive(Debug)]
pub struct Disk {
    /// Kernel name.
    pub name: String,
    /// Partition 2, the root's data.
    pub root: Partition,
    /// Partition 3, the root's hash tree.
    pub verity: Partition,
    /// Partition 4, the volume's place. Nothing on it is ever read.
    pub cocos: Partition,
    /// Length in sectors that partition 4 has when it reaches the end of the disk, if that is more.
    pub cocos_to_end: Option<u64>,
    /// What the hash tree was proven with.
    pub params: Params,
}

impl Disk {
    /// Its node.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }
}

/// What a look at a disk says.
enum Verdict {
    Proven(Box<Disk>),
    /// Its partitions are not there yet.
    NotYet(String),
    /// It is another disk, or a forged one.
    Refused(Error),
}

/// Waits for the disk until `cvm.timeout=` is over.
///
/// # Errors
/// What every disk seen was refused for. At once when the disk is pinned by its name, which no other
/// disk can have; another disk with the same serial may still come.
pub fn find(config: &Config, report: &mut Report) -> Result<Disk> {
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
            return Ok(disk);
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

fn examine(config: &Config, disk: &block::Disk) -> Verdict {
    let partitions = match effect(LIST_PARTITIONS.on(&[&disk.name]), || disk.partitions()) {
        Ok(partitions) => partitions,
        Err(error) => return Verdict::NotYet(error.to_string()),
    };
    let numbered = |number| partitions.iter().find(|partition| partition.number == number);
    let (root, verity, cocos) = match [ROOT, VERITY, COCOS].map(numbered) {
        [Some(root), Some(verity), Some(cocos)] => (root, verity, cocos),
        found => {
            let missing: Vec<_> = [ROOT, VERITY, COCOS]
                .iter()
                .zip(found)
                .filter(|(_, partition)| partition.is_none())
                .map(|(number, _)| number.to_string())
                .collect();
            return Verdict::NotYet(if partitions.is_empty() {
                without_partitions(disk)
            } else {
                format!("it has no partition {}", missing.join(", "))
            });
        }
    };
    // What is written to the volume must not reach anything else.
    if !cocos.lies_within(disk.sectors) {
        let error = format!("partition {COCOS} does not lie within the disk");
        return Verdict::Refused(Error::new(error));
    }
    let others = partitions.iter().filter(|other| *other != cocos);
    if let Some(other) = others.into_iter().find(|other| other.overlaps(cocos)) {
        return Verdict::Refused(Error::new(format!(
            "partitions {} and {COCOS} overlap",
            other.number
        )));
    }
    match prove(config, root, verity) {
        Ok(params) => Verdict::Proven(Box::new(Disk {
            name: disk.name.clone(),
            root: root.clone(),
            verity: verity.clone(),
            cocos: cocos.clone(),
            cocos_to_end: cocos.length_to_end(disk.sectors, &partitions),
            params,
        })),
        Err(error) => Verdict::Refused(error),
    }
}

/// What is wrong with a disk on which the kernel found no partition, as far as can be seen.
fn without_partitions(disk: &block::Disk) -> String {
    let guess = match disk.logical_block {
        SECTOR => "is its table missing, damaged, or made for a larger disk?".to_owned(),
        bytes => format!("its sectors have {bytes} bytes, was its table made for {SECTOR}?"),
    };
    format!("the kernel found no partition on it: {guess}")
}

/// The verity parameters, once the top hash block has proven them by the root hash.
fn prove(config: &Config, root: &Partition, verity: &Partition) -> Result<Params> {
    let hash_device =
        effect(OPEN.on(&[&verity.name]), || verity.open(OpenOptions::new().read(true)))?;
    let params = if let Some(params) = &config.verity {
        params.clone()
    } else {
        let superblock = read_at(&hash_device, READ_SUPERBLOCK, verity, 0)?;
        Params::from_superblock(&superblock)?
    };
    params.require_room(root.bytes(), verity.bytes())?;
    let at = verity::HASH_START * u64::from(verity::BLOCK_SIZE);
    let top = read_at(&hash_device, READ_TOP_HASH_BLOCK, verity, at)?;
    params.prove(&top, &config.root_hash)?;
    Ok(params)
}

fn read_at<const N: usize>(
    file: &File,
    read: Effect<1>,
    of: &Partition,
    at: u64,
) -> Result<[u8; N]> {
    effect(read.on(&[&of.name]), || {
        let mut bytes = [0; N];
        file.read_exact_at(&mut bytes, at)?;
        Ok::<_, io::Error>(bytes)
    })
}

fn describe(disk: &Disk, also_proven: Vec<String>, config: &Config, report: &mut Report) {
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
        salt: hex::encode(&disk.params.salt),
        data_blocks: disk.params.data_blocks,
        block_size: verity::BLOCK_SIZE,
        parameters_from: match config.verity {
            Some(_) => "command line",
            None => "superblock",
        },
    });
}
