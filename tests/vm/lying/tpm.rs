//! A TPM whose answers are not those of one.

use crate::kit::disk::Disk;
use crate::kit::guest::{Ending, Guest};
use crate::kit::tpm::{Ask, Tpm};
use crate::kit::vm::Vm;
use crate::measure::{LIMIT, check_registers, predicted, records, register};
use cvm_init::format::event::Event;
use cvm_init::format::tpm2;
use cvm_tools::measure::tpm::IDENTITY;
use serde_json::json;
use std::io;
use std::time::Duration;

/// From the fatal line to the end.
const END: Duration = Duration::from_secs(15);

const PCR_EVENT: [u8; 4] = [0, 0, 1, 0x3c];
const GET_CAPABILITY: [u8; 4] = [0, 0, 1, 0x7a];
const CAP_PCRS: [u8; 4] = [0, 0, 0, 5];
const PCR_READ: [u8; 4] = [0, 0, 1, 0x7e];

fn is(command: &[u8], code: [u8; 4]) -> bool {
    command[6..10] == code
}

/// An answer of this tag and code, with nothing behind its header.
fn bare(tag: u16, code: u32) -> Vec<u8> {
    [&tag.to_be_bytes()[..], &10_u32.to_be_bytes(), &code.to_be_bytes()].concat()
}

/// Sets the size that an answer says it has.
fn resize(answer: &mut [u8]) {
    let size = u32::try_from(answer.len()).unwrap().to_be_bytes();
    answer[2..6].copy_from_slice(&size);
}

/// Boots with a TPM whose answers to one command are what `lie` makes of them.
fn with_answers(
    code: [u8; 4],
    words: &str,
    mut lie: impl FnMut(Vec<u8>) -> Option<Vec<u8>> + Send + 'static,
) -> Guest {
    boot_with(words, move |command, ask| {
        let answer = ask(command)?;
        Ok(if is(command, code) { lie(answer) } else { Some(answer) })
    })
}

fn boot_with(
    words: &str,
    lie: impl FnMut(&[u8], Ask<'_>) -> io::Result<Option<Vec<u8>>> + Send + 'static,
) -> Guest {
    let disk = Disk::builder().build();
    Vm::of(&disk).append(words).tpm(Tpm::lying(lie)).boot()
}

#[track_caller]
fn check_end(mut guest: Guest, start: &str, end: &str) {
    assert_eq!(guest.wait_ending(LIMIT), Ending::PowerOff);
    let line = guest.fatal_line();
    assert!(line.starts_with(start) && line.ends_with(end), "{line}");
}

const CANNOT: &str = "measure: cannot measure root into PCR 15: ";

#[test]
fn a_tpm_that_fails_ends_the_boot() {
    let guest = with_answers(PCR_EVENT, "", |_| Some(bare(0x8001, 0x101)));
    check_end(guest, CANNOT, "the TPM answers 0x101 (TPM_RC_FAILURE)");
}

#[test]
fn a_tpm_that_is_busy_is_asked_again_but_not_for_ever() {
    // The kernel itself asks again after the one, and not after the other.
    for code in [0x922, 0x908] {
        let mut times = 0;
        let mut guest = boot_with("", move |command, ask| {
            times += u32::from(is(command, PCR_EVENT));
            let is_busy = is(command, PCR_EVENT) && times < 4;
            Ok(Some(if is_busy { bare(0x8001, code) } else { ask(command)? }))
        });
        let chain = predicted(&Disk::builder().build(), "");
        check_registers(&mut guest, &chain);
        guest.power_off();
    }
    let guest = with_answers(PCR_EVENT, "", |_| Some(bare(0x8001, 0x922)));
    check_end(guest, CANNOT, "the TPM answers 0x922 (TPM_RC_RETRY)");
}

#[test]
fn a_tpm_that_tells_another_digest_ends_the_boot() {
    let guest = with_answers(PCR_EVENT, "", |mut answer| {
        // The last byte of SHA-512, in front of what ends the session.
        let at = answer.len() - 6;
        answer[at] ^= 1;
        Some(answer)
    });
    check_end(guest, &format!("{CANNOT}the TPM's digest is "), "");
}

#[test]
fn a_tpm_that_tells_another_value_ends_the_boot() {
    let guest = boot_with("", |command, ask| {
        let mut answer = ask(command)?;
        if is(command, PCR_READ) && command[18] == 0x80 {
            *answer.last_mut().unwrap() ^= 1;
        }
        Ok(Some(answer))
    });
    check_end(guest, "measure: PCR 15 is ", "");
}

/// The digests are right; another register was extended.
#[test]
fn a_tpm_that_does_not_extend_the_register_ends_the_boot() {
    let guest = boot_with("", |command, ask| {
        let mut command = command.to_vec();
        if is(&command, PCR_EVENT) {
            command[13] = 16;
        }
        ask(&command).map(Some)
    });
    let zero = "00".repeat(32);
    check_end(guest, &format!("measure: PCR 15 is {zero} in bank sha256, not "), "");
}

#[test]
fn a_tpm_whose_answer_is_too_short_or_too_long_ends_the_boot() {
    let guest = with_answers(PCR_EVENT, "", |_| Some(bare(0x8002, 0)));
    check_end(guest, CANNOT, "the TPM's answer ends before it should");
    let guest = with_answers(PCR_EVENT, "", |mut answer| {
        answer.extend([0; 100]);
        resize(&mut answer);
        Some(answer)
    });
    check_end(
        guest,
        CANNOT,
        "the TPM's answer has another end than that of a session with a password",
    );
}

/// QEMU then answers in its place.
#[test]
fn a_tpm_that_goes_away_ends_the_boot() {
    let guest = boot_with("", |command, ask| {
        if is(command, PCR_EVENT) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        ask(command).map(Some)
    });
    check_end(guest, CANNOT, "the TPM answers 0x9 as a TPM 1.2 does, not as a 2.0");
}

/// By the firmware, or by the host: it shows, and a verifier sees it.
#[test]
fn a_register_that_somebody_else_has_extended_is_extended_all_the_same() {
    let mut other = Some(Event::new("somebody", "else").unwrap());
    let mut guest = boot_with("", move |command, ask| {
        let answer = ask(command)?;
        if is(command, GET_CAPABILITY)
            && command[10..14] == CAP_PCRS
            && let Some(event) = other.take()
        {
            ask(&tpm2::measure(15, &event))?;
        }
        Ok(Some(answer))
    });
    let report = guest.report();
    let value = register(&mut guest, "sha256");
    assert_eq!(report["measured"]["values"][0], json!({ "bank": "sha256", "value": value }));
    let chain = predicted(&Disk::builder().build(), "");
    assert_ne!(value, chain.sha256[&IDENTITY].to_string());
    assert_eq!(records(&mut guest).len(), 3);
    let warning = "cvm-init: PCR 15 is not zero before this boot is recorded";
    assert!(guest.serial().contains(warning), "{}", guest.serial());
    guest.power_off();
}

/// The kernel waits for it for two minutes, also when it stops: the machine restarts in place of
/// that.
#[test]
fn a_tpm_that_hangs_ends_the_boot() {
    let mut guest = with_answers(PCR_EVENT, "cvm.timeout=10", |_| None);
    guest.wait_serial("FATAL", LIMIT);
    let ending = guest.wait_ending(END);
    assert_eq!(guest.fatal_line(), format!("{CANNOT}no end within 10 s"));
    assert!([Ending::PowerOff, Ending::Reset].contains(&ending), "{ending:?}");
}
