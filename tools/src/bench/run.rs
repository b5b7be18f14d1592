//! One boot of a guest, as it is kept: what the guest and QEMU said of it.
//!
//! What the guest says is of `scripts/bench.d/guest/report`, and in it `boot` of PID 1
//! (`/run/cvm-init/boot.json`). Times are in microseconds unless a name ends otherwise.

use cvm_init::error::{Error, Result};
use serde::Deserialize;

use super::spread::Number;
use super::way::{LayerWay, Start, Way};

/// A boot.
#[derive(Debug, Deserialize)]
pub(super) struct Run {
    pub(super) stamps: Stamps,
    pub(super) disk: Disk,
    #[serde(flatten)]
    pub(super) job: Job,
}

/// When PID 1 became what it is, in microseconds since the kernel's start.
///
/// tracefs writes seconds with six digits behind the point.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Stamps {
    pub(super) init_us: i64,
    pub(super) new_init_us: i64,
}

/// What a boot was for.
#[derive(Debug, Deserialize)]
#[serde(tag = "job", rename_all = "lowercase")]
pub(super) enum Job {
    /// The boot itself, timed.
    Provisioning(Boot),
    /// The boot itself, in which the kernel counted.
    Costs(Counted),
    /// fio and many writers.
    Data(Worked),
    /// The files of an image.
    Unpack(Unpacked),
    /// One change of the volume after the other.
    Choices(Chosen),
    /// The boot of an image in layers.
    Layers(Layered),
    /// The demo's Debian, to the end of its boot.
    Machine(Whole),
}

/// QEMU's statistics of the disk with the volume.
#[derive(Debug, Deserialize)]
pub(super) struct Disk {
    /// When the new init had come.
    pub(super) open: Writes,
    /// When all caches were written out too.
    pub(super) closed: Option<Writes>,
}

/// What a disk was asked for.
#[derive(Debug, Deserialize)]
pub(super) struct Writes {
    pub(super) bytes: i64,
    pub(super) requests: i64,
    pub(super) flushes: i64,
}

/// A timed boot.
#[derive(Debug, Deserialize)]
pub(super) struct Boot {
    pub(super) way: Way,
    pub(super) partition_mib: u64,
    #[serde(rename = "boot")]
    pub(super) report: Option<Report>,
    #[serde(rename = "self")]
    pub(super) own: Usage,
    pub(super) children: Usage,
}

/// A boot in which the kernel counted system calls.
#[derive(Debug, Deserialize)]
pub(super) struct Counted {
    pub(super) way: Way,
    pub(super) partition_mib: u64,
    #[serde(rename = "self")]
    pub(super) own: Usage,
    pub(super) children: Usage,
    /// Processor time of PID 1.
    pub(super) runtime_us: i64,
    pub(super) calls: Vec<Calls>,
}

/// System calls of one kind.
#[derive(Debug, Deserialize)]
pub(super) struct Calls {
    pub(super) program: String,
    /// Without `sys_`.
    pub(super) call: String,
    pub(super) count: i64,
}

/// Work on a volume.
#[derive(Debug, Deserialize)]
pub(super) struct Worked {
    pub(super) way: Way,
    #[serde(rename = "boot")]
    pub(super) report: Option<Report>,
    pub(super) fio: Fio,
    /// One after the other, up to the first of which the volume died.
    pub(super) writers: Vec<Writers>,
}

/// fio's report.
#[derive(Debug, Deserialize)]
pub(super) struct Fio {
    pub(super) jobs: Vec<FioJob>,
}

/// One job of fio's.
#[derive(Debug, Deserialize)]
pub(super) struct FioJob {
    /// Its name in `guest/jobs.fio`.
    pub(super) jobname: String,
    pub(super) read: Option<Transfer>,
    pub(super) write: Option<Transfer>,
}

/// One direction of a job of fio's.
#[derive(Debug, Deserialize)]
pub(super) struct Transfer {
    pub(super) bw_bytes: Number,
    pub(super) iops: Number,
}

