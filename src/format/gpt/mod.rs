//! The GUID partition table: where the partitions of a disk lie, and what they are called.
//!
//! What is read here is what the kernel has read before, so it is taken and refused as there. The
//! backup at the end of the disk is not looked at.
//!
//! Sources: UEFI specification 2.10, 5.3; `block/partitions/efi.c` of the kernel.

mod encode;
mod roots;

use crate::error::{Error, Result};
use crate::format::fields::Fields;
use crate::format::{hex, uuid};

pub use self::encode::{Table, sectors_of_a_copy};
pub use self::roots::Role;

/// What a header begins with.
pub const SIGNATURE: [u8; 8] = *b"EFI PART";
/// The sector of the header.
pub const HEADER_AT: u64 = 1;
/// Bytes of a sector that disks have and tables are made for.
pub const SECTOR_SIZES: [u64; 2] = [512, 4096];

/// Bytes of a header that mean something.
const HEADER_SIZE: u32 = 92;
/// Where the header's own checksum stands in it.
const HEADER_CRC: usize = 16;
/// The kernel takes no other size of an entry.
const ENTRY_SIZE: u32 = 128;
/// The kernel makes no more partitions of a disk (`DISK_MAX_PARTS`); tools make tables of 128.
const ENTRIES_MAX: u32 = 256;

/// What a header says of the entries: the host's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    first_sector: u64,
    entries: u32,
    crc: u32,
}

/// A partition, as the table has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// From 1, as the kernel counts.
    pub number: u32,
    /// UUID of its type, in the order of its text.
    pub kind: [u8; 16],
    /// UUID of its own, in the order of its text.
    pub uuid: [u8; 16],
    /// First sector, in those of the disk.
    pub first: u64,
    /// Last sector.
    pub last: u64,
    /// What it is called.
    pub name: String,
}

impl Header {
    /// From sector [`HEADER_AT`].
    ///
    /// # Errors
    /// What it says and what is taken.
    pub fn parse(sector: &[u8]) -> Result<Self> {
        // signature 8, revision 4, size 4, checksum 4, reserved 4, own sector 8, alternate 8, first
        // and last usable sector 8 each, disk's UUID 16, sector of the entries 8, number of the
        // entries 4, size of one 4, their checksum 4
        let mut fields = Fields(sector);
        let signature = fields.take::<8>();
        if signature != SIGNATURE {
            return Err(unfit("signature", hex::encode(&signature), hex::encode(&SIGNATURE)));
        }
        fields.u32(); // revision
        let size = fields.u32();
        let header = usize::try_from(size).ok().and_then(|size| sector.get(..size));
        let Some(header) = header.filter(|_| size >= HEADER_SIZE) else {
            let wanted = format!("from {HEADER_SIZE} to {}", sector.len());
            return Err(unfit("size of the header", size, wanted));
        };
        let crc = fields.u32();
        let computed = crc32(header.iter().enumerate().map(|(at, &byte)| {
            // It is computed with zeros in its own place.
            if (HEADER_CRC..HEADER_CRC + 4).contains(&at) { 0 } else { byte }
        }));
        if crc != computed {
            return Err(unfit("checksum of the header", hex32(crc), hex32(computed)));
        }
        fields.u32(); // reserved
        match fields.u64() {
            HEADER_AT => {}
            own => return Err(unfit("own sector", own, HEADER_AT)),
        }
        fields.take::<{ 3 * 8 + 16 }>();
        let first_sector = fields.u64();
        let entries = fields.u32();
        if !(1..=ENTRIES_MAX).contains(&entries) {
            return Err(unfit(
                "number of the entries",
                entries,
                format!("from 1 to {ENTRIES_MAX}"),
            ));
        }
        match fields.u32() {
            ENTRY_SIZE => {}
            size => return Err(unfit("size of an entry", size, ENTRY_SIZE)),
        }
        Ok(Self { first_sector, entries, crc: fields.u32() })
    }

    /// The byte at which the entries begin, on a disk with sectors of so many bytes.
    ///
    /// # Errors
    /// When there is no such byte.
    pub fn entries_at(&self, sector_size: u64) -> Result<u64> {
        self.first_sector
            .checked_mul(sector_size)
            .ok_or_else(|| unfit("sector of the entries", self.first_sector, "on any disk"))
    }

