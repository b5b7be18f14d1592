//! Where the volume key is after a good boot: in the context of the kernel's cipher, and nowhere
//! else.
//!
//! Nobody tells the key to these tests, so that what they boot is what is shipped. They find it by
//! the schedule that AES makes of a key, and know it by the digest in the LUKS2 header.

use crate::kit::disk::{Disk, Part};
use crate::kit::guest::Guest;
use crate::kit::vm::Vm;
use crate::memory::{Find, KEY, Memory, Needle, PAGE, find};
use base64ct::{Base64, Encoding};
use cvm_init::format::hex;
use cvm_init::format::luks2;
use serde_json::{Value, json};
use sha2::Sha256;
use std::fs;
use std::time::Duration;

/// MiB of memory, little enough to be searched in seconds.
const MEMORY: usize = 256;

/// Until the boot shows a line, emulated.
const LIMIT: Duration = Duration::from_secs(120);

/// What is left of the key, from the place of the cipher's context on: `struct crypto_aes_ctx`
/// (`include/crypto/aes.h`) begins with the words of the encryption schedule, whose first are the
/// key, and goes on with those of the decryption schedule, whose last are its first half. There is
/// no other copy: dm-crypt overwrites its own when the key came from a keyring
/// (`crypt_set_keyring_key` in `drivers/md/dm-crypt.c`).
const CONTEXT: [(std::ops::Range<usize>, usize); 2] = [(0..KEY, 0), (0..16, 240 + 224)];

/// Bits of `/proc/kpageflags` (`include/uapi/linux/kernel-page-flags.h`).
const FLAGS: [(&str, u32); 7] = [
    ("slab", 7),
    ("free", 10),
    ("mapped", 11),
    ("anonymous", 12),
    ("page cache", 5),
    ("no page", 20),
    ("page table", 26),
];

/// The forms in which parts of a key stand where something has worked with it.
fn forms(key: &[u8; KEY]) -> Vec<Needle> {
    let xor = |pad: u8| key.map(|byte| byte ^ pad).to_vec();
    // SHA-256 takes its input as words of the other byte order.
    let swapped =
        |bytes: &[u8]| bytes.chunks(4).flat_map(|word| word.iter().rev()).copied().collect();
    // The pads of HMAC (RFC 2104).
    let (inner, outer) = (xor(0x36), xor(0x5c));
    [
        ("key as words", swapped(key)),
        ("inner pad as words", swapped(&inner)),
        ("outer pad as words", swapped(&outer)),
        ("inner pad", inner),
        ("outer pad", outer),
        ("hexadecimal key", hex::encode(key).into_bytes()),
        ("base64 key", Base64::encode_string(key).into_bytes()),
        ("key", key.to_vec()),
    ]
    .map(|(name, bytes)| Needle { name, bytes })
    .into()
}

/// What the kernel says of the pages at these addresses: their flags by name.
fn pages(guest: &mut Guest, addresses: impl Iterator<Item = usize>) -> Vec<String> {
    let frames: Vec<_> = addresses.map(|address| address / PAGE).collect();
    let flags = guest.ask("pages", json!({ "frames": frames }));
    let names = |flags: &Value| {
        let flags = flags.as_u64().unwrap();
        let set = FLAGS.iter().filter(|(_, bit)| flags & 1 << bit != 0);
        set.map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    };
    let names: Vec<_> = flags.as_array().unwrap().iter().map(names).collect();
    assert_eq!(names.len(), frames.len());
    names
}

/// The one AES-256 key that the kernel works with, and where its context is.
#[track_caller]
fn cipher_context(memory: &Memory) -> (usize, [u8; KEY]) {
    let keys = memory.aes_256_keys();
    let &[context] = keys.as_slice() else {
        panic!("one AES-256 key is wanted, not {}", keys.len());
    };
    context
}

/// Whether a copy is the keyring's, revoked and not freed yet: the kernel does that, overwriting
/// it, when all processors have passed a quiescent state (`user_revoke` in
/// `security/keys/user_defined.c`). `struct user_key_payload` has the length before the data.
fn awaits_its_end(memory: &Memory, find: &Find) -> bool {
    let head = memory.at(find.address - 24, 24);
    let function = u64::from_le_bytes(head[8..16].try_into().unwrap());
    let length = u16::from_le_bytes(head[16..18].try_into().unwrap());
    find.name == "key" && function >> 47 == u64::MAX >> 47 && usize::from(length) == KEY
}

/// Every piece of the key but those in the cipher's context, which must all be there.
#[track_caller]
fn strays(memory: &Memory, context: usize, key: &[u8; KEY]) -> Vec<Find> {
    let mut found = memory.find(&forms(key));
    for (part, offset) in CONTEXT {
        let wanted = Find { name: "key", part, address: context + offset };
        let place = found.iter().position(|find| *find == wanted);
        found.remove(place.unwrap_or_else(|| panic!("{wanted:?} is not among {found:?}")));
    }
    found
}

