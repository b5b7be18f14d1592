//! PID 1 of the initramfs of a confidential VM.
//!
//! Two floors, and arrows only point down: [`boot`] is the list of what happens, each entry a
//! module of [`stage`] that knows order and policy; below them each module is one kernel
//! interface or one on-disk format that knows nothing of the boot.

pub mod boot;
pub mod config;
pub mod report;
pub mod stage;

pub mod blkpg;
pub mod block;
pub mod crypt;
pub mod dm;
pub mod effect;
pub mod error;
pub mod exec;
pub mod ext4;
#[cfg(feature = "fault")]
pub mod fault;
pub mod fd;
pub mod fstab;
pub mod hex;
pub mod integrity;
pub mod key;
pub mod keyboard;
pub mod kmsg;
pub mod loopdev;
pub mod luks2;
pub mod module;
pub mod mount;
pub mod power;
pub mod processor;
pub mod program;
pub mod rcu;
pub mod share;
pub mod tree;
pub mod uevent;
pub mod uuid;
pub mod verity;
