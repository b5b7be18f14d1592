//! The volume on a disk of its own, all of it.

use crate::kit::disk::{Disk, Part};
use crate::kit::guest::Guest;
use crate::kit::served::Served;
use crate::kit::tool::Scratch;
use crate::kit::vm::{Bus, Vm};
use crate::kit::volume_check::complaints;
use crate::refused::refusal;
use serde_json::{Value, json};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 64 * MIB;
const EBUSY: i32 = 16;

/// What the second disk of a VM is called.
const WORD: &str = "cvm.volume=serial:disk1";

/// Sectors of 4096 bytes.
const LARGE: &str = "logical_block_size=4096,physical_block_size=4096";

/// A disk with the root that has no place for the volume.
fn root_disk() -> Disk {
    Disk::builder().without(Part::Cocos).build()
}

/// A blank disk.
pub(crate) fn blank(folder: &Path, name: &str, bytes: u64) -> PathBuf {
    let path = folder.join(name);
    File::create(&path).and_then(|file| file.set_len(bytes)).expect("a sparse file");
    path
}

fn start_of(path: &Path) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 20];
    let file = File::open(path).expect("the image is there");
    file.read_exact_at(&mut bytes, 0).expect("a disk of a megabyte or more");
    bytes
}

/// Writes to the volume and reads it back from the disk.
#[track_caller]
pub(crate) fn check_volume(guest: &mut Guest) {
    let pattern = json!({
        "path": "/cocos/pattern", "offset": 0, "bytes": 4 << 20, "seed": 1, "direct": false,
    });
    guest.ask("pattern_write", pattern.clone());
    guest.ask("drop_caches", json!({}));
    assert_eq!(guest.ask("pattern_read", pattern), Value::Null);
    assert_eq!(complaints(guest), [""; 0]);
}

/// A VM with the root on another kind of disk: of two on SCSI, the kernel may show either first.
fn beside(bus: Bus, disk: &Disk) -> Vm {
    let other = if matches!(bus, Bus::VirtioScsi) { Bus::VirtioBlk } else { Bus::VirtioScsi };
    Vm::new().disk_on(other, disk.path()).append(&format!("roothash={}", disk.roothash))
}

/// Boots with the volume on a disk of its own, all of which is used, and nothing is written to the
/// root's.
#[track_caller]
fn lies_on(bus: Bus, properties: &str, words: &str, name: &str) {
    let (disk, scratch) = (root_disk(), Scratch::new("volume"));
    let path = blank(scratch.path(), "disk", SIZE);
    let vm = beside(bus, &disk).disk_on(bus, &path).with(properties).append(WORD).append(words);
    let mut guest = vm.boot();
    let volume = &guest.report()["volume"];
    assert_eq!((&volume["partition"], &volume["partition_bytes"]), (&json!(name), &json!(SIZE)));
    let queue = format!("/sys/block/{name}/queue/logical_block_size");
    let sector = if properties == LARGE { "4096\n" } else { "512\n" };
    assert_eq!(guest.read(&queue), sector);
    check_volume(&mut guest);
    assert_eq!(start_of(&path)[..6], *b"LUKS\xba\xbe");
    assert_eq!(guest.bytes_written(0), 0);
    guest.power_off();
}

/// Any property does, the serial as well.
const AS_IT_IS: &str = "serial=disk1";

#[test]
fn a_virtio_blk_disk() {
    lies_on(Bus::VirtioBlk, AS_IT_IS, "", "vda");
}

#[test]
fn an_nvme_disk_of_4096_byte_sectors() {
    lies_on(Bus::Nvme, LARGE, "", "nvme0n1");
}

#[test]
fn a_scsi_disk_of_4096_byte_sectors_with_the_tags_on_it() {
    lies_on(Bus::VirtioScsi, LARGE, "cvm.tags=disk", "sda");
}

#[test]
#[ignore = "scripts/test --all"]
fn a_virtio_blk_disk_of_4096_byte_sectors() {
    lies_on(Bus::VirtioBlk, LARGE, "cvm.tags=disk", "vda");
}

#[test]
#[ignore = "scripts/test --all"]
fn an_nvme_disk() {
    lies_on(Bus::Nvme, AS_IT_IS, "", "nvme0n1");
}

#[test]
#[ignore = "scripts/test --all"]
fn a_disk_without_integrity_of_4096_byte_sectors() {
    let words = "cvm.cipher=aes-xts-plain64 cvm.integrity=none";
    let (disk, scratch) = (root_disk(), Scratch::new("volume"));
    let path = blank(scratch.path(), "disk", SIZE);
    let vm = Vm::of(&disk).disk_on(Bus::VirtioScsi, &path).with(LARGE).append(WORD).append(words);
    let mut guest = vm.initramfs(crate::kit::artefacts::initramfs_for("aes-xts-plain64")).boot();
    check_volume(&mut guest);
    guest.power_off();
}

