//! ISOs of `scripts/image`, started by a firmware in drives of CDs and as disks.

use crate::firmware::{
    CODE, Owner, SECURE_CODE, VARIABLES, assert_refused, change_a_byte, check_boot, image,
    installed,
};
use crate::kit::artefacts::{DEFAULT_CIPHER, init, initramfs, pack_for};
use crate::kit::guest::{Ending, Guest};
use crate::kit::kernel::{Arch, Kernel};
use crate::kit::tool::{Scratch, command, run};
use crate::kit::tpm::Tpm;
use crate::kit::vm::{Bus, Vm};
use crate::measure::{check_chain, check_secure_chain};
use cvm_init::format::gpt::{Entry, Header};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const MIB: u64 = 1 << 20;
const SECTOR: u64 = 512;

/// From power-on to the end of a boot that fails.
const LIMIT: Duration = Duration::from_secs(180);

fn iso(folder: &Scratch) -> Command {
    let mut image = image(folder);
    image.args(["--boot", "uki", "--format", "iso"]);
    image
}

/// The partitions of a medium.
fn table(medium: &Path) -> Vec<Entry> {
    let mut head = vec![0; 64 * 512];
    OpenOptions::new().read(true).open(medium).unwrap().read_exact_at(&mut head, 0).unwrap();
    let header = Header::parse(&head[512..1024]).unwrap();
    header.entries(&head[1024..][..header.entries_size()]).unwrap()
}

/// Takes from `disk.img` what a firmware could start.
fn without_boot_loader(folder: &Scratch) -> PathBuf {
    let disk = folder.join("disk.img");
    let efi = &table(&disk)[0];
    let file = OpenOptions::new().write(true).open(&disk).unwrap();
    file.write_all_at(&vec![0; 1 << 20], efi.first * SECTOR).unwrap();
    disk
}

/// What a medium is put into.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Drive {
    OfCds,
    OfDisks,
}

/// `boot.iso` in such a drive, which the firmware tries first, and the disk, on which it finds nothing.
fn beside(folder: &Scratch, bus: Bus, drive: Drive) -> Vm {
    let medium = Vm::new().disk_on(bus, &folder.join("boot.iso")).with("bootindex=0");
    let medium = if drive == Drive::OfCds { medium.in_cd_drive() } else { medium };
    let vm = medium.disk_on(Bus::VirtioScsi, &without_boot_loader(folder));
    with_firmware(vm, folder, CODE, installed(VARIABLES))
}

fn with_firmware(vm: Vm, folder: &Scratch, code: &str, variables: &Path) -> Vm {
    let private = folder.join("variables.fd");
    fs::copy(variables, &private).unwrap();
    vm.firmware(installed(code), &private)
}

/// What is to stay as it is.
struct Kept {
    file: PathBuf,
    copy: PathBuf,
}

impl Kept {
    fn of(file: PathBuf) -> Self {
        let copy = file.with_extension("before");
        run(command("cp").arg("--sparse=always").args([&file, &copy]));
        Self { file, copy }
    }

    /// The first bytes have not changed; all of them without a number.
    fn check(&self, bytes: Option<u64>) {
        let mut cmp = command("cmp");
        if let Some(bytes) = bytes {
            cmp.args(["-n", &bytes.to_string()]);
        }
        run(cmp.args([&self.file, &self.copy]));
    }
}

#[test]
fn secure_boot_starts_a_cd_beside_the_disk_as_predicted_and_nothing_writes_to_it() {
    let folder = Scratch::new("cd");
    let owner = Owner::new();
    run(owner.sign(&mut iso(&folder)));
    let kept = Kept::of(folder.join("boot.iso"));
    let vm = beside(&folder, Bus::Ahci, Drive::OfCds);
    let vm = with_firmware(vm, &folder, SECURE_CODE, &owner.variables);
    let mut guest = vm.tpm(Tpm::honest()).boot();
    check_secure_chain(&mut guest, &folder, "iso_as_cd");
    check_boot(&mut guest, &folder);
    assert!(guest.serial().contains("secureboot: Secure boot enabled"));
    drop(guest);
    kept.check(None);
}

/// What a boot writes is in the volume.
#[test]
fn the_whole_disk_as_an_iso_boots_as_a_disk_as_predicted() {
    let folder = Scratch::new("whole");
    run(iso(&folder).arg("--whole"));
    let disk = folder.join("disk.iso");
    let kept = Kept::of(disk.clone());
    let vm = Vm::new().disk_on(Bus::VirtioScsi, &disk);
    let vm = with_firmware(vm, &folder, CODE, installed(VARIABLES));
    let mut guest = vm.tpm(Tpm::honest()).boot();
    check_chain(&mut guest, &folder, "disk");
    assert_eq!(guest.report()["volume"]["partition"], "sda4");
    check_boot(&mut guest, &folder);
    drop(guest);
    kept.check(Some(table(&disk)[3].first * SECTOR));
}

