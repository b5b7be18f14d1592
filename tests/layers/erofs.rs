//! A reader of EROFS that knows nothing of how the file systems here were made: names, owners, links,
//! devices and attributes. For the bytes of files there is fsck.erofs.
//!
//! Source: Linux, `fs/erofs/erofs_fs.h`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const BLOCK: usize = 4096;

/// All files of an EROFS by their paths, each in a line: what it is with its mode, owner and group,
/// time, names, size or what else there is of it, attributes.
pub(crate) fn listing(image: &Path) -> BTreeMap<String, String> {
    let erofs = Erofs(fs::read(image).unwrap());
    assert_eq!(erofs.u32(1024), 0xe0f5_e1e2, "the magic of EROFS");
    assert_eq!(erofs.0[1024 + 12], 12, "blocks of 4096 bytes");
    let mut files = BTreeMap::new();
    erofs.walk(erofs.u16(1024 + 14).into(), ".", &mut files);
    files
}

/// The UUID that is in its superblock.
pub(crate) fn uuid(image: &Path) -> Vec<u8> {
    fs::read(image).unwrap()[1024 + 48..][..16].to_vec()
}

struct Erofs(Vec<u8>);

struct Inode {
    /// Where it is, and how long without attributes.
    at: usize,
    length: usize,
    xattrs: usize,
    layout: u16,
    mode: u16,
    owner: (u32, u32),
    time: u64,
    links: u32,
    size: usize,
    /// First block, or number of a device.
    value: u32,
}

impl Erofs {
    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.0[at..][..2].try_into().unwrap())
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.0[at..][..4].try_into().unwrap())
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.0[at..][..8].try_into().unwrap())
    }

    fn inode(&self, number: u64) -> Inode {
        let metadata = self.u32(1024 + 40) as usize * BLOCK;
        let at = metadata + 32 * usize::try_from(number).unwrap();
        let (format, count) = (self.u16(at), usize::from(self.u16(at + 2)));
        let xattrs = if count == 0 { 0 } else { 12 + 4 * (count - 1) };
        let extended = format & 1 == 1;
        let (length, size, owner, time, links) = if extended {
            let owner = (self.u32(at + 24), self.u32(at + 28));
            (64, self.u64(at + 8), owner, self.u64(at + 32), self.u32(at + 44))
        } else {
            let owner = (self.u16(at + 24).into(), self.u16(at + 26).into());
            let built = self.u64(1024 + 24);
            (32, self.u32(at + 8).into(), owner, built, self.u16(at + 6).into())
        };
        let size = usize::try_from(size).unwrap();
        let (layout, mode, value) = (format >> 1 & 7, self.u16(at + 4), self.u32(at + 16));
        Inode { at, length, xattrs, layout, mode, owner, time, links, size, value }
    }

    /// The bytes of a directory or a link, which are not compressed.
    fn bytes(&self, inode: &Inode) -> Vec<u8> {
        let start = inode.value as usize * BLOCK;
        match inode.layout {
            0 => self.0[start..][..inode.size].to_vec(),
            2 => {
                let blocks = inode.size / BLOCK * BLOCK;
                let tail = inode.at + inode.length + inode.xattrs;
                let mut bytes =
                    if blocks > 0 { self.0[start..][..blocks].to_vec() } else { Vec::new() };
                bytes.extend(&self.0[tail..][..inode.size - blocks]);
                bytes
            }
            layout => panic!("a directory or link of layout {layout}"),
        }
    }

    fn walk(&self, number: u64, path: &str, files: &mut BTreeMap<String, String>) {
        let inode = self.inode(number);
        files.insert(path.to_owned(), self.describe(&inode));
        if inode.mode >> 12 != 4 {
            return;
        }
        for block in self.bytes(&inode).chunks(BLOCK) {
            let name_at = |entry: usize| {
                usize::from(u16::from_le_bytes([block[entry + 8], block[entry + 9]]))
            };
            let entries: Vec<_> = (0..name_at(0)).step_by(12).collect();
            for (number, entry) in entries.iter().enumerate() {
                let end = entries.get(number + 1).map_or(block.len(), |next| name_at(*next));
                let name = &block[name_at(*entry)..end];
                let name = name.split(|byte| *byte == 0).next().unwrap();
                if name == b"." || name == b".." {
                    continue;
                }
                let child = u64::from_le_bytes(block[*entry..][..8].try_into().unwrap());
                let name: String = match std::str::from_utf8(name) {
                    Ok(name) => name.to_owned(),
                    Err(_) => name.escape_ascii().to_string(),
                };
                self.walk(child, &format!("{path}/{name}"), files);
            }
        }
    }

    fn describe(&self, inode: &Inode) -> String {
        let device = inode.value;
        let device = format!("{}:{}", device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xf_ff00);
        let (kind, what) = match inode.mode >> 12 {
            1 => ('p', String::new()),
            2 => ('c', device),
            4 => ('d', String::new()),
            6 => ('b', device),
            8 => ('f', inode.size.to_string()),
            10 => ('l', String::from_utf8(self.bytes(inode)).unwrap()),
            other => panic!("a file of type {other}"),
        };
        let mut words = vec![
            format!("{kind}{:04o}", inode.mode & 0o7777),
            format!("{}:{}", inode.owner.0, inode.owner.1),
            format!("@{}", inode.time),
            what,
        ];
        if kind != 'd' && inode.links > 1 {
            words.push(format!("x{}", inode.links));
        }
        words.extend(
            self.xattrs(inode)
                .iter()
                .map(|(name, value)| format!("{name}={}", value.escape_ascii())),
        );
        words.retain(|word| !word.is_empty());
        words.join(" ")
    }

    fn xattrs(&self, inode: &Inode) -> BTreeMap<String, Vec<u8>> {
        let mut xattrs = BTreeMap::new();
        if inode.xattrs == 0 {
            return xattrs;
        }
        let start = inode.at + inode.length;
        let end = start + inode.xattrs;
        let shared = usize::from(self.0[start + 4]);
        let shared_area = self.u32(1024 + 44) as usize * BLOCK;
        for number in 0..shared {
            let id = self.u32(start + 12 + 4 * number) as usize;
            let (name, value, _) = self.xattr(shared_area + 4 * id);
            xattrs.insert(name, value);
        }
        let mut at = start + 12 + 4 * shared;
        while at < end && self.0[at + 1] != 0 {
            let (name, value, next) = self.xattr(at);
            xattrs.insert(name, value);
            at = next;
        }
        xattrs
    }

    /// One attribute, and where the next begins.
    fn xattr(&self, at: usize) -> (String, Vec<u8>, usize) {
        let (name, space, value) =
            (usize::from(self.0[at]), self.0[at + 1], usize::from(self.u16(at + 2)));
        let space = match space {
            1 => "user.",
            4 => "trusted.",
            6 => "security.",
            other => panic!("an attribute of space {other}"),
        };
        let bytes = &self.0[at + 4..][..name + value];
        let (name, value) = bytes.split_at(name);
        let name = format!("{space}{}", String::from_utf8(name.to_vec()).unwrap());
        (name, value.to_vec(), (at + 4 + bytes.len()).next_multiple_of(4))
    }
}
