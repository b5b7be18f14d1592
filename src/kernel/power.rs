//! How the machine stops.
//!
//! Sources: reboot(2), `Documentation/admin-guide/sysrq.rst`.

use std::fs::File;
use std::io::{self, Write};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use rustix::system::{RebootCommand, reboot};

use crate::kernel::file;

/// What to do with a machine whose boot failed (`cvm.on_failure=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Action {
    /// Power off.
    #[default]
    PowerOff,
    /// Start again.
    Reboot,
    /// Stop the CPUs and keep the machine.
    Halt,
    /// A kernel panic, for those whose monitoring sees one.
    Panic,
}

/// Where the kernel is told to restart or to panic without asking any driver. It is kept open:
/// its path moves on with /proc.
const TRIGGER: &str = "/proc/sysrq-trigger";
static AT_ONCE: OnceLock<File> = OnceLock::new();

/// Prepares [`stop_at_latest`].
///
/// # Errors
/// When the kernel has no `MAGIC_SYSRQ`.
pub fn prepare() -> io::Result<()> {
    let trigger = file::open(TRIGGER, file::WRITE)?;
    // A second call would find the same thing there.
    let _ = AT_ONCE.set(trigger);
    Ok(())
}

/// Stops the machine when it is still running after `limit`. In an orderly stop the kernel waits
/// for its disks, and a host that stalls one would keep the machine on. There is no way to power
/// off without that wait, so the machine restarts then, or panics if it was not to restart.
pub fn stop_at_latest(action: Action, limit: Duration) {
    let key = match action {
        Action::PowerOff | Action::Reboot => b"b",
        Action::Halt | Action::Panic => b"c",
    };
    // Without a thread, or without the kernel's help, the orderly way is all there is; then it does
    // not wait for who stands still elsewhere, as in a write to a console that the host has paused.
    let _ = super::thread::builder().spawn(move || {
        thread::sleep(limit);
        match AT_ONCE.get() {
            Some(mut trigger) => trigger.write_all(key),
            None => stop(action),
        }
    });
}

/// Stops the machine. Nothing is synced: the root is read-only, /cocos lives for one boot, and
/// a host that stalls the disk must not keep the machine on.
pub fn stop(action: Action) -> ! {
    let command = match action {
        Action::PowerOff => Some(RebootCommand::PowerOff),
        Action::Reboot => Some(RebootCommand::Restart),
        Action::Halt => Some(RebootCommand::Halt),
        Action::Panic => None,
    };
    if let Some(command) = command {
        // Does not return when it works.
        let _ = reboot(command);
    }
    // The kernel panics when PID 1 exits: asked for, or the last way left to stop. A thread that
    // waits for the disk does not exit, and then this does not end either.
    std::process::exit(1)
}

/// Makes Ctrl-Alt-Del a signal to PID 1, which ignores it, in place of a reboot at once.
///
/// # Errors
/// EPERM outside the initial PID namespace.
pub fn disable_ctrl_alt_del() -> rustix::io::Result<()> {
    reboot(RebootCommand::CadOff)
}
