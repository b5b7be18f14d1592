//! Where the disk may hang, and which one of several is taken.

use crate::kit::artefacts::initramfs_with_drivers;
use crate::kit::disk::{Disk, LARGE_SECTORS, Part};
use crate::kit::kernel::Kernel;
use crate::kit::root::Root;
use crate::kit::tool::{Scratch, command, run};
use crate::kit::vm::{Bus, Vm};
use crate::refused::refusal;
use serde_json::{Value, json};
use std::time::Duration;

const ENOSPC: i32 = 28;
const TIB: u64 = 1 << 40;
/// What stands on the console already.
const GLANCE: Duration = Duration::from_secs(1);

/// Boots, and says what the guest's report says of the disk and where /cocos lies.
#[track_caller]
fn taken(vm: Vm) -> (Value, Value) {
    let mut guest = vm.boot();
    let report = guest.report();
    guest.power_off();
    (report["disk"].clone(), report["volume"]["partition"].clone())
}

/// What the report says of the only disk that was found.
fn found(name: &str, by: &str) -> Value {
    json!({ "name": name, "found_by": by, "also_proven": [] })
}

#[track_caller]
fn boots_from(bus: Bus, name: &str, partition: &str) {
    let disk = Disk::builder().build();
    let vm = Vm::new().disk_on(bus, disk.path()).append(&format!("roothash={}", disk.roothash));
    assert_eq!(taken(vm), (found(name, "proof"), json!(partition)));
}

#[test]
fn a_virtio_blk_disk() {
    boots_from(Bus::VirtioBlk, "vda", "vda4");
}

#[test]
fn an_nvme_disk() {
    boots_from(Bus::Nvme, "nvme0n1", "nvme0n1p4");
}

/// With the drivers that `scripts/initramfs --drivers` packs.
#[track_caller]
fn boots_with_drivers(kernel: Kernel, drivers: &str, bus: Bus, name: &str) {
    let disk = Disk::builder().root(Root::standard_of(kernel.arch)).build();
    let vm = Vm::new().kernel(kernel).initramfs(initramfs_with_drivers(kernel, drivers));
    let vm = vm.disk_on(bus, disk.path()).words_of(&disk);
    assert_eq!(taken(vm), (found(name, "proof"), json!(format!("{name}4"))));
}

#[test]
fn a_disk_on_sata() {
    boots_with_drivers(Kernel::RUNNING, "ahci", Bus::Ahci, "sda");
}

/// It comes late: the kernel waits a second before it looks at it.
#[test]
fn a_disk_on_usb() {
    boots_with_drivers(Kernel::TRIXIE, "usb", Bus::Usb, "sda");
}

#[test]
fn a_disk_on_virtio_without_pci() {
    boots_with_drivers(Kernel::ARM, "virtio-mmio", Bus::VirtioMmio, "vda");
}

/// One controller, with the root's disk as its second namespace.
#[test]
fn an_nvme_disk_of_two_namespaces() {
    let (wrong, disk) = (decoy(), Disk::builder().build());
    let mut vm = Vm::new().qemu(&["-device", "nvme,id=nvme,serial=two"]);
    for (number, disk) in [(1, &wrong), (2, &disk)] {
        let drive = format!(
            "if=none,id=space{number},format=raw,cache=unsafe,file={}",
            disk.path().display()
        );
        let space = format!("nvme-ns,bus=nvme,drive=space{number},nsid={number}");
        vm = vm.qemu(&["-drive", &drive, "-device", &space]);
    }
    assert_eq!(taken(vm.words_of(&disk)), (found("nvme0n2", "proof"), json!("nvme0n2p4")));
    assert_eq!(wrong.read(Part::Cocos, 0, 4), [0; 4]);
}

