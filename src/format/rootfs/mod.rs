//! File systems that somebody else has made, which are only read: which one it is, how far it reaches,
//! and what it asks of the kernel, all by its first bytes.
//!
//! These come to a boot through dm-verity, so they are what the image build has written. What the
//! host has a say in is how many blocks behind them are verified: [`FileSystem::require_blocks`].

mod erofs;
mod ext4;
mod squashfs;

use std::fmt;

use crate::error::{Error, Result};
use crate::format::hex;

/// Bytes from the start of a device that tell all of this: up to the end of ext4's superblock.
pub const START_BYTES: usize = 2048;

/// What a file system begins with.
pub type Start = [u8; START_BYTES];

/// Bytes in a block. dm-verity's device takes no smaller requests, and the kernel takes no larger
/// blocks than a page has.
const BLOCK_BYTES: u64 = 4096;

/// A kind of file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "their names say it")]
pub enum Kind {
    Ext4,
    Erofs,
    Squashfs,
}

impl Kind {
    /// Every one that can be mounted.
    pub const ALL: &[Self] = &[Self::Ext4, Self::Erofs, Self::Squashfs];

    /// As mount(2) and fstab(5) have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Erofs => "erofs",
            Self::Squashfs => "squashfs",
        }
    }

    /// The kernel option that it needs in any case.
    const fn option(self) -> &'static str {
        match self {
            Self::Ext4 => "EXT4_FS",
            Self::Erofs => "EROFS_FS",
            Self::Squashfs => "SQUASHFS",
        }
    }

    fn begins(self, start: &Start) -> bool {
        match self {
            Self::Ext4 => ext4::begins(start),
            Self::Erofs => erofs::begins(start),
            Self::Squashfs => squashfs::begins(start),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Bytes of the ext4 that begins here, whatever it is like and whoever has written it; `None` where none
/// does.
#[must_use]
pub fn ext4_bytes(start: &Start) -> Option<u64> {
    ext4::begins(start).then(|| ext4::bytes(start))
}

/// Something that a file system makes use of and that not every kernel has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    /// As the tools that make such file systems have it.
    pub name: String,
    /// Which kernel has it: an option of its configuration, or a version; `None` where no Linux is
    /// known to have it.
    pub kernel: Option<&'static str>,
}

impl Feature {
    fn new(name: impl Into<String>, kernel: impl Into<Option<&'static str>>) -> Self {
        Self { name: name.into(), kernel: kernel.into() }
    }
}

/// A file system by its first bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    /// Which one.
    pub kind: Kind,
    /// Blocks of 4096 bytes from the start of the device to the end of the file system.
    pub blocks: u64,
    /// What of it a kernel may lack.
    pub features: Vec<Feature>,
}

impl FileSystem {
    /// Knows a file system that a read-only mount can take. `whose` is what messages call its place:
    /// "the root".
    ///
    /// # Errors
    /// When it is none of [`Kind::ALL`] or more than one at once, or what is wrong with it and how
    /// to make it right. None of these depends on the kernel.
    pub fn recognize(start: &Start, whose: &str) -> Result<Self> {
        let mut found = kinds(start);
        let kind = match (found.next(), found.next()) {
            (Some(kind), None) => kind,
            (Some(one), Some(other)) => {
                return Err(Error::new(format!(
                    "{whose} begins as {one} and as {other}, and nothing says which it is: make it \
                     anew in an empty file"
                )));
            }
            (None, _) => return Err(Error::new(format!("{whose} is {}", unknown(start)))),
        };
        let (blocks, features) = match kind {
            Kind::Ext4 => ext4::look(start),
            Kind::Erofs => erofs::look(start),
            Kind::Squashfs => squashfs::look(start),
        }
        .map_err(|unfit| Error::new(format!("{whose}'s {kind} {unfit}")))?;
        Ok(Self { kind, blocks, features })
    }

    /// Makes sure that it lies within the blocks of 4096 bytes that there are: that are "verified".
    ///
    /// # Errors
    /// Both numbers.
    pub fn require_blocks(&self, there: u64, are: &str, whose: &str) -> Result<()> {
        if self.blocks <= there {
            return Ok(());
        }
        let Self { kind, blocks, .. } = self;
        Err(Error::new(format!("{whose}'s {kind} has {blocks} blocks, but only {there} are {are}")))
    }

