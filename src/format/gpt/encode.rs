//! A partition table as an image build writes it.

use super::{ENTRY_SIZE, Entry, HEADER_AT, HEADER_CRC, HEADER_SIZE, SIGNATURE, crc32};
use crate::error::{Error, Result};
use crate::format::uuid;

/// Entries of a table, as every tool makes it.
const ENTRIES: u32 = 128;
/// UTF-16 units that a name may have.
const NAME_MAX: usize = 36;

/// A disk and its partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// UUID of the disk, in the order of its text.
    pub uuid: [u8; 16],
    /// Sectors of the disk, in its own.
    pub sectors: u64,
    /// Bytes in a sector: 512 or 4096.
    pub sector_size: u64,
    /// The partitions.
    pub entries: Vec<Entry>,
}

/// Sectors of a copy of the table, which is a header and the entries.
#[must_use]
pub fn sectors_of_a_copy(sector_size: u64) -> u64 {
    1 + (u64::from(ENTRIES) * u64::from(ENTRY_SIZE)).div_ceil(sector_size)
}

impl Table {
    /// The bytes at the start and at the end of the disk: the protective MBR, header and entries; and
    /// entries and header.
    ///
    /// # Errors
    /// A partition that does not lie between the two copies, shares a sector or its number with
    /// another one, or has a name that is too long.
    pub fn encode(&self) -> Result<(Vec<u8>, Vec<u8>)> {
        let size = usize::try_from(self.sector_size).unwrap_or(usize::MAX);
        let copy = sectors_of_a_copy(self.sector_size);
        let first = HEADER_AT.saturating_add(copy);
        let end = self.sectors.saturating_sub(copy);
        self.check(first, end)?;
        let entries = self.entry_bytes();
        let header = |own: u64, other: u64, entries_at: u64| {
            let mut header = Vec::with_capacity(size);
            header.extend(SIGNATURE);
            header.extend(0x0001_0000_u32.to_le_bytes()); // revision 1.0
            header.extend(HEADER_SIZE.to_le_bytes());
            header.extend([0; 8]); // checksum, reserved
            for sector in [own, other, first, end.saturating_sub(1)] {
                header.extend(sector.to_le_bytes());
            }
            header.extend(uuid::swapped(self.uuid));
            header.extend(entries_at.to_le_bytes());
            header.extend(ENTRIES.to_le_bytes());
            header.extend(ENTRY_SIZE.to_le_bytes());
            header.extend(crc32(entries.iter().copied()).to_le_bytes());
            let crc = crc32(header.iter().copied()).to_le_bytes();
            if let Some(field) = header.get_mut(HEADER_CRC..HEADER_CRC + crc.len()) {
                field.copy_from_slice(&crc);
            }
            header.resize(size, 0);
            header
        };
        let last = self.sectors.saturating_sub(1);
        let mut head = self.protective_mbr(size);
        head.extend(header(HEADER_AT, last, HEADER_AT + 1));
        head.extend_from_slice(&entries);
        let mut tail = entries.clone();
        tail.extend(header(last, HEADER_AT, end));
        Ok((head, tail))
    }

