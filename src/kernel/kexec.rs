//! Another kernel in place of the running one.
//!
//! Sources: `kexec_file_load(2)`, reboot(2); `kernel/kexec_file.c` and `Documentation/arch/x86/boot.rst`
//! of the kernel.

#![expect(unsafe_code, reason = "rustix has no call to load a kernel")]

use std::ffi::{CStr, c_long};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use rustix::io::Errno;
use rustix::system::{RebootCommand, reboot};

/// The number of the call; libc has no name for it on this architecture
/// (`include/uapi/asm-generic/unistd.h`).
#[cfg(target_arch = "aarch64")]
const LOAD: c_long = 294;
#[cfg(not(target_arch = "aarch64"))]
const LOAD: c_long = libc::SYS_kexec_file_load;

/// Has the kernel read another one and its initramfs, whole, into memory that [`start`] goes on in.
///
/// # Errors
/// Those of `kexec_file_load(2)`, with what the kernel means by them.
pub fn load(kernel: &File, initramfs: &File, cmdline: &CStr) -> io::Result<()> {
    let bytes = cmdline.to_bytes_with_nul();
    // SAFETY: kexec_file_load(kernel, initramfs, length, command line, flags) reads `length` bytes,
    // the NUL among them, that are live for the call, and both files are open.
    let status = unsafe {
        libc::syscall(
            LOAD,
            c_long::from(kernel.as_raw_fd()),
            c_long::from(initramfs.as_raw_fd()),
            bytes.len(),
            bytes.as_ptr(),
            c_long::from(0_u8),
        )
    };
    if status == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    Err(match Errno::from_io_error(&error).and_then(meaning) {
        Some(meaning) => io::Error::other(format!("{error}: {meaning}")),
        None => error,
    })
}

/// What the kernel means by an error of its loader.
fn meaning(error: Errno) -> Option<&'static str> {
    Some(match error {
        Errno::NOSYS => "the kernel starts no other one (kernel option KEXEC_FILE)",
        Errno::PERM => {
            "the kernel is locked down and the image has no signature of a key that it trusts, or \
             kernel.kexec_load_disabled is set"
        }
        // With KEXEC_SIG_FORCE; of the PE file, of the signature in it, or of its key.
        Errno::KEYREJECTED | Errno::NOKEY | Errno::NODATA | Errno::BADMSG | Errno::LIBBAD => {
            "the kernel takes no image without a signature of a key that it trusts"
        }
        Errno::NOEXEC => "it is no kernel that this one can start",
        // arm64 says so of what is no kernel.
        Errno::INVAL => "it is no kernel that this one can start, or one of the files is empty",
        Errno::NOMEM | Errno::ADDRNOTAVAIL => "the memory has no room for both",
        _ => return None,
    })
}

/// Goes on in the kernel that was loaded. Returns only with the reason why it could not.
#[must_use]
pub fn start() -> io::Error {
    match reboot(RebootCommand::Kexec) {
        Ok(()) => io::Error::other("the kernel goes on"),
        Err(error) => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_kernel_refuses_is_told_in_words() {
        for (error, words) in [
            (Errno::NOSYS, "KEXEC_FILE"),
            (Errno::PERM, "locked down"),
            (Errno::KEYREJECTED, "signature"),
            (Errno::NOKEY, "signature"),
            (Errno::NODATA, "signature"),
            (Errno::NOEXEC, "no kernel"),
            (Errno::INVAL, "no kernel"),
            (Errno::NOMEM, "memory"),
        ] {
            assert!(meaning(error).unwrap().contains(words), "{error}");
        }
        assert_eq!(meaning(Errno::IO), None);
    }
}
