//! `disk.img` as an image build makes it: GPT, EFI, root, hash tree and the blank partition 4.

use crate::kit::root::{Root, UUID};
use crate::kit::tool::{Scratch, command, run};
use cvm_init::format::gpt::{Entry, Table};
use cvm_init::format::{hex, uuid, verity};
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

const MIB: u64 = 1 << 20;
/// What QEMU's device of a disk is told that has sectors of 4096 bytes.
pub(crate) const LARGE_SECTORS: &str = "logical_block_size=4096,physical_block_size=4096";
/// Bytes of the entries of a partition table.
const ENTRIES: u64 = 16384;

/// A partition, by the number that it has with Cocos.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Efi = 1,
    Root,
    Verity,
    Cocos,
}

const PARTS: [Part; 4] = [Part::Efi, Part::Root, Part::Verity, Part::Cocos];

/// Types of partitions: any data of Linux, and what the discoverable partitions specification has for
/// this architecture.
const LINUX: &str = "0FC63DAF-8483-4772-8E79-3D69D8477DE4";
const ROOT: &str = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709";
const TREE: &str = "2C7357ED-EBD2-46D9-AEC1-23D437EC2BF5";

/// A partition as the table has it.
struct Row {
    number: u32,
    name: String,
    extent: Extent,
    kind: &'static str,
    uuid: String,
}

/// A second root on the same disk.
struct Slot<'a> {
    root: &'a Root,
    numbers: [u32; 2],
}

/// Where a partition lies, in bytes.
#[derive(Clone, Copy, Debug)]
struct Extent {
    start: u64,
    size: u64,
}

pub(crate) struct Builder<'a> {
    root: &'a Root,
    cocos: u64,
    missing: Vec<Part>,
    patches: Vec<(Part, u64, Vec<u8>)>,
    grown: u64,
    sector_size: u64,
    /// Whether the hash tree lies behind the data, on the same partition.
    behind: bool,
    superblock: bool,
    /// Whether UUIDs and types say what a partition is.
    named: bool,
    numbers: [u32; 4],
    slot: Option<Slot<'a>>,
}

impl<'a> Builder<'a> {
    pub(crate) fn root(mut self, root: &'a Root) -> Self {
        self.root = root;
        self
    }

    /// Size of partition 4 in bytes.
    pub(crate) fn cocos(mut self, size: u64) -> Self {
        self.cocos = size;
        self
    }

    /// Leaves a partition out of the table; the others keep their places and numbers.
    pub(crate) fn without(mut self, part: Part) -> Self {
        self.missing.push(part);
        self
    }

    /// Bytes that the host has put in place of the right ones.
    pub(crate) fn patch(mut self, part: Part, offset: u64, bytes: &[u8]) -> Self {
        self.patches.push((part, offset, bytes.to_vec()));
        self
    }

    /// Bytes that the host has added behind the partition table.
    pub(crate) fn grown(mut self, bytes: u64) -> Self {
        self.grown = bytes;
        self
    }

    /// For a disk with sectors of so many bytes.
    pub(crate) fn sector_size(mut self, bytes: u64) -> Self {
        self.sector_size = bytes;
        self
    }

    /// Puts the hash tree behind the data, on the same partition. There is no partition 3 then.
    pub(crate) fn tree_behind(mut self) -> Self {
        self.behind = true;
        self.without(Part::Verity)
    }

    pub(crate) fn without_superblock(mut self) -> Self {
        self.superblock = false;
        self
    }

    /// Has UUIDs and types say what a partition is, as systemd-repart does, and not the numbers.
    pub(crate) fn named(mut self) -> Self {
        self.named = true;
        self.numbers([1, 5, 6, 7])
    }

    /// The numbers of the parts, in their order.
    pub(crate) fn numbers(mut self, numbers: [u32; 4]) -> Self {
        self.numbers = numbers;
        self
    }

    /// A second root and its hash tree in front of partition 4, with these numbers.
    pub(crate) fn slot(mut self, root: &'a Root, numbers: [u32; 2]) -> Self {
        self.slot = Some(Slot { root, numbers });
        self
    }

