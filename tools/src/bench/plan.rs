//! Which guests are booted, one after the other.

use std::{fmt, iter};

use clap::ValueEnum;
use serde::Serialize;

use super::way::{LayerWay, Start, Way};

/// What is measured, in this order.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum Part {
    /// from the start of /init to the new init, by size
    Provisioning,
    /// the costliest steps of a boot of cvm-init
    Effects,
    /// system calls and processor time, in boots that are not timed
    Costs,
    /// fio and 16 writers on /cocos, by cipher and place of the tags
    Data,
    /// the files of an image unpacked into an overlay on /cocos
    Unpack,
    /// the same and fio with another choice of journal, mount or dm-crypt each time
    Choices,
    /// from the start of the kernel to the new init of an OCI image of 1, 4 and 16 layers, against the
    /// script of an engine's image
    Layers,
    /// from power-on to multi-user.target of the demo's Debian: by GRUB, by a unified kernel image, and
    /// without firmware
    Machine,
}

/// What is published, and measured where nothing else is asked for.
pub(super) const PUBLISHED: &[Part] =
    &[Part::Provisioning, Part::Effects, Part::Costs, Part::Data, Part::Unpack, Part::Choices];

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// What is measured.
    pub(super) parts: Vec<Part>,
    /// By which ways.
    pub(super) ways: Vec<Way>,
    /// Of the partition; the smallest first.
    pub(super) sizes_mib: Vec<u64>,
    /// How many times each.
    pub(super) runs: usize,
    /// How much the guests do.
    pub(super) work: Work,
}

/// How much a guest does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Work {
    /// Of the file that fio writes.
    pub(super) fio_size: &'static str,
    /// Of each of its jobs.
    pub(super) fio_seconds: u32,
    /// Of each of the 16 writers.
    pub(super) writer_files: u32,
}

/// More than the kernel lets be dirty before it begins to write.
pub(super) const WHOLE: Work = Work { fio_size: "200M", fio_seconds: 2, writer_files: 250 };
/// To see that it works.
pub(super) const LITTLE: Work = Work { fio_size: "4M", fio_seconds: 1, writer_files: 25 };

/// A guest to boot.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Boot {
    /// From partitions.
    Partitions(Guest),
    /// From an image in layers.
    Layers {
        /// Whose initramfs.
        way: LayerWay,
        /// How many.
        count: u32,
    },
    /// The demo's Debian, to the end of its boot.
    Machine {
        /// By what.
        start: Start,
        /// Whose initramfs.
        way: Way,
    },
}

/// A guest that boots from partitions, and what it does then.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Guest {
    /// How it boots.
    pub(super) way: Way,
    /// What it does.
    pub(super) job: Job,
    /// Of the partition of the volume.
    pub(super) mib: u64,
    /// What the volume is, besides what the way says.
    volume: &'static str,
    runs: usize,
    work: Work,
}

/// What a guest does when it has booted.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Job {
    /// It tells of the boot.
    Provisioning,
    /// And what the kernel counted.
    Costs,
    /// fio and many writers.
    Data,
    /// An image.
    Unpack,
    /// All choices, one after the other.
    Choices,
}

/// The time of the shell way grows with the partition: above this it is extrapolated.
const SHELL_MAX_MIB: u64 = 1024;
/// The worst case of tags in memory has to fit into a quarter of the guest's.
const MEMORY_MAX_MIB: u64 = 20_480;
/// The partition where its size is not the question: room for what is written, and no more, because
/// the shell way wipes it first.
const DATA_MIB: u64 = 512;

/// What the data path is measured with: a way, and words more.
const VOLUMES: &[(Way, &str)] = &[
    (Way::CvmMemory, "cvm.cipher=aes-gcm-random cvm.integrity=aead"),
    (Way::CvmDisk, "cvm.cipher=aes-gcm-random cvm.integrity=aead"),
    (Way::CvmMemory, "cvm.cipher=aegis128-random cvm.integrity=aead"),
    (Way::CvmDisk, "cvm.cipher=aegis128-random cvm.integrity=aead"),
    (Way::CvmMemory, "cvm.cipher=chacha20-random cvm.integrity=poly1305"),
    (Way::CvmDisk, "cvm.cipher=chacha20-random cvm.integrity=poly1305"),
    (Way::CvmMemory, "cvm.cipher=aes-xts-plain64 cvm.integrity=hmac-sha256"),
    (Way::CvmDisk, "cvm.cipher=aes-xts-plain64 cvm.integrity=hmac-sha256"),
    (Way::CvmPlain, ""),
    (Way::Shell, ""),
    (Way::Tuned, ""),
];

/// What whole machines boot with.
const WHOLE_BOOTS: &[Way] = &[Way::CvmMemory, Way::Tuned, Way::Shell, Way::Dracut];

/// Images that are booted in layers.
const LAYERS: &[u32] = &[1, 4, 16];

