//! The one exec of the program.
//!
//! Source: execve(2).

#![expect(
    unsafe_code,
    reason = "rustix has no stable call for exec; std's pulls in process spawning"
)]

use std::ffi::{CString, NulError, OsStr, OsString, c_char};
use std::io;
use std::iter;
use std::os::unix::ffi::OsStringExt;
use std::ptr;

/// Becomes `program`, with `arguments` behind its own name and `environment`, words of the form
/// NAME=VALUE. Returns only with the reason why it could not.
pub fn exec(
    program: &str,
    arguments: impl Iterator<Item = OsString>,
    environment: impl Iterator<Item = OsString>,
) -> io::Error {
    let argv = strings(iter::once(OsStr::new(program).to_owned()).chain(arguments));
    let (Ok(argv), Ok(envp)) = (argv, strings(environment)) else {
        return io::ErrorKind::InvalidInput.into();
    };
    let (argv_list, envp_list) = (list(&argv), list(&envp));
    let Some(path) = argv.first() else {
        return io::ErrorKind::InvalidInput.into();
    };
    // SAFETY: a change of a signal's disposition; no handler of ours is involved. Rust's runtime
    // ignores SIGPIPE, and what is ignored stays so in the new program.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    // SAFETY: the path and what both lists point to are live C strings, and a null ends each list.
    unsafe { libc::execve(path.as_ptr(), argv_list.as_ptr(), envp_list.as_ptr()) };
    io::Error::last_os_error()
}

fn strings(words: impl Iterator<Item = OsString>) -> Result<Vec<CString>, NulError> {
    words.map(|word| CString::new(word.into_vec())).collect()
}

fn list(strings: &[CString]) -> Vec<*const c_char> {
    let null = iter::once(ptr::null());
    strings.iter().map(|string| string.as_ptr()).chain(null).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_there_is_the_reason() {
        let error = exec("/nonexistent", iter::empty(), iter::empty());
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_nul_in_an_argument_is_refused() {
        let word = || iter::once(OsString::from("a\0b"));
        for error in
            [exec("/bin/true", word(), iter::empty()), exec("/bin/true", iter::empty(), word())]
        {
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }
}
