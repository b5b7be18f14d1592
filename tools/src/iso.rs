//! What makes a CD of a disk, too: ISO 9660 with El Torito's catalogue of what a firmware starts, which
//! is a partition of the disk. A disk that begins with a GPT has room for it: the table ends before the
//! byte at which a CD begins to mean something, and the first partition comes behind.
//!
//! Sources: ECMA-119, 2nd edition (section numbers below); "El Torito" Bootable CD-ROM Format
//! Specification 1.0; UEFI specification 2.10, 13.3.2.

use cvm_init::error::{Error, Result};

/// Bytes of a sector of a CD.
pub const BLOCK: u64 = 2048;
/// Where it begins on the medium: what is before belongs to others (6.2.1).
pub const AT: u64 = 16 * BLOCK;

// The blocks in their order: of the descriptors no reader takes another, the rest is free.
const BOOT_CATALOG: u32 = 19;
const PATH_TABLE: u32 = 20;
const PATH_TABLE_BIG_ENDIAN: u32 = 21;
const ROOT_FOLDER: u32 = 22;
/// The block behind all of it.
const END: u32 = 23;

/// Descriptors begin with their type and this (8.1).
const STANDARD: &[u8] = b"CD001\x01";
/// What the volume is called.
const LABEL: &str = "CVM_INIT";
/// Bytes of a path table with one folder: the root (9.4).
const PATH_TABLE_SIZE: u32 = 10;
/// A time that is not told, in its longer form (8.4.26.1).
const NO_TIME: &[u8] = b"0000000000000000\0";

/// Of a firmware of UEFI's.
const PLATFORM_EFI: u8 = 0xef;
/// Sectors in which El Torito counts, whatever those of the medium are.
const VIRTUAL_SECTOR: u64 = 512;

/// The bytes from [`AT`] on of a medium on which the partition that a firmware starts has so many
/// `bytes` from byte `start` on. The volume, which holds no file, ends where the partition does.
///
/// # Errors
/// A partition that does not begin at a block behind what is written here, or too far behind.
pub fn encode(start: u64, bytes: u64) -> Result<Vec<u8>> {
    let wrong =
        |what: &str| Error::new(format!("a CD's firmware does not find a partition {what}"));
    let block = |at: u64| u32::try_from(at / BLOCK).map_err(|_| wrong("behind 8 TiB"));
    if !start.is_multiple_of(BLOCK) || start < u64::from(END) * BLOCK {
        return Err(wrong(&format!("that begins at byte {start}")));
    }
    let end = start.checked_add(bytes).and_then(|end| end.checked_next_multiple_of(BLOCK));
    let end = block(end.unwrap_or(u64::MAX))?;
    let blocks = [
        primary_volume(end),
        boot_record(),
        [&[0xff], STANDARD].concat(), // the last descriptor (8.3)
        boot_catalog(block(start)?, bytes),
        path_table(u32::to_le_bytes, u16::to_le_bytes),
        path_table(u32::to_be_bytes, u16::to_be_bytes),
        // The root itself, and what is above it: itself again (6.8.2.2).
        [folder(0), folder(1)].concat(),
    ];
    let size = usize::try_from(BLOCK).unwrap_or(usize::MAX);
    Ok(blocks
        .into_iter()
        .flat_map(|mut block| {
            block.resize(size, 0);
            block
        })
        .collect())
}

/// A volume that ends before block `end` (8.4).
fn primary_volume(end: u32) -> Vec<u8> {
    let mut volume = [&[1], STANDARD, &[0]].concat();
    volume.extend(text("", 32)); // system
    volume.extend(text(LABEL, 32));
    volume.extend([0; 8]);
    volume.extend(both(end));
    volume.extend([0; 32]);
    // volumes of the set, which of them this is, and bytes of a block
    for number in [1, 1, 2048_u16] {
        volume.extend(both_of_16(number));
    }
    volume.extend(both(PATH_TABLE_SIZE));
    // Neither has a second copy.
    volume.extend(PATH_TABLE.to_le_bytes());
    volume.extend([0; 4]);
    volume.extend(PATH_TABLE_BIG_ENDIAN.to_be_bytes());
    volume.extend([0; 4]);
    volume.extend(folder(0));
    // set, publisher, preparer, application; files of copyright, abstract and bibliography
    for length in [128, 128, 128, 128, 37, 37, 37] {
        volume.extend(text("", length));
    }
    // made, changed, expires, takes effect
    for _ in 0..4 {
        volume.extend(NO_TIME);
    }
    volume.push(1); // version of the structure
    volume
}

/// Where the catalogue is (El Torito, figure 7).
fn boot_record() -> Vec<u8> {
    let mut record = [&[0], STANDARD, b"EL TORITO SPECIFICATION"].concat();
    record.resize(71, 0);
    record.extend(BOOT_CATALOG.to_le_bytes());
    record
}