    pub(crate) fn build(self) -> Disk {
        let scratch = Scratch::new("disk");
        let path = scratch.join("disk.img");
        let data = content(&self.root.data);
        let tree = self.tree(&scratch);
        let (data_size, tree_size) = (data.len() as u64, tree.len() as u64);
        let on_root = if self.behind { data_size + tree_size } else { data_size };
        let mut end = MIB;
        let mut place = |size: u64| {
            let extent = Extent { start: end, size };
            end = (end + size).next_multiple_of(MIB);
            extent
        };
        let (efi, root) = (place(MIB), place(on_root));
        let verity = place(if self.behind { 0 } else { tree_size });
        let slot = self.slot.as_ref().map(|slot| {
            let [data, tree] = [&slot.root.data, &slot.root.tree].map(|path| content(path));
            ([place(data.len() as u64), place(tree.len() as u64)], [data, tree])
        });
        let cocos = place(self.cocos);
        let file = File::create(&path).expect("the folder is ours");
        // The last MiB holds the second copy of the partition table.
        file.set_len(end + MIB).expect("a sparse file");
        let mut rows = self.rows([efi, root, verity, cocos]);
        if let (Some(slot), Some((extents, _))) = (&self.slot, &slot) {
            rows.extend(row_pair(slot.root, slot.numbers, *extents, "-b"));
        }
        match self.sector_size {
            512 => partition(&path, &rows),
            sector_size => encode(&file, sector_size, &rows),
        }
        for (extent, bytes) in slot.iter().flat_map(|(extents, both)| extents.iter().zip(both)) {
            file.write_all_at(bytes, extent.start).expect("room on this machine's disk");
        }
        file.set_len(end + MIB + self.grown).expect("a sparse file");
        // Where each part is for those who read and write it, be it a partition or not.
        let behind = Extent { start: root.start + data_size, size: tree_size };
        let extents = [
            efi,
            Extent { size: data_size, ..root },
            if self.behind { behind } else { verity },
            cocos,
        ];
        let place_of_tree =
            if self.behind { format!("cvm.verity_hash_offset={data_size}") } else { String::new() };
        let disk = Disk {
            path,
            roothash: self.root.roothash.clone(),
            verity_parameters: format!(
                "cvm.verity_salt={} cvm.verity_data_blocks={}",
                self.root.salt, self.root.data_blocks
            ),
            place_of_tree,
            sector_size: self.sector_size,
            extents,
            _scratch: scratch,
        };
        disk.write(Part::Root, 0, &data);
        disk.write(Part::Verity, 0, &tree);
        for (part, offset, bytes) in &self.patches {
            disk.write(*part, *offset, bytes);
        }
        disk
    }

    /// The bytes of the hash area, as veritysetup makes it in its place.
    fn tree(&self, scratch: &Scratch) -> Vec<u8> {
        if self.superblock && !self.behind {
            return content(&self.root.tree);
        }
        let (data, hash) = (scratch.join("data"), scratch.join("hash"));
        fs::copy(&self.root.data, &data).expect("the folder is ours");
        let offset = data.metadata().expect("it is copied").len();
        let mut format = command("veritysetup");
        format.args(["format", "--salt", &self.root.salt, "--uuid", UUID]);
        format.args(["--data-blocks", &self.root.data_blocks.to_string()]);
        if !self.superblock {
            format.arg("--no-superblock");
        }
        let (hash, start) = if self.behind {
            format.args(["--hash-offset", &offset.to_string()]);
            (&data, usize::try_from(offset).expect("a small root"))
        } else {
            (&hash, 0)
        };
        let report = run(format.args([&data, hash]));
        assert!(report.contains(&self.root.roothash), "another root hash: {report}");
        let bytes = content(hash)[start..].to_vec();
        for made in [data, scratch.join("hash")] {
            let _ = fs::remove_file(made);
        }
        bytes
    }

    /// What the table has of the parts in these places.
    fn rows(&self, extents: [Extent; 4]) -> Vec<Row> {
        let [efi, root, verity, cocos] = extents;
        let numbers = self.numbers;
        let plain = |number: u32, name: &str, extent: Extent| Row {
            number,
            name: name.to_owned(),
            extent,
            kind: LINUX,
            uuid: format!("00000000-0000-4000-8000-{number:012}"),
        };
        let [root, verity] = if self.named {
            row_pair(self.root, [numbers[1], numbers[2]], [root, verity], "")
        } else {
            [plain(numbers[1], "root", root), plain(numbers[2], "verity", verity)]
        };
        let rows = [plain(numbers[0], "efi", efi), root, verity, plain(numbers[3], "cocos", cocos)];
        let there = PARTS.iter().zip(rows).filter(|(part, _)| !self.missing.contains(part));
        there.map(|(_, row)| row).collect()
    }
}

/// A root and its hash tree by the discoverable partitions specification.
fn row_pair(root: &Root, numbers: [u32; 2], extents: [Extent; 2], suffix: &str) -> [Row; 2] {
    let root_hash = hex::decode(&root.roothash).expect("digits");
    let root_hash: [u8; 32] = root_hash.try_into().expect("SHA-256");
    let uuids = verity::partition_uuids(&root_hash).map(|own| uuid::hyphenated(&own));
    let row = |at: usize, name: &str, kind| Row {
        number: numbers[at],
        name: format!("{name}{suffix}"),
        extent: extents[at],
        kind,
        uuid: uuids[at].clone(),
    };
    [row(0, "root-x86-64", ROOT), row(1, "root-x86-64-verity", TREE)]
}

