//! Images of `scripts/image` started by a firmware, as a launcher without `-kernel` does.

use crate::kit::artefacts;
use crate::kit::disk::LARGE_SECTORS;
use crate::kit::guest::{Ending, Guest};
use crate::kit::kernel::{Kernel, WORDS};
use crate::kit::root::Root;
use crate::kit::tool::{Scratch, command, run};
use crate::kit::vm::{Bus, Vm};
use std::fs::{self, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub(crate) const CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
/// The build that verifies what it starts; only it can keep the guest from changing the keys.
pub(crate) const SECURE_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd";
/// No key, no boot entry.
pub(crate) const VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// Until a firmware must have given up; it takes seconds.
const FIRMWARE: Duration = Duration::from_secs(120);

pub(crate) fn installed(file: &str) -> &Path {
    let path = Path::new(file);
    assert!(path.exists(), "{file} is missing: install it with scripts/setup");
    path
}

/// `scripts/image` for the root that has the agent; makes `disk.img` and `cmdline` in the folder.
pub(crate) fn image(folder: &Scratch) -> Command {
    image_with(Kernel::RUNNING, folder)
}

/// The same with another kernel.
pub(crate) fn image_with(kernel: Kernel, folder: &Scratch) -> Command {
    let mut image = artefacts::script("image");
    image
        .arg("--rootfs")
        .arg(&Root::standard().data)
        .arg("--kernel")
        .arg(kernel.image())
        .arg("--initramfs")
        .arg(artefacts::initramfs_of(kernel, artefacts::DEFAULT_CIPHER))
        .args(["--cocos-size", "64M", "--append", WORDS])
        .arg("-o")
        .arg(folder.path());
    image
}

/// A VM that has this disk and nothing else to boot from.
fn boot(folder: &Scratch, code: &str, variables: &Path) -> Guest {
    boot_with("logical_block_size=512", folder, code, variables)
}

/// The same with these properties of the disk's device.
fn boot_with(properties: &str, folder: &Scratch, code: &str, variables: &Path) -> Guest {
    let private = folder.join("variables.fd");
    fs::copy(variables, &private).unwrap();
    Vm::new()
        .disk_on(Bus::VirtioScsi, &folder.join("disk.img"))
        .with(properties)
        .firmware(installed(code), &private)
        .boot()
}

/// The command line of the running kernel ends with what the image was made for.
pub(crate) fn check_boot(guest: &mut Guest, folder: &Scratch) {
    assert_eq!(guest.hello()["pid"], 1);
    let made_for = fs::read_to_string(folder.join("cmdline")).unwrap();
    let booted = guest.read("/proc/cmdline");
    assert!(booted.trim_end().ends_with(made_for.trim_end()), "{booted:?}, not {made_for:?}");
    assert_eq!(guest.report()["verity"]["parameters_from"], "command line");
    guest.power_off();
}

/// The owner of a machine: a key, its certificate, and a firmware that trusts nothing else.
pub(crate) struct Owner {
    key: PathBuf,
    certificate: PathBuf,
    pub(crate) variables: PathBuf,
    _scratch: Scratch,
}

impl Owner {
    pub(crate) fn new() -> Self {
        let scratch = Scratch::new("owner");
        let owner = Self {
            key: scratch.join("key"),
            certificate: scratch.join("certificate"),
            variables: scratch.join("variables"),
            _scratch: scratch,
        };
        run(command("openssl")
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes"])
            .args(["-subj", "/CN=owner", "-keyout"])
            .arg(&owner.key)
            .arg("-out")
            .arg(&owner.certificate));
        let list = owner.variables.with_extension("list");
        run(command("cert-to-efi-sig-list").args([&owner.certificate, &list]));
        fs::copy(installed(VARIABLES), &owner.variables).unwrap();
        // With a platform key in place, the firmware starts only what a key of db has signed.
        for variable in ["db", "KEK", "PK"] {
            run(command("flash-var").arg(&owner.variables).arg(variable).arg(&list));
        }
        owner
    }

    /// Has the image signed.
    pub(crate) fn sign<'a>(&self, image: &'a mut Command) -> &'a mut Command {
        image.env("SB_KEY", &self.key).env("SB_CERT", &self.certificate)
    }

    fn boot(&self, folder: &Scratch) -> Guest {
        boot(folder, SECURE_CODE, &self.variables)
    }
}

#[test]
fn a_firmware_starts_grub_and_grub_the_kernel() {
    let folder = Scratch::new("grub");
    run(&mut image(&folder));
    let mut guest = boot(&folder, CODE, installed(VARIABLES));
    check_boot(&mut guest, &folder);
    assert!(guest.serial().contains("Welcome to GRUB!"));
}

/// Firmware, GRUB, kernel and PID 1 count in the disk's sectors.
#[test]
fn a_firmware_starts_an_image_for_sectors_of_4096_bytes() {
    let folder = Scratch::new("large-sectors");
    run(image(&folder).args(["--sector-size", "4096"]));
    let mut guest = boot_with(LARGE_SECTORS, &folder, CODE, installed(VARIABLES));
    check_boot(&mut guest, &folder);
    assert!(guest.serial().contains("Welcome to GRUB!"));
}

#[test]
fn secure_boot_starts_a_signed_image_and_none_with_a_byte_changed() {
    let folder = Scratch::new("uki");
    let owner = Owner::new();
    run(owner.sign(image(&folder).args(["--boot", "uki"])));
    let mut guest = owner.boot(&folder);
    check_boot(&mut guest, &folder);
    let booted = guest.serial();
    assert!(booted.contains("secureboot: Secure boot enabled"));
    drop(guest);

    change_a_byte(&folder.join("disk.img"));
    assert_refused(&owner.boot(&folder));
}

#[test]
fn secure_boot_starts_no_unsigned_image() {
    let folder = Scratch::new("unsigned");
    run(image(&folder).args(["--boot", "uki"]));
    assert_refused(&Owner::new().boot(&folder));
}

#[test]
fn under_secure_boot_grub_alone_starts_no_kernel() {
    let folder = Scratch::new("grub-signed");
    let owner = Owner::new();
    run(owner.sign(&mut image(&folder)));
    let mut guest = owner.boot(&folder);
    // Off, instead of a shell on the host's console.
    assert_eq!(guest.wait_ending(FIRMWARE), Ending::PowerOff);
    let serial = guest.serial();
    assert!(serial.contains("shim_lock protocol not found"), "{serial}");
    assert!(!serial.contains("Linux version"), "{serial}");
}

/// In the command line, where a single digit asks for another boot.
pub(crate) fn change_a_byte(disk: &Path) {
    const OLD: &[u8] = b"systemd.gpt_auto=0";
    const EFI_END: u64 = 64 << 20;
    let file = OpenOptions::new().read(true).write(true).open(disk).unwrap();
    let mut start = Vec::new();
    (&file).take(EFI_END).read_to_end(&mut start).unwrap();
    let found: Vec<_> =
        (0..start.len() - OLD.len()).filter(|at| start[*at..].starts_with(OLD)).collect();
    assert_eq!(found.len(), 1, "one command line is wanted: {found:?}");
    file.write_all_at(b"1", (found[0] + OLD.len() - 1) as u64).unwrap();
}

/// The firmware says so, and then has nothing else to start.
pub(crate) fn assert_refused(guest: &Guest) {
    guest.wait_serial("No bootable option or device was found", FIRMWARE);
    let serial = guest.serial();
    assert!(
        serial
            .lines()
            .any(|line| line.contains("failed to load Boot") && line.contains("Access Denied")),
        "{serial}"
    );
    assert!(!serial.contains("Linux version"), "{serial}");
}
