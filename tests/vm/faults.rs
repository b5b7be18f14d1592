//! The fault matrix: boots of the fault build in which one effect fails, fails when it is done,
//! panics or never returns. Each ends with one line of reason, nothing left, and the machine off.

use crate::artefacts;
use crate::data::Data;
use crate::disk::{Disk, Part};
use crate::engine::engines_cow;
use crate::guest::{Ending, Guest};
use crate::kernel::Kernel;
use crate::kexec;
use crate::layer::{self, Layer};
use crate::layers::partitioned;
use crate::matrix::{Kind, Row, Setup, at_once, print, run};
use crate::points::{Point, points, sites};
use crate::root::{Node, Root};
use crate::tool::Scratch;
use crate::tpm::Tpm;
use crate::vm::{Bus, Vm};
use crate::volume_disk::blank;
use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::Path;
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

/// Boots that together reach every place. The first gives all its effects, each other one those
/// that were not seen before.
fn setups() -> Vec<Setup> {
    let mut all = setups_of_partitions();
    all.extend(setups_of_layers());
    all.push(setup_of_another_kernel());
    all
}

fn setups_of_partitions() -> Vec<Setup> {
    vec![
        Setup {
            name: "shares",
            words: |_| String::new(),
            disk: || Disk::builder().build(),
            attach: |vm, disk, host| {
                vm.words_of(disk).disk(disk).share("certs_share", host).share("env_share", host)
            },
            then: |_| {},
            looks_again: false,
        },
        Setup {
            name: "grown disk, found by its serial, parameters on the command line",
            words: |disk| format!("cvm.disk=serial:disk0 {}", disk.verity_parameters),
            disk: || Disk::builder().grown(64 << 20).build(),
            attach: |vm, disk, _| vm.words_of(disk).disk(disk),
            then: |_| {},
            looks_again: false,
        },
        Setup {
            name: "tags on the disk",
            words: |_| "cvm.tags=disk".to_owned(),
            disk: || Disk::builder().build(),
            attach: |vm, disk, _| vm.words_of(disk).disk(disk),
            then: |_| {},
            looks_again: false,
        },
        Setup {
            name: "partitions by UUID, hash tree behind the data",
            words: |_| String::new(),
            disk: || Disk::builder().named().tree_behind().build(),
            attach: |vm, disk, _| vm.words_of(disk).disk(disk),
            then: |_| {},
            looks_again: false,
        },
        Setup {
            name: "writable places",
            words: |_| "cvm.tmp=volume cvm.overlay=/etc".to_owned(),
            disk: || {
                let fstab = Node::file("etc/fstab", "tmpfs /run tmpfs size=25%,mode=755\n");
                Disk::builder().root(&Root::builder().with(fstab).build()).build()
            },
            attach: |vm, disk, host| {
                let initramfs = artefacts::initramfs_with_faults_and_overlay();
                vm.words_of(disk).initramfs(initramfs).disk(disk).share("certs_share", host)
            },
            then: |_| {},
            looks_again: false,
        },
        Setup {
            name: "modules without a list",
            words: |_| String::new(),
            disk: || Disk::builder().build(),
            attach: |vm, disk, _| {
                let packed = artefacts::initramfs_with_faults();
                vm.words_of(disk).initramfs(artefacts::without_the_list(&packed)).disk(disk)
            },
            then: |_| {},
            looks_again: false,
        },
        Setup {
            name: "disk plugged in late",
            words: |_| String::new(),
            disk: || Disk::builder().build(),
            attach: |vm, disk, _| vm.words_of(disk).disk_not_plugged_in(disk),
            then: |guest: &mut Guest| {
                guest.wait_serial("#1 wait-for-disk", Duration::from_secs(100));
                guest.plug_in(0);
            },
            looks_again: false,
        },
        Setup {
            // On virtio-blk, which shows its disks before they are looked for: one look finds all.
            name: "volume on a disk of its own, verified data, a TPM",
            words: |_| {
                format!("cvm.volume=serial:disk1 {}", Data::standard().word("models", "disk2"))
            },
            disk: || Disk::builder().without(Part::Cocos).build(),
            attach: |vm, disk, host| {
                vm.words_of(disk)
                    .disk_on(Bus::VirtioBlk, disk.path())
                    .disk_on(Bus::VirtioBlk, &blank(host, "volume", 64 << 20))
                    .disk_on(Bus::VirtioBlk, Data::standard().path())
                    .read_only()
                    .tpm(Tpm::honest())
            },
            then: |_| {},
            looks_again: false,
        },
    ]
}

