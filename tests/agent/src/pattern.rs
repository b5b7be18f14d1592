//! Bytes that can be told from all others: both the agent, which writes them, and the tests, which
//! look for them on the host's side, have this file.

/// Bytes that follow from the seed and the place alone, so that any part can be checked by itself.
/// The offset is taken down to a multiple of 8.
pub(crate) fn pattern(seed: u64, offset: u64, bytes: &mut [u8]) {
    for (word, place) in bytes.chunks_mut(8).zip(offset / 8..) {
        for (byte, random) in word.iter_mut().zip(mix(seed ^ mix(place)).to_le_bytes()) {
            *byte = random;
        }
    }
}

/// The output function of splitmix64.
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
