//! The fault matrix: boots of the fault build in which one effect fails, fails when it is done,
//! panics or never returns. Each ends with one line of reason, nothing left, and the machine off.

mod matrix;
mod points;
mod setups;

use crate::kit::artefacts;
use crate::kit::disk::Disk;
use crate::kit::guest::Ending;
use crate::kit::tool::Scratch;
use crate::kit::vm::Vm;
use matrix::{Kind, Row, at_once, print, run};
use points::{Point, points, sites};
use setups::setups;
use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::time::Duration;

/// What the kernel's timing decides: how often the disks are looked at.
const ONCE: &str = "disk";

/// Rows that cannot be, and why.
const IMPOSSIBLE: &[(Kind, &str, &str)] = &[
    (Kind::Late, "run:/sbin/init", "when it is done, this program is no more"),
    (Kind::Late, "start-kernel:/vmlinuz", "when it is done, this kernel is no more"),
    (Kind::Stall, "make-node:/dev/kmsg", BEFORE_WATCHDOG),
    (Kind::Stall, "open:/dev/kmsg", BEFORE_WATCHDOG),
    (Kind::Stall, "make-keyring", BEFORE_WATCHDOG),
    (Kind::Stall, "start-watchdog", BEFORE_WATCHDOG),
];

const BEFORE_WATCHDOG: &str = "there is no watchdog yet, and nothing that the host has a say in";

/// The points of every setup, each with the setup that reaches it.
fn all_points() -> Vec<(usize, Point)> {
    let mut all: Vec<(usize, Point)> = Vec::new();
    let consoles = at_once(setups(), |setup| setup.good_boot());
    for (index, serial) in consoles.iter().enumerate() {
        let known: BTreeSet<_> = all.iter().map(|(_, point)| point.name()).collect();
        let fresh = points(serial).into_iter().filter(|point| {
            (point.number == 1 || point.stage != ONCE) && !known.contains(&point.name())
        });
        all.extend(fresh.map(|point| (index, point)));
    }
    all
}

/// Every place that calls for an effect is reached.
fn check_sites(points: &[(usize, Point)]) {
    let reached: BTreeSet<_> = points.iter().map(|(_, point)| point.site.clone()).collect();
    let missed: Vec<_> = sites().into_iter().filter(|site| !reached.contains(site)).collect();
    assert!(missed.is_empty(), "no boot reaches {missed:?}");
    println!("{} places call for an effect, {} of them reached", sites().len(), reached.len());
}

fn rows(points: &[(usize, Point)]) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut alike = false;
    for (setup, point) in points {
        // Loading one module is loading another. They all fail once; what else befalls them befalls the
        // first.
        let again = point.is_load() && std::mem::replace(&mut alike, true);
        let kinds = if again { &Kind::ALL[..1] } else { &Kind::ALL[..] };
        for &kind in kinds {
            let mut impossible = IMPOSSIBLE.iter();
            let why = impossible.find(|(k, id, _)| *k == kind && *id == point.id);
            if let Some((_, id, why)) = why {
                println!("no row for {kind:?} of {id}: {why}");
                continue;
            }
            rows.push(Row { setup: *setup, point: point.clone(), kind, index: rows.len() });
        }
    }
    rows
}

