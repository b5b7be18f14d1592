//! Stage 8 of a boot that does not end in init: another kernel of the verified root takes over.
//!
//! There is no key yet, and no volume: memory holds nothing that the next kernel could find. All that
//! it is made of is read through dm-verity, and its initramfs has to prove the root anew by the root
//! hash that it is given.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::fstat;

use super::{NewRoot, teardown};
use crate::config::NextKernel;
use crate::effect::{Effect, effect};
use crate::error::{Error, Result};
use crate::format::cmdline;
use crate::kernel::{file, kexec};

const FIND: Effect<1> = Effect::new("find", "find {} in the root");
const READ: Effect<1> = Effect::new("read", "read {}");
const LOAD: Effect<2> = Effect::new("load-kernel", "load the kernel {} with {}");
const TAKE_DOWN: Effect<0> = Effect::new("take-down", "take everything down");
const START: Effect<1> = Effect::new("start-kernel", "start the kernel {}");

/// Bytes of a command line's file that are looked at: more than there may be, so that it shows.
const READ_MAX: usize = 4096;

/// Gives the machine to the next kernel. `words` go in front of its command line: what proves the root,
/// which no file of the root can hold.
///
/// # Errors
/// What is missing or wrong of the three files, why the kernel does not take them, or what of the boot
/// is left when it should go.
pub fn hand_over(next: &NextKernel, words: &str) -> Result<Infallible> {
    load(next, words)?;
    effect(TAKE_DOWN, teardown::run)?;
    log::info!("handing over to the kernel {}", next.kernel);
    effect(START.on(&[&next.kernel]), || Err(kexec::start()))
}

/// Has the kernel read all of it, so that the root is not needed any more.
fn load(next: &NextKernel, words: &str) -> Result<()> {
    let kernel = find(&next.kernel)?;
    let initramfs = find(&next.initramfs)?;
    let line = command_line(&next.cmdline, words)?;
    effect(LOAD.on(&[&next.kernel, &next.initramfs]), || kexec::load(&kernel, &initramfs, &line))
}

fn command_line(path: &str, words: &str) -> Result<CString> {
    let file = find(path)?;
    let content = effect(READ.on(&[&path]), || {
        let size = usize::try_from(fstat(&file)?.st_size).unwrap_or(READ_MAX);
        let mut content = vec![0; size.min(READ_MAX)];
        file.read_exact_at(&mut content, 0)?;
        Ok::<_, io::Error>(content)
    })?;
    cmdline::join(words, &content).map_err(|cause| Error::new(format!("{path}: {cause}")))
}

/// Opens a file as the new root will see it. Nothing else is mounted there yet, so that every way ends
/// on the root's own file system.
fn find(path: &str) -> Result<File> {
    effect(FIND.on(&[&path]), || {
        // Not to be read before it is known what it is: to open a FIFO would wait for ever.
        let root = NewRoot::default();
        let found = root.open(path, file::PLACE)?;
        if !file::is_regular(found)? {
            return Err(io::Error::other("it is no regular file"));
        }
        root.open(path, file::READ)
    })
}
