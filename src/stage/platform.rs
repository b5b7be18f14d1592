//! Stage 1: the command line, and what every later stage stands on.

use std::fs;
use std::io;
use std::path::Path;

use super::modules;
use crate::config::{Config, Lines};
use crate::effect::{Effect, effect, optional};
use crate::error::Result;
use crate::kernel::mount::{self, Flags};
use crate::kernel::{file, keyboard, power, rcu};
use crate::report::Stage;

const EXPEDITE_RCU: Effect<0> = Effect::new("expedite-rcu", "hurry the kernel's grace periods");
const SWITCH_SYSRQ_OFF: Effect<0> = Effect::new("switch-sysrq-off", "switch SysRq off");
const SWITCH_CTRL_ALT_DEL_OFF: Effect<0> =
    Effect::new("switch-ctrl-alt-del-off", "switch Ctrl-Alt-Del off");
const READ: Effect<1> = Effect::new("read", "read {}");
const RESTART_AT_PANIC: Effect<0> =
    Effect::new("restart-at-panic", "let a kernel panic restart the machine");
const READ_COMMAND_LINE: Effect<0> =
    Effect::new("read-command-line", "read the kernel command line");
const SWITCH_KEYBOARD_OFF: Effect<0> =
    Effect::new("switch-keyboard-off", "switch the keyboard off");
const LIFT_LOG_LIMIT: Effect<0> = Effect::new("lift-log-limit", "lift the limit of the kernel log");
const PREPARE_STOP: Effect<0> = Effect::new("prepare-stop", "prepare to stop at once");
const MAKE_DIR: Effect<1> = Effect::new("make-dir", "make {}");
const MOUNT: Effect<2> = Effect::new("mount", "mount {} on {}");
const LOOK_FOR: Effect<1> = Effect::new("look-for", "look for {}");

/// A pseudo file system of the initramfs.
struct Pseudo {
    kind: &'static str,
    target: &'static str,
    flags: Flags,
    data: &'static str,
}

/// First of all, because it holds the switches of the console's special keys.
const PROC: Pseudo = Pseudo { kind: "proc", target: "/proc", flags: mount::DATA_ONLY, data: "" };

/// Before these switches are used, because it holds what makes them quick.
const SYSFS: Pseudo = Pseudo { kind: "sysfs", target: "/sys", flags: mount::DATA_ONLY, data: "" };

/// In this order: a mount point may lie in the one before. All move on into the new root.
const PSEUDO: &[Pseudo] = &[
    Pseudo { kind: "devtmpfs", target: "/dev", flags: Flags::NOSUID, data: "mode=0755" },
    Pseudo {
        kind: "devpts",
        target: "/dev/pts",
        flags: Flags::NOSUID.union(Flags::NOEXEC),
        // Group 5 is tty: what grantpt(3) expects.
        data: "gid=5,mode=0620",
    },
    Pseudo {
        kind: "tmpfs",
        target: "/run",
        flags: Flags::NOSUID.union(Flags::NODEV),
        // What systemd gives it; `runtime` has what this is a part of.
        data: "mode=0755,size=20%",
    },
];

/// Where attestation reports are asked for (`Documentation/ABI/testing/configfs-tsm`); the
/// kernel makes the directory when it has configfs.
const CONFIGFS: Pseudo =
    Pseudo { kind: "configfs", target: "/sys/kernel/config", flags: mount::DATA_ONLY, data: "" };

/// A switch in /proc/sys.
struct Switch {
    file: &'static str,
    value: &'static str,
}

/// The host types on the console: no key may command the kernel. Missing in kernels without
/// `MAGIC_SYSRQ`, which is as good.
const SYSRQ_OFF: Switch = Switch { file: "/proc/sys/kernel/sysrq", value: "0" };

/// A panic would leave the machine on, with its secrets in memory, for as long as the host likes. At
/// once, unless the command line's `panic=` or the kernel's builder has said otherwise.
const PANIC: Switch = Switch { file: "/proc/sys/kernel/panic", value: "-1" };

