//! Files by their paths, with no more system calls than it takes: the standard library sets again what open
//! has set (its C library is for kernels without `O_CLOEXEC`), and asks for the size of what has none.
//!
//! Sources: open(2), read(2), getdents(2).

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, RawDir, fstat};
use rustix::io::Errno;

/// Bytes of a buffer: of what files of /proc and /sys give at once, and of a directory's entries.
const PAGE: usize = 4096;

/// How a file is opened for reading.
pub const READ: OFlags = OFlags::RDONLY;
/// How it is opened for writing.
pub const WRITE: OFlags = OFlags::WRONLY;
/// How it is opened for both.
pub const BOTH: OFlags = OFlags::RDWR;
/// How it is opened for nothing but to say which one it is.
pub const PLACE: OFlags = OFlags::PATH;

/// Opens a file that is there. No program that is run inherits it.
///
/// # Errors
/// Those of open(2).
pub fn open(path: impl AsRef<Path>, flags: OFlags) -> io::Result<File> {
    Ok(rustix::fs::open(path.as_ref(), flags | OFlags::CLOEXEC, Mode::empty())?.into())
}

/// Makes a file that is not there yet, to write to.
///
/// # Errors
/// Those of open(2): EEXIST where there is anything of that name.
pub fn create(path: impl AsRef<Path>, mode: Mode) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path.as_ref(), flags, mode)?.into())
}

/// What is left to read of a file, once: at most `buffer`.
///
/// # Errors
/// Those of read(2), but EINTR.
pub fn read_some(file: impl AsFd, buffer: &mut [u8]) -> io::Result<&[u8]> {
    let length = loop {
        match rustix::io::read(&file, &mut *buffer) {
            Err(Errno::INTR) => {}
            length => break length?,
        }
    };
    Ok(buffer.get(..length).unwrap_or_default())
}

/// All that is left to read of a file.
///
/// # Errors
/// Those of read(2), but EINTR.
pub fn read_rest(file: impl AsFd) -> io::Result<Vec<u8>> {
    let (mut content, mut buffer) = (Vec::new(), [0; PAGE]);
    loop {
        match read_some(&file, &mut buffer)? {
            [] => return Ok(content),
            more => content.extend_from_slice(more),
        }
    }
}

/// What a file holds.
///
/// # Errors
/// When it cannot be opened or read, or is no UTF-8.
pub fn text(path: impl AsRef<Path>) -> io::Result<String> {
    String::from_utf8(read_rest(open(path, READ)?)?)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is no UTF-8"))
}

/// Writes to a file that is there, as one of the kernel's.
///
/// # Errors
/// When it cannot be opened or written.
pub fn write(path: impl AsRef<Path>, content: &[u8]) -> io::Result<()> {
    open(path, WRITE)?.write_all(content)
}

/// Makes a file that everybody may read.
///
/// # Errors
/// When there is one of that name, or it cannot be written.
pub fn publish(path: impl AsRef<Path>, content: &[u8]) -> io::Result<()> {
    create(path, Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH)?.write_all(content)
}

/// Whether it is a regular file, which no read waits for but for its disk.
///
/// # Errors
/// Those of fstat(2).
pub fn is_regular(file: impl AsFd) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(fstat(file)?.st_mode) == FileType::RegularFile)
}

/// The names in a directory, in no particular order.
///
/// # Errors
/// When it cannot be opened or read.
pub fn names(dir: impl AsRef<Path>) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    while_named(dir.as_ref(), |name| {
        names.push(OsString::from_vec(name.to_vec()));
        true
    })?;
    Ok(names)
}

/// Whether a directory holds nothing, however much it is that it holds.
///
/// # Errors
/// When it cannot be opened or read.
pub fn is_empty(dir: impl AsRef<Path>) -> io::Result<bool> {
    let mut any = false;
    while_named(dir.as_ref(), |_| {
        any = true;
        false
    })?;
    Ok(!any)
}

/// Tells the names in a directory, as long as more of them are wanted.
fn while_named(dir: &Path, mut more: impl FnMut(&[u8]) -> bool) -> io::Result<()> {
    let dir = open(dir, READ | OFlags::DIRECTORY)?;
    let mut buffer = [MaybeUninit::uninit(); PAGE];
    let mut entries = RawDir::new(&dir, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") && !more(name) {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::{FdFlags, fcntl_getfd};
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;
    use std::{env, process};

    struct Folder(PathBuf);

    impl Folder {
        fn new(test: &str) -> Self {
            let folder = env::temp_dir().join(format!("file-{test}-{}", process::id()));
            fs::create_dir(&folder).unwrap();
            Self(folder)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_file_is_read_whole_whatever_its_size() {
        let Folder(folder) = &Folder::new("read");
        let file = folder.join("it");
        for size in [0, 1, PAGE - 1, PAGE, PAGE + 1, 5 * PAGE] {
            fs::write(&file, vec![b'a'; size]).unwrap();
            assert_eq!(text(&file).unwrap(), "a".repeat(size));
        }
        fs::write(&file, b"\xff").unwrap();
        assert_eq!(text(&file).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(text(folder.join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
        // What has no size.
        assert!(text("/proc/self/status").unwrap().contains("Name:"));
    }

    #[test]
    fn what_is_made_was_not_there_and_has_its_mode() {
        let Folder(folder) = &Folder::new("create");
        let file = folder.join("it");
        assert_eq!(write(&file, b"x").unwrap_err().kind(), io::ErrorKind::NotFound);
        publish(&file, b"first").unwrap();
        // Less this process's mask, as for any file.
        fs::write(folder.join("any"), "").unwrap();
        let any = fs::metadata(folder.join("any")).unwrap().permissions();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode(), any.mode() & 0o100_644);
        assert_eq!(publish(&file, b"x").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        write(&file, b"F").unwrap();
        assert_eq!(text(&file).unwrap(), "First");
        let secret = folder.join("other");
        create(&secret, Mode::RUSR).unwrap();
        assert_eq!(fs::metadata(&secret).unwrap().permissions(), Permissions::from_mode(0o100_400));
    }

    #[test]
    fn no_program_inherits_what_is_opened() {
        let Folder(folder) = &Folder::new("inherit");
        let made = create(folder.join("it"), Mode::RUSR).unwrap();
        assert!(is_regular(&made).unwrap());
        assert!(!is_regular(open("/dev/null", READ).unwrap()).unwrap());
        for file in [made, open("/", READ).unwrap(), open("/", PLACE).unwrap()] {
            assert_eq!(fcntl_getfd(&file).unwrap(), FdFlags::CLOEXEC);
        }
    }

    #[test]
    fn a_directorys_names_are_all_told_once() {
        let Folder(folder) = &Folder::new("names");
        assert!(names(folder).unwrap().is_empty() && is_empty(folder).unwrap());
        // More than the buffer holds at once.
        let mut made: Vec<_> =
            (0..500).map(|number| OsString::from(format!("name-{number}"))).collect();
        for name in &made {
            fs::write(folder.join(name), "").unwrap();
        }
        let mut found: Vec<_> = names(folder).unwrap();
        made.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, made);
        assert!(!is_empty(folder).unwrap());
        assert_eq!(names(folder.join("name-1")).unwrap_err().kind(), io::ErrorKind::NotADirectory);
    }
}
