//! A dm-verity device: proven by its root hash before it is mapped, and what the kernel does about a
//! block of it that is not right.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::slice;

use super::open_control;
use crate::effect::{Effect, effect};
use crate::error::{Error, Result};
use crate::format::device::SECTOR;
use crate::format::hex;
use crate::format::verity::{self, Areas, HashOffset, OnCorruption, Params, RootHash};
use crate::kernel::block::Device;
use crate::kernel::dm::{Mapping, Target};
use crate::kernel::file;

const OPEN: Effect<1> = Effect::new("open", "open {}");
const READ_SUPERBLOCK: Effect<1> =
    Effect::new("read-verity-superblock", "read the verity superblock of {}");
const READ_TOP_HASH_BLOCK: Effect<1> =
    Effect::new("read-top-hash-block", "read the top hash block of {}");

/// Where the hash area lies.
#[derive(Debug, Clone, Copy)]
pub enum HashArea<'a> {
    /// On a device of its own, from its start on.
    Apart(&'a Device),
    /// On the device of the data, behind it.
    Behind(HashOffset),
}

/// Data and hash tree, proven.
#[derive(Debug)]
pub struct Verity {
    /// What holds the data.
    pub data: Device,
    /// What holds the hash tree.
    pub hash: Device,
    /// The hash block of it that the tree begins with.
    pub tree: u64,
    root_hash: RootHash,
    /// What the hash tree was proven with.
    pub params: Params,
}

impl Verity {
    /// Reads the parameters of the hash tree, unless they are given, and proves them by the top hash
    /// block. A tree whose parameters are given may lie behind a superblock, which is not read, or
    /// have none.
    ///
    /// # Errors
    /// When the tree cannot be read, has no room, is none that is taken, or is another root hash's.
    pub fn prove(
        data: &Device,
        area: HashArea<'_>,
        root_hash: &RootHash,
        given: Option<&Params>,
    ) -> Result<Self> {
        let (hash, areas) = match area {
            HashArea::Apart(hash) => (hash, Areas::apart(data.bytes(), hash.bytes())),
            HashArea::Behind(offset) => (data, Areas::together(data.bytes(), offset)?),
        };
        let device = effect(OPEN.on(&[&hash.name]), || hash.open(file::READ))?;
        let params = if let Some(params) = given {
            params.clone()
        } else {
            let superblock = read_at(&device, READ_SUPERBLOCK, hash, areas.hash_at())?;
            Params::from_superblock(&superblock)?
        };
        let prove_at = |tree: u64| {
            params.require_room(&areas, tree)?;
            let at = tree.saturating_mul(verity::BLOCK_SIZE.into());
            params.prove(&read_at(&device, READ_TOP_HASH_BLOCK, hash, at)?, root_hash)
        };
        let mut tree = areas.tree(true);
        if let Err(error) = prove_at(tree) {
            if given.is_none() {
                return Err(error);
            }
            tree = areas.tree(false);
            prove_at(tree).map_err(|other| {
                Error::new(format!("{error}; and where it lies without a superblock, {other}"))
            })?;
        }
        let (data, hash) = (data.clone(), hash.clone());
        Ok(Self { data, hash, tree, root_hash: *root_hash, params })
    }

    /// The same for data from the first byte of a device on with its hash area, superblock and tree,
    /// right behind. The root hash leaves the number of data blocks open: who names it authenticates
    /// it.
    ///
    /// # Errors
    /// Those of [`Verity::prove`], and when the superblock has another number.
    pub fn prove_behind(device: &Device, blocks: u64, root_hash: &RootHash) -> Result<Self> {
        let area = HashArea::Behind(HashOffset::behind(blocks));
        let verity = Self::prove(device, area, root_hash, None)?;
        match verity.params.data_blocks {
            theirs if theirs == blocks => Ok(verity),
            theirs => Err(Error::new(format!(
                "its superblock has {theirs} data blocks, but lies behind {blocks}"
            ))),
        }
    }

    /// Maps it as `name`. What is wrong with a block before the handoff ends the boot with a reason.
    ///
    /// # Errors
    /// When the kernel has no dm-verity, or does not take the device.
    pub fn open(&self, name: &str) -> Result<()> {
        let control = open_control()?;
        control.require_target("verity", "DM_VERITY")?;
        let uuid = self.uuid(name);
        let target = self.target(OnCorruption::IoError, false);
        control.activate(&mapping(name, &uuid), slice::from_ref(&target), is_same).map(drop)
    }

    /// From now on the kernel does what was asked for about a block of `name` that is not right.
    ///
    /// # Errors
    /// When the kernel cannot do it.
    pub fn guard(&self, name: &str, on_corruption: OnCorruption) -> Result<()> {
        if on_corruption == OnCorruption::IoError {
            return Ok(());
        }
        let control = open_control()?;
        let on_errors = control.require_target("verity", "DM_VERITY")? >= verity::ERRORS_SINCE;
        if !on_errors {
            log::warn!(
                "this kernel's dm-verity guards against blocks that were altered, not against such \
                 as cannot be read (Linux 6.12 does)"
            );
        }
        let uuid = self.uuid(name);
        let target = self.target(on_corruption, on_errors);
        control.replace(&mapping(name, &uuid), slice::from_ref(&target), is_same)
    }

    /// Hexadecimal digits of the root hash.
    #[must_use]
    pub fn root_hash(&self) -> String {
        hex::encode(&self.root_hash)
    }

    /// Bytes of the mapping.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.params.sectors() * SECTOR
    }

    /// The superblock's UUID is the host's word and would tell nothing: the first half of the root
    /// hash names it.
    fn uuid(&self, name: &str) -> String {
        let identity: String = self.root_hash().chars().take(32).collect();
        format!("CRYPT-VERITY-{identity}-{name}")
    }

    fn target(&self, on_corruption: OnCorruption, on_errors: bool) -> Target {
        let (data, hash) = (self.data.dev, (self.hash.dev, self.tree));
        let root_hash = &self.root_hash;
        Target {
            kind: "verity".into(),
            sectors: self.params.sectors(),
            params: self.params.table(data, hash, root_hash, on_corruption, on_errors),
        }
    }
}

fn mapping<'a>(name: &'a str, uuid: &'a str) -> Mapping<'a> {
    Mapping { name, uuid, read_only: true }
}

fn is_same(asked: &str, live: &str) -> bool {
    asked == live
}

fn read_at<const N: usize>(file: &File, read: Effect<1>, of: &Device, at: u64) -> Result<[u8; N]> {
    effect(read.on(&[&of.name]), || {
        let mut bytes = [0; N];
        file.read_exact_at(&mut bytes, at)?;
        Ok::<_, io::Error>(bytes)
    })
}
