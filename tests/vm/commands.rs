//! What a host can say to the systemd of a Debian root, by the firmware's tables, by files and
//! variables beside them and by consoles, and that systemd does none of it.

use crate::debian::run;
use crate::firmware::{SECURE_CODE, VARIABLES, installed};
use crate::kit::guest::Guest;
use crate::kit::images::{self, UNCLOSED};
use crate::kit::kernel::Kernel;
use crate::kit::tool::{Scratch, command, run as run_tool};
use crate::kit::vm::{Bus, Vm};
use serde_json::json;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// More of the kernel's command line, to systemd: a word that it obeys itself, and one for a program
/// that it starts.
const OPTIONS: &str = "systemd.setenv=HOST=commanded systemd.journald.forward_to_console=yes";

/// Who the variable belongs to, which says what it means.
const SYSTEMD: &str = "8cf2644b-4b0b-428f-9387-6d876050dc67";

/// Who says what, and a command that succeeds in a guest that has obeyed.
const ORDERS: &[(&str, &str)] = &[
    ("SMBIOS: a file", "test -e /run/by-smbios"),
    ("fw_cfg: a setting of the kernel", "grep -qx by-fw-cfg /proc/sys/kernel/domainname"),
    ("the variable: to systemd", "systemctl show-environment | grep -qx HOST=commanded"),
    ("a console: for a login", "systemctl --quiet is-active serial-getty@hvc0"),
];

/// The order to a program that systemd starts: its obedience is seen from outside.
const JOURNAL: &str = "the variable: to journald";

/// Written to the journal, and what is written to the console when the journal has it.
const ENTRY: &str = "an entry of the journal";
const BEHIND: &str = "behind the entry";

/// Until the console shows what was written to it.
const CONSOLE: Duration = Duration::from_secs(60);

/// Words of `scripts/image` of which a guest needs none.
const CREDENTIALS: &[&str] =
    &["systemd.import_credentials=", "systemd.ssh_auto=", "SYSTEMD_EFI_OPTIONS="];
const LOGINS: &[&str] = &["systemd.getty_auto="];

/// A host that says it in each way that it has, and the image that its guest boots.
struct Host {
    kernel: Kernel,
    image: images::Image,
    scratch: Scratch,
}

impl Host {
    fn new(kernel: Kernel) -> Self {
        let scratch = Scratch::new("host");
        Self { kernel, image: images::debian_image_for(&scratch, kernel), scratch }
    }

    /// The firmware's variables as this host has written them.
    fn variables(&self) -> PathBuf {
        let variables = self.scratch.join("variables.fd");
        fs::copy(installed(VARIABLES), &variables).unwrap();
        let text = self.scratch.join("options");
        let utf16: Vec<u8> = OPTIONS.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
        fs::write(&text, utf16).unwrap();
        run_tool(
            command("flash-var")
                .args(["-g", SYSTEMD])
                .arg(&variables)
                .arg("SystemdOptions")
                .arg(&text),
        );
        variables
    }

    /// The image's command line without the words that begin so.
    fn words_without(&self, left_out: &[&str]) -> String {
        let words = self.image.cmdline.split_whitespace();
        let kept = words.filter(|word| !left_out.iter().any(|start| word.starts_with(start)));
        kept.collect::<Vec<_>>().join(" ")
    }

    /// A guest that the firmware has started from the disk, with the words of the image.
    fn boot_from_disk(&self) -> Guest {
        Self::boot(self.vm().firmware(installed(SECURE_CODE), &self.variables()))
    }

    /// A guest that the firmware has started with these words.
    fn boot_with(&self, words: &str) -> Guest {
        let vm = self.vm().kernel(self.kernel).initramfs(self.image.initramfs.clone());
        Self::boot(vm.append(words).firmware_below(installed(SECURE_CODE), &self.variables()))
    }

    fn vm(&self) -> Vm {
        Vm::new()
            .memory("1G")
            .disk_on(Bus::VirtioScsi, &self.image.disk)
            .smbios("io.systemd.credential:tmpfiles.extra=f /run/by-smbios")
            .smbios("io.systemd.credential:systemd.extra-unit.by-smbios.service=[Service]\nExecStart=true")
            .fw_cfg("opt/io.systemd.credentials/sysctl.extra", "kernel.domainname=by-fw-cfg")
            .console("console")
    }

