//! The register in a TPM of a few lines, honest or not.

use super::*;
use crate::format::hex;

/// What an honest one answers, with a bank that can be computed, one that is off and one of SHA-1.
struct Tpm {
    value: Vec<u8>,
    commands: usize,
}

const SHA256: Bank = Bank::Sha256;

fn answer(tag: u16, code: u32, fields: &[u8]) -> Vec<u8> {
    let size = u32::try_from(10 + fields.len()).unwrap();
    [&tag.to_be_bytes()[..], &size.to_be_bytes(), &code.to_be_bytes(), fields].concat()
}

fn refusal(code: u32) -> Vec<u8> {
    answer(0x8001, code, &[])
}

impl Tpm {
    fn new() -> Self {
        Self { value: vec![0; 32], commands: 0 }
    }

    fn ask(&mut self, command: &[u8]) -> Vec<u8> {
        self.commands += 1;
        match command[6..10] {
            [0, 0, 1, 0x7a] => {
                answer(0x8001, 0, b"\0\0\0\0\x05\0\0\0\x03\0\x04\x03\xff\xff\xff\0\x0b\x03\xff\xff\xff\0\x0c\x03\0\0\0")
            }
            [0, 0, 1, 0x7e] => {
                assert_eq!(command[10..], *b"\0\0\0\x01\0\x0b\x03\0\x80\0");
                let head = b"\0\0\0\x07\0\0\0\x01\0\x0b\x03\0\x80\0\0\0\0\x01\0\x20";
                answer(0x8001, 0, &[&head[..], &self.value].concat())
            }
            [0, 0, 1, 0x3c] => {
                assert_eq!(command[10..14], [0, 0, 0, 15]);
                let digest = SHA256.digest(&[&command[29..]]);
                self.value = SHA256.digest(&[&self.value, &digest]);
                let digests = [b"\0\0\0\x02\0\x04", &[9; 20][..], b"\0\x0b", &digest].concat();
                let size = u32::try_from(digests.len()).unwrap().to_be_bytes();
                answer(0x8002, 0, &[&size[..], &digests, &[0, 0, 1, 0, 0]].concat())
            }
            _ => panic!("an unknown command: {}", hex::encode(command)),
        }
    }
}

fn event() -> Event {
    Event::new("handoff", "init=/init").unwrap()
}

/// The register of a TPM that does what `lie` makes of an honest one.
fn pcr(
    mut lie: impl FnMut(&mut Tpm, &[u8]) -> Vec<u8>,
) -> Pcr<impl FnMut(&[u8]) -> io::Result<Vec<u8>>> {
    let mut tpm = Tpm::new();
    let pcr = Pcr::new(move |command: &[u8]| Ok(lie(&mut tpm, command)));
    Pcr { busy_max: Duration::from_millis(400), ..pcr }
}

#[test]
fn an_event_is_measured_in_the_banks_that_there_are() {
    let mut pcr = pcr(Tpm::ask);
    let zero = pcr.read().unwrap();
    assert_eq!(zero, [(SHA256, vec![0; 32])]);
    pcr.extend(&event()).unwrap();
    let measured = pcr.measured(&event());
    assert_eq!(measured, b"cvm-init handoff init=/init");
    assert_eq!(pcr.read().unwrap(), bank::extended(&zero, &measured));
    let log = String::from_utf8(pcr.log("0f").unwrap()).unwrap();
    let digest = hex::encode(&SHA256.digest(&[&measured]));
    let start = format!(
        "\x1e{{\"pcr\":15,\"digests\":[{{\"hashAlg\":\"sha256\",\"digest\":\"{digest}\"}}],\
         \"content_type\":\"systemd\",\"content\":{{\"string\":\"cvm-init handoff init=/init\",\
         \"bootId\":\"0f\",\"timestamp\":"
    );
    assert!(log.starts_with(&start) && log.ends_with("\"eventType\":\"phase\"}}\n"), "{log}");
    assert_eq!(log.lines().count(), 1);
}

#[test]
fn a_tpm_that_is_busy_is_asked_again_for_a_while() {
    let patient = |times: usize, code: u32| {
        let mut pcr = pcr(move |tpm, command| {
            if tpm.commands < times {
                tpm.commands += 1;
                return refusal(code);
            }
            tpm.ask(command)
        });
        pcr.read().map_err(|error| error.to_string())
    };
    for code in [0x922, 0x908, 0x90a] {
        assert!(patient(2, code).is_ok(), "{code:#x}");
    }
    assert_eq!(patient(99, 0x922), Err("the TPM answers 0x922 (TPM_RC_RETRY)".to_owned()));
    assert_eq!(patient(1, 0x101), Err("the TPM answers 0x101 (TPM_RC_FAILURE)".to_owned()));
}

/// Each lie is found out where it is told.
#[test]
fn a_tpm_that_lies_is_found_out() {
    let extend = |lie: fn(&mut Tpm, &[u8]) -> Vec<u8>| {
        let mut pcr = pcr(lie);
        pcr.read().and_then(|_| pcr.extend(&event())).unwrap_err().to_string()
    };
    let is_event = |command: &[u8]| command[8..10] == [1, 0x3c];
    assert!(is_event(&tpm2::measure(PCR, &event())));
    let digest = hex::encode(&SHA256.digest(&[event().line().as_bytes()]));
    let other = extend(|tpm, command| {
        let mut answer = tpm.ask(command);
        if let (0x8002, Some(byte)) =
            (u16::from_be_bytes([answer[0], answer[1]]), answer.get_mut(45))
        {
            *byte ^= 1;
        }
        answer
    });
    assert!(other.starts_with("the TPM's digest is "), "{other}");
    assert!(other.ends_with(&format!(" in bank sha256, not {digest}")), "{other}");
    let none = extend(|tpm, command| match tpm.ask(command) {
        answered if answered[..2] == [0x80, 2] => {
            answer(0x8002, 0, b"\0\0\0\x04\0\0\0\0\0\0\x01\0\0")
        }
        answered => answered,
    });
    assert_eq!(none, "the TPM's digest is missing in bank sha256");
    let short = extend(|tpm, command| match tpm.ask(command) {
        answered if answered[..2] == [0x80, 2] => answered[..20].to_vec(),
        answered => answered,
    });
    assert_eq!(short, "the TPM's answer has 20 bytes and says 79");
}

#[test]
fn a_tpm_without_a_bank_that_is_known_is_refused() {
    let mut pcr = pcr(|_, _| answer(0x8001, 0, b"\0\0\0\0\x05\0\0\0\x01\0\x04\x03\xff\xff\xff"));
    let error = pcr.read().unwrap_err().to_string();
    assert_eq!(error, "the TPM keeps it in none of sha256, sha384, sha512");
}

#[test]
fn a_driver_that_fails_is_the_reason() {
    let mut pcr = Pcr::new(|_: &[u8]| Err(io::Error::from_raw_os_error(libc::EIO)));
    let error = pcr.read().unwrap_err().to_string();
    assert_eq!(error, "cannot ask the TPM: I/O error (os error 5)");
}
