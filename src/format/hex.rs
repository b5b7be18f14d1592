//! Hexadecimal text.

use std::fmt::Write;

/// Lower-case digits of `bytes`, two a byte.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The bytes that `text` spells, or `None` when it is of odd length or holds another character.
#[must_use]
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect()
}

fn digit(c: u8) -> Option<u8> {
    match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        b'A'..=b'F' => Some(c - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip(bytes: Vec<u8>) {
            let text = encode(&bytes);
            prop_assert_eq!(decode(&text.to_uppercase()), Some(bytes.clone()));
            prop_assert_eq!(decode(&text), Some(bytes));
        }

        #[test]
        fn only_hex_digits_are_taken(text in "[/09:@AFG`afg]{0,4}|\\PC*") {
            let valid = text.len() % 2 == 0 && text.bytes().all(|c| c.is_ascii_hexdigit());
            prop_assert_eq!(decode(&text).is_some(), valid);
        }
    }
}
