//! A TPM, as the kernel hands it on: one command in, one answer out.
//!
//! Source: `drivers/char/tpm/tpm-dev-common.c` of the kernel.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use crate::format::tpm2::ANSWER_MAX;

/// Where it is, the better one first: the resource manager lets others use the TPM at the same time,
/// the TPM itself has one user.
pub const DEVICES: &[&str] = &["/dev/tpmrm0", "/dev/tpm0"];

/// A TPM that is open.
#[derive(Debug)]
pub struct Tpm(File);

impl Tpm {
    /// Opens one of [`DEVICES`].
    ///
    /// # Errors
    /// EBUSY when somebody else has the TPM itself.
    pub fn open(device: &Path) -> io::Result<Self> {
        File::options().read(true).write(true).open(device).map(Self)
    }

    /// Has the TPM carry out a command, and returns its answer, whatever that is.
    ///
    /// # Errors
    /// Those of the driver: ETIME when the TPM does not answer in minutes, EIO and EFAULT when what
    /// it answers is none.
    pub fn ask(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        // A command is one write, and its answer is one read.
        self.0.write_all(command)?;
        let mut answer = vec![0; ANSWER_MAX];
        let length = self.0.read(&mut answer)?;
        answer.truncate(length);
        Ok(answer)
    }
}