    /// Makes sure that there can be a kernel that mounts it, for an image build.
    ///
    /// # Errors
    /// What no Linux has.
    pub fn require_some_kernel(&self, whose: &str) -> Result<()> {
        match self.features.iter().find(|feature| feature.kernel.is_none()) {
            None => Ok(()),
            Some(Feature { name, .. }) => {
                Err(Error::new(format!("{whose}'s {} has {name}, which no Linux has", self.kind)))
            }
        }
    }
}

/// What a kernel has to have for it, in words that follow "it is".
impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (kernel option {})", self.kind, self.kind.option())?;
        for (index, Feature { name, kernel }) in self.features.iter().enumerate() {
            let before = if index == 0 { " with" } else { "," };
            write!(f, "{before} {name} ({})", kernel.unwrap_or("no Linux has it"))?;
        }
        Ok(())
    }
}

/// Those whose magic is in a start; more than one only when something is wrong.
pub fn kinds(start: &Start) -> impl Iterator<Item = Kind> {
    Kind::ALL.iter().copied().filter(|kind| kind.begins(start))
}

/// Places at which what is no root often begins, and what it is then.
const OTHERS: &[(usize, &[u8], &str)] = &[
    (0, b"XFSB", "XFS"),
    (0, b"LUKS\xba\xbe", "a LUKS volume"),
    (0, b"verity\0\0", "a verity hash tree"),
    (512, b"EFI PART", "a whole disk with a partition table"),
];

/// What a start is that no file system of [`Kind::ALL`] has.
fn unknown(start: &Start) -> String {
    let other = OTHERS
        .iter()
        .find(|(at, magic, _)| start.get(*at..).is_some_and(|rest| rest.starts_with(magic)));
    let what = match other {
        Some((_, _, name)) => format!("it is {name}"),
        None if start.iter().all(|&byte| byte == 0) => "it begins with zeros".to_owned(),
        None => format!("it begins with {}", hex::encode(&bytes_at::<8>(start, 0))),
    };
    format!("no file system that is known (ext4, erofs, squashfs): {what}")
}

/// Bytes at a constant offset that lies within the start.
fn bytes_at<const N: usize>(start: &Start, at: usize) -> [u8; N] {
    start.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; N])
}

fn u16_at(start: &Start, at: usize) -> u16 {
    u16::from_le_bytes(bytes_at(start, at))
}

fn u32_at(start: &Start, at: usize) -> u32 {
    u32::from_le_bytes(bytes_at(start, at))
}

fn u64_at(start: &Start, at: usize) -> u64 {
    u64::from_le_bytes(bytes_at(start, at))
}

