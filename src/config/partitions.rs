//! The layout of partitions: the root, its hash tree and the volume on a disk with a partition table.

use super::handoff::NextKernel;
use super::keys::Given;
use super::values::{DiskChoice, DiskName};
use crate::error::{Error, Result};
use crate::format::hex;
use crate::format::rootfs::Kind;
use crate::format::verity::{self, HashOffset, RootHash};

/// A root on a partition.
#[derive(Debug, Clone, PartialEq)]
pub struct Partitions {
    /// `roothash=`
    pub root_hash: RootHash,
    /// `cvm.verity_salt=` and `cvm.verity_data_blocks=`; when given, no superblock is read.
    pub verity: Option<verity::Params>,
    /// `cvm.verity_hash_offset=`; when given, the hash tree lies behind the root on its partition.
    pub hash_offset: Option<HashOffset>,
    /// `cvm.disk=`
    pub disk: DiskChoice,
    /// `cvm.volume=`: another disk for the volume; else it lies on the root's.
    pub volume: Option<DiskName>,
    /// `rootfstype=`, the kernel's own key: what the root's file system may be.
    pub kinds: Vec<Kind>,
    /// `cvm.handoff=kexec`: the kernel that the boot hands over to, before there is a volume.
    pub next_kernel: Option<NextKernel>,
}

impl Partitions {
    /// Whether a partition of the root's disk is the volume's.
    #[must_use]
    pub fn has_volume(&self) -> bool {
        self.volume.is_none() && self.next_kernel.is_none()
    }

    /// The words that have another boot prove the same root, as this boot was told: what it has read
    /// from the disk itself stays out, since on a command line it would count as authentic.
    #[must_use]
    pub fn words(&self) -> String {
        let mut words = vec![format!("roothash={}", hex::encode(&self.root_hash))];
        if let Some(params) = &self.verity {
            words.push(format!("cvm.verity_salt={}", params.salt_text()));
            words.push(format!("cvm.verity_data_blocks={}", params.data_blocks));
        }
        if let Some(offset) = self.hash_offset {
            words.push(format!("cvm.verity_hash_offset={}", offset.bytes()));
        }
        words.join(" ")
    }
}

/// Joins the keys that only make sense together.
pub(super) fn settle(given: &mut Given, next_kernel: Option<NextKernel>) -> Result<Partitions> {
    let root_hash = given.root_hash.ok_or_else(|| Error::new("roothash= is missing"))?;
    let verity = match (given.verity_salt.take(), given.verity_data_blocks) {
        (None, None) => None,
        (Some(salt), Some(data_blocks)) => Some(verity::Params::new(salt, data_blocks)?),
        _ => {
            return Err(Error::new(
                "cvm.verity_salt= and cvm.verity_data_blocks= must be given together",
            ));
        }
    };
    if let (Some(params), Some(offset)) = (&verity, given.hash_offset) {
        require_behind_the_data(params, offset)?;
    }
    Ok(Partitions {
        root_hash,
        verity,
        hash_offset: given.hash_offset,
        disk: given.disk.take().unwrap_or(DiskChoice::Proof),
        volume: given.volume.take(),
        kinds: given.root_kinds.take().unwrap_or_else(|| Kind::ALL.to_vec()),
        next_kernel,
    })
}

/// Of a superblock's number it can only be told when the disk is there.
fn require_behind_the_data(params: &verity::Params, offset: HashOffset) -> Result<()> {
    if params.data_blocks <= offset.block() {
        return Ok(());
    }
    Err(Error::new(format!(
        "cvm.verity_hash_offset={} lies within the data: cvm.verity_data_blocks={} are {} bytes",
        offset.bytes(),
        params.data_blocks,
        params.data_blocks.saturating_mul(verity::BLOCK_SIZE.into())
    )))
}
