//! Boots in QEMU: the real initramfs, a stock distribution kernel, disks made with the real tools.
//!
//! The guest's `/sbin/init` is the agent of `tests/agent`; a test asks it for facts and asserts on
//! those. What tests are written with is in `kit`; every other module is tests of what it is named after.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod aarch64;
mod beyond;
mod ciphers;
mod commands;
mod console;
mod corruption;
mod data_disks;
mod debian;
mod disks;
mod engine;
mod faults;
mod figures;
mod firmware;
mod formats;
mod good;
mod init;
mod iso;
mod kernels;
mod kexec;
mod kit;
mod layers;
mod layers_image;
mod layers_refused;
mod layouts;
mod lying;
mod machine;
mod measure;
mod memory;
mod modules;
mod overlay;
mod pressure;
mod probes;
mod refused;
mod repart;
mod secrets;
mod shares;
mod soak;
mod stalls;
mod tags;
mod volume;
mod volume_disk;
mod workloads;
mod writable;
mod writable_refused;
mod writers;
