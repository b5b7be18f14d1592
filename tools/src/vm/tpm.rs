//! A TPM 2.0 that swtpm(8) emulates. It is this host's: for tests.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use cvm_init::error::{Error, Result};

use crate::vm::channel::Socket;
use crate::vm::process::{self, Running};

/// What swtpm is told: the folder of its state, whose path has no comma in it, and where QEMU comes to it,
/// such as `fd=0`.
#[must_use]
pub fn arguments(state: &Path, place: &OsStr) -> Vec<OsString> {
    let joined = |name: &str, value: &OsStr| [OsStr::new(name), value].join(OsStr::new(""));
    let (state, place) = (joined("dir=", state.as_os_str()), joined("type=unixio,", place));
    ["socket".into(), "--tpm2".into(), "--tpmstate".into(), state, "--ctrl".into(), place].into()
}

/// One that runs, and ends with this.
#[derive(Debug)]
pub struct Tpm {
    _process: Running,
}

impl Tpm {
    /// Starts one that QEMU finds at `socket`, with its state in a folder and its complaints in a file.
    ///
    /// # Errors
    /// swtpm is not installed, or the socket's name is taken.
    pub fn start(socket: &Socket, state: &Path, log: File) -> Result<Self> {
        let listener = socket.listen()?;
        let waits = listener.set_nonblocking(false);
        waits.map_err(|cause| Error::cannot(&"use a socket", &cause))?;
        let mut swtpm = process::bound("KILL", "swtpm")?;
        // It takes the listening socket from its parent: nobody waits for one to appear.
        swtpm.args(arguments(state, OsStr::new("fd=0"))).args(["--flags", "not-need-init"]);
        swtpm.stdin(OwnedFd::from(listener)).stderr(log);
        Ok(Self { _process: Running::start(&mut swtpm)? })
    }
}
