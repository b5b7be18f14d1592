//! `measurements.json`: what an image is made of, and what a TPM says of its boot.

use std::fmt;

use cvm_init::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::measure::hash::{Digests, Hash};
use crate::measure::tpm::Chain;

/// A reader has to know it, and refuse any other.
pub const VERSION: u64 = 1;
/// The file's name, beside the image.
pub const FILE: &str = "measurements.json";
/// The name of the file for the Cocos Manager, beside it.
pub const PCR_VALUES_FILE: &str = "pcr_values.json";

/// What a chain is called among what is not predicted: that of [`Tpm::disk`] ...
pub const DISK_CHAIN: &str = "boot from the disk";
/// ... that of [`Tpm::iso_as_cd`] ...
pub const CD_CHAIN: &str = "boot from boot.iso as a CD";
/// ... that of [`Tpm::iso_as_disk`] ...
pub const ISO_CHAIN: &str = "boot from boot.iso as a disk";
/// ... and that of [`Tpm::kernel`].
pub const KERNEL_CHAIN: &str = "direct boot";

/// What the firmware starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Boot {
    /// GRUB, which reads the kernel and the rest from the EFI partition.
    Grub,
    /// A unified kernel image.
    Uki,
}

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// [`VERSION`].
    pub version: u64,
    /// What the firmware starts from the disk.
    pub boot: Boot,
    /// What all of it is computed from.
    pub inputs: Inputs,
    /// What the registers of a TPM hold.
    pub tpm: Tpm,
    /// What is not told here, and why.
    pub not_predicted: Vec<Unknown>,
}

/// What an image is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inputs {
    /// The kernel.
    pub kernel: Program,
    /// The initramfs.
    pub initramfs: File,
    /// The kernel command line.
    pub cmdline: Text,
    /// What the initramfs says in its stead.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub initramfs_words: String,
    /// Root hash of a root on a partition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roothash: Option<Hash<32>>,
    /// In place of it, what proves each of the layers that the root is made of, the topmost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Layer>,
    /// What the firmware starts from the disk.
    pub boot_loader: Program,
    /// GRUB's commands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grub_cfg: Option<File>,
    /// The partition table, as firmware measures it.
    pub partition_table: Digests,
}

/// What proves a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// Root hash of its hash tree.
    pub roothash: Hash<32>,
    /// Blocks of 4096 bytes before the tree.
    pub data_blocks: u64,
}

/// A file by its name and its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Name, beside the image or in its EFI partition.
    pub file: String,
    /// Of its content.
    pub sha256: Hash<32>,
}

impl File {
    /// A file of this name and content.
    #[must_use]
    pub fn of(name: &str, data: &[u8]) -> Self {
        Self { file: name.to_owned(), sha256: Hash::<32>::of(&[data]) }
    }
}

/// A text that is short enough to be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Text {
    /// The text, without a line break.
    pub text: String,
    /// Of the text.
    pub sha256: Hash<32>,
}

/// A program that firmware can start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// Name, beside the image or in its EFI partition.
    pub file: String,
    /// Of its content.
    pub sha256: Hash<32>,
    /// What firmware measures of it; none where firmware cannot start it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authenticode: Option<Digests>,
    /// What it says of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
}

/// The chains that a TPM sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tpm {
    /// Firmware and boot loader from the disk; none where it is in `not_predicted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<Chain>,
    /// The same from the medium beside it, where there is one, in a drive of CDs: no partition table is
    /// measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iso_as_cd: Option<Chain>,
    /// The same, attached as a disk: the partition table is its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iso_as_disk: Option<Chain>,
    /// The kernel, directly: QEMU's `-kernel`; none where it is in `not_predicted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Chain>,
}

/// A value that is not told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unknown {
    /// Which one.
    pub value: String,
    /// What it depends on.
    pub why: String,
}

impl Unknown {
    /// A value and the reason.
    #[must_use]
    pub fn of(value: &str, why: &dyn fmt::Display) -> Self {
        Self { value: value.to_owned(), why: why.to_string() }
    }
}

impl Document {
    /// Reads the file.
    ///
    /// # Errors
    /// It is none of these, or of another version.
    pub fn read(text: &str) -> Result<Self> {
        let cannot = |cause: &dyn fmt::Display| Error::cannot(&format_args!("read {FILE}"), cause);
        let value: Value = serde_json::from_str(text).map_err(|error| cannot(&error))?;
        let version = value.get("version").cloned().unwrap_or_default();
        if version != VERSION {
            return Err(cannot(&format_args!(
                "it is of version {version}, and {VERSION} is known"
            )));
        }
        let document: Self = serde_json::from_value(value).map_err(|error| cannot(&error))?;
        let Inputs { roothash, layers, .. } = &document.inputs;
        if roothash.is_some() == layers.is_empty() {
            return Ok(document);
        }
        Err(cannot(&"it has not one of a root hash and layers"))
    }

    /// The chains, by name; none where it is not predicted, or where there is no such medium.
    #[must_use]
    pub fn chains(&self) -> [(&'static str, Option<&Chain>); 4] {
        let Tpm { disk, iso_as_cd, iso_as_disk, kernel } = &self.tpm;
        [
            (DISK_CHAIN, disk.as_ref()),
            (CD_CHAIN, iso_as_cd.as_ref()),
            (ISO_CHAIN, iso_as_disk.as_ref()),
            (KERNEL_CHAIN, kernel.as_ref()),
        ]
    }

    /// The chains that could not be predicted.
    pub fn missing(&self) -> impl Iterator<Item = &Unknown> {
        let missing = self.chains().into_iter().filter(|(_, chain)| chain.is_none());
        missing.flat_map(|(name, _)| self.not_predicted.iter().filter(move |of| of.value == name))
    }

    /// What the Cocos Manager takes by `MANAGER_PCR_VALUES`: the registers of a boot from the disk.
    #[must_use]
    pub fn pcr_values(&self) -> Option<Value> {
        let Chain { sha256, sha384, .. } = self.tpm.disk.as_ref()?;
        Some(serde_json::json!({ "pcr_values": { "sha256": sha256, "sha384": sha384 } }))
    }
}

/// Text of a file of JSON.
#[must_use]
pub fn to_text(value: &impl Serialize) -> String {
    // Names of fields and numbers are all that there is: nothing of it can fail.
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_or_field_is_refused() {
        let read = |text: &str| Document::read(text).unwrap_err().to_string();
        let cannot = "cannot read measurements.json: ";
        assert_eq!(read("{}"), format!("{cannot}it is of version null, and 1 is known"));
        assert_eq!(
            read("{\"version\": 2, \"more\": {}}"),
            format!("{cannot}it is of version 2, and 1 is known")
        );
        assert!(
            read("{\"version\": 1, \"more\": {}}")
                .starts_with(&format!("{cannot}unknown field `more`"))
        );
        assert!(read("").starts_with(cannot));
    }
}
