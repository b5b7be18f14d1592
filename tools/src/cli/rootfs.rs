//! Holds a file system against what PID 1 asks of a root.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use cvm_init::error::Result;
use cvm_init::format::rootfs::{self, FileSystem, START_BYTES, Start};
use cvm_tools::files;

use crate::cli::Failure;

const MORE_HELP: &str = "\
Looks at the first bytes of a file as cvm-init does at boot at those of its root, and prints which file
system it is: ext4, erofs or squashfs. Exit status 0 when there is a kernel with which a boot takes
it; 1, with the reason on standard error, when it would end each boot; 3 when it is none of the three.";

#[derive(Args)]
#[command(after_help = MORE_HELP)]
pub(crate) struct Arguments {
    /// The file
    file: PathBuf,
}

/// Bytes in a block of dm-verity.
const BLOCK: u64 = 4096;

/// What messages call it, as those of a boot do.
const NAME: &str = "the root";

pub(crate) fn run(arguments: &Arguments) -> std::result::Result<(), Failure> {
    let path = &arguments.file;
    let (start, blocks) = read(path).map_err(|cause| files::unreadable(path, &cause))?;
    match judge(&start, blocks) {
        Ok(found) => {
            println!("{}", found.kind);
            Ok(())
        }
        Err(error) => {
            let is_none = rootfs::kinds(&start).next().is_none();
            Err(Failure::of(if is_none { 3 } else { 1 }, &error))
        }
    }
}

/// The start of a file, with zeros behind its end, and how many blocks it has when its last one is
/// filled up.
fn read(path: &Path) -> io::Result<(Start, u64)> {
    let mut file = File::open(path)?;
    let blocks = file.metadata()?.len().div_ceil(BLOCK);
    let mut start = [0; START_BYTES];
    let mut rest = &mut start[..];
    while !rest.is_empty() {
        match file.read(rest)? {
            0 => break,
            have => rest = rest.get_mut(have..).unwrap_or_default(),
        }
    }
    Ok((start, blocks))
}

fn judge(start: &Start, blocks: u64) -> Result<FileSystem> {
    let found = FileSystem::recognize(start, NAME)?;
    found.require_some_kernel(NAME)?;
    found.require_blocks(blocks, "in the file", NAME)?;
    Ok(found)
}
