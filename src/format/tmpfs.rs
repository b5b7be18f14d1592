//! What tmpfs is told: its size, and the options of its own.
//!
//! Sources: tmpfs(5), `Documentation/filesystems/tmpfs.rst`, `shmem_parse_one` in the kernel's
//! `mm/shmem.c`; `memparse` in its `lib/cmdline.c`.

use std::fmt;

/// The most memory that a tmpfs may come to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// More than none.
    Bytes(u64),
    /// Of the memory there is, 1 to 100.
    Percent(u64),
}

/// What may stand behind a number of bytes, in either case, and by how much it multiplies.
const UNITS: &[([char; 2], u64)] =
    &[(['K', 'k'], 1 << 10), (['M', 'm'], 1 << 20), (['G', 'g'], 1 << 30)];

impl Size {
    /// Reads `1048576`, `512M` or `50%`. `None` for anything else: for no size at all, for 0, which
    /// tmpfs takes as no limit, and for more than there can be.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(percent) = text.strip_suffix('%') {
            let percent = number(percent)?;
            return (1..=100).contains(&percent).then_some(Self::Percent(percent));
        }
        let unit = UNITS.iter().find_map(|(names, unit)| Some((text.strip_suffix(names)?, *unit)));
        let (digits, unit) = unit.unwrap_or((text, 1));
        let bytes = number(digits)?.checked_mul(unit)?;
        (bytes > 0).then_some(Self::Bytes(bytes))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{bytes}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// What an option's value is.
#[derive(Clone, Copy)]
enum Value {
    None,
    /// As the kernel's `memparse` reads it, in decimal; 0 is no limit.
    Count,
    /// The same, or a part of the memory.
    CountOrPercent,
    Octal,
    Decimal,
    OneOf(&'static [&'static str]),
    /// What only the kernel knows to be good.
    Any,
}

/// The options that tmpfs has beside those of every file system. A kernel may be too old for some,
/// or built without them: then it refuses the mount.
const OPTIONS: &[(&str, Value)] = &[
    ("size", Value::CountOrPercent),
    ("nr_blocks", Value::Count),
    ("nr_inodes", Value::Count),
    ("mode", Value::Octal),
    ("uid", Value::Decimal),
    ("gid", Value::Decimal),
    ("huge", Value::OneOf(&["never", "always", "within_size", "advise"])),
    ("mpol", Value::Any),
    ("inode32", Value::None),
    ("inode64", Value::None),
    ("noswap", Value::None),
    ("quota", Value::None),
    ("usrquota", Value::None),
    ("grpquota", Value::None),
    ("usrquota_block_hardlimit", Value::Count),
    ("usrquota_inode_hardlimit", Value::Count),
    ("grpquota_block_hardlimit", Value::Count),
    ("grpquota_inode_hardlimit", Value::Count),
];

/// Whether tmpfs has this option of its own, and its value is one.
#[must_use]
pub fn is_own(option: &str) -> bool {
    let (name, value) = match option.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (option, None),
    };
    match (OPTIONS.iter().find(|(known, _)| *known == name).map(|(_, value)| *value), value) {
        (Some(Value::None), None) => true,
        (Some(Value::Count), Some(value)) => is_count(value),
        (Some(Value::CountOrPercent), Some(value)) => {
            is_count(value) || value.strip_suffix('%').is_some_and(|value| number(value).is_some())
        }
        (Some(Value::Octal), Some(value)) => octal(value).is_some(),
        (Some(Value::Decimal), Some(value)) => id(value).is_some(),
        (Some(Value::OneOf(names)), Some(value)) => names.contains(&value),
        (Some(Value::Any), Some(value)) => !value.is_empty(),
        _ => false,
    }
}

/// Options of which the kernel takes notice when a tmpfs is mounted for the first time, and which it
/// refuses from then on (`shmem_reconfigure` in its `mm/shmem.c`).
const OF_THE_FIRST_MOUNT: &[&str] = &["noswap", "quota", "usrquota", "grpquota"];

/// Whether an option is of no use for a tmpfs that is mounted already.
#[must_use]
pub fn is_of_the_first_mount(option: &str) -> bool {
    let (name, _) = option.split_once('=').unwrap_or((option, ""));
    // The limits of a quota come with it: `usrquota_block_hardlimit`.
    let (name, _) = name.split_once('_').unwrap_or((name, ""));
    OF_THE_FIRST_MOUNT.contains(&name)
}

