//! The disk that what is written above layers goes to.

use crate::kit::artefacts::initramfs_of_layers;
use crate::kit::guest::Guest;
use crate::kit::kernel::Kernel;
use crate::kit::layer::{image, word};
use crate::kit::tool::Scratch;
use crate::layers::{ENGINE, MIB, with_cow, with_layers};
use crate::volume_disk::blank;
use serde_json::{Value, json};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;

const EILSEQ: i32 = 84;

/// What was written to the image lies on a disk of the host's, which puts all of it back to what it was.
#[test]
fn what_the_host_puts_back_is_an_io_error() {
    let scratch = Scratch::new("replay");
    let layers: Vec<_> = image().iter().collect();
    let cow = blank(scratch.path(), "cow", 64 * MIB);
    let mut guest = with_cow(with_layers(&layers), &cow)
        .initramfs(initramfs_of_layers(Kernel::RUNNING, ""))
        .append(&format!("{ENGINE} {}", word(&layers)))
        .boot();
    // Over a file of a layer, whose copy is on the disk then.
    let block = |seed: u64| json!({ "path": "/etc/changed", "offset": 0, "bytes": 1 << 16, "seed": seed, "direct": true });
    let write = |guest: &mut Guest, seed: u64| {
        guest.ask("pattern_write", block(seed));
        guest.ask("sync", json!({}));
        guest.ask("flush", json!({ "path": "/dev/mapper/cocos_crypt" }));
    };
    write(&mut guest, 1);
    let old = fs::read(&cow).unwrap();
    write(&mut guest, 2);
    assert!(fs::read(&cow).unwrap() != old, "nothing was written");
    assert_eq!(guest.ask("pattern_read", block(2)), Value::Null);
    OpenOptions::new().write(true).open(&cow).unwrap().write_all_at(&old, 0).unwrap();
    assert_eq!(guest.call("pattern_read", block(2)).unwrap_err().errno, Some(EILSEQ));
    guest.power_off();
}
