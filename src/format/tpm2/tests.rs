//! Commands as a TPM has taken them, and answers as it has given them.

use super::*;
use crate::format::{bank, hex};
use proptest::prelude::*;

/// Of hexadecimal digits, with blanks between fields.
fn bytes(text: &str) -> Vec<u8> {
    hex::decode(&text.replace(' ', "")).unwrap()
}

/// An answer of success, with these fields behind its header.
fn answer(tag: &str, fields: &str) -> Vec<u8> {
    let fields = bytes(fields);
    let size = u32::try_from(10 + fields.len()).unwrap().to_be_bytes();
    [&bytes(tag), &size[..], &[0; 4], &fields].concat()
}

const BANKS: &str = "00 00000005 00000003 0004 03 ffffff 000b 03 ffffff 000c 03 000000";

fn value_fields() -> String {
    format!("00000017 00000001 000b 03 008000 00000001 0020 {}", "ab".repeat(32))
}

fn digest_fields() -> String {
    let digests = format!("00000002 0004 {} 000b {}", "11".repeat(20), "22".repeat(32));
    format!("0000003c {digests} 0000 01 0000")
}

#[test]
fn commands_are_those_that_a_tpm_takes() {
    let event = Event::new("a", "b").unwrap();
    assert_eq!(
        measure(15, &event),
        bytes(
            "8002 00000029 0000013c 0000000f 00000009 40000009 0000 00 0000 \
             000c 63766d2d696e697420612062"
        )
    );
    assert_eq!(ask_banks(), bytes("8001 00000016 0000017a 00000005 00000000 00000001"));
    assert_eq!(
        read(15, &[Bank::Sha256, Bank::Sha384]),
        bytes("8001 0000001a 0000017e 00000002 000b 03 008000 000c 03 008000")
    );
    assert_eq!(read(16, &[Bank::Sha512])[14..], bytes("000d 03 000001"));
}

/// Of swtpm 0.7.1: its banks, the digests of the event above in PCR 15, and what that then holds.
const OF_SWTPM: [&str; 3] = [
    "80010000002b00000000000000000500000004000403ffffff000b03ffffff000c03ffffff000d03 \
     ffffff",
    "8002000000c300000000000000b000000004000478124078da609497dbdf676d182780025f9e2526 \
     000bb6e81ccb74f11bed6f405a6049fa978d134a83f202ca4066c5c47a81b3539018000cf0f27c40 \
     777b473f3d6fae4df8576bd22d6614c6c77829cc64f57aea5ebbe84d09f68a66ff3fd90115d2a8e7 \
     d40c2841000d5753f071967ab22883ce91c82727e6961032ec650b35f305415722458b42a458af22 \
     0ac3f883ce25f2c7c40d69a428269a0c416542991d6b83e04aad9583c1ae0000010000",
    "8001000000be000000000000001800000003000b03008000000c03008000000d0300800000000003 \
     0020443dda5f220fd3356b29c9e1303fb769e2a9e55dce69e37e87d3d1cd2d6c8a060030642fa996 \
     e4b56c4e397ef254aea784fce0f8cbe10deaec5e00aebdcceb575684ccbecd574835c70b0d52ede0 \
     a0dd8e2e0040f5aa9ef98c1e86e535a3d4b853862eada5167335483b2d525cadc27eec2dc9c8bd5e \
     d5f82e4ad749d17c383fc695922b82bab90fa5e42334869cf822cbb034cc",
];

#[test]
fn answers_are_those_that_a_tpm_gives() {
    let [told, measured, read] = OF_SWTPM.map(bytes);
    let banks = banks(15, &told).unwrap();
    assert_eq!(banks, Bank::ALL);
    let event = Event::new("a", "b").unwrap();
    let line = event.line().as_bytes();
    let expected: Values = banks.iter().map(|bank| (*bank, bank.digest(&[line]))).collect();
    assert_eq!(digests(&measured).unwrap(), expected);
    let zero = banks.iter().map(|bank| (*bank, vec![0; bank.bytes()])).collect();
    assert_eq!(values(15, &banks, &read).unwrap(), bank::extended(&zero, line));
}

#[test]
fn a_bank_without_registers_is_none() {
    assert_eq!(banks(15, &answer("8001", BANKS)).unwrap(), [Bank::Sha256]);
    // Of an algorithm that nobody knows, too, and of fewer registers.
    let odd = BANKS.replace("0004 03 ffffff", "7777 03 ffffff").replace("03 000000", "01 ff");
    assert_eq!(banks(15, &answer("8001", &odd)).unwrap(), [Bank::Sha256]);
    assert_eq!(banks(7, &answer("8001", &odd)).unwrap(), [Bank::Sha256, Bank::Sha384]);
}

#[test]
fn values_and_digests_are_told_by_bank() {
    let told = values(15, &[Bank::Sha256], &answer("8001", &value_fields())).unwrap();
    assert_eq!(told, [(Bank::Sha256, vec![0xab; 32])]);
    let told = digests(&answer("8002", &digest_fields())).unwrap();
    assert_eq!(told, [(Bank::Sha256, vec![0x22; 32])]);
}

