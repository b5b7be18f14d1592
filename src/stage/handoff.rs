//! Stage 6: the way into the new root.

use std::convert::Infallible;
use std::env;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Instant;

use rustix::fs::{FsWord, fstatfs};
use rustix::process::{chdir, chroot};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use super::{NEW_ROOT, in_new_root, root::init::Init, runtime::RUN_DIR, teardown};
use crate::effect::{effect, optional};
use crate::error::{Error, Result};
use crate::kernel::exec::exec;
use crate::kernel::mount;
use crate::kernel::rcu;
use crate::kernel::tree;
use crate::report::{Report, Stage};

/// Mounts that the new root takes over.
const MOVED: &[&str] = &["/dev", "/proc", "/sys", "/run"];

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
    for mount in MOVED {
        effect(format!("move {mount} to the new root"), || {
            mount::relocate(Path::new(mount), &in_new_root(mount))
        })?;
    }
    let initramfs = teardown::keep_initramfs(effect("open the initramfs", || File::open("/"))?);
    effect("enter the new root", || chdir(NEW_ROOT))?;
    effect("move the new root to /", || mount::relocate(Path::new("."), Path::new("/")))?;
    effect("change the root", || chroot("."))?;
    effect("enter the root", || chdir("/"))?;
    require_initramfs(initramfs)?;
    effect("empty the initramfs", || tree::clear(initramfs.as_fd()))?;
    // As late as it can be and still stand in the report.
    init.read_ahead()?;

    let report_file = Path::new(RUN_DIR).join("boot.json");
    let peak_memory = optional(format!("read {STATUS}"), || fs::read_to_string(STATUS));
    report.stage(Stage::Handoff, began.elapsed());
    effect("write the boot report", || {
        let text = report.finish(start, peak_memory.as_deref().and_then(peak_memory_kib))?;
        fs::write(report_file, text)
    })?;
    optional("hand the console on", hand_console_on);
    optional("let grace periods take their time", rcu::unexpedite);
    let init = init.path();
    log::info!("handing over to {init}");
    effect(format!("run {init}"), || {
        Err(exec(init, env::args_os().skip(1), environment(credentials)))
    })
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
    let console = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open("/dev/console")?;
    dup2_stdin(&console)?;
    dup2_stdout(&console)?;
    dup2_stderr(&console)?;
    Ok(())
}

/// What is emptied must be nothing but what the initramfs was unpacked into.
fn require_initramfs(initramfs: &File) -> Result<()> {
    let statfs = effect("look at the initramfs", || fstatfs(initramfs))?;
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
