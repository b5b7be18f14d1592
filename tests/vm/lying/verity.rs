//! The root and its hash tree: whatever is altered, when and where, no altered byte is ever good.

use super::{GOES_ON, touches, vm_of};
use crate::kit::disk::{Disk, Part};
use crate::kit::guest::Guest;
use crate::kit::root::{Node, Root};
use crate::kit::served::{Lie, On, Served};
use crate::kit::vm::{Bus, Vm};
use crate::refused::refusal;
use serde_json::{Value, json};
use std::fs;
use std::sync::OnceLock;

const BLOCK: u64 = 4096;
const EIO: i32 = 5;
const DEVICE: &str = "/dev/mapper/root_verity";
const PINNED: &str = "cvm.disk=/dev/sda quiet";

/// Fields of the verity superblock.
const ALGORITHM: u64 = 32;
const DATA_BLOCKS: u64 = 72;
const SALT: u64 = 88;

const UNREADABLE: &str = "root: cannot read the root's superblock: I/O error (os error 5)";

/// The fatal line of a boot on a disk whose verity superblock says something else.
#[track_caller]
fn refusal_with(offset: u64, bytes: &[u8]) -> String {
    let disk = Disk::builder().patch(Part::Verity, offset, bytes).build();
    refusal(Vm::of(&disk).append(PINNED))
}

#[test]
fn another_salt_does_not_prove_the_root_hash() {
    let reason = refusal_with(SALT, &[0x5b]);
    let expected = "disk: sda: the top hash block does not match the root hash: its digest is ";
    assert!(reason.starts_with(expected), "{reason}");
}

#[test]
fn another_hash_algorithm_is_refused() {
    assert_eq!(
        refusal_with(ALGORITHM, b"sha1\0\0"),
        "disk: sda: verity superblock: algorithm is \"sha1\", not sha256"
    );
}

/// The root hash does not cover their number. The tree keeps its shape and every block its digest,
/// so it is the file system that tells.
#[test]
fn fewer_data_blocks_than_the_root_has_are_refused() {
    assert_eq!(
        refusal_with(DATA_BLOCKS, &4095_u64.to_le_bytes()),
        "root: the root's ext4 has 4096 blocks, but only 4095 are verified"
    );
}

/// So few that the tree loses a level: its top then stands for other blocks.
#[test]
fn data_blocks_for_a_lower_tree_are_refused() {
    assert_eq!(refusal_with(DATA_BLOCKS, &128_u64.to_le_bytes()), UNREADABLE);
}

/// What is read once is not asked again: from the second read on, and again once the root is open,
/// the superblock is another one.
#[test]
fn a_superblock_that_differs_on_the_second_read_changes_nothing() {
    let disk = Disk::builder().build();
    let at = disk.place(Part::Verity, 0);
    let mut altered = disk.read(Part::Verity, 0, 512);
    for (field, bytes) in [(DATA_BLOCKS, &4095_u64.to_le_bytes()[..]), (SALT, &[0x5b; 32])] {
        let field = usize::try_from(field).unwrap();
        altered[field..field + bytes.len()].copy_from_slice(bytes);
    }
    let served = Served::lying(
        &disk,
        vec![
            Lie::on(On::Read, at).from(2).puts(at, &altered),
            Lie::on(On::Write, disk.place(Part::Cocos, 0)).puts(at, &altered),
        ],
    );
    let mut guest = vm_of(&disk, &served).boot();
    let report = guest.report();
    let root = Root::standard();
    assert_eq!(report["verity"]["salt"], root.salt);
    assert_eq!(report["verity"]["data_blocks"], root.data_blocks);
    let mappings = guest.ask("dm", json!({}));
    let table = mappings[0]["table"].as_str().unwrap();
    assert_eq!(
        table,
        format!(
            "1 8:2 8:3 4096 4096 4096 1 sha256 {} {} 1 restart_on_corruption",
            root.roothash, root.salt
        )
    );
    assert!(disk.read(Part::Verity, 0, 512) == altered, "it was not altered");
    guest.power_off();
}

