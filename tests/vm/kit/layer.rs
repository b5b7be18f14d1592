//! Layers of an image, each on a disk of its own: an EROFS and behind it its hash tree.

use crate::formats::EROFS;
use crate::kit::artefacts;
use crate::kit::kernel::Arch;
use crate::kit::root::{Builder, Node, Root};
use crate::kit::tool::{Scratch, command, run};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

const BLOCK: u64 = 4096;

/// As `scripts/layers` salts them, and 64 digits long.
pub(crate) const SALT: &str = "1a7e12001a7e12001a7e12001a7e12001a7e12001a7e12001a7e12001a7e1200";

pub(crate) struct Layer {
    path: PathBuf,
    pub(crate) roothash: String,
    pub(crate) blocks: u64,
    _scratch: Scratch,
}

impl Layer {
    pub(crate) fn of(builder: Builder) -> Self {
        let (scratch, root) = (Scratch::new("layer"), builder.format(EROFS).build());
        let path = scratch.join("layer.img");
        fs::copy(&root.data, &path).expect("room on this machine's disk");
        let file = OpenOptions::new().write(true).open(&path).expect("a copy of ours");
        let size = file.metadata().expect("it is there").len().max(2 * BLOCK);
        file.set_len(size).expect("a sparse file");
        let blocks = size / BLOCK;
        let said = run(command("veritysetup")
            .args(["format", "--salt", SALT])
            .arg(format!("--data-blocks={blocks}"))
            .arg(format!("--hash-offset={size}"))
            .args([&path, &path]));
        let line = said.lines().find_map(|line| line.strip_prefix("Root hash:"));
        let roothash = line.expect("veritysetup reports a root hash").trim().to_owned();
        Self { path, roothash, blocks, _scratch: scratch }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// `HASH@BLOCKS`
    pub(crate) fn proof(&self) -> String {
        format!("{}@{}", self.roothash, self.blocks)
    }

    /// Where its hash area begins.
    pub(crate) fn tree(&self) -> u64 {
        self.blocks * BLOCK
    }

    /// A copy that the host has altered one byte of.
    pub(crate) fn altered(&self, offset: u64) -> Self {
        let scratch = Scratch::new("altered");
        let path = scratch.join("layer.img");
        fs::copy(&self.path, &path).expect("room on this machine's disk");
        let file = File::options().read(true).write(true).open(&path).expect("a copy of ours");
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).expect("within the disk");
        file.write_all_at(&[byte[0] ^ 1], offset).expect("room on this machine's disk");
        Self { path, roothash: self.roothash.clone(), blocks: self.blocks, _scratch: scratch }
    }
}

/// The lowest, in which everything is that a guest needs, and what the others change.
fn base() -> Builder {
    // An image has no places for this program's mounts.
    ["cocos", "dev", "proc", "run", "sys", "etc/certs", "etc/cocos"]
        .into_iter()
        .fold(Root::builder(), Builder::without)
        .without_all_of("cocos_init")
        .with(Node::file("etc/removed", "of the lowest layer\n"))
        .with(Node::file("etc/changed", "of the lowest layer\n"))
        .with(Node::file("etc/machine-id", "0123456789abcdef0123456789abcdef\n"))
}

fn middle() -> Builder {
    Root::builder()
        .empty()
        .with(Node::directory("etc"))
        .with(Node::whiteout("etc/removed"))
        .with(Node::file("etc/changed", "of the second layer\n"))
        .with(Node::file("etc/added", "of the second layer\n"))
}

fn top() -> Builder {
    let etc = Node::directory("etc");
    Root::builder().empty().with(etc).with(Node::file("etc/added", "of the topmost layer\n"))
}

/// An image of three layers, the topmost first.
pub(crate) fn image() -> &'static [Layer; 3] {
    static IMAGE: OnceLock<[Layer; 3]> = OnceLock::new();
    IMAGE.get_or_init(|| {
        artefacts::agent(Arch::X86);
        [top(), middle(), base()].map(Layer::of)
    })
}

/// `cvm.layers=` of these.
pub(crate) fn word(layers: &[&Layer]) -> String {
    let proofs: Vec<_> = layers.iter().map(|layer| layer.proof()).collect();
    format!("cvm.layers={}", proofs.join(","))
}
