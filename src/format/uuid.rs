//! UUIDs (RFC 9562).

use crate::format::hex;

/// A version 4 UUID made of 16 random bytes.
#[must_use]
pub fn from_random(mut bytes: [u8; 16]) -> [u8; 16] {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    bytes
}

/// The 36-character form.
#[must_use]
pub fn hyphenated(uuid: &[u8; 16]) -> String {
    let mut text = hex::encode(uuid);
    for at in [20, 16, 12, 8] {
        text.insert(at, '-');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_and_variant_are_set() {
        assert_eq!(hyphenated(&from_random([0xff; 16])), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(hyphenated(&from_random([0; 16])), "00000000-0000-4000-8000-000000000000");
    }
}
