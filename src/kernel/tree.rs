//! Directory trees: a faithful copy of one, and the emptying of one file system.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use rustix::buffer::spare_capacity;
use rustix::fs::{
    AtFlags, CWD, Dev, FileType, Mode, OFlags, RawDir, SeekFrom, Timespec, Timestamps, XattrFlags,
    mkdirat,
};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// Longest list of names and longest value of extended attributes (xattr(7)).
const XATTR_MAX: usize = 64 * 1024;

/// Bytes of a directory's entries that are asked for at once.
const ENTRIES: usize = 4096;

/// Copies what `from` holds into the directory `to`, with owners, modes, times, links, device
/// nodes and extended attributes; `to` itself gets those of `from`. Neither path ends in a link.
///
/// # Errors
/// The first file that could not be copied, by its name in `from`. `to` is then incomplete.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    Copy { root: from, linked: BTreeMap::new() }.directory(from, to)
}

struct Copy<'a> {
    root: &'a Path,
    /// First copy of each file that has several names, by its device and inode number.
    linked: BTreeMap<(u64, u64), PathBuf>,
}

impl Copy<'_> {
    fn directory(&mut self, from: &Path, to: &Path) -> Result<()> {
        for entry in fs::read_dir(from).map_err(self.cannot_copy(from))? {
            let entry = entry.map_err(self.cannot_copy(from))?;
            let (from, to) = (entry.path(), to.join(entry.file_name()));
            let kind = entry.file_type().map_err(self.cannot_copy(&from))?;
            if kind.is_dir() {
                mkdirat(CWD, &to, Mode::RWXU)
                    .map_err(io::Error::from)
                    .map_err(self.cannot_copy(&from))?;
                self.directory(&from, &to)?;
            } else {
                self.file(&from, &to).map_err(self.cannot_copy(&from))?;
            }
        }
        // Last, because each new entry changes the directory's times.
        copy_attributes(from, to).map_err(self.cannot_copy(from))
    }

    fn cannot_copy(&self, path: &Path) -> impl Fn(io::Error) -> Error {
        let name = path.strip_prefix(self.root).unwrap_or(path).to_owned();
        move |cause| match name.to_str() {
            Some("") => Error::cannot(&"copy the directory itself", &cause),
            _ => Error::cannot(&format!("copy {}", name.display()), &cause),
        }
    }

    /// Copies anything but a directory.
    fn file(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let metadata = fs::symlink_metadata(from)?;
        if metadata.nlink() > 1 {
            let file = (metadata.dev(), metadata.ino());
            if let Some(first) = self.linked.get(&file) {
                return fs::hard_link(first, to);
            }
            self.linked.insert(file, to.to_owned());
        }
        let kind = metadata.file_type();
        if kind.is_symlink() {
            symlink(fs::read_link(from)?, to)?;
        } else if kind.is_file() {
            let target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
            content(&File::open(from)?, &target, metadata.len())?;
        } else {
            // FIFOs, sockets and device nodes have no content, only a type and a number.
            let kind = FileType::from_raw_mode(metadata.mode());
            rustix::fs::mknodat(CWD, to, kind, Mode::RUSR, metadata.rdev())?;
        }
        copy_attributes(from, to)
    }
}

/// Copies a file's content of `size` bytes; what was never written in it stays so.
fn content(mut from: &File, mut to: &File, size: u64) -> io::Result<()> {
    to.set_len(size)?;
    let mut end = 0;
    loop {
        let start = match rustix::fs::seek(from, SeekFrom::Data(end)) {
            // Nothing but a hole is left.
            Err(Errno::NXIO) => return Ok(()),
            outcome => outcome?,
        };
        end = rustix::fs::seek(from, SeekFrom::Hole(start))?;
        for file in [from, to] {
            rustix::fs::seek(file, SeekFrom::Start(start))?;
        }
        io::copy(&mut (&mut from).take(end.saturating_sub(start)), &mut to)?;
    }
}

/// Gives `to` the owner, extended attributes, mode and times of `from`, in this order: a change
/// of owner clears set-user-ID bits and capabilities, an ACL may clear the set-group-ID bit, a mode
/// may forbid to write, attributes too, and any change sets a time. A link is not followed.
///
/// # Errors
/// When one of them cannot be read, or be kept where `to` is.
pub fn copy_attributes(from: &Path, to: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(from)?;
    lchown(to, Some(metadata.uid()), Some(metadata.gid()))?;
    extended_attributes(from, to)?;
    if !metadata.is_symlink() {
        fs::set_permissions(to, metadata.permissions())?;
    }
    let times = Timestamps {
        last_access: Timespec { tv_sec: metadata.atime(), tv_nsec: metadata.atime_nsec() },
        last_modification: Timespec { tv_sec: metadata.mtime(), tv_nsec: metadata.mtime_nsec() },
    };
    rustix::fs::utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

fn extended_attributes(from: &Path, to: &Path) -> io::Result<()> {
    let mut names = Vec::with_capacity(XATTR_MAX);
    match rustix::fs::llistxattr(from, spare_capacity(&mut names)) {
        // The file system keeps none.
        Err(Errno::OPNOTSUPP) => return Ok(()),
        outcome => outcome?,
    };
    for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let mut value = Vec::with_capacity(XATTR_MAX);
        rustix::fs::lgetxattr(from, name, spare_capacity(&mut value))?;
        rustix::fs::lsetxattr(to, name, &value, XattrFlags::empty()).map_err(|cause| {
            let name = String::from_utf8_lossy(name);
            let bytes = value.len();
            io::Error::other(format!("its attribute {name} of {bytes} bytes: {cause}"))
        })?;
    }
    Ok(())
}

/// Removes all that `dir` holds, except other file systems mounted below it.
///
/// # Errors
/// The first entry that could not be removed.
pub fn clear(dir: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let device = rustix::fs::fstat(dir)?.st_dev;
    // Wherever it was read to before.
    rustix::fs::seek(dir, SeekFrom::Start(0))?;
    clear_on(device, dir)
}

/// The same of a directory on this device.
fn clear_on(device: Dev, dir: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let mut buffer = [MaybeUninit::uninit(); ENTRIES];
    let mut entries = RawDir::new(dir, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let mut flags = AtFlags::empty();
        // The file systems that an initramfs is unpacked into say what an entry is (`dcache_readdir` and,
        // for tmpfs from Linux 6.6 on, `offset_readdir` in the kernel's `fs/libfs.c`).
        if entry.file_type() == FileType::Directory {
            let below = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let below = rustix::fs::openat(dir, name, below, Mode::empty())?;
            if rustix::fs::fstat(&below)?.st_dev != device {
                continue;
            }
            clear_on(device, below.as_fd())?;
            flags = AtFlags::REMOVEDIR;
        }
        match rustix::fs::unlinkat(dir, name, flags) {
            // Another file system is mounted on it.
            Err(Errno::BUSY) if flags.is_empty() => {}
            outcome => outcome?,
        }
    }
    Ok(())
}