/// What a firmware starts: the partition at this block (El Torito, figures 2 and 3).
fn boot_catalog(block: u32, bytes: u64) -> Vec<u8> {
    let mut catalog = vec![1, PLATFORM_EFI];
    catalog.resize(28, 0); // who made it
    let signature = [0x55, 0xaa];
    // With it all 16-bit numbers of the entry come to zero.
    let sum = u16::from_le_bytes([1, PLATFORM_EFI]).wrapping_add(u16::from_le_bytes(signature));
    catalog.extend(sum.wrapping_neg().to_le_bytes());
    catalog.extend(signature);
    // It is started, and emulates no other medium; segment and type are of machines without EFI.
    catalog.extend([0x88, 0, 0, 0, 0, 0]);
    // What 16 bits cannot count, from 32 MiB on, reaches to the end of the volume (UEFI, 13.3.2.1).
    let sectors = u16::try_from(bytes.div_ceil(VIRTUAL_SECTOR)).unwrap_or(0);
    catalog.extend(sectors.to_le_bytes());
    catalog.extend(block.to_le_bytes());
    catalog
}

/// The only folder there is, the root, above which there is nothing but itself (9.4).
fn path_table(of_32: fn(u32) -> [u8; 4], of_16: fn(u16) -> [u8; 2]) -> Vec<u8> {
    [&[1, 0], &of_32(ROOT_FOLDER)[..], &of_16(1), &[0, 0]].concat()
}

/// A record of the root, by the name `0` or `1` (9.1).
fn folder(name: u8) -> Vec<u8> {
    let mut record = vec![34, 0];
    record.extend(both(ROOT_FOLDER));
    record.extend(both(2048)); // its bytes
    record.extend([0; 7]); // no time
    record.extend([2, 0, 0]); // a folder
    record.extend(both_of_16(1)); // the volume it is on
    record.extend([1, name]);
    record
}

/// A number in both orders of bytes (7.3.3).
fn both(number: u32) -> Vec<u8> {
    [number.to_le_bytes(), number.to_be_bytes()].concat()
}

/// The same of 16 bits (7.2.3).
fn both_of_16(number: u16) -> Vec<u8> {
    [number.to_le_bytes(), number.to_be_bytes()].concat()
}

/// A text that is filled up with blanks (7.4.3.1).
fn text(text: &str, length: usize) -> Vec<u8> {
    format!("{text:length$}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn le16(bytes: &[u8], at: usize) -> u16 {
        u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap())
    }

    fn le32(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    /// From the boot record on, as a firmware does it.
    #[test]
    fn a_firmware_is_led_to_the_partition() {
        for (bytes, sectors) in
            [(17 * MIB, 17 * 2048), (32 * MIB - 512, u16::MAX), (32 * MIB, 0), (40 * MIB, 0)]
        {
            let medium = encode(MIB, bytes).unwrap();
            assert_eq!(medium.len() as u64, (u64::from(END) - 16) * BLOCK);
            let block = |number: u32| &medium[(number as usize - 16) * 2048..][..2048];
            assert_eq!(&block(17)[..30], b"\0CD001\x01EL TORITO SPECIFICATION");
            let catalog = block(le32(block(17), 71));
            let sum = (0..16).fold(0_u16, |sum, at| sum.wrapping_add(le16(catalog, 2 * at)));
            assert_eq!((sum, catalog[0], catalog[1]), (0, 1, 0xef));
            assert_eq!(le16(catalog, 38), sectors);
            assert_eq!(u64::from(le32(catalog, 40)) * BLOCK, MIB);
            // The volume ends with it.
            assert_eq!(u64::from(le32(block(16), 80)), (MIB + bytes).div_ceil(BLOCK));
        }
    }

    #[test]
    fn fields_of_the_volume_stand_where_the_standard_has_them() {
        let volume = primary_volume(7);
        assert_eq!(volume.len(), 882);
        assert_eq!(&volume[40..48], LABEL.as_bytes());
        assert_eq!(volume[80..88], [7, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(volume[128..132], [0, 8, 8, 0]);
        assert_eq!((volume[156], volume.get(813), volume[881]), (34, Some(&b'0'), 1));
        assert_eq!(folder(0).len(), 34);
    }

    #[test]
    fn what_no_firmware_would_find_is_refused() {
        for (start, bytes, what) in [
            (MIB + 512, MIB, "that begins at byte 1049088"),
            (44 * 1024, MIB, "that begins at byte 45056"),
            (1 << 43, MIB, "behind 8 TiB"),
            (MIB, u64::MAX, "behind 8 TiB"),
        ] {
            let error = encode(start, bytes).unwrap_err().to_string();
            assert_eq!(error, format!("a CD's firmware does not find a partition {what}"));
        }
    }
}
