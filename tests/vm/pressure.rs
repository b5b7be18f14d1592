//! A guest that is short of memory: what the volume keeps in it must be neither in the way nor lost.

use crate::kit::disk::Disk;
use crate::kit::guest::Guest;
use crate::kit::kernel::Kernel;
use crate::kit::vm::Vm;
use crate::kit::volume_check::{self, ask_within, run};
use serde_json::{Value, json};
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// Until memory must have been filled beyond its size, or read again: it takes half a minute, and
/// a guest that waits for itself takes for ever.
const LIMIT: Duration = Duration::from_secs(240);

/// The same for as many files as there are inodes, and for as many bytes as there are blocks.
const FLOOD: Duration = Duration::from_secs(900);
const BYTES: Duration = Duration::from_secs(3600);

/// Error numbers of what is full.
const ENOSPC: u64 = 28;
const ENOMEM: u64 = 12;

/// In a guest of 512 MiB, of which the kernel has its part.
const FILLED: u64 = 480 * MIB;
/// Must be used in the end. What is above it differs from kernel to kernel.
const SWAPPED_MIN: u64 = 32 * MIB;

/// What is put in memory by a tmpfs, which has no other place for it.
fn filling() -> Value {
    json!({ "path": "/tmp/large/file", "offset": 0, "bytes": FILLED, "seed": 3 })
}

/// Bytes of swap in use.
fn swapped(guest: &mut Guest) -> u64 {
    let memory = guest.read("/proc/meminfo");
    let kib = |name: &str| -> u64 {
        let line = memory.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_end_matches("kB").trim().parse().unwrap()
    };
    (kib("SwapTotal:") - kib("SwapFree:")) * 1024
}

/// Fills memory beyond its size, so that the kernel has to swap to the volume, whose tags and tables
/// it must be able to read and write meanwhile. `make` makes the swap file.
#[track_caller]
fn swaps_to_the_volume(kernel: Kernel, tags: &str, make: &str) {
    let disk = Disk::builder().root(volume_check::root()).cocos(2 << 30).build();
    let mut guest =
        Vm::of(&disk).kernel(kernel).memory("512M").append(&format!("cvm.tags={tags}")).boot();
    assert_eq!(guest.report()["volume"]["tags"], tags);
    run(&mut guest, make);
    run(&mut guest, "chmod 600 /cocos/swap && mkswap /cocos/swap && swapon /cocos/swap");
    guest.ask("mkdir", json!({ "path": "/tmp/large" }));
    let options = format!("size={}", 2 * FILLED);
    let tmpfs = json!({
        "source": "tmpfs", "target": "/tmp/large", "fstype": "tmpfs", "options": options,
    });
    guest.ask("mount", tmpfs);

    ask_within(LIMIT, &mut guest, "pattern_write", filling());
    let out = swapped(&mut guest);
    assert!(out > SWAPPED_MIN, "{out} bytes were swapped out");
    // The volume serves others as well.
    let crowd = json!({ "dir": "/cocos/crowd", "writers": 16, "pieces": 32, "seed": 1 });
    ask_within(LIMIT, &mut guest, "writers", crowd.clone());
    assert_eq!(ask_within(LIMIT, &mut guest, "pattern_read", filling()), Value::Null);
    guest.ask("drop_caches", json!({}));
    ask_within(LIMIT, &mut guest, "writers_check", crowd);

    guest.ask("umount", json!({ "target": "/tmp/large" }));
    run(&mut guest, "swapoff /cocos/swap");
    volume_check::check(&mut guest);
    guest.power_off();
}

const WRITTEN: &str = "dd if=/dev/zero of=/cocos/swap bs=1M count=400";
/// Its blocks are the file's, and were never written.
const RESERVED: &str = "fallocate -l 400M /cocos/swap";

/// On this kernel it goes well; that it does on each is not claimed (SECURITY.md, "Limits").
#[test]
#[ignore = "scripts/test --all"]
fn a_guest_swaps_to_a_file_on_the_volume() {
    swaps_to_the_volume(Kernel::RUNNING, "memory", WRITTEN);
}

#[test]
#[ignore = "scripts/test --all"]
fn a_guest_swaps_to_blocks_that_were_never_written() {
    swaps_to_the_volume(Kernel::TRIXIE, "disk", RESERVED);
}

#[test]
#[ignore = "scripts/test --all"]
fn a_guest_swaps_to_a_file_on_the_volume_with_tags_on_the_disk() {
    swaps_to_the_volume(Kernel::RUNNING, "disk", WRITTEN);
}

/// Small files without end on little memory. Each takes of it what its inode does.
#[test]
#[ignore = "scripts/test --all"]
fn a_guest_that_is_flooded_with_files_goes_on() {
    let disk = Disk::builder().root(volume_check::root()).cocos(1 << 30).build();
    let mut guest = Vm::of(&disk).memory("256M").processors(4).boot();
    let volume = guest.report()["volume"].clone();
    let flood = json!({
        "dir": "/cocos/flood", "writers": 16, "files": 1_000_000, "a_directory": 200,
        "size": 1000, "seed": 4,
    });
    let made = ask_within(FLOOD, &mut guest, "flood", flood.clone());
    let count: u64 = made["made"].as_array().unwrap().iter().map(|it| it.as_u64().unwrap()).sum();
    println!("{count} files until error {}, of {} inodes", made["errno"], volume["inodes"]);
    assert!([ENOSPC, ENOMEM].contains(&made["errno"].as_u64().unwrap()), "{made}");
    // All the inodes that there are: nothing else was short before.
    assert!(count > volume["inodes"].as_u64().unwrap() * 9 / 10, "{count} files: {volume}");
    let mut check = flood;
    check["made"] = made["made"].clone();
    guest.ask("drop_caches", json!({}));
    ask_within(FLOOD, &mut guest, "flood_check", check);
    run(&mut guest, "rm -r /cocos/flood/1 /cocos/flood/2");
    volume_check::check(&mut guest);
    guest.power_off();
}

/// Large files without end on little memory, whose tags take of it what they can.
#[test]
#[ignore = "scripts/test --all"]
fn a_guest_that_is_flooded_with_bytes_goes_on() {
    let disk = Disk::builder().root(volume_check::root()).cocos(4 << 30).build();
    let mut guest = Vm::of(&disk).memory("256M").processors(4).boot();
    let flood = json!({
        "dir": "/cocos/flood", "writers": 16, "files": 1_000_000, "a_directory": 100,
        "size": 1 << 20, "seed": 4,
    });
    let made = ask_within(BYTES, &mut guest, "flood", flood.clone());
    assert!([ENOSPC, ENOMEM].contains(&made["errno"].as_u64().unwrap()), "{made}");
    let mut check = flood;
    check["made"] = made["made"].clone();
    guest.ask("drop_caches", json!({}));
    ask_within(BYTES, &mut guest, "flood_check", check);
    run(&mut guest, "rm -r /cocos/flood/1");
    volume_check::check(&mut guest);
    guest.power_off();
}
