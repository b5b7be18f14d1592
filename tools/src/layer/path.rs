//! Names in the archive of a layer.

use std::fmt;

use cvm_init::error::{Error, Result};

/// What Linux takes as one name.
const NAME_MAX: usize = 255;
/// Less than the 4096 bytes of a system call, in which the folder of a build machine stands in front.
const PATH_MAX: usize = 4000;

/// A path below the root of an image, name by name; none for the root itself. Not one of the names is
/// empty, `.` or `..`, has a slash or a NUL in it, or is longer than Linux takes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Path(Vec<Vec<u8>>);

impl Path {
    /// From what stands in an archive.
    ///
    /// # Errors
    /// It is absolute, leads above the root by a `..`, even if only on the way, or is too long.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let refused = |why: &str| Err(Error::new(format!("{} {why}", quoted(text))));
        if text.starts_with(b"/") {
            return refused("is an absolute path");
        }
        let mut path = Self::default();
        for name in text.split(|byte| *byte == b'/') {
            match name {
                b"" | b"." => {}
                b".." => return refused("leads out of the layer"),
                name if name.contains(&0) => return refused("has a NUL in it"),
                name => path.push(name)?,
            }
        }
        Ok(path)
    }

    /// Its names, from the root on.
    #[must_use]
    pub fn names(&self) -> &[Vec<u8>] {
        &self.0
    }

    /// Where it lies, and its own name; nothing for the root.
    #[must_use]
    pub fn split(&self) -> Option<(Self, &[u8])> {
        let (name, above) = self.0.split_last()?;
        Some((Self(above.to_vec()), name))
    }

    /// One level down.
    ///
    /// # Errors
    /// It gets too long.
    pub(super) fn push(&mut self, name: &[u8]) -> Result<()> {
        let length: usize = self.0.iter().map(|name| name.len().saturating_add(1)).sum();
        if name.len() > NAME_MAX || length.saturating_add(name.len()) > PATH_MAX {
            let name = quoted(name.get(..64).unwrap_or(name));
            return Err(Error::new(format!(
                "the path with {name} is too long: a name may have {NAME_MAX} bytes, and all {PATH_MAX}"
            )));
        }
        self.0.push(name.to_vec());
        Ok(())
    }

    /// One level up; nothing above the root.
    pub(super) fn pop(&mut self) -> Option<()> {
        self.0.pop().map(drop)
    }

    /// With slashes between the names; a dot for the root.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        if self.0.is_empty() { b".".to_vec() } else { self.0.join(&b'/') }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&quoted(&self.bytes()))
    }
}

/// Bytes of somebody else's in a message: in quotes, and of one line.
pub(super) fn quoted(bytes: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> std::result::Result<String, String> {
        let path = Path::parse(text.as_bytes()).map_err(|refusal| refusal.to_string())?;
        Ok(String::from_utf8(path.bytes()).unwrap())
    }

    #[test]
    fn a_path_is_spelled_in_one_way() {
        for (text, path) in [
            ("etc/passwd", "etc/passwd"),
            ("./etc//passwd/", "etc/passwd"),
            ("./", "."),
            ("", "."),
            ("a/./b", "a/b"),
            ("...", "..."),
        ] {
            assert_eq!(parsed(text), Ok(path.to_owned()), "{text}");
        }
    }

    #[test]
    fn a_path_that_leaves_the_layer_is_refused() {
        for (text, why) in [
            ("../etc/passwd", r#""../etc/passwd" leads out of the layer"#),
            ("a/../b", r#""a/../b" leads out of the layer"#),
            ("a/..", r#""a/.." leads out of the layer"#),
            ("/etc/passwd", r#""/etc/passwd" is an absolute path"#),
            ("a\0/../b", r#""a\0/../b" has a NUL in it"#),
        ] {
            assert_eq!(parsed(text), Err(why.to_owned()));
        }
        assert!(parsed(&"x".repeat(255)).is_ok());
        assert!(parsed(&"x".repeat(256)).unwrap_err().contains("too long"));
        assert!(parsed(&"x/".repeat(2000)).is_ok());
        assert!(parsed(&"x/".repeat(2001)).unwrap_err().contains("too long"));
        assert_eq!(
            parsed("\u{1b}[2J\n/../").unwrap_err(),
            r#""\u{1b}[2J\n/../" leads out of the layer"#
        );
    }

    proptest! {
        #[test]
        fn what_is_taken_lies_below_the_root(text in "[a./\\\\ \\x00]{0,20}") {
            if let Ok(path) = Path::parse(text.as_bytes()) {
                for name in path.names() {
                    prop_assert!(!name.is_empty() && name != b"." && name != b"..");
                    prop_assert!(!name.contains(&b'/') && !name.contains(&0));
                }
                prop_assert_eq!(Path::parse(&path.bytes()), Ok(path));
            }
        }
    }
}