/// The true top hash block proves the root hash; the kernel, which reads it again, gets another.
#[test]
fn a_top_hash_block_that_differs_on_the_second_read_ends_the_boot() {
    let disk = Disk::builder().build();
    let at = disk.place(Part::Verity, BLOCK);
    let lie = Lie::on(On::Read, at).from(2).puts(at, b"forged");
    let served = Served::lying(&disk, vec![lie]);
    assert_eq!(refusal(vm_of(&disk, &served).append(PINNED)), UNREADABLE);
    assert_eq!(disk.read(Part::Verity, BLOCK, 6), b"forged");
}

/// A root whose tree has three levels: 132 hash blocks over its data blocks, 2 over these, 1 at
/// the top. Its data is no hole, so that a block can be told from another.
fn three_levels() -> &'static Root {
    static ROOT: OnceLock<Root> = OnceLock::new();
    ROOT.get_or_init(|| {
        let numbers: Vec<_> = (0..7_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let root = Root::builder().size("66M").with(Node::file("numbers", numbers)).build();
        assert_eq!(root.data_blocks, 16_896);
        assert_eq!(fs::metadata(&root.tree).unwrap().len(), (1 + 1 + 2 + 132) * BLOCK);
        root
    })
}

/// Where the levels begin on partition 3: behind the superblock the top, then down.
const MIDDLE: u64 = 2 * BLOCK;
const LOWEST: u64 = 4 * BLOCK;

/// Reads all of the verified device past the caches, and holds it against the original, which the
/// VM has as a second disk: no block may differ. Returns the numbers of those that were refused.
#[track_caller]
fn refused_blocks(guest: &mut Guest) -> Vec<u64> {
    let found = guest.ask("compare", json!({ "path": DEVICE, "with": "/dev/vda" }));
    assert_eq!(found["differing"], json!([]));
    let unreadable = found["unreadable"].as_array().unwrap().iter();
    unreadable.map(|number| number.as_u64().unwrap()).collect()
}

/// Boots on a disk with one byte flipped at each place, and reads all of the root.
#[track_caller]
fn refused_blocks_with(flipped: &[(Part, u64)]) -> Vec<u64> {
    let root = three_levels();
    let disk = Disk::builder().root(root).build();
    for (part, at) in flipped {
        let byte = disk.read(*part, *at, 1)[0];
        disk.write(*part, *at, &[byte ^ 1]);
    }
    let mut guest = Vm::of(&disk).disk_on(Bus::VirtioBlk, &root.data).append(GOES_ON).boot();
    let refused = refused_blocks(&mut guest);
    guest.power_off();
    refused
}

/// A hash block takes all with it that it stands for, and nothing else.
#[test]
fn flipped_bytes_below_the_top_of_the_tree_are_io_errors() {
    let refused = refused_blocks_with(&[
        (Part::Root, 5000 * BLOCK + 77),
        // The digests of blocks 9984 to 10111: one in the middle.
        (Part::Verity, LOWEST + 78 * BLOCK + 64 * 32),
        // The digests of the hash blocks over data blocks 16384 and up.
        (Part::Verity, MIDDLE + BLOCK),
    ]);
    let expected: Vec<_> = [5000].into_iter().chain(9984..10112).chain(16384..16896).collect();
    assert_eq!(refused, expected);
}

#[test]
fn an_untouched_root_reads_as_it_was_made() {
    assert_eq!(refused_blocks_with(&[]), Vec::<u64>::new());
}

/// The first read of a block is answered truly, all later ones are not.
#[test]
fn data_that_differs_on_the_second_read_is_an_io_error() {
    let root = Root::standard();
    let disk = Disk::builder().build();
    // No block of ext4's metadata, nor of a file that the agent needs.
    let number = root.data_blocks - 2;
    let at = disk.place(Part::Root, number * BLOCK);
    let served = Served::lying(&disk, vec![Lie::on(On::Read, at).from(2).puts(at + 9, b"forged")]);
    let mut guest =
        vm_of(&disk, &served).disk_on(Bus::VirtioBlk, &root.data).append(GOES_ON).boot();
    assert_eq!(refused_blocks(&mut guest), Vec::<u64>::new());
    assert_eq!(refused_blocks(&mut guest), [number]);
    guest.power_off();
}

