//! The guest's whole memory as the host would see it, were it not encrypted, and what is in it.

use crate::kit::guest::Guest;
use serde_json::json;
use std::fs::File;
use std::io::Read;
use std::ops::Range;

pub(crate) const PAGE: usize = 4096;

/// Bytes of an AES-256 key, and 32-bit words of its schedule (FIPS 197).
pub(crate) const KEY: usize = 32;
const SCHEDULE: usize = 60;

/// A dump. The place of a byte in it is its physical address.
pub(crate) struct Memory(Vec<u8>);

/// Something to be looked for. A quarter of it is enough.
pub(crate) struct Needle {
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
}

/// A piece of a needle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Find {
    pub(crate) name: &'static str,
    /// Which bytes of it.
    pub(crate) part: Range<usize>,
    /// Where the first of them lies.
    pub(crate) address: usize,
}

impl Memory {
    /// Of a VM that has `mib` of memory, less than where the machine's devices begin.
    pub(crate) fn of(guest: &mut Guest, mib: usize) -> Self {
        assert!(mib <= 2048, "beyond 2 GiB addresses have a hole");
        // In one instant: a copy on its way from page to page would be seen twice or never.
        guest.qmp("stop");
        let dump = guest.scratch().join("memory.dump");
        let size = mib << 20;
        let arguments = json!({ "val": 0, "size": size, "filename": dump });
        guest.qmp_with("pmemsave", &arguments);
        guest.qmp("cont");
        let mut bytes = Vec::with_capacity(size);
        File::open(&dump).and_then(|mut file| file.read_to_end(&mut bytes)).expect("the dump");
        std::fs::remove_file(&dump).expect("the dump is ours");
        assert_eq!(bytes.len(), size, "the dump is whole");
        Self(bytes)
    }

    /// Pages that hold anything, with their addresses.
    fn used(&self) -> impl Iterator<Item = (usize, &[u8])> {
        const NOTHING: [u8; PAGE] = [0; PAGE];
        self.0
            .chunks(PAGE)
            .enumerate()
            .filter(|(_, page)| **page != NOTHING)
            .map(|(frame, page)| (frame * PAGE, page))
    }

    /// Bytes from an address on, as many as there are.
    pub(crate) fn at(&self, address: usize, length: usize) -> &[u8] {
        let rest = self.0.get(address..).unwrap_or_default();
        &rest[..length.min(rest.len())]
    }

    /// See [`find`].
    pub(crate) fn find(&self, needles: &[Needle]) -> Vec<Find> {
        find(self.used().map(|(address, _)| (address, self.at(address, PAGE + 64))), needles)
    }

    /// Every AES-256 key that stands in front of its own schedule, as a cipher keeps it: a key
    /// that nobody has told can be found by that.
    pub(crate) fn aes_256_keys(&self) -> Vec<(usize, [u8; KEY])> {
        let sbox = sbox();
        let mut found = Vec::new();
        for (address, _) in self.used() {
            let bytes = self.at(address, PAGE + SCHEDULE * 4);
            let words: Vec<_> = bytes
                .chunks_exact(4)
                .map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]]))
                .collect();
            for (at, schedule) in words.windows(SCHEDULE).take(PAGE / 4).enumerate() {
                if is_schedule(schedule, &sbox) {
                    let key = bytes[at * 4..at * 4 + KEY].try_into().expect("as many bytes");
                    found.push((address + at * 4, key));
                }
            }
        }
        found
    }
}

/// Every piece of every needle in these bytes, at any alignment: its quarters, and those that
/// follow each other as one. Each stretch is searched for pieces that begin in its first page.
pub(crate) fn find<'a>(
    stretches: impl Iterator<Item = (usize, &'a [u8])>,
    needles: &[Needle],
) -> Vec<Find> {
    let quarter = |needle: &Needle| needle.bytes.len() / 4;
    // Two bytes tell nearly always that nothing begins here.
    let start = |bytes: &[u8], at| usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    let mut starts = vec![false; 1 << 16];
    for needle in needles {
        (0..4).for_each(|q| starts[start(&needle.bytes, q * quarter(needle))] = true);
    }
    let mut found: Vec<Find> = Vec::new();
    for (address, bytes) in stretches {
        for at in 0..(bytes.len() - 1).min(PAGE) {
            if !starts[start(bytes, at)] {
                continue;
            }
            for needle in needles {
                for part in (0..4).map(|q| q * quarter(needle)..(q + 1) * quarter(needle)) {
                    if bytes[at..].starts_with(&needle.bytes[part.clone()]) {
                        found.push(Find { name: needle.name, part, address: address + at });
                    }
                }
            }
        }
    }
    let mut whole: Vec<Find> = Vec::new();
    for piece in found {
        let before = whole.iter_mut().find(|before| {
            before.name == piece.name
                && before.part.end == piece.part.start
                && before.address + before.part.len() == piece.address
        });
        match before {
            Some(before) => before.part.end = piece.part.end,
            None => whole.push(piece),
        }
    }
    whole
}

/// FIPS 197, 5.2, for a key of eight words, whose bytes are in memory order.
fn is_schedule(words: &[u32], sbox: &[u8; 256]) -> bool {
    // Seven words of eight follow by this alone; it is first because it is quick.
    if words[9] != words[1] ^ words[8] {
        return false;
    }
    let substituted =
        |word: u32| u32::from_le_bytes(word.to_le_bytes().map(|b| sbox[usize::from(b)]));
    let mut round = 1;
    (8..SCHEDULE).all(|i| {
        let mixed = match i % 8 {
            0 => {
                let mixed = substituted(words[i - 1].rotate_right(8)) ^ round;
                round <<= 1;
                mixed
            }
            4 => substituted(words[i - 1]),
            _ => words[i - 1],
        };
        words[i] == words[i - 8] ^ mixed
    })
}

/// FIPS 197, 5.1.1: the inverse in GF(2^8), then the affine transformation.
fn sbox() -> [u8; 256] {
    let mut sbox = [0x63; 256];
    // 3 generates the field; p and q run through it and through the inverses.
    let (mut p, mut q) = (1_u8, 1_u8);
    loop {
        p ^= (p << 1) ^ if p & 0x80 == 0 { 0 } else { 0x1b };
        q ^= q << 1;
        q ^= q << 2;
        q ^= q << 4;
        if q & 0x80 != 0 {
            q ^= 0x09;
        }
        sbox[usize::from(p)] =
            0x63 ^ q ^ q.rotate_left(1) ^ q.rotate_left(2) ^ q.rotate_left(3) ^ q.rotate_left(4);
        if p == 1 {
            return sbox;
        }
    }
}