    /// All entries, the unused ones among them.
    fn entry_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for number in 1..=ENTRIES {
            let filled = bytes.len() + ENTRY_SIZE as usize;
            if let Some(entry) = self.entries.iter().find(|entry| entry.number == number) {
                bytes.extend(uuid::swapped(entry.kind));
                bytes.extend(uuid::swapped(entry.uuid));
                bytes.extend(entry.first.to_le_bytes());
                bytes.extend(entry.last.to_le_bytes());
                bytes.extend([0; 8]); // attributes
                bytes.extend(entry.name.encode_utf16().flat_map(u16::to_le_bytes));
            }
            bytes.resize(filled, 0);
        }
        bytes
    }

    /// For tools that know no other: one partition over the whole disk, or as much of it as can be
    /// said.
    fn protective_mbr(&self, size: usize) -> Vec<u8> {
        let sectors = u32::try_from(self.sectors.saturating_sub(1)).unwrap_or(u32::MAX);
        let mut mbr = vec![0; 446];
        // status, first cylinder, head and sector, type, last ones, first sector, sectors
        mbr.extend([0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0]);
        mbr.extend(sectors.to_le_bytes());
        mbr.resize(510, 0);
        mbr.extend([0x55, 0xaa]);
        mbr.resize(size, 0);
        mbr
    }

    fn check(&self, first: u64, end: u64) -> Result<()> {
        for (at, entry) in self.entries.iter().enumerate() {
            let wrong =
                |what: String| Err(Error::new(format!("partition {}: {what}", entry.number)));
            if !(1..=ENTRIES).contains(&entry.number) {
                return wrong(format!("its number is not from 1 to {ENTRIES}"));
            }
            if !(first <= entry.first && entry.first <= entry.last && entry.last < end) {
                return wrong(format!(
                    "sectors {} to {} do not lie between {first} and {}",
                    entry.first,
                    entry.last,
                    end.saturating_sub(1)
                ));
            }
            if entry.name.encode_utf16().count() > NAME_MAX {
                return wrong(format!("its name has more than {NAME_MAX} characters"));
            }
            let others = self.entries.iter().skip(at + 1);
            for other in others {
                if other.number == entry.number {
                    return wrong("there are two of this number".to_owned());
                }
                if entry.first <= other.last && other.first <= entry.last {
                    return wrong(format!("it shares a sector with partition {}", other.number));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u32, first: u64, last: u64) -> Entry {
        let name = "x".repeat(36);
        Entry { number, kind: [1; 16], uuid: [2; 16], first, last, name }
    }

    fn encode(sectors: u64, sector_size: u64, entries: Vec<Entry>) -> Result<(Vec<u8>, Vec<u8>)> {
        Table { uuid: [0; 16], sectors, sector_size, entries }.encode()
    }

    #[test]
    fn a_copy_takes_33_small_sectors_or_5_large_ones() {
        assert_eq!([512, 4096].map(sectors_of_a_copy), [33, 5]);
        for (size, copy) in [(512, 33), (4096, 5)] {
            let (head, tail) = encode(1000, size as u64, Vec::new()).unwrap();
            assert_eq!((head.len(), tail.len()), ((copy + 1) * size, copy * size));
        }
    }

    #[test]
    fn what_no_table_can_hold_is_refused() {
        assert!(encode(1000, 512, vec![entry(1, 34, 966), entry(128, 967, 966)]).is_err());
        assert!(encode(1000, 512, vec![entry(1, 34, 966)]).is_ok());
        let long = Entry { name: "x".repeat(37), ..entry(1, 34, 34) };
        for (entries, message) in [
            (vec![entry(1, 33, 40)], "partition 1: sectors 33 to 40 do not lie between 34 and 966"),
            (
                vec![entry(2, 40, 967)],
                "partition 2: sectors 40 to 967 do not lie between 34 and 966",
            ),
            (vec![entry(0, 40, 41)], "partition 0: its number is not from 1 to 128"),
            (vec![entry(129, 40, 41)], "partition 129: its number is not from 1 to 128"),
            (vec![entry(1, 40, 41), entry(1, 50, 51)], "partition 1: there are two of this number"),
            (
                vec![entry(1, 40, 49), entry(2, 49, 51)],
                "partition 1: it shares a sector with partition 2",
            ),
            (vec![long], "partition 1: its name has more than 36 characters"),
        ] {
            assert_eq!(encode(1000, 512, entries).unwrap_err().to_string(), message);
        }
        assert!(encode(10, 512, vec![entry(1, 34, 34)]).is_err());
    }

    #[test]
    fn a_disk_that_is_too_large_for_the_mbr_is_covered_as_far_as_it_goes() {
        for (sectors, covered) in [(1000, 999), (1 << 32, u32::MAX), (1 << 40, u32::MAX)] {
            let (head, _) = encode(sectors, 512, Vec::new()).unwrap();
            assert_eq!(head[446 + 12..][..4], covered.to_le_bytes());
            assert_eq!(head[510..512], [0x55, 0xaa]);
        }
    }
}
