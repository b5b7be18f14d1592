//! The machine that the host makes for the guest, and what it becomes while it runs: its clock, its
//! processor, its firmware's tables, and what is plugged in.

use crate::good::{TMP_LINE, check_fstab, mounts};
use crate::kit::disk::{Disk, Part};
use crate::kit::guest::{Ending, Guest};
use crate::kit::served::{Hold, Lie, On, Served};
use crate::kit::tool::Scratch;
use crate::kit::vm::{Bus, PROCESSOR, Vm};
use crate::kit::volume_check;
use serde_json::{Value, json};
use std::fs;
use std::time::{Duration, Instant};

/// The beginning of a warning.
const NO_AES: &str = "cvm-init: the processor has no instructions for AES, or the host hides them";

const LIMIT: Duration = Duration::from_secs(120);

/// Writes to the volume and reads it back from the disk.
#[track_caller]
fn check_volume(guest: &mut Guest) {
    let pattern = json!({
        "path": "/cocos/pattern", "offset": 0, "bytes": 4 << 20, "seed": 1, "direct": false,
    });
    guest.ask("pattern_write", pattern.clone());
    guest.ask("drop_caches", json!({}));
    assert_eq!(guest.ask("pattern_read", pattern), Value::Null);
    assert_eq!(volume_check::complaints(guest), [""; 0]);
}

/// Before all certificates, over the end of the signed 32-bit times while the machine runs, and as
/// late as QEMU's clock can say (2106 comes out as 2069); `ext4` goes on with it.
#[test]
fn a_clock_that_is_wrong_changes_nothing() {
    let disk = Disk::builder().root(volume_check::root()).build();
    for time in ["1970-01-01T00:00:00", "2038-01-19T03:14:03", "2069-06-01T00:00:00"] {
        let mut guest = Vm::of(&disk).qemu(&["-rtc", &format!("base={time}")]).boot();
        let now = volume_check::run(&mut guest, "date +%Y-%m-%dT");
        assert!(time.starts_with(now.trim()), "{time}: {now}");
        check_volume(&mut guest);
        volume_check::check(&mut guest);
        guest.power_off();
    }
}

#[test]
fn a_processor_with_random_numbers_and_aes_gives_both() {
    let disk = Disk::builder().build();
    let mut guest = Vm::of(&disk).boot();
    let processor = &guest.report()["processor"];
    // The emulated one has no RDSEED.
    assert!([json!("rdseed"), json!("rdrand")].contains(&processor["random_numbers"]));
    assert_eq!((&processor["aes"], &processor["memory_encryption"]), (&json!(true), &Value::Null));
    assert!(!guest.serial().contains(NO_AES), "{}", guest.serial());
    guest.power_off();
}

/// Nothing keeps the memory of this guest from the host, so its key needs no numbers of the
/// processor's.
#[test]
fn a_processor_without_random_numbers_and_aes_boots_and_is_named() {
    let disk = Disk::builder().build();
    let less = || Vm::of(&disk).processor(&format!("{PROCESSOR},-rdrand,-rdseed,-aes"));
    let facts = json!({ "aes": false, "memory_encryption": null, "random_numbers": null });
    let mut guest = less().boot();
    assert_eq!(guest.report()["processor"], facts);
    assert!(guest.serial().contains(NO_AES), "{}", guest.serial());
    check_volume(&mut guest);
    guest.power_off();
    drop(guest);

    let archive = crate::kit::artefacts::initramfs_of(crate::kit::kernel::Kernel::RUNNING, CHACHA);
    let chacha = format!("cvm.cipher={CHACHA}");
    let mut guest = less().initramfs(archive).append(&chacha).boot();
    assert_eq!(guest.report()["processor"], facts);
    assert!(!guest.serial().contains(NO_AES), "{}", guest.serial());
    guest.power_off();
}

const CHACHA: &str = "chacha20-random";

/// The body of a table with code of the host's:
///
/// ```text
/// Device (\_SB.HOST) { Name (_HID, "CVM0001") Method (_STA) { Return (0x0B) } }
/// ```
///
/// ACPI specification, 20.2 (AML Grammar Definition).
const AML: &[u8] = b"\x5b\x82\x23\x5c\x2e_SB_HOST\
                     \x08_HID\x0dCVM0001\0\
                     \x14\x09_STA\0\xa4\x0a\x0b";

/// The limit: the kernel runs the code. It is no command to this program, and a table that is none
/// harms nobody.
#[test]
fn tables_of_the_hosts_firmware_are_run_by_the_kernel_and_obeyed_by_nobody_else() {
    let disk = Disk::builder().build();
    let scratch = Scratch::new("acpi");
    let (code, noise) = (scratch.join("code"), scratch.join("noise"));
    fs::write(&code, AML).unwrap();
    fs::write(&noise, [0xa5; 4096]).unwrap();
    let table = |file: &std::path::Path| format!("sig=SSDT,rev=2,data={}", file.display());
    let words = ["-acpitable", &table(&code), "-acpitable", &table(&noise)];
    let mut guest = Vm::of(&disk).qemu(&words).boot();
    assert_eq!(guest.read("/sys/bus/acpi/devices/CVM0001:00/status"), "11\n");
    check_volume(&mut guest);
    guest.power_off();
}

