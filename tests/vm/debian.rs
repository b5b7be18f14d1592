//! A real guest: Debian with systemd, udev and Docker as `scripts/boot` boots it, the agent one of
//! its services. What the boot has made must live on under a udev and a systemd that did not make
//! it.

use crate::kit::data::Data;
use crate::kit::guest::{Ending, Guest};
use crate::kit::images;
use crate::kit::tool::Scratch;
use crate::kit::vm::{Bus, Vm};
use serde_json::json;
use std::fs;
use std::time::{Duration, Instant};

/// systemd waits for 90 seconds at most before it takes drastic measures.
const POWER_OFF: Duration = Duration::from_secs(90);

/// What must be mounted, on top of everything else at its place: target, type, source, options
/// among others.
const MOUNTS: &[(&str, &str, &str, &str)] = &[
    ("/", "ext4", "/dev/mapper/root_verity", "ro"),
    ("/cocos", "ext4", "/dev/mapper/cocos_crypt", "rw"),
    ("/cocos_init", "ext4", "/dev/mapper/cocos_crypt", "rw"),
    ("/var/lib/containerd", "ext4", "/dev/mapper/cocos_crypt", "rw"),
    ("/var/lib/docker", "ext4", "/dev/mapper/cocos_crypt", "rw"),
    ("/tmp", "tmpfs", "tmpfs", "nosuid"),
    ("/var", "tmpfs", "tmpfs", "nosuid"),
    ("/etc/certs", "9p", "certs_share", "rw"),
    ("/etc/cocos", "9p", "env_share", "rw"),
    ("/run/cvm-init/data/models", "ext4", "/dev/mapper/data_models", "ro"),
];

/// The mappings by their names for other software.
const MAPPINGS: &[&str] =
    &["/dev/mapper/root_verity", "/dev/mapper/cocos_crypt", "/dev/mapper/data_models"];

/// Each may make udev and systemd look at all devices and mounts anew.
const DISTURBANCES: &[&str] = &[
    "udevadm trigger --action=change && udevadm settle",
    "udevadm trigger --action=add && udevadm settle",
    "systemctl daemon-reload",
    "udevadm trigger --action=change && udevadm settle",
    "udevadm trigger --action=add && udevadm settle",
    "systemctl daemon-reexec",
];

#[test]
fn a_debian_guest_keeps_what_the_boot_has_made() {
    let host = Scratch::new("debian");
    for share in ["certs", "env"] {
        fs::create_dir(host.join(share)).unwrap();
        fs::write(host.join(share).join("name"), share).unwrap();
    }
    let (image, data) = (images::debian_image(&host), Data::standard());
    let mut guest = Vm::new()
        .memory("2G")
        .disk_on(Bus::VirtioScsi, &image.disk)
        .disk_on(Bus::VirtioBlk, data.path())
        .read_only()
        .append(&image.cmdline)
        .append(&data.word("models", "disk1"))
        .share("certs_share", &host.join("certs"))
        .share("env_share", &host.join("env"))
        .boot();

    run(&mut guest, "systemctl is-system-running --wait");
    check_devices_and_mounts(&mut guest, "the boot");
    for disturbance in DISTURBANCES {
        run(&mut guest, disturbance);
        check_devices_and_mounts(&mut guest, disturbance);
    }
    check_loop_devices(&mut guest);
    check_that_cryptsetup_refuses(&mut guest);
    assert_eq!(guest.read("/etc/certs/name"), "certs");
    assert_eq!(guest.read("/etc/cocos/name"), "env");
    assert_eq!(guest.read("/run/cvm-init/data/models/name"), "standard");

    // Probes of the whole volume, of which most was never written and cannot be read.
    let probe = run(&mut guest, "blkid -p -o value -s TYPE /dev/mapper/cocos_crypt");
    assert_eq!(probe, "ext4\n");
    assert_eq!(run(&mut guest, "/usr/lib/demo/container"), "overlay / overlay\n");

    // Asked last: what fails again and again is not yet failed when the boot is over.
    assert_eq!(run(&mut guest, "systemctl --failed --plain --no-legend"), "");
    assert_eq!(run(&mut guest, "systemctl is-active multi-user.target"), "active\n");
    assert_eq!(run(&mut guest, "systemctl is-system-running"), "running\n");
    let log = run(&mut guest, "dmesg");
    assert!(!log.contains("INTEGRITY"), "{log}");
    eprintln!("{}", run(&mut guest, "systemd-analyze time"));

    // Answered before the agent is stopped with the rest.
    run(&mut guest, "systemctl poweroff --no-block");
    let start = Instant::now();
    assert_eq!(guest.wait_ending(POWER_OFF), Ending::PowerOff);
    eprintln!("power off took {:.1} s", start.elapsed().as_secs_f32());
}

/// What a command that succeeds writes to standard output.
#[track_caller]
pub(crate) fn run(guest: &mut Guest, command: &str) -> String {
    let output = guest.ask("run", json!({ "command": command }));
    assert_eq!(output["status"], 0, "{command}: {output}");
    output["stdout"].as_str().unwrap().to_owned()
}

