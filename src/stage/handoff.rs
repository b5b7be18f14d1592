//! Stage 8: the way into the new root.

use std::convert::Infallible;
use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Instant;

use rustix::fs::{FsWord, OFlags, fstatfs};
use rustix::process::{chdir, chroot};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use super::{MOVED, NEW_ROOT, NewRoot, root::init::Init, runtime::RUN_DIR, teardown};
use crate::effect::{Effect, effect, optional};
use crate::error::{Error, Result};
use crate::kernel::exec::exec;
use crate::kernel::{file, mount, rcu, tree};
use crate::report::{Report, Stage};

const MOVE: Effect<1> = Effect::new("move", "move {} to the new root");
const OPEN_INITRAMFS: Effect<0> = Effect::new("open-initramfs", "open the initramfs");
const ENTER_NEW_ROOT: Effect<0> = Effect::new("enter-new-root", "enter the new root");
const MOVE_ROOT: Effect<0> = Effect::new("move-root", "move the new root to /");
const CHANGE_ROOT: Effect<0> = Effect::new("change-root", "change the root");
const ENTER_ROOT: Effect<0> = Effect::new("enter-root", "enter the root");
const EMPTY_INITRAMFS: Effect<0> = Effect::new("empty-initramfs", "empty the initramfs");
const READ: Effect<1> = Effect::new("read", "read {}");
const WRITE_REPORT: Effect<0> = Effect::new("write-report", "write the boot report");
const HAND_CONSOLE_ON: Effect<0> = Effect::new("hand-console-on", "hand the console on");
const UNEXPEDITE_RCU: Effect<0> =
    Effect::new("unexpedite-rcu", "let grace periods take their time");
const RUN: Effect<1> = Effect::new("run", "run {}");
const LOOK_AT_INITRAMFS: Effect<0> = Effect::new("look-at-initramfs", "look at the initramfs");

/// `f_type` of the file systems that an initramfs is made of (statfs(2)). Anything else is not
/// ours to empty.
const RAMFS_MAGIC: FsWord = 0x8584_58f6;
const TMPFS_MAGIC: FsWord = 0x0102_1994;

/// Words that keep the root's systemd from obeying the host, where nothing in the environment, which
/// the command line makes, says otherwise.
///
/// systemd reads an EFI variable as more of the kernel's command line (`systemd_efi_options_variable`
/// in its `src/basic/efivars.c`), unless this one stands for it.
const NO_EFI_OPTIONS: (&str, &str) = ("SYSTEMD_EFI_OPTIONS", "");

/// systemd takes credentials, which can hold files and commands, from SMBIOS and `fw_cfg`, unless an
/// initramfs has done so already (`import_credentials` in its `src/core/import-creds.c`). This one
/// has, and found none.
const NO_CREDENTIALS: (&str, &str) = ("CREDENTIALS_DIRECTORY", "/run/credentials/@system");

/// Says how much memory this process takes.
const STATUS: &str = "/proc/self/status";

/// Gives the machine to init of the new root, with the arguments that the kernel gave us.
///
/// # Errors
/// When a mount cannot be moved, or `init` cannot be run.
pub fn switch_root(
    init: &Init,
    credentials: bool,
    start: Instant,
    mut report: Report,
) -> Result<Infallible> {
    let began = Instant::now();
    move_mounts(&NewRoot::default())?;
    let initramfs =
        teardown::keep_initramfs(effect(OPEN_INITRAMFS, || file::open("/", file::READ))?);
    effect(ENTER_NEW_ROOT, || chdir(NEW_ROOT))?;
    effect(MOVE_ROOT, || mount::relocate(Path::new("."), initramfs))?;
    effect(CHANGE_ROOT, || chroot("."))?;
    effect(ENTER_ROOT, || chdir("/"))?;
    require_initramfs(initramfs)?;
    effect(EMPTY_INITRAMFS, || tree::clear(initramfs.as_fd()))?;
    // As late as it can be and still stand in the report.
    init.read_ahead()?;

    let report_file = Path::new(RUN_DIR).join("boot.json");
    let peak_memory = optional(READ.on(&[&STATUS]), || file::text(STATUS));
    report.stage(Stage::Handoff, began.elapsed());
    effect(WRITE_REPORT, || {
        let text = report.finish(start, peak_memory.as_deref().and_then(peak_memory_kib))?;
        file::publish(report_file, &text)
    })?;
    optional(HAND_CONSOLE_ON, hand_console_on);
    optional(UNEXPEDITE_RCU, rcu::unexpedite);
    let init = init.path();
    log::info!("handing over to {init}");
    effect(RUN.on(&[&init]), || Err(exec(init, env::args_os().skip(1), environment(credentials))))
}

/// Hands the mounts of the platform on.
fn move_mounts(new_root: &NewRoot) -> Result<()> {
    for mount in MOVED {
        effect(MOVE.on(&[&mount]), || {
            let place = new_root.directory(mount)?;
            Ok::<_, io::Error>(mount::relocate(Path::new(mount), &place)?)
        })?;
    }
    Ok(())
}

/// What init is given: the kernel's, and what closes the firmware's ways in.
fn environment(credentials: bool) -> impl Iterator<Item = OsString> {
    let closed = [Some(NO_EFI_OPTIONS), (!credentials).then_some(NO_CREDENTIALS)];
    let ours = closed.into_iter().flatten().filter(|(name, _)| env::var_os(name).is_none());
    let kernels = env::vars_os().map(|(mut word, value)| {
        word.push("=");
        word.push(value);
        word
    });
    kernels.chain(ours.map(|(name, value)| format!("{name}={value}").into()))
}

/// Gives init the console of the new root in place of the one that the initramfs had, whose node
/// is gone. A machine without a console has none to give.
fn hand_console_on() -> io::Result<()> {
    let console = file::open("/dev/console", file::BOTH | OFlags::NOCTTY)?;
    dup2_stdin(&console)?;
    dup2_stdout(&console)?;
    dup2_stderr(&console)?;
    Ok(())
}

/// What is emptied must be nothing but what the initramfs was unpacked into.
fn require_initramfs(initramfs: &File) -> Result<()> {
    let statfs = effect(LOOK_AT_INITRAMFS, || fstatfs(initramfs))?;
    match statfs.f_type {
        RAMFS_MAGIC | TMPFS_MAGIC => Ok(()),
        other => {
            Err(Error::new(format!("the initramfs is of type {other:#x}, neither ramfs nor tmpfs")))
        }
    }
}

/// The most memory that this process had resident, in `status` (proc(5)).
fn peak_memory_kib(status: &str) -> Option<u64> {
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?
        .trim()
        .strip_suffix(" kB")?
        .parse()
        .ok()
}
