//! Each cipher on offer: booted, written to and read back; and refused where the kernel lacks it.

use crate::kit::artefacts;
use crate::kit::disk::{Disk, Part};
use crate::kit::guest::Ending;
use crate::kit::vm::Vm;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// From power-on to power-off, emulated.
const LIMIT: Duration = Duration::from_secs(120);

/// Boots with the cipher's modules only. `table` is how dm-crypt's table begins and ends, around
/// the key's name and the device.
#[track_caller]
fn boots(cipher: &str, integrity: &str, words: &str, tags: &str, table: [&str; 2]) {
    let disk = Disk::builder().build();
    let mut guest = Vm::of(&disk).initramfs(artefacts::initramfs_for(cipher)).append(words).boot();
    let volume = guest.report()["volume"].clone();
    assert_eq!(
        [&volume["cipher"], &volume["integrity"], &volume["tags"]],
        [&json!(cipher), &json!(integrity), &json!(tags)]
    );
    let mappings = guest.ask("dm", json!({}));
    let mapping = mappings.as_array().unwrap().last().unwrap();
    // Between what lies in memory.
    let live = mapping["table"].as_str().unwrap().lines().nth(1).unwrap();
    assert!(live.starts_with(table[0]) && live.ends_with(table[1]), "{live}");

    let file = "/cocos/datasets/file";
    let span = json!({ "path": file, "offset": 0, "bytes": 8 * MIB, "seed": 5, "direct": false });
    let tree = json!({ "dir": "/cocos/docker/tree", "files": 200, "seed": 3 });
    guest.ask("pattern_write", span.clone());
    guest.ask("fill", tree.clone());
    guest.ask("drop_caches", json!({}));
    assert_eq!(guest.ask("pattern_read", span), Value::Null);
    guest.ask("fill_check", tree);
    let log = guest.ask("kmsg", json!({}));
    let lines = log.as_array().unwrap().iter().map(|line| line["text"].as_str().unwrap());
    let faults: Vec<_> = lines.filter(|text| text.contains("INTEGRITY")).collect();
    assert!(faults.is_empty(), "{faults:?}");
    // What reached the disk is not what was written.
    let secret = "a line that the host must not see";
    guest.ask("write", json!({ "path": "/cocos/secret", "text": secret }));
    guest.ask("sync", json!({}));
    let size = usize::try_from(disk.size(Part::Cocos)).unwrap();
    let partition = disk.read(Part::Cocos, 0, size);
    assert!(!partition.windows(secret.len()).any(|window| window == secret.as_bytes()));
    guest.power_off();
}

#[test]
fn aegis128_with_its_own_tags() {
    boots(
        "aegis128-random",
        "aead",
        "cvm.cipher=aegis128-random",
        "memory",
        ["capi:aegis128-random :16:logon:", " 0 2 integrity:32:aead sector_size:4096"],
    );
}

#[test]
fn chacha20_with_poly1305() {
    boots(
        "chacha20-random",
        "poly1305",
        "cvm.cipher=chacha20-random",
        "memory",
        [
            "capi:rfc7539(chacha20,poly1305)-random :32:logon:",
            " 0 2 integrity:28:aead sector_size:4096",
        ],
    );
}

#[test]
#[ignore = "scripts/test --all"]
fn aes_xts_with_hmac_sha256_and_tags_on_the_disk() {
    boots(
        "aes-xts-plain64",
        "hmac-sha256",
        "cvm.cipher=aes-xts-plain64 cvm.tags=disk",
        "disk",
        [
            "capi:authenc(hmac(sha256),xts(aes))-plain64 :96:logon:",
            " 0 2 integrity:32:aead sector_size:4096",
        ],
    );
}

#[test]
fn aes_xts_with_hmac_sha256_and_tags_in_memory() {
    boots(
        "aes-xts-plain64",
        "hmac-sha256",
        "cvm.cipher=aes-xts-plain64 cvm.integrity=hmac-sha256 cvm.tags=memory",
        "memory",
        [
            "capi:authenc(hmac(sha256),xts(aes))-plain64 :96:logon:",
            " 0 2 integrity:32:aead sector_size:4096",
        ],
    );
}

#[test]
fn aes_xts_without_integrity() {
    boots(
        "aes-xts-plain64",
        "none",
        "cvm.cipher=aes-xts-plain64 cvm.integrity=none",
        "none",
        ["aes-xts-plain64 :64:logon:", " 32768 1 sector_size:4096"],
    );
}

/// Boots without the modules of a cipher to the one line that says what is missing.
#[track_caller]
fn refused(initramfs: PathBuf, words: &str, needs: &str) {
    let disk = Disk::builder().build();
    let mut guest = Vm::of(&disk).initramfs(initramfs).append(words).boot();
    assert_eq!(guest.wait_ending(LIMIT), Ending::PowerOff);
    assert_eq!(
        guest.fatal_line(),
        format!(
            "volume: cannot load the table of cocos_crypt: No such file or directory \
             (os error 2) ({needs} packs what is a module)"
        )
    );
    assert!(guest.serial().contains("taken down, mappings left: none"));
}

#[test]
fn a_kernel_without_aegis128() {
    refused(
        artefacts::initramfs(),
        "cvm.cipher=aegis128-random",
        "aegis128-random needs the kernel options CRYPTO_AEGIS128; scripts/initramfs --cipher \
         aegis128-random",
    );
}

#[test]
fn a_kernel_without_chacha20() {
    refused(
        artefacts::initramfs(),
        "cvm.cipher=chacha20-random",
        "chacha20-random needs the kernel options CRYPTO_CHACHA20POLY1305; scripts/initramfs \
         --cipher chacha20-random",
    );
}

#[test]
fn a_kernel_without_authenc() {
    refused(
        artefacts::initramfs(),
        "cvm.cipher=aes-xts-plain64",
        "aes-xts-plain64 needs the kernel options CRYPTO_AES, CRYPTO_XTS, CRYPTO_AUTHENC, \
         CRYPTO_HMAC, CRYPTO_SHA256; scripts/initramfs --cipher aes-xts-plain64",
    );
}

#[test]
fn a_kernel_without_xts() {
    // The processor's own xts(aes) would do as well.
    refused(
        artefacts::initramfs_without(&["aesni_intel"]),
        "cvm.cipher=aes-xts-plain64 cvm.integrity=none",
        "aes-xts-plain64 needs the kernel options CRYPTO_AES, CRYPTO_XTS; scripts/initramfs \
         --cipher aes-xts-plain64",
    );
}