/// The salted hash by which the LUKS2 header knows its key is that of this one.
fn assert_opens(disk: &Disk, key: &[u8; KEY]) {
    let header = disk.read(Part::Cocos, 4096, luks2::SIZE / 2 - 4096);
    let text = header.split(|byte| *byte == 0).next().unwrap();
    let metadata: Value = serde_json::from_slice(text).unwrap();
    let digest = &metadata["digests"]["0"];
    let field = |name: &str| Base64::decode_vec(digest[name].as_str().unwrap()).unwrap();
    let rounds = digest["iterations"].as_u64().unwrap().try_into().unwrap();
    let mut hash = [0; 32];
    pbkdf2::pbkdf2_hmac::<Sha256>(key, &field("salt"), rounds, &mut hash);
    assert_eq!(hash.as_slice(), field("digest"), "the key that was found is not the volume's");
}

/// `words` are more of the kernel command line.
fn assert_the_key_is_in_the_cipher_only(words: &str) {
    let disk = Disk::builder().build();
    let mut guest = Vm::of(&disk)
        .memory(&format!("{MEMORY}M"))
        .append("cvm.log=debug loglevel=8")
        .append(words)
        .boot();

    // PID 1 has just dropped the key: what it leaves is still in its memory.
    guest.wait_serial("cvm-init: revoke the volume key", LIMIT);
    let memory = Memory::of(&mut guest, MEMORY);
    let (context, key) = cipher_context(&memory);
    assert_opens(&disk, &key);
    let mut early = strays(&memory, context, &key);
    early.retain(|find| !awaits_its_end(&memory, find));
    assert!(early.is_empty(), "in the memory of the boot: {early:x?}");

    // That memory has been freed.
    guest.hello();
    let memory = Memory::of(&mut guest, MEMORY);
    assert_eq!(cipher_context(&memory), (context, key));
    let strays = strays(&memory, context, &key);
    let kinds = pages(&mut guest, strays.iter().map(|find| find.address));
    assert!(strays.is_empty(), "{strays:x?} in pages {kinds:?}");
    let kinds = pages(&mut guest, CONTEXT.iter().map(|(_, offset)| context + offset));
    for ((part, offset), kind) in CONTEXT.iter().zip(kinds) {
        eprintln!("key {part:?} at {:#x}, in the cipher's context: {kind}", context + offset);
        assert_eq!(kind, "slab");
    }

    let keys = guest.ask("keys", json!({}));
    let keys = keys.as_str().unwrap();
    assert!(!keys.contains("logon") && !keys.contains("cvm-init"), "{keys}");
    let texts = [
        ("the console", guest.serial()),
        ("the boot report", guest.read("/run/cvm-init/boot.json")),
        ("/proc/cmdline", guest.read("/proc/cmdline")),
        ("the kernel log", guest.ask("kmsg", json!({})).to_string()),
    ];
    assert_copies_are_found(&mut guest);
    guest.power_off();
    for (what, text) in &texts {
        assert_eq!(pieces(text.as_bytes(), &key), [], "in {what}");
    }
    assert_eq!(pieces(&fs::read(disk.path()).unwrap(), &key), [], "on the disk");
}

fn pieces(bytes: &[u8], key: &[u8; KEY]) -> Vec<Find> {
    let stretches = (0..bytes.len()).step_by(PAGE).map(|at| {
        let end = (at + PAGE + 2 * KEY).min(bytes.len());
        (at, &bytes[at..end])
    });
    find(stretches, &forms(key))
}

#[test]
fn with_tags_on_the_disk_the_key_is_in_the_cipher_only() {
    assert_the_key_is_in_the_cipher_only("cvm.tags=disk");
}

#[test]
fn with_tags_in_memory_the_key_is_in_the_cipher_only() {
    assert_the_key_is_in_the_cipher_only("cvm.tags=memory");
}

/// Pages of a program that hold the same 32 bytes: many, because the kernel keeps some of what was
/// freed at hand, flagged as nothing, and overwrites it when it gives it away again.
const PLANTED: u64 = 4096;

/// What the search would have found, had it been there: copies in a program, and freed ones.
fn assert_copies_are_found(guest: &mut Guest) {
    let planted = guest.ask("plant", json!({ "seed": 11, "bytes": KEY, "pages": PLANTED }));
    let bytes = hex::decode(planted.as_str().unwrap()).unwrap();
    let needles = [Needle { name: "planted", bytes }];
    let look = |guest: &mut Guest| -> Vec<_> {
        let mut found = Memory::of(guest, MEMORY).find(&needles);
        found.retain(|find| find.part == (0..KEY) && find.address % PAGE == 0);
        pages(guest, found.iter().map(|find| find.address))
    };
    let living = look(guest);
    assert_eq!(living.len() as u64, PLANTED);
    assert!(living.iter().all(|page| page.contains("anonymous")), "{living:?}");
    guest.ask("unplant", json!({}));
    let freed = look(guest);
    // The agent itself takes some of them for its answer.
    let free = freed.iter().filter(|page| *page == "free").count();
    eprintln!("of {PLANTED} freed copies {} are found, {free} of them in free pages", freed.len());
    assert!(free as u64 > PLANTED / 2);
}
