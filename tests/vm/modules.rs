//! Kernel modules: which are loaded, for whom the boot waits, and what is said of those that are broken.

use crate::kit::artefacts;
use crate::kit::disk::Disk;
use crate::kit::kernel::Kernel;
use crate::kit::tool::Scratch;
use crate::kit::vm::{Bus, Vm};
use crate::refused::{refusal, refusal_that_writes_nothing};
use serde_json::{Value, json};
use std::time::Duration;

/// The modules that a boot has loaded, by their names.
fn loaded(report: &Value) -> Vec<String> {
    let ids = report["effects"].as_array().unwrap().iter().map(|e| e["id"].as_str().unwrap());
    let files = ids.filter_map(|id| id.strip_prefix("load:/modules/")?.strip_suffix(".ko"));
    files.map(|file| file.split_once('-').unwrap().1.to_owned()).collect()
}

/// Says which of `names` a boot loads.
#[track_caller]
fn loaded_of<'a>(vm: Vm, names: &[&'a str]) -> Vec<&'a str> {
    let mut guest = vm.boot();
    let loaded = loaded(&guest.report());
    guest.power_off();
    names.iter().copied().filter(|name| loaded.iter().any(|other| other == name)).collect()
}

/// Drivers of disks and of shares.
const DRIVERS: &[&str] = &[
    "virtio_pci",
    "virtio_scsi",
    "sd_mod",
    "virtio_blk",
    "nvme",
    "nvme_core",
    "9p",
    "9pnet_virtio",
];

#[test]
fn only_drivers_of_devices_that_are_there_are_loaded() {
    let disk = Disk::builder().build();
    let scsi = ["virtio_pci", "virtio_scsi", "sd_mod"];
    assert_eq!(loaded_of(Vm::of(&disk), DRIVERS), scsi);
    let nvme = Vm::new().disk_on(Bus::Nvme, disk.path()).words_of(&disk);
    let drivers = loaded_of(nvme, DRIVERS);
    assert!(!drivers.contains(&"virtio_blk") && !drivers.contains(&"9p"), "{drivers:?}");
    assert!(drivers.contains(&"nvme") && drivers.contains(&"nvme_core"), "{drivers:?}");
    let host = Scratch::new("shares");
    let shares = Vm::of(&disk).share("certs_share", host.path());
    assert_eq!(loaded_of(shares, DRIVERS), [&scsi[..], &["9p", "9pnet_virtio"]].concat());
}

#[test]
fn a_driver_is_loaded_when_its_device_is_plugged_in() {
    let disk = Disk::builder().build();
    let mut guest = Vm::new()
        .qemu(&["-device", "pcie-root-port,id=late,chassis=9"])
        .disk_on(Bus::Nvme, disk.path())
        .not_plugged_in()
        .words_of(&disk)
        .append("cvm.timeout=100")
        .boot();
    guest.wait_serial("kernel modules", Duration::from_secs(100));
    let late = json!({ "driver": "nvme", "bus": "late", "drive": "disk0", "serial": "disk0" });
    guest.qmp_with("device_add", &late);
    let report = guest.report();
    assert_eq!(report["disk"]["name"], "nvme0n1");
    let loaded = loaded(&report);
    assert!(loaded.iter().any(|name| name == "nvme"), "{loaded:?}");
    guest.power_off();
}

/// Of the ciphers that are packed, only what the command line asks for is loaded.
#[test]
fn only_modules_of_the_cipher_asked_for_are_loaded() {
    let disk = Disk::builder().build();
    let both = artefacts::initramfs_of_ciphers(&["aes-gcm-random", "chacha20-random"]);
    let names = ["gcm", "aesni_intel", "chacha20poly1305", "poly1305_generic"];
    let of = |words| loaded_of(Vm::of(&disk).initramfs(both.clone()).append(words), &names);
    assert_eq!(of(""), ["gcm", "aesni_intel"]);
    assert_eq!(of("cvm.cipher=chacha20-random"), ["chacha20poly1305", "poly1305_generic"]);
}

#[test]
fn words_of_the_command_line_reach_their_module() {
    let disk = Disk::builder().build();
    let mut guest = Vm::of(&disk).append("loop.max_loop=3 dm-crypt.max_read_size=65536").boot();
    assert_eq!(guest.read("/sys/module/loop/parameters/max_loop"), "3\n");
    guest.power_off();
    drop(guest);
    let vm = Vm::of(&disk).append("loop.max_loop=three");
    assert!(
        refusal(vm).ends_with("-loop.ko: Invalid argument (os error 22)"),
        "a value that is none is told"
    );
}

/// A module that is none ends the boot at the stage that needs it. Others are loaded at the same time,
/// by other threads.
#[test]
fn a_module_that_is_none_ends_the_boot_where_it_is_needed() {
    let disk = Disk::builder().build();
    for (name, stage) in [("configfs", "platform"), ("scsi_mod", "disk"), ("dm_bufio", "root")] {
        let (archive, file) = artefacts::initramfs_with_a_broken_module(name);
        let why = format!(
            "{stage}: cannot load /{file}: Exec format error (os error 8): it is made for another \
             kernel, or is no module"
        );
        let vm = Vm::of(&disk).initramfs(archive);
        assert_eq!(refusal_that_writes_nothing(vm, &disk), why);
    }
    let (archive, _) = artefacts::initramfs_with_a_broken_module("loop");
    let why = refusal_that_writes_nothing(Vm::of(&disk).initramfs(archive), &disk);
    assert!(why.starts_with("volume: cannot load /modules/"), "{why}");
}

#[test]
fn a_list_that_is_none_is_told_with_its_line() {
    let disk = Disk::builder().build();
    for (text, why) in [
        ("000-configfs.ko if=x\n", "line 1 of the modules' list: unknown word if=x"),
        ("a.ko stage=dusk\n", "no stage dusk"),
    ] {
        let archive = artefacts::initramfs_and("broken-list", "modules.list", text);
        let reason = refusal_that_writes_nothing(Vm::of(&disk).initramfs(archive), &disk);
        assert_eq!(reason, format!("platform: cannot use /modules.list: {why}"));
    }
}

/// As others pack an initramfs: without a list, the names are the order.
#[test]
fn without_a_list_all_are_loaded_in_the_order_of_their_names() {
    let disk = Disk::builder().build();
    let all = artefacts::without_the_list(&artefacts::initramfs());
    for processors in [1, 4] {
        let vm = Vm::of(&disk).initramfs(all.clone()).processors(processors);
        assert_eq!(loaded_of(vm, DRIVERS).len(), DRIVERS.len());
    }
}

/// However many processors load them: what one waits for, another may be loading.
#[test]
fn one_processor_and_many_load_the_same() {
    let disk = Disk::builder().build();
    for kernel in [Kernel::RUNNING, Kernel::TRIXIE] {
        let of = |processors| {
            let mut guest = Vm::of(&disk).kernel(kernel).processors(processors).boot();
            let mut loaded = loaded(&guest.report());
            guest.power_off();
            loaded.sort();
            loaded
        };
        let by_one = of(1);
        assert!(by_one.iter().any(|name| name == "dm_crypt"), "{by_one:?}");
        assert_eq!(of(8), by_one);
    }
}
