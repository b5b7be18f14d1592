//! The kernel's interfaces, one a file: what is asked of it, and what it answers.

pub mod attribute;
pub mod blkpg;
pub mod block;
pub mod dm;
pub mod exec;
pub mod fd;
pub mod file;
pub mod kexec;
pub mod key;
pub mod keyboard;
pub mod kmsg;
pub mod loopdev;
pub mod modalias;
pub mod module;
pub mod mount;
pub mod net;
pub mod pci;
pub mod power;
pub mod processor;
pub mod rcu;
pub mod rtmr;
pub mod share;
pub mod thread;
pub mod tpm;
pub mod tree;
pub mod uevent;