/// The numbers of the bits that are set, the lowest first.
fn bits(word: u32) -> impl Iterator<Item = u32> {
    (0..u32::BITS).filter(move |bit| word >> bit & 1 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn recognize(start: &Start) -> std::result::Result<FileSystem, String> {
        FileSystem::recognize(start, "the root").map_err(|error| error.to_string())
    }

    /// A start of zeros with these bytes in it.
    pub(super) fn start(fields: &[(usize, &[u8])]) -> Start {
        let mut start = [0; START_BYTES];
        for (at, bytes) in fields {
            start[*at..*at + bytes.len()].copy_from_slice(bytes);
        }
        start
    }

    pub(super) const EXT4: &[(usize, &[u8])] =
        &[(0x438, &[0x53, 0xef]), (0x418, &[2]), (0x404, &[0, 16]), (0x460, &[0xc2, 2])];
    pub(super) const EROFS: &[(usize, &[u8])] =
        &[(0x400, &[0xe2, 0xe1, 0xf5, 0xe0]), (0x40c, &[12]), (0x424, &[0, 8])];
    pub(super) const SQUASHFS: &[(usize, &[u8])] =
        &[(0, b"hsqs"), (12, &[0, 0, 2, 0, 0, 0, 0, 0, 6, 0, 17, 0]), (28, &[4]), (40, &[1, 0x30])];

    /// With bytes of another one in it.
    pub(super) fn with(base: &[(usize, &[u8])], more: &[(usize, &[u8])]) -> Start {
        start(&[base, more].concat())
    }

    #[test]
    fn each_is_known_by_its_magic() {
        for (fields, kind, blocks, words) in [
            (EXT4, Kind::Ext4, 4096, "ext4 (kernel option EXT4_FS)"),
            (EROFS, Kind::Erofs, 2048, "erofs (kernel option EROFS_FS)"),
            (
                SQUASHFS,
                Kind::Squashfs,
                4,
                "squashfs (kernel option SQUASHFS) with zstd (SQUASHFS_ZSTD)",
            ),
        ] {
            let found = recognize(&start(fields)).unwrap();
            assert_eq!((found.kind, found.blocks), (kind, blocks));
            assert_eq!(found.to_string(), words);
            assert_eq!(found.require_some_kernel("it"), Ok(()));
        }
    }

    #[test]
    fn two_at_once_are_none() {
        for (one, other, names) in
            [(EXT4, SQUASHFS, "ext4 and as squashfs"), (EROFS, SQUASHFS, "erofs and as squashfs")]
        {
            let message = format!(
                "the root begins as {names}, and nothing says which it is: make it anew in an \
                 empty file"
            );
            assert_eq!(recognize(&with(one, other)), Err(message));
        }
        // Their superblocks lie in the same place.
        let both = with(EXT4, &[(0x400, &[0xe2, 0xe1, 0xf5, 0xe0])]);
        assert!(recognize(&both).unwrap_err().starts_with("the root begins as ext4 and as erofs,"));
    }

    #[test]
    fn what_is_none_is_called_what_it_looks_like() {
        for (fields, what) in [
            (&[][..], "it begins with zeros"),
            (&[(0, &b"\x7fELF\x02\x01\x01\x03"[..])], "it begins with 7f454c4602010103"),
            (&[(0, b"XFSB")], "it is XFS"),
            (&[(510, b"\x55\xaaEFI PART")], "it is a whole disk with a partition table"),
            // Of ext4's magic alone nothing follows.
            (&[(0x438, &[0x53, 0xef]), (0x418, &[7])], "it begins with 0000000000000000"),
        ] {
            assert_eq!(
                recognize(&start(fields)),
                Err(format!(
                    "the root is no file system that is known (ext4, erofs, squashfs): {what}"
                ))
            );
        }
    }

    #[test]
    fn it_lies_within_what_is_verified() {
        let erofs = recognize(&start(EROFS)).unwrap();
        assert_eq!(erofs.require_blocks(2048, "verified", "the root"), Ok(()));
        assert_eq!(
            erofs.require_blocks(2047, "verified", "the root").unwrap_err().to_string(),
            "the root's erofs has 2048 blocks, but only 2047 are verified"
        );
    }

    proptest! {
        #[test]
        fn no_start_panics_and_what_is_taken_has_its_magic(
            kind in 0..4_usize,
            noise in prop::collection::vec(any::<u8>(), 256),
            keep: u64,
        ) {
            let base = [&[][..], EXT4, EROFS, SQUASHFS][kind];
            let mut bytes = start(base);
            let from = if kind == 3 || kind == 0 { 0 } else { 0x400 };
            // Noise in half of the places, or all over it.
            for (at, byte) in noise.iter().enumerate() {
                if keep >> (at % 64) & 1 == 0 {
                    bytes[from + at] = *byte;
                }
            }
            if let Ok(found) = recognize(&bytes) {
                prop_assert_eq!(kinds(&bytes).collect::<Vec<_>>(), [found.kind]);
                let fits = |there| found.require_blocks(there, "there", "it").is_ok();
                prop_assert!(fits(found.blocks) && (found.blocks == 0 || !fits(found.blocks - 1)));
                let strange = found.features.iter().any(|feature| feature.kernel.is_none());
                prop_assert_eq!(found.require_some_kernel("it").is_err(), strange);
                prop_assert_eq!(found.to_string().contains("no Linux has it"), strange);
            }
        }
    }
}
