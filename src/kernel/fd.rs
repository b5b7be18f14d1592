//! Files that are still open when nobody is left to close them.

#![expect(unsafe_code, reason = "a descriptor that is not ours by type cannot be closed otherwise")]

use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, RawMode, StatxFlags, statx};
use rustix::path::Arg;

/// Behind the standard streams, up to the limit that the kernel starts init with.
const DESCRIPTORS: std::ops::Range<RawFd> = 3..1024;

/// Closes block devices, all files that lie on one, and all that were opened by way of one of `mounts`,
/// which may join file systems that do: each would keep its disk or mapping in use. Whoever has them open
/// finds them closed.
pub fn close_on_disks(mounts: &[Mount]) {
    for number in DESCRIPTORS {
        // SAFETY: the number is used for this one call, which answers EBADF when nothing is open.
        let place = Place::of(unsafe { BorrowedFd::borrow_raw(number) }, "");
        if place.is_ok_and(|place| place.is_on_disk || mounts.contains(&place.mount)) {
            // SAFETY: the caller gives up every file of this kind, and opens none after this.
            unsafe { rustix::io::close(number) };
        }
    }
}

/// A mount, also one that is detached: the number that the kernel has for it (statx(2), `stx_mnt_id`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mount(u64);

impl Mount {
    /// The one that a path leads to; `None` where there is nothing.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        Place::of(CWD, path).ok().map(|place| place.mount)
    }

    /// That of an open file.
    #[must_use]
    pub fn of_file(file: impl AsFd) -> Option<Self> {
        Place::of(file, "").ok().map(|place| place.mount)
    }
}

/// Where a file lies.
struct Place {
    mount: Mount,
    is_on_disk: bool,
}

impl Place {
    fn of(file: impl AsFd, path: impl Arg) -> rustix::io::Result<Self> {
        let wanted = StatxFlags::TYPE | StatxFlags::MNT_ID;
        let stat = statx(file, path, AtFlags::EMPTY_PATH, wanted)?;
        let kind = FileType::from_raw_mode(RawMode::from(stat.stx_mode));
        Ok(Self {
            mount: Mount(stat.stx_mnt_id),
            // A file system that lies on no block device has a device number with major 0.
            is_on_disk: kind == FileType::BlockDevice || stat.stx_dev_major != 0,
        })
    }
}