/// The root's is the last of them.
#[test]
fn thirty_disks() {
    let (wrong, disk) = (decoy(), Disk::builder().build());
    let others = (0..29).fold(Vm::new(), |vm, _| vm.disk(&wrong).read_only());
    let mut guest = others.disk(&disk).words_of(&disk).boot();
    let report = guest.report();
    assert_eq!(report["disk"]["found_by"], "proof");
    assert!(guest.bytes_written(29) > 0);
    guest.power_off();
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

/// Which one it is does not matter, and it is told.
#[test]
fn two_disks_that_both_prove_the_root_hash() {
    let disks = [Disk::builder().build(), Disk::builder().build()];
    let mut guest = Vm::of(&disks[0]).disk(&disks[1]).boot();
    let expected = json!({ "name": "sda", "found_by": "proof", "also_proven": ["sdb"] });
    assert_eq!(guest.report()["disk"], expected);
    guest.wait_serial("sdb proves it as well: sda is taken, the first by name", GLANCE);
    let written = [0, 1].map(|disk| guest.bytes_written(disk) > 0);
    assert!(written[0] != written[1], "{written:?}");
    guest.power_off();
}

/// The serial is the host's word: a forged disk that has it too does not end the boot.
#[test]
fn two_disks_of_one_serial_of_which_one_is_forged() {
    let (forged, right) = (decoy(), Disk::builder().build());
    let vm = Vm::new().disk_with(&forged, "serial=twin").disk_with(&right, "serial=twin");
    let vm = vm.append(&format!("roothash={} cvm.disk=serial:twin", right.roothash));
    let mut guest = vm.boot();
    assert_eq!(guest.report()["disk"]["also_proven"], json!([]));
    assert_eq!(guest.bytes_written(0), 0);
    assert_eq!(right.read(Part::Cocos, 0, 4), b"LUKS");
    guest.power_off();
}

/// Another disk of that serial might have come.
#[test]
fn a_forged_disk_of_the_right_serial_is_told_when_the_time_is_up() {
    let forged = decoy();
    let hash = &Root::standard().roothash;
    let vm = Vm::new().disk(&forged).append(&format!("roothash={hash} cvm.disk=serial:disk0"));
    let reason = refusal(vm.append("cvm.timeout=5"));
    let start = "disk: no usable disk with serial \"disk0\" within 5 s; sda: the top hash block does \
                 not match the root hash";
    assert!(reason.starts_with(start), "{reason}");
}

#[test]
fn an_nvme_disk_pinned_by_its_name() {
    let (blk, nvme) = (Disk::builder().build(), Disk::builder().build());
    let vm = Vm::new()
        .disk_on(Bus::VirtioBlk, blk.path())
        .disk_on(Bus::Nvme, nvme.path())
        .append(&format!("cvm.disk=/dev/nvme0n1 roothash={}", nvme.roothash));
    let (disk, partition) = taken(vm);
    assert_eq!(disk, found("nvme0n1", "cvm.disk"));
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
        .any(|effect| effect["id"] == "wait-for-disk");
    assert!(waited);
    guest.power_off();
}

/// What QEMU makes of a disk by itself.
const SMALL_SECTORS: &str = "logical_block_size=512";

/// Boots with a disk that was grown behind its table, and fills /cocos. Says how large partition 4
/// then is, and whether the table's backup at the old end of the disk is what it was.
#[track_caller]
fn partition_of_a_grown_disk(disk: &Disk, properties: &str, words: &str) -> (u64, bool) {
    let (table, backup) = (disk.table(), disk.backup_table());
    // Behind 128 entries of 128 bytes.
    assert_eq!(backup[128 * 128..][..8], *b"EFI PART");
    let mut guest = Vm::new().disk_with(disk, properties).words_of(disk).append(words).boot();
    let report = guest.report();
    let more = json!({ "path": "/cocos/full", "offset": 0, "bytes": 1 << 28, "seed": 1 });
    assert_eq!(guest.call("pattern_write", more).unwrap_err().errno, Some(ENOSPC));
    guest.ask("sync", json!({}));
    guest.power_off();
    assert!(disk.table() == table, "the partition table was written to");
    (report["volume"]["partition_bytes"].as_u64().unwrap(), disk.backup_table() == backup)
}

#[test]
fn a_grown_disk_is_used_to_its_end() {
    let disk = Disk::builder().grown(64 << 20).build();
    let all = disk.size(Part::Cocos) + (64 << 20);
    assert_eq!(partition_of_a_grown_disk(&disk, SMALL_SECTORS, ""), (all, false));
}

#[test]
fn a_grown_disk_of_large_sectors_is_used_to_its_end() {
    let disk = Disk::builder().sector_size(4096).grown(64 << 20).build();
    let all = disk.size(Part::Cocos) + (64 << 20);
    assert_eq!(partition_of_a_grown_disk(&disk, LARGE_SECTORS, ""), (all, false));
}

#[test]
fn a_grown_disk_is_used_as_its_table_says_when_told_so() {
    let disk = Disk::builder().grown(64 << 20).build();
    let of_table = disk.size(Part::Cocos);
    assert_eq!(partition_of_a_grown_disk(&disk, SMALL_SECTORS, "cvm.grow=no"), (of_table, true));
}

/// The file system has as much of it as ext4 can.
#[test]
fn a_disk_of_17_tib_is_used_to_the_16th() {
    let disk = Disk::builder().build();
    let scratch = Scratch::new("large");
    let large = scratch.join("large.qcow2");
    run(command("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
        .args([disk.path(), &large])
        .arg("17T"));
    let vm = Vm::new().disk_of_qcow2(&large);
    // A guest with less could not hold its metadata.
    let vm = vm.memory("8G").append(&format!("roothash={} cvm.tags=disk", disk.roothash));
    let mut guest = vm.boot();
    let bytes = guest.report()["volume"]["bytes"].as_u64().unwrap();
    assert!((TIB * 16 - TIB / 1024..=TIB * 16 + TIB / 1024).contains(&bytes), "{bytes}");
    guest.wait_serial("sda4 has room for 17", GLANCE);
    let last = json!({
        "path": "/dev/mapper/cocos_crypt", "offset": bytes - (4 << 20), "bytes": 1 << 20,
        "seed": 1, "direct": true,
    });
    guest.ask("pattern_write", last.clone());
    assert_eq!(guest.ask("pattern_read", last), Value::Null);
    guest.power_off();
}