/// What of a tmpfs is that of the directory on which it begins.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Directory {
    /// Its permissions.
    pub mode: Option<u32>,
    /// Its user.
    pub uid: Option<u32>,
    /// Its group.
    pub gid: Option<u32>,
}

impl Directory {
    /// What options, parted by commas, say of it; the last word counts.
    #[must_use]
    pub fn of(options: &str) -> Self {
        let last = |name: &str| {
            options.split(',').rev().find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
        };
        Self {
            mode: last("mode").and_then(octal),
            uid: last("uid").and_then(id),
            gid: last("gid").and_then(id),
        }
    }
}

/// Permissions: the kernel takes no more of the number than these bits.
fn octal(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    let mode = digits.then(|| u32::from_str_radix(text, 8).ok())??;
    Some(mode & 0o7777)
}

/// All ones is nobody's number.
fn id(text: &str) -> Option<u32> {
    number(text)?.try_into().ok().filter(|id| *id != u32::MAX)
}

fn is_count(text: &str) -> bool {
    let units = ['K', 'k', 'M', 'm', 'G', 'g', 'T', 't', 'P', 'p', 'E', 'e'];
    number(text.strip_suffix(units).unwrap_or(text)).is_some()
}

/// Decimal digits and nothing else: a sign is none.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_size_is_read_as_tmpfs_reads_it() {
        for (text, size) in [
            ("1", Size::Bytes(1)),
            ("4096", Size::Bytes(4096)),
            ("64k", Size::Bytes(64 << 10)),
            ("512M", Size::Bytes(512 << 20)),
            ("3G", Size::Bytes(3 << 30)),
            ("1%", Size::Percent(1)),
            ("100%", Size::Percent(100)),
        ] {
            assert_eq!(Size::parse(text), Some(size), "{text}");
        }
        assert_eq!(Size::Bytes(7 << 20).to_string(), "7340032");
        assert_eq!(Size::Percent(7).to_string(), "7%");
    }

    #[test]
    fn what_is_no_size_is_none() {
        for text in [
            "",
            "0",
            "0M",
            "0%",
            "%",
            "M",
            "-1",
            "+1",
            "1.5G",
            "101%",
            "1T",
            "1MB",
            "0x10",
            "1 M",
            "M1",
            "1%%",
            "1K%",
            "18446744073709551616",
            "17179869184G",
            "\u{661}",
        ] {
            assert_eq!(Size::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn its_own_options_are_known_by_their_values() {
        for option in [
            "size=0",
            "size=200%",
            "size=1T",
            "nr_inodes=50k",
            "nr_blocks=7",
            "mode=1777",
            "uid=0",
            "gid=1000",
            "huge=within_size",
            "mpol=interleave",
            "noswap",
            "inode64",
        ] {
            assert!(is_own(option), "{option}");
        }
        for option in [
            "size",
            "size=",
            "size=M",
            "size=1M\r",
            "size=10%%",
            "nr_inodes=5%",
            "mode=rwx",
            "mode=8",
            "mode=",
            "uid=root",
            "gid=4294967295",
            "gid=-1",
            "huge=perhaps",
            "mpol=",
            "noswap=1",
            "inode64=",
            "trans=virtio",
            "nosuid",
            "",
            "Size=1",
        ] {
            assert!(!is_own(option), "{option:?}");
        }
    }

    #[test]
    fn the_last_word_on_the_directory_counts() {
        let directory = Directory::of("mode=755,size=1M,uid=7,mode=1777,gid=0");
        assert_eq!(directory.mode, Some(0o1777));
        assert_eq!((directory.uid, directory.gid), (Some(7), Some(0)));
        assert_eq!(Directory::of("size=1M,modes=1"), Directory::default());
        assert_eq!(Directory::of("mode=170755").mode, Some(0o755));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = Size::parse(&text);
            let _ = is_own(&text);
            let _ = Directory::of(&text);
        }

        #[test]
        fn a_size_is_read_as_it_is_shown(bytes in 1_u64.., percent in 1_u64..=100) {
            for size in [Size::Bytes(bytes), Size::Percent(percent)] {
                prop_assert_eq!(Size::parse(&size.to_string()), Some(size));
                // What a boot is told is what tmpfs can be told.
                let option = format!("size={size}");
                prop_assert!(is_own(&option));
            }
        }

        #[test]
        fn units_multiply(count in 1_u64..1 << 34, unit in 0_usize..3) {
            let (names, factor) = UNITS[unit];
            for name in names {
                let size = Size::parse(&format!("{count}{name}"));
                prop_assert_eq!(size, count.checked_mul(factor).map(Size::Bytes));
            }
        }
    }
}
