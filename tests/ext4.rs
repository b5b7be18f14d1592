//! The ext4 formatter against e2fsprogs: what it writes, e2fsck accepts without a word and dumpe2fs
//! and debugfs read as it was meant.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod common;

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use cvm_init::format::ext4::{BLOCK_BYTES, Layout, MAX_BYTES, MIN_BYTES, Options};

use common::{Scratch, run};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const BLOCK: u64 = BLOCK_BYTES as u64;
const GROUP: u64 = 32768 * BLOCK;

/// A formatted file.
struct Image {
    file: Scratch,
    layout: Layout,
    written: u64,
}

impl Image {
    /// Formats a file for `data` bytes, all of them `0xaa` if `poisoned`, else a hole; what lies in
    /// front of them is a hole until it is written.
    fn format(name: &str, data: u64, poisoned: bool) -> Self {
        Self::with_metadata(name, data, u64::MAX, poisoned)
    }

    fn with_metadata(name: &str, data: u64, metadata_max: u64, poisoned: bool) -> Self {
        let layout = Layout::new(data, metadata_max).unwrap();
        let metadata = layout.metadata_bytes();
        let bytes = metadata + data;
        let (scratch, file) = Scratch::sparse(&format!("ext4-{name}-{data}.img"), bytes);
        if poisoned {
            let poison = vec![0xaa; 1 << 20];
            for offset in (metadata..bytes).step_by(poison.len()) {
                let length = poison.len().min(usize::try_from(bytes - offset).unwrap());
                file.write_all_at(&poison[..length], offset).unwrap();
            }
        }
        let options = Options {
            uuid: *b"\x01\x23\x45\x67\x89\xab\x4d\xef\x81\x23\x45\x67\x89\xab\xcd\xef",
            hash_seed: [0x5a; 16],
            label: *b"cocos\0\0\0\0\0\0\0\0\0\0\0",
            created: 1_750_000_000,
        };
        let start = Instant::now();
        let mut written = 0;
        layout
            .write(&options, |offset, block| -> io::Result<()> {
                assert!(offset + block.len() as u64 <= metadata);
                written += block.len() as u64;
                file.write_all_at(block, offset)
            })
            .unwrap();
        println!("{name} {data}: {} KiB written in {:?}", written / KIB, start.elapsed());
        Self { file: scratch, layout, written }
    }

    /// Runs an e2fsprogs tool on the image; it has to exit with 0.
    fn tool(&self, tool: &str, arguments: &[&str]) -> String {
        run(tool, &[arguments, &[self.file.utf8()]].concat())
    }

    /// e2fsck finds nothing at all to say.
    fn assert_clean(&self) {
        let said = self.tool("e2fsck", &["-fn"]);
        let lines: Vec<&str> = said.lines().collect();
        let passes = [
            "Pass 1: Checking inodes, blocks, and sizes",
            "Pass 2: Checking directory structure",
            "Pass 3: Checking directory connectivity",
            "Pass 4: Checking reference counts",
            "Pass 5: Checking group summary information",
        ];
        assert_eq!(lines[..passes.len()], passes, "{said}");
        assert_eq!(lines.len(), passes.len() + 1, "{said}");
        let used = self.layout.blocks() - self.layout.free_blocks();
        let summary = format!(
            ": 11/{} files (0.0% non-contiguous), {used}/{} blocks",
            self.layout.inodes(),
            self.layout.blocks()
        );
        assert!(lines[5].ends_with(&summary), "{said}");
    }

    /// The superblock as dumpe2fs shows it.
    fn superblock(&self) -> HashMap<String, String> {
        self.tool("dumpe2fs", &["-h"])
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect()
    }
}