/// Where a file's content lies on partition 2.
fn place_of(disk: &Disk, root: &Root, content: &[u8]) -> u64 {
    let image = fs::read(&root.data).unwrap();
    let at = image.chunks(4096).position(|block| block.starts_with(content)).unwrap() as u64;
    assert_eq!(disk.read(Part::Root, at * BLOCK, content.len()), content);
    at * BLOCK
}

#[test]
fn a_flipped_byte_of_a_file_is_an_io_error_and_the_rest_reads_as_it_was() {
    let words = "nothing but the truth\n";
    let root = Root::builder().with(Node::file("etc/motd", words)).build();
    let disk = Disk::builder().root(&root).build();
    disk.write(Part::Root, place_of(&disk, &root, words.as_bytes()), b"something");
    let mut guest = Vm::of(&disk).append(GOES_ON).boot();
    let error = guest.call("read", json!({ "path": "/etc/motd" })).unwrap_err();
    assert_eq!(error.errno, Some(EIO));
    assert_eq!(guest.read("/etc/hostname"), "verified\n");
    guest.power_off();
}

/// The file system's own driver never sees partition 2: what it mounts is the mapping.
#[test]
fn ext4_reads_the_root_through_dm_verity_only() {
    let disk = Disk::builder().build();
    let first = disk.place(Part::Root, 0);
    let served =
        Served::lying(&disk, vec![Lie::on(On::Read, first).puts(first + 1024, &[0; 1024])]);
    // With the superblock wiped at its very first read there is nothing to mount on any path.
    assert_eq!(refusal(vm_of(&disk, &served).append(PINNED)), UNREADABLE);
    let proof = disk.place(Part::Verity, 0);
    let reads = served.reads();
    let position = |of: u64| reads.iter().position(|(at, length)| (*at..at + length).contains(&of));
    assert!(position(proof) < position(first), "partition 2 was read before its proof: {reads:x?}");
    assert!(!served.writes().iter().any(|write| touches(&disk, Part::Root, 0, 1 << 24, *write)));
}

/// A second disk with the true hash tree over a forged root: it proves the root hash, being asked
/// first, and what is forged cannot be read.
#[test]
fn a_forged_root_under_the_true_hash_tree_is_never_read() {
    let words = "nothing but the truth\n";
    let root = Root::builder().with(Node::file("etc/motd", words)).build();
    let (forged, right) =
        (Disk::builder().root(&root).build(), Disk::builder().root(&root).build());
    forged.write(Part::Root, place_of(&forged, &root, words.as_bytes()), b"something");
    let mut guest = Vm::of(&forged).disk(&right).append(GOES_ON).boot();
    let found = guest.call("read", json!({ "path": "/etc/motd" }));
    // Which of the two the kernel names sda is not settled.
    match found {
        Ok(text) => assert_eq!(text, words),
        Err(error) => assert_eq!(error.errno, Some(EIO)),
    }
    guest.power_off();
}

/// A second disk with a forged root, whose hash tree and root hash are its own.
#[test]
fn a_forged_root_with_another_root_hash_is_not_taken() {
    let forged = Root::builder().with(Node::file("etc/hostname", "forged\n")).build();
    let forged = Disk::builder().root(&forged).build();
    let right = Disk::builder().build();
    for disks in [[&forged, &right], [&right, &forged]] {
        let vm = Vm::new().disk(disks[0]).disk(disks[1]);
        let mut guest = vm.append(&format!("roothash={}", right.roothash)).boot();
        assert_eq!(guest.read("/etc/hostname"), "verified\n");
        assert_eq!(guest.report()["verity"]["root_hash"], Value::from(right.roothash.as_str()));
        guest.power_off();
    }
}
