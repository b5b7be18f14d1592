//! A TPM's registers: the events that extend them, and what they hold then.
//!
//! Source: TCG PC Client Platform Firmware Profile, "Integrity Collection and Reporting"; the
//! registers are those of the UAPI group's Linux TPM PCR registry.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::measure::hash::{Digests, Hash};

/// The registers that are told. 0, 1 and 7 are the firmware's, see [`crate::measure::image`].
pub const PCRS: [u8; 8] = [4, 5, 8, 9, 11, 12, 13, 15];

/// Firmware: what it starts, and how it got there.
pub const BOOT_MANAGER: u8 = 4;
/// Firmware: the partition table, and that the firmware's services end.
pub const BOOT_CONFIG: u8 = 5;
/// GRUB: the commands that it runs.
pub const GRUB_COMMANDS: u8 = 8;
/// GRUB: the files that it reads. The kernel's EFI stub: command line and initramfs.
pub const FILES: u8 = 9;
/// systemd-stub: the sections of a unified kernel image.
pub const UKI: u8 = 11;
/// systemd-stub: a command line, or credentials, that are not the image's.
pub const UKI_PARAMETERS: u8 = 12;
/// systemd-stub: extensions of the root.
pub const UKI_EXTENSIONS: u8 = 13;
/// What the system itself is: PID 1, and what the root adds later.
pub const IDENTITY: u8 = 15;

/// The texts that firmware measures, without a NUL (EDK2, `Guid/TcgEventHob` and
/// `UefiTcgPlatform.h`).
pub const CALLING: &[u8] = b"Calling EFI Application from Boot Option";
/// As [`CALLING`], when the kernel ends the firmware's services ...
pub const EXIT: &[u8] = b"Exit Boot Services Invocation";
/// ... and when they have ended.
pub const EXITED: &[u8] = b"Exit Boot Services Returned with Success";
/// What stands between the firmware's own events and those of what it starts.
pub const SEPARATOR: &[u8] = &[0; 4];

/// One extension of a register, or the word that there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// Number of the register.
    pub pcr: u8,
    /// What is measured, for people.
    pub what: String,
    /// What the register is extended by; none where it stays zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digests: Option<Digests>,
}

impl Event {
    /// An event that measures these bytes.
    #[must_use]
    pub fn of(pcr: u8, what: &str, parts: &[&[u8]]) -> Self {
        Self::digest(pcr, what, Digests::of(parts))
    }

    /// An event whose digest is another than that of plain bytes.
    #[must_use]
    pub fn digest(pcr: u8, what: &str, digests: Digests) -> Self {
        Self { pcr, what: what.to_owned(), digests: Some(digests) }
    }

    /// The word that a register stays zero, and what would change it.
    #[must_use]
    pub fn none(pcr: u8, what: &str) -> Self {
        Self { pcr, what: what.to_owned(), digests: None }
    }

    /// The firmware starts what a boot option names.
    #[must_use]
    pub fn calling() -> Self {
        Self::text(BOOT_MANAGER, CALLING)
    }

    /// The firmware's own events end.
    #[must_use]
    pub fn separator(pcr: u8) -> Self {
        Self::of(pcr, "separator: four bytes of zero", &[SEPARATOR])
    }

    /// The kernel ends the firmware's services.
    #[must_use]
    pub fn exit() -> [Self; 2] {
        [Self::text(BOOT_CONFIG, EXIT), Self::text(BOOT_CONFIG, EXITED)]
    }

    fn text(pcr: u8, text: &[u8]) -> Self {
        Self::of(pcr, &String::from_utf8_lossy(text), &[text])
    }
}

/// What a boot measures, and what the registers hold when init starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chain {
    /// What has to be of this version for the values to hold.
    pub holds_for: Vec<String>,
    /// The registers of the SHA-256 bank, by number.
    pub sha256: BTreeMap<u8, Hash<32>>,
    /// The registers of the SHA-384 bank, by number.
    pub sha384: BTreeMap<u8, Hash<48>>,
    /// What register 4 holds in their place where Secure Boot is on, if that is something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pcr_4_under_secure_boot: Option<Digests>,
    /// What explains them: those of one register in the order of the boot.
    pub events: Vec<Event>,
}

impl Chain {
    /// What the registers hold after these events: each of [`PCRS`], zero where there was none.
    #[must_use]
    pub fn of(holds_for: Vec<String>, events: Vec<Event>) -> Self {
        let mut sha256: BTreeMap<u8, Hash<32>> =
            PCRS.iter().map(|pcr| (*pcr, Hash::ZERO)).collect();
        let mut sha384: BTreeMap<u8, Hash<48>> =
            PCRS.iter().map(|pcr| (*pcr, Hash::ZERO)).collect();
        for event in &events {
            let Some(digests) = &event.digests else { continue };
            let register = sha256.entry(event.pcr).or_insert(Hash::ZERO);
            *register = register.extend(&digests.sha256);
            let register = sha384.entry(event.pcr).or_insert(Hash::ZERO);
            *register = register.extend(&digests.sha384);
        }
        Self { holds_for, sha256, sha384, pcr_4_under_secure_boot: None, events }
    }

    /// What a register holds after its events but those called `what`.
    #[must_use]
    pub fn without(&self, pcr: u8, what: &str) -> Digests {
        let events = self.events.iter().filter(|event| event.pcr == pcr && event.what != what);
        events.filter_map(|event| event.digests).fold(
            Digests { sha256: Hash::ZERO, sha384: Hash::ZERO },
            |held, by| Digests {
                sha256: held.sha256.extend(&by.sha256),
                sha384: held.sha384.extend(&by.sha384),
            },
        )
    }
}

/// Text as EFI has it: UTF-16, little-endian, with its NUL.
#[must_use]
pub fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As OVMF leaves it where there is no partition table (`direct`), and in 2, 3 and 6.
    #[test]
    fn registers_are_those_of_a_boot() {
        let mut events = vec![Event::separator(BOOT_CONFIG), Event::separator(2)];
        events.extend(Event::exit());
        let chain = Chain::of(Vec::new(), events);
        let value = |pcr: u8| chain.sha256[&pcr].to_string();
        assert!(value(5).starts_with("a5ceb755"), "{}", value(5));
        assert!(value(2).starts_with("3d458cfe"), "{}", value(2));
    }

    #[test]
    fn a_register_without_an_event_is_zero_and_there() {
        let chain = Chain::of(vec!["a".to_owned()], vec![Event::none(UKI, "none")]);
        assert!(chain.sha256.keys().eq(&PCRS));
        assert!(chain.sha384.values().all(|value| *value == Hash::ZERO));
        let json = serde_json::to_value(&chain).unwrap();
        assert_eq!(json["sha256"]["12"], "0".repeat(64));
        assert!(json["events"][0].get("digests").is_none());
        assert_eq!(serde_json::from_value::<Chain>(json).unwrap(), chain);
    }

    #[test]
    fn text_is_of_two_bytes_a_letter() {
        assert_eq!(utf16("a="), b"a\0=\0\0\0");
    }
}
