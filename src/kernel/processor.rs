//! What the processor offers for keys: random numbers of its own, and instructions for AES; and
//! whether it keeps the guest's memory from the host.
//!
//! Sources: Intel SDM volume 1, 7.3.17 (RDRAND, RDSEED), and the TDX module's `CPUID` leaf 0x21; AMD
//! APM volume 3, E.4.17 (leaf 0x8000001F); for the rule that a confidential guest needs the
//! instructions, `cc_random_init` in `arch/x86/coco/core.c` (Linux 6.9).

#![cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "an instruction that a processor may lack is one")
)]

use std::io;

/// An instruction that yields random numbers: its name, how often it may fail in a row before it
/// counts as broken, and one try of it.
type Source = (&'static str, u32, fn() -> Option<u64>);

/// What the processor says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Processor {
    /// It has instructions for AES, whose time does not depend on the key.
    pub aes: bool,
    /// What keeps the guest's memory from the host: "sev" or "tdx". A guest that has neither can be
    /// told so all the same; it is then held to more than it needs.
    pub memory_encryption: Option<&'static str>,
}

/// Asks it.
#[must_use]
pub fn ask() -> Processor {
    Processor { aes: machine::has_aes(), memory_encryption: machine::memory_encryption() }
}

/// Mixes random numbers of the processor's own into `key`, and returns the instruction they are
/// from. The host hears and may choose what the kernel's generator is seeded with, but for these.
///
/// # Errors
/// When the processor has none and keeps the memory from the host: this guest's host is an enemy.
pub fn mix_into(key: &mut [u8]) -> io::Result<Option<&'static str>> {
    mix(key, &machine::sources(), machine::memory_encryption())
}

/// Exclusive or: a key that is random already stays so, whatever is mixed in.
fn mix(
    key: &mut [u8],
    sources: &[Source],
    memory_encryption: Option<&str>,
) -> io::Result<Option<&'static str>> {
    for &(name, tries, step) in sources {
        let next = || (0..tries).find_map(|_| step());
        let complete = key.chunks_mut(size_of::<u64>()).all(|chunk| {
            let word = next().map(u64::to_ne_bytes);
            for (byte, random) in chunk.iter_mut().zip(word.into_iter().flatten()) {
                *byte ^= random;
            }
            word.is_some()
        });
        if complete {
            return Ok(Some(name));
        }
    }
    match memory_encryption {
        None => Ok(None),
        Some(_) => Err(io::Error::other(
            "the processor yields no random numbers (RDSEED, RDRAND), and all others may be the host's",
        )),
    }
}

#[cfg(target_arch = "x86_64")]
mod machine {
    use super::Source;
    use std::arch::is_x86_feature_detected;
    use std::arch::x86_64::{__cpuid_count, _rdrand64_step, _rdseed64_step};

    /// RDSEED is dry when all processors ask.
    const SEED_TRIES: u32 = 1000;
    /// As many as Intel's guide asks for.
    const RANDOM_TRIES: u32 = 10;

    /// EAX, EBX, ECX and EDX of a leaf of `CPUID`.
    pub(super) type Leaf = [u32; 4];

    /// `CPUID` leaf of Intel's TDX module and what it says there, in EBX, EDX and ECX.
    const TDX_LEAF: u32 = 0x21;
    const TDX_NAME: &[u8; 12] = b"IntelTDX    ";
    /// AMD's leaf on encrypted memory. A hypervisor shows bit 1 of EAX to guests that have it.
    pub(super) const SEV_LEAF: u32 = 0x8000_001f;
    const SEV: u32 = 1 << 1;

    pub(super) fn has_aes() -> bool {
        is_x86_feature_detected!("aes")
    }

