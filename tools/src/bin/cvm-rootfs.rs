//! Holds a file system against what PID 1 asks of a root.

use std::env;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::process::ExitCode;

use cvm_init::format::rootfs::{self, FileSystem, START_BYTES, Start};

const USAGE: &str = "usage: cvm-rootfs FILE

Looks at the first bytes of a file as cvm-init does at boot at those of its root, and prints which file
system it is: ext4, erofs or squashfs. Exit status 0 when there is a kernel with which a boot takes
it; 1, with the reason on standard error, when it would end each boot; 3 when it is none of the three.";

/// Bytes in a block of dm-verity.
const BLOCK: u64 = 4096;

/// What messages call it, as those of a boot do.
const NAME: &str = "the root";

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    let (Some(file), None) = (arguments.next(), arguments.next()) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    if file == "--help" || file == "-h" {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let (start, blocks) = match read(&file) {
        Ok(read) => read,
        Err(error) => {
            eprintln!("cannot read {}: {error}", file.display());
            return ExitCode::FAILURE;
        }
    };
    match judge(&start, blocks) {
        Ok(found) => {
            println!("{}", found.kind);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            let is_none = rootfs::kinds(&start).next().is_none();
            if is_none { ExitCode::from(3) } else { ExitCode::FAILURE }
        }
    }
}

/// The start of a file, with zeros behind its end, and how many blocks it has when its last one is
/// filled up.
fn read(file: &OsStr) -> io::Result<(Start, u64)> {
    let mut file = File::open(file)?;
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

fn judge(start: &Start, blocks: u64) -> cvm_init::error::Result<FileSystem> {
    let found = FileSystem::recognize(start, NAME)?;
    found.require_some_kernel(NAME)?;
    found.require_blocks(blocks, "in the file", NAME)?;
    Ok(found)
}
