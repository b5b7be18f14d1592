//! How the machine stops.
//!
//! Source: reboot(2).

use rustix::system::{RebootCommand, reboot};

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

/// Command line spelling of each action.
pub const ACTIONS: &[(&str, Action)] = &[
    ("poweroff", Action::PowerOff),
    ("reboot", Action::Reboot),
    ("halt", Action::Halt),
    ("panic", Action::Panic),
];

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
    // The kernel panics when PID 1 exits: asked for, or the last way left to stop.
    std::process::exit(1)
}

/// Makes Ctrl-Alt-Del a signal to PID 1, which ignores it, in place of a reboot at once.
///
/// # Errors
/// EPERM outside the initial PID namespace.
pub fn disable_ctrl_alt_del() -> rustix::io::Result<()> {
    reboot(RebootCommand::CadOff)
}
