//! OVMF, a firmware for guests: the table at its end that says what a launch makes of it.
//!
//! Sources: EDK2, `OvmfPkg/ResetVector/Ia32/ResetVectorVtf0.asm`,
//! `OvmfPkg/ResetVector/X64/OvmfSevMetadata.asm` and `IntelTdxMetadata.asm`; Intel, "TDX Virtual
//! Firmware Design Guide", 11.

use cvm_init::error::Result;

use crate::measure::bytes::Bytes;

/// The end of the memory that 32 bits reach, where the firmware's end lies.
pub const TOP: u64 = 1 << 32;
/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// What a firmware asks for is a few MiB. More would only be hashed for a long time.
const SECTION_MAX: u64 = 256 << 20;
const SECTIONS_MAX: u32 = 64;

/// The table ends here, before the reset vector.
const TABLE_END: u64 = 32;
const GUID_SIZE: u64 = 16;
/// Behind each entry: its length, with length and GUID, and its GUID.
const TRAILER: u64 = 2 + GUID_SIZE;

const TABLE: [u8; 16] = guid(0x96b5_82de, 0x1fb2, 0x45f7, 0xbaea_a366_c55a_082d);
const SEV_METADATA: [u8; 16] = guid(0xdc88_6566, 0x984a, 0x4798, 0xa75e_5585_a7bf_67cc);
const SEV_HASH_TABLE: [u8; 16] = guid(0x7255_371f, 0x3a3b, 0x4b04, 0x927b_1da6_efa8_d454);
const SEV_RESET: [u8; 16] = guid(0x00f7_71de, 0x1a7e, 0x4fcb, 0x890e_68c7_7e2f_b44e);
const TDX_METADATA: [u8; 16] = guid(0xe47a_6535, 0x984a, 0x4798, 0x865e_4685_a7bf_8ec2);

/// A GUID as EFI has it in memory: its first three numbers are little-endian.
#[must_use]
pub const fn guid(first: u32, second: u16, third: u16, rest: u64) -> [u8; 16] {
    let (a, b, c) = (first.to_le_bytes(), second.to_le_bytes(), third.to_le_bytes());
    let d = rest.to_be_bytes();
    [a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]]
}

/// A piece of the guest's memory that an SNP launch makes ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SevSection {
    /// Address in the guest's memory, in bytes.
    pub address: u64,
    /// Bytes, a multiple of [`PAGE`].
    pub size: u64,
    /// What it is for.
    pub kind: u32,
}

/// A piece of the guest's memory that a TDX launch makes ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TdxSection<'a> {
    /// What of the firmware it is filled with, zeros behind it.
    pub data: &'a [u8],
    /// Address in the guest's memory, in bytes.
    pub address: u64,
    /// Bytes, a multiple of [`PAGE`].
    pub size: u64,
    /// Whether its content is measured, or only that it is there.
    pub extended: bool,
}

/// A firmware and its table.
#[derive(Debug, Clone)]
pub struct Firmware<'a> {
    file: Bytes<'a>,
    entries: Vec<([u8; 16], &'a [u8])>,
}

impl<'a> Firmware<'a> {
    /// The file of this name.
    ///
    /// # Errors
    /// It is no OVMF, or its table is broken.
    pub fn parse(name: &'a str, data: &'a [u8]) -> Result<Self> {
        let file = Bytes::new(name, data);
        let no_table = || file.refuse("it is no OVMF: it has no table of GUIDs at its end");
        if data.is_empty() || !file.len().is_multiple_of(PAGE) || file.len() > SECTION_MAX {
            return Err(file.refuse("it is no OVMF: its length is not that of a firmware"));
        }
        let end = file.len().checked_sub(TABLE_END + GUID_SIZE).ok_or_else(no_table)?;
        if file.array("table", end)? != TABLE {
            return Err(no_table());
        }
        let broken = || file.refuse("its table of GUIDs is broken");
        let mut end = end - 2;
        let size = u64::from(file.le16("table", end)?);
        let start =
            size.checked_sub(TRAILER).and_then(|size| end.checked_sub(size)).ok_or_else(broken)?;
        let mut entries = Vec::new();
        while end > start {
            let guid_at = end.checked_sub(GUID_SIZE).ok_or_else(broken)?;
            let size_at = end.checked_sub(TRAILER).ok_or_else(broken)?;
            let size = u64::from(file.le16("table", size_at)?);
            let entry = end.checked_sub(size).filter(|entry| (start..=size_at).contains(entry));
            let entry = entry.ok_or_else(broken)?;
            entries
                .push((file.array("table", guid_at)?, file.get("table", entry, size_at - entry)?));
            end = entry;
        }
        Ok(Self { file, entries })
    }

