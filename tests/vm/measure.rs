//! What a boot records in a TPM: what the image build has predicted, whatever the host does.

use crate::faults::host_folder;
use crate::firmware::{CODE, VARIABLES, image, image_with, installed};
use crate::kit::artefacts::initramfs_of_layers;
use crate::kit::data::Data;
use crate::kit::disk::Disk;
use crate::kit::event_log::replayed;
use crate::kit::guest::{Ending, Guest};
use crate::kit::kernel::Kernel;
use crate::kit::tool::{Scratch, run};
use crate::kit::tpm::Tpm;
use crate::kit::vm::{Bus, Vm};
use crate::{kit::layer, layers};
use cvm_init::format::hex;
use cvm_tools::measure::hash::Hash;
use cvm_tools::measure::record::Record;
use cvm_tools::measure::tpm::{Chain, IDENTITY};
use serde_json::{Value, json};
use std::fs;
use std::time::Duration;

const LOG: &str = "/run/log/systemd/tpm2-measure.log";

/// From power-on to the fatal line.
pub(crate) const LIMIT: Duration = Duration::from_secs(180);

/// Boots an image that `scripts/image` has made in this folder by a firmware: all registers that its
/// `measurements.json` has are as it says.
pub(crate) fn measures_what_was_predicted(folder: &Scratch) -> Guest {
    let variables = folder.join("variables.fd");
    fs::copy(installed(VARIABLES), &variables).unwrap();
    let mut guest = Vm::new()
        .disk_on(Bus::VirtioScsi, &folder.join("disk.img"))
        .firmware(installed(CODE), &variables)
        .tpm(Tpm::honest())
        .boot();
    check_chain(&mut guest, folder, "disk");
    guest
}

/// What the `measurements.json` in this folder says of a chain.
fn predicted_chain(folder: &Scratch, name: &str) -> Value {
    let text = fs::read_to_string(folder.join("measurements.json")).unwrap();
    let mut document: Value = serde_json::from_str(&text).unwrap();
    document["tpm"][name].take()
}

/// All registers are as it says.
pub(crate) fn check_chain(guest: &mut Guest, folder: &Scratch, name: &str) {
    check_registers_of(guest, &predicted_chain(folder, name));
}

/// The same where Secure Boot is on.
pub(crate) fn check_secure_chain(guest: &mut Guest, folder: &Scratch, name: &str) {
    let mut chain = predicted_chain(folder, name);
    for bank in ["sha256", "sha384"] {
        chain[bank]["4"] = chain["pcr_4_under_secure_boot"][bank].clone();
    }
    check_registers_of(guest, &chain);
}

fn check_registers_of(guest: &mut Guest, chain: &Value) {
    for bank in ["sha256", "sha384"] {
        let values = chain[bank].as_object().unwrap();
        assert_eq!(values.len(), 8);
        for (pcr, value) in values {
            let path = format!("/sys/class/tpm/tpm0/pcr-{bank}/{pcr}");
            let held = guest.read(&path).trim().to_ascii_lowercase();
            assert_eq!(*value, held, "PCR {pcr} in bank {bank}");
        }
    }
}

#[test]
fn an_image_with_grub_measures_what_was_predicted() {
    let folder = Scratch::new("measured");
    run(image(&folder).args(["--boot", "grub"]));
    measures_what_was_predicted(&folder).power_off();
}

#[test]
fn an_image_of_a_newer_kernel_measures_what_was_predicted() {
    for boot in ["grub", "uki"] {
        let folder = Scratch::new("measured");
        run(image_with(Kernel::TRIXIE, &folder).args(["--boot", boot]));
        measures_what_was_predicted(&folder).power_off();
    }
}

