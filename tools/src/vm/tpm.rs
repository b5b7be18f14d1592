//! A TPM 2.0 that swtpm(8) emulates. It is this host's: for tests.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use cvm_init::error::{Error, Result};

use crate::vm::channel::Socket;
use crate::vm::process::{self, Running};
use crate::vm::properties::pair;

/// Until an emulator must have written its state.
const LIMIT: Duration = Duration::from_secs(10);

/// What swtpm is told: the folder of its state, whose path has no comma in it, and where QEMU comes to it,
/// such as `fd=0`.
#[must_use]
pub fn arguments(state: &Path, place: impl Into<OsString>) -> Vec<OsString> {
    let mut control = OsString::from("type=unixio,");
    control.push(place.into());
    let state = pair("dir", state);
    ["socket".into(), "--tpm2".into(), "--tpmstate".into(), state, "--ctrl".into(), control].into()
}

/// One that runs, and ends with this.
#[derive(Debug)]
pub struct Tpm {
    process: Running,
}

impl Tpm {
    /// Starts one that QEMU finds at `socket`, with its state in a folder and its complaints in `log`.
    ///
    /// # Errors
    /// swtpm is not installed, or the socket's name is too long or taken.
    pub fn start(socket: &Socket, state: &Path, log: impl Into<Stdio>) -> Result<Self> {
        let listener = socket.listen()?;
        let waits = listener.set_nonblocking(false);
        waits.map_err(|cause| Error::cannot(&"use a socket", &cause))?;
        let mut swtpm = process::bound("TERM", "swtpm")?;
        // It takes the listening socket from its parent: nobody waits for one to appear.
        swtpm.args(arguments(state, "fd=0")).args(["--flags", "not-need-init"]);
        swtpm.stdin(OwnedFd::from(listener)).stderr(log);
        Ok(Self { process: Running::start(&mut swtpm)? })
    }
}

impl Drop for Tpm {
    fn drop(&mut self) {
        self.process.stop(LIMIT);
    }
}
