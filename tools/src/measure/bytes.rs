//! Reading a file that may be broken anywhere: each field is where it should be, or an error that
//! names the file and the field.

use cvm_init::error::{Error, Result};

/// A file of little-endian fields.
#[derive(Debug, Clone, Copy)]
pub struct Bytes<'a> {
    name: &'a str,
    data: &'a [u8],
}

impl<'a> Bytes<'a> {
    /// What a file of this name holds.
    #[must_use]
    pub fn new(name: &'a str, data: &'a [u8]) -> Self {
        Self { name, data }
    }

    /// All of it.
    #[must_use]
    pub fn all(&self) -> &'a [u8] {
        self.data
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.data.len() as u64
    }

    /// Whether it has no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// The error that this is what is wrong with it.
    #[must_use]
    pub fn refuse(&self, cause: &str) -> Error {
        Error::cannot(&format_args!("read {}", self.name), &cause)
    }

    /// `len` bytes from `at` on.
    ///
    /// # Errors
    /// They are not all there.
    pub fn get(&self, field: &str, at: u64, len: u64) -> Result<&'a [u8]> {
        let range = || {
            let start = usize::try_from(at).ok()?;
            let end = start.checked_add(usize::try_from(len).ok()?)?;
            self.data.get(start..end)
        };
        range().ok_or_else(|| self.refuse(&format!("it ends before its {field}")))
    }

    /// `N` bytes from `at` on.
    ///
    /// # Errors
    /// As [`Bytes::get`].
    pub fn array<const N: usize>(&self, field: &str, at: u64) -> Result<[u8; N]> {
        let bytes = self.get(field, at, N as u64)?;
        bytes.first_chunk().copied().ok_or_else(|| self.refuse(field))
    }

    /// A number of 16 bits.
    ///
    /// # Errors
    /// As [`Bytes::get`].
    pub fn le16(&self, field: &str, at: u64) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array(field, at)?))
    }

    /// A number of 32 bits.
    ///
    /// # Errors
    /// As [`Bytes::get`].
    pub fn le32(&self, field: &str, at: u64) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(field, at)?))
    }

    /// A number of 64 bits.
    ///
    /// # Errors
    /// As [`Bytes::get`].
    pub fn le64(&self, field: &str, at: u64) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(field, at)?))
    }
}

/// The first place of `needle` in `hay`, in bytes.
#[must_use]
pub fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len().max(1)).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_is_not_there_is_named_with_its_file() {
        let bytes = Bytes::new("a.efi", &[1, 2, 3]);
        assert_eq!(bytes.le16("size", 1).unwrap(), 0x0302);
        for at in [2, 3, u64::MAX] {
            let error = bytes.le16("size", at).unwrap_err();
            assert_eq!(error.to_string(), "cannot read a.efi: it ends before its size");
        }
        assert!(bytes.get("text", 1, u64::MAX).is_err());
    }

    #[test]
    fn the_first_place_is_found() {
        assert_eq!(find(b"a bc bc", b"bc"), Some(2));
        assert_eq!(find(b"a", b"bc"), None);
        assert_eq!(find(b"", b""), None);
    }
}
