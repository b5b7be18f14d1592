//! The mappings of the volume, from the disk up:
//!
//! ```text
//! cocos_crypt       metadata in memory | dm-crypt | tail in memory
//! cocos_crypt_dif   dm-integrity: the ciphertext with its tags
//! cocos_crypt_tags  head in memory | tags        where they lie on the disk
//! cocos_crypt_data  the partition or disk behind its LUKS2 header
//! ```
//!
//! A cipher without tags lies on the partition or disk itself.

use std::ffi::CStr;
use std::slice;

use super::plan::{Plan, START, TagPlan};
use crate::config::Tags;
use crate::effect::{Effect, effect};
use crate::error::{Error, Result};
use crate::format::crypt;
use crate::format::device::{Dev, SECTOR};
use crate::format::hex;
use crate::format::integrity;
use crate::kernel::block::Device;
use crate::kernel::dm::{self, Control, Mapping, Target};
use crate::kernel::key::{LogonKey, VolumeKey};
use crate::kernel::loopdev::MemoryDevice;
use crate::stage::mapping;

const LIMIT_SWAP: Effect<0> = Effect::new("limit-swap", "limit the requests for swap");
const ADD_KEY: Effect<0> = Effect::new("add-key", "add the volume key to the keyring");
const REVOKE_KEY: Effect<0> = Effect::new("revoke-key", "revoke the volume key");

/// The key's name while the kernel looks for it; a `logon` key's needs a prefix.
const KEY_DESCRIPTION: &CStr = c"cvm-init:cocos";

/// Requests for swap on their way to tags, at most. For each of them dm-crypt takes memory that no
/// pool holds ready (`bio_integrity_alloc`), and it takes it where nothing can be swapped out. The
/// kernel's own limit, 2,048 on x86, is thought for ciphers without tags: that many take what is left
/// of a small guest's memory, and each waits for another's.
const SWAP_BIOS: u32 = 64;

/// What opens the stack.
pub(super) struct Stack<'a> {
    pub(super) control: &'a Control,
    pub(super) plan: &'a Plan,
    pub(super) device: &'a Device,
    /// Of the LUKS2 header.
    pub(super) uuid: [u8; 16],
}

impl Stack<'_> {
    /// Opens all of it. The memory devices go with their mappings.
    ///
    /// # Errors
    /// When a mapping cannot be made, or is not the one asked for.
    pub(super) fn open(
        &self,
        key: &VolumeKey,
        metadata: MemoryDevice,
        tags: Option<MemoryDevice>,
    ) -> Result<()> {
        let (device, start) = match (&self.plan.tags, tags) {
            (Some(plan), Some(memory)) => (self.open_integrity(plan, memory)?, 0),
            _ => (self.device.dev, START),
        };
        self.open_volume(key, device, start, metadata.dev())?;
        metadata.hand_over()
    }

    /// Opens dm-integrity, which the kernel formats because `memory` is all zeros.
    fn open_integrity(&self, plan: &TagPlan, memory: MemoryDevice) -> Result<Dev> {
        let data = linear(self.device.dev, START, self.plan.sectors);
        let data = self.open_linear(mapping::DATA, slice::from_ref(&data))?;
        let meta = match plan.place {
            Tags::Memory => memory.dev(),
            Tags::Disk => {
                let start = START.saturating_add(self.plan.sectors);
                self.open_linear(
                    mapping::TAGS,
                    &[
                        linear(memory.dev(), 0, integrity::META_HEAD / SECTOR),
                        linear(self.device.dev, start, plan.bytes / SECTOR),
                    ],
                )?
            }
        };
        let target = Target {
            kind: "integrity".into(),
            sectors: self.plan.sectors,
            params: integrity::table(data, meta, plan.tag.size, crypt::SECTOR_SIZE),
        };
        let uuid = self.uuid("CRYPT-INTEGRITY", mapping::INTEGRITY);
        let mapping = Mapping { name: mapping::INTEGRITY, uuid: &uuid, read_only: false };
        let table = slice::from_ref(&target);
        let device = self.control.activate(&mapping, table, integrity::is_live_table)?;
        memory.hand_over()?;
        effect(LIMIT_SWAP, || dm::limit_swap_bios(SWAP_BIOS))?;
        Ok(device)
    }

    /// Opens the volume itself, with dm-crypt from sector `start` of `device` on. The key passes
    /// through the keyring and leaves it again.
    fn open_volume(&self, key: &VolumeKey, device: Dev, start: u64, memory: Dev) -> Result<()> {
        let cipher = self.plan.cipher;
        let pieces = self.plan.pieces();
        let key_description = KEY_DESCRIPTION.to_string_lossy();
        let table = [
            linear(memory, 0, pieces.metadata),
            Target {
                kind: "crypt".into(),
                sectors: pieces.data,
                params: crypt::table(cipher, &key_description, device, start),
            },
            linear(memory, pieces.metadata, pieces.tail),
        ];
        let uuid = self.uuid("CRYPT-LUKS2", mapping::VOLUME);
        let mapping = Mapping { name: mapping::VOLUME, uuid: &uuid, read_only: false };
        let logon = effect(ADD_KEY, || LogonKey::add(KEY_DESCRIPTION, key))?;
        self.control.activate(&mapping, &table, is_same).map_err(|error| {
            let (name, options) = (cipher.name, cipher.kernel_options);
            Error::new(format!(
                "{error} ({name} needs the kernel options {options}; \
                 scripts/initramfs --cipher {name} packs what is a module)"
            ))
        })?;
        effect(REVOKE_KEY, || logon.forget())
    }

    fn open_linear(&self, name: &'static str, table: &[Target]) -> Result<Dev> {
        let uuid = self.uuid("CRYPT-LINEAR", name);
        self.control.activate(&Mapping { name, uuid: &uuid, read_only: false }, table, is_same)
    }

    fn uuid(&self, kind: &str, name: &str) -> String {
        format!("{kind}-{}-{name}", hex::encode(&self.uuid))
    }
}

fn linear(device: Dev, start: u64, sectors: u64) -> Target {
    Target { kind: "linear".into(), sectors, params: format!("{device} {start}") }
}

fn is_same(asked: &str, live: &str) -> bool {
    asked == live
}
