//! The entries of a layer's archive: a tar in the spellings of POSIX (ustar, pax) and GNU.
//!
//! The header's fields are read by the `tar` crate, the walk from one to the next is done here: the
//! crate reads what stands for a long name into memory however long it is, which a few KiB of gzip
//! make many GiB.

use std::io::{self, Read, Take};

use cvm_init::error::{Error, Result};
use tar::Header;

use super::entry::{Entry, What, field};
use super::path::quoted;
use super::pax::Extended;

/// Headers and data come in blocks of this.
const BLOCK: usize = 512;
/// What stands for a long name, or a pax header: more than any file needs.
const EXTENDED_MAX: u64 = 1 << 20;
/// A large image has some 500,000 files; each takes some 500 bytes of memory here.
const ENTRIES_MAX: usize = 1 << 22;
/// A stream of entries.
pub struct Archive<R> {
    stream: R,
    /// Of the data of the entry that was read last.
    data: u64,
    /// What fills its last block.
    padding: u64,
    number: usize,
}

impl<R: Read> Archive<R> {
    /// The archive that begins here.
    pub fn new(stream: R) -> Self {
        Self { stream, data: 0, padding: 0, number: 0 }
    }

    /// The next entry, or nothing at the end of the archive.
    ///
    /// # Errors
    /// There is one that cannot be read, or that cannot be kept as it is.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        let mut extended = Extended::default();
        loop {
            let Some(header) = self.header()? else {
                return if extended.any {
                    Err(Error::new("its last entry is cut off"))
                } else {
                    Ok(None)
                };
            };
            let kind = header.as_old().linkflag[0];
            match kind {
                b'L' => extended.name(self.text(&header)?)?,
                b'K' => extended.target(self.text(&header)?)?,
                b'x' => extended.pax(&self.small(&header)?)?,
                b'g' => {
                    // git puts a comment there. Anything else would be about all entries behind it.
                    let mut global = Extended::default();
                    global.pax(&self.small(&header)?)?;
                    if !global.says_nothing() {
                        return Err(Error::new("a pax header for all entries is not known here"));
                    }
                }
                _ => {
                    let name =
                        extended.path.clone().unwrap_or_else(|| header.path_bytes().into_owned());
                    let entry = self.entry(&name, &header, extended);
                    return entry.map(Some).map_err(|cause| {
                        Error::cannot(&format!("take {}", quoted(&name)), &cause)
                    });
                }
            }
        }
    }

    /// The data of the entry that was read last, or what is left of it.
    pub fn data(&mut self) -> Take<Data<'_, R>> {
        let left = self.data;
        Data(self).take(left)
    }

    /// The stream behind what was read.
    pub fn into_inner(self) -> R {
        self.stream
    }

    fn entry(&mut self, name: &[u8], header: &Header, extended: Extended) -> Result<Entry> {
        let number = self.number;
        self.number = number.saturating_add(1);
        if number == ENTRIES_MAX {
            return Err(Error::new(format!("there are more than {ENTRIES_MAX} entries")));
        }
        let entry = Entry::new(number, name, header, extended)?;
        if let What::File(size) = entry.what {
            self.begin(size);
        }
        Ok(entry)
    }

    /// The next header, or nothing where the archive ends: at a block of zeros, or without one.
    fn header(&mut self) -> Result<Option<Header>> {
        let left = self.data.saturating_add(self.padding);
        let passed = io::copy(&mut self.stream.by_ref().take(left), &mut io::sink());
        if passed.map_err(|cause| unreadable(&cause))? < left {
            return Err(Error::new("it ends within a file"));
        }
        self.begin(0);
        let mut header = Header::new_old();
        let bytes = header.as_mut_bytes();
        match read_full(&mut self.stream, bytes).map_err(|cause| unreadable(&cause))? {
            0 => return Ok(None),
            BLOCK => {}
            _ => return Err(Error::new("it ends within a header")),
        }
        if *bytes == [0; BLOCK] {
            return Ok(None);
        }
        // With blanks in place of the sum itself.
        let sum: u32 = bytes.iter().map(|byte| u32::from(*byte)).sum();
        let own: u32 = header.as_old().cksum.iter().map(|byte| u32::from(*byte)).sum();
        let sum = sum.wrapping_sub(own).wrapping_add(8 * u32::from(b' '));
        if header.cksum().ok() != Some(sum) {
            return Err(Error::new("it is no tar, or damaged: the sum of a header is wrong"));
        }
        Ok(Some(header))
    }

    /// What is behind a header is data of this length.
    fn begin(&mut self, size: u64) {
        self.data = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    /// The data of a header that says something of the entry behind it.
    fn small(&mut self, header: &Header) -> Result<Vec<u8>> {
        let size = field("size", header.entry_size())?;
        if size > EXTENDED_MAX {
            return Err(Error::new(format!(
                "{size} bytes are too many for what is said of one file"
            )));
        }
        self.begin(size);
        let mut bytes = Vec::new();
        self.data().read_to_end(&mut bytes).map_err(|cause| unreadable(&cause))?;
        Ok(bytes)
    }

    /// The same for one that ends with a NUL.
    fn text(&mut self, header: &Header) -> Result<Vec<u8>> {
        let mut text = self.small(header)?;
        if text.last() == Some(&0) {
            text.pop();
        }
        Ok(text)
    }
}

