//! 9P shares that the host offers over virtio. Their content is the host's word.
//!
//! Source: `Documentation/filesystems/9p.rst`.

use std::io;
use std::path::Path;

use crate::kernel::mount::{self, Flags};
use crate::kernel::{attribute, file};

/// Options of a share's mount, as in the image build's fstab.
pub const OPTIONS: &str = "trans=virtio,version=9p2000.L,cache=mmap,nofail";

/// Names of the options that 9P itself has.
const OWN_OPTIONS: &[&str] = &[
    "access",
    "afid",
    "aname",
    "cache",
    "cachetag",
    "debug",
    "dfltgid",
    "dfltuid",
    "directio",
    "fscache",
    "ignoreqv",
    "locktimeout",
    "loose",
    "mmap",
    "msize",
    "nodevmap",
    "noextend",
    "noxattr",
    "port",
    "posixacl",
    "privport",
    "remotename",
    "rfdno",
    "trans",
    "uname",
    "version",
    "wfdno",
];

/// Whether an option is one that 9P itself has.
#[must_use]
pub fn is_own(option: &str) -> bool {
    OWN_OPTIONS.contains(&option.split('=').next().unwrap_or_default())
}

/// What holds for every share, whoever mounts it: nothing in it is run, is a device, or leads out of
/// it.
pub const FLAGS: Flags = mount::DATA_ONLY.union(mount::NOSYMFOLLOW);

/// The same, as an fstab says it.
pub const HARDENING: &str = "nosuid,nodev,noexec,nosymfollow";

/// The mount tags that the host offers; none where the kernel has no 9P.
///
/// # Errors
/// When sysfs cannot be read.
pub fn offered_tags() -> io::Result<Vec<String>> {
    let dir = Path::new("/sys/bus/virtio/devices");
    let devices = match file::names(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        devices => devices?,
    };
    let mut tags = Vec::new();
    for device in devices {
        // Other virtio devices have no such attribute.
        if let Ok(tag) = attribute::read(&dir.join(device).join("mount_tag")) {
            tags.push(parse_tag(&tag));
        }
    }
    Ok(tags)
}

/// The kernel shows the tag with the NUL that ends it.
#[must_use]
pub fn parse_tag(attribute: &[u8]) -> String {
    let end = attribute.iter().position(|&byte| byte == 0 || byte == b'\n');
    let tag = attribute.get(..end.unwrap_or(attribute.len()));
    String::from_utf8_lossy(tag.unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_fstab_says_what_is_mounted() {
        let (flags, data) = mount::parse_options(HARDENING, is_own).unwrap();
        assert_eq!((flags, data.as_str()), (FLAGS, ""));
        let (flags, data) = mount::parse_options(OPTIONS, is_own).unwrap();
        assert_eq!(
            (flags, data.as_str()),
            (Flags::empty(), "trans=virtio,version=9p2000.L,cache=mmap")
        );
    }

    #[test]
    fn a_tag_ends_at_its_nul() {
        assert_eq!(parse_tag(b"certs_share\0"), "certs_share");
        assert_eq!(parse_tag(b"certs_share"), "certs_share");
        assert_eq!(parse_tag(b"\0env_share"), "");
    }

    proptest! {
        #[test]
        fn no_tag_panics(tag: Vec<u8>) {
            let _ = parse_tag(&tag);
        }

        #[test]
        fn a_tag_is_what_stands_before_its_end(tag in "[^\0\n]*", end in "[\0\n].*") {
            prop_assert_eq!(parse_tag(format!("{tag}{end}").as_bytes()), tag.clone());
            prop_assert_eq!(parse_tag(tag.as_bytes()), tag);
        }
    }
}
