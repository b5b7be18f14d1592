//! `figures.json`: what all boots of a measurement come to.
//!
//! Times are in microseconds unless a name ends otherwise; null is what a way does not tell.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::spread::{Number, Spread};
use super::way::{Initramfs, LayerWay, Start, Way};

/// All of it.
#[derive(Debug, Deserialize, Serialize)]
pub struct Figures {
    pub(super) made: Made,
    /// Timed boots, by size of the partition.
    pub(super) provisioning: Vec<Provisioned>,
    /// Steps of a boot of cvm-init with the smallest partition, the costliest first.
    pub(super) effects: Vec<Step>,
    /// What boots cost, by way.
    pub(super) costs: Vec<Cost>,
    /// How large each initramfs is.
    pub(super) footprints: Vec<Footprint>,
    /// What fio did, by volume and job.
    pub(super) data: Vec<OfVolume<Throughput>>,
    /// Many writers at once, by volume.
    #[serde(default)]
    pub(super) writers: Vec<OfVolume<Writing>>,
    /// An image unpacked, by volume.
    pub(super) unpack: Vec<OfVolume<Unpacking>>,
    /// Other choices of journal, mount and dm-crypt.
    pub(super) choices: Vec<Choosing>,
    /// Boots of images in layers.
    #[serde(default)]
    pub(super) layers: Vec<Layering>,
    /// Boots of whole machines.
    #[serde(default)]
    pub(super) machines: Vec<Machine>,
    /// Every single run; what is published goes without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) all: Vec<Value>,
}

/// Where and with what figures were made.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Made {
    /// The day, in UTC.
    pub(super) date: String,
    pub(super) command: String,
    pub(super) kernel: String,
    pub(super) qemu: String,
    pub(super) cryptsetup: String,
    pub(super) e2fsprogs: String,
    pub(super) fio: String,
    pub(super) dracut: String,
    pub(super) systemd: String,
    pub(super) cpu: String,
    pub(super) cores: usize,
    /// Of the last minute before.
    pub(super) load: f64,
    /// What QEMU emulates.
    pub(super) guest: String,
    pub(super) layer: Image,
    /// Whether it was only to see that all works.
    pub(super) quick: bool,
    pub(super) runs: usize,
    /// Of the file that fio writes.
    pub(super) fio_size: String,
    /// Files of each writer.
    pub(super) writer_files: u32,
    /// Sizes of the partition that were asked for.
    pub(super) sizes_mib: Vec<u64>,
}

/// What is in an image.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Image {
    /// How many, folders apart.
    pub(super) files: Number,
    /// Of all files.
    pub(super) bytes: Number,
}

/// Boots of one way with one size of the partition.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Provisioned {
    pub(super) way: Way,
    pub(super) partition_mib: u64,
    pub(super) runs: usize,
    /// Whether it lies on a line through smaller sizes.
    pub(super) extrapolated: bool,
    /// From the start of `/init` to that of the new init.
    pub(super) total_us: Spread,
    /// The same without the time in which modules were being loaded.
    pub(super) rest_us: Option<Spread>,
    pub(super) written_bytes: Spread,
    /// What only boots tell that took place.
    #[serde(flatten)]
    pub(super) measured: Option<Measured>,
    /// Where the time went.
    pub(super) stages: Vec<Stage>,
}

/// What boots tell that took place.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Measured {
    /// The time in which modules were being loaded.
    pub(super) modules_us: Option<Spread>,
    /// Requests to write, meanwhile.
    pub(super) written_requests: Spread,
    /// Requests to flush, meanwhile.
    pub(super) flushes: Spread,
    /// Bytes written until all caches were written out.
    pub(super) written_after_sync_bytes: Option<Spread>,
    /// Processor time in user space, of all.
    pub(super) user_us: Spread,
    /// Memory of PID 1.
    pub(super) peak_kib: Spread,
    /// Memory of the largest program that it ran.
    pub(super) children_peak_kib: Option<Spread>,
    /// What the volume can come to take of the guest's memory.
    pub(super) memory: Option<Memory>,
}

