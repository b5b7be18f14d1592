//! What boots take: time, system calls, writes.

use std::collections::{BTreeMap, BTreeSet};

use super::{Of, gathered, grouped};
use crate::bench::figures::{Cost, Layering, Machine, Measured, Memory, Provisioned, Stage, Step};
use crate::bench::run::{Boot, Counted, Layered, Report, Whole};
use crate::bench::spread::{Number, Spread};
use crate::bench::way::Way;

/// A row for each way and size that was measured, and for each size above where a way's time grows
/// with the partition.
pub(super) fn provisioning(boots: &[Of<Boot>], sizes_mib: &[u64]) -> Vec<Provisioned> {
    let groups = grouped(boots, |(_, boot)| (boot.way, boot.partition_mib));
    let mut rows: Vec<_> = groups.iter().filter_map(|group| provisioned(group)).collect();
    // Stable, so that the ways of one size stay in their order.
    rows.sort_by_key(|row| row.partition_mib);
    let growing: Vec<_> = rows.iter().filter(|row| row.way.wipes()).collect();
    if let [.., near, far] = growing[..] {
        let above = sizes_mib.iter().filter(|&&mib| mib > far.partition_mib);
        let beyond: Vec<_> = above.map(|&mib| extrapolated(near, far, mib)).collect();
        rows.extend(beyond);
    }
    rows.sort_by_key(|row| row.partition_mib);
    rows
}

fn provisioned(group: &[Of<Boot>]) -> Option<Provisioned> {
    let (_, first) = group.first()?;
    let of = |figure: fn(&Of<Boot>) -> Option<i64>| Spread::of(group.iter().map(figure));
    Some(Provisioned {
        way: first.way,
        partition_mib: first.partition_mib,
        runs: group.len(),
        extrapolated: false,
        total_us: of(|(run, _)| Some(run.stamps.boot_us()))?,
        rest_us: of(|(run, boot)| Some(run.stamps.boot_us() - boot.report.as_ref()?.modules_us())),
        written_bytes: of(|(run, _)| Some(run.disk.open.bytes))?,
        measured: Some(Measured {
            modules_us: of(|(_, boot)| Some(boot.report.as_ref()?.modules_us())),
            written_requests: of(|(run, _)| Some(run.disk.open.requests))?,
            flushes: of(|(run, _)| Some(run.disk.open.flushes))?,
            written_after_sync_bytes: of(|(run, _)| Some(run.disk.closed.as_ref()?.bytes)),
            user_us: of(|(_, boot)| Some(boot.own.user_us + boot.children.user_us))?,
            peak_kib: of(|(_, boot)| {
                let own = boot.report.as_ref().map(|report| report.peak_memory_kib);
                Some(own.unwrap_or(boot.own.peak_kib))
            })?,
            children_peak_kib: of(|(_, boot)| Some(boot.children.peak_kib).filter(|&kib| kib != 0)),
            memory: memory(first),
        }),
        stages: stages(group),
    })
}

/// Each stage, without the modules that are loaded beside it; they come first.
fn stages(group: &[Of<Boot>]) -> Vec<Stage> {
    let reports = || group.iter().filter_map(|(_, boot)| boot.report.as_ref());
    let stages = reports()
        .map(|report| ("modules", report.modules_us()))
        .chain(reports().flat_map(Report::stages));
    let stage = |(name, us): (&str, Vec<i64>)| {
        Some(Stage { stage: name.to_owned(), us: Spread::of_all(us)? })
    };
    gathered(stages).into_iter().filter_map(stage).collect()
}

/// As `/init` has worked it out.
fn memory(boot: &Boot) -> Option<Memory> {
    let volume = Report::volume(boot.report.as_ref());
    Some(Memory {
        tags_memory_max: volume.tags_memory_max,
        metadata_memory_max: volume.metadata_memory_max?,
        inodes: volume.inodes,
    })
}

/// A row on the line through two others.
fn extrapolated(near: &Provisioned, far: &Provisioned, partition_mib: u64) -> Provisioned {
    let [near_mib, far_mib, mib] = [near.partition_mib, far.partition_mib, partition_mib]
        .map(|mib| Number::count(mib).value());
    let steps = (mib - far_mib) / (far_mib - near_mib);
    let on_line = |near: Spread, far: Spread| {
        let last = far.median.value();
        Spread::flat(Number::rounded(last + steps * (last - near.median.value())))
    };
    Provisioned {
        way: far.way,
        partition_mib,
        runs: 0,
        extrapolated: true,
        total_us: on_line(near.total_us, far.total_us),
        rest_us: near.rest_us.zip(far.rest_us).map(|(near, far)| on_line(near, far)),
        written_bytes: on_line(near.written_bytes, far.written_bytes),
        measured: None,
        stages: Vec::new(),
    }
}

