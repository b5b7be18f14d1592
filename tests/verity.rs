//! dm-verity against veritysetup: what it formats is read as it says, proven, and fits exactly; what
//! has been tampered with or made otherwise is refused.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod common;

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;

use cvm_init::error::Result;
use cvm_init::format::device::Dev;
use cvm_init::format::hex;
use cvm_init::format::verity::{
    Areas, BLOCK_SIZE, HashOffset, OnCorruption, Params, RootHash, SUPERBLOCK_SIZE,
};

use common::{Scratch, run};

const BLOCK: u64 = BLOCK_SIZE as u64;

/// Where fields of the superblock lie.
const DATA_BLOCKS: usize = 72;
const SALT_SIZE: usize = 80;
const SALT: usize = 88;

/// What veritysetup made, and what it said of it.
struct Tree {
    /// Bytes of the device that the tree lies on.
    hash_bytes: u64,
    /// Where the hash area begins on the device of the data, if it lies there.
    behind: Option<HashOffset>,
    superblock: [u8; SUPERBLOCK_SIZE],
    top: [u8; BLOCK_SIZE as usize],
    said: HashMap<String, String>,
}

impl Tree {
    /// Formats `blocks` blocks of data, zeros or as good as random.
    fn format(name: &str, blocks: u64, random: bool, options: &[&str]) -> Self {
        let (data, mut file) = Scratch::sparse(&format!("verity-{name}.data"), blocks * BLOCK);
        if random {
            fill(&mut file, blocks * BLOCK / 8);
        }
        let (hash, file) = Scratch::sparse(&format!("verity-{name}.hash"), 0);
        let command = [&["format"], options, &[data.utf8(), hash.utf8()]].concat();
        Self::of(&run("veritysetup", &command), &file, None)
    }

    /// The same with the hash area behind the data, from block `start` on.
    fn format_behind(name: &str, blocks: u64, start: u64, options: &[&str]) -> Self {
        let (data, mut file) = Scratch::sparse(&format!("verity-{name}.both"), blocks * BLOCK);
        fill(&mut file, blocks * BLOCK / 8);
        let (offset, count) = ((start * BLOCK).to_string(), blocks.to_string());
        let place = ["format", "--hash-offset", &offset, "--data-blocks", &count];
        let command = [&place[..], options, &[data.utf8(), data.utf8()]].concat();
        Self::of(&run("veritysetup", &command), &file, HashOffset::new(start * BLOCK))
    }

    fn of(said: &str, device: &File, behind: Option<HashOffset>) -> Self {
        let said: HashMap<_, _> = said
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        let hash_bytes = device.metadata().unwrap().len();
        let mut tree = Self { hash_bytes, behind, superblock: [0; _], top: [0; _], said };
        let areas = tree.areas(0);
        device.read_exact_at(&mut tree.superblock, areas.hash_at()).unwrap();
        // Trees of other block sizes are shorter; they are not read this far.
        let _ = device.read_at(&mut tree.top, areas.tree(true) * BLOCK).unwrap();
        tree
    }

    /// What a boot makes of the places, for a data partition of `data_bytes` bytes.
    fn areas(&self, data_bytes: u64) -> Areas {
        match self.behind {
            Some(offset) => Areas::together(self.hash_bytes, offset).unwrap(),
            None => Areas::apart(data_bytes, self.hash_bytes),
        }
    }

    fn said(&self, field: &str) -> &str {
        &self.said[field]
    }

    fn root_hash(&self) -> RootHash {
        let bytes = hex::decode(self.said("Root hash")).unwrap();
        bytes.try_into().unwrap()
    }

    /// Takes what the host shows, as a boot does, for a data partition of `data_bytes` bytes.
    fn take(&self, data_bytes: u64) -> Result<Params> {
        let params = Params::from_superblock(&self.superblock)?;
        let areas = self.areas(data_bytes);
        params.require_room(&areas, areas.tree(true))?;
        params.prove(&self.top, &self.root_hash())?;
        Ok(params)
    }
}

