//! Stage 6: the way into the new root.

use std::convert::Infallible;
use std::env;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Instant;

use rustix::fs::{FsWord, fstatfs};
use rustix::process::{chdir, chroot};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use super::{NEW_ROOT, in_new_root, runtime::RUN_DIR};
use crate::effect::{effect, optional};
use crate::error::Result;
use crate::exec::exec;
use crate::mount;
use crate::report::{Report, Stage};
use crate::tree;

/// Mounts that the new root takes over.
const MOVED: &[&str] = &["/dev", "/proc", "/sys", "/run"];

/// `f_type` of the file systems that an initramfs is made of (statfs(2)). Anything else is not
/// ours to empty.
const RAMFS_MAGIC: FsWord = 0x8584_58f6;
const TMPFS_MAGIC: FsWord = 0x0102_1994;

/// Gives the machine to `init` of the new root, with the arguments that the kernel gave us.
///
/// # Errors
/// When a mount cannot be moved, or `init` cannot be run.
pub fn switch_root(init: &str, start: Instant, mut report: Report) -> Result<Infallible> {
    let began = Instant::now();
    for mount in MOVED {
        effect(format!("move {mount} to the new root"), || {
            mount::relocate(Path::new(mount), &in_new_root(mount))
        })?;
    }
    let initramfs = effect("open the initramfs", || File::open("/"))?;
    effect("switch to the new root", || {
        chdir(NEW_ROOT)?;
        mount::relocate(Path::new("."), Path::new("/"))?;
        chroot(".")?;
        chdir("/")
    })?;
    effect("empty the initramfs", || empty(&initramfs))?;
    drop(initramfs);

    let report_file = Path::new(RUN_DIR).join("boot.json");
    report.stage(Stage::Handoff, began.elapsed());
    effect("write the boot report", || {
        let text = report.finish(start, peak_memory_kib())?;
        fs::write(report_file, text)
    })?;
    optional("hand the console on", hand_console_on);
    log::info!("handing over to {init}");
    effect(format!("run {init}"), || Err(exec(init, env::args_os().skip(1))))
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

/// Frees the memory that the initramfs takes, and takes its content out of everybody's reach.
fn empty(initramfs: &File) -> io::Result<()> {
    match fstatfs(initramfs)?.f_type {
        RAMFS_MAGIC | TMPFS_MAGIC => Ok(tree::clear(initramfs.as_fd())?),
        other => Err(io::Error::other(format!(
            "its file system is of type {other:#x}, neither ramfs nor tmpfs"
        ))),
    }
}

/// The most memory that this process had resident (`VmHWM` in proc(5)).
fn peak_memory_kib() -> Option<u64> {
    fs::read_to_string("/proc/self/status")
        .ok()?
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?
        .trim()
        .strip_suffix(" kB")?
        .parse()
        .ok()
}
