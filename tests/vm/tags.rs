//! Where the integrity tags are, and what that makes of a host that puts old sectors back.

use crate::kit::artefacts;
use crate::kit::disk::{Disk, Part};
use crate::kit::guest::{Ending, Guest};
use crate::kit::vm::Vm;
use serde_json::{Value, json};
use std::time::Duration;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const BLOCK: usize = 4096;

const EIO: i32 = 5;
const ENOENT: i32 = 2;
const EILSEQ: i32 = 84;

const FILES: [&str; 2] = ["/cocos/datasets/a", "/cocos/datasets/b"];
const LENGTH: u64 = 256 * KIB;

/// From power-on to power-off, emulated.
const LIMIT: Duration = Duration::from_secs(120);

fn pattern(path: &str, seed: u64, direct: bool) -> Value {
    json!({ "path": path, "offset": 0, "bytes": LENGTH, "seed": seed, "direct": direct })
}

/// Writes a file anew in its place, past the page cache and to the disk. Without barriers the file
/// system never asks for that, and tags stay in memory.
#[track_caller]
fn write(guest: &mut Guest, path: &str, seed: u64) {
    guest.ask("pattern_write", pattern(path, seed, true));
    guest.ask("sync", json!({}));
    guest.ask("flush", json!({ "path": "/dev/mapper/cocos_crypt" }));
}

/// Whether a file holds what was written with this seed, as far as it can be read from the disk:
/// the error of the kernel where it cannot.
fn holds(guest: &mut Guest, path: &str, seed: u64) -> Result<bool, Option<i32>> {
    let first_difference = guest.call("pattern_read", pattern(path, seed, true));
    first_difference.map(|at| at.is_null()).map_err(|error| error.errno)
}

fn partition(disk: &Disk) -> Vec<u8> {
    disk.read(Part::Cocos, 0, usize::try_from(disk.size(Part::Cocos)).unwrap())
}

/// Puts back, of the blocks that differ, the bytes that do.
fn put_back(disk: &Disk, old: &[u8], new: &[u8]) {
    for (index, (old, new)) in old.chunks(BLOCK).zip(new.chunks(BLOCK)).enumerate() {
        let differs = |(old, new): (&u8, &u8)| old != new;
        let first = old.iter().zip(new).position(differs);
        let last = old.iter().zip(new).rposition(differs);
        if let (Some(first), Some(last)) = (first, last) {
            disk.write(Part::Cocos, (index * BLOCK + first) as u64, &old[first..=last]);
        }
    }
}

fn integrity_errors(guest: &mut Guest) -> usize {
    let lines = guest.ask("kmsg", json!({}));
    let texts = lines.as_array().unwrap().iter();
    texts.filter(|line| line["text"].as_str().unwrap().contains("INTEGRITY AEAD ERROR")).count()
}

/// Has the kernel read tags from the disk again, which it keeps in memory for minutes. It gives
/// them up some time after it was told to, and not a second time in one boot.
fn forget_cached_tags(guest: &mut Guest) {
    let retained = "/sys/module/dm_bufio/parameters/retain_bytes";
    guest.ask("write", json!({ "path": retained, "text": "0" }));
    let mut left = String::new();
    for _ in 0..100 {
        guest.ask("drop_caches", json!({}));
        left = guest.read("/sys/module/dm_bufio/parameters/current_allocated_bytes");
        if left == "0\n" {
            return;
        }
    }
    panic!("the kernel keeps {left} bytes of tags in memory");
}

/// A guest with two files of an older content that the host knows, the first of them written anew
/// since.
fn guest_with_a_past(disk: &Disk, words: &str) -> (Guest, Vec<u8>, Vec<u8>) {
    let mut guest = Vm::of(disk).append(words).boot();
    for path in FILES {
        write(&mut guest, path, 1);
    }
    let old = partition(disk);
    write(&mut guest, FILES[0], 2);
    let new = partition(disk);
    (guest, old, new)
}

