//! Commands as a shell reads them.

use std::ffi::OsStr;
use std::process::Command;

/// A word, without quotes where they are not needed.
#[must_use]
pub fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A command in one line.
#[must_use]
pub fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(quoted).collect::<Vec<_>>().join(" ")
}

/// A command with a line for each option and its value.
#[must_use]
pub fn lines<'a>(words: impl IntoIterator<Item = &'a OsStr>) -> String {
    let mut lines = String::new();
    for word in words {
        let is_option = word.as_encoded_bytes().starts_with(b"-");
        lines.push_str(if is_option { " \\\n    " } else { " " });
        lines.push_str(&quoted(word));
    }
    lines.trim_start().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_back_what_was_quoted() {
        let words = ["-a", "", "it's", "$x \"`y`\\", "new\nline", "*", "é", "a=b,c:/d.e-f"];
        let printed = lines(["printf", r"%s\0"].into_iter().chain(words).map(OsStr::new));
        let output = Command::new("sh").arg("-c").arg(printed).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), words.join("\0") + "\0");
    }

    #[test]
    fn each_option_begins_a_line() {
        let words = ["sudo", "qemu", "-m", "1G", "-nographic"].map(OsStr::new);
        assert_eq!(lines(words), "sudo qemu \\\n    -m 1G \\\n    -nographic");
        assert_eq!(line(Command::new("cp").args(["-r", "a b"])), "cp -r 'a b'");
    }
}