/// All guests, in the order in which they are booted.
pub(super) fn boots(wanted: &Wanted) -> Vec<Boot> {
    let parts = Part::value_variants().iter().filter(|part| wanted.parts.contains(part));
    parts.flat_map(|part| part.boots(wanted)).collect()
}

impl Part {
    fn boots(self, wanted: &Wanted) -> Vec<Boot> {
        let runs = wanted.runs;
        let runs_if = |condition| if condition { runs } else { 0 };
        let smallest = wanted.sizes_mib.first().copied().unwrap_or_default();
        match self {
            Self::Provisioning => {
                let of_size = |&mib| {
                    wanted.each_way(Job::Provisioning, mib, move |way| match way {
                        Way::CvmPlain => 0,
                        // It makes no volume, so one size stands for all.
                        Way::Dracut => runs_if(mib == smallest),
                        Way::Shell => usize::from(mib <= SHELL_MAX_MIB),
                        Way::CvmMemory => runs_if(mib <= MEMORY_MAX_MIB),
                        Way::CvmDisk | Way::Tuned => runs,
                    })
                };
                wanted.sizes_mib.iter().flat_map(of_size).collect()
            }
            // Part of each boot that is timed.
            Self::Effects if wanted.parts.contains(&Self::Provisioning) => Vec::new(),
            Self::Effects => {
                let guest = wanted.guest(Way::CvmMemory, Job::Provisioning, smallest);
                vec![Boot::Partitions(guest); runs]
            }
            Self::Costs => wanted.each_way(Job::Costs, smallest, |way| match way {
                Way::CvmPlain => 0,
                // The kernel tells user space from itself by where its timer finds a program, which is
                // some 300 times in a boot of cvm-init: it takes more of them to know.
                Way::CvmMemory | Way::CvmDisk => 4 * runs,
                // They take so much more that once tells it.
                Way::Shell | Way::Tuned | Way::Dracut => 1,
            }),
            Self::Data => {
                let there = VOLUMES.iter().filter(|(way, _)| wanted.ways.contains(way));
                let guest = |&(way, volume): &(Way, &'static str)| {
                    Boot::Partitions(Guest { volume, ..wanted.guest(way, Job::Data, DATA_MIB) })
                };
                there.map(guest).collect()
            }
            Self::Unpack => wanted.each_way(Job::Unpack, DATA_MIB, |way| {
                runs_if(!matches!(way, Way::CvmPlain | Way::Dracut))
            }),
            Self::Choices => {
                // Many volumes: for each no more than it takes to tell them apart.
                let whole = wanted.work == WHOLE;
                let fio_size = if whole { "32M" } else { wanted.work.fio_size };
                let work = Work { fio_size, fio_seconds: 1, ..wanted.work };
                // All of them in each boot and from the start again, so that what changes meanwhile
                // shows as spread.
                let guest = Guest { work, ..wanted.guest(Way::CvmMemory, Job::Choices, DATA_MIB) };
                vec![Boot::Partitions(guest); runs_if(wanted.ways.contains(&Way::CvmMemory))]
            }
            Self::Layers => {
                let of_image = |&count| {
                    [LayerWay::Layers, LayerWay::Engine]
                        .into_iter()
                        .flat_map(move |way| iter::repeat_n(Boot::Layers { way, count }, runs))
                };
                LAYERS.iter().flat_map(of_image).collect()
            }
            Self::Machine => {
                let ways = wanted.ways.iter().filter(|way| WHOLE_BOOTS.contains(way));
                let of_way = |&way: &Way| {
                    let starts = Start::value_variants().iter();
                    starts
                        .flat_map(move |&start| iter::repeat_n(Boot::Machine { start, way }, runs))
                };
                ways.flat_map(of_way).collect()
            }
        }
    }
}

impl Wanted {
    fn guest(&self, way: Way, job: Job, mib: u64) -> Guest {
        Guest { way, job, mib, volume: "", runs: self.runs, work: self.work }
    }

    /// Guests of each way, so many of it.
    fn each_way(&self, job: Job, mib: u64, times: impl Fn(Way) -> usize) -> Vec<Boot> {
        let of_way = |&way| vec![Boot::Partitions(self.guest(way, job, mib)); times(way)];
        self.ways.iter().flat_map(of_way).collect()
    }
}

impl Guest {
    /// Its words of the kernel command line, besides those of its disk.
    pub(super) fn words(&self) -> String {
        let Self { way, job, volume, runs, work, .. } = self;
        let Work { fio_size, fio_seconds, writer_files } = work;
        // The kernel runs what counts before /init.
        let counter = if *job == Job::Costs { " rdinit=/bench/measure" } else { "" };
        format!(
            "{way} {volume} bench.job={job} bench.runs={runs} bench.fio_size={fio_size} \
             bench.fio_seconds={fio_seconds} bench.writer_files={writer_files}{counter}",
            way = way.words(),
        )
    }

