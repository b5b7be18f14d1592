//! The one exec of the program.
//!
//! Source: execve(2).

#![expect(
    unsafe_code,
    reason = "rustix has no stable call for exec; std's pulls in process spawning"
)]

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;

/// Becomes `program`, with `arguments` behind its own name and the environment as it is.
/// Returns only with the reason why it could not.
pub fn exec(program: &str, arguments: impl Iterator<Item = OsString>) -> io::Error {
    let argv: Result<Vec<CString>, _> = std::iter::once(OsStr::new(program).to_owned())
        .chain(arguments)
        .map(|argument| CString::new(argument.as_bytes()))
        .collect();
    let Ok(argv) = argv else {
        return io::ErrorKind::InvalidInput.into();
    };
    let mut pointers: Vec<_> = argv.iter().map(|argument| argument.as_ptr()).collect();
    let Some(path) = pointers.first().copied() else {
        return io::ErrorKind::InvalidInput.into();
    };
    pointers.push(std::ptr::null());
    // SAFETY: a change of a signal's disposition; no handler of ours is involved. Rust's runtime
    // ignores SIGPIPE, and what is ignored stays so in the new program.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    // SAFETY: the path and every argument are live C strings, and a null ends the list.
    unsafe { libc::execv(path, pointers.as_ptr()) };
    io::Error::last_os_error()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_there_is_the_reason() {
        let error = exec("/nonexistent", std::iter::empty());
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_nul_in_an_argument_is_refused() {
        let error = exec("/bin/true", std::iter::once(OsString::from("a\0b")));
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
