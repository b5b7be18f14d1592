//! Am I PID 1? Run the boot, or stop the machine. Nothing else, but to say which version this is.

// Tests unwind, to go on with the next one.
#[cfg(panic = "abort")]
mod unwind;

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        // PID 1 gets the kernel's words that nobody else knows, and heeds none.
        if env::args_os().skip(1).eq(["--version"]) {
            let said = writeln!(io::stdout(), "cvm-init {}", env!("CARGO_PKG_VERSION"));
            return if said.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        eprintln!("cvm-init: this is PID 1 of an initramfs and does nothing anywhere else");
        return ExitCode::FAILURE;
    }
    cvm_init::boot::start()
}
