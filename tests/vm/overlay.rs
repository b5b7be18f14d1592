//! Docker's overlay workload on little memory: the layers of an image of some thousand files are
//! unpacked below /var/lib/docker, read back, and the file system beneath is checked.

use crate::artefacts;
use crate::disk::Disk;
use crate::guest::Guest;
use crate::root::{Node, Root};
use crate::tool::command;
use crate::vm::Vm;
use cvm_init::hex;
use serde_json::{Value, json};
use std::fs;

const MIB: u64 = 1 << 20;
const VOLUME: &str = "/dev/mapper/cocos_crypt";

/// The most, in round figures, whose tags fit into a quarter of [`MEMORY`].
const COCOS: u64 = 6 << 30;
const MEMORY: &str = "256M";

const LOWER: &str = "/var/lib/docker/lower";
const UPPER: &str = "/var/lib/docker/upper";
const WORK: &str = "/var/lib/docker/work";
const MERGED: &str = "/var/lib/docker/merged";

/// The overlay lies on a bind of the volume, and so does a copy of the root's scripts.
const ON_THE_VOLUME: [&str; 3] = ["/var/lib/docker", "/cocos_init", "/cocos"];

/// A block group and its descriptor, in bytes; the descriptors are from the second block on. The
/// offset of `bg_flags`, and the flag for a table of inodes that was zeroed (kernel document
/// filesystems/ext4, "Block Group Descriptors").
const GROUP: u64 = 128 * MIB;
const DESCRIPTOR: usize = 64;
const DESCRIPTORS_AT: u64 = 4096;
const FLAGS: usize = 0x12;
const INODE_ZEROED: u8 = 0x4;

/// A root with a program that checks the volume, and a shell that starts it.
fn root() -> Root {
    let file = |program: &str| fs::read(command(program).get_program()).unwrap();
    Root::builder()
        .size("24M")
        .with(Node::directory("bin"))
        .with(Node::file("bin/sh", file("busybox")).mode(0o755))
        .with(Node::file("usr/sbin/e2fsck", file("e2fsck.static")).mode(0o755))
        .build()
}

/// What the kernel has to complain of: wrong tags, disks, the file system, a want of memory.
fn complaints(guest: &mut Guest) -> Vec<String> {
    let log = guest.ask("kmsg", json!({}));
    let lines = log.as_array().unwrap().iter().map(|line| line["text"].as_str().unwrap());
    let bad = ["INTEGRITY", "I/O error", "EXT4-fs error", "EXT4-fs warning", "Out of memory"];
    lines.filter(|text| bad.iter().any(|bad| text.contains(bad))).map(str::to_owned).collect()
}

/// Groups whose table of inodes was zeroed, as the kernel has it in memory.
fn zeroed_groups(guest: &mut Guest, groups: u64) -> usize {
    let length = groups * DESCRIPTOR as u64;
    let table =
        guest.ask("bytes", json!({ "path": VOLUME, "offset": DESCRIPTORS_AT, "bytes": length }));
    let table = hex::decode(table.as_str().unwrap()).unwrap();
    table.chunks(DESCRIPTOR).filter(|group| group[FLAGS] & INODE_ZEROED != 0).count()
}

/// The image: a layer that is there, and what the overlay makes of it and puts beside it.
struct Image {
    base: Value,
    altered: Value,
    added: Value,
    large: Value,
}

impl Image {
    fn new() -> Self {
        let tree = |dir: String, files: u64, seed: u64| json!({ "dir": dir, "files": files, "seed": seed });
        let mut altered = tree(format!("{MERGED}/base"), 3000, 11);
        altered["altered"] = json!(true);
        let large = format!("{MERGED}/large");
        Self {
            base: tree(format!("{LOWER}/base"), 3000, 11),
            altered,
            added: tree(format!("{MERGED}/added"), 2500, 12),
            large: json!({ "path": large, "offset": 0, "bytes": 100 * MIB, "seed": 13 }),
        }
    }

