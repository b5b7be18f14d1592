//! What a host can say to a guest besides its disk, and what comes of it.

use crate::artefacts::{self, Kernel};
use crate::disk::Disk;
use crate::guest::Ending;
use crate::tool::Scratch;
use crate::vm::{Bus, Vm};
use serde_json::json;

/// Words on the command line that have the root's systemd take nothing from the firmware.
const WORDS: [&str; 4] = [
    "systemd.import_credentials=no",
    "systemd.getty_auto=no",
    "systemd.ssh_auto=no",
    "SYSTEMD_EFI_OPTIONS=",
];

/// A credential by which systemd-tmpfiles makes a file.
const CREDENTIAL: &str =
    "type=11,value=io.systemd.credential:tmpfiles.extra=f /run/from-the-host 0644 - - - word";

/// Boots Debian, whose systemd takes what the firmware has for it, with `words` in place of those
/// that close its ways. Returns whether it took it.
fn takes_a_credential(words: &str) -> bool {
    let scratch = Scratch::new("credential");
    let image = artefacts::debian_image(&scratch);
    let line: Vec<_> =
        image.cmdline.split_whitespace().filter(|word| !WORDS.contains(word)).collect();
    // What marks the end stays at the end.
    let (head, end) = match line.as_slice() {
        [head @ .., end] if *end == "cvm.end" => (head, *end),
        line => (line, ""),
    };
    let mut guest = Vm::new()
        .memory("2G")
        .disk_on(Bus::VirtioScsi, &image.disk)
        .append(&format!("{} {words} {end}", head.join(" ")))
        .arguments_of(&["-smbios", CREDENTIAL])
        .boot();
    let state = guest.ask("run", json!({ "command": "systemctl is-system-running --wait" }));
    assert_eq!(state["stdout"], "running\n");
    let taken = guest.call("read", json!({ "path": "/run/from-the-host" })).is_ok();
    guest.power_off();
    taken
}

#[test]
fn a_credential_in_smbios_does_not_reach_systemd() {
    assert!(!takes_a_credential(""));
}

/// So that the test above would see it.
#[test]
fn who_asks_for_credentials_gets_them() {
    assert!(takes_a_credential("systemd.import_credentials=yes"));
}

#[test]
fn with_the_words_of_an_image_a_credential_does_not_reach_systemd() {
    assert!(!takes_a_credential(&WORDS.join(" ")));
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
        Vm::of(&disk).kernel(Kernel::Trixie).append("bdev_allow_write_mounted=0").boot();
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