    pub(super) fn memory_encryption() -> Option<&'static str> {
        memory_encryption_by(|leaf| {
            // SAFETY: every processor of this architecture has the instruction, which changes no
            // memory.
            #[allow(unused_unsafe, reason = "newer compilers know that")]
            let said = unsafe { __cpuid_count(leaf, 0) };
            [said.eax, said.ebx, said.ecx, said.edx]
        })
    }

    pub(super) fn memory_encryption_by(leaf: impl Fn(u32) -> Leaf) -> Option<&'static str> {
        // The highest leaf of either range stands in EAX of its first.
        let of_range = |first, wanted| {
            let [highest, ..] = leaf(first);
            (highest >= wanted).then(|| leaf(wanted))
        };
        if let Some([_, ebx, ecx, edx]) = of_range(0, TDX_LEAF)
            && [ebx, edx, ecx].map(u32::to_le_bytes).as_flattened() == TDX_NAME
        {
            return Some("tdx");
        }
        let [eax, ..] = of_range(0x8000_0000, SEV_LEAF)?;
        (eax & SEV != 0).then_some("sev")
    }

    pub(super) fn sources() -> Vec<Source> {
        let mut sources: Vec<Source> = Vec::new();
        if is_x86_feature_detected!("rdseed") {
            // SAFETY: the processor has the instruction.
            sources.push(("rdseed", SEED_TRIES, || unsafe { seed() }));
        }
        if is_x86_feature_detected!("rdrand") {
            // SAFETY: the processor has the instruction.
            sources.push(("rdrand", RANDOM_TRIES, || unsafe { random() }));
        }
        sources
    }

    #[target_feature(enable = "rdseed")]
    fn seed() -> Option<u64> {
        let mut word = 0;
        let done = _rdseed64_step(&mut word) == 1;
        if !done {
            std::hint::spin_loop();
        }
        done.then_some(word)
    }

    #[target_feature(enable = "rdrand")]
    fn random() -> Option<u64> {
        let mut word = 0;
        (_rdrand64_step(&mut word) == 1).then_some(word)
    }
}

/// Rust has no stable name for the random numbers of this architecture, nor is there a way to ask
/// for its realms.
#[cfg(target_arch = "aarch64")]
mod machine {
    use super::Source;

    pub(super) fn has_aes() -> bool {
        std::arch::is_aarch64_feature_detected!("aes")
    }

    pub(super) fn memory_encryption() -> Option<&'static str> {
        None
    }

    pub(super) fn sources() -> [Source; 0] {
        []
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: Source = ("rdseed", 2, || Some(u64::from_ne_bytes([1, 2, 3, 4, 5, 6, 7, 8])));
    const RANDOM: Source = ("rdrand", 2, || Some(u64::from_ne_bytes([0x80; 8])));
    const DRY: Source = ("rdseed", 2, || None);

    #[test]
    fn every_byte_is_mixed_and_what_was_random_is_kept() {
        let mut key = [0x10; 11];
        assert_eq!(mix(&mut key, &[SEED, RANDOM], None).unwrap(), Some("rdseed"));
        assert_eq!(key, [0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x11, 0x12, 0x13]);
    }

    #[test]
    fn a_source_that_is_dry_is_passed_over() {
        let mut key = [0; 16];
        assert_eq!(mix(&mut key, &[DRY, RANDOM], Some("tdx")).unwrap(), Some("rdrand"));
        assert_eq!(key, [0x80; 16]);
    }

    #[test]
    fn a_confidential_guest_without_random_numbers_of_its_own_has_no_key() {
        for sources in [&[][..], &[DRY], &[DRY, DRY]] {
            for memory_encryption in ["sev", "tdx"] {
                let error = mix(&mut [0; 32], sources, Some(memory_encryption)).unwrap_err();
                assert!(error.to_string().starts_with("the processor yields no random numbers"));
            }
            assert_eq!(mix(&mut [0; 32], sources, None).unwrap(), None);
        }
    }

    /// A processor with these leaves, of which others read as zeros.
    #[cfg(target_arch = "x86_64")]
    fn found(leaves: &[(u32, machine::Leaf)]) -> Option<&'static str> {
        machine::memory_encryption_by(|wanted| {
            leaves.iter().find(|(leaf, _)| *leaf == wanted).map_or([0; 4], |(_, said)| *said)
        })
    }

    /// The registers as `tdx_early_init` in `arch/x86/coco/tdx/tdx.c` and `sme_enable` in
    /// `arch/x86/mm/mem_encrypt_identity.c` read them.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn guests_whose_memory_is_encrypted_are_told_from_others() {
        let text = |four: &[u8; 4]| u32::from_le_bytes(*four);
        let tdx = [0, text(b"Inte"), text(b"    "), text(b"lTDX")];
        let other = [0, text(b"Inte"), text(b"lTDX"), text(b"    ")];
        assert_eq!(found(&[(0, [0x21, 0, 0, 0]), (0x21, tdx)]), Some("tdx"));
        assert_eq!(found(&[(0, [0x21, 0, 0, 0]), (0x21, other)]), None);
        // A leaf behind the last one says nothing of the kind.
        assert_eq!(found(&[(0, [0x20, 0, 0, 0]), (0x21, tdx)]), None);
        let sev = |highest, eax| {
            found(&[(0x8000_0000, [highest, 0, 0, 0]), (machine::SEV_LEAF, [eax, 0, 0, 0])])
        };
        assert_eq!(sev(0x8000_001f, 0x1a), Some("sev"));
        // SME is the host's own.
        assert_eq!(sev(0x8000_001f, 0x01), None);
        assert_eq!(sev(0x8000_001e, 0x1a), None);
        assert_eq!(found(&[]), None);
    }
}
