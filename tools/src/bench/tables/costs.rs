//! The table of what a boot costs: a line for each measure, a column for each way.

use super::text::{NONE, grid, grouped, number, paragraph, size, whole};
use crate::bench::figures::{Cost, Figures, Footprint, Measured, Provisioned};
use crate::bench::spread::{Number, Spread};
use crate::bench::way::Way;

/// What is known of a way with the smallest partition.
struct Known<'a> {
    timed: Option<&'a Provisioned>,
    counted: Option<&'a Cost>,
    /// With modules and without.
    packed: Option<&'a Footprint>,
    bare: Option<&'a Footprint>,
}

/// What is told of a way.
type Measure = fn(&Known) -> String;

const MEASURES: &[(&str, Measure)] = &[
    ("start to new init, ms", |way| whole(way.timed.map(|row| row.total_us), 1e3)),
    ("initramfs, KiB", |way| kib(way.packed, |archive| archive.packed_bytes)),
    ("initramfs, unpacked, KiB", |way| kib(way.packed, |archive| archive.unpacked_bytes)),
    ("initramfs without kernel modules, KiB", |way| kib(way.bare, |archive| archive.packed_bytes)),
    ("unpacked without kernel modules, KiB", |way| kib(way.bare, |archive| archive.unpacked_bytes)),
    ("peak memory of PID 1, KiB", |way| whole(way.measured().map(|row| row.peak_kib), 1.0)),
    ("of the largest program that it ran, KiB", |way| {
        whole(way.measured().and_then(|row| row.children_peak_kib), 1.0)
    }),
    ("system calls", |way| whole(way.counted.map(|row| row.system_calls), 1.0)),
    ("of them to read the clock", |way| way.counted.map_or(NONE.to_owned(), readings)),
    ("processor time in user space, ms", |way| {
        processor(way.counted.map(|row| (row.user_us, row.children_user_us)))
    }),
    ("processor time in the kernel, ms", |way| {
        processor(way.counted.map(|row| (row.kernel_us, row.children_kernel_us)))
    }),
    ("share of user space in that of PID 1, %", |way| way.counted.map_or(NONE.to_owned(), share)),
];

pub(super) fn costs(figures: &Figures) -> String {
    let smallest = figures.provisioning.iter().map(|row| row.partition_mib).min();
    let known: Vec<_> = Way::TIMED
        .into_iter()
        .map(|way| (way, Known::of(figures, way, smallest)))
        .filter(|(_, known)| known.timed.is_some() || known.counted.is_some())
        .collect();
    if known.is_empty() {
        return String::new();
    }
    let corner = smallest.map_or(String::new(), |mib| format!("partition 4: {}", size(mib)));
    let titles = known.iter().map(|(way, _)| way.title().to_owned());
    let lines = MEASURES.iter().map(|(name, cell)| {
        let cells = known.iter().map(|(_, known)| cell(known));
        [(*name).to_owned()].into_iter().chain(cells).collect()
    });
    paragraph(
        "What a boot costs with the smallest partition. Processor time is that of PID 1 and, after \
         the +, of the programs that it ran, with all kernel modules; it and the system calls are \
         counted in boots that are not timed. To read the clock is a system call here; it is none \
         where the processor's own is good, as in VMs on KVM:",
    ) + &grid([corner].into_iter().chain(titles).collect(), lines)
}

impl<'a> Known<'a> {
    fn of(figures: &'a Figures, way: Way, smallest: Option<u64>) -> Self {
        let archive = |modules| {
            let mut all = figures.footprints.iter();
            all.find(|row| row.initramfs == way.initramfs() && row.modules == modules)
        };
        let mut timed = figures.provisioning.iter();
        Self {
            timed: timed.find(|row| row.way == way && Some(row.partition_mib) == smallest),
            counted: figures.costs.iter().find(|row| row.way == way),
            packed: archive(true),
            bare: archive(false),
        }
    }

    fn measured(&self) -> Option<&'a Measured> {
        self.timed?.measured.as_ref()
    }
}

fn kib(archive: Option<&Footprint>, bytes: fn(&Footprint) -> Number) -> String {
    archive.map_or(NONE.to_owned(), |archive| grouped(bytes(archive).value() / 1024.0, 0))
}

/// Of PID 1 and, where it ran any, of programs.
fn processor(took: Option<(Spread, Spread)>) -> String {
    let Some((own, children)) = took else { return NONE.to_owned() };
    let ran = children.median.value() != 0.0;
    let more = if ran { format!(" + {}", whole(Some(children), 1e3)) } else { String::new() };
    whole(Some(own), 1e3) + &more
}

/// How often the clock was read, in the first of the boots.
fn readings(counted: &Cost) -> String {
    let count = counted.calls.get("clock_gettime").copied().unwrap_or_default();
    whole(Some(Spread::flat(Number::count(count.unsigned_abs()))), 1.0)
}

fn share(counted: &Cost) -> String {
    let [user, kernel] = [counted.user_us, counted.kernel_us].map(|took| took.median.value());
    number(100.0 * user / (user + kernel))
}