    /// The cipher for which its initramfs needs modules, where that is another than usual.
    pub(super) fn cipher(&self) -> Option<&str> {
        let mut words = [self.way.words(), self.volume].into_iter().flat_map(str::split_whitespace);
        words.find_map(|word| word.strip_prefix("cvm.cipher="))
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

impl fmt::Display for Boot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Partitions(Guest { way, job, mib, volume, .. }) => {
                let space = if volume.is_empty() { "" } else { " " };
                write!(f, "{way}, {job}, {mib} MiB{space}{volume}")
            }
            Self::Layers { way, count } => write!(f, "{way}, {count} layers"),
            Self::Machine { start, way } => write!(f, "{way}, whole machine, {}", start.title()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that there is.
    fn all() -> Wanted {
        Wanted {
            parts: PUBLISHED.to_vec(),
            ways: Way::value_variants().to_vec(),
            sizes_mib: vec![64, 1024, 20_480, 2 << 20],
            runs: 3,
            work: WHOLE,
        }
    }

    /// How many guests of this job, way and size.
    fn count(boots: &[Boot], job: Job, way: Way, mib: u64) -> usize {
        let is = |boot: &&Boot| matches!(boot, Boot::Partitions(guest) if (guest.job, guest.way, guest.mib) == (job, way, mib));
        boots.iter().filter(is).count()
    }

    #[test]
    fn what_takes_long_or_says_nothing_is_not_booted() {
        let boots = boots(&all());
        let timed = |way, mib| count(&boots, Job::Provisioning, way, mib);
        for (way, counts) in [
            (Way::CvmMemory, [3, 3, 3, 0]),
            (Way::CvmDisk, [3, 3, 3, 3]),
            (Way::CvmPlain, [0, 0, 0, 0]),
            (Way::Shell, [1, 1, 0, 0]),
            (Way::Tuned, [3, 3, 3, 3]),
            (Way::Dracut, [3, 0, 0, 0]),
        ] {
            assert_eq!([64, 1024, 20_480, 2 << 20].map(|mib| timed(way, mib)), counts, "{way:?}");
        }
        assert_eq!(count(&boots, Job::Costs, Way::CvmDisk, 64), 12);
        assert_eq!(count(&boots, Job::Costs, Way::Shell, 64), 1);
        assert_eq!(count(&boots, Job::Data, Way::CvmMemory, DATA_MIB), 4);
        assert_eq!(count(&boots, Job::Unpack, Way::Dracut, DATA_MIB), 0);
        assert_eq!(count(&boots, Job::Choices, Way::CvmMemory, DATA_MIB), 3);
        assert!(boots.iter().all(|boot| matches!(boot, Boot::Partitions(_))));
    }

    #[test]
    fn effects_need_boots_of_their_own_where_none_are_timed() {
        let only = |parts: &[Part]| boots(&Wanted { parts: parts.to_vec(), ..all() });
        assert_eq!(count(&only(&[Part::Effects]), Job::Provisioning, Way::CvmMemory, 64), 3);
        let both = only(&[Part::Effects, Part::Provisioning]);
        assert_eq!(count(&both, Job::Provisioning, Way::CvmMemory, 64), 3);
        let layers = only(&[Part::Layers]);
        assert_eq!(layers.len(), 18);
        assert_eq!(layers.last(), Some(&Boot::Layers { way: LayerWay::Engine, count: 16 }));
        let machines = only(&[Part::Machine]);
        assert_eq!(machines.len(), 36);
        assert_eq!(
            machines.first(),
            Some(&Boot::Machine { start: Start::Direct, way: Way::CvmMemory })
        );
    }

    #[test]
    fn words_say_what_is_to_be_done() {
        let wanted =
            Wanted { ways: vec![Way::CvmPlain, Way::CvmDisk], runs: 1, work: LITTLE, ..all() };
        let words = |part: Part, nth: usize| match part.boots(&wanted).remove(nth) {
            Boot::Partitions(guest) => (guest.words(), guest.cipher().map(str::to_owned)),
            Boot::Layers { .. } | Boot::Machine { .. } => unreachable!(),
        };
        let (disk, cipher) = words(Part::Data, 0);
        assert_eq!(
            disk,
            "cvm.tags=disk cvm.cipher=aes-gcm-random cvm.integrity=aead bench.job=data bench.runs=1 \
             bench.fio_size=4M bench.fio_seconds=1 bench.writer_files=25"
        );
        assert_eq!(cipher.as_deref(), Some("aes-gcm-random"));
        assert_eq!(words(Part::Data, 4).1.as_deref(), Some("aes-xts-plain64"));
        let (counted, cipher) = words(Part::Costs, 0);
        assert!(counted.ends_with(" bench.writer_files=25 rdinit=/bench/measure"), "{counted}");
        assert_eq!(cipher, None);
    }
}