/// Writes so many words of the xorshift generator.
fn fill(file: &mut File, words: u64) {
    let mut file = BufWriter::new(file);
    let mut word = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..words {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        file.write_all(&word.to_le_bytes()).unwrap();
    }
    file.flush().unwrap();
}

#[test]
fn what_veritysetup_formats_is_taken_as_it_says() {
    let long_salt = "5a".repeat(256);
    let salts = ["-", &"00ff".repeat(16), &long_salt];
    // One hash block up to 128 data blocks, two levels from 129, three from 16385.
    let sizes = [2, 128, 129, 16384, 16385, (70 << 20) / BLOCK];
    for (blocks, salt) in sizes.iter().flat_map(|&blocks| salts.map(|salt| (blocks, salt))) {
        let random = blocks != 16384;
        let tree = Tree::format("taken", blocks, random, &["--salt", salt]);
        let params = tree.take(blocks * BLOCK).unwrap();
        assert_eq!(params.data_blocks, blocks);
        assert_eq!(tree.said("Data blocks"), blocks.to_string());
        assert_eq!(tree.said("Salt"), salt);

        // In the order of the kernel's verity.rst.
        let (data, hash) = (Dev { major: 8, minor: 2 }, Dev { major: 8, minor: 3 });
        let fields = [
            tree.said("Hash type"),
            "8:2",
            "8:3",
            tree.said("Data block size"),
            tree.said("Hash block size"),
            tree.said("Data blocks"),
            "1",
            tree.said("Hash algorithm"),
            tree.said("Root hash"),
            tree.said("Salt"),
        ];
        assert_eq!(
            params.table(data, (hash, 1), &tree.root_hash(), OnCorruption::IoError, false),
            fields.join(" ")
        );
        assert_eq!(params.sectors() * 512, blocks * BLOCK);

        let size = format!("{} [bytes]", tree.hash_bytes);
        assert_eq!(tree.said("Hash device size"), size);
        for (data, hash, fits) in [(0, 0, true), (1, 0, false), (0, 1, false)] {
            let areas = Areas::apart(blocks * BLOCK - data, tree.hash_bytes - hash);
            let room = params.require_room(&areas, areas.tree(true));
            assert_eq!(room.is_ok(), fits, "{blocks} blocks: {room:?}");
        }
    }
}

/// The kernel's own words for it are in `tests/vm/layouts.rs`.
#[test]
fn a_tree_behind_the_data_is_taken_where_veritysetup_puts_it() {
    // Directly behind the data, and behind a gap.
    for (blocks, start) in [(2, 2), (128, 200), (129, 129), (16385, 20000)] {
        let tree = Tree::format_behind("behind", blocks, start, &[]);
        let params = tree.take(0).unwrap();
        assert_eq!(params.data_blocks, blocks);
        // It says nothing of a size then; its file ends with the tree.
        for (less, fits) in [(0, true), (1, false)] {
            let offset = tree.behind.unwrap();
            let areas = Areas::together(tree.hash_bytes - less, offset).unwrap();
            assert_eq!(params.require_room(&areas, areas.tree(true)).is_ok(), fits);
        }
    }
}

/// `--no-superblock`: it begins where a superblock would.
#[test]
fn a_tree_without_superblock_begins_with_its_area() {
    let (salt, blocks, start) = ("00ff", 129, 150);
    for (superblock, options) in [(true, &["--salt", salt][..]), (false, &["--no-superblock"])] {
        let options = [options, &["--salt", salt]].concat();
        let (both, mut file) = Scratch::sparse("verity-bare", blocks * BLOCK);
        fill(&mut file, blocks * BLOCK / 8);
        let (offset, count) = ((start * BLOCK).to_string(), blocks.to_string());
        let place = ["format", "--hash-offset", &offset, "--data-blocks", &count];
        let said =
            run("veritysetup", &[&place[..], &options, &[both.utf8(), both.utf8()]].concat());
        let hash = said.lines().find_map(|line| line.strip_prefix("Root hash:")).unwrap();
        let root_hash: RootHash = hex::decode(hash.trim()).unwrap().try_into().unwrap();
        let params = Params::new(hex::decode(salt).unwrap(), blocks).unwrap();
        let bytes = file.metadata().unwrap().len();
        let areas = Areas::together(bytes, HashOffset::new(start * BLOCK).unwrap()).unwrap();
        for at in [true, false] {
            let tree = areas.tree(at);
            let mut top = [0; BLOCK_SIZE as usize];
            file.read_exact_at(&mut top, tree * BLOCK).unwrap();
            let proven = params.prove(&top, &root_hash).is_ok();
            assert_eq!(proven, at == superblock);
            assert!(!proven || params.require_room(&areas, tree).is_ok());
        }
    }
}