    /// Bytes of all entries.
    #[must_use]
    pub fn entries_size(&self) -> usize {
        usize::try_from(self.entries).unwrap_or(usize::MAX).saturating_mul(ENTRY_SIZE as usize)
    }

    /// The entries that are in use, from the bytes of all.
    ///
    /// # Errors
    /// When their checksum is another one.
    pub fn entries(&self, bytes: &[u8]) -> Result<Vec<Entry>> {
        let computed = crc32(bytes.iter().copied());
        if computed != self.crc {
            return Err(unfit("checksum of the entries", hex32(self.crc), hex32(computed)));
        }
        let (entries, _) = bytes.as_chunks::<{ ENTRY_SIZE as usize }>();
        Ok((1..=self.entries)
            .zip(entries)
            .filter_map(|(n, bytes)| Entry::parse(n, bytes))
            .collect())
    }
}

impl Entry {
    /// `None` when it is not in use: without a type it is no partition.
    fn parse(number: u32, bytes: &[u8; ENTRY_SIZE as usize]) -> Option<Self> {
        // type 16, UUID 16, first and last sector 8 each, attributes 8, name 72
        let mut fields = Fields(bytes);
        let kind = uuid::swapped(fields.take());
        let own = uuid::swapped(fields.take());
        let (first, last) = (fields.u64(), fields.u64());
        fields.u64(); // attributes
        let (units, _) = fields.0.as_chunks::<2>();
        let units =
            units.iter().map(|&unit| u16::from_le_bytes(unit)).take_while(|&unit| unit != 0);
        let name = char::decode_utf16(units)
            .map(|character| character.unwrap_or(char::REPLACEMENT_CHARACTER))
            .collect();
        (kind != [0; 16]).then_some(Self { number, kind, uuid: own, first, last, name })
    }

    /// First sector and length in sectors of 512 bytes, as the kernel counts them, on a disk with
    /// sectors of `sector_size` bytes. `None` when its end lies before its start, or behind the end of
    /// every disk.
    #[must_use]
    pub fn span(&self, sector_size: u64) -> Option<(u64, u64)> {
        let sectors = self.last.checked_sub(self.first)?.checked_add(1)?;
        let factor = sector_size / SECTOR_SIZES[0];
        Some((self.first.checked_mul(factor)?, sectors.checked_mul(factor)?))
    }
}

/// CRC-32 as in Ethernet.
fn crc32(bytes: impl Iterator<Item = u8>) -> u32 {
    !bytes.fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            crc >> 1 ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 }
        })
    })
}

fn hex32(value: u32) -> String {
    format!("{value:08x}")
}

