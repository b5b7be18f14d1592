//! Files that are still open when nobody is left to close them.

#![expect(unsafe_code, reason = "a descriptor that is not ours by type cannot be closed otherwise")]

use std::os::fd::{BorrowedFd, RawFd};

use rustix::fs::{FileType, Stat, fstat, major};

/// Behind the standard streams, up to the limit that the kernel starts init with.
const DESCRIPTORS: std::ops::Range<RawFd> = 3..1024;

/// Closes block devices and all files that lie on one: each would keep its disk or mapping in use.
/// Whoever has them open finds them closed.
pub fn close_on_disks() {
    for number in DESCRIPTORS {
        // SAFETY: the number is used for this one call, which answers EBADF when nothing is open.
        let stat = fstat(unsafe { BorrowedFd::borrow_raw(number) });
        if stat.is_ok_and(|stat| lies_on_disk(&stat)) {
            // SAFETY: the caller gives up every file of this kind, and opens none after this.
            unsafe { rustix::io::close(number) };
        }
    }
}

/// A file system that lies on no block device has a device number with major 0.
fn lies_on_disk(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice || major(stat.st_dev) != 0
}