#[test]
fn an_answer_that_is_not_what_was_asked_for_is_named() {
    let of_banks = |fields: &str| banks(15, &answer("8001", fields)).map(drop);
    let of_values = |fields: &str| values(15, &[Bank::Sha256], &answer("8001", fields)).map(drop);
    let of_digests = |fields: &str| digests(&answer("8002", fields)).map(drop);
    let (values, digests) = (value_fields(), digest_fields());
    for (outcome, message) in [
        (of_banks(&BANKS.replace("00 00000005", "01 00000005")), "has not all banks in it"),
        (of_banks(&BANKS.replace("00000005", "00000006")), "has the capability 6, not 5"),
        (of_banks(&BANKS.replace("000c 03 000000", "000b 03 ffffff")), "has the bank sha256 twice"),
        (of_banks(&BANKS.replace("00000003", "00000004")), "ends before it should"),
        (of_banks(&format!("{BANKS} 00")), "has 1 bytes too many"),
        (of_banks(""), "ends before it should"),
        (of_values(&values.replace("008000", "000100")), "is of other registers than 15"),
        (of_values(&values.replace("008000", "018000")), "is of other registers than 15"),
        (of_values(&values.replace("000b 03", "000c 03")), "is of other banks than were asked for"),
        (of_values("00000017 00000000 00000000"), "is of other banks than were asked for"),
        (of_values(&values.replace("00000001 0020", "00000002 0020")), "has 2 values, not 1"),
        (of_values(&values.replace("0020 ", "0030 ")), "has a sha256 value of 48 bytes"),
        (of_values(&format!("{values} abab")), "has 2 bytes too many"),
        (of_values(&values.replace("abab", "ab")), "ends before it should"),
        (of_digests(&digests.replace("0000003c", "0000003d")), OTHER_END),
        (of_digests(&digests.replace("0000003c", "ffffffff")), "ends before it should"),
        (of_digests(&digests.replace("0000 01 0000", "0000 01 0001 00")), OTHER_END),
        (of_digests(&digests.replace("0000 01 0000", "")), OTHER_END),
        (of_digests(&digests.replace("00000002", "00000001")), "has 34 bytes too many"),
        (of_digests(&digests.replace("00000002", "ffffffff")), "ends before it should"),
        (of_digests(&digests.replace("0004 ", "0005 ")), "has an unknown algorithm, 0x0005"),
    ] {
        assert_eq!(outcome.unwrap_err().to_string(), format!("the TPM's answer {message}"));
    }
    let twice =
        format!("00000048 00000002 {} 0000 00 0000", format!("000b {}", "22".repeat(32)).repeat(2));
    assert_eq!(
        of_digests(&twice).unwrap_err().to_string(),
        "the TPM's answer has the bank sha256 twice"
    );
}

const OTHER_END: &str = "has another end than that of a session with a password";

#[test]
fn an_answer_that_is_none_or_an_error_is_named() {
    for (text, message) in [
        ("", "the TPM's answer ends before it should"),
        ("8001 0000000a 0000", "the TPM's answer ends before it should"),
        ("8001 0000000a 00000000 00", "the TPM's answer has 11 bytes and says 10"),
        ("8001 ffffffff 00000000", "the TPM's answer has 10 bytes and says 4294967295"),
        ("8001 0000000a 00000000", "the TPM's answer has the tag 0x8001, not 0x8002"),
        ("8001 0000000a 00000101", "the TPM answers 0x101 (TPM_RC_FAILURE)"),
        ("8001 0000000a 00000922", "the TPM answers 0x922 (TPM_RC_RETRY)"),
        ("8001 0000000a 000001d5", "the TPM answers 0x1d5"),
        ("00c4 0000000a 0000001e", "the TPM answers 0x1e as a TPM 1.2 does, not as a 2.0"),
    ] {
        assert_eq!(digests(&bytes(text)).unwrap_err().to_string(), message, "{text}");
    }
}

#[test]
fn a_tpm_that_wants_to_be_asked_again_says_so_in_a_whole_answer() {
    for (text, name) in [
        ("8001 0000000a 00000922", Some("TPM_RC_RETRY")),
        ("8001 0000000a 00000908", Some("TPM_RC_YIELDED")),
        ("8001 0000000a 0000090a", Some("TPM_RC_TESTING")),
        ("8001 0000000a 00000101", None),
        ("8001 0000000a 00000000", None),
        ("8001 0000000b 00000922", None),
        ("", None),
    ] {
        assert_eq!(busy(&bytes(text)), name, "{text}");
    }
}

proptest! {
    #[test]
    fn no_answer_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = (banks(15, &bytes), values(15, &Bank::ALL, &bytes), digests(&bytes), busy(&bytes));
    }

    #[test]
    fn no_answer_of_the_right_size_panics(
        tag in prop::sample::select(vec!["8001", "8002"]),
        fields in prop::collection::vec(prop_oneof![0..16_u8, any::<u8>()], 0..200),
    ) {
        let bytes = answer(tag, &hex::encode(&fields));
        let _ = (banks(15, &bytes), values(15, &Bank::ALL, &bytes), digests(&bytes), busy(&bytes));
    }
}
