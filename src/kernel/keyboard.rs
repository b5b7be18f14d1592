//! The keyboard of the virtual terminals.
//!
//! Source: `ioctl_console(2)`, `KDSKBMODE`; `k_spec` in the kernel's `drivers/tty/vt/keyboard.c`.

#![expect(unsafe_code, reason = "rustix has no call for the keyboard's mode")]

use std::io;

use rustix::ioctl::{IntegerSetter, Opcode, ioctl};

use crate::kernel::file;

/// The terminal in front, which is the one that the keys act on.
pub const TERMINAL: &str = "/dev/tty0";

const KDSKBMODE: Opcode = 0x4b45;
const K_OFF: usize = 4;

/// Switches every key of the terminal in front off. Some have the kernel print registers, tasks
/// or memory (Scroll Lock with the right Alt, Control or Shift), and no switch of `SysRq` stops
/// them.
///
/// # Errors
/// When the terminal cannot be opened or is none.
pub fn switch_off() -> io::Result<()> {
    let terminal = file::open(TERMINAL, file::READ)?;
    // SAFETY: KDSKBMODE takes its argument by value and touches no memory of ours.
    unsafe { ioctl(&terminal, IntegerSetter::<KDSKBMODE>::new_usize(K_OFF)) }?;
    Ok(())
}