#[test]
fn with_tags_in_memory_an_old_sector_is_an_io_error() {
    let disk = Disk::builder().build();
    let (mut guest, old, new) = guest_with_a_past(&disk, "");
    write(&mut guest, FILES[1], 2);
    put_back(&disk, &old, &new);
    assert_eq!(holds(&mut guest, FILES[0], 2), Err(Some(EILSEQ)));
    let buffered = guest.call("pattern_read", pattern(FILES[0], 2, false));
    assert_eq!(buffered.unwrap_err().errno, Some(EIO));
    assert!(integrity_errors(&mut guest) > 0);
    assert_eq!(holds(&mut guest, FILES[1], 2), Ok(true));
    // Written anew it is whole again.
    write(&mut guest, FILES[0], 3);
    assert_eq!(holds(&mut guest, FILES[0], 3), Ok(true));

    // Now all of the partition as it was a moment ago.
    let old = partition(&disk);
    for path in FILES {
        write(&mut guest, path, 4);
    }
    disk.write(Part::Cocos, 0, &old);
    for path in FILES {
        assert_eq!(holds(&mut guest, path, 4), Err(Some(EILSEQ)), "{path}");
    }
    guest.power_off();
}

/// Boots with tags on the disk, lets the host put something back, and says what the files hold
/// then: the older content or the newer, never an error.
fn replayed_on_disk(put_back: impl FnOnce(&Disk, &[u8], &[u8])) -> [u64; 2] {
    let disk = Disk::builder().build();
    let (mut guest, old, new) = guest_with_a_past(&disk, "cvm.tags=disk");
    assert_eq!(guest.report()["volume"]["tags"], "disk");
    write(&mut guest, FILES[1], 2);
    put_back(&disk, &old, &new);
    forget_cached_tags(&mut guest);
    let content = FILES.map(|path| match holds(&mut guest, path, 1) {
        Ok(true) => 1,
        _ => 2,
    });
    for (path, seed) in FILES.iter().zip(content) {
        assert_eq!(holds(&mut guest, path, seed), Ok(true), "{path}");
    }
    assert_eq!(integrity_errors(&mut guest), 0);
    guest.power_off();
    content
}

/// The limit of `cvm.tags=disk`: what the host puts back is as good as what it replaces.
#[test]
fn with_tags_on_the_disk_old_blocks_of_a_file_read_as_good() {
    assert_eq!(replayed_on_disk(put_back), [1, 2]);
}

#[test]
fn with_tags_on_the_disk_an_old_partition_reads_as_good() {
    assert_eq!(replayed_on_disk(|disk, old, _| disk.write(Part::Cocos, 0, old)), [1, 1]);
}