fn unfit(what: &str, found: impl std::fmt::Display, wanted: impl std::fmt::Display) -> Error {
    Error::new(format!("partition table: {what} is {found}, not {wanted}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Three partitions on a disk of 64 MiB; of the second there is no more than the entry.
    fn table(sector_size: u64) -> Table {
        let mib = (1 << 20) / sector_size;
        let entry = |number, name: &str, first, last| Entry {
            number,
            kind: [7; 16],
            uuid: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
            first,
            last,
            name: name.to_owned(),
        };
        Table {
            uuid: [0x5a; 16],
            sectors: 64 * mib,
            sector_size,
            entries: vec![
                entry(1, "efi", mib, 2 * mib - 1),
                entry(3, "root", 2 * mib, 2 * mib),
                entry(128, "36 of these, and one of them is an ä", 4 * mib, 63 * mib - 1),
            ],
        }
    }

    /// Header and entries as they stand at the start of a disk.
    fn read(head: &[u8], sector_size: u64) -> Result<Vec<Entry>> {
        let size = usize::try_from(sector_size).unwrap();
        let header = Header::parse(&head[size..2 * size])?;
        let at = usize::try_from(header.entries_at(sector_size)?).unwrap();
        header.entries(&head[at..][..header.entries_size()])
    }

    /// Puts the right checksums to what was altered.
    fn mend(head: &mut [u8]) {
        let crc = |bytes: &[u8]| crc32(bytes.iter().copied()).to_le_bytes();
        let entries = crc(&head[1024..]);
        head[512 + 88..][..4].copy_from_slice(&entries);
        head[512 + 16..][..4].fill(0);
        let header = crc(&head[512..][..92]);
        head[512 + 16..][..4].copy_from_slice(&header);
    }

    #[test]
    fn what_is_written_is_read() {
        for sector_size in SECTOR_SIZES {
            let table = table(sector_size);
            let (head, _) = table.encode().unwrap();
            assert_eq!(read(&head, sector_size), Ok(table.entries), "{sector_size}");
        }
    }

    #[test]
    fn a_uuid_has_the_byte_order_of_its_place() {
        let (head, _) = table(512).encode().unwrap();
        let stored = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
        assert_eq!(head[1024 + 16..][..16], stored);
    }

    #[test]
    fn every_field_that_differs_is_named() {
        let (good, _) = table(512).encode().unwrap();
        for (at, bytes, message) in [
            (0, &b"E"[..], ""),
            (0, b"e", "signature is 6546492050415254, not 4546492050415254"),
            (12, &[91], "size of the header is 91, not from 92 to 512"),
            (12, &[1, 2], "size of the header is 513, not from 92 to 512"),
            (24, &[2], "own sector is 2, not 1"),
            (80, &[0], "number of the entries is 0, not from 1 to 256"),
            (80, &[1, 1], "number of the entries is 257, not from 1 to 256"),
            (84, &[0, 1], "size of an entry is 256, not 128"),
        ] {
            let mut head = good.clone();
            head[512 + at..][..bytes.len()].copy_from_slice(bytes);
            mend(&mut head);
            let found = read(&head, 512).map_err(|error| error.to_string());
            match message {
                "" => assert!(found.is_ok(), "{found:?}"),
                _ => assert_eq!(found.unwrap_err(), format!("partition table: {message}")),
            }
        }
    }

    #[test]
    fn every_bit_counts_in_a_checksum() {
        let (good, _) = table(512).encode().unwrap();
        for at in (512..512 + HEADER_SIZE as usize).chain([1024, 1024 + 57, good.len() - 1]) {
            let mut head = good.clone();
            head[at] ^= 1 << (at % 8);
            assert!(read(&head, 512).is_err(), "{at}");
        }
    }

    #[test]
    fn a_table_that_was_cut_is_refused() {
        for sector_size in SECTOR_SIZES {
            let (head, _) = table(sector_size).encode().unwrap();
            let size = usize::try_from(sector_size).unwrap();
            let header = Header::parse(&head[size..2 * size]).unwrap();
            for length in [0, 1, 127, 128, header.entries_size() - 1] {
                let error = header.entries(&head[2 * size..][..length]).unwrap_err().to_string();
                assert!(error.starts_with("partition table: checksum of the entries"), "{error}");
            }
            for length in [0, 7, 8, 91] {
                assert!(Header::parse(&head[size..][..length]).is_err(), "{length}");
            }
        }
    }

    #[test]
    fn a_span_is_counted_as_the_kernel_does() {
        let entry = |first, last| Entry { first, last, ..table(512).entries.remove(0) };
        assert_eq!(entry(2048, 4095).span(512), Some((2048, 2048)));
        assert_eq!(entry(256, 511).span(4096), Some((2048, 2048)));
        assert_eq!(entry(9, 9).span(4096), Some((72, 8)));
        for (first, last) in [(1, 0), (0, u64::MAX), (u64::MAX, u64::MAX), (1 << 62, 1 << 62)] {
            assert_eq!(entry(first, last).span(4096), None, "{first} {last}");
        }
        assert_eq!(entry(u64::MAX, u64::MAX).span(512), Some((u64::MAX, 1)));
    }

    #[test]
    fn a_crc_is_that_of_the_catalogues() {
        assert_eq!(crc32(b"123456789".iter().copied()), 0xcbf4_3926);
    }

    proptest! {
        #[test]
        fn no_table_panics(
            mut head in prop::collection::vec(any::<u8>(), 1024 + 128 * ENTRY_SIZE as usize),
            valid_until in 512..1024 + 128 * ENTRY_SIZE as usize,
            with_checksums: bool,
        ) {
            let (good, _) = table(512).encode().unwrap();
            head[..valid_until].copy_from_slice(&good[..valid_until]);
            if with_checksums {
                mend(&mut head);
            }
            for entry in Header::parse(&head[512..1024])
                .and_then(|header| header.entries(&head[1024..]))
                .unwrap_or_default()
            {
                let _ = entry.span(512);
                let _ = entry.require(Role::Root);
            }
        }
    }
}