/// Many writers at once.
#[derive(Debug, Deserialize)]
pub(super) struct Writers {
    pub(super) files_s: Option<Number>,
    /// Of what the volume died.
    pub(super) died: Option<String>,
}

/// An image that was unpacked twice.
#[derive(Debug, Deserialize)]
pub(super) struct Unpacked {
    pub(super) way: Way,
    #[serde(rename = "boot")]
    pub(super) report: Option<Report>,
    #[serde(flatten)]
    pub(super) took: Twice,
    pub(super) disk_errors: i64,
}

/// Seconds that it takes to unpack an image.
#[derive(Debug, Deserialize)]
pub(super) struct Twice {
    /// The first time.
    pub(super) unpack_s: Option<Number>,
    /// When another one was removed before.
    pub(super) again_s: Option<Number>,
}

/// All choices, some of them tried several times.
#[derive(Debug, Deserialize)]
pub(super) struct Chosen {
    pub(super) choices: Vec<Try>,
}

/// One choice of journal, mount or dm-crypt.
#[derive(Debug, Deserialize)]
pub(super) struct Try {
    /// Its name in `guest/choices`.
    pub(super) choice: String,
    /// The kernel's word why it cannot be made.
    pub(super) refused: Option<String>,
    #[serde(flatten)]
    pub(super) took: Twice,
    pub(super) written_bytes: Option<i64>,
    pub(super) fio: Option<Fio>,
    pub(super) writers: Option<Writers>,
}

/// A boot of an image in layers.
#[derive(Debug, Deserialize)]
pub(super) struct Layered {
    pub(super) way: LayerWay,
    pub(super) layers: u64,
}

/// A whole machine; the stamps are of the clock that counts from the start of its kernel.
#[derive(Debug, Deserialize)]
pub(super) struct Whole {
    pub(super) way: Way,
    pub(super) start: Start,
    /// From the start of QEMU to that of the clock.
    pub(super) before_us: i64,
    /// When the new init had reached `multi-user.target`.
    pub(super) multi_user_us: i64,
    /// Units that failed.
    pub(super) failed: i64,
}

/// What `/init` says of a boot.
#[derive(Debug, Deserialize)]
pub(super) struct Report {
    pub(super) peak_memory_kib: i64,
    pub(super) stages: Vec<Stage>,
    #[serde(default)]
    pub(super) effects: Vec<Effect>,
    volume: Option<Volume>,
}

/// A stage of a boot.
#[derive(Debug, Deserialize)]
pub(super) struct Stage {
    pub(super) stage: String,
    pub(super) us: i64,
}

/// A step of a boot.
#[derive(Debug, Deserialize)]
pub(super) struct Effect {
    id: String,
    pub(super) doing: String,
    at_us: i64,
    pub(super) us: i64,
}

/// What `/init` says of the volume.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Volume {
    pub(super) cipher: Option<String>,
    /// `aead`, `none`, or a MAC.
    pub(super) integrity: Option<String>,
    /// Where they lie: `memory` or `disk`.
    pub(super) tags: Option<String>,
    /// Bytes that they can come to take of the guest's memory.
    pub(super) tags_memory_max: Option<Number>,
    /// Bytes that the file system's tables can come to take.
    pub(super) metadata_memory_max: Option<Number>,
    pub(super) inodes: Option<Number>,
}

/// What processes took: getrusage(2).
#[derive(Debug, Deserialize)]
pub(super) struct Usage {
    pub(super) user_us: i64,
    pub(super) kernel_us: i64,
    /// Of memory; of several processes, the largest.
    pub(super) peak_kib: i64,
}

impl Stamps {
    /// From the start of `/init` to that of the new init.
    pub(super) fn boot_us(&self) -> i64 {
        self.new_init_us - self.init_us
    }
}

