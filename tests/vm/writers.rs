//! Many writers at once on a fresh volume, on machines of several processors: no block that the
//! kernel reads may be one that was never written, however the writers meet.

use crate::kit::artefacts;
use crate::kit::disk::Disk;
use crate::kit::kernel::Kernel;
use crate::kit::vm::Vm;
use crate::kit::volume_check::{self, ask};
use serde_json::{Value, json};
use std::time::Instant;

/// Of the volume. Nothing depends on it but the room for what the writers make.
const COCOS: u64 = 2 << 30;

/// Directories that all writers of a round make together, each with two files.
const PIECES: u64 = 384;

/// What a boot asks for: `cvm.cipher=` and `cvm.integrity=`.
type Cipher = (&'static str, &'static str);

const GCM: Cipher = ("aes-gcm-random", "aead");
const AEGIS: Cipher = ("aegis128-random", "aead");
const CHACHA: Cipher = ("chacha20-random", "poly1305");
const XTS_HMAC: Cipher = ("aes-xts-plain64", "hmac-sha256");
const XTS: Cipher = ("aes-xts-plain64", "none");

const PROCESSORS: [u32; 4] = [1, 2, 4, 8];
const WRITERS: [u64; 2] = [16, 64];

fn crowd(round: u64, writers: u64) -> Value {
    let (dir, pieces) = (format!("/cocos/datasets/{round}"), PIECES / writers);
    json!({ "dir": dir, "writers": writers, "pieces": pieces, "seed": round })
}

/// Boots, lets the writers at the volume as the first that anything does there, and reads back what
/// they have made.
#[track_caller]
fn volume_holds(
    kernel: Kernel,
    processors: u32,
    writers: u64,
    ((cipher, integrity), tags): (Cipher, &str),
) {
    let disk = Disk::builder().root(volume_check::root()).cocos(COCOS).build();
    let mut vm = Vm::of(&disk)
        .kernel(kernel)
        .initramfs(artefacts::initramfs_of(kernel, cipher))
        .processors(processors)
        .append(&format!("cvm.cipher={cipher} cvm.integrity={integrity}"));
    if tags != "none" {
        vm = vm.append(&format!("cvm.tags={tags}"));
    }
    let mut guest = vm.boot();
    assert_eq!(guest.report()["volume"]["tags"], tags);
    let count = guest.read("/proc/cpuinfo").matches("processor\t:").count();
    assert_eq!(count, processors as usize);

    ask(&mut guest, "writers", crowd(0, writers));
    ask(&mut guest, "writers", crowd(1, writers));
    guest.ask("drop_caches", json!({}));
    ask(&mut guest, "writers_check", crowd(0, writers));
    // What was in use becomes free and is used anew.
    ask(&mut guest, "writers_remove", crowd(0, writers));
    ask(&mut guest, "writers", crowd(2, writers));
    guest.ask("drop_caches", json!({}));
    ask(&mut guest, "writers_check", crowd(1, writers));
    ask(&mut guest, "writers_check", crowd(2, writers));
    volume_check::check(&mut guest);
    guest.power_off();
}

#[test]
fn sixteen_writers_on_four_processors() {
    volume_holds(Kernel::RUNNING, 4, 16, (GCM, "memory"));
}

#[test]
fn sixteen_writers_on_four_processors_of_a_newer_kernel() {
    volume_holds(Kernel::TRIXIE, 4, 16, (GCM, "memory"));
}

#[test]
fn sixty_four_writers_on_eight_processors_with_tags_on_the_disk() {
    volume_holds(Kernel::TRIXIE, 8, 64, (XTS_HMAC, "disk"));
}

#[test]
fn sixteen_writers_on_one_processor() {
    volume_holds(Kernel::RUNNING, 1, 16, (CHACHA, "memory"));
}

#[test]
fn sixty_four_writers_on_two_processors() {
    volume_holds(Kernel::TRIXIE, 2, 64, (AEGIS, "memory"));
}

#[test]
fn sixty_four_writers_without_integrity() {
    volume_holds(Kernel::RUNNING, 4, 64, (XTS, "none"));
}

/// A volume on every machine.
fn holds_everywhere(volume: (Cipher, &str)) {
    for kernel in [Kernel::RUNNING, Kernel::TRIXIE] {
        for processors in PROCESSORS {
            for writers in WRITERS {
                let start = Instant::now();
                volume_holds(kernel, processors, writers, volume);
                println!(
                    "{kernel}, processors: {processors}, writers: {writers}, {volume:?}: good \
                     after {} s",
                    start.elapsed().as_secs()
                );
            }
        }
    }
}

// Each cipher with each place that its tags can have: 16 boots each.

#[test]
#[ignore = "scripts/test --all"]
fn everywhere_gcm_with_tags_in_memory() {
    holds_everywhere((GCM, "memory"));
}

#[test]
#[ignore = "scripts/test --all"]
fn everywhere_gcm_with_tags_on_the_disk() {
    holds_everywhere((GCM, "disk"));
}

#[test]
#[ignore = "scripts/test --all"]
fn everywhere_aegis_with_tags_in_memory() {
    holds_everywhere((AEGIS, "memory"));
}

#[test]
#[ignore = "scripts/test --all"]
fn everywhere_aegis_with_tags_on_the_disk() {
    holds_everywhere((AEGIS, "disk"));
}

#[test]
#[ignore = "scripts/test --all"]
fn everywhere_chacha_with_tags_in_memory() {
    holds_everywhere((CHACHA, "memory"));
}

#[test]
#[ignore = "scripts/test --all"]
fn everywhere_chacha_with_tags_on_the_disk() {
    holds_everywhere((CHACHA, "disk"));
}

#[test]
#[ignore = "scripts/test --all"]
fn everywhere_xts_and_hmac_with_tags_in_memory() {
    holds_everywhere((XTS_HMAC, "memory"));
}

#[test]
#[ignore = "scripts/test --all"]
fn everywhere_xts_and_hmac_with_tags_on_the_disk() {
    holds_everywhere((XTS_HMAC, "disk"));
}

#[test]
#[ignore = "scripts/test --all"]
fn everywhere_xts_without_integrity() {
    holds_everywhere((XTS, "none"));
}
