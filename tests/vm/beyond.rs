//! What a host can say to a guest besides its disk, and what comes of it.

use crate::kit::artefacts;
use crate::kit::disk::Disk;
use crate::kit::guest::Ending;
use crate::kit::images;
use crate::kit::kernel::Kernel;
use crate::kit::tool::Scratch;
use crate::kit::vm::{Bus, Vm};
use serde_json::json;
use std::time::Duration;

/// A root whose systemd is told nothing by its command line is not commanded by the firmware either:
/// PID 1 has closed that way. That systemd would otherwise obey is seen in `commands`.
#[test]
#[ignore = "three minutes, and what a newer systemd is asked in commands: scripts/test --all"]
fn a_credential_in_smbios_does_not_reach_systemd() {
    let scratch = Scratch::new("credential");
    let image = images::debian_image(&scratch);
    let told = ["systemd.import_credentials=", "systemd.getty_auto=", "SYSTEMD_EFI_OPTIONS="];
    let words = image.cmdline.split_whitespace();
    let words: Vec<_> =
        words.filter(|word| !told.iter().any(|told| word.starts_with(told))).collect();
    let mut guest = Vm::new()
        .memory("2G")
        .disk_on(Bus::VirtioScsi, &image.disk)
        .append(&words.join(" "))
        .smbios("io.systemd.credential:tmpfiles.extra=f /run/commanded")
        .boot();
    let state = guest.ask("run", json!({ "command": "systemctl is-system-running --wait" }));
    assert_eq!(state["stdout"], "running\n");
    let names = guest.ask("list", json!({ "path": "/run" }));
    assert!(names.as_array().unwrap().contains(&json!("machine-id")), "{names}");
    assert!(!names.as_array().unwrap().contains(&json!("commanded")), "{names}");
    let environ = guest.read("/proc/1/environ");
    assert!(environ.split('\0').any(|word| word == "SYSTEMD_EFI_OPTIONS="), "{environ:?}");
    guest.power_off();
}

/// Nothing on the command line says so.
#[test]
fn a_kernel_that_panics_does_not_stay_on() {
    let disk = Disk::builder().build();
    let mut guest = Vm::of(&disk).boot();
    assert_eq!(guest.read("/proc/sys/kernel/panic"), "-1\n");
    let panics = json!({ "path": "/proc/sysrq-trigger", "text": "c" });
    assert_eq!(guest.end_by("write", panics), Ending::Reset);
}

#[test]
fn a_user_says_when_a_kernel_that_panics_restarts() {
    let disk = Disk::builder().build();
    let mut guest = Vm::of(&disk).append("panic=2").boot();
    assert_eq!(guest.read("/proc/sys/kernel/panic"), "2\n");
    guest.power_off();
}

/// Kernels that are built or told so let nobody open for writing what is mounted.
#[test]
fn a_kernel_that_guards_mounted_devices_boots() {
    let disk = Disk::builder().build();
    let mut guest =
        Vm::of(&disk).kernel(Kernel::TRIXIE).append("bdev_allow_write_mounted=0").boot();
    guest.hello();
    guest.power_off();
}

/// The last words of a line that was too long for a boot loader are not there.
#[test]
fn a_command_line_that_was_cut_is_refused() {
    let disk = Disk::builder().build();
    let vm = Vm::of(&disk).append("cvm.begin cvm.verity_on_corruption=panic");
    assert_eq!(
        crate::refused::refusal(vm),
        "config: cvm.begin and cvm.end do not stand together: the command line was cut"
    );
}

/// Who launches a guest without a say in its command line has the words in its initramfs.
#[test]
fn the_initramfs_has_words_too() {
    let disk = Disk::builder().build();
    let words = format!("roothash={} cvm.tags=disk\n", disk.roothash);
    let initramfs = artefacts::initramfs_with_words("words", &words);
    let mut guest = Vm::new().disk(&disk).initramfs(initramfs).append("cvm.grow=no").boot();
    assert_eq!(guest.report()["volume"]["tags"], "disk");
    guest.power_off();
}

#[test]
fn a_key_on_the_line_and_in_the_initramfs_is_given_twice() {
    let disk = Disk::builder().build();
    let initramfs = artefacts::initramfs_with_words("twice", "cvm.on_failure=reboot cvm.tags=disk");
    let vm = Vm::of(&disk).initramfs(initramfs).append("cvm.tags=memory");
    let mut guest = vm.boot();
    assert_eq!(guest.wait_ending(Duration::from_secs(120)), Ending::Reset);
    assert_eq!(guest.fatal_line(), "config: cvm.tags= is given twice");
}
