//! What the server gets of /cocos: ciphertext, whatever the host has done to the disk.

use crate::kit::disk::Disk;
use crate::kit::guest::Guest;
use crate::kit::served::Served;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fs;

#[path = "../../agent/src/pattern.rs"]
mod pattern;

const MIB: u64 = 1 << 20;
const SEED: u64 = 11;
const WORD: usize = 8;

fn span(path: &str) -> Value {
    json!({ "path": path, "offset": 0, "bytes": 4 * MIB, "seed": SEED, "direct": false })
}

/// Words of the pattern that are found in what the server holds or has ever been sent. A word is
/// 64 random bits, so one that is found is no accident.
fn plaintext_at_the_server(disk: &Disk, served: &Served) -> usize {
    let mut plain = vec![0; 4 << 20];
    pattern::pattern(SEED, 0, &mut plain);
    let words: HashSet<_> = plain.chunks_exact(WORD).collect();
    let image = fs::read(disk.path()).unwrap();
    let sent = served.journal();
    // Disks, volumes and files are all made of whole words.
    let held = image.chunks_exact(WORD).chain(sent.chunks_exact(WORD));
    held.filter(|word| **word != [0; WORD] && words.contains(word)).count()
}

/// Bytes that are not the pattern.
pub(super) fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    pattern::pattern(SEED + 1, 0, &mut bytes);
    bytes
}

/// Makes sure that /cocos is the volume that was asked for, and that what is written there reaches
/// the server as ciphertext only and comes back as it was.
#[track_caller]
pub(super) fn check_volume(guest: &mut Guest, disk: &Disk, served: &Served) {
    check_tables(guest);
    guest.ask("pattern_write", span("/cocos/datasets/secret"));
    guest.ask("drop_caches", json!({}));
    assert_eq!(plaintext_at_the_server(disk, served), 0);
    assert_eq!(guest.ask("pattern_read", span("/cocos/datasets/secret")), Value::Null);
}

/// The same on a disk on which a write or a read may fail.
#[track_caller]
pub(super) fn check_ciphertext(guest: &mut Guest, disk: &Disk, served: &Served) {
    check_tables(guest);
    let written = guest.call("pattern_write", span("/cocos/datasets/secret"));
    let _ = guest.call("drop_caches", json!({}));
    assert_eq!(plaintext_at_the_server(disk, served), 0);
    let read = guest.call("pattern_read", span("/cocos/datasets/secret"));
    if let (Ok(_), Ok(difference)) = (written, read) {
        assert_eq!(difference, Value::Null);
    }
}

/// The live tables are those that were asked for, and /cocos lies on them.
#[track_caller]
fn check_tables(guest: &mut Guest) {
    let mappings = guest.ask("dm", json!({}));
    let named = |name: &str| {
        let all = mappings.as_array().unwrap();
        all.iter().find(|mapping| mapping["name"] == name).expect("the mapping is there").clone()
    };
    let (tags, volume) = (named("cocos_crypt_dif"), named("cocos_crypt"));
    assert_eq!([&tags["kind"], &volume["kind"]], ["integrity", "linear crypt linear"]);
    let table = tags["table"].as_str().unwrap();
    assert!(table.contains(" 28 D ") && table.contains(" block_size:4096 "), "{table}");
    let tables: Vec<_> = volume["table"].as_str().unwrap().lines().collect();
    let [front, data, end] = tables[..] else { panic!("three targets are wanted: {tables:?}") };
    assert!(front.starts_with("7:") && end.starts_with("7:"), "{tables:?}");
    let device = tags["device"].as_str().unwrap();
    let key = "capi:gcm(aes)-random :32:logon:cvm-init:cocos 0";
    assert_eq!(data, format!("{key} {device} 0 2 integrity:28:aead sector_size:4096"));
    let mounts = guest.ask("mounts", json!({}));
    let cocos = mounts.as_array().unwrap().iter().find(|mount| mount["target"] == "/cocos");
    assert_eq!(cocos.unwrap()["source"], "/dev/mapper/cocos_crypt");
}

/// The search itself finds what is there: a guest that writes past the volume gives itself away.
#[test]
fn a_pattern_written_past_the_volume_is_found_at_the_server() {
    let disk = Disk::builder().build();
    let served = Served::lying(&disk, Vec::new());
    let mut guest = super::vm_of(&disk, &served).boot();
    check_volume(&mut guest, &disk, &served);
    // The middle of partition 4, where the journal has it even when the image is written over.
    let mut past = span("/dev/sda4");
    past["offset"] = json!(40 * MIB);
    past["bytes"] = json!(4096);
    guest.ask("pattern_write", past);
    assert_eq!(plaintext_at_the_server(&disk, &served), 0, "another offset is another pattern");
    let mut past = span("/dev/sda1");
    past["bytes"] = json!(4096);
    guest.ask("pattern_write", past);
    // Once in the image and once in the journal.
    assert_eq!(plaintext_at_the_server(&disk, &served), 2 * 4096 / WORD);
    guest.power_off();
}