#[test]
fn every_size_is_clean_and_as_asked_for() {
    for (bytes, journal) in [
        (16 * MIB, "4096k"),
        (64 * MIB, "4096k"),
        (512 * MIB, "32M"),
        (GIB, "64M"),
        (20 * GIB, "64M"),
        (2 * TIB, "64M"),
    ] {
        let image = Image::format("size", bytes, false);
        image.assert_clean();

        let layout = &image.layout;
        assert_eq!(layout.free_blocks(), bytes / BLOCK);
        let groups = layout.blocks().div_ceil(GROUP / BLOCK);
        assert!(layout.inodes() >= layout.blocks() / 4);
        assert!(layout.inodes() <= (layout.blocks() / 4).next_multiple_of(16).max(groups * 8192));
        let superblock = image.superblock();
        let expected = [
            ("Filesystem volume name", "cocos"),
            ("Filesystem UUID", "01234567-89ab-4def-8123-456789abcdef"),
            (
                "Filesystem features",
                "has_journal ext_attr dir_index sparse_super2 filetype extent flex_bg large_file \
                 huge_file dir_nlink extra_isize metadata_csum",
            ),
            ("Filesystem flags", "signed_directory_hash"),
            ("Default mount options", "user_xattr acl"),
            ("Filesystem state", "clean"),
            ("Errors behavior", "Remount read-only"),
            ("Filesystem OS type", "Linux"),
            ("Inode count", &layout.inodes().to_string()),
            ("Block count", &layout.blocks().to_string()),
            ("Reserved block count", "0"),
            ("Free blocks", &layout.free_blocks().to_string()),
            ("Free inodes", &layout.free_inodes().to_string()),
            ("Block size", "4096"),
            ("Inode size", "256"),
            ("Filesystem created", "Sun Jun 15 15:06:40 2025"),
            ("Maximum mount count", "-1"),
            ("Default directory hash", "half_md4"),
            ("Directory Hash Seed", "5a5a5a5a-5a5a-5a5a-5a5a-5a5a5a5a5a5a"),
            ("Checksum type", "crc32c"),
        ];
        for (name, value) in expected {
            assert_eq!(superblock.get(name).map(String::as_str), Some(value), "{name}");
        }
        let expected = [
            ("Journal inode", "8"),
            ("Journal backup", "inode blocks"),
            ("Total journal size", journal),
            ("Journal start", "0"),
            ("Journal sequence", "0x00000001"),
        ];
        for (name, value) in expected {
            assert_eq!(superblock.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert_eq!(superblock.get("Reserved GDT blocks"), None);
        assert_eq!(superblock.get("Group descriptor size"), None, "the short one has no field");

        // Descriptors (32 bytes a group of 128 MiB) and the bitmaps of groups full of metadata.
        assert!(image.written <= 64 * KIB + bytes * 3 / 4 / MIB, "{}", image.written);
    }
}

#[test]
fn every_odd_size_is_clean() {
    let sizes = [
        MIN_BYTES,
        MIN_BYTES + 1, // not whole sectors
        3 * MIB + 7 * BLOCK,
        64 * MIB + BLOCK - 1, // not whole blocks
        100 * MIB + 8191,
        GROUP - BLOCK,
        8 * GROUP + 10 * MIB + 511,
        126 * GROUP, // one block of descriptors
        127 * GROUP, // and two
        // What is left of 1 GiB and of 20 GiB behind a header and integrity tags.
        2_033_896 * 512,
        41_580_544 * 512,
        // Metadata ends inside, at the end and behind a group.
        63 * GROUP + 12345 * BLOCK,
        127 * GROUP + 40 * MIB,
        MAX_BYTES / (GROUP / BLOCK) * (GROUP / BLOCK - 514) - 80 * MIB, // the longest numbers of blocks
    ];
    for bytes in sizes {
        Image::format("odd", bytes, false).assert_clean();
    }
}

/// A volume whose last group is short, from nothing to what is worth it.
#[test]
fn every_last_group_is_clean() {
    let one = GROUP / BLOCK - (4 + 514 + 1024);
    for data in [one - 1, one, one + 1, one + 49, one + 50, one + 563, one + 564, one + 600] {
        // With so much metadata the journal is the shortest.
        Image::with_metadata("last", data * BLOCK, 16 * MIB, false).assert_clean();
    }
}

/// Fewer inodes, down to ext4's least.
#[test]
fn every_number_of_inodes_is_clean() {
    for (data, metadata_max) in
        [(20 * GIB, 128 * MIB), (20 * GIB, 0), (64 * MIB, 0), (2 * TIB, 256 * MIB)]
    {
        let image = Image::with_metadata("inodes", data, metadata_max, false);
        image.assert_clean();
        let layout = &image.layout;
        let least = layout.blocks().div_ceil(GROUP / BLOCK) * 16;
        assert!(layout.metadata_bytes() <= metadata_max || layout.inodes() == least);
    }
}

/// On the real device data that was never written cannot be read; here it is not zero at least.
#[test]
fn nothing_relies_on_zeros_behind_the_metadata() {
    for bytes in [MIB, 16 * MIB, 64 * MIB, 300 * MIB, GIB] {
        Image::format("poisoned", bytes, true).assert_clean();
    }
}

#[test]
fn root_and_lost_and_found_are_directories_of_root() {
    let image = Image::format("directories", 64 * MIB, true);
    let root = image.tool("debugfs", &["-R", "stat <2>"]);
    assert!(root.contains("Type: directory    Mode:  0755   Flags: 0x80000"), "{root}");
    assert!(root.contains("Links: 3   Blockcount: 8"), "{root}");
    assert!(root.contains("User:     0   Group:     0"), "{root}");
    assert!(root.contains("crtime: 0x684ee180:00000000 -- Sun Jun 15 15:06:40 2025"), "{root}");

    let names = |directory: &str| -> Vec<String> {
        image
            .tool("debugfs", &["-R", &format!("ls -p {directory}")])
            .lines()
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(
        names("/"),
        ["/2/040755/0/0/.//", "/2/040755/0/0/..//", "/11/040700/0/0/lost+found//"]
    );
    assert_eq!(names("/lost+found"), ["/11/040700/0/0/.//", "/2/040755/0/0/..//"]);
}

/// Groups that hold nothing are neither written nor read.
#[test]
fn unused_groups_stay_uninitialised() {
    let image = Image::format("groups", 20 * GIB, false);
    let groups = image.tool("dumpe2fs", &[]);
    let flags: Vec<&str> = groups.lines().filter(|line| line.contains(": (Blocks ")).collect();
    assert_eq!(flags.len(), 164);
    let flags_of = |wanted| flags.iter().filter(|line| line.ends_with(wanted)).count();
    // Metadata reaches into groups 0 to 2; the last group has a bitmap by convention.
    assert_eq!(flags_of("[INODE_UNINIT, BLOCK_UNINIT, ITABLE_ZEROED]"), 159, "{flags:#?}");
    assert_eq!(flags_of("ITABLE_ZEROED]"), 164, "{flags:#?}");
}