#[track_caller]
fn check_devices_and_mounts(guest: &mut Guest, after: &str) {
    let table = guest.ask("mounts", json!({}));
    let table = table.as_array().unwrap();
    for (target, fstype, source, option) in MOUNTS {
        let top = table
            .iter()
            .rfind(|mount| mount["target"] == *target)
            .unwrap_or_else(|| panic!("{target} is not mounted after {after}"));
        assert_eq!(
            (&top["fstype"], &top["source"]),
            (&json!(fstype), &json!(source)),
            "{target} after {after}"
        );
        let options = top["options"].as_str().unwrap();
        assert!(
            options.split(',').any(|given| given == *option),
            "{target} has {options} after {after}"
        );
    }
    for node in MAPPINGS {
        // Fails without the node.
        let properties = run(guest, &format!("udevadm info --query=property --name={node}"));
        assert!(!properties.contains("SYSTEMD_READY=0"), "{node} after {after}: {properties}");
    }
    // The device of the tags: udev makes no node anew, and its links lead nowhere.
    run(guest, "test -e /sys/block/loop0/loop && test ! -b /dev/loop0 && test ! -b /dev/block/7:0");
}

/// The device of the tags is in nobody's way, and nobody's tool takes it away.
fn check_loop_devices(guest: &mut Guest) {
    let other = run(guest, "losetup --find --show /usr/lib/agent/volume");
    assert!(other.starts_with("/dev/loop") && other != "/dev/loop0\n", "{other}");
    run(guest, &format!("blkid -p {other}"));
    run(guest, "losetup --detach-all");
    run(guest, "test -e /sys/block/loop0/loop");
    run(guest, "echo written >/cocos/written && sync && echo 3 >/proc/sys/vm/drop_caches");
    assert_eq!(guest.read("/cocos/written"), "written\n");
}

/// A volume whose tags are not on its disk is opened by nobody who does not know that.
fn check_that_cryptsetup_refuses(guest: &mut Guest) {
    let header = run(guest, "udevadm info --query=property --name=/dev/sda4");
    assert!(header.contains("ID_FS_TYPE=crypto_LUKS\n"), "{header}");
    let command = "cd /usr/lib/agent && LD_LIBRARY_PATH=. ./cryptsetup open --key-size 256 \
                   --volume-key-file key volume other";
    let refused = guest.ask("run", json!({ "command": command }));
    assert_ne!(refused["status"], 0, "{refused}");
    let reason = refused["stderr"].as_str().unwrap();
    assert!(reason.contains("Unmet LUKS2 requirements detected"), "{reason}");
}

#[test]
#[ignore = "scripts/test --all"]
fn a_debian_guest_without_shares_misses_nothing() {
    let scratch = Scratch::new("debian");
    let image = images::debian_image(&scratch);
    let mut guest =
        Vm::new().memory("2G").disk_on(Bus::VirtioScsi, &image.disk).append(&image.cmdline).boot();
    assert_eq!(run(&mut guest, "systemctl is-system-running --wait"), "running\n");
}

/// Imports an image into containerd as a user does who has no registry, and finds every byte of it
/// on the volume.
#[test]
fn an_imported_image_is_on_the_volume() {
    let scratch = Scratch::new("containerd");
    let image = images::debian_image_with_tools(&scratch, "1G");
    let mut guest =
        Vm::new().memory("2G").disk_on(Bus::VirtioScsi, &image.disk).append(&image.cmdline).boot();
    guest.ask("run", json!({ "command": "systemctl is-system-running --wait" }));
    // `docker save` writes what containerd imports.
    run(&mut guest, "tar -c -C / usr/bin/busybox | docker import - tiny");
    run(&mut guest, "docker save tiny | ctr images import -");
    let images = run(&mut guest, "ctr images list -q");
    assert_eq!(images, "docker.io/library/tiny:latest\n");
    // Each is called by its digest. What no image needs is collected meanwhile, some before it is read.
    let blobs = "/cocos/containerd/io.containerd.content.v1.content/blobs/sha256";
    let sums = run(&mut guest, &format!("sha256sum {blobs}/* 2>/dev/null || true"));
    let stored: Vec<_> = sums.lines().map(|line| line.split_once("  ").unwrap()).collect();
    assert!(stored.len() >= 3, "manifest, configuration and layer: {sums}");
    for (digest, file) in stored {
        assert_eq!(file, format!("{blobs}/{digest}"));
    }
    // The layer's file, as the snapshot has it unpacked.
    let unpacked = run(
        &mut guest,
        "cmp /usr/bin/busybox \
         /cocos/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/*/fs/usr/bin/busybox",
    );
    assert_eq!(unpacked, "");
    // Below what is mounted on it, the tmpfs has an empty directory.
    let beneath = "mount --bind /var /mnt && find /mnt/lib/containerd /mnt/lib/docker -mindepth 1";
    assert_eq!(run(&mut guest, beneath), "");
}
