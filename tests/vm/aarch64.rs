//! What differs on aarch64: the processor's instructions and the way to a powered-off machine. That all
//! of a boot is there is in `good`.

use crate::kit::disk::{Disk, Part};
use crate::kit::kernel::{Arch, Kernel};
use crate::kit::root::Root;
use crate::kit::vm::Vm;
use crate::kit::volume_check::{ask, complaints};
use crate::refused::refusal;
use serde_json::json;

/// The driver of an algorithm that has the most users, as /proc/crypto names it.
fn driver(crypto: &str, algorithm: &str) -> String {
    let field = |entry: &str, name: &str| {
        let line = entry.lines().find(|line| line.split(':').next().unwrap().trim() == name);
        line.map(|line| line.split_once(':').unwrap().1.trim().to_owned())
    };
    let users = |entry: &&str| -> u32 { field(entry, "refcnt").unwrap().parse().unwrap() };
    let entries = crypto.split("\n\n").filter(|it| field(it, "name").as_deref() == Some(algorithm));
    let used = entries.max_by_key(users).unwrap_or_else(|| panic!("no {algorithm} in {crypto}"));
    field(used, "driver").unwrap()
}

/// Root and volume use the processor's own AES, GHASH and SHA-256, and many writers find the volume
/// whole.
#[test]
fn sixteen_writers_on_four_processors() {
    let kernel = Kernel { suite: Some("trixie"), ..Kernel::ARM };
    let root = Root::standard_of(Arch::Arm);
    let disk = Disk::builder().root(root).cocos(2 << 30).build();
    let mut guest = Vm::of(&disk).kernel(kernel).processors(4).boot();
    let crypto = guest.read("/proc/crypto");
    assert_eq!(driver(&crypto, "gcm(aes)"), "gcm-aes-ce");
    let log = guest.ask("kmsg", json!({}));
    let mut lines = log.as_array().unwrap().iter().map(|line| line["text"].as_str().unwrap());
    let verity = lines.find(|line| line.contains("verity: sha256 using")).unwrap();
    assert!(verity.ends_with("\"sha256-ce\""), "{verity}");

    let crowd = |round: u64| json!({ "dir": format!("/cocos/datasets/{round}"), "writers": 16, "pieces": 24, "seed": round });
    ask(&mut guest, "writers", crowd(0));
    ask(&mut guest, "writers", crowd(1));
    guest.ask("drop_caches", json!({}));
    ask(&mut guest, "writers_check", crowd(0));
    ask(&mut guest, "writers_check", crowd(1));
    assert_eq!(complaints(&mut guest), [""; 0]);
    guest.power_off();
}

#[test]
#[ignore = "scripts/test --all"]
fn a_hash_tree_that_is_damaged_at_the_top() {
    let root = Root::standard_of(Arch::Arm);
    let disk = Disk::builder().root(root).patch(Part::Verity, 4096, &[0xff; 16]).build();
    let reason = refusal(Vm::of(&disk).kernel(Kernel::ARM).append("cvm.disk=/dev/sda"));
    let expected = "disk: sda: the top hash block does not match the root hash: its digest is ";
    assert!(reason.starts_with(expected), "{reason}");
}