    /// Calls `after` behind each step.
    fn unpack(&self, guest: &mut Guest, mut after: impl FnMut(&mut Guest)) {
        for dir in [LOWER, UPPER, WORK, MERGED] {
            guest.ask("mkdir", json!({ "path": dir }));
        }
        for (verb, arguments) in [
            ("fill", &self.base),
            ("mount", &overlay()),
            ("alter", &self.altered),
            ("fill", &self.added),
            ("pattern_write", &self.large),
        ] {
            let start = std::time::Instant::now();
            let answer = guest.ask(verb, arguments.clone());
            println!("{verb} took {:?}, {answer}", start.elapsed());
            after(guest);
        }
    }

    fn check(&self, guest: &mut Guest) {
        let start = std::time::Instant::now();
        guest.ask("fill_check", self.altered.clone());
        guest.ask("fill_check", self.added.clone());
        assert_eq!(guest.ask("pattern_read", self.large.clone()), Value::Null);
        println!("check took {:?}", start.elapsed());
    }
}

fn overlay() -> Value {
    // Without redirect_dir= a directory of the lower layer cannot be renamed.
    let options = format!("lowerdir={LOWER},upperdir={UPPER},workdir={WORK},redirect_dir=on");
    json!({ "source": "overlay", "target": MERGED, "fstype": "overlay", "options": options })
}

/// That the layers are those of an overlay: what stands for a file that is gone, for a directory
/// made anew and for one that was renamed.
fn assert_layered(guest: &mut Guest) {
    let mut upper =
        |name: &str| guest.ask("stat", json!({ "path": format!("{UPPER}/base/{name}") }));
    let whiteout = upper("5");
    assert_eq!([&whiteout["type"], &whiteout["rdev"]], ["character", "0:0"]);
    assert_eq!(upper("3")["xattrs"]["trusted.overlay.opaque"], "y");
    assert_eq!(upper("5-renamed")["xattrs"]["trusted.overlay.redirect"], "5");
}

/// Boots, unpacks the image, reads it back and has the file system checked.
fn an_image_is_unpacked(tags: &str, lazy: bool) {
    let root = root();
    let disk = Disk::builder().root(&root).cocos(COCOS).build();
    let mut guest = Vm::of(&disk)
        .memory(MEMORY)
        .initramfs(artefacts::initramfs_with(&["overlay"]))
        .append(&format!("cvm.tags={tags}"))
        .boot();
    let volume = guest.report()["volume"].clone();
    assert_eq!(volume["tags"], tags);
    let groups = volume["bytes"].as_u64().unwrap() / GROUP;
    let mut zeroed = vec![zeroed_groups(&mut guest, groups)];
    if lazy {
        // The kernel's own pace: ten times the time that a group took lies between two.
        guest.ask("mount", json!({
            "source": "", "target": "/cocos", "fstype": "", "options": "remount,noatime,init_itable=10",
        }));
    }
    let image = Image::new();
    image.unpack(&mut guest, |guest| zeroed.push(zeroed_groups(guest, groups)));
    assert_layered(&mut guest);
    guest.ask("drop_caches", json!({}));
    image.check(&mut guest);
    zeroed.push(zeroed_groups(&mut guest, groups));
    println!("of {groups} groups zeroed after each step: {zeroed:?}");

    assert_eq!(complaints(&mut guest), [""; 0]);
    guest.ask("umount", json!({ "target": MERGED }));
    for target in ON_THE_VOLUME {
        guest.ask("umount", json!({ "target": target }));
    }
    let start = std::time::Instant::now();
    let checked =
        guest.ask("run", json!({ "command": format!("/usr/sbin/e2fsck -fn {VOLUME} 2>&1") }));
    println!("{checked} {:?}", start.elapsed());
    assert_eq!(checked["status"], 0, "{}", checked["stdout"]);
    println!("{:?}", complaints(&mut guest));
    guest.power_off();
}

#[test]
fn an_image_is_unpacked_on_little_memory() {
    an_image_is_unpacked("memory", false);
}

#[test]
fn an_image_is_unpacked_on_little_memory_while_the_inode_tables_are_zeroed() {
    an_image_is_unpacked("memory", true);
}

#[test]
fn an_image_is_unpacked_on_little_memory_with_tags_on_the_disk() {
    an_image_is_unpacked("disk", true);
}
