//! Am I PID 1? Run the boot, or stop the machine. Nothing else.

// Tests unwind, to go on with the next one.
#[cfg(panic = "abort")]
mod unwind;

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!("cvm-init: this is PID 1 of an initramfs and does nothing anywhere else");
        return ExitCode::FAILURE;
    }
    cvm_init::boot::start()
}
