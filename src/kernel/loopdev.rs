//! Loop devices on guest memory: block devices whose bytes the host never sees.
//!
//! The memory is a file of a ramfs, whose pages are never swapped
//! (`Documentation/filesystems/ramfs-rootfs-initramfs.rst`), unlike those of tmpfs and memfd. A page
//! of tags that had to be read from a swap file on the volume could not be read without itself.
//!
//! Sources: loop(4), fsopen(2), fsmount(2), `include/uapi/linux/loop.h`.

#![expect(unsafe_code, reason = "rustix has no typed calls for loop devices")]

use std::ffi::c_void;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use rustix::fs::{AtFlags, Mode, OFlags, fstat, openat, unlinkat};
use rustix::ioctl::{self, Ioctl, IoctlOutput, Opcode, Setter, opcode};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use crate::effect::{Effect, effect};
use crate::error::Result;
use crate::format::device::Dev;
use crate::kernel::file;

const MAKE: Effect<1> = Effect::new("make-memory", "make the file {} in memory");
const SIZE: Effect<2> = Effect::new("size-memory", "give {} {} bytes");
const FILL: Effect<1> = Effect::new("fill-memory", "fill {}");
const OPEN: Effect<1> = Effect::new("open", "open {}");
const GET_FREE: Effect<0> = Effect::new("get-loop-device", "get a loop device");
const ATTACH: Effect<2> = Effect::new("attach-memory", "put {} behind {}");
const REMOVE_NODE: Effect<1> = Effect::new("remove-node", "remove the node {}");

const CONTROL: &str = "/dev/loop-control";
const LOOP_CONFIGURE: Opcode = opcode::none(b'L', 0x0a);
const LOOP_CTL_GET_FREE: Opcode = opcode::none(b'L', 0x82);
/// The device lets go of its file when its last user has let go of it.
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// `struct loop_config` with its `struct loop_info64`. What is zero is a default: no offset, no
/// limit, sectors of 512 bytes, reads and writes through the page cache.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    /// `lo_device`, `lo_inode`, `lo_rdevice`, `lo_offset`, `lo_sizelimit`
    places: [u64; 5],
    /// `lo_number`, `lo_encrypt_type`, `lo_encrypt_key_size`
    numbers: [u32; 3],
    flags: u32,
    /// `lo_file_name`, `lo_crypt_name`, `lo_encrypt_key`
    names: [u8; 64 + 64 + 32],
    /// `lo_init`, and what is reserved
    rest: [u64; 2 + 8],
}

/// A loop device on a file in memory.
#[derive(Debug)]
pub struct MemoryDevice {
    node: PathBuf,
    dev: Dev,
    /// Keeps the device until it has another user.
    device: File,
}

impl MemoryDevice {
    /// A device of `bytes` bytes: what `write` writes to its file, and zeros. Memory is taken as it is
    /// written. `name` is what /sys shows of the file, which has no place in any file system.
    ///
    /// # Errors
    /// When the kernel has no loop devices, or `write` fails.
    pub fn create(
        name: &str,
        bytes: u64,
        write: impl FnOnce(&File) -> io::Result<()>,
    ) -> Result<Self> {
        let file = effect(MAKE.on(&[&name]), || make_file(name))?;
        effect(SIZE.on(&[&name, &bytes]), || file.set_len(bytes))?;
        effect(FILL.on(&[&name]), || write(&file))?;

        let control = effect(OPEN.on(&[&CONTROL]), || file::open(CONTROL, file::BOTH))?;
        let number = effect(GET_FREE, || {
            // SAFETY: the call takes no argument, and the answer is a number.
            unsafe { ioctl::ioctl(&control, GetFree) }
        })?;
        let node = PathBuf::from(format!("/dev/loop{number}"));
        let (device, dev) = effect(OPEN.on(&[&node.display()]), || {
            let device = file::open(&node, file::BOTH)?;
            let dev = Dev::from_rdev(fstat(&device)?.st_rdev);
            Ok::<_, io::Error>((device, dev))
        })?;
        let config = LoopConfig {
            fd: file.as_raw_fd().cast_unsigned(),
            block_size: 0,
            places: [0; 5],
            numbers: [0; 3],
            flags: LO_FLAGS_AUTOCLEAR,
            names: [0; 160],
            rest: [0; 10],
        };
        effect(ATTACH.on(&[&name, &node.display()]), || {
            // SAFETY: LOOP_CONFIGURE reads this structure, as long as the kernel's, and keeps
            // nothing of it; the file that it names is open.
            unsafe { ioctl::ioctl(&device, Setter::<LOOP_CONFIGURE, _>::new(config)) }
        })?;
        Ok(Self { node, dev, device })
    }

    /// Its device number.
    #[must_use]
    pub fn dev(&self) -> Dev {
        self.dev
    }

    /// Takes its name away and leaves it to its other user, with whom it goes. The number stays
    /// taken, so that whoever asks for a loop device gets another.
    ///
    /// # Errors
    /// When the node cannot be removed.
    pub fn hand_over(self) -> Result<()> {
        let Self { node, device, .. } = self;
        drop(device);
        effect(REMOVE_NODE.on(&[&node.display()]), || fs::remove_file(&node))
    }
}

/// Makes a file on a file system of its own, which is mounted nowhere and goes with the file.
fn make_file(name: &str) -> io::Result<File> {
    let context = fsopen("ramfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let folder = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = openat(&folder, name, flags, Mode::RUSR | Mode::WUSR)?;
    unlinkat(&folder, name, AtFlags::empty())?;
    Ok(file.into())
}

struct GetFree;

// SAFETY: LOOP_CTL_GET_FREE takes no argument and answers with the number of the device.
unsafe impl Ioctl for GetFree {
    type Output = IoctlOutput;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        LOOP_CTL_GET_FREE
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(
        number: IoctlOutput,
        _: *mut c_void,
    ) -> rustix::io::Result<IoctlOutput> {
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_sizes_are_those_of_the_kernels_header() {
        assert_eq!((LOOP_CONFIGURE, LOOP_CTL_GET_FREE), (0x4c0a, 0x4c82));
        assert_eq!(size_of::<LoopConfig>(), 304);
        assert_eq!(std::mem::offset_of!(LoopConfig, flags), 8 + 52);
    }
}
