//! What is recorded in a register: a line that says what was done.

use crate::error::{Error, Result};

/// Who records it, in front of each line. It tells our events from those that others record after it.
const DOMAIN: &str = "cvm-init";

/// Most bytes of a line: what a TPM takes at once (`TPM2B_EVENT` in TCG's "Trusted Platform Module
/// Library", Part 2).
const LINE_MAX: usize = 1024;

/// A line of three fields, of printable ASCII: whose it is, what was done, and with what. Only the
/// last has blanks in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What was done.
    pub operation: &'static str,
    line: String,
}

impl Event {
    /// An event whose content may hold any characters: those that are not printable ASCII, quotes
    /// and backslashes are written as Rust has them in a text, so that no two contents are one line.
    ///
    /// # Errors
    /// It is too long to be recorded.
    pub fn new(operation: &'static str, content: &str) -> Result<Self> {
        let line = format!("{DOMAIN} {operation} {}", content.escape_default());
        if line.len() > LINE_MAX {
            let cause =
                format!("its line has {} bytes, at most {LINE_MAX} are possible", line.len());
            return Err(Error::cannot(&format_args!("record {operation}"), &cause));
        }
        Ok(Self { operation, line })
    }

    /// The whole line, without a line break.
    #[must_use]
    pub fn line(&self) -> &str {
        &self.line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_has_three_fields() {
        let event = Event::new("root", "verity=sha256:00 salt=-").unwrap();
        assert_eq!(event.line(), "cvm-init root verity=sha256:00 salt=-");
        assert_eq!(event.operation, "root");
    }

    #[test]
    fn what_a_tpm_does_not_take_at_once_is_refused() {
        let head = "cvm-init handoff init=".len();
        let init = |bytes: usize| format!("init=/{}", "a".repeat(bytes - head - 1));
        assert!(Event::new("handoff", &init(1024)).is_ok());
        assert_eq!(
            Event::new("handoff", &init(1025)).unwrap_err().to_string(),
            "cannot record handoff: its line has 1025 bytes, at most 1024 are possible"
        );
    }

    proptest! {
        #[test]
        fn a_line_is_printable_and_of_one_content(one in "\\PC{0,40}|.{0,20}", other in "\\PC{0,9}") {
            let event = |content: &str| Event::new("handoff", content).unwrap();
            prop_assert!(event(&one).line().bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            prop_assert_eq!(one == other, event(&one) == event(&other));
        }
    }
}
