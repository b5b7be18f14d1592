//! Docker's overlay workload on little memory: the layers of an image of some thousand files are
//! unpacked below /var/lib/docker, read back, and the file system beneath is checked.

use crate::kit::artefacts;
use crate::kit::disk::Disk;
use crate::kit::guest::Guest;
use crate::kit::vm::Vm;
use crate::kit::volume_check;
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

const MEMORY: &str = "256M";

/// Its tags may take 35 MiB and its metadata 15, and a quarter of [`MEMORY`] is little more.
const COCOS: u64 = 5 << 30;

const LOWER: &str = "/var/lib/docker/lower";
const UPPER: &str = "/var/lib/docker/upper";
const WORK: &str = "/var/lib/docker/work";
const MERGED: &str = "/var/lib/docker/merged";

/// The image: a layer that is there, and what the overlay makes of it and puts beside it.
struct Image {
    base: Value,
    altered: Value,
    added: Value,
    large: Value,
}

impl Image {
    fn new() -> Self {
        let [base, altered, added, large] =
            [(LOWER, "base"), (MERGED, "base"), (MERGED, "added"), (MERGED, "large")]
                .map(|(layer, name)| format!("{layer}/{name}"));
        Self {
            base: json!({ "dir": base, "files": 3000, "seed": 11 }),
            altered: json!({ "dir": altered, "files": 3000, "seed": 11, "altered": true }),
            added: json!({ "dir": added, "files": 2500, "seed": 12 }),
            large: json!({ "path": large, "offset": 0, "bytes": 100 * MIB, "seed": 13 }),
        }
    }

    fn unpack(&self, guest: &mut Guest) {
        for dir in [LOWER, UPPER, WORK, MERGED] {
            guest.ask("mkdir", json!({ "path": dir }));
        }
        guest.ask("fill", self.base.clone());
        guest.ask("mount", overlay());
        guest.ask("alter", self.altered.clone());
        guest.ask("fill", self.added.clone());
        guest.ask("pattern_write", self.large.clone());
    }

    fn check(&self, guest: &mut Guest) {
        guest.ask("fill_check", self.altered.clone());
        guest.ask("fill_check", self.added.clone());
        assert_eq!(guest.ask("pattern_read", self.large.clone()), Value::Null);
    }
}

fn overlay() -> Value {
    // Without redirect_dir= a directory of the lower layer cannot be renamed.
    let options = format!("lowerdir={LOWER},upperdir={UPPER},workdir={WORK},redirect_dir=on");
    json!({ "source": "overlay", "target": MERGED, "fstype": "overlay", "options": options })
}

/// That the layers are those of an overlay: what stands for a file that is gone, for a directory
/// made anew and for one that was renamed.
fn assert_layered(guest: &mut Guest) {
    let mut upper =
        |name: &str| guest.ask("stat", json!({ "path": format!("{UPPER}/base/{name}") }));
    let whiteout = upper("5");
    assert_eq!([&whiteout["type"], &whiteout["rdev"]], ["character", "0:0"]);
    assert_eq!(upper("3")["xattrs"]["trusted.overlay.opaque"], "y");
    assert_eq!(upper("5-renamed")["xattrs"]["trusted.overlay.redirect"], "5");
}

/// Pages that the kernel took back because it was short of them.
fn reclaimed_pages(guest: &mut Guest) -> u64 {
    let counters = guest.read("/proc/vmstat");
    let fields = counters.lines().filter_map(|line| line.split_once(' '));
    fields
        .filter(|(name, _)| ["pgsteal_kswapd", "pgsteal_direct"].contains(name))
        .map(|(_, value)| value.parse::<u64>().unwrap())
        .sum()
}

/// Boots, unpacks the image, reads it back and has the file system checked.
fn unpacks_an_image(tags: &str) {
    let disk = Disk::builder().root(volume_check::root()).cocos(COCOS).build();
    let mut guest = Vm::of(&disk)
        .memory(MEMORY)
        .initramfs(artefacts::initramfs_with_overlay())
        .append(&format!("cvm.tags={tags}"))
        .boot();
    assert_eq!(guest.report()["volume"]["tags"], tags);
    let image = Image::new();
    image.unpack(&mut guest);
    assert!(reclaimed_pages(&mut guest) > 0, "the guest has more memory than the image needs");
    assert_layered(&mut guest);
    guest.ask("drop_caches", json!({}));
    image.check(&mut guest);
    volume_check::check(&mut guest);
    guest.power_off();
}

#[test]
fn an_image_is_unpacked_on_little_memory() {
    unpacks_an_image("memory");
}

#[test]
#[ignore = "scripts/test --all"]
fn an_image_is_unpacked_on_little_memory_with_tags_on_the_disk() {
    unpacks_an_image("disk");
}
