//! The banks of a TPM: in each, all registers are kept by one hash algorithm.
//!
//! Source: TCG, "Trusted Platform Module Library", Part 1, 17 ("PCR Operations").

use sha2::{Digest, Sha256, Sha384, Sha512};

use crate::error::{Error, Result};
use crate::format::hex;

/// A bank whose digests can be computed here. SHA-1 is none: nothing is proven by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bank {
    /// SHA-256
    Sha256,
    /// SHA-384
    Sha384,
    /// SHA-512
    Sha512,
}

/// One value in each of some banks: what a register holds, or the digests of an event.
pub type Values = Vec<(Bank, Vec<u8>)>;

impl Bank {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Sha256, Self::Sha384, Self::Sha512];

    /// What the kernel, systemd and TCG's logs call its algorithm.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// Bytes of a digest.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// The digest of the parts, one behind the other.
    #[must_use]
    pub fn digest(self, parts: &[&[u8]]) -> Vec<u8> {
        fn digest<D: Digest>(parts: &[&[u8]]) -> Vec<u8> {
            parts.iter().fold(D::new(), D::chain_update).finalize().to_vec()
        }
        match self {
            Self::Sha256 => digest::<Sha256>(parts),
            Self::Sha384 => digest::<Sha384>(parts),
            Self::Sha512 => digest::<Sha512>(parts),
        }
    }
}

/// What registers of these values hold when `data` was measured into each.
#[must_use]
pub fn extended(values: &Values, data: &[u8]) -> Values {
    let extend =
        |(bank, value): &(Bank, Vec<u8>)| (*bank, bank.digest(&[value, &bank.digest(&[data])]));
    values.iter().map(extend).collect()
}

/// Makes sure that `found` has each of the values that are wanted.
///
/// # Errors
/// The first that it has not, said of `what`.
pub fn require(what: &str, found: &Values, wanted: &Values) -> Result<()> {
    for (bank, wanted) in wanted {
        let name = bank.name();
        match found.iter().find(|(other, _)| other == bank) {
            Some((_, found)) if found == wanted => {}
            Some((_, found)) => {
                let (found, wanted) = (hex::encode(found), hex::encode(wanted));
                return Err(Error::new(format!("{what} is {found} in bank {name}, not {wanted}")));
            }
            None => return Err(Error::new(format!("{what} is missing in bank {name}"))),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-4, "abc".
    #[test]
    fn a_digest_is_of_its_parts_in_one() {
        for (bank, start) in
            [(Bank::Sha256, "ba7816bf"), (Bank::Sha384, "cb00753f"), (Bank::Sha512, "ddaf35a1")]
        {
            let digest = bank.digest(&[b"a", b"bc"]);
            assert_eq!(digest.len(), bank.bytes());
            assert!(hex::encode(&digest).starts_with(start), "{}", bank.name());
        }
    }

    /// PCR 2 of a boot without devices that bring code: four bytes of zero, in a register of zeros.
    #[test]
    fn a_register_is_the_digest_of_what_it_held_and_the_digest() {
        let zero = Bank::ALL.map(|bank| (bank, vec![0; bank.bytes()])).to_vec();
        let values = extended(&zero, &[0; 4]);
        assert!(values.iter().map(|(bank, _)| *bank).eq(Bank::ALL));
        assert_eq!(hex::encode(&values[0].1[..4]), "3d458cfe");
    }

    #[test]
    fn a_value_that_differs_or_is_missing_is_named() {
        let wanted = vec![(Bank::Sha256, vec![1]), (Bank::Sha384, vec![2])];
        let why = |found: &Values| require("PCR 15", found, &wanted).unwrap_err().to_string();
        require("PCR 15", &[wanted.clone(), vec![(Bank::Sha512, vec![3])]].concat(), &wanted)
            .unwrap();
        assert_eq!(
            why(&vec![(Bank::Sha384, vec![2]), (Bank::Sha256, vec![3])]),
            "PCR 15 is 03 in bank sha256, not 01"
        );
        assert_eq!(why(&vec![(Bank::Sha256, vec![1])]), "PCR 15 is missing in bank sha384");
    }
}