#[test]
fn any_bit_of_top_hash_block_or_salt_matters() {
    let mut tree = Tree::format("bits", 129, true, &[]);
    let genuine = tree.take(129 * BLOCK).unwrap();
    let refused = |tree: &Tree| {
        let message = tree.take(129 * BLOCK).unwrap_err().to_string();
        assert!(message.contains("does not match the root hash"), "{message}");
    };
    // Past its two digests the block is zeros, which are proven just as well.
    for at in 0..tree.top.len() {
        tree.top[at] ^= 1 << (at % 8);
        refused(&tree);
        tree.top[at] ^= 1 << (at % 8);
    }
    for bit in 0..8 * genuine.salt.len() {
        tree.superblock[SALT + bit / 8] ^= 1 << (bit % 8);
        refused(&tree);
        tree.superblock[SALT + bit / 8] ^= 1 << (bit % 8);
    }
    for size in (0..=255).filter(|&size| size != 32) {
        tree.superblock[SALT_SIZE] = size;
        refused(&tree);
    }
    tree.superblock[SALT_SIZE] = 32;
    assert_eq!(tree.take(129 * BLOCK), Ok(genuine));
}

/// The root hash does not cover the number of data blocks, so a larger one has to fail for room.
#[test]
fn more_data_blocks_than_there_are_are_refused() {
    let blocks = 129;
    let mut tree = Tree::format("blocks", blocks, true, &[]);
    for more in (0..64).map(|bit| blocks | 1 << bit).filter(|&more| more > blocks) {
        tree.superblock[DATA_BLOCKS..][..8].copy_from_slice(&more.to_le_bytes());
        let message = tree.take(blocks * BLOCK).unwrap_err().to_string();
        assert!(message.starts_with(&format!("verity data blocks {more}, ")), "{message}");
        // With room for the data, the tree has to have grown too; 256 blocks need no more of it.
        assert_eq!(tree.take(u64::MAX).is_ok(), more <= 256, "{more}");
    }
}

#[test]
fn what_is_made_with_other_options_is_refused_by_its_field() {
    for (options, message) in [
        (["--hash", "sha512"], "algorithm is \"sha512\", not sha256"),
        (["--hash", "sha1"], "algorithm is \"sha1\", not sha256"),
        (["--data-block-size", "1024"], "data block size is 1024, not 4096"),
        (["--hash-block-size", "1024"], "hash block size is 1024, not 4096"),
        (["--format", "0"], "hash type is 0, not 1"),
    ] {
        for tree in [
            Tree::format("options", 129, false, &options),
            Tree::format_behind("options", 129, 129, &options),
        ] {
            let error = tree.take(129 * BLOCK).unwrap_err();
            assert_eq!(error.to_string(), format!("verity superblock: {message}"));
        }
    }
    let tree = Tree::format("hidden", 129, false, &["--hash-offset", "4096"]);
    let error = tree.take(129 * BLOCK).unwrap_err();
    assert_eq!(
        error.to_string(),
        "verity superblock: magic is 0000000000000000, not 7665726974790000"
    );
    // Its root hash is that of the data block itself: there is no hash block to prove.
    let tree = Tree::format("single", 1, true, &[]);
    let error = tree.take(BLOCK).unwrap_err();
    assert_eq!(error.to_string(), "verity data blocks 1, not from 2 to 4503599627370496");
}
