//! Partition tables with right checksums and wrong partitions, which no tool would write.
//!
//! Source: UEFI Specification 2.10, 5.3.

use crate::kit::disk::{Disk, Part};
use crate::kit::vm::Vm;
use crate::refused::refusal;
use cvm_init::format::uuid;
use serde_json::json;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

const SECTOR: usize = 512;
const EIO: i32 = 5;

/// Fields of the header.
const HEADER_CRC: usize = 16;
const ALTERNATE: usize = 32;
const ENTRIES: usize = 72;
const ENTRIES_CRC: usize = 88;
const HEADER_SIZE: usize = 92;

/// An entry, and its fields.
const ENTRY_SIZE: usize = 128;
const FIRST: usize = 32;
const LAST: usize = 40;
const TABLE_SIZE: usize = 128 * ENTRY_SIZE;

/// CRC-32 as in Ethernet, of which UEFI speaks.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            crc >> 1 ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 }
        })
    })
}

/// The entries of a disk's table.
pub(super) struct Table(Vec<u8>);

impl Table {
    fn field(&self, number: usize, at: usize) -> u64 {
        let place = (number - 1) * ENTRY_SIZE + at;
        u64::from_le_bytes(self.0[place..place + 8].try_into().unwrap())
    }

    /// First and last sector of a partition.
    fn span(&self, number: usize) -> (u64, u64) {
        (self.field(number, FIRST), self.field(number, LAST))
    }

    fn set(&mut self, number: usize, span: (u64, u64)) {
        for (at, value) in [(FIRST, span.0), (LAST, span.1)] {
            let place = (number - 1) * ENTRY_SIZE + at;
            self.0[place..place + 8].copy_from_slice(&value.to_le_bytes());
        }
    }

    /// Gives a partition the other one's entry, and the other way round.
    pub(super) fn swap(&mut self, one: usize, other: usize) {
        let (one_span, other_span) = (self.span(one), self.span(other));
        self.set(one, other_span);
        self.set(other, one_span);
    }

    /// Gives a partition another type, of which this is the text's number.
    pub(super) fn set_kind(&mut self, number: usize, kind: u128) {
        let stored = uuid::swapped(kind.to_be_bytes());
        self.0[(number - 1) * ENTRY_SIZE..][..stored.len()].copy_from_slice(&stored);
    }

    /// Makes a partition as another one is.
    pub(super) fn copy(&mut self, from: usize, to: usize) {
        let entry = self.0[(from - 1) * ENTRY_SIZE..from * ENTRY_SIZE].to_vec();
        self.0[(to - 1) * ENTRY_SIZE..to * ENTRY_SIZE].copy_from_slice(&entry);
    }
}

/// A disk whose table, both copies of it, has been edited.
pub(super) fn edited(disk: Disk, edit: impl FnOnce(&mut Table)) -> Disk {
    let file = File::options().read(true).write(true).open(disk.path()).unwrap();
    let read = |sector: u64, length: usize| {
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, sector * SECTOR as u64).unwrap();
        bytes
    };
    let number =
        |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let primary = read(1, SECTOR);
    let mut table = Table(read(number(&primary, ENTRIES), TABLE_SIZE));
    edit(&mut table);
    for header_at in [1, number(&primary, ALTERNATE)] {
        let mut header = read(header_at, SECTOR);
        header[ENTRIES_CRC..ENTRIES_CRC + 4].copy_from_slice(&crc32(&table.0).to_le_bytes());
        header[HEADER_CRC..HEADER_CRC + 4].fill(0);
        let crc = crc32(&header[..HEADER_SIZE]);
        header[HEADER_CRC..HEADER_CRC + 4].copy_from_slice(&crc.to_le_bytes());
        let entries_at = number(&header, ENTRIES);
        file.write_all_at(&header, header_at * SECTOR as u64).unwrap();
        file.write_all_at(&table.0, entries_at * SECTOR as u64).unwrap();
    }
    disk
}

/// Boots on an edited table to the end that it must have: nothing at all is written to the disk.
#[track_caller]
fn refusal_of(edit: impl FnOnce(&mut Table)) -> String {
    let disk = edited(Disk::builder().build(), edit);
    let before = fs::read(disk.path()).unwrap();
    let reason = refusal(Vm::of(&disk).append("cvm.timeout=5 quiet"));
    assert!(fs::read(disk.path()).unwrap() == before, "the disk was written to");
    let head = "disk: no disk that proves roothash= within 5 s; sda: ";
    reason.strip_prefix(head).unwrap_or(&reason).to_owned()
}

/// Written as it was, the table is good: what the tests below see is their own edit.
#[test]
fn a_table_that_was_edited_back_boots() {
    let disk = edited(Disk::builder().build(), |table| table.swap(2, 3));
    let disk = edited(disk, |table| table.swap(3, 2));
    let before = fs::read(disk.path()).unwrap();
    let mut guest = Vm::of(&disk).boot();
    guest.ask("write", json!({ "path": "/cocos/datasets/file", "text": "some" }));
    guest.power_off();
    let (start, size) = (disk.place(Part::Cocos, 0), disk.size(Part::Cocos));
    let (start, end) = (usize::try_from(start).unwrap(), usize::try_from(start + size).unwrap());
    let after = fs::read(disk.path()).unwrap();
    assert!(after[..start] == before[..start], "what lies before partition 4 was written to");
    assert!(after[end..] == before[end..], "what lies behind partition 4 was written to");
    assert!(after[start..end] != before[start..end], "partition 4 was not written to");
}

