//! A dm-verity device: proven by its root hash before it is mapped, and what the kernel does about a
//! block of it that is not right.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::slice;

use super::open_control;
use crate::effect::{Effect, effect};
use crate::error::Result;
use crate::format::device::{Dev, SECTOR};
use crate::format::hex;
use crate::format::verity::{self, HashArea, OnCorruption, Params, RootHash};
use crate::kernel::block::Device;
use crate::kernel::dm::{Mapping, Target};

const OPEN: Effect<1> = Effect::new("open", "open {}");
const READ_SUPERBLOCK: Effect<1> =
    Effect::new("read-verity-superblock", "read the verity superblock of {}");
const READ_TOP_HASH_BLOCK: Effect<1> =
    Effect::new("read-top-hash-block", "read the top hash block of {}");

/// Data and hash tree, proven.
#[derive(Debug)]
pub struct Verity {
    data: Dev,
    hash: Dev,
    /// First block of the hash tree on its device.
    hash_start: u64,
    root_hash: RootHash,
    /// What the hash tree was proven with.
    pub params: Params,
}

impl Verity {
    /// Reads the parameters of the hash tree in the area `at` of `hash`, unless they are given, and
    /// proves them by the top hash block. On one device, the data ends where that area begins.
    ///
    /// # Errors
    /// When the tree cannot be read, is none that is taken, or is another root hash's.
    pub fn prove(
        data: &Device,
        hash: &Device,
        at: HashArea,
        root_hash: &RootHash,
        params: Option<&Params>,
    ) -> Result<Self> {
        let device = effect(OPEN.on(&[&hash.name]), || hash.open(OpenOptions::new().read(true)))?;
        let params = if let Some(params) = params {
            params.clone()
        } else {
            let superblock = read_at(&device, READ_SUPERBLOCK, hash, at.offset)?;
            Params::from_superblock(&superblock)?
        };
        let data_bytes = if data.dev == hash.dev { at.offset } else { data.bytes() };
        params.require_room(data_bytes, hash.bytes().saturating_sub(at.offset))?;
        let hash_start = at.hash_start();
        let top = hash_start.saturating_mul(verity::BLOCK_SIZE.into());
        let top = read_at(&device, READ_TOP_HASH_BLOCK, hash, top)?;
        params.prove(&top, root_hash)?;
        Ok(Self { data: data.dev, hash: hash.dev, hash_start, root_hash: *root_hash, params })
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
        let (data, hash, start) = (self.data, self.hash, self.hash_start);
        let root_hash = &self.root_hash;
        Target {
            kind: "verity".into(),
            sectors: self.params.sectors(),
            params: self.params.table(data, hash, start, root_hash, on_corruption, on_errors),
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
