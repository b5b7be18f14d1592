//! Programs of the firmware: PE files, their sections, and the hash that Authenticode has of them.
//!
//! The hash is taken as EDK2 takes it (`SecurityPkg/Tcg/Tcg2Dxe/MeasureBootPeCoff.c`): a file whose
//! length is no multiple of 8 bytes is hashed as it is, where the tools that sign pad it first.
//!
//! Sources: "PE Format" and "Windows Authenticode Portable Executable Signature Format", Microsoft.

use cvm_init::error::Result;

use crate::measure::bytes::Bytes;
use crate::measure::hash::Digests;

/// Where the DOS header says that the PE header is.
const PE_OFFSET_AT: u64 = 0x3c;
/// "PE\0\0", then the COFF header.
const SIGNATURE_SIZE: u64 = 4;
const COFF_SIZE: u64 = 20;
const SECTION_SIZE: u64 = 40;
/// The certificates are the fifth data directory, of 8 bytes each.
const CERTIFICATES: u64 = 4;
const DIRECTORY_SIZE: u64 = 8;

/// A section, by what it has in the file.
#[derive(Debug, Clone)]
struct Section<'a> {
    name: [u8; 8],
    /// Bytes that it has in memory; less than in the file where the file pads it.
    memory: u64,
    start: u64,
    data: &'a [u8],
}

/// A program of the firmware.
#[derive(Debug, Clone)]
pub struct Pe<'a> {
    sections: Vec<Section<'a>>,
    /// What is hashed, in this order.
    hashed: Vec<&'a [u8]>,
}

impl<'a> Pe<'a> {
    /// A file of this name.
    ///
    /// # Errors
    /// What is wrong with it: no PE, or cut off.
    pub fn parse(name: &'a str, data: &'a [u8]) -> Result<Self> {
        let file = Bytes::new(name, data);
        if !data.starts_with(b"MZ") {
            return Err(file.refuse("it is no program for the firmware (a PE begins with MZ)"));
        }
        let pe = u64::from(file.le32("place of the PE header", PE_OFFSET_AT)?);
        if file.array("PE header", pe)? != *b"PE\0\0" {
            return Err(file.refuse("it is no program for the firmware (it has no PE header)"));
        }
        let coff = pe + SIGNATURE_SIZE;
        let count = file.le16("number of sections", coff + 2)?;
        let optional = coff + COFF_SIZE;
        let optional_size = u64::from(file.le16("size of the optional header", coff + 16)?);
        let (count_at, directories) = match file.le16("optional header", optional)? {
            0x10b => (optional + 92, optional + 96),
            0x20b => (optional + 108, optional + 112),
            other => return Err(file.refuse(&format!("its optional header is of kind {other:#x}"))),
        };
        let headers = u64::from(file.le32("size of the headers", optional + 60)?);
        let checksum = optional + 64;
        let entry = directories + CERTIFICATES * DIRECTORY_SIZE;

        let mut sections = Vec::new();
        for index in 0..u64::from(count) {
            let at = optional + optional_size + index * SECTION_SIZE;
            let size = u64::from(file.le32("table of sections", at + 16)?);
            let start = u64::from(file.le32("table of sections", at + 20)?);
            sections.push(Section {
                name: file.array("table of sections", at)?,
                memory: u64::from(file.le32("table of sections", at + 8)?),
                start,
                data: file.get("sections", if size == 0 { 0 } else { start }, size)?,
            });
        }

        // The checksum, the place of the certificates and these themselves are left out.
        let part = |start: u64, end: u64| {
            let size = end.checked_sub(start);
            let size = size.ok_or_else(|| file.refuse("its headers end before their fields"))?;
            file.get("headers", start, size)
        };
        let mut hashed = vec![part(0, checksum)?];
        let mut certificates = 0;
        if u64::from(file.le32("number of directories", count_at)?) > CERTIFICATES {
            certificates = u64::from(file.le32("certificates", entry + 4)?);
            hashed.push(part(checksum + 4, entry)?);
            hashed.push(part(entry + DIRECTORY_SIZE, headers)?);
        } else {
            hashed.push(part(checksum + 4, headers)?);
        }
        let mut in_order: Vec<_> =
            sections.iter().filter(|section| !section.data.is_empty()).collect();
        in_order.sort_by_key(|section| section.start);
        hashed.extend(in_order.iter().map(|section| section.data));
        let sum = in_order.iter().map(|section| section.data.len() as u64).sum::<u64>() + headers;
        let rest = file.len().checked_sub(sum).and_then(|rest| rest.checked_sub(certificates));
        match rest {
            Some(rest) => hashed.push(file.get("rest", sum, rest)?),
            // The firmware looks at the rest, and at the certificates, only where there is one.
            None if file.len() <= sum => {}
            None => return Err(file.refuse("its certificates lie over its sections")),
        }
        Ok(Self { sections, hashed })
    }

    /// What firmware measures of it, and what a signature signs.
    #[must_use]
    pub fn authenticode(&self) -> Digests {
        Digests::of(&self.hashed)
    }

    /// What a section of this name holds in memory, as far as the file fills it.
    #[must_use]
    pub fn section(&self, name: &str) -> Option<&'a [u8]> {
        let section = self.sections.iter().find(|section| {
            let used =
                section.name.iter().position(|byte| *byte == 0).unwrap_or(section.name.len());
            section.name.get(..used) == Some(name.as_bytes())
        })?;
        let size = usize::try_from(section.memory).unwrap_or(usize::MAX);
        section.data.get(..size).or(Some(section.data))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEADERS: usize = 0x400;

