//! Loop devices on guest memory: block devices whose bytes the host never sees.
//!
//! Sources: loop(4), `memfd_create(2)`, `include/uapi/linux/loop.h`.

#![expect(unsafe_code, reason = "rustix has no typed calls for loop devices")]

use std::ffi::c_void;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::ioctl::{self, Ioctl, IoctlOutput, Opcode, Setter, opcode};

use crate::block::Dev;
use crate::effect::effect;
use crate::error::Result;

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
    /// A device of `bytes` zeros, for which memory is taken as they are written. `name` is what
    /// /sys shows of its file, which has no place in any file system.
    ///
    /// # Errors
    /// When the kernel has no loop devices or no such files.
    pub fn create(name: &str, bytes: u64) -> Result<Self> {
        let file = effect(format!("make a file of {bytes} bytes in memory"), || {
            let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
            let file = File::from(memfd_create(name, flags)?);
            file.set_len(bytes)?;
            // Whoever comes by a descriptor of it can neither shorten nor lengthen the device.
            fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
            Ok::<_, io::Error>(file)
        })?;
        let node = effect(format!("get a loop device of {CONTROL}"), || {
            let control = OpenOptions::new().read(true).write(true).open(CONTROL)?;
            // SAFETY: the call takes no argument, and the answer is a number.
            let number = unsafe { ioctl::ioctl(&control, GetFree) }?;
            Ok::<_, io::Error>(PathBuf::from(format!("/dev/loop{number}")))
        })?;
        effect(format!("put the file behind {}", node.display()), || {
            let device = OpenOptions::new().read(true).write(true).open(&node)?;
            let config = LoopConfig {
                fd: file.as_raw_fd().cast_unsigned(),
                block_size: 0,
                places: [0; 5],
                numbers: [0; 3],
                flags: LO_FLAGS_AUTOCLEAR,
                names: [0; 160],
                rest: [0; 10],
            };
            // SAFETY: LOOP_CONFIGURE reads this structure, as long as the kernel's, and keeps
            // nothing of it; the file that it names is open.
            unsafe { ioctl::ioctl(&device, Setter::<LOOP_CONFIGURE, _>::new(config)) }?;
            Ok::<_, io::Error>(Self {
                dev: Dev::from_rdev(device.metadata()?.rdev()),
                node,
                device,
            })
        })
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
        effect(format!("remove the node {}", node.display()), || fs::remove_file(node))
    }
}

/// The loop devices that have a file, by their names.
///
/// # Errors
/// When sysfs cannot be read.
pub fn in_use() -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir("/sys/block")? {
        let entry = entry?;
        // The kernel shows this directory while there is a file.
        if entry.path().join("loop").exists() {
            names.extend(entry.file_name().into_string());
        }
    }
    Ok(names)
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
