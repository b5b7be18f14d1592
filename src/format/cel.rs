//! The log of what is measured into a TPM once the firmware is done, as systemd keeps it: TCG's
//! Canonical Event Log in JSON, each record a JSON text sequence (RFC 7464).
//!
//! Source: systemd 257, `tpm2_userspace_log` in its `src/shared/tpm2-util.c`.

use serde::Serialize;

use crate::format::bank::Values;
use crate::format::hex;

/// RFC 7464, section 2.2: in front of each record, and behind it.
const RECORD_SEPARATOR: char = '\x1e';
const LINE_FEED: char = '\n';

/// What systemd's tools read the content of.
const CONTENT_TYPE: &str = "systemd";

/// Of the kinds of events that systemd knows: how far a boot has come.
const EVENT_TYPE: &str = "phase";

#[derive(Serialize)]
struct Record<'a> {
    pcr: u8,
    digests: Vec<Digest>,
    content_type: &'static str,
    content: Content<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Digest {
    hash_alg: &'static str,
    digest: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Content<'a> {
    string: &'a str,
    boot_id: &'a str,
    timestamp: u64,
    event_type: &'static str,
}

/// What is measured, and when.
#[derive(Debug, Clone, Copy)]
pub struct Measured<'a> {
    /// The register.
    pub pcr: u8,
    /// What was measured.
    pub string: &'a str,
    /// Its digests in the banks that there are.
    pub digests: &'a Values,
    /// Which boot: 32 hexadecimal digits.
    pub boot_id: &'a str,
    /// Microseconds since the boot (`CLOCK_BOOTTIME`).
    pub timestamp: u64,
}

/// A record of the log.
///
/// # Errors
/// When it cannot be put into JSON.
pub fn record(measured: &Measured<'_>) -> serde_json::Result<String> {
    let Measured { pcr, string, digests, boot_id, timestamp } = *measured;
    let digests = digests
        .iter()
        .map(|(bank, digest)| Digest { hash_alg: bank.name(), digest: hex::encode(digest) })
        .collect();
    let content = Content { string, boot_id, timestamp, event_type: EVENT_TYPE };
    let text =
        serde_json::to_string(&Record { pcr, digests, content_type: CONTENT_TYPE, content })?;
    Ok(format!("{RECORD_SEPARATOR}{text}{LINE_FEED}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::bank::Bank;

    /// What `systemd-pcrextend --pcr=15 hello:world` of systemd 257 writes.
    #[test]
    fn a_record_is_the_one_that_systemd_writes() {
        let string = "hello:world";
        let digest = |bank: Bank| (bank, bank.digest(&[string.as_bytes()]));
        let digests = vec![digest(Bank::Sha256), digest(Bank::Sha384)];
        let measured = Measured {
            pcr: 15,
            string,
            digests: &digests,
            boot_id: "cf836aa61c5f40518b9deba7e2e4ec51",
            timestamp: 1_758_492_611,
        };
        assert_eq!(
            record(&measured).unwrap(),
            "\x1e{\"pcr\":15,\"digests\":[{\"hashAlg\":\"sha256\",\"digest\":\
             \"dc80bdcd5d2235852424eef73cdf7139f2516861eacc892fca46c533fc0573f9\"},\
             {\"hashAlg\":\"sha384\",\"digest\":\
             \"b678d45dd43025d015ddb5918f74f0b7dda9aba26a6f00869164799799ee5367\
             e4634edd1b2f8022da89d243ae715be7\"}],\
             \"content_type\":\"systemd\",\"content\":{\"string\":\"hello:world\",\
             \"bootId\":\"cf836aa61c5f40518b9deba7e2e4ec51\",\"timestamp\":1758492611,\
             \"eventType\":\"phase\"}}\n"
        );
    }
}