    fn boot(vm: Vm) -> Guest {
        let mut guest = vm.boot();
        assert_eq!(run(&mut guest, "systemctl is-system-running --wait"), "running\n");
        guest
    }
}

/// The orders that a guest has obeyed.
fn obeyed(guest: &mut Guest) -> Vec<&'static str> {
    let mut obeyed: Vec<_> = ORDERS
        .iter()
        .filter(|(_, command)| guest.ask("run", json!({ "command": command }))["status"] == 0)
        .map(|(order, _)| *order)
        .collect();
    let write = format!("echo '{ENTRY}' | systemd-cat && journalctl --sync");
    run(guest, &format!("{write} && echo '{BEHIND}' >/dev/console"));
    guest.wait_serial(BEHIND, CONSOLE);
    if guest.serial().contains(ENTRY) {
        obeyed.push(JOURNAL);
    }
    obeyed
}

/// Logins on consoles that nobody on the command line has named, when one more has been plugged in.
fn logins_on_consoles(guest: &mut Guest) -> String {
    guest.plug_in_console("late");
    run(guest, "udevadm wait --settle --timeout=60 /dev/virtio-ports/late");
    run(guest, "systemctl list-units --plain --no-legend 'serial-getty@hvc*' | cut -d ' ' -f 1")
}

#[track_caller]
fn check_that_nothing_is_done(guest: &mut Guest) {
    assert_eq!(obeyed(guest), Vec::<&str>::new());
    assert_eq!(run(guest, "ls -A /run/credentials/@system 2>/dev/null || true"), "");
    assert_eq!(logins_on_consoles(guest), "");
    for console in ["console", "late"] {
        assert_eq!(fs::read_to_string(guest.scratch().join(console)).unwrap(), "");
    }
    // The login of the demo root is its own.
    run(guest, "systemctl is-active serial-getty@ttyS0");
}

/// Where the command line asks for it, and init undoes what PID 1 has closed, systemd obeys. A
/// console that comes after the boot gets no login there either: systemd looks for them once.
#[track_caller]
fn check_that_all_is_done(host: &Host) -> Guest {
    let closed = host.words_without(&[CREDENTIALS, LOGINS].concat());
    let mut guest =
        host.boot_with(&format!("{closed} systemd.import_credentials=yes init={UNCLOSED}"));
    let all: Vec<_> = ORDERS.iter().map(|(order, _)| *order).chain([JOURNAL]).collect();
    assert_eq!(obeyed(&mut guest), all);
    assert_eq!(logins_on_consoles(&mut guest), "serial-getty@hvc0.service\n");
    guest
}

/// systemd 252, with the firmware, GRUB and the command line that an image of `scripts/image` has.
#[test]
#[ignore = "four minutes, and the newer systemd is asked as much: scripts/test --all"]
fn the_host_commands_no_systemd() {
    let host = Host::new(Kernel::RUNNING);
    let mut guest = host.boot_from_disk();
    check_that_nothing_is_done(&mut guest);
    drop(guest);
    check_that_all_is_done(&host);
}

/// systemd 257, which takes whole units from credentials. Its command line says nothing of them, nor
/// of the variable: PID 1 alone has closed these ways.
#[test]
fn the_host_commands_no_newer_systemd_by_credentials_or_the_variable() {
    let has_unit = |guest: &mut Guest| {
        let unit = json!({ "command": "systemctl cat by-smbios.service" });
        guest.ask("run", unit)["status"] == 0
    };
    let host = Host::new(Kernel::TRIXIE);
    let mut guest = host.boot_with(&host.words_without(CREDENTIALS));
    check_that_nothing_is_done(&mut guest);
    assert!(!has_unit(&mut guest));
    drop(guest);
    assert!(
        has_unit(&mut check_that_all_is_done(&host)),
        "the guest would not have listened at all"
    );
}