impl TryFrom<String> for Stamps {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        let mut stamps = text.split_whitespace().map(microseconds);
        match (stamps.next(), stamps.next(), stamps.next()) {
            (Some(Some(init_us)), Some(Some(new_init_us)), None) => {
                Ok(Self { init_us, new_init_us })
            }
            _ => Err(Error::new(format!("{text:?} does not say when two programs were executed"))),
        }
    }
}

/// Of seconds.
fn microseconds(stamp: &str) -> Option<i64> {
    let (seconds, rest) = stamp.split_once('.')?;
    let micros: u32 = format!("{rest:0<6}").get(..6)?.parse().ok()?;
    seconds.parse::<i64>().ok()?.checked_mul(1_000_000)?.checked_add(micros.into())
}

impl Report {
    /// What it says of the volume; nothing where there is none.
    pub(super) fn volume(report: Option<&Self>) -> Volume {
        report.and_then(|report| report.volume.clone()).unwrap_or_default()
    }

    /// When modules were being loaded, one or several at a time: from, to, since the start of `/init`.
    pub(super) fn loading(&self) -> Vec<(i64, i64)> {
        let modules = self.effects.iter().filter(|effect| effect.is_module());
        let mut loads: Vec<_> =
            modules.map(|effect| (effect.at_us, effect.at_us + effect.us)).collect();
        loads.sort_unstable();
        let mut spans: Vec<(i64, i64)> = Vec::new();
        for (start, end) in loads {
            match spans.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => spans.push((start, end)),
            }
        }
        spans
    }

    /// How long modules were being loaded.
    pub(super) fn modules_us(&self) -> i64 {
        self.loading().iter().map(|(start, end)| end - start).sum()
    }

    /// How long each stage took without the time in which modules were being loaded beside it.
    pub(super) fn stages(&self) -> impl Iterator<Item = (&str, i64)> {
        let loading = self.loading();
        let mut start = 0;
        self.stages.iter().map(move |stage| {
            let end = start + stage.us;
            let beside = loading.iter().map(|(from, to)| (end.min(*to) - start.max(*from)).max(0));
            let took = stage.us - beside.sum::<i64>();
            start = end;
            (&*stage.stage, took)
        })
    }
}

impl Effect {
    /// Whether it is the loading of a kernel module.
    pub(super) fn is_module(&self) -> bool {
        self.id.starts_with("load:/modules/")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(at_us: i64, us: i64) -> Effect {
        Effect { id: "load:/modules/a.ko".to_owned(), doing: String::new(), at_us, us }
    }

    fn stage(stage: &str, us: i64) -> Stage {
        Stage { stage: stage.to_owned(), us }
    }

    #[test]
    fn what_loads_beside_a_stage_is_none_of_its_time() {
        let report = Report {
            peak_memory_kib: 0,
            stages: vec![stage("platform", 100), stage("volume", 50)],
            // In no order; the second within the first, the third into the next stage.
            effects: vec![load(90, 20), load(0, 30), load(10, 5)],
            volume: None,
        };
        assert_eq!(report.loading(), [(0, 30), (90, 110)]);
        assert_eq!(report.modules_us(), 50);
        assert_eq!(report.stages().collect::<Vec<_>>(), [("platform", 60), ("volume", 40)]);
    }

    #[test]
    fn stamps_are_of_two_programs() {
        let stamps = |text: &str| Stamps::try_from(text.to_owned());
        let both = stamps("1.641786 2.5").unwrap();
        assert_eq!(
            (both.init_us, both.new_init_us, both.boot_us()),
            (1_641_786, 2_500_000, 858_214)
        );
        for text in ["", "1.5", "1.5 2.5 3.5", "1.5 x"] {
            assert!(stamps(text).is_err(), "{text}");
        }
    }

    #[test]
    fn stamps_are_seconds() {
        for (stamp, us) in [("1.641786", 1_641_786), ("0.000009", 9), ("12.5", 12_500_000)] {
            assert_eq!(microseconds(stamp), Some(us), "{stamp}");
        }
        for stamp in ["", "1", "x.5", "1.-5"] {
            assert_eq!(microseconds(stamp), None, "{stamp}");
        }
    }
}