    /// The whole file.
    #[must_use]
    pub fn data(&self) -> &'a [u8] {
        self.file.all()
    }

    /// The error that this is what is wrong with it.
    #[must_use]
    pub fn refuse(&self, cause: &str) -> cvm_init::error::Error {
        self.file.refuse(cause)
    }

    /// What an SNP launch makes ready, in its order; nothing where the firmware is not for SNP.
    ///
    /// # Errors
    /// The list is broken.
    pub fn sev_sections(&self) -> Result<Option<Vec<SevSection>>> {
        let Some(at) = self.metadata(SEV_METADATA)? else { return Ok(None) };
        let count = self.count(at, *b"ASEV")?;
        let sections = (0..u64::from(count)).map(|index| {
            let field = |offset| self.file.le32("SEV metadata", at + 16 + index * 12 + offset);
            let (address, size) = (u64::from(field(0)?), u64::from(field(4)?));
            self.check(address, size)?;
            Ok(SevSection { address, size, kind: field(8)? })
        });
        sections.collect::<Result<_>>().map(Some)
    }

    /// The address of the table of hashes of kernel, initramfs and command line; nothing where the
    /// firmware has no place for it.
    ///
    /// # Errors
    /// The entry is broken.
    pub fn hash_table(&self) -> Result<Option<u64>> {
        Ok(self.number(SEV_HASH_TABLE)?.map(u64::from).filter(|address| *address != 0))
    }

    /// Where the processors but the first begin.
    ///
    /// # Errors
    /// The entry is broken.
    pub fn reset_address(&self) -> Result<Option<u32>> {
        self.number(SEV_RESET)
    }

    /// What a TDX launch makes ready and measures, in its order; nothing where the firmware is not
    /// for TDX.
    ///
    /// # Errors
    /// The list is broken.
    pub fn tdx_sections(&self) -> Result<Option<Vec<TdxSection<'a>>>> {
        /// The memory is added by the guest itself, and not measured.
        const ADDED_LATER: u32 = 2;
        const EXTENDED: u32 = 1;
        let Some(at) = self.metadata(TDX_METADATA)? else { return Ok(None) };
        let count = self.count(at, *b"TDVF")?;
        let mut sections = Vec::new();
        for index in 0..u64::from(count) {
            let at = at + 16 + index * 32;
            let start = u64::from(self.file.le32("TDX metadata", at)?);
            let filled = u64::from(self.file.le32("TDX metadata", at + 4)?);
            let address = self.file.le64("TDX metadata", at + 8)?;
            let size = self.file.le64("TDX metadata", at + 16)?;
            let attributes = self.file.le32("TDX metadata", at + 28)?;
            if attributes & ADDED_LATER != 0 {
                continue;
            }
            self.check(address, size)?;
            if filled > size {
                return Err(
                    self.refuse("it has a section that is longer in the file than in memory")
                );
            }
            let data = self.file.get("TDX sections", start, filled)?;
            sections.push(TdxSection { data, address, size, extended: attributes & EXTENDED != 0 });
        }
        Ok(Some(sections))
    }

    fn number(&self, guid: [u8; 16]) -> Result<Option<u32>> {
        let Some((_, data)) = self.entries.iter().find(|(name, _)| *name == guid) else {
            return Ok(None);
        };
        let bytes =
            data.first_chunk().ok_or_else(|| self.refuse("its table of GUIDs is broken"))?;
        Ok(Some(u32::from_le_bytes(*bytes)))
    }

    /// Where the metadata of an entry lies, which has its distance from the end.
    fn metadata(&self, guid: [u8; 16]) -> Result<Option<u64>> {
        let Some(distance) = self.number(guid)? else { return Ok(None) };
        let at = self.file.len().checked_sub(u64::from(distance));
        at.map(Some).ok_or_else(|| self.refuse("its metadata lie before its start"))
    }

    /// The number of sections, behind magic, length and version.
    fn count(&self, at: u64, magic: [u8; 4]) -> Result<u32> {
        if self.file.array("metadata", at)? != magic {
            return Err(self.refuse("its metadata do not begin as they should"));
        }
        let count = self.file.le32("metadata", at + 12)?;
        if count > SECTIONS_MAX {
            return Err(self.refuse(&format!("its metadata have {count} sections")));
        }
        Ok(count)
    }

    fn check(&self, address: u64, size: u64) -> Result<()> {
        let fits = address.is_multiple_of(PAGE) && size.is_multiple_of(PAGE) && size <= SECTION_MAX;
        if fits && address.checked_add(size).is_some() {
            return Ok(());
        }
        Err(self.refuse(&format!("it has a section of {size:#x} bytes at {address:#x}")))
    }
}

