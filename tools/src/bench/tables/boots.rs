//! Tables of what boots take.

use std::collections::{BTreeMap, BTreeSet};

use super::ratios::ratio;
use super::text::{
    Columns, NONE, figure, grid, grouped, middle, number, paragraph, size, table, whole,
};
use crate::bench::figures::{Figures, Layering, Machine, Memory, Provisioned, Step};
use crate::bench::spread::{Number, Spread};
use crate::bench::way::{LayerWay, Way};

const MIB: f64 = 1_048_576.0;

pub(super) fn provisioning(figures: &Figures) -> String {
    let introduction = "Milliseconds from the start of `/init` to the new init without the time that \
                        kernel modules take to load (lowest and highest of the runs) + that time:";
    by_size(introduction, &figures.provisioning, |row| {
        let modules = row.measured.as_ref().and_then(|measured| measured.modules_us);
        let modules = modules.map(|modules| format!(" + {}", whole(Some(modules), 1e3)));
        figure(row.rest_us, 1e3) + &modules.unwrap_or_default()
    })
}

pub(super) fn written(figures: &Figures) -> String {
    by_size("KiB written to the disk meanwhile:", &figures.provisioning, |row| {
        whole(Some(row.written_bytes), 1024.0)
    })
}

/// A row for each size, a column for each way that makes a volume.
fn by_size(introduction: &str, rows: &[Provisioned], cell: fn(&Provisioned) -> String) -> String {
    let found: BTreeMap<_, _> =
        rows.iter().map(|row| ((row.partition_mib, row.way), row)).collect();
    let there: BTreeSet<_> = rows.iter().map(|row| row.way).collect();
    let ways = || Way::TIMED.into_iter().filter(|way| *way != Way::Dracut && there.contains(way));
    if ways().next().is_none() {
        return String::new();
    }
    let sizes: BTreeSet<_> =
        rows.iter().filter(|row| row.way != Way::Dracut).map(|row| row.partition_mib).collect();
    let head = ["partition 4"].into_iter().chain(ways().map(Way::title)).map(str::to_owned);
    let lines = sizes.into_iter().map(|mib| {
        let cells = ways().map(|way| match found.get(&(mib, way)) {
            Some(row) if row.extrapolated => cell(row) + " (extrapolated)",
            Some(row) => cell(row),
            None => NONE.to_owned(),
        });
        [size(mib)].into_iter().chain(cells).collect()
    });
    paragraph(introduction) + &grid(head.collect(), lines)
}

const MEMORY: Columns<(u64, Memory)> = &[
    ("partition 4", |(partition, _)| size(*partition)),
    ("tags in memory, MiB", |(_, memory)| mib(memory.tags_memory_max)),
    ("metadata, MiB", |(_, memory)| mib(Some(memory.metadata_memory_max))),
    ("inodes", |(_, memory)| {
        memory.inodes.map_or(NONE.to_owned(), |count| grouped(count.value(), 0))
    }),
];

fn mib(bytes: Option<Number>) -> String {
    bytes.map_or(NONE.to_owned(), |bytes| number(bytes.value() / MIB))
}

/// Of each size, with tags in memory where that was measured.
pub(super) fn memory(figures: &Figures) -> String {
    let mut rows = BTreeMap::new();
    for way in [Way::CvmDisk, Way::CvmMemory] {
        for row in figures.provisioning.iter().filter(|row| row.way == way) {
            if let Some(memory) = row.measured.as_ref().and_then(|measured| measured.memory) {
                rows.insert(row.partition_mib, memory);
            }
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    paragraph(
        "The most memory that the volume of a guest of 2 GiB can come to take, when every sector of \
         it was written and every inode used:",
    ) + &table(MEMORY, &Vec::from_iter(rows))
}

const EFFECTS: Columns<Step> =
    &[("step", |row| row.doing.clone()), ("time", |row| figure(Some(row.us), 1e3))];

pub(super) fn effects(figures: &Figures) -> String {
    if figures.effects.is_empty() {
        return String::new();
    }
    paragraph("The five costliest steps of a boot of cvm-init, ms:")
        + &table(EFFECTS, figures.effects.iter().take(5))
}

/// Boots of an image of so many layers: ours, and those of an engine's script.
type Pair = (Layering, Layering);

const LAYERS: Columns<Pair> = &[
    ("layers", |(ours, _)| ours.layers.to_string()),
    ("from the kernel, ms", |(ours, _)| figure(Some(ours.total_us), 1e3)),
    ("script, ms", |(_, script)| figure(Some(script.total_us), 1e3)),
    ("times", |(ours, script)| times(ours.total_us, script.total_us)),
    ("from /init, ms", |(ours, _)| figure(Some(ours.init_us), 1e3)),
    ("script, ms", |(_, script)| figure(Some(script.init_us), 1e3)),
    ("times", |(ours, script)| times(ours.init_us, script.init_us)),
    ("written, KiB", |(ours, _)| middle(ours.written_bytes, 1024.0)),
    ("script, KiB", |(_, script)| middle(script.written_bytes, 1024.0)),
];

fn times(over: Spread, under: Spread) -> String {
    number(ratio(Some(over), Some(under)).unwrap_or_default())
}

pub(super) fn layers(figures: &Figures) -> String {
    let of = |way, layers| {
        figures.layers.iter().copied().find(|row| row.way == way && row.layers == layers)
    };
    let counts: BTreeSet<_> = figures.layers.iter().map(|row| row.layers).collect();
    let pairs: Vec<_> = counts
        .into_iter()
        .filter_map(|count| of(LayerWay::Layers, count).zip(of(LayerWay::Engine, count)))
        .collect();
    if pairs.is_empty() {
        return String::new();
    }
    paragraph(
        "An OCI image of so many layers, from the start of the kernel and from that of /init to the \
         new init: ours, with each layer proven and what is written encrypted, and the script of an \
         engine's image in an initramfs of initramfs-tools, which does neither:",
    ) + &table(LAYERS, &pairs)
}

const MACHINES: Columns<Machine> = &[
    ("started by", |row| row.start.title().to_owned()),
    ("initramfs", |row| row.way.title().to_owned()),
    ("firmware to kernel", |row| middle(row.before_us, 1e6)),
    ("kernel", |row| middle(row.kernel_us, 1e6)),
    ("/init", |row| middle(row.init_us, 1e6)),
    ("systemd", |row| middle(row.system_us, 1e6)),
    ("all", |row| figure(Some(row.total_us), 1e6)),
    ("of it /init, %", |row| {
        number(100.0 * ratio(Some(row.init_us), Some(row.total_us)).unwrap_or_default())
    }),
    ("failed units", |row| row.failed.to_string()),
];

pub(super) fn machines(figures: &Figures) -> String {
    if figures.machines.is_empty() {
        return String::new();
    }
    paragraph(
        "Seconds from power-on to `multi-user.target` of the demo's Debian with Docker, partition 4 of \
         64 MiB. cvm-init and the scripts make an encrypted `/cocos`; with dracut nothing is writable, \
         and what needs that fails:",
    ) + &table(MACHINES, &figures.machines)
}