/// The firmware's log of a unified image, which the kernel's EFI stub passes on, comes to what the
/// registers hold that nobody has extended since.
#[test]
fn a_unified_image_measures_what_was_predicted() {
    let folder = Scratch::new("measured");
    run(image(&folder).args(["--boot", "uki"]));
    let mut guest = measures_what_was_predicted(&folder);
    let security = "/sys/kernel/security";
    let mount = json!({
        "source": "securityfs", "target": security, "fstype": "securityfs", "options": "",
    });
    guest.ask("mount", mount);
    let path = format!("{security}/tpm0/binary_bios_measurements");
    let log = guest.ask("bytes", json!({ "path": path }));
    let registers = replayed(&hex::decode(log.as_str().unwrap()).unwrap());
    for pcr in [4, 5, 9, 11] {
        let (sha256, sha384) = &registers[&pcr];
        for (bank, value) in [("sha256", sha256.to_string()), ("sha384", sha384.to_string())] {
            let held = guest.read(&format!("/sys/class/tpm/tpm0/pcr-{bank}/{pcr}"));
            assert_eq!(held.trim().to_ascii_lowercase(), value, "PCR {pcr} in bank {bank}");
        }
    }
    guest.power_off();
}

/// What an image build tells of a boot of this disk by these words.
pub(crate) fn predicted(disk: &Disk, words: &str) -> Chain {
    let line = format!("roothash={} {} {words}", disk.roothash, disk.verity_parameters);
    Chain::of(Vec::new(), Record::of(&line, "").unwrap().events())
}

/// What the kernel says that the register holds.
pub(crate) fn register(guest: &mut Guest, bank: &str) -> String {
    guest.read(&format!("/sys/class/tpm/tpm0/pcr-{bank}/15")).trim().to_ascii_lowercase()
}

#[track_caller]
pub(crate) fn check_registers(guest: &mut Guest, chain: &Chain) {
    assert_eq!(register(guest, "sha256"), chain.sha256[&IDENTITY].to_string());
    assert_eq!(register(guest, "sha384"), chain.sha384[&IDENTITY].to_string());
}

/// The records of the log: a JSON text sequence.
pub(crate) fn records(guest: &mut Guest) -> Vec<Value> {
    let log = guest.read(LOG);
    let texts = log.split('\x1e').skip(1);
    texts.map(|text| serde_json::from_str(text.strip_suffix('\n').unwrap()).unwrap()).collect()
}

/// Report and log say what was measured, and the log comes to what the register holds.
fn check_logs(guest: &mut Guest, chain: &Chain) {
    let lines: Vec<_> = chain
        .events
        .iter()
        .map(|event| event.what.strip_suffix(", by PID 1").unwrap().to_owned())
        .collect();
    let report = guest.report();
    let measured = &report["measured"];
    assert_eq!(measured["register"], "PCR 15");
    assert_eq!(measured["events"], json!(lines));
    assert_eq!(measured["log"], LOG);
    let held = ["sha256", "sha384", "sha512"]
        .map(|bank| json!({ "bank": bank, "value": register(guest, bank) }));
    assert_eq!(measured["values"], json!(held));

    let records = records(guest);
    assert_eq!(records.len(), lines.len());
    let boot = guest.read("/proc/sys/kernel/random/boot_id").trim().replace('-', "");
    let mut replayed = Hash::<32>::ZERO;
    let mut before = 0;
    for (record, line) in records.iter().zip(&lines) {
        assert_eq!((&record["pcr"], &record["content_type"]), (&json!(15), &json!("systemd")));
        let content = &record["content"];
        assert_eq!((&content["string"], &content["bootId"]), (&json!(line), &json!(boot)));
        let at = content["timestamp"].as_u64().unwrap();
        assert!(before < at, "{at} us after {before} us");
        before = at;
        let digest = &record["digests"][0];
        assert_eq!(digest["hashAlg"], "sha256");
        let digest = hex::decode(digest["digest"].as_str().unwrap()).unwrap();
        replayed = replayed.extend(&Hash(digest.try_into().unwrap()));
    }
    assert_eq!(replayed, chain.sha256[&IDENTITY]);
    let stat = guest.ask("stat", json!({ "path": LOG }));
    assert_eq!((&stat["mode"], &stat["uid"]), (&json!(0o600), &json!(0)));
}

fn boots_to_what_is_predicted(kernel: Kernel, device: &str) {
    let disk = Disk::builder().build();
    let mut guest = Vm::of(&disk).kernel(kernel).tpm_as(device, Tpm::honest()).boot();
    let chain = predicted(&disk, "");
    check_registers(&mut guest, &chain);
    check_logs(&mut guest, &chain);
    guest.power_off();
}