/// Memory that is never swapped, in KiB, by the kernel's count.
fn unevictable_memory(guest: &mut Guest) -> u64 {
    let text = guest.read("/proc/meminfo");
    let line = text.lines().find_map(|line| line.strip_prefix("Unevictable:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

#[test]
fn tags_and_metadata_take_memory_as_they_are_written_and_have_no_name() {
    let disk = Disk::builder().cocos(512 * MIB).build();
    let mut guest = Vm::of(&disk).boot();
    guest.ask("sync", json!({}));
    let before = unevictable_memory(&mut guest);
    let path = "/cocos/datasets/large";
    let span = json!({ "path": path, "offset": 0, "bytes": 200 * MIB, "seed": 7, "direct": true });
    guest.ask("pattern_write", span);
    guest.ask("sync", json!({}));
    let taken = unevictable_memory(&mut guest) - before;
    println!("{before} KiB of memory before, {taken} KiB for the tags and metadata of 200 MiB");
    // 28 bytes a block are 7 KiB a MiB, and what lies between two tags is written with them; the
    // journal is no larger than 16 MiB.
    assert!((200 * 6..200 * 8 + 16 * 1024).contains(&taken), "{taken} KiB");

    for (number, name) in [(0, "cvm-init-metadata"), (1, "cvm-init-tags")] {
        let file = guest.read(&format!("/sys/block/loop{number}/loop/backing_file"));
        assert!(file.contains(name), "{file}");
        for node in [format!("/dev/loop{number}"), format!("/dev/block/7:{number}")] {
            let missing = guest.call("stat", json!({ "path": node }));
            assert_eq!(missing.unwrap_err().errno, Some(ENOENT), "{node}");
        }
    }
    guest.power_off();
}

/// Boots to the end that a refusal has, before anything is written.
#[track_caller]
fn refusal(vm: Vm, disk: &Disk) -> String {
    let mut guest = vm.boot();
    assert_eq!(guest.wait_ending(LIMIT), Ending::PowerOff);
    assert_eq!(guest.bytes_written(0), 0);
    assert_eq!(disk.read(Part::Cocos, 0, BLOCK), [0; BLOCK]);
    guest.fatal_line()
}

#[test]
fn a_kernel_without_loop_devices_makes_no_volume() {
    for words in ["", "cvm.tags=disk", "cvm.cipher=aes-xts-plain64 cvm.integrity=none"] {
        let disk = Disk::builder().build();
        let without = artefacts::initramfs_without(&["loop"]);
        assert_eq!(
            refusal(Vm::of(&disk).initramfs(without).append(words), &disk),
            "volume: cannot open /dev/loop-control: No such file or directory (os error 2) (the \
             volume needs the kernel option BLK_DEV_LOOP)"
        );
    }
}

#[test]
fn what_could_take_more_than_a_quarter_of_the_memory_is_refused() {
    let disk = Disk::builder().cocos(20 * 1024 * MIB).build();
    let vm = Vm::of(&disk).memory("512M");
    let reason = refusal(vm, &disk);
    let (figures, rest) = reason.split_once(" MiB: ").unwrap();
    let memory = figures
        .strip_prefix(
            "volume: the volume on sda4 may come to take 141 MiB of memory for its integrity tags \
             and 30 MiB for its metadata, more than a quarter of the guest's ",
        )
        .unwrap_or_else(|| panic!("{reason}"));
    // The kernel keeps a part to itself.
    assert!((400..=512).contains(&memory.parse().unwrap()), "{reason}");
    assert_eq!(
        rest,
        "give the guest more memory, or keep the tags on the disk with cvm.tags=disk, which lets \
         the host put old sectors back"
    );
}

/// Loop devices and mappings, by the kernel's word after the teardown.
#[test]
fn a_failed_boot_leaves_nothing_in_memory() {
    for (fault, id) in [
        ("late", "attach-memory:cvm-init-metadata"),
        ("fail", "attach-memory:cvm-init-tags"),
        ("panic", "load-table:cocos_crypt_dif"),
        ("fail", "remove-node:/dev/loop1"),
        ("fail", "load-table:cocos_crypt"),
        ("late", "mount-volume:/cocos"),
    ] {
        let disk = Disk::builder().build();
        let mut guest = Vm::of(&disk)
            .initramfs(artefacts::initramfs_with_faults())
            .append(&format!("\"CVM_FAULT={fault}:{id}#1\""))
            .boot();
        assert_eq!(guest.wait_ending(LIMIT), Ending::PowerOff);
        let reason = guest.fatal_line();
        assert!(reason.starts_with("volume: "), "{reason}");
        let serial = guest.serial();
        assert!(serial.contains("fault build: INJECT"), "{id}");
        assert!(serial.contains("fault build: LOOKED"), "{id}");
        // Mounts without a device are no trace of the volume.
        let is_left = |line: &&str| line.contains(" LEFT ") && !line.contains(" LEFT mount ");
        let left: Vec<_> = serial.lines().filter(is_left).collect();
        assert!(left.is_empty(), "{id}: {left:?}");
    }
}

#[test]
fn a_cipher_without_tags_keeps_none() {
    let disk = Disk::builder().build();
    let vm = Vm::of(&disk).append("cvm.cipher=aes-xts-plain64 cvm.integrity=none cvm.tags=memory");
    assert_eq!(
        refusal(vm, &disk),
        "config: cvm.tags= with cvm.integrity=none: without integrity there are no tags"
    );
}