#[test]
#[ignore = "scripts/test --all"]
fn a_medium_is_started_in_every_drive_and_nothing_writes_to_it() {
    let folder = Scratch::new("drives");
    run(&mut iso(&folder));
    let kept = Kept::of(folder.join("boot.iso"));
    for (bus, drive, chain) in [
        (Bus::VirtioScsi, Drive::OfCds, "iso_as_cd"),
        (Bus::VirtioScsi, Drive::OfDisks, "iso_as_disk"),
        (Bus::VirtioBlk, Drive::OfDisks, "iso_as_disk"),
        (Bus::Ahci, Drive::OfDisks, "iso_as_disk"),
    ] {
        let mut guest = beside(&folder, bus, drive).tpm(Tpm::honest()).boot();
        check_chain(&mut guest, &folder, chain);
        check_boot(&mut guest, &folder);
        drop(guest);
        kept.check(None);
    }
}

#[test]
#[ignore = "scripts/test --all"]
fn secure_boot_starts_no_cd_with_a_byte_changed() {
    let folder = Scratch::new("changed");
    let owner = Owner::new();
    run(owner.sign(&mut iso(&folder)));
    change_a_byte(&folder.join("boot.iso"));
    let vm = beside(&folder, Bus::Ahci, Drive::OfCds);
    assert_refused(&with_firmware(vm, &folder, SECURE_CODE, &owner.variables).boot());
}

#[test]
#[ignore = "scripts/test --all"]
fn secure_boot_starts_the_whole_disk_as_an_iso_on_every_bus() {
    let folder = Scratch::new("whole-signed");
    let owner = Owner::new();
    run(owner.sign(iso(&folder).arg("--whole")));
    for bus in [Bus::VirtioBlk, Bus::VirtioScsi] {
        let vm = Vm::new().disk_on(bus, &folder.join("disk.iso"));
        let mut guest = with_firmware(vm, &folder, SECURE_CODE, &owner.variables).boot();
        check_boot(&mut guest, &folder);
    }
}

/// El Torito cannot count so far.
#[test]
#[ignore = "scripts/test --all"]
fn an_efi_partition_of_more_than_32_mib_is_started_in_every_drive() {
    let folder = Scratch::new("large");
    // The kernel passes over zeros between archives.
    let large = folder.join("large.cpio.gz");
    fs::copy(initramfs(), &large).unwrap();
    let file = OpenOptions::new().write(true).open(&large).unwrap();
    file.set_len(file.metadata().unwrap().len().next_multiple_of(4) + 24 * MIB).unwrap();
    run(iso(&folder).arg("--initramfs").arg(&large));
    let efi = &table(&folder.join("boot.iso"))[0];
    assert!((efi.last - efi.first) * SECTOR > 32 * MIB);
    for (bus, drive) in [
        (Bus::Ahci, Drive::OfCds),
        (Bus::VirtioScsi, Drive::OfCds),
        (Bus::VirtioScsi, Drive::OfDisks),
    ] {
        let mut guest = beside(&folder, bus, drive).boot();
        check_boot(&mut guest, &folder);
    }
}

/// What PID 1 says in a VM whose one medium is the whole disk in a drive of CDs.
fn reason_of_a_whole_cd(initramfs: &Path) -> String {
    let folder = Scratch::new("whole-cd");
    run(iso(&folder)
        .arg("--whole")
        .args(["--append", "cvm.timeout=5"])
        .arg("--initramfs")
        .arg(initramfs));
    let vm = Vm::new().disk_on(Bus::VirtioScsi, &folder.join("disk.iso")).in_cd_drive();
    let mut guest: Guest = with_firmware(vm, &folder, CODE, installed(VARIABLES)).boot();
    assert_eq!(guest.wait_ending(LIMIT), Ending::PowerOff);
    guest.fatal_line()
}

/// With a driver for its drive, and without one, as it is as a rule.
#[test]
#[ignore = "scripts/test --all"]
fn a_cd_of_the_whole_disk_is_told_to_be_none() {
    let with_driver =
        pack_for(Kernel::RUNNING, "sr", init(Arch::X86), DEFAULT_CIPHER, &[], &["sr_mod"]);
    let found = "disk: no disk that proves roothash= within 5 s; ";
    assert_eq!(
        reason_of_a_whole_cd(&with_driver),
        format!(
            "{found}sr0: the kernel found no partition on it: its table is made for sectors of 512 \
             bytes, but they have 2048: attach it as a disk, not as a CD"
        )
    );
    assert_eq!(
        reason_of_a_whole_cd(&initramfs()),
        format!(
            "{found}no disk at all was seen, CDs aside, but storage on PCI without a driver \
             (0000:00:1f.2 8086:2922): is its driver among the modules of the initramfs, or built into the \
             kernel?"
        )
    );
}
