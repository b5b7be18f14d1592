//! What programs do to /cocos: images unpacked side by side, a file system that is full, very many
//! files, and files worked on in every way.

use crate::kit::artefacts;
use crate::kit::disk::Disk;
use crate::kit::guest::Guest;
use crate::kit::vm::Vm;
use crate::kit::volume_check::{self, ask, run};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

const NO_SPACE: u64 = 28;

/// A guest of four processors with so many bytes for the volume.
fn guest(cocos: u64) -> (Disk, Guest) {
    let disk = Disk::builder().root(volume_check::root()).cocos(cocos).build();
    let guest = Vm::of(&disk).processors(4).boot();
    (disk, guest)
}

fn end(mut guest: Guest) {
    volume_check::check(&mut guest);
    guest.power_off();
}

/// Makes files until there are enough or no more room, and returns what to check them with.
fn flood(guest: &mut Guest, arguments: Value) -> (Value, u64) {
    let made = ask(guest, "flood", arguments.clone());
    let mut check = arguments;
    check["made"] = made["made"].clone();
    (check, made["errno"].as_u64().unwrap())
}

fn files(flood: &Value) -> u64 {
    flood["made"].as_array().unwrap().iter().map(|made| made.as_u64().unwrap()).sum()
}

#[test]
fn eight_layers_are_unpacked_at_the_same_time_into_an_overlay() {
    let disk = Disk::builder().root(volume_check::root()).cocos(2 << 30).build();
    let mut guest = Vm::of(&disk)
        .processors(4)
        .memory("512M")
        .initramfs(artefacts::initramfs_with_overlay())
        .boot();
    let [lower, upper, work, merged] =
        ["lower", "upper", "work", "merged"].map(|name| format!("/var/lib/docker/{name}"));
    for dir in [&lower, &upper, &work, &merged] {
        guest.ask("mkdir", json!({ "path": dir }));
    }
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    let overlay = json!({
        "source": "overlay", "target": merged, "fstype": "overlay", "options": options,
    });
    guest.ask("mount", overlay);
    let trees = json!({ "dir": merged, "trees": 8, "files": 300, "seed": 21 });
    ask(&mut guest, "fills", trees.clone());
    guest.ask("drop_caches", json!({}));
    ask(&mut guest, "fills_check", trees);
    end(guest);
}

#[test]
#[ignore = "scripts/test --all"]
fn a_volume_without_free_blocks_takes_files_again_when_some_are_removed() {
    let (_disk, mut guest) = guest(128 * MIB);
    let flood_of = |dir: &str, files: u64| {
        json!({
            "dir": dir, "writers": 8, "files": files, "a_directory": 100, "size": 60_000, "seed": 5,
        })
    };
    let (kept, errno) = flood(&mut guest, flood_of("/cocos/kept", 50));
    assert_eq!((files(&kept), errno), (400, 0));
    let (rest, errno) = flood(&mut guest, flood_of("/cocos/rest", 100_000));
    assert_eq!(errno, NO_SPACE);
    let room = guest.ask("statfs", json!({ "path": "/cocos" }));
    assert!(room["ffree"].as_u64() > Some(100), "inodes are what there is enough of: {room}");
    guest.ask("drop_caches", json!({}));
    ask(&mut guest, "flood_check", kept.clone());
    ask(&mut guest, "flood_check", rest);
    run(&mut guest, "rm -r /cocos/rest");
    let (new, errno) = flood(&mut guest, flood_of("/cocos/new", 100));
    assert_eq!((files(&new), errno), (800, 0));
    guest.ask("drop_caches", json!({}));
    for made in [kept, new] {
        ask(&mut guest, "flood_check", made);
    }
    end(guest);
}

#[test]
#[ignore = "scripts/test --all"]
fn a_volume_without_free_inodes_takes_files_again_when_some_are_removed() {
    let (_disk, mut guest) = guest(64 * MIB);
    let flood_of = |dir: &str, files: u64| {
        json!({
            "dir": dir, "writers": 8, "files": files, "a_directory": 500, "size": 10, "seed": 6,
        })
    };
    let (kept, errno) = flood(&mut guest, flood_of("/cocos/kept", 50));
    assert_eq!((files(&kept), errno), (400, 0));
    let (rest, errno) = flood(&mut guest, flood_of("/cocos/rest", 100_000));
    assert_eq!(errno, NO_SPACE);
    let room = guest.ask("statfs", json!({ "path": "/cocos" }));
    assert_eq!(room["ffree"], 0, "{room}");
    assert!(room["bfree"].as_u64() > Some(100), "blocks are what there is enough of: {room}");
    guest.ask("drop_caches", json!({}));
    ask(&mut guest, "flood_check", kept.clone());
    ask(&mut guest, "flood_check", rest);
    run(&mut guest, "rm -r /cocos/rest");
    let (new, errno) = flood(&mut guest, flood_of("/cocos/new", 200));
    assert_eq!((files(&new), errno), (1600, 0));
    guest.ask("drop_caches", json!({}));
    for made in [kept, new] {
        ask(&mut guest, "flood_check", made);
    }
    // One inode must be left for the file that shows that it is writable.
    end(guest);
}

/// So many small files of 16 writers, so many of each in a directory; read back, removed.
#[track_caller]
fn holds_many_files(each: u64, a_directory: u64) {
    let (_disk, mut guest) = guest(4 << 30);
    let many = json!({
        "dir": "/cocos/many", "writers": 16, "files": each, "a_directory": a_directory,
        "size": 100, "seed": 7,
    });
    let (made, errno) = flood(&mut guest, many);
    assert_eq!((files(&made), errno), (16 * each, 0));
    guest.ask("drop_caches", json!({}));
    ask(&mut guest, "flood_check", made);
    run(&mut guest, "rm -r /cocos/many");
    end(guest);
}

#[test]
#[ignore = "scripts/test --all"]
fn a_directory_of_fifty_thousand_entries() {
    holds_many_files(50_000 / 16, 1_000_000);
}

#[test]
#[ignore = "scripts/test --all"]
fn a_hundred_thousand_files() {
    holds_many_files(100_000 / 16, 50);
}

/// Holes, reserved blocks, truncation in both directions, mappings and direct I/O, by several
/// writers, each of which must find at any time what it has written.
#[track_caller]
fn files_are_worked_on_in_every_way(steps: u64) {
    let (_disk, mut guest) = guest(512 * MIB);
    let work = json!({ "dir": "/cocos/work", "writers": 8, "steps": steps, "seed": 8 });
    ask(&mut guest, "exercise", work.clone());
    guest.ask("drop_caches", json!({}));
    ask(&mut guest, "exercise_check", work);
    end(guest);
}

#[test]
fn files_with_holes_reserved_blocks_mappings_and_direct_writes() {
    files_are_worked_on_in_every_way(100);
}

#[test]
#[ignore = "scripts/test --all"]
fn files_with_holes_reserved_blocks_mappings_and_direct_writes_for_long() {
    files_are_worked_on_in_every_way(2000);
}

#[test]
fn files_renamed_over_each_other_are_whole() {
    let (_disk, mut guest) = guest(512 * MIB);
    let storm = json!({ "dir": "/cocos/storm", "writers": 8, "steps": 400, "seed": 9 });
    ask(&mut guest, "rename_storm", storm.clone());
    guest.ask("drop_caches", json!({}));
    let left = ask(&mut guest, "rename_check", storm);
    assert!(left.as_u64() > Some(100), "{left} files are left");
    end(guest);
}
