//! The LUKS2 header against cryptsetup and blkid: they read it as it was meant, the digest knows its
//! key, and each of the two copies stands on its own.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod common;

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use base64ct::{Base64, Encoding};
use cvm_init::format::luks2::{Header, KeyDigest};
use cvm_init::format::{crypt, hex};
use serde_json::{Value, json};

use common::{Scratch, refusal, run};

const UUID: &str = "01234567-89ab-4def-8123-456789abcdef";
const KEY: [u8; 32] = *b"\x00\x01\x02\x03 any 32 bytes are a key \xfc\xfd\xfe\xff";
const SALT: [u8; 32] = [0x5a; 32];
/// Python: `hashlib.pbkdf2_hmac("sha256", KEY, SALT, 1000).hex()`
const DIGEST: &str = "f2eefaf38990a1545903d1c453cd5f8ade6addcebd2c90d3e09507934d701375";

/// Bytes of one copy, and where its salt and its checksum lie (specification, 2.1).
const COPY: usize = 16384;
const COPY_SALT: Range<usize> = 0x68..0xa8;
const COPY_CHECKSUM: Range<usize> = 0x1c0..0x200;

/// A device of 64 MiB that holds nothing but a header.
fn device(name: &str) -> (Scratch, File) {
    device_of(name, "aes-gcm-random", "aead", None)
}

/// The same with another cipher, or with a requirement.
fn device_of(
    name: &str,
    cipher: &str,
    integrity: &str,
    requirement: Option<&str>,
) -> (Scratch, File) {
    let cipher = crypt::cipher(cipher, Some(integrity)).unwrap();
    let header = Header {
        uuid: *b"\x01\x23\x45\x67\x89\xab\x4d\xef\x81\x23\x45\x67\x89\xab\xcd\xef",
        cipher: cipher.name,
        integrity: cipher.tag.as_ref().map(|tag| tag.luks2_name),
        requirement,
        sector_size: crypt::SECTOR_SIZE,
        digest: KeyDigest::new(&KEY, SALT),
        checksum_salts: [[0xa5; 64], [0xc3; 64]],
    };
    let (scratch, file) = Scratch::sparse(name, 64 << 20);
    file.write_all_at(&header.encode().unwrap(), 0).unwrap();
    (scratch, file)
}

/// Runs `cryptsetup ARGUMENTS DEVICE`, which has to accept the header.
fn cryptsetup(arguments: &[&str], device: &Scratch) -> String {
    run("cryptsetup", &[arguments, &[device.utf8()]].concat())
}

#[test]
fn cryptsetup_shows_what_was_meant() {
    let (device, _) = device("luks2-dump");
    let dump = cryptsetup(&["luksDump"], &device);
    let lines: Vec<String> = dump
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|line| !line.is_empty())
        .collect();
    let salt = "5a ".repeat(16);
    let digest = DIGEST.as_bytes().chunks(2).map(|pair| str::from_utf8(pair).unwrap());
    let digest: Vec<_> = digest.collect();
    assert_eq!(
        lines,
        [
            "LUKS header information",
            "Version: 2",
            "Epoch: 1",
            "Metadata area: 16384 [bytes]",
            "Keyslots area: 16744448 [bytes]",
            &format!("UUID: {UUID}"),
            "Label: (no label)",
            "Subsystem: (no subsystem)",
            "Flags: no-journal",
            "Data segments:",
            "0: crypt",
            "offset: 16777216 [bytes]",
            "length: (whole device)",
            "cipher: aes-gcm-random",
            "sector: 4096 [bytes]",
            "integrity: aead",
            "Keyslots:",
            "Tokens:",
            "Digests:",
            "0: pbkdf2",
            "Hash: sha256",
            "Iterations: 1000",
            &format!("Salt: {}", salt.trim_end()),
            salt.trim_end(),
            &format!("Digest: {}", digest[..16].join(" ")),
            &digest[16..].join(" "),
        ]
    );
}

#[test]
fn its_metadata_is_all_that_was_meant_and_no_more() {
    let (device, _) = device("luks2-json");
    let dump = cryptsetup(&["luksDump", "--dump-json-metadata"], &device);
    let metadata: Value = serde_json::from_str(&dump).unwrap();
    let integrity = json!({
        "type": "aead", "journal_encryption": "none", "journal_integrity": "none",
    });
    let segment = json!({
        "type": "crypt", "offset": "16777216", "size": "dynamic", "iv_tweak": "0",
        "encryption": "aes-gcm-random", "sector_size": 4096, "integrity": integrity,
    });
    let digest = json!({
        "type": "pbkdf2", "keyslots": [], "segments": ["0"], "hash": "sha256", "iterations": 1000,
        "salt": Base64::encode_string(&SALT),
        "digest": Base64::encode_string(&hex::decode(DIGEST).unwrap()),
    });
    let expected = json!({
        "keyslots": {},
        "tokens": {},
        "segments": { "0": segment },
        "digests": { "0": digest },
        "config": { "json_size": "12288", "keyslots_size": "16744448", "flags": ["no-journal"] },
    });
    assert_eq!(metadata, expected);
}

/// What `luksDump` says behind a label.
fn dumped<'a>(dump: &'a str, label: &str) -> Option<&'a str> {
    dump.lines().find_map(|line| line.trim().strip_prefix(label)).map(str::trim)
}

