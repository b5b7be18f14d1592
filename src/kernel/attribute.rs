//! Attributes of devices: files of sysfs, each of which gives all it has in one read.
//!
//! Source: `Documentation/filesystems/sysfs.rst` ("Reading/Writing Attribute Data"): at most a page.

use std::io;
use std::path::Path;

use crate::kernel::file;

/// Most bytes of an attribute.
const PAGE: usize = 4096;

/// What an attribute holds.
///
/// # Errors
/// When there is none, or its device is gone.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = [0; PAGE];
    file::read_some(file::open(path, file::READ)?, &mut content).map(<[u8]>::to_vec)
}

/// The same as text, in which what is none is replaced: some of it is the host's choice.
///
/// # Errors
/// As [`read`].
pub fn text(path: &Path) -> io::Result<String> {
    read(path).map(|content| String::from_utf8_lossy(&content).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_read_whole() {
        let place = std::env::temp_dir().join(format!("attribute-{}", std::process::id()));
        for content in [&b""[..], b"8:3\n", b"label \xff\n"] {
            std::fs::write(&place, content).unwrap();
            assert_eq!(read(&place).unwrap(), content);
        }
        assert_eq!(text(&place).unwrap(), "label \u{fffd}\n");
        std::fs::remove_file(&place).unwrap();
        assert_eq!(read(&place).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