fn setup_of_another_kernel() -> Setup {
    Setup {
        name: "another kernel of the root",
        // Where it is emulated, the kernel takes seconds to read another one.
        words: |_| format!("{} cvm.timeout=15", kexec::WORDS),
        // Of the second boot, which is no fault build, nothing is told.
        disk: || Disk::builder().root(&kexec::standard(Kernel::RUNNING, "")).build(),
        attach: |vm, disk, _| vm.words_of(disk).disk(disk),
        then: |_| {},
        looks_again: false,
    }
}

fn setups_of_layers() -> Vec<Setup> {
    vec![
        Setup {
            name: "layers of an image, what is written encrypted",
            words: |_| {
                format!(
                    "{} cvm.volume=serial:disk3 cocoon.hostname=my-vm",
                    layer::word(&all_layers())
                )
            },
            disk: || Disk::builder().build(),
            attach: |vm, _, host| with_layers(vm, host),
            then: |_| {},
            looks_again: true,
        },
        Setup {
            name: "layers of an image, what is written in memory",
            words: |_| {
                let network = "ip=10.0.0.2:::255.0.0.0:vm:eth0:off:10.0.0.3";
                format!(
                    "{} cvm.cow=memory boot=cocoon-overlay {network}",
                    layer::word(&all_layers())
                )
            },
            disk: || Disk::builder().build(),
            attach: |vm, _, host| {
                with_layers(vm, host).qemu(&["-device", "virtio-net-pci,mac=52:54:00:00:00:01"])
            },
            then: |_| {},
            looks_again: true,
        },
        Setup {
            name: "layers of an engine, what is written on its disk",
            words: |_| {
                "boot=cocoon-overlay cocoon.layers=disk2,disk1,disk0 cocoon.cow=disk3 \
                 cvm.unverified=yes"
                    .to_owned()
            },
            disk: || Disk::builder().build(),
            attach: |vm, _, host| {
                with_layers_and(vm, &engines_cow(host, 64 << 20))
                    .qemu(&["-device", "virtio-net-pci,mac=52:54:00:00:00:01"])
            },
            then: |_| {},
            looks_again: true,
        },
        Setup {
            name: "layers that are partitions",
            words: |_| layer::word(&all_layers()),
            disk: || Disk::builder().build(),
            attach: |vm, _, host| {
                vm.disk_on(Bus::VirtioBlk, &partitioned(host, &all_layers(), &["cocos"]))
                    .initramfs(artefacts::initramfs_with_faults_and_overlay())
            },
            then: |_| {},
            looks_again: true,
        },
    ]
}

fn all_layers() -> Vec<&'static Layer> {
    layer::image().iter().collect()
}

/// The layers of an image, and a blank disk for what is written.
fn with_layers(vm: Vm, host: &Path) -> Vm {
    with_layers_and(vm, &blank(host, "cow", 64 << 20))
}

fn with_layers_and(vm: Vm, cow: &Path) -> Vm {
    let vm = all_layers()
        .into_iter()
        .rev()
        .fold(vm, |vm, layer| vm.disk_on(Bus::VirtioBlk, layer.path()).read_only());
    vm.disk_on(Bus::VirtioBlk, cow).initramfs(artefacts::initramfs_with_faults_and_overlay())
}

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
    for fault in [
        "fail:mount:sysfs#1",
        "panic:switch-sysrq-off#1",
        "fail:read:/proc/sys/kernel/panic#1",
        "fail:restart-at-panic#1",
        "fail:read-command-line#1",
    ] {
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
    let vm = Vm::new().processors(1).initramfs(crate::artefacts::initramfs_with_faults());
    let limit = if words.contains("cvm.timeout=") { "" } else { LIMIT };
    vm.append(WORDS).append(limit).append(words)
}