#[test]
fn every_cipher_is_one_of_cryptsetups() {
    for (cipher, integrity, name) in [
        ("aes-gcm-random", "aead", Some("aead")),
        ("aegis128-random", "aead", Some("aead")),
        ("chacha20-random", "poly1305", Some("poly1305")),
        ("aes-xts-plain64", "hmac-sha256", Some("hmac(sha256)")),
        ("aes-xts-plain64", "none", None),
    ] {
        let (device, _) = device_of("luks2-ciphers", cipher, integrity, None);
        let dump = cryptsetup(&["luksDump"], &device);
        assert_eq!(dumped(&dump, "cipher:"), Some(cipher));
        assert_eq!(dumped(&dump, "integrity:"), name);
        let flags = if name.is_some() { "no-journal" } else { "(no flags)" };
        assert_eq!(dumped(&dump, "Flags:"), Some(flags));
    }
}

#[test]
fn tools_show_a_volume_that_they_cannot_open() {
    let requirement = "cvm-init-metadata-in-memory";
    let (device, _) = device_of("luks2-required", "aes-gcm-random", "aead", Some(requirement));
    let dump = cryptsetup(&["luksDump"], &device);
    assert_eq!(dumped(&dump, "Requirements:"), Some(requirement));
    assert_eq!(dumped(&dump, "cipher:"), Some("aes-gcm-random"));
    assert_recognised(&device);

    // To open it would take a device-mapper: the guest of tests/vm has one, and is refused too.
    let (key_file, file) = Scratch::sparse("luks2-required.bin", 32);
    file.write_all_at(&KEY, 0).unwrap();
    let add_key = ["luksAddKey", "--key-size=256", "--volume-key-file", key_file.utf8()];
    let files = ["--batch-mode", device.utf8(), key_file.utf8()];
    let reason = refusal("cryptsetup", &[&add_key[..], &files].concat());
    assert!(reason.contains("Unmet LUKS2 requirements detected"), "{reason}");
}

#[test]
fn tools_recognise_it() {
    let (device, _) = device("luks2-probe");
    assert_recognised(&device);
}

fn assert_recognised(device: &Scratch) {
    assert_eq!(cryptsetup(&["luksUUID"], device).trim_end(), UUID);
    cryptsetup(&["isLuks", "--type", "luks2"], device);
    refusal("cryptsetup", &["isLuks", "--type", "luks1", device.utf8()]);
    let probed = run("blkid", &["-p", "-o", "export", device.utf8()]);
    let facts: Vec<_> = probed.lines().filter(|line| !line.starts_with("DEVNAME=")).collect();
    let uuid = format!("UUID={UUID}");
    assert_eq!(facts, ["VERSION=2", &uuid, "TYPE=crypto_LUKS", "USAGE=crypto"]);
}

/// Whether the digest takes this key for the volume's. Without a keyslot cryptsetup has to be told
/// how long a key is.
#[test]
fn the_digest_knows_the_volume_key_from_another() {
    let (device, _) = device("luks2-key");
    let (key_file, file) = Scratch::sparse("luks2-key.bin", 32);
    let test = [
        "open",
        "--test-passphrase",
        "--key-size=256",
        "--volume-key-file",
        key_file.utf8(),
        device.utf8(),
    ];
    file.write_all_at(&KEY, 0).unwrap();
    run("cryptsetup", &test);

    for bit in [0, 100, 255] {
        let mut other = KEY;
        other[bit / 8] ^= 1 << (bit % 8);
        file.write_all_at(&other, 0).unwrap();
        let reason = refusal("cryptsetup", &test);
        assert!(reason.contains("does not match the volume"), "{reason}");
    }
}

/// cryptsetup takes the copy that is whole and writes the other one anew from it, with a salt and a
/// checksum of its own: but for these it has to become what it was.
#[test]
fn each_copy_alone_is_enough() {
    for (at, magic) in [(0, b"LUKS"), (COPY, b"SKUL")] {
        // In the magic, and in the JSON, where only the checksum tells.
        for damaged in [0, 4096 + 100] {
            let (device, file) = device("luks2-repair");
            let before = read_copy(&file, at);
            assert_eq!(before[..4], *magic);
            flip(&file, at + damaged);
            assert_eq!(cryptsetup(&["luksUUID"], &device).trim_end(), UUID);

            let after = read_copy(&file, at);
            let same = |range: Range<usize>| after[range.clone()] == before[range];
            assert!(!same(COPY_SALT), "copy at {at} has not been repaired");
            assert!(same(0..COPY_SALT.start), "copy at {at}");
            assert!(same(COPY_SALT.end..COPY_CHECKSUM.start), "copy at {at}");
            assert!(same(COPY_CHECKSUM.end..COPY), "copy at {at}");
        }
    }
}

#[test]
fn two_damaged_copies_are_refused() {
    let (device, file) = device("luks2-damaged");
    flip(&file, COPY_CHECKSUM.start);
    flip(&file, COPY + COPY_CHECKSUM.start);
    refusal("cryptsetup", &["isLuks", device.utf8()]);
    let reason = refusal("cryptsetup", &["luksDump", device.utf8()]);
    assert!(reason.contains("is not a valid LUKS device"), "{reason}");
}

fn read_copy(device: &File, at: usize) -> Vec<u8> {
    let mut copy = vec![0; COPY];
    device.read_exact_at(&mut copy, at as u64).unwrap();
    copy
}

/// Flips a bit of the byte at `at`.
fn flip(device: &File, at: usize) {
    let mut byte = [0];
    device.read_exact_at(&mut byte, at as u64).unwrap();
    device.write_all_at(&[byte[0] ^ 1], at as u64).unwrap();
}