#[test]
fn partition_4_that_overlaps_the_hash_tree_by_a_sector() {
    let reason = refusal_of(|table| {
        let (tree, cocos) = (table.span(3), table.span(4));
        table.set(4, (tree.1, cocos.1));
    });
    assert_eq!(reason, "partitions 3 and 4 overlap");
}

#[test]
#[ignore = "scripts/test --all"]
fn partition_4_over_the_root() {
    let reason = refusal_of(|table| {
        let span = table.span(2);
        table.set(4, span);
    });
    assert_eq!(reason, "partitions 2 and 4 overlap");
}

#[test]
fn partition_4_over_the_whole_disk() {
    let reason = refusal_of(|table| {
        let end = table.span(4).1;
        table.set(4, (1, end));
    });
    assert!(reason.ends_with(" and 4 overlap"), "{reason}");
}

#[test]
#[ignore = "scripts/test --all"]
fn another_partition_inside_partition_4() {
    let reason = refusal_of(|table| {
        table.copy(4, 5);
        let (start, _) = table.span(4);
        table.set(5, (start + 40_000, start + 40_000));
    });
    assert_eq!(reason, "partitions 5 and 4 overlap");
}

#[test]
fn partition_4_without_a_sector() {
    let reason = refusal_of(|table| {
        let (start, _) = table.span(4);
        table.set(4, (start, start - 1));
    });
    assert!(reason.starts_with("it has no partition 4, and none with the UUID "), "{reason}");
}

/// Its length is less than nothing, which in 64 bits is nearly everything.
#[test]
fn partition_4_that_ends_before_it_starts() {
    let reason = refusal_of(|table| {
        let (start, _) = table.span(4);
        table.set(4, (start, start - 4096));
    });
    assert_eq!(reason, "partition 4 does not lie within the disk");
}

#[test]
#[ignore = "scripts/test --all"]
fn partition_4_that_ends_beyond_the_disk() {
    let reason = refusal_of(|table| {
        let (start, end) = table.span(4);
        table.set(4, (start, end + (1 << 20)));
    });
    assert!(reason.starts_with("it has no partition 4, and none with the UUID "), "{reason}");
}

#[test]
#[ignore = "scripts/test --all"]
fn partition_4_that_starts_beyond_the_disk() {
    let reason = refusal_of(|table| {
        let (start, end) = table.span(4);
        table.set(4, (start + (1 << 40), end + (1 << 40)));
    });
    assert!(reason.starts_with("it has no partition 4, and none with the UUID "), "{reason}");
}

#[test]
#[ignore = "scripts/test --all"]
fn root_and_hash_tree_swapped() {
    let reason = refusal_of(|table| table.swap(2, 3));
    assert!(reason.starts_with("verity superblock: magic is 0000000000000000"), "{reason}");
}

#[test]
#[ignore = "scripts/test --all"]
fn hash_tree_and_partition_4_swapped() {
    let reason = refusal_of(|table| table.swap(3, 4));
    assert!(reason.starts_with("verity superblock: magic is 0000000000000000"), "{reason}");
}

/// The true root lies where the volume would be made: the boot ends before it is written to.
#[test]
fn root_and_partition_4_swapped() {
    let reason = refusal_of(|table| table.swap(2, 4));
    assert_eq!(reason, "root: cannot read the root's superblock: I/O error (os error 5)");
}

#[test]
#[ignore = "scripts/test --all"]
fn efi_and_partition_4_swapped() {
    let reason = refusal_of(|table| table.swap(1, 4));
    assert_eq!(reason, "volume: sda4 is too small: 1048576 bytes, at least 33554432 are needed");
}

/// Root and hash tree made larger in table and superblock: what has no digest cannot be read.
#[test]
fn more_data_blocks_than_were_hashed_cannot_be_read() {
    let disk = Disk::builder().patch(Part::Verity, 72, &4352_u64.to_le_bytes()).build();
    let disk = edited(disk, |table| {
        let (root, tree, cocos) = (table.span(2), table.span(3), table.span(4));
        table.set(2, (root.0, cocos.0 - 1));
        table.set(3, (tree.0, cocos.0 - 1));
    });
    let mut guest = Vm::of(&disk).append(super::GOES_ON).boot();
    assert_eq!(guest.report()["verity"]["data_blocks"], 4352);
    for block in 4096..4352 {
        let place = json!({
            "path": "/dev/mapper/root_verity", "offset": block * 4096, "bytes": 4096, "seed": 0,
            "direct": true,
        });
        assert_eq!(guest.call("pattern_read", place).unwrap_err().errno, Some(EIO), "{block}");
    }
    assert_eq!(guest.read("/etc/hostname"), "verified\n");
    guest.power_off();
}