/// What was looked at stays what is used, though another disk calls itself the same and holds the
/// same.
#[test]
fn a_disk_of_the_same_serial_that_comes_during_the_boot_is_not_used() {
    let disk = Disk::builder().build();
    let hold = Hold::new();
    let served =
        Served::lying(&disk, vec![Lie::on(On::Read, disk.place(Part::Root, 0)).holds(&hold)]);
    let other = Disk::builder().build();
    let mut guest = Vm::new()
        .disk_served(&served)
        .disk_not_plugged_in(&other)
        .append(&format!("roothash={} cvm.disk=serial:disk0", disk.roothash))
        .boot();
    let request = hold.wait();
    guest.plug_in_as(1, "disk0");
    drop(request);
    let report = guest.report();
    assert_eq!(report["disk"]["name"], "sda");
    assert_eq!(report["volume"]["partition"], "sda4");
    assert!(guest.read("/proc/partitions").contains(" sdb4\n"));
    check_volume(&mut guest);
    guest.power_off();
    drop(guest);
    let untouched = other.read(Part::Cocos, 0, 1 << 20);
    assert!(untouched.iter().all(|&byte| byte == 0), "the other disk was written to");
}

#[test]
fn a_disk_of_the_same_serial_that_comes_after_the_boot_is_not_used() {
    let (disk, other) = (Disk::builder().build(), Disk::builder().build());
    let mut guest = Vm::of(&disk).disk_not_plugged_in(&other).boot();
    let mappings = guest.ask("dm", json!({}));
    guest.plug_in_as(1, "disk0");
    let start = Instant::now();
    while !guest.read("/proc/partitions").contains(" sdb4\n") {
        assert!(start.elapsed() < LIMIT, "the other disk does not come");
    }
    check_volume(&mut guest);
    let now = guest.ask("dm", json!({}));
    for (was, is) in mappings.as_array().unwrap().iter().zip(now.as_array().unwrap()) {
        assert_eq!((&was["name"], &was["table"]), (&is["name"], &is["table"]));
    }
    guest.power_off();
    drop(guest);
    let untouched = other.read(Part::Cocos, 0, 1 << 20);
    assert!(untouched.iter().all(|&byte| byte == 0), "the other disk was written to");
}

/// The new fstab has no line for it, so that nobody mounts it but who means to.
#[test]
fn a_share_that_comes_after_the_boot_stays_away() {
    let disk = Disk::builder().root(volume_check::root()).build();
    let host = Scratch::new("late");
    let export = format!("local,id=late,path={},security_model=none", host.path().display());
    let port = "pcie-root-port,id=late-port,chassis=1,slot=1";
    // One that nobody asks for, so that the kernel has a driver for the other.
    let vm = Vm::of(&disk).share("unasked", host.path());
    let mut guest = vm.qemu(&["-fsdev", &export, "-device", port]).boot();
    let before = mounts(&mut guest);
    let late = json!({
        "driver": "virtio-9p-pci", "bus": "late-port", "fsdev": "late", "mount_tag": "env_share",
    });
    guest.qmp_with("device_add", &late);
    let start = Instant::now();
    let tag = "cat /sys/bus/virtio/drivers/9pnet_virtio/*/mount_tag";
    let shown = |guest: &mut Guest| guest.ask("run", json!({ "command": tag }))["stdout"].take();
    while !shown(&mut guest).as_str().unwrap_or_default().contains("env_share\0") {
        assert!(start.elapsed() < LIMIT, "the share does not come");
    }
    check_fstab(&mut guest, &[TMP_LINE]);
    volume_check::run(&mut guest, "busybox mount -a -t 9p");
    assert_eq!(mounts(&mut guest), before);
    // It is there, for who means to have it.
    guest.ask(
        "mount",
        json!({ "source": "env_share", "target": "/etc/cocos", "fstype": "9p", "options": "" }),
    );
    guest.power_off();
}

/// Each change of the disk's size is an event by which PID 1 looks at the disks again.
#[test]
fn a_disk_that_changes_without_end_ends_the_boot_and_not_the_memory() {
    let disk = Disk::builder().build();
    let other = "5a".repeat(32);
    let mut guest = Vm::new()
        .disk_on(Bus::VirtioBlk, disk.path())
        .memory("256M")
        .append(&format!("roothash={other} cvm.timeout=20 cvm.log=warn"))
        .boot();
    let size = disk.path().metadata().unwrap().len();
    let mut changes = 0_u64;
    while guest.ending().is_none() && !guest.serial().contains("FATAL") {
        changes += 1;
        let size = size + changes % 2 * (1 << 20);
        guest.qmp_with("block_resize", &json!({ "device": "disk0", "size": size }));
    }
    assert_eq!(guest.wait_ending(LIMIT), Ending::PowerOff);
    println!("{changes} changes");
    assert!(changes > 1000, "{changes} changes are no storm");
    let line = guest.fatal_line();
    assert!(line.starts_with("disk: ") && line.contains("within 20 s"), "{line}");
    let serial = guest.serial();
    for word in ["Out of memory", "oom-kill", "Kernel panic"] {
        assert!(!serial.contains(word), "{word}");
    }
}