/// What is in use is what the kernel says it is: mounted, below a mapping, or with a partition that is.
/// Partition 4 of the root's disk is left as it is.
#[test]
fn a_disk_that_somebody_uses_cannot_be_had() {
    let (disk, scratch) = (Disk::builder().build(), Scratch::new("volume"));
    let volume = blank(scratch.path(), "volume", SIZE);
    let free = blank(scratch.path(), "free", SIZE);
    let vm =
        Vm::of(&disk).disk_on(Bus::VirtioBlk, &volume).disk_on(Bus::VirtioBlk, &free).append(WORD);
    let mut guest = vm.boot();
    assert_eq!(guest.report()["volume"]["partition"], "vda");
    let claim = |guest: &mut Guest, name: &str| {
        guest.call("claim", json!({ "name": name })).map_err(|error| error.errno)
    };
    // The root's, of which partitions are mapped, and the volume's, which is mapped itself.
    for name in ["sda", "vda"] {
        assert_eq!(claim(&mut guest, name).unwrap_err(), Some(EBUSY), "{name}");
    }
    assert_eq!(claim(&mut guest, "vdb").unwrap(), Value::Null);
    let untouched = disk.read(Part::Cocos, 0, 1 << 20);
    assert!(untouched.iter().all(|&byte| byte == 0), "partition 4 was written to");
    guest.power_off();
}

/// A whole system was on it, with partitions and the same root: it is given up, and neither PID 1 nor the
/// kernel on its behalf looks at what it was.
#[test]
fn what_the_disk_held_is_not_read() {
    let (disk, before) = (root_disk(), Disk::builder().build());
    let served = Served::lying(&before, Vec::new());
    let vm = beside(Bus::VirtioScsi, &disk).disk_served(&served).append("quiet").append(WORD);
    let mut guest = vm.boot();
    guest.hello();
    // Its partition table the kernel has read before anybody could say a word.
    for part in [Part::Efi, Part::Root, Part::Verity, Part::Cocos] {
        let (start, end) = (before.place(part, 0), before.place(part, before.size(part)));
        let reads = served.reads();
        let looks = reads.iter().filter(|(at, bytes)| *at < end && start < at + bytes);
        assert_eq!(looks.count(), 0, "{part:?}");
    }
    assert_eq!(guest.report()["volume"]["partition"], "sda");
    check_volume(&mut guest);
    assert_eq!(start_of(before.path())[..6], *b"LUKS\xba\xbe");
    guest.power_off();
}

/// The fatal line of a boot with a second disk, to which nothing is written, and what is asked of it.
#[track_caller]
fn refusal_of(attach: impl FnOnce(Vm, &Path) -> Vm, words: &str) -> String {
    let (disk, scratch) = (root_disk(), Scratch::new("volume"));
    let path = blank(scratch.path(), "disk", SIZE);
    let vm = attach(Vm::of(&disk), &path).append("cvm.timeout=5 quiet").append(words);
    let reason = refusal(vm);
    assert!(start_of(&path).iter().all(|&byte| byte == 0), "the disk was written to");
    reason
}

fn on_blk(vm: Vm, path: &Path) -> Vm {
    vm.disk_on(Bus::VirtioBlk, path)
}

#[test]
fn a_disk_that_is_smaller_than_asked_for() {
    assert_eq!(
        refusal_of(on_blk, &format!("{WORD} cvm.volume_min=65M")),
        "volume: vda is too small: 67108864 bytes, at least 68157440 are needed"
    );
}

#[test]
fn the_disk_that_holds_the_root() {
    assert_eq!(
        refusal_of(on_blk, "cvm.volume=serial:disk0 cvm.disk=serial:disk0"),
        "config: the serial \"disk0\" is given to two disks"
    );
    assert_eq!(
        refusal_of(on_blk, "cvm.volume=serial:disk0 cvm.disk=/dev/sda"),
        "disk: no usable disk with serial \"disk0\" for the volume within 5 s; sda for the volume: \
         it is the disk that holds the root"
    );
    let reason = refusal_of(on_blk, "cvm.volume=serial:disk0");
    let head =
        "disk: no disk that proves roothash= within 5 s; sda: cvm.volume= has it for the volume";
    assert!(reason.starts_with(head), "{reason}");
}

#[test]
fn a_serial_that_two_disks_have() {
    let other = Scratch::new("volume");
    let path = blank(other.path(), "other", SIZE);
    let twins = |vm: Vm, first: &Path| on_blk(on_blk(vm, first), &path).with(AS_IT_IS);
    assert_eq!(
        refusal_of(twins, WORD),
        "disk: no usable disk with serial \"disk1\" for the volume within 5 s; vda for the volume: \
         another disk has this serial, too; vdb for the volume: another disk has this serial, too"
    );
    assert!(start_of(&path).iter().all(|&byte| byte == 0), "the other disk was written to");
}

#[test]
fn a_disk_that_is_read_only() {
    let read_only = |vm: Vm, path: &Path| on_blk(vm, path).read_only();
    assert_eq!(
        refusal_of(read_only, WORD),
        "disk: no usable disk with serial \"disk1\" for the volume within 5 s; vda for the volume: \
         it is read-only"
    );
}

#[test]
#[ignore = "scripts/test --all"]
fn a_disk_that_is_not_there() {
    assert_eq!(
        refusal_of(on_blk, "cvm.volume=serial:other"),
        "disk: no usable disk with serial \"other\" for the volume within 5 s"
    );
}

/// Else it would be any disk without a serial.
#[test]
#[ignore = "scripts/test --all"]
fn a_serial_without_a_letter() {
    assert_eq!(
        refusal_of(on_blk, "cvm.volume=serial:"),
        "config: cvm.volume=serial:: not serial:STRING"
    );
}

/// It is a floor for partition 4 as well.
#[test]
#[ignore = "scripts/test --all"]
fn a_partition_that_is_smaller_than_asked_for() {
    let disk = Disk::builder().build();
    assert_eq!(
        crate::refused::refusal_that_writes_nothing(
            Vm::of(&disk).append("cvm.volume_min=1G quiet"),
            &disk
        ),
        "volume: sda4 is too small: 67108864 bytes, at least 1073741824 are needed"
    );
}
