//! Files of the build host, with errors that name them.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _};
use std::path::Path;

use cvm_init::error::{Error, Result};

/// The error that a file cannot be read.
pub fn unreadable(path: &Path, cause: &dyn Display) -> Error {
    Error::cannot(&format_args!("read {}", path.display()), cause)
}

/// Opens a file to read it. `hint` says how to have one that is missing, or is empty.
///
/// # Errors
/// There is none, or it is a folder or may not be read.
pub fn open(path: &Path, hint: &str) -> Result<File> {
    let is_file = |file: &File| file.metadata().is_ok_and(|data| data.is_file());
    match File::open(path) {
        Ok(file) if is_file(&file) => Ok(file),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let more = if hint.is_empty() { "" } else { "; " };
            Err(unreadable(path, &format_args!("no such file{more}{hint}")))
        }
        Ok(_) | Err(_) => Err(unreadable(path, &"not a readable file")),
    }
}

/// The bytes of a file.
///
/// # Errors
/// As of [`open`].
pub fn bytes(path: &Path, hint: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = open(path, hint)?.read_to_end(&mut bytes);
    read.map(|_| bytes).map_err(|cause| unreadable(path, &cause))
}

/// The first bytes of a file, so many at most.
///
/// # Errors
/// As of [`open`].
pub fn head(path: &Path, length: u64) -> Result<Vec<u8>> {
    let mut head = Vec::new();
    let read = open(path, "")?.take(length).read_to_end(&mut head);
    read.map(|_| head).map_err(|cause| unreadable(path, &cause))
}

/// The text of a file.
///
/// # Errors
/// As of [`open`], or it is not UTF-8.
pub fn text(path: &Path, hint: &str) -> Result<String> {
    String::from_utf8(bytes(path, hint)?).map_err(|_| unreadable(path, &"it is not UTF-8"))
}

/// All of standard input.
///
/// # Errors
/// It cannot be read, or is not UTF-8.
pub fn standard_input() -> Result<String> {
    let text = io::read_to_string(io::stdin());
    text.map_err(|cause| Error::cannot(&"read standard input", &cause))
}

/// Makes a file, in place of one that is there.
///
/// # Errors
/// The system's.
pub fn create(path: &Path) -> Result<File> {
    File::create(path).map_err(|cause| unwritable(path, &cause))
}

/// Makes a file that holds this.
///
/// # Errors
/// The system's.
pub fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|cause| unwritable(path, &cause))
}

/// The error that a file cannot be written.
pub fn unwritable(path: &Path, cause: &dyn Display) -> Error {
    Error::cannot(&format_args!("write {}", path.display()), cause)
}