/// The entries of an archive, without their data.
///
/// # Errors
/// One cannot be read, or cannot be kept as it is.
pub fn entries(stream: impl Read) -> Result<Vec<Entry>> {
    let mut archive = Archive::new(stream);
    let mut entries = Vec::new();
    while let Some(entry) = archive.next_entry()? {
        entries.push(entry);
    }
    Ok(entries)
}

/// Reads an archive's stream and keeps count of it.
pub struct Data<'a, R>(&'a mut Archive<R>);

impl<R: Read> Read for Data<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.stream.read(buffer)?;
        self.0.data = self.0.data.saturating_sub(read as u64);
        Ok(read)
    }
}

/// As much as there is of what would fill the buffer.
fn read_full(stream: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    while let Some(rest) = buffer.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match stream.read(rest) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(read)
}

fn unreadable(cause: &io::Error) -> Error {
    Error::cannot(&"read it", cause)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tar::{Builder, EntryType};

    use super::super::{Meta, Path};
    use super::*;

    fn header(kind: EntryType, name: &[u8]) -> Header {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_entry_type(kind);
        header.set_mode(0o100_644);
        header.set_uid(1);
        header.set_gid(2);
        header.set_mtime(3);
        header.set_size(0);
        header.set_device_major(0).unwrap();
        header.set_device_minor(0).unwrap();
        header
    }

    fn archive(entries: &[(Header, &[u8])]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (header, data) in entries {
            let mut header = header.clone();
            header.set_cksum();
            builder.append(&header, *data).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn refusal(bytes: &[u8]) -> String {
        entries(bytes).unwrap_err().to_string()
    }

    #[test]
    fn entries_have_what_their_headers_say() {
        let mut file = header(EntryType::Regular, b"file");
        file.set_size(5);
        let mut null = header(EntryType::Char, b"null");
        null.set_device_major(1).unwrap();
        null.set_device_minor(3).unwrap();
        let mut link = header(EntryType::Symlink, b"link");
        link.as_old_mut().linkname[..5].copy_from_slice(b"/a//b");
        let mut long = header(EntryType::GNULongName, b"././@LongLink");
        let name = [&b"x/".repeat(60)[..], b"\0"].concat();
        long.set_size(name.len() as u64);
        let bytes = archive(&[
            (header(EntryType::Directory, b"./"), b""),
            (file, b"12345"),
            (null, b""),
            (link, b""),
            (long, &name),
            (header(EntryType::Directory, b"cut"), b""),
            (header(EntryType::Regular, b"an old folder/"), b""),
        ]);
        let meta = Meta { mode: 0o644, uid: 1, gid: 2, mtime: 3, ..Meta::default() };
        let expected = [
            (".", What::Folder),
            ("file", What::File(5)),
            ("null", What::Char(1, 3)),
            ("link", What::Symlink(b"/a//b".to_vec())),
            (&"x/".repeat(60), What::Folder),
            ("an old folder", What::Folder),
        ];
        let expected: Vec<_> = expected
            .into_iter()
            .enumerate()
            .map(|(number, (path, what))| {
                let path = Path::parse(path.as_bytes()).unwrap();
                Entry { path, what, meta: meta.clone(), number }
            })
            .collect();
        assert_eq!(entries(&bytes[..]), Ok(expected));
        // Not every tool writes the blocks of zeros at the end.
        assert_eq!(entries(&bytes[..bytes.len() - 1024]), entries(&bytes[..]));
    }

    #[test]
    fn an_archive_that_is_cut_or_damaged_is_refused() {
        let mut file = header(EntryType::Regular, b"file");
        file.set_size(600);
        let bytes = archive(&[(file, &[1; 600])]);
        assert_eq!(refusal(&bytes[..100]), "it ends within a header");
        assert_eq!(refusal(&bytes[..512 + 599]), "it ends within a file");
        assert_eq!(refusal(&bytes[..512 + 1023]), "it ends within a file");
        let mut damaged = bytes.clone();
        damaged[0] ^= 1;
        assert_eq!(refusal(&damaged), "it is no tar, or damaged: the sum of a header is wrong");
        let mut long = header(EntryType::GNULongName, b"././@LongLink");
        long.set_size(2);
        let bytes = archive(&[(long, b"x\0")]);
        assert_eq!(refusal(&bytes), "its last entry is cut off");
    }

    #[test]
    fn what_cannot_be_kept_is_refused_by_name() {
        let with = |kind, change: fn(&mut Header)| {
            let mut header = header(kind, b"name");
            change(&mut header);
            refusal(&archive(&[(header, b"")]))
        };
        for (kind, change, why) in [
            (EntryType::GNUSparse, (|_| {}) as fn(&mut Header), "its type 'S' is not known here"),
            (EntryType::Char, |_| {}, "the character device 0:0 is overlayfs' mark"),
            (
                EntryType::Block,
                |h| h.set_device_major(4096).unwrap(),
                "4096:0, is none that Linux has",
            ),
            (EntryType::Directory, |h| h.set_size(1), "it has 1 bytes of data, and is no file"),
            (EntryType::Regular, |h| h.set_uid(0xffff_ffff), "its owner, 4294967295, is none"),
            (EntryType::Regular, |h| h.set_mtime(1 << 34), "before 1970 or after 2446"),
            (EntryType::Regular, |h| h.as_old_mut().mode = *b"rw-r--r-", "its mode is no number"),
            (EntryType::Symlink, |_| {}, r#"it links to """#),
            (EntryType::Link, |h| h.as_old_mut().linkname[0] = b'/', r#""/" is an absolute path"#),
        ] {
            let refusal = with(kind, change);
            assert!(refusal.starts_with(r#"cannot take "name": "#), "{refusal}");
            assert!(refusal.contains(why), "{refusal}, not {why}");
        }
    }

    #[test]
    fn what_is_said_of_all_entries_may_be_a_comment() {
        let with = |text: &[u8]| {
            let mut global = header(EntryType::XGlobalHeader, b"pax_global_header");
            global.set_size(text.len() as u64);
            let file = header(EntryType::Regular, b"file");
            entries(&archive(&[(global, text), (file, b"")])[..])
        };
        assert_eq!(with(b"16 comment=1234\n").map(|entries| entries.len()), Ok(1));
        for text in [&b"8 uid=7\n"[..], b"10 path=a\n", b"27 SCHILY.xattr.user.x=123\n"] {
            let refusal = with(text).unwrap_err().to_string();
            assert_eq!(refusal, "a pax header for all entries is not known here");
        }
    }

    #[test]
    fn what_stands_for_a_name_is_not_read_however_long_it_is() {
        let mut long = header(EntryType::XHeader, b"pax");
        long.set_size(1 << 40);
        assert_eq!(
            refusal(&archive(&[(long, b"")])),
            "1099511627776 bytes are too many for what is said of one file"
        );
    }

    proptest! {
        #[test]
        fn no_archive_panics(changes: Vec<(usize, u8)>, cut in 0_usize..4096) {
            let mut file = header(EntryType::Regular, b"file");
            file.set_size(600);
            let mut bytes = archive(&[(header(EntryType::XHeader, b"pax"), b""), (file, &[1; 600])]);
            for (at, byte) in changes {
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            bytes.truncate(cut);
            if let Ok(entries) = entries(&bytes[..]) {
                prop_assert!(entries.len() <= bytes.len() / BLOCK);
            }
        }
    }
}
