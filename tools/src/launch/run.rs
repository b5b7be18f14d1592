//! A VM from its start to its end.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use cvm_init::error::{Error, Result};
use rustix::fs::{CWD, FileType, Mode, OFlags, fcntl_setfl, mknodat};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::launch::command::Launch;
use crate::vm::process::{self, Running};

/// How much of the end of what the console says is kept, in bytes: a boot that is refused says so last, and
/// what a guest says much later, or has said long before, is another matter.
const TAIL: usize = 8192;

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The guest has shut down.
    ShutDown,
    /// It refused to boot, for this reason.
    Refused(String),
    /// QEMU failed with this status, as a shell has it.
    Failed(u8),
    /// SIGINT to the launcher ended it.
    Interrupted,
    /// SIGTERM or SIGHUP to the launcher ended it.
    Terminated,
}

/// The signals by which a launcher is told things, from when this is made on: those that came before the VM
/// runs end it at once.
///
/// # Errors
/// The system's.
pub fn signals() -> Result<Signals> {
    Signals::new([SIGINT, SIGTERM, SIGHUP, SIGCHLD])
        .map_err(|cause| Error::cannot(&"wait for signals", &cause))
}

/// Runs a VM until it ends, or until a signal ends it.
///
/// # Errors
/// QEMU does not start.
pub fn run(launch: &Launch, signals: &mut Signals) -> Result<Ending> {
    let tail = launch.console.as_deref().map(Tail::of).transpose()?;
    let mut qemu = if launch.as_root {
        let mut sudo = process::command("sudo")?;
        // Not bound: Linux forgets that where sudo changes its user.
        sudo.arg(&launch.program);
        sudo
    } else {
        process::bound("TERM", &launch.program)?
    };
    let mut qemu = Running::start(qemu.args(launch.qemu.arguments()))?;
    let status = loop {
        if let Some(status) = ended(&mut qemu)? {
            break status;
        }
        if let Some(signal) = signals.wait().find(|signal| *signal != SIGCHLD) {
            end(&mut qemu, launch.as_root);
            return Ok(if signal == SIGINT { Ending::Interrupted } else { Ending::Terminated });
        }
    };
    if !status.success() {
        return Ok(Ending::Failed(as_a_shell_has_it(status)));
    }
    let refused = tail.map(Tail::refusal).transpose()?.flatten();
    Ok(refused.map_or(Ending::ShutDown, Ending::Refused))
}

fn ended(qemu: &mut Running) -> Result<Option<ExitStatus>> {
    qemu.ended().map_err(|cause| Error::cannot(&"wait for QEMU", &cause))
}

fn as_a_shell_has_it(status: ExitStatus) -> u8 {
    let status = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    u8::try_from(status).unwrap_or(u8::MAX)
}

/// Ends it. QEMU ends at SIGTERM at once; one that hangs must not outlive its files, and is killed when it
/// is dropped.
fn end(qemu: &mut Running, as_root: bool) {
    const LIMIT: Duration = Duration::from_secs(10);
    if !as_root {
        return qemu.stop(LIMIT);
    }
    for signal in ["TERM", "KILL"] {
        let _ = Command::new("sudo").args(["kill", "-s", signal, &qemu.id().to_string()]).status();
        if qemu.ends_within(LIMIT) {
            return;
        }
    }
}

/// The end of what comes through a FIFO.
struct Tail {
    reader: JoinHandle<io::Result<Vec<u8>>>,
    /// While it is open, nobody's coming and going ends what comes through.
    writer: File,
}

impl Tail {
    /// Makes the FIFO.
    fn of(fifo: &Path) -> Result<Self> {
        let open = || -> io::Result<(File, File)> {
            mknodat(CWD, fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
            // Who does not wait can open it alone.
            let flags = OFlags::NONBLOCK.bits().cast_signed();
            let reader = OpenOptions::new().read(true).custom_flags(flags).open(fifo)?;
            let writer = OpenOptions::new().write(true).open(fifo)?;
            fcntl_setfl(&reader, OFlags::empty())?;
            Ok((reader, writer))
        };
        let (reader, writer) =
            open().map_err(|cause| Error::cannot(&"keep what the console says", &cause))?;
        Ok(Self { reader: thread::spawn(move || tail(reader)), writer })
    }

    /// Why the guest refused to boot, if the end of what it said tells.
    fn refusal(self) -> Result<Option<String>> {
        drop(self.writer);
        let tail = self.reader.join().unwrap_or_else(|_| Ok(Vec::new()));
        let tail = tail.map_err(|cause| Error::cannot(&"keep what the console says", &cause))?;
        Ok(refusal_in(&tail))
    }
}

/// The last [`TAIL`] bytes of what is read.
fn tail(mut from: impl Read) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    let mut buffer = [0; TAIL];
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            return Ok(kept);
        }
        kept.extend(buffer.iter().take(length));
        kept.drain(..kept.len().saturating_sub(TAIL));
    }
}

/// The reason of the last such line, as far as it can be printed.
fn refusal_in(console: &[u8]) -> Option<String> {
    let console = String::from_utf8_lossy(console);
    let (_, reason) = console.rsplit_once("cvm-init: FATAL: ")?;
    Some(reason.chars().take_while(|c| c.is_ascii_graphic() || *c == ' ').collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_is_said_the_end_is_kept() {
        let said: Vec<u8> = (0..=250).cycle().take(3 * TAIL + 5).collect();
        assert_eq!(tail(&said[..]).unwrap(), said[2 * TAIL + 5..]);
        assert_eq!(tail(&said[..7]).unwrap(), said[..7]);
    }

    #[test]
    fn the_last_refusal_is_told_and_no_more_than_can_be_printed() {
        let console = b"\xffx cvm-init: FATAL: disk: first\r\n[1] cvm-init: FATAL: root: it\x1b[0m is\r\nmore";
        assert_eq!(refusal_in(console).as_deref(), Some("root: it"));
        assert_eq!(refusal_in(b"cvm-init: all is well"), None);
    }

    #[test]
    fn a_signal_that_ends_a_program_is_told_as_a_shell_does() {
        assert_eq!(as_a_shell_has_it(ExitStatus::from_raw(9)), 137);
        assert_eq!(as_a_shell_has_it(ExitStatus::from_raw(3 << 8)), 3);
    }
}
