//! Boots that together reach every place of the source that calls for an effect.

use super::matrix::Setup;
use crate::engine::engines_cow;
use crate::kexec;
use crate::kit::artefacts;
use crate::kit::data::Data;
use crate::kit::disk::{Disk, Part};
use crate::kit::guest::Guest;
use crate::kit::kernel::Kernel;
use crate::kit::layer::{self, Layer};
use crate::kit::root::{Node, Root};
use crate::kit::tpm::Tpm;
use crate::kit::vm::{Bus, Vm};
use crate::layers::partitioned;
use crate::volume_disk::blank;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

/// Boots that together reach every place. The first gives all its effects, each other one those
/// that were not seen before.
pub(super) fn setups() -> Vec<Setup> {
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
            disk: || Disk::builder().root(root_with_an_fstab()).build(),
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
            looks_again: true,
        },
    ]
}

fn setup_of_another_kernel() -> Setup {
    Setup {
        name: "another kernel of the root",
        // Where it is emulated, the kernel takes seconds to read another one.
        words: |_| format!("{} cvm.timeout=15", kexec::WORDS),
        // Of the second boot, which is no fault build, nothing is told.
        disk: || Disk::builder().root(root_with_a_kernel()).build(),
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

/// The same for each boot.
fn root_with_a_kernel() -> &'static Root {
    static ROOT: OnceLock<Root> = OnceLock::new();
    ROOT.get_or_init(|| kexec::standard(Kernel::RUNNING, ""))
}

/// The same for each boot.
fn root_with_an_fstab() -> &'static Root {
    static ROOT: OnceLock<Root> = OnceLock::new();
    let fstab = || Node::file("etc/fstab", "tmpfs /run tmpfs size=25%,mode=755\n");
    ROOT.get_or_init(|| Root::builder().with(fstab()).build())
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
