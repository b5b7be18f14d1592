//! The partition table, as firmware measures it: `UEFI_GPT_DATA` of the TCG PC Client Platform
//! Firmware Profile, which EDK2 makes in `DxeTpm2MeasureBootLib`.

use cvm_init::error::Result;
use cvm_init::format::gpt::{SECTOR_SIZES, SIGNATURE};

use crate::measure::bytes::Bytes;

/// Bytes of the header that are measured.
const HEADER_SIZE: u64 = 92;
/// More than any table has, and no sum below overflows.
const ENTRIES_MAX: u32 = 1 << 16;
const ENTRY_SIZE_MAX: u32 = 1 << 16;

/// Bytes of the start of a disk in which the table of such an image lies.
pub const HEAD_SIZE: u64 = 1 << 20;

/// What is measured of the disk that begins with these bytes: the header, the number of entries in
/// use, and these.
///
/// # Errors
/// There is no table, or it does not lie within these bytes.
pub fn event(name: &str, head: &[u8]) -> Result<Vec<u8>> {
    let disk = Bytes::new(name, head);
    // The header is in the second sector, whatever that is.
    let is_there = |sector: &u64| {
        let signature = disk.get("partition table", *sector, SIGNATURE.len() as u64);
        signature.is_ok_and(|bytes| *bytes == SIGNATURE)
    };
    let sector = SECTOR_SIZES.into_iter().find(is_there);
    let sector = sector.ok_or_else(|| disk.refuse("it has no GPT"))?;
    let header = disk.get("partition table", sector, HEADER_SIZE)?;
    let field = |at| disk.le32("partition table", sector + at);
    let first = disk.le64("partition table", sector + 72)?;
    let (count, size) = (field(80)?, field(84)?);
    if count > ENTRIES_MAX || !(16..=ENTRY_SIZE_MAX).contains(&size) {
        return Err(disk.refuse(&format!("its GPT has {count} entries of {size} bytes")));
    }
    let start = first.checked_mul(sector).ok_or_else(|| disk.refuse("its GPT lies nowhere"))?;
    let entries = disk.get("partitions", start, u64::from(count) * u64::from(size))?;
    let entries = entries.chunks_exact(usize::try_from(size).unwrap_or(usize::MAX));
    // An entry without a type is not in use.
    let used: Vec<_> = entries.filter(|entry| !entry.starts_with(&[0; 16])).collect();
    Ok([header, &(used.len() as u64).to_le_bytes(), &used.concat()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn disk() -> Vec<u8> {
        let mut disk = vec![0; 4096];
        disk[512..520].copy_from_slice(b"EFI PART");
        disk[520..604].fill(7);
        disk[512 + 72..][..8].copy_from_slice(&2_u64.to_le_bytes());
        disk[512 + 80..][..8].copy_from_slice(&[4, 0, 0, 0, 128, 0, 0, 0]);
        // The second and the fourth entry.
        disk[1024 + 128..][..128].fill(1);
        disk[1024 + 384..][..128].fill(2);
        disk
    }

    #[test]
    fn the_header_and_the_entries_in_use_are_measured() {
        let event = event("disk.img", &disk()).unwrap();
        assert_eq!(event[..92], disk()[512..604]);
        assert_eq!(event[92..100], 2_u64.to_le_bytes());
        assert_eq!(event[100..], [[1; 128], [2; 128]].concat());
    }

    #[test]
    fn a_table_for_large_sectors_is_found() {
        let small = disk();
        let mut large = vec![0; 3 * 4096];
        large[4096..][..512].copy_from_slice(&small[512..1024]);
        large[2 * 4096..][..512].copy_from_slice(&small[1024..1536]);
        assert_eq!(event("disk.img", &large), event("disk.img", &small));
    }

    #[test]
    fn what_is_broken_is_named() {
        let with = |at: usize, bytes: &[u8]| {
            let mut disk = disk();
            disk[at..][..bytes.len()].copy_from_slice(bytes);
            event("disk.img", &disk).unwrap_err().to_string()
        };
        assert_eq!(with(512, b"X"), "cannot read disk.img: it has no GPT");
        assert_eq!(with(512 + 72, &[0xff; 8]), "cannot read disk.img: its GPT lies nowhere");
        assert_eq!(with(512 + 72, &[9]), "cannot read disk.img: it ends before its partitions");
        assert_eq!(
            with(512 + 84, &[1, 0, 0, 0]),
            "cannot read disk.img: its GPT has 4 entries of 1 bytes"
        );
    }

    proptest! {
        #[test]
        fn no_disk_panics(mut head: Vec<u8>, tail: [u8; 92]) {
            head.resize(512, 0);
            head.extend(b"EFI PART");
            head.extend(tail);
            let _ = event("disk.img", &head);
        }
    }
}
