//! Where the disk may hang, and which one of several is taken.

use crate::disk::{Disk, Part};
use crate::root::Root;
use crate::vm::{Bus, Vm};
use serde_json::{Value, json};
use std::time::Duration;

/// Boots, and says what the guest's report says of the disk and where /cocos lies.
#[track_caller]
fn taken(vm: Vm) -> (Value, Value) {
    let mut guest = vm.boot();
    let report = guest.report();
    guest.power_off();
    (report["disk"].clone(), report["volume"]["partition"].clone())
}

#[track_caller]
fn boots_from(bus: Bus, name: &str, partition: &str) {
    let disk = Disk::builder().build();
    let vm = Vm::new().disk_on(bus, disk.path()).append(&format!("roothash={}", disk.roothash));
    assert_eq!(taken(vm), (json!({ "name": name, "found_by": "proof" }), json!(partition)));
}

#[test]
fn a_virtio_blk_disk() {
    boots_from(Bus::VirtioBlk, "vda", "vda4");
}

#[test]
fn an_nvme_disk() {
    boots_from(Bus::Nvme, "nvme0n1", "nvme0n1p4");
}

/// A disk of the same shape whose root is another one, as a host might add.
fn decoy() -> Disk {
    let other = Root::builder().salt(&"0f".repeat(32)).build();
    Disk::builder().root(&other).build()
}

/// Boots with two disks, of which `right` is the one to be taken whatever the kernel calls it,
/// and nothing is to be written to the other.
#[track_caller]
fn the_right_one_is_taken(disks: [&Disk; 2], right: usize, pin: &str, found_by: &str) {
    let hash = format!("roothash={}", disks[right].roothash);
    let vm = Vm::new().disk(disks[0]).disk(disks[1]);
    let mut guest = vm.append(&hash).append(pin).boot();
    assert_eq!(guest.report()["disk"]["found_by"], found_by);
    assert_eq!(disks[right].read(Part::Cocos, 0, 6), b"LUKS\xba\xbe");
    assert!(guest.bytes_written(right) > 0);
    assert_eq!(guest.bytes_written(1 - right), 0);
    guest.power_off();
}

#[test]
fn two_disks_the_right_one_first() {
    let (right, wrong) = (Disk::builder().build(), decoy());
    the_right_one_is_taken([&right, &wrong], 0, "", "proof");
}

#[test]
fn two_disks_the_right_one_second() {
    let (right, wrong) = (Disk::builder().build(), decoy());
    the_right_one_is_taken([&wrong, &right], 1, "", "proof");
}

/// Two disks that both prove the root hash: only the command line can tell them apart.
#[test]
fn a_disk_pinned_by_its_serial() {
    let (first, second) = (Disk::builder().build(), Disk::builder().build());
    the_right_one_is_taken([&first, &second], 1, "cvm.disk=serial:disk1", "cvm.disk");
}

#[test]
fn an_nvme_disk_pinned_by_its_name() {
    let (blk, nvme) = (Disk::builder().build(), Disk::builder().build());
    let vm = Vm::new()
        .disk_on(Bus::VirtioBlk, blk.path())
        .disk_on(Bus::Nvme, nvme.path())
        .append(&format!("cvm.disk=/dev/nvme0n1 roothash={}", nvme.roothash));
    let (disk, partition) = taken(vm);
    assert_eq!(disk, json!({ "name": "nvme0n1", "found_by": "cvm.disk" }));
    assert_eq!(partition, "nvme0n1p4");
}

/// The kernel's uevent wakes the wait: a disk that comes late is taken as it comes.
#[test]
fn a_disk_that_is_plugged_in_while_waited_for() {
    let disk = Disk::builder().build();
    let mut guest = Vm::new()
        .disk_not_plugged_in(&disk)
        .append(&format!("roothash={} cvm.timeout=100", disk.roothash))
        .boot();
    // The last line before the disk is looked for.
    guest.wait_serial("kernel modules", Duration::from_secs(100));
    guest.plug_in(0);
    let waited = guest.report()["effects"]
        .as_array()
        .unwrap()
        .iter()
        .any(|effect| effect["doing"] == "wait for a block device");
    assert!(waited);
    guest.power_off();
}

/// Boots with a disk that was grown behind its table, and says how large partition 4 then is.
#[track_caller]
fn partition_of_a_grown_disk(disk: &Disk, words: &str) -> u64 {
    let before = disk.table();
    let mut guest = Vm::of(disk).append(words).boot();
    let report = guest.report();
    guest.power_off();
    assert!(disk.table() == before, "the partition table was written to");
    report["volume"]["partition_bytes"].as_u64().unwrap()
}

#[test]
fn a_grown_disk_is_used_to_its_end() {
    let disk = Disk::builder().grown(64 << 20).build();
    assert_eq!(partition_of_a_grown_disk(&disk, ""), disk.size(Part::Cocos) + (64 << 20));
}

#[test]
fn a_grown_disk_is_used_as_its_table_says_when_told_so() {
    let disk = Disk::builder().grown(64 << 20).build();
    assert_eq!(partition_of_a_grown_disk(&disk, "cvm.grow=no"), disk.size(Part::Cocos));
}
