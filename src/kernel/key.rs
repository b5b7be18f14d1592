//! The volume key: born in locked memory, handed to dm-crypt through the kernel's keyring, gone.
//!
//! A `logon` key cannot be read by user space, not even by root, and a table that names one holds
//! no key material.
//!
//! Sources: keyrings(7), keyctl(2), mlock(2).

#![expect(unsafe_code, reason = "rustix has no calls for the keyring, and an unsafe one for mlock")]

use std::ffi::{CStr, c_long};
use std::io;

use zeroize::Zeroizing;

use super::processor;

/// Type of a key whose payload never comes back to user space.
const LOGON: &CStr = c"logon";

/// Fills a key, and returns the processor's instruction whose random numbers are in it.
pub type Fill = fn(&mut [u8]) -> io::Result<Option<&'static str>>;

/// Random bytes from the kernel's generator, waited for when it has not been seeded yet, and from
/// the processor itself where it can.
///
/// # Errors
/// When the generator fails, or a processor that keeps the memory from the host yields no random
/// numbers.
pub fn random(key: &mut [u8]) -> io::Result<Option<&'static str>> {
    getrandom::fill(key).map_err(io::Error::other)?;
    processor::mix_into(key)
}

/// Random bytes that no swap and no core file sees, and that are overwritten when they go.
#[derive(Debug)]
pub struct VolumeKey {
    bytes: Zeroizing<Box<[u8]>>,
    /// The processor's instruction whose random numbers are in it.
    pub mixed_with: Option<&'static str>,
}

impl VolumeKey {
    /// A key of `size` bytes by `fill`, which is [`random`] but in tests.
    ///
    /// # Errors
    /// When memory cannot be locked, or `fill` fails.
    pub fn generate(size: usize, fill: Fill) -> io::Result<Self> {
        let mut bytes = Zeroizing::new(vec![0; size].into_boxed_slice());
        // SAFETY: the range is that of a live allocation; locking changes no memory.
        unsafe { rustix::mm::mlock(bytes.as_mut_ptr().cast(), bytes.len()) }?;
        let mixed_with = fill(&mut bytes)?;
        Ok(Self { bytes, mixed_with })
    }

    /// The key itself.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// A `logon` key in this process's keyring, where the kernel finds it while a table is loaded.
/// It is revoked and unlinked when this goes; after a panic, when nothing goes, [`forget_all`]
/// removes it.
#[derive(Debug)]
pub struct LogonKey(c_long);

impl LogonKey {
    /// Adds `key` under `description`, which the kernel wants to have a prefix: "cvm-init:cocos".
    ///
    /// # Errors
    /// ENODEV when the kernel has no keyrings.
    pub fn add(description: &CStr, key: &VolumeKey) -> io::Result<Self> {
        // SAFETY: add_key(type, description, payload, length, keyring) reads two C strings and
        // `length` bytes, all of them live for the call.
        let id = unsafe {
            libc::syscall(
                libc::SYS_add_key,
                LOGON.as_ptr(),
                description.as_ptr(),
                key.bytes().as_ptr(),
                key.bytes().len(),
                c_long::from(libc::KEY_SPEC_PROCESS_KEYRING),
            )
        };
        result(id).map(Self)
    }

    /// Revokes and unlinks it, and says whether that worked.
    ///
    /// # Errors
    /// When the key may still be there.
    pub fn forget(self) -> io::Result<()> {
        let outcome = self.revoke().and(self.unlink());
        std::mem::forget(self);
        outcome
    }

    /// The payload is freed, and overwritten by the kernel as it frees it.
    fn revoke(&self) -> io::Result<()> {
        keyctl(libc::KEYCTL_REVOKE, self.0, 0)
    }

    /// Without a link the kernel collects the key itself.
    fn unlink(&self) -> io::Result<()> {
        let keyring = c_long::from(libc::KEY_SPEC_PROCESS_KEYRING);
        keyctl(libc::KEYCTL_UNLINK, self.0, keyring)
    }
}

impl Drop for LogonKey {
    fn drop(&mut self) {
        // The boot has failed already; there is nobody to report to.
        let _ = self.revoke().and(self.unlink());
    }
}

/// Makes this process's keyring. Threads that begin after this share it; those that begin before
/// have none, or another.
///
/// # Errors
/// When the kernel has no keyrings (kernel option KEYS).
pub fn make_keyring() -> io::Result<()> {
    let keyring = c_long::from(libc::KEY_SPEC_PROCESS_KEYRING);
    keyctl(libc::KEYCTL_GET_KEYRING_ID, keyring, 1)
}

/// Removes every key that this process has.
///
/// # Errors
/// When the kernel has no keyrings.
pub fn forget_all() -> io::Result<()> {
    let keyring = c_long::from(libc::KEY_SPEC_PROCESS_KEYRING);
    keyctl(libc::KEYCTL_CLEAR, keyring, 0)
}

fn keyctl(operation: u32, key: c_long, argument: c_long) -> io::Result<()> {
    // SAFETY: the operations used take numbers only.
    let status = unsafe { libc::syscall(libc::SYS_keyctl, operation, key, argument) };
    result(status).map(drop)
}

fn result(status: c_long) -> io::Result<c_long> {
    if status < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(status)
}
