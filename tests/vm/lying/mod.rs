//! A disk that lies: its host alters it before, between and behind the guest's reads.
//!
//! Where bytes have to change while the guest runs, nbdkit serves the disk.

mod gpt;
mod header;
mod io;
mod layers;
mod layouts;
mod leak;
mod luks2;
mod tpm;
mod verity;

use crate::kit::disk::{Disk, Part};
use crate::kit::served::Served;
use crate::kit::vm::Vm;
use std::time::Duration;

/// From power-on to power-off, emulated.
const LIMIT: Duration = Duration::from_secs(120);

/// Has a guest go on when a block of its root is not right, so that it can say what it reads.
const GOES_ON: &str = "cvm.verity_on_corruption=io-error";

/// A VM that boots a disk which `served` answers for.
fn vm_of(disk: &Disk, served: &Served) -> Vm {
    Vm::new().disk_served(served).words_of(disk)
}

/// Whether a request, given by offset and length, touches some bytes of a partition.
fn touches(disk: &Disk, part: Part, offset: u64, length: u64, request: (u64, u64)) -> bool {
    let start = disk.place(part, offset);
    request.0 < start + length && start < request.0 + request.1
}
