//! Kernel modules.
//!
//! Source: `finit_module(2)`.

use std::ffi::{CString, OsString, c_int};
use std::io;
use std::path::Path;

use rustix::io::Errno;
use rustix::system::finit_module;

use crate::kernel::file;

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

/// The names of the files in `dir`, in order, which is the order to load them in. None
/// when there is no such directory: then the kernel has all it needs built in.
///
/// # Errors
/// When the directory cannot be read, or holds what is no module.
pub fn list(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match file::names(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let name = |name: OsString| {
        name.into_string()
            .map_err(|name| io::Error::other(format!("{} is no module's name", name.display())))
    };
    let mut files = entries.into_iter().map(name).collect::<io::Result<Vec<_>>>()?;
    files.sort_unstable();
    Ok(files)
}

/// Loads one module, with those of `parameters`, pairs of a module's name and a word, that are for it.
///
/// # Errors
/// When it is no module, or the kernel refuses it; the kernel log says why.
pub fn load(path: &Path, parameters: &[(String, String)]) -> io::Result<Loaded> {
    let flags = flags(path).ok_or_else(|| io::Error::other("not a kernel module's name"))?;
    let parameters = parameters_of(path, parameters)?;
    let opened = file::open(path, file::READ)?;
    match finit_module(opened, &parameters, flags) {
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

/// The name by which the kernel knows it: of `010-dm-crypt.ko.xz`, `dm_crypt`.
fn name(file: &Path) -> Option<String> {
    let file = file.file_name()?.to_str()?;
    let name = KINDS.iter().find_map(|(ending, _)| file.strip_suffix(ending))?;
    let name = match name.split_once('-') {
        Some((number, name)) if number.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => name,
    };
    Some(as_kernel_has_it(name))
}

/// A module's name may be written with dashes as well.
#[must_use]
pub fn as_kernel_has_it(name: &str) -> String {
    name.chars().map(|c| if c == '-' { '_' } else { c }).collect()
}

/// What of the words for modules is for this one.
fn parameters_of(file: &Path, parameters: &[(String, String)]) -> io::Result<CString> {
    let name = name(file).unwrap_or_default();
    let of_this = parameters.iter().filter(|(module, _)| *module == name);
    let words: Vec<_> = of_this.map(|(_, parameter)| &**parameter).collect();
    CString::new(words.join(" ")).map_err(io::Error::other)
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
    fn a_module_has_the_words_of_its_name() {
        let words = [("dm_crypt", "a=1"), ("loop", "max_loop=8"), ("dm_crypt", "b")];
        let words = words.map(|(name, word)| (name.to_owned(), word.to_owned()));
        for (file, parameters) in [
            ("/modules/010-dm-crypt.ko.xz", c"a=1 b"),
            ("/modules/010-loop.ko", c"max_loop=8"),
            ("/modules/9pnet.ko", c""),
        ] {
            assert_eq!(&*parameters_of(Path::new(file), &words).unwrap(), parameters, "{file}");
        }
        assert_eq!(name(Path::new("/modules/004-9pnet_virtio.ko")).unwrap(), "9pnet_virtio");
        assert_eq!(name(Path::new("9p.ko")).unwrap(), "9p");
    }

    #[test]
    fn no_directory_is_no_module() {
        assert_eq!(list(Path::new("/nonexistent")).unwrap(), Vec::<String>::new());
    }
}
