//! What a boot records in a TPM: what the image build has predicted, whatever the host does.

use crate::artefacts::initramfs_of_layers;
use crate::data::Data;
use crate::disk::Disk;
use crate::event_log::replayed;
use crate::faults::host_folder;
use crate::firmware::{CODE, VARIABLES, image, image_with, installed};
use crate::guest::{Ending, Guest};
use crate::kernel::Kernel;
use crate::tool::{Scratch, run};
use crate::tpm::{Ask, Tpm};
use crate::vm::{Bus, Vm};
use crate::{layer, layers};
use cvm_init::format::event::Event;
use cvm_init::format::{hex, tpm2};
use cvm_tools::measure::hash::Hash;
use cvm_tools::measure::record::Record;
use cvm_tools::measure::tpm::{Chain, IDENTITY};
use serde_json::{Value, json};
use std::fs;
use std::io;
use std::time::Duration;

const LOG: &str = "/run/log/systemd/tpm2-measure.log";

/// From power-on to the fatal line.
const LIMIT: Duration = Duration::from_secs(180);
/// From the fatal line to the end.
const END: Duration = Duration::from_secs(15);

const PCR_EVENT: [u8; 4] = [0, 0, 1, 0x3c];
const GET_CAPABILITY: [u8; 4] = [0, 0, 1, 0x7a];
const CAP_PCRS: [u8; 4] = [0, 0, 0, 5];
const PCR_READ: [u8; 4] = [0, 0, 1, 0x7e];

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
fn predicted(disk: &Disk, words: &str) -> Chain {
    let line = format!("roothash={} {} {words}", disk.roothash, disk.verity_parameters);
    Chain::of(Vec::new(), Record::of(&line, "").unwrap().events())
}

/// What the kernel says that the register holds.
fn register(guest: &mut Guest, bank: &str) -> String {
    guest.read(&format!("/sys/class/tpm/tpm0/pcr-{bank}/15")).trim().to_ascii_lowercase()
}

#[track_caller]
fn check_registers(guest: &mut Guest, chain: &Chain) {
    assert_eq!(register(guest, "sha256"), chain.sha256[&IDENTITY].to_string());
    assert_eq!(register(guest, "sha384"), chain.sha384[&IDENTITY].to_string());
}