#[test]
fn a_boot_comes_to_what_the_image_build_predicts() {
    boots_to_what_is_predicted(Kernel::RUNNING, "tpm-tis");
}

#[test]
fn a_boot_of_a_newer_kernel_comes_to_what_the_image_build_predicts() {
    boots_to_what_is_predicted(Kernel::TRIXIE, "tpm-crb");
}

/// Another disk of another size, shares, memory, processors and places of parameters.
#[test]
fn another_machine_with_the_same_image_records_the_same() {
    let disk = Disk::builder().grown(64 << 20).build();
    let host = host_folder();
    let mut guest = Vm::of(&disk)
        .append(&disk.verity_parameters)
        .append("cvm.measure=required cvm.timeout=60")
        .share("env_share", host.path())
        .memory("768M")
        .processors(1)
        .tpm(Tpm::honest())
        .boot();
    let chain = predicted(&Disk::builder().build(), "");
    check_registers(&mut guest, &chain);
    guest.power_off();
}

#[test]
fn another_word_or_disk_of_data_makes_another_value() {
    let disk = Disk::builder().build();
    let data = Data::standard();
    let words = format!("cvm.tags=disk {}", data.word("models", "disk1"));
    let mut guest = Vm::of(&disk)
        .append(&words)
        .disk_on(Bus::VirtioScsi, data.path())
        .read_only()
        .tpm(Tpm::honest())
        .boot();
    let chain = predicted(&disk, &words);
    assert_ne!(chain.sha256, predicted(&disk, "").sha256);
    assert_eq!(chain.events.len(), 4);
    check_registers(&mut guest, &chain);
    check_logs(&mut guest, &chain);
    guest.power_off();
}

#[test]
fn of_a_root_of_layers_each_is_recorded() {
    let words = format!("{} cvm.cow=memory", layer::word(&layers::all()));
    let mut guest = layers::with_layers(&layers::all())
        .initramfs(initramfs_of_layers(Kernel::RUNNING, ""))
        .append(&words)
        .tpm(Tpm::honest())
        .boot();
    let chain = Chain::of(Vec::new(), Record::of(&words, "").unwrap().events());
    assert_eq!(chain.events.len(), 5);
    check_registers(&mut guest, &chain);
    check_logs(&mut guest, &chain);
    guest.power_off();
}

#[test]
fn a_boot_can_be_told_to_record_nothing() {
    let disk = Disk::builder().build();
    let mut guest = Vm::of(&disk).append("cvm.measure=no").tpm(Tpm::honest()).boot();
    assert_eq!(register(&mut guest, "sha256"), "00".repeat(32));
    assert_eq!(guest.report()["measured"], Value::Null);
    assert!(guest.call("read", json!({ "path": LOG })).is_err());
    guest.power_off();
}

#[test]
fn without_a_tpm_a_boot_says_that_nothing_is_recorded() {
    let disk = Disk::builder().build();
    let mut guest = Vm::of(&disk).boot();
    assert_eq!(guest.report()["measured"], Value::Null);
    assert!(guest.call("read", json!({ "path": LOG })).is_err());
    let line = "cvm-init: there is no TPM: nothing will be recorded of this boot";
    assert!(guest.serial().contains(line), "{}", guest.serial());
    guest.power_off();
}

/// Before anything is written.
#[test]
fn a_register_that_is_required_and_not_there_ends_the_boot() {
    let disk = Disk::builder().build();
    for (words, tpm, start) in [
        ("cvm.measure=required", None, "platform: cvm.measure=required: there is no TPM ("),
        // A TPM does not stand for it.
        (
            "cvm.measure=rtmr3",
            Some(Tpm::honest()),
            "platform: cvm.measure=rtmr3: there is no /sys/devices/virtual/misc/tdx_guest/",
        ),
    ] {
        let vm = Vm::of(&disk).append(words);
        let mut guest = match tpm {
            Some(tpm) => vm.tpm(tpm),
            None => vm,
        }
        .boot();
        assert_eq!(guest.wait_ending(LIMIT), Ending::PowerOff);
        assert!(guest.fatal_line().starts_with(start), "{}", guest.fatal_line());
        assert_eq!(guest.bytes_written(0), 0);
    }
}
