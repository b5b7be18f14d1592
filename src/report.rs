//! What a boot did and how long it took: `/run/cvm-init/boot.json`.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::effect::{self, micros};

/// Of what the report is made of: with any other field or value comes another version, and another
/// `docs/boot.schema.json`.
const VERSION: u32 = 1;

/// Bytes that it takes as a rule: a text that grows is moved each time.
const TYPICAL: usize = 32 << 10;

/// A part of the boot, as the fatal line and the report name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The kernel log, and the command line; until it is read, no key is obeyed either.
    Config,
    /// Pseudo file systems, and the beginning of the kernel modules.
    Platform,
    /// The disks: the one that proves the root hash, and others that the command line names.
    Disk,
    /// The verified root.
    Root,
    /// Further verified data.
    Data,
    /// The encrypted volume.
    Volume,
    /// Mounts of the new root.
    Runtime,
    /// What is recorded for verifiers.
    Measure,
    /// The way to the new init, or to another kernel.
    Handoff,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Config => "config",
            Self::Platform => "platform",
            Self::Disk => "disk",
            Self::Root => "root",
            Self::Data => "data",
            Self::Volume => "volume",
            Self::Runtime => "runtime",
            Self::Measure => "measure",
            Self::Handoff => "handoff",
        })
    }
}

/// The report, as it grows from stage to stage. What a stage has not reached is null.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    version: u32,
    /// Version of the program.
    program: &'static str,
    /// From the program's start to just before the new init, in microseconds.
    total_us: u64,
    /// The most memory that PID 1 had resident (`VmHWM` in proc(5)).
    peak_memory_kib: Option<u64>,
    /// The processor.
    pub processor: Option<ProcessorFacts>,
    /// The disk, once found.
    pub disk: Option<DiskFacts>,
    /// What the root was verified with.
    pub verity: Option<VerityFacts>,
    /// The root, once mounted.
    pub root: Option<RootFacts>,
    /// The layers of a root that is made of some, once mounted.
    pub layers: Option<LayersFacts>,
    /// Further verified data, once mounted.
    pub data: Vec<DataFacts>,
    /// The volume, once mounted.
    pub volume: Option<VolumeFacts>,
    /// Tags of the 9P shares that are mounted.
    pub shares: Vec<&'static str>,
    /// What of this boot was recorded for verifiers; null where nothing was.
    pub measured: Option<MeasuredFacts>,
    stages: Vec<StageTime>,
    effects: Vec<EffectTime>,
}

/// What the processor does for the volume.
#[derive(Debug, Serialize)]
pub struct ProcessorFacts {
    /// It has instructions for AES.
    pub aes: bool,
    /// What keeps the memory from the host: "sev" or "tdx"; null where nothing does.
    pub memory_encryption: Option<&'static str>,
    /// Which of its random numbers are in the volume key: "rdseed" or "rdrand"; null for none.
    pub random_numbers: Option<&'static str>,
}

/// Which disk it is.
#[derive(Debug, Serialize)]
pub struct DiskFacts {
    /// Kernel name.
    pub name: String,
    /// "proof", or "cvm.disk" when the command line pinned it.
    pub found_by: &'static str,
    /// Other disks that were there and proved the root hash too.
    pub also_proven: Vec<String>,
}

/// The parameters of dm-verity.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the table")]
pub struct VerityFacts {
    pub root_hash: String,
    pub salt: String,
    pub data_blocks: u64,
    pub block_size: u32,
    /// "superblock" or "command line".
    pub parameters_from: &'static str,
    /// Kernel name of the partition that holds the data.
    pub data: String,
    /// Kernel name of the partition that holds the hash tree, which may be the same.
    pub hash: String,
    /// The block of it that the tree begins with.
    pub hash_start: u64,
}

/// The verified root.
#[derive(Debug, Serialize)]
pub struct RootFacts {
    /// Node of the mapping.
    pub device: PathBuf,
    /// Size of the mapping.
    pub bytes: u64,
    /// "ext4", "erofs" or "squashfs".
    pub file_system: &'static str,
}

/// A root of layers.
#[derive(Debug, Serialize)]
pub struct LayersFacts {
    /// From the topmost down.
    pub layers: Vec<LayerFacts>,
    /// Where what is written goes: "volume", "memory" or "plain", the last on a disk of the host's.
    pub upper: &'static str,
}

/// A layer.
#[derive(Debug, Serialize)]
pub struct LayerFacts {
    /// Kernel name of the disk, or of the partition, it lies on.
    pub disk: String,
    /// Node of what is mounted.
    pub device: PathBuf,
    /// What it was verified with; null for one that was not.
    pub root_hash: Option<String>,
    /// Blocks of 4096 bytes that are verified.
    pub data_blocks: Option<u64>,
}

