//! What the kernel calls a block device by, and counts it in.

use std::fmt;

/// Bytes in a sector, in sysfs and in the device-mapper, whatever the disk's own size is.
pub const SECTOR: u64 = 512;

/// A device number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dev {
    /// Driver.
    pub major: u32,
    /// Device of that driver.
    pub minor: u32,
}

impl Dev {
    /// From the kernel's "huge" encoding in 64 bits, as the device-mapper returns it.
    #[must_use]
    pub fn from_huge(dev: u64) -> Self {
        let field = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        Self { major: field(dev >> 8 & 0xfff), minor: field(dev & 0xff | dev >> 12 & 0xfff_ff00) }
    }

    /// From `st_rdev` of a device's node.
    #[must_use]
    pub fn from_rdev(rdev: u64) -> Self {
        Self { major: rustix::fs::major(rdev), minor: rustix::fs::minor(rdev) }
    }

    /// From the "MAJOR:MINOR" of a sysfs attribute.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.trim_end().split_once(':')?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }
}

impl fmt::Display for Dev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers() {
        let dev = Dev { major: 259, minor: 4 };
        assert_eq!(Dev::parse("259:4\n"), Some(dev));
        assert_eq!(dev.to_string(), "259:4");
        assert_eq!(Dev::from_huge(0x0001_0304), dev);
        assert_eq!(Dev::from_huge(0x0010_fd01), Dev { major: 253, minor: 257 });
        for bad in ["", "8", "8:", ":1", "8:x", "-1:2"] {
            assert_eq!(Dev::parse(bad), None, "{bad:?}");
        }
    }
}