fn content(path: &Path) -> Vec<u8> {
    fs::read(path).expect("the root is built")
}

/// Has sfdisk, which knows sectors of 512 bytes only, write the table.
fn partition(path: &Path, rows: &[Row]) {
    let mut script = "label: gpt\n".to_owned();
    for Row { number, name, extent, kind, uuid } in rows {
        let (start, size) = (extent.start / 512, extent.size / 512);
        let row = format!("{number} : start={start}, size={size}, name={name}");
        writeln!(script, "{row}, type={kind}, uuid={uuid}").expect("room");
    }
    let mut sfdisk = command("sfdisk")
        .args(["--quiet", "--no-reread", "--no-tell-kernel"])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .expect("sfdisk runs");
    sfdisk.stdin.take().expect("a pipe").write_all(script.as_bytes()).expect("sfdisk reads");
    assert!(sfdisk.wait().expect("sfdisk ends").success(), "sfdisk refuses:\n{script}");
}

/// Writes the table as `scripts/image` does.
fn encode(file: &File, sector_size: u64, rows: &[Row]) {
    let bytes = file.metadata().expect("it is open").len();
    let entry = |row: &Row| Entry {
        number: row.number,
        kind: uuid::parse(row.kind).expect("a UUID"),
        uuid: uuid::parse(&row.uuid).expect("a UUID"),
        first: row.extent.start / sector_size,
        last: (row.extent.start + row.extent.size) / sector_size - 1,
        name: row.name.clone(),
    };
    let table = Table {
        uuid: [0x5a; 16],
        sectors: bytes / sector_size,
        sector_size,
        entries: rows.iter().map(entry).collect(),
    };
    let (head, tail) = table.encode().expect("a good table");
    file.write_all_at(&head, 0).expect("room on this machine's disk");
    file.write_all_at(&tail, bytes - tail.len() as u64).expect("room on this machine's disk");
}

/// A disk image of one test.
pub(crate) struct Disk {
    path: PathBuf,
    pub(crate) roothash: String,
    /// The words of the command line that stand for the verity superblock.
    pub(crate) verity_parameters: String,
    /// The word that says where the hash tree begins, if it needs one.
    pub(crate) place_of_tree: String,
    /// Bytes in a sector that the table is for.
    sector_size: u64,
    extents: [Extent; 4],
    _scratch: Scratch,
}

impl Disk {
    /// The standard root and 64 MiB of `/cocos`.
    pub(crate) fn builder() -> Builder<'static> {
        Builder {
            root: Root::standard(),
            cocos: 64 * MIB,
            missing: Vec::new(),
            patches: Vec::new(),
            grown: 0,
            sector_size: 512,
            behind: false,
            superblock: true,
            named: false,
            numbers: [1, 2, 3, 4],
            slot: None,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn extent(&self, part: Part) -> Extent {
        self.extents[part as usize - 1]
    }

    /// In bytes.
    pub(crate) fn size(&self, part: Part) -> u64 {
        self.extent(part).size
    }

    /// Where a byte of a partition lies on the disk.
    pub(crate) fn place(&self, part: Part, offset: u64) -> u64 {
        self.extent(part).start + offset
    }

    /// The partition table at the start of the disk.
    pub(crate) fn table(&self) -> Vec<u8> {
        self.bytes(0, 2 * self.sector_size + ENTRIES)
    }

    /// The backup of the partition table, where the table says that it is: entries, and a header.
    pub(crate) fn backup_table(&self) -> Vec<u8> {
        let last = self.bytes(self.sector_size + 32, 8);
        let last = u64::from_le_bytes(last.try_into().expect("eight bytes"));
        self.bytes(last * self.sector_size - ENTRIES, ENTRIES + self.sector_size)
    }

    fn bytes(&self, at: u64, length: u64) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(length).expect("a part of a disk")];
        let file = File::open(&self.path).expect("the image is there");
        file.read_exact_at(&mut bytes, at).expect("a place on the disk");
        bytes
    }

    /// Bytes from `offset` on of a partition, as the host sees them now.
    pub(crate) fn read(&self, part: Part, offset: u64, length: usize) -> Vec<u8> {
        self.bytes(self.extent(part).start + offset, length as u64)
    }

    /// What a hostile host does, also while the VM runs.
    pub(crate) fn write(&self, part: Part, offset: u64, bytes: &[u8]) {
        let Extent { start, size } = self.extent(part);
        assert!(offset + bytes.len() as u64 <= size, "the write leaves {part:?}");
        let file = OpenOptions::new().write(true).open(&self.path).expect("the image is there");
        file.write_all_at(bytes, start + offset).expect("room on this machine's disk");
    }
}