/// What a boot of cvm-init does, with the smallest partition that was measured; the modules count as
/// one step.
pub(super) fn effects(boots: &[Of<Boot>]) -> Vec<Step> {
    let ours = || boots.iter().filter(|(_, boot)| boot.way == Way::CvmMemory);
    let smallest = ours().map(|(_, boot)| boot.partition_mib).min();
    let of_smallest = ours().filter(|(_, boot)| Some(boot.partition_mib) == smallest);
    let steps = of_smallest.filter_map(|(_, boot)| boot.report.as_ref()).flat_map(|report| {
        let (modules, others): (Vec<_>, Vec<_>) =
            report.effects.iter().partition(|effect| effect.is_module());
        let loads = (format!("load {} kernel modules", modules.len()), report.modules_us());
        [loads].into_iter().chain(others.into_iter().map(|other| (other.doing.clone(), other.us)))
    });
    let step = |(doing, us): (String, Vec<i64>)| Some(Step { doing, us: Spread::of_all(us)? });
    let mut steps: Vec<_> = gathered(steps).into_iter().filter_map(step).collect();
    steps.sort_by(|a, b| b.us.median.value().total_cmp(&a.us.median.value()));
    steps
}

/// From boots in which the kernel counted.
pub(super) fn costs(counted: &[Of<Counted>]) -> Vec<Cost> {
    let groups = grouped(counted, |(_, boot)| boot.way);
    groups.iter().filter_map(|group| cost(group)).collect()
}

fn cost(group: &[Of<Counted>]) -> Option<Cost> {
    let (_, first) = group.first()?;
    let of =
        |figure: fn(&Counted) -> i64| Spread::of_all(group.iter().map(|(_, boot)| figure(boot)));
    let mut calls = BTreeMap::new();
    for entry in &first.calls {
        *calls.entry(entry.call.clone()).or_default() += entry.count;
    }
    let programs: BTreeSet<_> = first.calls.iter().map(|entry| &entry.program).collect();
    Some(Cost {
        way: first.way,
        partition_mib: first.partition_mib,
        runs: group.len(),
        system_calls: of(|boot| boot.calls.iter().map(|entry| entry.count).sum())?,
        programs: programs.len(),
        user_us: of(|boot| boot.own.user_us)?,
        kernel_us: of(|boot| boot.runtime_us - boot.own.user_us)?,
        children_user_us: of(|boot| boot.children.user_us)?,
        children_kernel_us: of(|boot| boot.children.kernel_us)?,
        calls,
    })
}

/// Of each number of layers, and whose initramfs it was.
pub(super) fn layers(layered: &[Of<Layered>]) -> Vec<Layering> {
    let groups = grouped(layered, |(_, image)| (image.layers, image.way));
    let row = |group: &Vec<Of<Layered>>| {
        let (_, first) = group.first()?;
        let of = |figure: fn(&Of<Layered>) -> i64| Spread::of_all(group.iter().map(figure));
        Some(Layering {
            way: first.way,
            layers: first.layers,
            runs: group.len(),
            total_us: of(|(run, _)| run.stamps.new_init_us)?,
            init_us: of(|(run, _)| run.stamps.boot_us())?,
            written_bytes: of(|(run, _)| run.disk.open.bytes)?,
        })
    };
    groups.iter().filter_map(row).collect()
}

/// Of each way, and what started the kernel.
pub(super) fn machines(machines: &[Of<Whole>]) -> Vec<Machine> {
    let groups = grouped(machines, |(_, machine)| (machine.start, machine.way));
    let row = |group: &Vec<Of<Whole>>| {
        let (_, first) = group.first()?;
        let of = |figure: fn(&Of<Whole>) -> i64| Spread::of_all(group.iter().map(figure));
        Some(Machine {
            start: first.start,
            way: first.way,
            runs: group.len(),
            total_us: of(|(_, machine)| machine.before_us + machine.multi_user_us)?,
            before_us: of(|(_, machine)| machine.before_us)?,
            kernel_us: of(|(run, _)| run.stamps.init_us)?,
            init_us: of(|(run, _)| run.stamps.boot_us())?,
            system_us: of(|(run, machine)| machine.multi_user_us - run.stamps.new_init_us)?,
            failed: group.iter().map(|(_, machine)| machine.failed).max()?,
        })
    };
    groups.iter().filter_map(row).collect()
}