/// A page with these bytes at these places, and zeros.
#[must_use]
pub(crate) fn page(fields: &[(u64, &[u8])]) -> Vec<u8> {
    let mut page = vec![0; 4096];
    for (at, bytes) in fields {
        let from = usize::try_from(*at).unwrap_or(usize::MAX);
        page.iter_mut().skip(from).zip(*bytes).for_each(|(to, byte)| *to = *byte);
    }
    page
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bytes of the sample.
    pub(crate) const SIZE: usize = 64 * 1024;
    const SEV_AT: usize = SIZE - 0x400;
    const TDX_AT: usize = SIZE - 0x800;

    /// A firmware of 64 KiB with all that a launch asks for: SEV and TDX metadata, a place for
    /// hashes, a reset address. Its bytes are those of a counter, so that no two pages are the
    /// same.
    pub(crate) fn sample() -> Vec<u8> {
        let mut file: Vec<u8> = (0..SIZE / 4)
            .flat_map(|n| u32::try_from(n).unwrap().wrapping_mul(2_654_435_761).to_le_bytes())
            .collect();
        let words =
            |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
        let sev = [
            &b"ASEV"[..],
            // length, version, number; then address, size, kind: memory, secrets, CPUID, CAA,
            // hashes
            &words(&[16 + 6 * 12, 1, 6]),
            &words(&[0x80_0000, 0x9000, 1]),
            &words(&[0x80_a000, 0x1000, 1]),
            &words(&[0x80_d000, 0x1000, 2]),
            &words(&[0x80_e000, 0x1000, 3]),
            &words(&[0x80_f000, 0x1000, 4]),
            &words(&[0x81_0000, 0x1000, 0x10]),
        ]
        .concat();
        let top = 0xffff_0000;
        let tdx = [
            &b"TDVF"[..],
            &words(&[16 + 5 * 32, 1, 5]),
            // offset, size, address, size, type, attributes: firmware, variables, memory, HOB,
            // later
            &words(&[0x4000, 0xc000, top + 0x4000, 0, 0xc000, 0, 0, 1]),
            &words(&[0, 0x4000, top, 0, 0x4000, 0, 1, 0]),
            &words(&[0, 0, 0x81_0000, 0, 0x1_0000, 0, 3, 0]),
            &words(&[0, 0, 0x80_9000, 0, 0x2000, 0, 2, 0]),
            &words(&[0, 0, 0x10_0000, 0, 0, 1, 4, 2]),
        ]
        .concat();
        file[SEV_AT..][..sev.len()].copy_from_slice(&sev);
        file[TDX_AT..][..tdx.len()].copy_from_slice(&tdx);
        let entry = |guid: [u8; 16], data: &[u8]| {
            let size = u16::try_from(data.len() + 18).unwrap();
            [data, &size.to_le_bytes(), &guid].concat()
        };
        let distance = |at: usize| u32::try_from(SIZE - at).unwrap().to_le_bytes();
        let entries = [
            entry(SEV_METADATA, &distance(SEV_AT)),
            entry(TDX_METADATA, &distance(TDX_AT)),
            entry(SEV_HASH_TABLE, &words(&[0x81_0c00, 0x400])),
            entry(SEV_RESET, &words(&[0x0080_b004])),
        ]
        .concat();
        let table = [&entries[..], &entry(TABLE, &[])].concat();
        let whole = u16::try_from(table.len()).unwrap();
        let end = SIZE - 32;
        file[end - table.len()..end].copy_from_slice(&table);
        file[end - 18..end - 16].copy_from_slice(&whole.to_le_bytes());
        file
    }

    /// The same without a place for hashes.
    pub(crate) fn sample_without_hashes() -> Vec<u8> {
        let mut file = sample();
        let at = file.windows(16).rposition(|guid| guid == SEV_HASH_TABLE).unwrap();
        file[at - 10..at - 2].fill(0);
        file
    }

    #[test]
    fn the_table_is_read_from_its_end() {
        let file = sample();
        let firmware = Firmware::parse("a.fd", &file).unwrap();
        assert_eq!(firmware.hash_table().unwrap(), Some(0x81_0c00));
        assert_eq!(firmware.reset_address().unwrap(), Some(0x0080_b004));
        let sev = firmware.sev_sections().unwrap().unwrap();
        assert_eq!(sev.len(), 6);
        assert_eq!(sev[5], SevSection { address: 0x81_0000, size: 4096, kind: 0x10 });
        let tdx = firmware.tdx_sections().unwrap().unwrap();
        // What the guest adds itself is left out.
        assert_eq!(tdx.len(), 4);
        assert_eq!((tdx[0].address, tdx[0].size, tdx[0].extended), (0xffff_4000, 0xc000, true));
        assert!(tdx[0].data == &file[0x4000..] && tdx[2].data.is_empty());
    }

    #[test]
    fn a_firmware_that_is_for_nothing_says_so() {
        let mut file = vec![0; SIZE];
        let end = SIZE - 32;
        file[end - 16..end].copy_from_slice(&TABLE);
        file[end - 18..end - 16].copy_from_slice(&18_u16.to_le_bytes());
        let firmware = Firmware::parse("a.fd", &file).unwrap();
        assert!(firmware.sev_sections().unwrap().is_none());
        assert!(firmware.tdx_sections().unwrap().is_none());
        assert!(firmware.hash_table().unwrap().is_none());
    }

    #[test]
    fn what_is_broken_is_named() {
        let why = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut file = sample();
            change(&mut file);
            let all = |firmware: Firmware<'_>| {
                firmware.sev_sections()?;
                firmware.tdx_sections().map(drop)
            };
            Firmware::parse("a.fd", &file).and_then(all).unwrap_err().to_string()
        };
        let set = |at: usize, bytes: &'static [u8]| {
            move |file: &mut Vec<u8>| file[at..][..bytes.len()].copy_from_slice(bytes)
        };
        let at_end = SIZE - 32;
        for (change, cause) in [
            (
                &Vec::clear as &dyn Fn(&mut Vec<u8>),
                "it is no OVMF: its length is not that of a firmware",
            ),
            (
                &|file: &mut Vec<u8>| file.truncate(SIZE - 1),
                "it is no OVMF: its length is not that of a firmware",
            ),
            (
                &|file: &mut Vec<u8>| file.truncate(4096),
                "it is no OVMF: it has no table of GUIDs at its end",
            ),
            (&set(at_end - 16, b"x"), "it is no OVMF: it has no table of GUIDs at its end"),
            (&set(at_end - 18, &[0, 0]), "its table of GUIDs is broken"),
            (&set(at_end - 18, &[0xff, 0xff]), "its table of GUIDs is broken"),
            (&set(at_end - 36, &[0, 0]), "its table of GUIDs is broken"),
            (&set(SEV_AT, b"x"), "its metadata do not begin as they should"),
            (&set(SEV_AT + 12, &[0xff]), "its metadata have 255 sections"),
            (&set(SEV_AT + 17, &[1]), "it has a section of 0x9000 bytes at 0x800100"),
            (&set(SEV_AT + 23, &[0xf0]), "it has a section of 0xf0009000 bytes at 0x800000"),
            (
                &set(TDX_AT + 16 + 23, &[0xff]),
                "it has a section of 0xff0000000000c000 bytes at 0xffff4000",
            ),
            (&set(TDX_AT + 16 + 2, &[1]), "it ends before its TDX sections"),
            (
                &set(TDX_AT + 16 + 17, &[0x10]),
                "it has a section that is longer in the file than in memory",
            ),
        ] {
            assert_eq!(why(change), format!("cannot read a.fd: {cause}"));
        }
    }

    proptest! {
        #[test]
        fn no_firmware_panics(
            at in prop_oneof![SIZE - 0x100..SIZE - 8, SEV_AT..SEV_AT + 100, TDX_AT..TDX_AT + 180],
            bytes in any::<[u8; 4]>(),
        ) {
            let mut file = sample();
            file[at..][..4].copy_from_slice(&bytes);
            if let Ok(firmware) = Firmware::parse("a.fd", &file) {
                let _ = (firmware.sev_sections(), firmware.tdx_sections());
                let _ = (firmware.hash_table(), firmware.reset_address());
            }
        }
    }
}
