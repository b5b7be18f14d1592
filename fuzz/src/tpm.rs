//! What a TPM answers, which may be the host's.

use cvm_init::format::bank::{Bank, Values};
use cvm_init::format::tpm2;

use super::check_refusal;

const PCR: u8 = 15;

/// An answer, its size set right where the first byte is even: else few come past it.
pub fn tpm_answer(bytes: &[u8]) {
    let (choice, bytes) = bytes.split_first().unwrap_or((&1, &[]));
    let mut answer = bytes.to_vec();
    if let (0, Some(size)) = (choice % 2, answer.get_mut(2..6)) {
        size.copy_from_slice(&u32::try_from(bytes.len()).expect("a short input").to_be_bytes());
    }
    let says = answer.get(2..6).map(|size| u32::from_be_bytes(size.try_into().expect("four")));
    let is_whole = says.and_then(|says| says.try_into().ok()) == Some(answer.len());
    let code = answer.get(6..10).map(|code| u32::from_be_bytes(code.try_into().expect("four")));
    let is_success = is_whole && code == Some(0);
    assert!(tpm2::busy(&answer).is_none() || is_whole && !is_success);
    match tpm2::banks(PCR, &answer) {
        Ok(banks) => {
            assert!(is_success && banks.len() <= Bank::ALL.len());
            // Each stands in the answer as it is asked for later.
            let asked = tpm2::read(PCR, &banks);
            assert_eq!(asked.len(), 14 + 6 * banks.len());
        }
        Err(error) => check_refusal(&error),
    }
    match tpm2::digests(&answer) {
        Ok(digests) => {
            assert!(is_success);
            check_values(&digests, &answer);
            for (index, (bank, _)) in digests.iter().enumerate() {
                assert!(digests[..index].iter().all(|(other, _)| other != bank), "{bank:?}");
            }
        }
        Err(error) => check_refusal(&error),
    }
    for count in 0..=Bank::ALL.len() {
        let banks = &Bank::ALL[..count];
        match tpm2::values(PCR, banks, &answer) {
            Ok(values) => {
                assert!(is_success && values.iter().map(|(bank, _)| bank).eq(banks));
                check_values(&values, &answer);
            }
            Err(error) => check_refusal(&error),
        }
    }
}

/// Each has the size of its bank, and all lie in the answer one behind the other.
fn check_values(values: &Values, answer: &[u8]) {
    let mut rest = answer;
    for (bank, value) in values {
        assert_eq!(value.len(), bank.bytes());
        let at = rest.windows(value.len()).position(|window| window == value).expect("it is there");
        rest = &rest[at + value.len()..];
    }
}
