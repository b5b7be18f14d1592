//! What /cocos gives back: what was written, or an error, and never anything else.

use crate::kit::disk::{Disk, Part};
use crate::kit::guest::Guest;
use crate::kit::tool::{Scratch, command, run};
use crate::kit::vm::{Bus, Vm};
use cvm_init::format::ext4::{Layout, Options};
use serde_json::{Value, json};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

const MIB: u64 = 1 << 20;
const BLOCK: usize = 4096;
const VOLUME: &str = "/dev/mapper/cocos_crypt";

/// Error numbers of a block that fails its tag: direct reads show the kernel's own.
const EIO: i32 = 5;
const EILSEQ: i32 = 84;

fn pattern(path: &str, offset: u64, bytes: u64, direct: bool) -> Value {
    json!({ "path": path, "offset": offset, "bytes": bytes, "seed": 7, "direct": direct })
}

/// Kernel log lines of dm-crypt and dm-integrity that say that a tag is wrong.
fn integrity_errors(guest: &mut Guest) -> usize {
    let lines = guest.ask("kmsg", json!({}));
    let texts = lines.as_array().unwrap().iter();
    texts.filter(|line| line["text"].as_str().unwrap().contains("INTEGRITY")).count()
}

/// More than the memory holds, so that what is read comes from the disk.
#[test]
fn what_is_written_beyond_the_page_cache_is_read_back() {
    let disk = Disk::builder().cocos(400 * MIB).build();
    let mut guest = Vm::of(&disk).memory("256M").boot();
    let span = pattern("/cocos/datasets/large", 0, 300 * MIB, false);
    guest.ask("pattern_write", span.clone());
    guest.ask("drop_caches", json!({}));
    assert_eq!(guest.ask("pattern_read", span), Value::Null);
    let tree = json!({ "dir": "/cocos/docker/tree", "files": 2000, "seed": 3 });
    guest.ask("fill", tree.clone());
    guest.ask("drop_caches", json!({}));
    guest.ask("fill_check", tree);
    assert_eq!(integrity_errors(&mut guest), 0);
    guest.power_off();
}

/// What an earlier boot left on the disk is rubbish under another key.
#[test]
fn a_disk_that_was_used_before_starts_anew() {
    let disk = Disk::builder().build();
    let boot = || {
        let mut guest = Vm::of(&disk).boot();
        let left = guest.ask("list", json!({ "path": "/cocos/datasets" }));
        assert_eq!(left, json!([]));
        guest.ask("pattern_write", pattern("/cocos/datasets/file", 0, 8 * MIB, false));
        guest.ask("drop_caches", json!({}));
        let span = pattern("/cocos/datasets/file", 0, 8 * MIB, false);
        assert_eq!(guest.ask("pattern_read", span), Value::Null);
        assert_eq!(integrity_errors(&mut guest), 0);
        let uuid = guest.report()["volume"]["uuid"].clone();
        guest.power_off();
        uuid
    };
    assert_ne!(boot(), boot());
}

/// The blocks of partition 4 in which nearly every byte differs, as in ciphertext written anew.
fn blocks_written_anew(before: &[u8], after: &[u8]) -> Vec<usize> {
    let pairs = before.chunks(BLOCK).zip(after.chunks(BLOCK));
    pairs
        .enumerate()
        .filter(|(_, (old, new))| old.iter().zip(*new).filter(|(a, b)| a != b).count() > BLOCK / 2)
        .map(|(index, _)| index)
        .collect()
}

#[test]
fn a_flipped_ciphertext_byte_is_an_io_error() {
    let disk = Disk::builder().build();
    let mut guest = Vm::of(&disk).boot();
    // Two blocks in the middle of the volume, which the file system has no use for yet.
    let (at, length) = (24 * MIB, 2 * BLOCK as u64);
    guest.ask("pattern_write", pattern(VOLUME, at, length, true));
    guest.ask("sync", json!({}));
    let partition = |disk: &Disk| {
        let size = usize::try_from(disk.size(Part::Cocos)).unwrap();
        disk.read(Part::Cocos, 0, size)
    };
    let before = partition(&disk);
    // The same plaintext again: another random IV makes another ciphertext.
    guest.ask("pattern_write", pattern(VOLUME, at, BLOCK as u64, true));
    let after = partition(&disk);
    let &[block] = blocks_written_anew(&before, &after).as_slice() else {
        panic!("one block of ciphertext was to change");
    };
    let place = block * BLOCK + 1234;
    disk.write(Part::Cocos, place as u64, &[after[place] ^ 1]);

    let first = guest.call("pattern_read", pattern(VOLUME, at, BLOCK as u64, true));
    assert_eq!(first.unwrap_err().errno, Some(EILSEQ));
    let first = guest.call("pattern_read", pattern(VOLUME, at, BLOCK as u64, false));
    assert_eq!(first.unwrap_err().errno, Some(EIO));
    assert!(integrity_errors(&mut guest) > 0);
    let second = pattern(VOLUME, at + BLOCK as u64, BLOCK as u64, true);
    assert_eq!(guest.ask("pattern_read", second), Value::Null);
    // Written anew it is whole again.
    guest.ask("pattern_write", pattern(VOLUME, at, BLOCK as u64, true));
    let first = pattern(VOLUME, at, BLOCK as u64, true);
    assert_eq!(guest.ask("pattern_read", first), Value::Null);
    guest.power_off();
}

/// A file system whose metadata lies on zeros and whose data on rubbish: whatever is read of it
/// without having been written shows.
fn format_before_rubbish(path: &Path, data: u64) {
    let options =
        Options { uuid: [0x42; 16], hash_seed: [0x24; 16], label: [0; 16], created: 1_700_000_000 };
    let layout = Layout::new(data, u64::MAX).unwrap();
    let file = File::create(path).unwrap();
    layout.write(&options, |offset, bytes| file.write_all_at(bytes, offset)).unwrap();
    let rubbish = vec![0xaa; usize::try_from(data).unwrap()];
    file.write_all_at(&rubbish, layout.metadata_bytes()).unwrap();
}

#[test]
fn the_kernel_fills_what_the_formatter_made_and_e2fsck_finds_it_clean() {
    let disk = Disk::builder().build();
    let scratch = Scratch::new("formatted");
    let formatted = scratch.join("ext4.img");
    format_before_rubbish(&formatted, 256 * MIB);
    let mut guest = Vm::of(&disk).disk_on(Bus::VirtioBlk, &formatted).boot();
    guest.ask("mkdir", json!({ "path": "/tmp/formatted" }));
    let mount = json!({
        "source": "/dev/vda", "target": "/tmp/formatted", "fstype": "ext4", "options": "",
    });
    let tree = json!({ "dir": "/tmp/formatted/tree", "files": 4000, "seed": 5 });
    guest.ask("mount", mount.clone());
    guest.ask("fill", tree.clone());
    guest.ask("umount", json!({ "target": "/tmp/formatted" }));
    guest.ask("mount", mount);
    guest.ask("fill_check", tree);
    guest.ask("umount", json!({ "target": "/tmp/formatted" }));
    guest.power_off();
    run(command("e2fsck").arg("-fn").arg(&formatted));
}
