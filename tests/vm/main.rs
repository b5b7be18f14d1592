//! Boots in QEMU: the real initramfs, a stock distribution kernel, disks made with the real tools.
//!
//! The guest's `/sbin/init` is the agent of `tests/agent`; a test asks it for facts and asserts on
//! those. The tests are in `good`, `shares`, `beyond`, `commands`, `init`, `modules`, `disks`, `layouts`, `layers`,
//! `layers_image`, `engine`, `repart`, `kexec`,
//! `data_disks`, `volume`, `volume_disk`, `tags`, `ciphers`,
//! `corruption`, `overlay`, `writable`, `writers`, `workloads`, `pressure`, `probes`, `refused`, `stalls`, `faults`,
//! `console`, `secrets`, `lying`, `firmware`, `debian`,
//! `formats`, `measure`, `aarch64`, `kernels`, `figures` and `soak`; the other modules are what a test is written with.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod aarch64;
mod artefacts;
mod beyond;
mod ciphers;
mod commands;
mod console;
mod corruption;
mod data;
mod data_disks;
mod debian;
mod disk;
mod disks;
mod engine;
mod event_log;
mod faults;
mod figures;
mod firmware;
mod formats;
mod good;
mod guest;
mod images;
mod init;
mod iso;
mod kernel;
mod kernels;
mod kexec;
mod layer;
mod layers;
mod layers_image;
mod layouts;
mod lying;
mod machine;
mod matrix;
mod measure;
mod memory;
mod modules;
mod overlay;
mod points;
mod pressure;
mod probes;
mod refused;
mod repart;
mod root;
#[path = "../schema/mod.rs"]
mod schema;
mod secrets;
mod served;
mod shares;
mod slots;
mod soak;
mod stalls;
mod tags;
mod terminals;
mod tool;
mod tpm;
mod vm;
mod volume;
mod volume_check;
mod volume_disk;
mod workloads;
mod writable;
mod writers;
