//! What is fuzzed: every parser of bytes that the host has a say in, and what must hold of
//! whatever it makes of them. A target takes any bytes and panics when something does not hold.
//!
//! `scripts/fuzz` runs them under libFuzzer, and `tests/fuzz.rs` runs them over the seeds and over
//! what was found before, with the rest of the tests.

mod disk;
mod guest;
mod image;
mod kernel;
mod tpm;

pub use disk::{disk_serial, partition_table, partitions, program, root_start, verity_superblock};
pub use guest::{cmdline, fstab, kmsg_record, mount_tag};
pub use image::layer;
pub use kernel::{dm_answer, uevent};
pub use tpm::tpm_answer;

/// A target, by the name of its folders and of its program.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("cmdline", cmdline),
    ("disk_serial", disk_serial),
    ("dm_answer", dm_answer),
    ("fstab", fstab),
    ("kmsg_record", kmsg_record),
    ("layer", layer),
    ("mount_tag", mount_tag),
    ("partition_table", partition_table),
    ("partitions", partitions),
    ("program", program),
    ("root_start", root_start),
    ("tpm_answer", tpm_answer),
    ("uevent", uevent),
    ("verity_superblock", verity_superblock),
];

/// The start of `bytes` with zeros behind its end, and what is left of them.
fn split_padded<const N: usize>(bytes: &[u8]) -> ([u8; N], &[u8]) {
    let (head, rest) = bytes.split_at(bytes.len().min(N));
    let mut padded = [0; N];
    padded[..head.len()].copy_from_slice(head);
    (padded, rest)
}

/// A refusal ends up on the console: as one line that says something.
fn check_refusal(error: &impl std::fmt::Display) {
    let message = error.to_string();
    assert!(!message.trim().is_empty(), "an error without a reason");
    kmsg_record(&[b"\x02", message.as_bytes()].concat());
}
