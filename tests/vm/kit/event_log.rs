//! The log that a firmware leaves of what it has measured into a TPM.

use cvm_tools::measure::hash::Hash;
use std::collections::BTreeMap;

/// What the registers of two banks come to by a log (TCG PC Client Platform Firmware Profile, 10.2): an
/// event in the old form that says which hashes there are, and events with a digest of each.
pub(crate) fn replayed(mut log: &[u8]) -> BTreeMap<u32, (Hash<32>, Hash<48>)> {
    const NO_ACTION: u32 = 3;
    fn take<'a>(log: &mut &'a [u8], length: usize) -> &'a [u8] {
        let (head, rest) = log.split_at(length);
        *log = rest;
        head
    }
    fn number(log: &mut &[u8]) -> u32 {
        u32::from_le_bytes(take(log, 4).try_into().unwrap())
    }
    fn data(log: &mut &[u8]) {
        let length = number(log);
        take(log, length as usize);
    }
    // Register, type and the digest of SHA-1 that such an event has.
    take(&mut log, 4 + 4 + 20);
    data(&mut log);
    let mut registers = BTreeMap::<u32, (Hash<32>, Hash<48>)>::new();
    while !log.is_empty() {
        let (pcr, kind, digests) = (number(&mut log), number(&mut log), number(&mut log));
        let (sha256, sha384) = registers.entry(pcr).or_insert((Hash::ZERO, Hash::ZERO));
        for _ in 0..digests {
            let algorithm = u16::from_le_bytes(take(&mut log, 2).try_into().unwrap());
            let digest = match algorithm {
                0x04 => take(&mut log, 20),
                0x0b => take(&mut log, 32),
                0x0c => take(&mut log, 48),
                0x0d => take(&mut log, 64),
                other => panic!("an event has a digest of {other:#x}"),
            };
            match algorithm {
                _ if kind == NO_ACTION => {}
                0x0b => *sha256 = sha256.extend(&Hash(digest.try_into().unwrap())),
                0x0c => *sha384 = sha384.extend(&Hash(digest.try_into().unwrap())),
                _ => {}
            }
        }
        data(&mut log);
    }
    registers
}
