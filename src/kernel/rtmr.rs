//! A register of a TD that is extended at run time.
//!
//! Source: `Documentation/ABI/testing/sysfs-devices-virtual-misc-tdx_guest` of the kernel, from Linux
//! 6.16 on.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The register that neither the firmware nor the kernel extends.
pub const RTMR3: &str = "/sys/devices/virtual/misc/tdx_guest/measurements/rtmr3:sha384";

/// Bytes of SHA-384: what it holds, and what it is extended by.
const BYTES: usize = 48;

/// A register that is open.
#[derive(Debug)]
pub struct Rtmr(File);

impl Rtmr {
    /// Opens the register at this place.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn open(place: &Path) -> io::Result<Self> {
        File::options().read(true).write(true).open(place).map(Self)
    }

    /// What it holds.
    ///
    /// # Errors
    /// When the TDX module fails, or there are no 48 bytes.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let mut value = vec![0; BYTES];
        self.0.read_exact_at(&mut value, 0)?;
        Ok(value)
    }

    /// Extends it by a digest of 48 bytes.
    ///
    /// # Errors
    /// When the TDX module fails, or there are not 48 bytes.
    pub fn extend(&self, digest: &[u8]) -> io::Result<()> {
        // The kernel takes all of it at once or nothing.
        self.0.write_all_at(digest, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{env, fs, process};

    /// A file that is written to holds what was written, which a register does not.
    #[test]
    fn a_digest_is_written_at_the_start_and_whole() {
        let place = env::temp_dir().join(format!("cvm-init-rtmr-{}", process::id()));
        fs::write(&place, [1; 48]).unwrap();
        let rtmr = Rtmr::open(&place).unwrap();
        assert_eq!(rtmr.read().unwrap(), [1; 48]);
        for value in [2, 3] {
            rtmr.extend(&[value; 48]).unwrap();
            assert_eq!(fs::read(&place).unwrap(), [value; 48]);
        }
        fs::write(&place, [1; 47]).unwrap();
        assert_eq!(rtmr.read().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        fs::remove_file(place).unwrap();
    }
}
