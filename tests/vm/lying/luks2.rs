//! LUKS2 headers as an attacker makes them: by cryptsetup, and edited where it refuses.
//!
//! Source: LUKS2 On-Disk Format Specification, version 1.1.1, chapters 2 and 3.

use crate::kit::tool::{Scratch, command, run};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

const COPY: usize = 16384;
const BINARY: usize = 4096;
const CHECKSUM: usize = 0x1c0;

/// Headers and first keyslot.
const SIZE: usize = 512 << 10;

/// What the attacker knows.
const VOLUME_KEY: [u8; 32] = *b"the attacker has this volume key";

pub(super) struct Forged {
    scratch: Scratch,
    image: PathBuf,
}

impl Forged {
    /// A header of cryptsetup's own for the attacker's volume key, with one keyslot.
    fn new() -> Self {
        let scratch = Scratch::new("forged");
        let image = scratch.join("header");
        File::create(&image).unwrap().set_len(32 << 20).unwrap();
        fs::write(scratch.join("volume-key"), VOLUME_KEY).unwrap();
        fs::write(scratch.join("passphrase"), "attacker").unwrap();
        run(command("cryptsetup")
            .args(["luksFormat", "--batch-mode", "--type", "luks2", "--sector-size", "4096"])
            .args(["--cipher", "aes-xts-plain64", "--key-size", "256", "--pbkdf", "pbkdf2"])
            .args(["--pbkdf-force-iterations", "1000", "--volume-key-file"])
            .arg(scratch.join("volume-key"))
            .args(["--key-slot", "0"])
            .arg(&image)
            .arg(scratch.join("passphrase")));
        Self { scratch, image }
    }

    /// The same cipher and integrity as the guest's own header, with a keyslot that wraps the
    /// attacker's volume key. cryptsetup makes such a header only where it has the device-mapper.
    pub(super) fn with_an_attackers_key() -> Self {
        let forged = Self::new();
        forged.edit(|metadata| {
            let segment = &mut metadata["segments"]["0"];
            segment["encryption"] = json!("aes-gcm-random");
            segment["integrity"] = json!({
                "type": "aead", "journal_encryption": "none", "journal_integrity": "none",
            });
        });
        // cryptsetup takes the header, and the attacker's passphrase opens it.
        run(command("cryptsetup")
            .args(["open", "--test-passphrase", "--key-file"])
            .arg(forged.scratch.join("passphrase"))
            .arg(&forged.image));
        forged
    }

    /// No encryption at all, neither of the keyslot nor of the data.
    pub(super) fn with_the_null_cipher() -> Self {
        let forged = Self::new();
        forged.edit(|metadata| {
            metadata["segments"]["0"]["encryption"] = json!("cipher_null-ecb");
            metadata["keyslots"]["0"]["area"]["encryption"] = json!("cipher_null-ecb");
        });
        // To open it cryptsetup refuses since CVE-2025-59054 is known; it is a header all the same.
        let dump = run(command("cryptsetup").arg("luksDump").arg(&forged.image));
        assert!(dump.matches("cipher_null-ecb").count() == 2, "{dump}");
        forged
    }

    /// Edits the metadata of both copies, and makes their checksums right again.
    fn edit(&self, edit: impl Fn(&mut Value)) {
        let file = File::options().read(true).write(true).open(&self.image).unwrap();
        for copy in [0, COPY] {
            let mut bytes = vec![0; COPY];
            file.read_exact_at(&mut bytes, copy as u64).unwrap();
            let text = bytes[BINARY..].split(|byte| *byte == 0).next().unwrap();
            let mut metadata = serde_json::from_slice(text).unwrap();
            edit(&mut metadata);
            bytes.truncate(BINARY);
            bytes.extend(metadata.to_string().bytes());
            bytes.resize(COPY, 0);
            bytes[CHECKSUM..CHECKSUM + 64].fill(0);
            let checksum = Sha256::digest(&bytes);
            bytes[CHECKSUM..CHECKSUM + 32].copy_from_slice(&checksum);
            file.write_all_at(&bytes, copy as u64).unwrap();
        }
    }

    /// Both copies and the keyslot.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = fs::read(&self.image).unwrap();
        bytes.truncate(SIZE);
        bytes
    }
}
