//! The ways to boot that are compared.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A way to boot from partitions, in the order in which they are measured.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Way {
    /// cvm-init, integrity tags in memory
    CvmMemory,
    /// cvm-init, integrity tags on the disk
    CvmDisk,
    /// cvm-init, encryption without integrity; for data only
    CvmPlain,
    /// a bash script with veritysetup, cryptsetup luksFormat, mkfs.ext4 and `switch_root`
    Shell,
    /// the same as fast as their options make it: no wipe, no journals, no slow key
    Tuned,
    /// a distribution's initramfs with systemd that opens the same root by roothash=, and makes no
    /// volume
    Dracut,
}

/// A way to boot an image in layers.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum LayerWay {
    /// cvm-init, which proves each layer and encrypts what is written.
    Layers,
    /// The script of an engine's image, which does neither.
    Engine,
}

/// What starts the kernel of a machine.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum Start {
    /// QEMU itself.
    Direct,
    /// OVMF, and GRUB on the disk.
    Grub,
    /// OVMF, and a unified kernel image on the disk.
    Uki,
}

/// What is packed into an initramfs.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Initramfs {
    /// The program.
    CvmInit,
    /// The script, and the programs that it calls.
    Shell,
    /// What a distribution packs.
    Dracut,
}

impl Start {
    /// How it is called in tables.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Direct => "QEMU itself",
            Self::Grub => "OVMF, GRUB",
            Self::Uki => "OVMF, UKI",
        }
    }
}

impl Way {
    /// All that boot to a new init in a time that counts, in the order of the tables.
    pub(super) const TIMED: [Self; 5] =
        [Self::CvmMemory, Self::CvmDisk, Self::Tuned, Self::Shell, Self::Dracut];

    /// How it is called in tables.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::CvmMemory => "cvm-init, tags in memory",
            Self::CvmDisk => "cvm-init, tags on disk",
            Self::CvmPlain => "cvm-init, without integrity",
            Self::Shell => "shell",
            Self::Tuned => "shell, tuned",
            Self::Dracut => "dracut",
        }
    }

    /// What it boots with.
    pub(super) fn initramfs(self) -> Initramfs {
        match self {
            Self::CvmMemory | Self::CvmDisk | Self::CvmPlain => Initramfs::CvmInit,
            Self::Shell | Self::Tuned => Initramfs::Shell,
            Self::Dracut => Initramfs::Dracut,
        }
    }

    /// Its words of the kernel command line.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::CvmMemory => "cvm.tags=memory",
            Self::CvmDisk => "cvm.tags=disk",
            Self::CvmPlain => "cvm.cipher=aes-xts-plain64 cvm.integrity=none",
            Self::Shell => "",
            Self::Tuned => "bench.tuned",
            Self::Dracut => {
                "root=/dev/mapper/root ro systemd.verity=1 systemd.verity_root_data=/dev/sda2 \
                 systemd.verity_root_hash=/dev/sda3"
            }
        }
    }

    /// Whether its time grows with the partition, because it wipes it.
    pub(super) fn wipes(self) -> bool {
        self == Self::Shell
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

impl fmt::Display for LayerWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

impl fmt::Display for Initramfs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}
