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

/// The bytes of the 36-character form, or `None` when `text` is none.
#[must_use]
pub fn parse(text: &str) -> Option<[u8; 16]> {
    let bytes = hex::decode(&text.replace('-', ""))?.try_into().ok()?;
    hyphenated(&bytes).eq_ignore_ascii_case(text).then_some(bytes)
}

/// From the order of the text to that of a partition table, where the first three groups are numbers
/// with their lowest byte in front, and back (UEFI specification 2.10, appendix A).
#[must_use]
pub fn swapped(mut uuid: [u8; 16]) -> [u8; 16] {
    uuid[..4].reverse();
    uuid[4..6].reverse();
    uuid[6..8].reverse();
    uuid
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_three_groups_are_swapped() {
        let esp = parse("C12A7328-F81F-11D2-BA4B-00A0C93EC93B").unwrap();
        let stored = "28732ac11ff8d211ba4b00a0c93ec93b";
        assert_eq!(hex::encode(&swapped(esp)), stored);
        assert_eq!(swapped(swapped(esp)), esp);
    }

    proptest! {
        #[test]
        fn a_uuid_is_read_as_it_is_shown(uuid: [u8; 16]) {
            prop_assert_eq!(parse(&hyphenated(&uuid)), Some(uuid));
        }

        #[test]
        fn only_the_hyphenated_form_is_taken(text in "[0-9a-fA-F-]{30,40}|\\PC*") {
            let taken = parse(&text).map(|uuid| hyphenated(&uuid));
            let same = taken.as_deref().is_none_or(|shown| shown.eq_ignore_ascii_case(&text));
            prop_assert!(same);
        }
    }

    #[test]
    fn version_and_variant_are_set() {
        assert_eq!(hyphenated(&from_random([0xff; 16])), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(hyphenated(&from_random([0; 16])), "00000000-0000-4000-8000-000000000000");
    }
}