/// Lines beyond ten in five seconds would be dropped, the fatal one among them. Fixed when
/// `printk.devkmsg=` is on the command line, which is the user's choice then. The kernel takes
/// the word only with a line feed behind it.
const KMSG_UNLIMITED: Switch = Switch { file: "/proc/sys/kernel/printk_devkmsg", value: "on\n" };

const CMDLINE: &str = "/proc/cmdline";

/// What the initramfs says in the kernel command line's stead, if anything.
const INITRAMFS_WORDS: &str = "/cmdline";

/// Lets no key command the kernel and no panic leave it on, and reads what the boot is told: what
/// that says of time limits and of the log holds for all that follows.
///
/// # Errors
/// When there is no /proc or /sys, or a switch cannot be used.
pub fn command_line() -> Result<Lines> {
    mount_pseudo(&PROC)?;
    mount_pseudo(&SYSFS)?;
    optional(EXPEDITE_RCU, rcu::expedite);
    if exists(SYSRQ_OFF.file)? {
        effect(SWITCH_SYSRQ_OFF, || set(&SYSRQ_OFF))?;
    }
    effect(SWITCH_CTRL_ALT_DEL_OFF, power::disable_ctrl_alt_del)?;
    let panic = effect(READ.on(&[&PANIC.file]), || file::text(PANIC.file))?;
    if is_off(&panic) {
        effect(RESTART_AT_PANIC, || set(&PANIC))?;
    }
    Ok(Lines {
        kernel: effect(READ_COMMAND_LINE, || file::text(CMDLINE))?,
        initramfs: effect(READ.on(&[&INITRAMFS_WORDS]), || match file::text(INITRAMFS_WORDS) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            words => words,
        })?,
    })
}

/// The same for a boot that fails before it has read them.
#[must_use]
pub fn lines_as_far_as_there() -> Lines {
    let read = |path| file::text(path).unwrap_or_default();
    Lines { kernel: read(CMDLINE), initramfs: read(INITRAMFS_WORDS) }
}

/// Lets no panic leave the machine on where [`command_line`] has not come to that, as far as /proc is there.
pub fn restart_at_panic() {
    if file::text(PANIC.file).is_ok_and(|value| is_off(&value)) {
        // The kernel takes it, or nothing can be done.
        let _ = set(&PANIC);
    }
}

/// Prepares the platform, and begins to load what later stages need.
///
/// # Errors
/// When a file system or a module is not to be had.
pub fn prepare(config: &Config) -> Result<()> {
    for pseudo in PSEUDO {
        mount_pseudo(pseudo)?;
    }
    // Missing in kernels without virtual terminals.
    if exists(keyboard::TERMINAL)? {
        effect(SWITCH_KEYBOARD_OFF, keyboard::switch_off)?;
    }
    optional(LIFT_LOG_LIMIT, || set(&KMSG_UNLIMITED));
    optional(PREPARE_STOP, power::prepare);
    log::info!("version {}", env!("CARGO_PKG_VERSION"));
    modules::begin(config)?;
    // One of which may be configfs.
    modules::need(Stage::Platform)?;
    if exists(CONFIGFS.target)? {
        mount_pseudo(&CONFIGFS)?;
    }
    Ok(())
}

fn mount_pseudo(pseudo: &Pseudo) -> Result<()> {
    let target = Path::new(pseudo.target);
    effect(MAKE_DIR.on(&[&pseudo.target]), || mount::ensure_dir(target, 0o755))?;
    effect(MOUNT.on(&[&pseudo.kind, &pseudo.target]), || {
        mount::mount(Path::new(pseudo.kind), target, pseudo.kind, pseudo.flags, pseudo.data)
    })
}

fn exists(path: &str) -> Result<bool> {
    effect(LOOK_FOR.on(&[&path]), || fs::exists(path))
}

fn is_off(value: &str) -> bool {
    value.trim() == "0"
}

fn set(switch: &Switch) -> std::io::Result<()> {
    file::write(switch.file, switch.value.as_bytes())
}
