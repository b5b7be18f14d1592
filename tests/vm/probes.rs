//! Programs that look at every block device for what may be on it. They must find ext4 and read no
//! block that was never written: the volume is still nearly all of such.

use crate::kit::guest::Guest;
use crate::kit::images;
use crate::kit::tool::Scratch;
use crate::kit::vm::{Bus, Vm};
use crate::kit::volume_check::{self, VOLUME, complaints};
use serde_json::json;
use std::time::Duration;

/// A command, and the statuses with which it ends well: some have one for "nothing of mine".
const PROBES: [(&str, &[i64]); 19] = [
    ("mdadm --examine VOLUME", &[0, 1]),
    ("mdadm --query VOLUME", &[0]),
    ("mdadm --assemble --scan", &[0, 1, 2]),
    ("pvs --all", &[0]),
    ("pvck VOLUME", &[5]),
    ("vgscan", &[0]),
    ("pvscan --cache", &[0]),
    ("lvmdiskscan", &[0]),
    ("btrfs filesystem show VOLUME", &[1]),
    ("btrfs filesystem show --all-devices", &[0]),
    // Without the module there is nobody to tell of what it found, which is nothing.
    ("btrfs device scan", &[0, 1]),
    ("multipath -c VOLUME", &[1]),
    ("multipath -v3 -d", &[0, 1]),
    ("blkid -p VOLUME", &[0]),
    ("parted --script VOLUME print", &[0]),
    ("wipefs VOLUME", &[0]),
    ("lsblk --fs", &[0]),
    ("dmsetup ls --tree", &[0]),
    ("udevadm trigger --settle --subsystem-match=block", &[0]),
];

fn probe(guest: &mut Guest, when: &str) {
    for (command, statuses) in PROBES {
        let command = command.replace("VOLUME", VOLUME);
        let output = guest.ask("run", json!({ "command": command }));
        let status = output["status"].as_i64().expect("it ends");
        assert!(statuses.contains(&status), "{command}, {when}: {output}");
        assert_eq!(complaints(guest), [""; 0], "{command}, {when}");
    }
}

fn boot(image: &images::Image) -> Guest {
    let disk = &image.disk;
    let mut guest =
        Vm::new().memory("2G").disk_on(Bus::VirtioScsi, disk).append(&image.cmdline).boot();
    // However many of the services find nothing to do.
    guest.ask("run", json!({ "command": "systemctl is-system-running --wait" }));
    guest
}

#[test]
fn probes_of_other_software_find_ext4_and_no_fault() {
    let scratch = Scratch::new("probes");
    let image = images::debian_image_with_tools(&scratch, "1G");
    let mut guest = boot(&image);
    // Those that udev's rules have made of it already.
    assert_eq!(complaints(&mut guest), [""; 0]);
    probe(&mut guest, "right after the boot");
    let crowd = json!({ "dir": "/cocos/crowd", "writers": 8, "pieces": 20, "seed": 1 });
    guest.ask("writers", crowd.clone());
    guest.ask("drop_caches", json!({}));
    probe(&mut guest, "with files");
    guest.ask("writers_check", crowd);

    check_that_others_mappings_are_left_alone(&mut guest);

    let found = volume_check::run(&mut guest, &format!("blkid -p -o value -s TYPE {VOLUME}"));
    assert_eq!(found, "ext4\n");
    let wiped = volume_check::run(&mut guest, &format!("wipefs --noheadings -O TYPE {VOLUME}"));
    assert_eq!(wiped, "ext4\n", "nothing else is found");
    let tree = volume_check::run(&mut guest, "dmsetup ls --tree");
    eprintln!("{tree}{}", volume_check::run(&mut guest, "lsblk"));
    let top = tree.lines().position(|line| line.starts_with("cocos_crypt "));
    assert!(top.is_some(), "{tree}");
}

/// udev takes a mapping that somebody makes later as ready when whoever makes it says so, and ours
/// without that.
#[track_caller]
fn check_that_others_mappings_are_left_alone(guest: &mut Guest) {
    // The kernel shows it to udev as soon as it has a table; whoever makes it has not resumed it yet.
    let made = "dmsetup create --notable foreign && dmsetup load foreign --table '0 8 error'";
    volume_check::run(guest, &format!("{made} && udevadm settle"));
    let mut taken_as_ready = |name: &str| {
        let node = format!("/dev/$(dmsetup info -c --noheadings -o blkdevname {name})");
        let query = format!("udevadm info --query=property --name={node}");
        volume_check::run(guest, &query).contains("DM_UDEV_PRIMARY_SOURCE_FLAG=1\n")
    };
    assert!(!taken_as_ready("foreign"));
    assert!(taken_as_ready("cocos_crypt"));
    volume_check::run(guest, "dmsetup remove foreign");
}

/// Of the file-system stressors, with what they write in bounds, for a volume of 8 GiB. All at the
/// same time.
const STRESS: &str = "mkdir /cocos/stress && cd /cocos/stress && stress-ng \
    --temp-path /cocos/stress --timeout 10m --verify --metrics-brief \
    --access 1 --aio 1 --aiol 1 --chmod 1 --chown 1 --copy-file 1 --copy-file-bytes 128m \
    --dentry 1 --dir 1 --dirdeep 1 --dirmany 1 --fallocate 1 --fallocate-bytes 128m --fiemap 1 \
    --fiemap-bytes 64m --filename 1 --flock 1 --fpunch 1 --getdent 1 --hdd 2 --hdd-bytes 256m \
    --io 1 --iomix 1 --iomix-bytes 128m --lease 1 --link 1 --locka 1 --lockf 1 --mmap 1 \
    --mmap-bytes 64m --mmap-file --open 1 --readahead 1 --readahead-bytes 64m --rename 2 \
    --revio 1 --revio-bytes 64m --seek 1 --seek-size 64m --sendfile 1 --symlink 1 --sync-file 1 \
    --sync-file-bytes 64m --touch 1 --utime 1 --xattr 1";

/// Ten minutes, and what the stressors take to end on an emulated machine.
const STRESSED: Duration = Duration::from_secs(1800);

#[test]
#[ignore = "scripts/test --all"]
fn stress_ng_finds_no_fault() {
    let scratch = Scratch::new("stress");
    let image = images::debian_image_with_tools(&scratch, "8G");
    let mut guest = boot(&image);
    let request = json!({ "command": STRESS });
    let output = volume_check::ask_within(STRESSED, &mut guest, "run", request);
    eprintln!("{}{}", output["stdout"].as_str().unwrap(), output["stderr"].as_str().unwrap());
    assert_eq!(output["status"], 0, "kernel log: {:?}", complaints(&mut guest));
    // Who has files of the volume open.
    volume_check::run(&mut guest, "systemctl stop docker.socket docker containerd");
    volume_check::check(&mut guest);
}
