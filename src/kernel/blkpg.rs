//! The kernel's own idea of where a partition ends, changed without writing to the disk.
//!
//! Source: `include/uapi/linux/blkpg.h`.

#![expect(unsafe_code, reason = "rustix has no typed call for BLKPG")]

use std::ffi::{c_int, c_longlong};
use std::io;
use std::path::Path;

use rustix::ioctl::{self, Opcode, Setter, opcode};

use crate::kernel::file;

const BLKPG: Opcode = opcode::none(0x12, 105);
const RESIZE_PARTITION: c_int = 3;

/// `struct blkpg_partition`.
#[repr(C)]
struct BlkpgPartition {
    start: c_longlong,
    length: c_longlong,
    number: c_int,
    names: [u8; 128],
}

/// `struct blkpg_ioctl_arg`.
#[repr(C)]
struct BlkpgArgument {
    operation: c_int,
    flags: c_int,
    data_length: c_int,
    data: *const BlkpgPartition,
}

/// Gives partition `number` of the disk at `node`, which begins at byte `start`, a length of
/// `length` bytes.
///
/// # Errors
/// EBUSY when it would reach into another partition; those of opening the disk.
pub fn resize(node: &Path, number: u32, start: u64, length: u64) -> io::Result<()> {
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let partition = BlkpgPartition {
        start: start.try_into().map_err(invalid)?,
        length: length.try_into().map_err(invalid)?,
        number: number.try_into().map_err(invalid)?,
        names: [0; 128],
    };
    let argument = BlkpgArgument {
        operation: RESIZE_PARTITION,
        flags: 0,
        data_length: size_of::<BlkpgPartition>().try_into().unwrap_or(c_int::MAX),
        data: &raw const partition,
    };
    let disk = file::open(node, file::READ)?;
    // SAFETY: BLKPG takes a pointer to this structure, which points to a partition that lives
    // until the call returns; the kernel reads both and writes neither.
    unsafe { ioctl::ioctl(&disk, Setter::<BLKPG, _>::new(argument)) }?;
    Ok(())
}
