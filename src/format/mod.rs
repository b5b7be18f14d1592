//! Formats on the disk and on the wire, one a file: from values to bytes or texts and back, without
//! an effect.

pub mod aael;
pub mod bank;
pub mod cel;
pub mod cmdline;
pub mod crypt;
pub mod device;
pub mod dm;
pub mod event;
pub mod ext4;
mod fields;
pub mod fstab;
pub mod gpt;
pub mod hex;
pub mod integrity;
pub mod luks2;
pub mod modules;
pub mod network;
pub mod program;
pub mod rootfs;
pub mod tmpfs;
pub mod tpm2;
pub mod uuid;
pub mod verity;
