//! `disk.img` as an image build makes it: GPT, EFI, root, hash tree and the blank partition 4.

use crate::root::Root;
use crate::tool::{Scratch, command};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

const MIB: u64 = 1 << 20;
const SECTOR: u64 = 512;

/// A partition, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Efi = 1,
    Root,
    Verity,
    Cocos,
}

const PARTS: [(Part, &str); 4] =
    [(Part::Efi, "efi"), (Part::Root, "root"), (Part::Verity, "verity"), (Part::Cocos, "cocos")];

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

    pub(crate) fn build(self) -> Disk {
        let scratch = Scratch::new("disk");
        let path = scratch.join("disk.img");
        let size_of = |path: &Path| path.metadata().expect("the root is built").len();
        let sizes = [MIB, size_of(&self.root.data), size_of(&self.root.tree), self.cocos];
        let mut end = MIB;
        let extents = sizes.map(|size| {
            let extent = Extent { start: end, size };
            end = (end + size).next_multiple_of(MIB);
            extent
        });
        let file = File::create(&path).expect("the folder is ours");
        // The last MiB holds the second copy of the partition table.
        file.set_len(end + MIB).expect("a sparse file");
        let table: Vec<_> = PARTS
            .iter()
            .zip(&extents)
            .filter(|((part, _), _)| !self.missing.contains(part))
            .map(|((part, name), Extent { start, size })| {
                let (start, size) = (start / SECTOR, size / SECTOR);
                format!("{} : start={start}, size={size}, name={name}", *part as u8)
            })
            .collect();
        partition(&path, &format!("label: gpt\n{}\n", table.join("\n")));
        file.set_len(end + MIB + self.grown).expect("a sparse file");
        let disk = Disk {
            path,
            roothash: self.root.roothash.clone(),
            verity_parameters: format!(
                "cvm.verity_salt={} cvm.verity_data_blocks={}",
                self.root.salt, self.root.data_blocks
            ),
            extents,
            _scratch: scratch,
        };
        let content = |path| std::fs::read(path).expect("the root is built");
        disk.write(Part::Root, 0, &content(&self.root.data));
        disk.write(Part::Verity, 0, &content(&self.root.tree));
        for (part, offset, bytes) in &self.patches {
            disk.write(*part, *offset, bytes);
        }
        disk
    }
}

fn partition(path: &Path, script: &str) {
    let mut sfdisk = command("sfdisk")
        .args(["--quiet", "--no-reread", "--no-tell-kernel"])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .expect("sfdisk runs");
    sfdisk.stdin.take().expect("a pipe").write_all(script.as_bytes()).expect("sfdisk reads");
    assert!(sfdisk.wait().expect("sfdisk ends").success(), "sfdisk refuses:\n{script}");
}

/// A disk image of one test.
pub(crate) struct Disk {
    path: PathBuf,
    pub(crate) roothash: String,
    /// The words of the command line that stand for the verity superblock.
    pub(crate) verity_parameters: String,
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
        let mut bytes = vec![0; 34 * 512];
        let file = File::open(&self.path).expect("the image is there");
        file.read_exact_at(&mut bytes, 0).expect("a whole disk");
        bytes
    }

    /// The backup of the partition table, where the table says that it is.
    pub(crate) fn backup_table(&self) -> Vec<u8> {
        let table = self.table();
        let last = u64::from_le_bytes(table[512 + 32..][..8].try_into().expect("eight bytes"));
        let mut bytes = vec![0; 33 * 512];
        let file = File::open(&self.path).expect("the image is there");
        file.read_exact_at(&mut bytes, (last - 32) * SECTOR).expect("a whole disk");
        bytes
    }

    /// Bytes from `offset` on of a partition, as the host sees them now.
    pub(crate) fn read(&self, part: Part, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let file = File::open(&self.path).expect("the image is there");
        file.read_exact_at(&mut bytes, self.extent(part).start + offset)
            .expect("a place on the disk");
        bytes
    }

    /// What a hostile host does, also while the VM runs.
    pub(crate) fn write(&self, part: Part, offset: u64, bytes: &[u8]) {
        let Extent { start, size } = self.extent(part);
        assert!(offset + bytes.len() as u64 <= size, "the write leaves {part:?}");
        let file = OpenOptions::new().write(true).open(&self.path).expect("the image is there");
        file.write_all_at(bytes, start + offset).expect("room on this machine's disk");
    }
}