/// Further verified data.
#[derive(Debug, Serialize)]
pub struct DataFacts {
    /// Of `cvm.data=`.
    pub name: String,
    /// Kernel name of the disk it lies on.
    pub disk: String,
    /// Node of the mapping.
    pub device: PathBuf,
    /// Where it is mounted.
    pub mounted_on: PathBuf,
    /// What it was verified with.
    pub root_hash: String,
    /// Blocks of 4096 bytes that are verified.
    pub data_blocks: u64,
}

/// The encrypted volume.
#[derive(Debug, Serialize)]
pub struct VolumeFacts {
    /// Node of the mapping.
    pub device: PathBuf,
    /// Kernel name of the partition, or of the whole disk, that it lies on.
    pub partition: String,
    /// Size of that.
    pub partition_bytes: u64,
    /// Size of the mapping.
    pub bytes: u64,
    /// UUID of the LUKS2 header.
    pub uuid: String,
    /// By cryptsetup's name.
    pub cipher: &'static str,
    /// By cryptsetup's name.
    pub integrity: &'static str,
    /// Where the integrity tags live: "memory", "disk" or "none".
    pub tags: &'static str,
    /// The most memory that they may come to take, in bytes; null where there are none.
    pub tags_memory_max: Option<u64>,
    /// The most memory that the file system's metadata may come to take, in bytes.
    pub metadata_memory_max: u64,
    /// Bytes in an encryption sector.
    pub sector_size: u32,
    /// Inodes of the file system, used ones included.
    pub inodes: u64,
    /// Free blocks of the fresh file system.
    pub free_blocks: u64,
    /// Free inodes of the fresh file system.
    pub free_inodes: u64,
}

/// What was recorded for verifiers.
#[derive(Debug, Serialize)]
pub struct MeasuredFacts {
    /// "PCR 15" of a TPM or "RTMR3" of a TD.
    pub register: &'static str,
    /// What was measured into it, in this order.
    pub events: Vec<String>,
    /// What it held then.
    pub values: Vec<BankFacts>,
    /// The log that explains it.
    pub log: &'static str,
}

/// What a register held in one bank.
#[derive(Debug, Serialize)]
pub struct BankFacts {
    /// "sha256", "sha384" or "sha512".
    pub bank: &'static str,
    /// In hexadecimal digits.
    pub value: String,
}

#[derive(Debug, Serialize)]
struct StageTime {
    stage: Stage,
    us: u64,
}

#[derive(Debug, Serialize)]
struct EffectTime {
    /// What tools go by.
    id: String,
    /// What people read.
    doing: String,
    /// From the program's start, the first time; effects of several threads overlap.
    at_us: u64,
    /// All times together.
    us: u64,
    times: u64,
}

impl Report {
    /// Notes how long a stage took.
    pub fn stage(&mut self, stage: Stage, took: Duration) {
        let us = micros(took);
        self.stages.push(StageTime { stage, us });
    }

    /// The whole report of a boot that began at `start`.
    ///
    /// # Errors
    /// When it cannot be put into JSON.
    pub fn finish(
        &mut self,
        start: Instant,
        peak_memory_kib: Option<u64>,
    ) -> serde_json::Result<Vec<u8>> {
        self.version = VERSION;
        self.program = env!("CARGO_PKG_VERSION");
        self.total_us = micros(start.elapsed());
        self.peak_memory_kib = peak_memory_kib;
        self.effects = effect::entries()
            .into_iter()
            .map(|entry| EffectTime {
                at_us: micros(entry.start.saturating_duration_since(start)),
                us: micros(entry.took),
                times: entry.times,
                id: entry.name.id,
                doing: entry.name.doing,
            })
            .collect();
        let mut text = Vec::with_capacity(TYPICAL);
        serde_json::to_writer(&mut text, self)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_report_holds_stages_in_order_and_facts() {
        let mut report = Report::default();
        report.stage(Stage::Platform, Duration::from_micros(7));
        report.stage(Stage::Handoff, Duration::from_micros(8));
        report.disk = Some(DiskFacts {
            name: "sda".into(),
            found_by: "proof",
            also_proven: vec!["sdb".into()],
        });
        let text = report.finish(Instant::now(), Some(2048)).unwrap();
        let report: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(report["stages"][0], json!({ "stage": "platform", "us": 7 }));
        assert_eq!(report["stages"][1]["stage"], "handoff");
        assert_eq!(report["disk"]["also_proven"], json!(["sdb"]));
        assert_eq!(report["volume"], Value::Null);
        assert_eq!(report["peak_memory_kib"], 2048);
    }
}