/// A stage of a boot.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Stage {
    pub(super) stage: String,
    pub(super) us: Spread,
}

/// The most that a volume can come to take of the guest's memory.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct Memory {
    pub(super) tags_memory_max: Option<Number>,
    /// Bytes of the file system's tables.
    pub(super) metadata_memory_max: Number,
    pub(super) inodes: Option<Number>,
}

/// A step of a boot.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Step {
    pub(super) doing: String,
    pub(super) us: Spread,
}

/// System calls and processor time of one way.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Cost {
    pub(super) way: Way,
    pub(super) partition_mib: u64,
    pub(super) runs: usize,
    pub(super) system_calls: Spread,
    pub(super) programs: usize,
    /// Processor time of PID 1 in user space.
    pub(super) user_us: Spread,
    pub(super) kernel_us: Spread,
    /// That of the programs that it ran, in user space.
    pub(super) children_user_us: Spread,
    pub(super) children_kernel_us: Spread,
    /// How many of each kind, in the first boot.
    pub(super) calls: BTreeMap<String, i64>,
}

/// How large an initramfs is.
#[derive(Debug, Deserialize, Serialize)]
pub struct Footprint {
    pub(super) initramfs: Initramfs,
    /// Whether it has kernel modules.
    pub(super) modules: bool,
    /// As it is measured at launch.
    pub(super) packed_bytes: Number,
    /// As it lies in memory.
    pub(super) unpacked_bytes: Number,
}

/// What was measured on one volume.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct OfVolume<T> {
    #[serde(flatten)]
    pub(super) volume: Volume,
    #[serde(flatten)]
    pub(super) figure: T,
}

/// A volume, as the guest itself said.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Volume {
    /// The way that made it.
    pub(super) way: Way,
    pub(super) cipher: Option<String>,
    /// `aead`, `none`, or a MAC.
    pub(super) integrity: Option<String>,
    pub(super) tags: Option<String>,
}

/// What fio did in one job.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Throughput {
    pub(super) job: String,
    pub(super) unit: String,
    pub(super) runs: usize,
    pub(super) value: Spread,
}

/// Many writers at once.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Writing {
    pub(super) runs: usize,
    /// Files a second; of a volume that did not die.
    pub(super) files_s: Option<Spread>,
    pub(super) died: Option<String>,
}

/// An image unpacked.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Unpacking {
    pub(super) runs: usize,
    #[serde(flatten)]
    pub(super) took: Twice,
    /// Errors of the volume in the kernel's log.
    pub(super) disk_errors: i64,
}

/// How long an image took to unpack.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Twice {
    pub(super) seconds: Option<Spread>,
    /// When another one was removed before.
    pub(super) again_seconds: Option<Spread>,
}

/// One choice of journal, mount or dm-crypt.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Choosing {
    pub(super) choice: String,
    /// The kernel's word why it cannot be made.
    pub(super) refused: Option<String>,
    pub(super) runs: usize,
    #[serde(flatten)]
    pub(super) took: Twice,
    pub(super) written_bytes: Option<Spread>,
    pub(super) files_s: Option<Spread>,
    pub(super) fio: Vec<Throughput>,
}

/// Boots of an image of so many layers.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct Layering {
    pub(super) way: LayerWay,
    pub(super) layers: u64,
    pub(super) runs: usize,
    /// From the start of the kernel to that of the new init.
    pub(super) total_us: Spread,
    /// From the start of `/init`.
    pub(super) init_us: Spread,
    pub(super) written_bytes: Spread,
}

/// Boots of a whole machine.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct Machine {
    pub(super) start: Start,
    pub(super) way: Way,
    pub(super) runs: usize,
    /// From power-on to `multi-user.target`.
    pub(super) total_us: Spread,
    /// Of that, until the kernel has a clock: firmware, boot loader, and what unpacks the kernel.
    pub(super) before_us: Spread,
    /// Until `/init`.
    pub(super) kernel_us: Spread,
    /// Until the new init.
    pub(super) init_us: Spread,
    /// Until `multi-user.target`.
    pub(super) system_us: Spread,
    /// The most units that failed.
    pub(super) failed: i64,
}
