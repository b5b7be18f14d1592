use super::*;
use crate::config::{Config, Layout};
use crate::format::device::Dev;
use crate::kernel::block::Device;

const HASH: &str = "00112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef";

/// Data of Linux, which says nothing of its use.
const LINUX: [u8; 16] = [0x0f; 16];

fn wanted(words: &str) -> Partitions {
    let wanted = Config::from_cmdline(&format!("roothash={HASH} {words}")).unwrap();
    match wanted.layout {
        Layout::Partitions(partitions) => partitions,
        Layout::Layers(_) => panic!("no layers here"),
    }
}

fn disk() -> Disk {
    let dev = Dev { major: 8, minor: 0 };
    Disk { device: Device { name: "sda".into(), dev, sectors: 1 << 20 }, logical_block: 4096 }
}

/// Root, hash tree, volume and another partition, with 8 sectors of 4096 bytes each.
fn table() -> Vec<Entry> {
    let [root, tree] = verity::partition_uuids(&wanted("").root_hash);
    let named = [(root, "root"), (tree, "tree"), ([3; 16], LABEL), ([4; 16], "other")];
    let entry = |(number, (uuid, name)): (u32, ([u8; 16], &str))| {
        let first = u64::from(number) * 8;
        Entry { number, kind: LINUX, uuid, first, last: first + 7, name: name.into() }
    };
    (1..).zip(named).map(entry).collect()
}

/// What the kernel has made of a table.
fn partitions(table: &[Entry]) -> Vec<Partition> {
    let partition = |entry: &Entry| {
        let (start, sectors) = entry.span(4096).unwrap();
        let dev = Dev { major: 8, minor: entry.number };
        let device = Device { name: format!("sda{}", entry.number), dev, sectors };
        Partition { device, number: entry.number, start, label: Some(entry.name.clone()) }
    };
    table.iter().map(partition).collect()
}

/// The number of the volume's partition, or what is said in its place.
fn volume(words: &str, kernels: &[Entry], ours: &[Entry]) -> (&'static str, String) {
    let seen = partitions(kernels);
    match by_uuid(&wanted(words), &disk(), &seen, ours) {
        Ok(Places { volume, .. }) => {
            ("places", volume.map_or("elsewhere".into(), |volume| volume.number.to_string()))
        }
        Err(Verdict::NotYet(misses)) => ("not yet", misses),
        Err(Verdict::Refused(error)) => ("refused", error.to_string()),
        Err(Verdict::Ambiguous(error)) => ("ambiguous", error.to_string()),
        Err(Verdict::Proven(_)) => ("proven", String::new()),
    }
}

#[test]
fn the_root_hash_names_the_partitions() {
    assert_eq!(volume("", &table(), &table()), ("places", "3".into()));
    let elsewhere = volume("cvm.volume=serial:v", &table(), &table());
    assert_eq!(elsewhere, ("places", "elsewhere".into()));
}

#[test]
fn a_partition_that_is_still_to_come_is_waited_for() {
    for number in 1..=3 {
        let mut kernels = table();
        kernels.retain(|entry| entry.number != number);
        let misses = format!("it has no partition {number}");
        assert_eq!(volume("", &kernels, &table()), ("not yet", misses));
    }
}

/// The host answers the second read as it likes: nothing may be overwritten by that.
#[test]
fn a_table_that_the_kernel_has_not_seen_leads_nowhere() {
    let refused =
        |number| ("refused", format!("partition {number} is not the one that the kernel has seen"));
    for at in 0..3 {
        let mut ours = table();
        ours[at].last += 1;
        assert_eq!(volume("", &table(), &ours), refused(at + 1));
    }
    let mut ours = table();
    ours[2].name = "other".into();
    ours[3].name = LABEL.into();
    assert_eq!(volume("", &table(), &ours), refused(4));
}

#[test]
fn the_volume_is_neither_root_nor_tree_and_there_is_one() {
    for at in 0..2 {
        let mut table = table();
        table[2].name = "other".into();
        table[at].name = LABEL.into();
        let reason = format!("partition {} is called \"cocos\"", at + 1);
        assert_eq!(volume("", &table, &table), ("refused", reason));
    }
    let mut two = table();
    two[3].name = LABEL.into();
    let reason = "it has two partitions called \"cocos\", 3 and 4".to_owned();
    assert_eq!(volume("", &two, &two), ("ambiguous", reason));
}
