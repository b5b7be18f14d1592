//! The command line that another kernel is given.

use std::ffi::CString;

use crate::error::{Error, Result};

/// Most bytes that a kernel hands to the next one, without the NUL behind them: of the 2047 that there
/// is room for, on x86 with the NUL, its loader keeps 30 free in any case (`MAX_ELFCOREHDR_STR_LEN` in
/// `arch/x86/kernel/kexec-bzimage64.c`). Other architectures take no fewer.
pub const BYTES_MAX: usize = 2016;

/// `words` and behind them the content of a file, in which line feeds may end the one line. In this
/// order, because neither a quote that does not end nor a `--` of the file can then take the words in.
///
/// # Errors
/// What of the content is not printable ASCII, and by how much all of it is too long.
pub fn join(words: &str, content: &[u8]) -> Result<CString> {
    let lines = content.iter().rposition(|byte| *byte != b'\n').map_or(0, |last| last + 1);
    let line = content.get(..lines).unwrap_or_default();
    if let Some(at) = line.iter().position(|byte| !matches!(byte, b' '..=b'~')) {
        let byte = line.get(at).copied().unwrap_or_default();
        return Err(Error::new(format!("byte {at} is {byte:#04x}, which is not printable ASCII")));
    }
    let mut joined = words.as_bytes().to_vec();
    if !line.is_empty() {
        joined.push(b' ');
        joined.extend_from_slice(line);
    }
    if joined.len() > BYTES_MAX {
        return Err(Error::new(format!(
            "it is longer than {} bytes, the most that the kernel hands on behind {words}",
            BYTES_MAX.saturating_sub(words.len()).saturating_sub(1)
        )));
    }
    CString::new(joined).map_err(|error| Error::new(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refusal(content: &[u8]) -> String {
        join("roothash=00", content).unwrap_err().to_string()
    }

    #[test]
    fn the_words_come_first() {
        let line = |content: &[u8]| join("roothash=00", content).unwrap().into_string().unwrap();
        assert_eq!(line(b"console=ttyS0 -- a\n"), "roothash=00 console=ttyS0 -- a");
        assert_eq!(line(b"\"open"), "roothash=00 \"open");
        assert_eq!(line(b"quiet\n\n"), "roothash=00 quiet");
        assert_eq!(line(b"\n"), "roothash=00");
        assert_eq!(line(b""), "roothash=00");
    }

    #[test]
    fn what_is_not_printable_is_named() {
        for (content, message) in [
            (&b"quiet\tdebug"[..], "byte 5 is 0x09, which is not printable ASCII"),
            (b"a\nb\n", "byte 1 is 0x0a, which is not printable ASCII"),
            (b"a\r\n", "byte 1 is 0x0d, which is not printable ASCII"),
            (b"\0", "byte 0 is 0x00, which is not printable ASCII"),
            (b"\x7f", "byte 0 is 0x7f, which is not printable ASCII"),
            ("\u{e4}".as_bytes(), "byte 0 is 0xc3, which is not printable ASCII"),
        ] {
            assert_eq!(refusal(content), message);
        }
    }

    #[test]
    fn what_the_kernel_does_not_hand_on_is_refused() {
        let words = "roothash=00";
        let room = BYTES_MAX - words.len() - 1;
        let line = join(words, &vec![b'a'; room]).unwrap();
        assert_eq!(line.to_bytes().len(), BYTES_MAX);
        assert_eq!(
            refusal(&vec![b'a'; room + 1]),
            "it is longer than 2004 bytes, the most that the kernel hands on behind roothash=00"
        );
    }

    proptest! {
        #[test]
        fn no_content_panics(content in prop::collection::vec(any::<u8>(), 0..3000)) {
            if let Ok(line) = join("roothash=00", &content) {
                prop_assert!(line.to_bytes().iter().all(|byte| (b' '..=b'~').contains(byte)));
                prop_assert!(line.to_bytes().len() <= BYTES_MAX);
                prop_assert!(line.to_bytes().starts_with(b"roothash=00"));
            }
        }
    }
}