/// The records of the log: a JSON text sequence.
fn records(guest: &mut Guest) -> Vec<Value> {
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

fn is(command: &[u8], code: [u8; 4]) -> bool {
    command[6..10] == code
}

/// An answer of this tag and code, with nothing behind its header.
fn bare(tag: u16, code: u32) -> Vec<u8> {
    [&tag.to_be_bytes()[..], &10_u32.to_be_bytes(), &code.to_be_bytes()].concat()
}

/// Sets the size that an answer says it has.
fn resize(answer: &mut [u8]) {
    let size = u32::try_from(answer.len()).unwrap().to_be_bytes();
    answer[2..6].copy_from_slice(&size);
}

/// Boots with a TPM whose answers to one command are what `lie` makes of them.
fn with_answers(
    code: [u8; 4],
    words: &str,
    mut lie: impl FnMut(Vec<u8>) -> Option<Vec<u8>> + Send + 'static,
) -> Guest {
    boot_with(words, move |command, ask| {
        let answer = ask(command)?;
        Ok(if is(command, code) { lie(answer) } else { Some(answer) })
    })
}

fn boot_with(
    words: &str,
    lie: impl FnMut(&[u8], Ask<'_>) -> io::Result<Option<Vec<u8>>> + Send + 'static,
) -> Guest {
    let disk = Disk::builder().build();
    Vm::of(&disk).append(words).tpm(Tpm::lying(lie)).boot()
}

#[track_caller]
fn check_end(mut guest: Guest, start: &str, end: &str) {
    assert_eq!(guest.wait_ending(LIMIT), Ending::PowerOff);
    let line = guest.fatal_line();
    assert!(line.starts_with(start) && line.ends_with(end), "{line}");
}

const CANNOT: &str = "measure: cannot measure root into PCR 15: ";

#[test]
fn a_tpm_that_fails_ends_the_boot() {
    let guest = with_answers(PCR_EVENT, "", |_| Some(bare(0x8001, 0x101)));
    check_end(guest, CANNOT, "the TPM answers 0x101 (TPM_RC_FAILURE)");
}

#[test]
fn a_tpm_that_is_busy_is_asked_again_but_not_for_ever() {
    // The kernel itself asks again after the one, and not after the other.
    for code in [0x922, 0x908] {
        let mut times = 0;
        let mut guest = boot_with("", move |command, ask| {
            times += u32::from(is(command, PCR_EVENT));
            let is_busy = is(command, PCR_EVENT) && times < 4;
            Ok(Some(if is_busy { bare(0x8001, code) } else { ask(command)? }))
        });
        let chain = predicted(&Disk::builder().build(), "");
        check_registers(&mut guest, &chain);
        guest.power_off();
    }
    let guest = with_answers(PCR_EVENT, "", |_| Some(bare(0x8001, 0x922)));
    check_end(guest, CANNOT, "the TPM answers 0x922 (TPM_RC_RETRY)");
}

#[test]
fn a_tpm_that_tells_another_digest_ends_the_boot() {
    let guest = with_answers(PCR_EVENT, "", |mut answer| {
        // The last byte of SHA-512, in front of what ends the session.
        let at = answer.len() - 6;
        answer[at] ^= 1;
        Some(answer)
    });
    check_end(guest, &format!("{CANNOT}the TPM's digest is "), "");
}

#[test]
fn a_tpm_that_tells_another_value_ends_the_boot() {
    let guest = boot_with("", |command, ask| {
        let mut answer = ask(command)?;
        if is(command, PCR_READ) && command[18] == 0x80 {
            *answer.last_mut().unwrap() ^= 1;
        }
        Ok(Some(answer))
    });
    check_end(guest, "measure: PCR 15 is ", "");
}

/// The digests are right; another register was extended.
#[test]
fn a_tpm_that_does_not_extend_the_register_ends_the_boot() {
    let guest = boot_with("", |command, ask| {
        let mut command = command.to_vec();
        if is(&command, PCR_EVENT) {
            command[13] = 16;
        }
        ask(&command).map(Some)
    });
    let zero = "00".repeat(32);
    check_end(guest, &format!("measure: PCR 15 is {zero} in bank sha256, not "), "");
}

#[test]
fn a_tpm_whose_answer_is_too_short_or_too_long_ends_the_boot() {
    let guest = with_answers(PCR_EVENT, "", |_| Some(bare(0x8002, 0)));
    check_end(guest, CANNOT, "the TPM's answer ends before it should");
    let guest = with_answers(PCR_EVENT, "", |mut answer| {
        answer.extend([0; 100]);
        resize(&mut answer);
        Some(answer)
    });
    check_end(
        guest,
        CANNOT,
        "the TPM's answer has another end than that of a session with a password",
    );
}

/// QEMU then answers in its place.
#[test]
fn a_tpm_that_goes_away_ends_the_boot() {
    let guest = boot_with("", |command, ask| {
        if is(command, PCR_EVENT) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        ask(command).map(Some)
    });
    check_end(guest, CANNOT, "the TPM answers 0x9 as a TPM 1.2 does, not as a 2.0");
}

/// By the firmware, or by the host: it shows, and a verifier sees it.
#[test]
fn a_register_that_somebody_else_has_extended_is_extended_all_the_same() {
    let mut other = Some(Event::new("somebody", "else").unwrap());
    let mut guest = boot_with("", move |command, ask| {
        let answer = ask(command)?;
        if is(command, GET_CAPABILITY)
            && command[10..14] == CAP_PCRS
            && let Some(event) = other.take()
        {
            ask(&tpm2::measure(15, &event))?;
        }
        Ok(Some(answer))
    });
    let report = guest.report();
    let value = register(&mut guest, "sha256");
    assert_eq!(report["measured"]["values"][0], json!({ "bank": "sha256", "value": value }));
    let chain = predicted(&Disk::builder().build(), "");
    assert_ne!(value, chain.sha256[&IDENTITY].to_string());
    assert_eq!(records(&mut guest).len(), 3);
    let warning = "cvm-init: PCR 15 is not zero before this boot is recorded";
    assert!(guest.serial().contains(warning), "{}", guest.serial());
    guest.power_off();
}

/// The kernel waits for it for two minutes, also when it stops: the machine restarts in place of
/// that.
#[test]
fn a_tpm_that_hangs_ends_the_boot() {
    let mut guest = with_answers(PCR_EVENT, "cvm.timeout=10", |_| None);
    guest.wait_serial("FATAL", LIMIT);
    let ending = guest.wait_ending(END);
    assert_eq!(guest.fatal_line(), format!("{CANNOT}no end within 10 s"));
    assert!([Ending::PowerOff, Ending::Reset].contains(&ending), "{ending:?}");
}