/// One row of each stage and kind, where it hurts most.
const SLICE: &[(Kind, &str)] = &[
    (Kind::Fail, "mount:proc#1"),
    (Kind::Panic, "read:/modules.list#1"),
    (Kind::Fail, "read-top-hash-block:sda3#1"),
    (Kind::Stall, "list-disks#1"),
    (Kind::Late, "claim:vdb#1"),
    (Kind::Late, "mount-verified:the root#1"),
    (Kind::Late, "mount-verified:the data models#1"),
    (Kind::Panic, "resume:root_verity#1"),
    (Kind::Late, "add-key#1"),
    (Kind::Panic, "load-table:cocos_crypt#1"),
    (Kind::Stall, "fill-memory:cvm-init-metadata#1"),
    (Kind::Fail, "bind:/cocos/docker#1"),
    (Kind::Late, "mount-share:certs_share#1"),
    (Kind::Stall, "copy:/cocos_init#1"),
    (Kind::Late, "mount-overlay:/etc#1"),
    (Kind::Panic, "mount-verified:layer 1#1"),
    (Kind::Stall, "join-layers#1"),
    (Kind::Panic, "set-hostname:my-vm#1"),
    (Kind::Late, "detach-layers#1"),
    (Kind::Panic, "remount:/run#1"),
    (Kind::Stall, "read-register:PCR 15#1"),
    (Kind::Late, "measure:volume#1"),
    (Kind::Late, "move:/proc#1"),
    (Kind::Panic, "change-root#1"),
    (Kind::Fail, "run:/sbin/init#1"),
    (Kind::Late, "load-kernel:/vmlinuz#1"),
    (Kind::Fail, "start-kernel:/vmlinuz#1"),
];

#[test]
fn every_effect_is_reached_and_a_slice_of_them_fails_as_it_must() {
    let points = all_points();
    check_sites(&points);
    let all = rows(&points);
    let slice = SLICE.iter().map(|(kind, name)| {
        let found = all.iter().find(|row| row.kind == *kind && row.point.name() == *name);
        found.unwrap_or_else(|| panic!("no boot reaches {name}")).clone()
    });
    let outcomes = run(&setups(), slice.collect());
    print(&outcomes);
}

/// Before PID 1 has seen to it that a panic restarts the machine, and where it cannot.
#[test]
fn a_panic_that_is_asked_for_restarts_the_machine_at_any_time() {
    let disk = Disk::builder().build();
    for fault in ["panic:mount:sysfs#1", "fail:restart-at-panic#1"] {
        let words = format!("\"CVM_FAULT={fault}\" cvm.on_failure=panic");
        let mut guest = vm(&words).disk(&disk).words_of(&disk).boot();
        assert_eq!(guest.wait_ending(Duration::from_secs(100)), Ending::Reset, "{fault}");
        let panic = "Kernel panic - not syncing: Attempted to kill init!";
        assert!(guest.serial().contains(panic), "{fault}");
    }
}

/// With `CVM_TEST_ROWS` set, only the rows whose name, or that of whose boot, begins with one of its
/// texts, which are parted by commas: "handoff: panic,disk: fail open,layers".
#[test]
#[ignore = "an hour: scripts/test --all"]
fn every_effect_fails_as_it_must() {
    let points = all_points();
    check_sites(&points);
    let mut rows = rows(&points);
    if let Ok(texts) = env::var("CVM_TEST_ROWS") {
        let all = rows.len();
        let setups = setups();
        rows.retain(|row| {
            let names = [row.name(), setups[row.setup].name.to_owned()];
            texts.split(',').any(|text| names.iter().any(|name| name.starts_with(text)))
        });
        println!("only {} rows of {all}: {texts}", rows.len());
        assert!(!rows.is_empty(), "no row's name begins so");
    }
    print(&run(&setups(), rows));
}

/// One folder for both shares of a boot.
pub(crate) fn host_folder() -> Scratch {
    let host = Scratch::new("shares");
    fs::write(host.join("name"), "host").unwrap();
    host
}

/// So that no line is dropped.
pub(crate) const WORDS: &str = "printk.devkmsg=on";

/// So that a wait for a disk that never proves ends soon.
const LIMIT: &str = "cvm.timeout=3";

/// Told these words, and [`LIMIT`] where they have no other.
pub(crate) fn vm(words: &str) -> Vm {
    let vm = Vm::new().processors(1).initramfs(artefacts::initramfs_with_faults());
    let limit = if words.contains("cvm.timeout=") { "" } else { LIMIT };
    vm.append(WORDS).append(limit).append(words)
}