    /// A program of these sections, each of them padded to 512 bytes in the file.
    pub(crate) fn sample(sections: &[(&str, &[u8])]) -> Vec<u8> {
        let mut file = vec![0; HEADERS];
        let mut put = |at: usize, bytes: &[u8]| file[at..][..bytes.len()].copy_from_slice(bytes);
        let mut start = HEADERS;
        put(0, b"MZ");
        put(0x3c, &[0x40]);
        put(0x40, b"PE\0\0");
        put(0x46, &u16::try_from(sections.len()).unwrap().to_le_bytes());
        put(0x54, &240_u16.to_le_bytes());
        put(0x58, &0x20b_u16.to_le_bytes());
        put(0x58 + 60, &u32::try_from(HEADERS).unwrap().to_le_bytes());
        put(0x58 + 108, &[16]);
        for (index, (name, data)) in sections.iter().enumerate() {
            let at = 0x58 + 240 + index * 40;
            let size = data.len().next_multiple_of(512);
            let number = |n: usize| u32::try_from(n).unwrap().to_le_bytes();
            put(at, name.as_bytes());
            put(at + 8, &number(data.len()));
            put(at + 16, &number(size));
            put(at + 20, &number(start));
            start += size;
        }
        for (_, data) in sections {
            file.extend_from_slice(data);
            file.resize(file.len().next_multiple_of(512), 0);
        }
        file
    }

    fn authenticode(file: &[u8]) -> Digests {
        Pe::parse("a.efi", file).unwrap().authenticode()
    }

    #[test]
    fn checksum_and_certificates_are_left_out_and_all_else_counts() {
        let file = sample(&[(".text", b"a program"), (".cmdline", b"quiet")]);
        let hash = authenticode(&file);
        let with = |at: usize, bytes: &[u8]| {
            let mut file = file.clone();
            file[at..][..bytes.len()].copy_from_slice(bytes);
            file
        };
        assert_eq!(authenticode(&with(0x58 + 64, b"\xff\xff\xff\xff")), hash);
        let mut signed = with(0x58 + 112 + 32, &[0, 8, 0, 0, 16, 0, 0, 0]);
        signed.extend([7; 16]);
        assert_eq!(authenticode(&signed), hash);
        for at in [2, 0x200, HEADERS, HEADERS + 511, HEADERS + 512] {
            assert_ne!(authenticode(&with(at, &[9])), hash, "{at:#x}");
        }
        // What lies behind the sections is hashed as it is.
        let longer = [&file[..], b"x"].concat();
        assert_ne!(authenticode(&longer), hash);
        assert_ne!(authenticode(&longer), authenticode(&[&longer[..], &[0; 7]].concat()));
    }

    #[test]
    fn sections_are_hashed_in_the_order_of_their_places() {
        let file = sample(&[(".a", b"a"), (".b", b"b")]);
        let mut swapped = file.clone();
        let table = 0x58 + 240;
        swapped[table..][..40].copy_from_slice(&file[table + 40..][..40]);
        swapped[table + 40..][..40].copy_from_slice(&file[table..][..40]);
        // The headers differ, and nothing else.
        let parts: [&[u8]; 3] =
            [&swapped[..0x58 + 64], &swapped[0x58 + 68..0x58 + 144], &swapped[0x58 + 152..]];
        assert_eq!(authenticode(&swapped), Digests::of(&parts));
    }

    #[test]
    fn a_section_is_what_it_has_in_memory() {
        let file = sample(&[(".cmdline", b"quiet"), (".linux", &[3; 600])]);
        let pe = Pe::parse("a.efi", &file).unwrap();
        assert_eq!(pe.section(".cmdline"), Some(&b"quiet"[..]));
        assert_eq!(pe.section(".linux"), Some(&[3; 600][..]));
        assert_eq!(pe.section(".initrd"), None);
    }

    #[test]
    fn what_is_broken_is_named() {
        let file = sample(&[(".text", b"a program")]);
        let why = |file: &[u8]| Pe::parse("a.efi", file).unwrap_err().to_string();
        let no_program = "cannot read a.efi: it is no program for the firmware";
        assert!(why(b"").starts_with(no_program));
        assert!(why(b"#!/bin/sh").starts_with(no_program));
        assert_eq!(why(b"MZ"), "cannot read a.efi: it ends before its place of the PE header");
        assert_eq!(why(&file[..0x60]), "cannot read a.efi: it ends before its size of the headers");
        assert_eq!(why(&file[..=HEADERS]), "cannot read a.efi: it ends before its sections");
        let with = |at: usize, bytes: &[u8]| {
            let mut file = file.clone();
            file[at..][..bytes.len()].copy_from_slice(bytes);
            why(&file)
        };
        assert!(with(0x40, b"NE").starts_with(no_program));
        assert_eq!(with(0x58, &[7]), "cannot read a.efi: its optional header is of kind 0x207");
        assert_eq!(
            with(0x58 + 60, &[0; 4]),
            "cannot read a.efi: its headers end before their fields"
        );
        // Behind the sections there is room for certificates in a longer file only.
        let mut longer = file.clone();
        longer[0x58 + 112 + 36..][..4].copy_from_slice(&[16, 0, 0, 0]);
        longer.push(0);
        assert_eq!(why(&longer), "cannot read a.efi: its certificates lie over its sections");
    }

    proptest! {
        #[test]
        fn no_program_panics(at in 0..0x200_usize, bytes in any::<[u8; 4]>(), cut in 0..0x600_usize) {
            let mut file = sample(&[(".a", b"a"), (".b", &[2; 300])]);
            file[at..][..4].copy_from_slice(&bytes);
            file.truncate(file.len() - cut);
            if let Ok(pe) = Pe::parse("a.efi", &file) {
                let _ = (pe.authenticode(), pe.section(".a"));
            }
        }
    }
}
