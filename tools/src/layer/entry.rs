//! One file of a layer, as its archive has it.

use std::io;

use cvm_init::error::{Error, Result};
use tar::Header;

use super::Meta;
use super::path::{Path, quoted};
use super::pax::Extended;

/// Behind this (2446) ext4 holds no time: the build machine would change it.
const MTIME_MAX: u64 = 15_032_385_535;
/// What a symbolic link may point at (`PATH_MAX` of Linux, less the NUL).
const TARGET_MAX: usize = 4095;
/// What the numbers of a device may be (Linux, `include/linux/kdev_t.h`).
const MAJOR_MAX: u32 = 0xfff;
const MINOR_MAX: u32 = 0xf_ffff;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it is to be. Links on the way there are still to be followed.
    pub path: Path,
    /// What it is.
    pub what: What,
    /// The rest of it.
    pub meta: Meta,
    /// Which entry of the archive it is, from 0 on.
    pub number: usize,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A directory.
    Folder,
    /// A regular file of so many bytes.
    File(u64),
    /// A symbolic link, and what it points at.
    Symlink(Vec<u8>),
    /// A further name of what is at this place.
    Link(Path),
    /// A character device.
    Char(u32, u32),
    /// A block device.
    Block(u32, u32),
    /// A named pipe.
    Fifo,
}

impl Entry {
    /// From a header, and what was said of it before.
    pub(super) fn new(
        number: usize,
        name: &[u8],
        header: &Header,
        extended: Extended,
    ) -> Result<Self> {
        extended.require_readable()?;
        let size = extended.size.map_or_else(|| field("size", header.entry_size()), Ok)?;
        let target = extended.link.clone().or_else(|| Some(header.link_name_bytes()?.into_owned()));
        let target = target.unwrap_or_default();
        let what = match header.as_old().linkflag[0] {
            // Before POSIX a folder was a file with a slash behind it.
            0 | b'0' if name.ends_with(b"/") => What::Folder,
            0 | b'0' | b'7' => What::File(size),
            b'1' => What::Link(Path::parse(&target)?),
            b'2' if target.is_empty() || target.contains(&0) || target.len() > TARGET_MAX => {
                let start = quoted(target.get(..64).unwrap_or(&target));
                let length = target.len();
                return Err(Error::new(format!("it links to {start}, of {length} bytes")));
            }
            b'2' => What::Symlink(target),
            b'3' => device(header, What::Char)?,
            b'4' => device(header, What::Block)?,
            b'5' => What::Folder,
            b'6' => What::Fifo,
            other => {
                let other = char::from(other).escape_debug();
                return Err(Error::new(format!("its type '{other}' is not known here")));
            }
        };
        let is_file = matches!(what, What::File(_));
        if size > 0 && !is_file {
            return Err(Error::new(format!("it has {size} bytes of data, and is no file")));
        }
        let Extended { uid, gid, mtime, xattrs, .. } = extended;
        let meta = Meta {
            mode: field("mode", header.mode())? & 0o7777,
            uid: id("owner", uid.map_or_else(|| header.uid(), Ok))?,
            gid: id("group", gid.map_or_else(|| header.gid(), Ok))?,
            mtime: field("time", mtime.map_or_else(|| header.mtime(), Ok))?,
            xattrs: xattrs.into_iter().collect(),
        };
        if meta.mtime > MTIME_MAX {
            return Err(Error::new(format!(
                "its time, {}, is before 1970 or after 2446",
                meta.mtime
            )));
        }
        Ok(Self { path: Path::parse(name)?, what, meta, number })
    }
}

/// A field of a header, which is a number.
pub(super) fn field<T>(what: &str, value: io::Result<T>) -> Result<T> {
    value.map_err(|_| Error::new(format!("its {what} is no number")))
}

/// The highest number would leave an owner as it is.
fn id(what: &str, value: io::Result<u64>) -> Result<u32> {
    let value = field(what, value)?;
    let id = u32::try_from(value).ok().filter(|id| *id < u32::MAX);
    id.ok_or_else(|| Error::new(format!("its {what}, {value}, is none that Linux has")))
}

fn device(header: &Header, kind: fn(u32, u32) -> What) -> Result<What> {
    let major = field("device", header.device_major())?.unwrap_or_default();
    let minor = field("device", header.device_minor())?.unwrap_or_default();
    if major > MAJOR_MAX || minor > MINOR_MAX {
        return Err(Error::new(format!("its device, {major}:{minor}, is none that Linux has")));
    }
    match kind(major, minor) {
        What::Char(0, 0) => {
            Err(Error::new("the character device 0:0 is overlayfs' mark of what is removed"))
        }
        device => Ok(device),
    }
}
