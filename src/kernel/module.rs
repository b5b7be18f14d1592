//! Kernel modules.
//!
//! Source: `finit_module(2)`.

use std::ffi::c_int;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// The kernel unpacks the file itself (`CONFIG_MODULE_DECOMPRESS`).
const COMPRESSED_FILE: c_int = 4;

/// Endings of module files, and the flags that the kernel needs to take them.
const KINDS: &[(&str, c_int)] = &[
    (".ko", 0),
    (".ko.xz", COMPRESSED_FILE),
    (".ko.zst", COMPRESSED_FILE),
    (".ko.gz", COMPRESSED_FILE),
];

/// What became of a module.
#[derive(Debug, PartialEq, Eq)]
pub enum Loaded {
    /// It is running now.
    Now,
    /// It was running or built in already.
    Before,
    /// It found nothing to drive, as when the CPU lacks the instructions that it is for.
    NoDevice,
}

/// The files in `dir`, in the order of their names, which is the order to load them in. None
/// when there is no such directory: then the kernel has all it needs built in.
///
/// # Errors
/// When the directory cannot be read, or holds what is no module.
pub fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    files.sort_unstable();
    Ok(files)
}

/// Loads one module.
///
/// # Errors
/// When it is no module, or the kernel refuses it; the kernel log says why.
pub fn load(file: &Path) -> io::Result<Loaded> {
    let flags = flags(file).ok_or_else(|| io::Error::other("not a kernel module's name"))?;
    match rustix::system::finit_module(File::open(file)?, c"", flags) {
        Ok(()) => Ok(Loaded::Now),
        Err(Errno::EXIST) => Ok(Loaded::Before),
        Err(Errno::NODEV) => Ok(Loaded::NoDevice),
        Err(error) => Err(match meaning(error, flags) {
            Some(meaning) => io::Error::other(format!("{error}: {meaning}")),
            None => error.into(),
        }),
    }
}

/// What the kernel means by an error that reads as if it were one of the file.
fn meaning(error: Errno, flags: c_int) -> Option<&'static str> {
    match error {
        Errno::NOENT => Some(
            "a module that it needs is not loaded; the order of names is the order of loading, and \
             the kernel's log has what it misses",
        ),
        Errno::NOEXEC => Some("it is made for another kernel, or is no module"),
        Errno::INVAL if flags != 0 => Some("the kernel cannot unpack it"),
        Errno::OPNOTSUPP if flags != 0 => Some(
            "the kernel does not unpack modules (kernel option MODULE_DECOMPRESS): pack it \
             uncompressed",
        ),
        _ => None,
    }
}

/// Whether two files of the list may be loaded at the same time: they are of one generation, which
/// is what stands before the first dash of their names. Without a dash, nothing is known.
#[must_use]
pub fn are_independent(one: &Path, other: &Path) -> bool {
    generation(one).is_some_and(|generation_of_one| generation(other) == Some(generation_of_one))
}

fn generation(file: &Path) -> Option<&str> {
    Some(file.file_name()?.to_str()?.split_once('-')?.0)
}

fn flags(file: &Path) -> Option<c_int> {
    let name = file.file_name()?.to_str()?;
    KINDS.iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, flags)| *flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ending_tells_whether_the_kernel_must_unpack() {
        assert_eq!(flags(Path::new("/modules/010-ext4.ko")), Some(0));
        for ending in ["xz", "zst", "gz"] {
            let file = format!("/modules/010-ext4.ko.{ending}");
            assert_eq!(flags(Path::new(&file)), Some(COMPRESSED_FILE));
        }
        assert_eq!(flags(Path::new("/modules/README")), None);
        assert_eq!(flags(Path::new("/modules/x.ko.bz2")), None);
    }

    #[test]
    fn modules_of_one_generation_are_independent() {
        let independent = |one, other| are_independent(Path::new(one), Path::new(other));
        assert!(independent("/modules/01-024-ext4.ko", "/modules/01-025-scsi_mod.ko"));
        assert!(!independent("/modules/01-024-ext4.ko", "/modules/02-036-9p.ko"));
        assert!(!independent("/modules/ext4.ko", "/modules/jbd2.ko"));
    }

    #[test]
    fn no_directory_is_no_module() {
        assert_eq!(list(Path::new("/nonexistent")).unwrap(), Vec::<PathBuf>::new());
    }
}
