//! The log of what is measured into a TD's register at run time, as the attestation agent of
//! Confidential Containers keeps it (AAEL): entries of TCG's log, with a line in each.
//!
//! Source: guest-components, `attestation-agent/attestation-agent/src/eventlog`; TCG PC Client Platform
//! Firmware Profile, `TCG_PCR_EVENT2`; UEFI 2.11, 38.4 (registers). Numbers are little-endian.

use crate::format::bank::Bank;
use crate::format::event::Event;

/// RTMR3, among the registers of which MRTD is 0.
const REGISTER: u32 = 4;
/// The event is one of a tag's.
const EV_EVENT_TAG: u32 = 6;
/// The tag: "AAEL".
const TAG: u32 = 0x4141_454c;
/// `TPM_ALG_SHA384`, which a TD's registers are kept by.
const SHA384: u16 = 0x000c;

/// What is measured of an event: the tag, and the line with its length.
#[must_use]
pub fn tagged(event: &Event) -> Vec<u8> {
    let line = event.line().as_bytes();
    [&TAG.to_le_bytes()[..], &length(line), line].concat()
}

/// The entry of an event.
#[must_use]
pub fn entry(event: &Event) -> Vec<u8> {
    const DIGESTS: u32 = 1;
    let tagged = tagged(event);
    let head = [REGISTER, EV_EVENT_TAG, DIGESTS].map(u32::to_le_bytes).concat();
    let digest = Bank::Sha384.digest(&[&tagged]);
    [&head[..], &SHA384.to_le_bytes(), &digest, &length(&tagged), &tagged].concat()
}

/// That of an event is far below 4 GiB.
fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_its_fields_in_their_places() {
        let event = Event::new("handoff", "init=/init").unwrap();
        let line = b"cvm-init handoff init=/init";
        let tagged_line = [&b"LEAA"[..], &[27, 0, 0, 0], line].concat();
        assert_eq!(tagged(&event), tagged_line);
        let entry = entry(&event);
        assert_eq!(entry[..14], [4, 0, 0, 0, 6, 0, 0, 0, 1, 0, 0, 0, 0x0c, 0]);
        assert_eq!(entry[14..62], Bank::Sha384.digest(&[&tagged_line]));
        assert_eq!(entry[62..66], [35, 0, 0, 0]);
        assert_eq!(entry[66..], tagged_line);
    }
}
