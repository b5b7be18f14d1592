//! Boots that hand over to another kernel of the verified root.

use crate::kit::artefacts::{self, DEFAULT_CIPHER};
use crate::kit::disk::{Disk, Part};
use crate::kit::guest::Ending;
use crate::kit::kernel::{self, Kernel};
use crate::kit::root::{Node, Root};
use crate::kit::tool::{Scratch, command, run};
use crate::kit::tpm::Tpm;
use crate::kit::vm::Vm;
use crate::refused::refusal_that_writes_nothing;
use cvm_init::format::cmdline;
use cvm_tools::measure::record::Record;
use cvm_tools::measure::tpm::{Chain, IDENTITY};
use serde_json::json;
use std::fs;
use std::time::Duration;

/// Where a kernel and its initramfs have room.
const SIZE: &str = "48M";

/// The words that name the files of [`root`].
pub(crate) const WORDS: &str = "cvm.handoff=kexec cvm.kexec_kernel=/vmlinuz \
                                cvm.kexec_initramfs=/boot/initramfs cvm.kexec_cmdline=/boot/cmdline";

/// A root with this kernel, its initramfs, and the command line for it. The kernel is found as Debian
/// has it: by a link.
pub(crate) fn root(kernel: Kernel, image: Vec<u8>, cmdline: impl Into<Vec<u8>>) -> Root {
    let initramfs = fs::read(artefacts::initramfs_of(kernel, DEFAULT_CIPHER)).unwrap();
    Root::builder()
        .size(SIZE)
        .with(Node::directory("boot"))
        .with(Node::link("vmlinuz", "/boot/vmlinuz"))
        .with(Node::file("boot/vmlinuz", image))
        .with(Node::file("boot/initramfs", initramfs))
        .with(Node::file("boot/cmdline", cmdline))
        .build()
}

/// The same with the kernel as it is shipped, and a line that shows the boot.
pub(crate) fn standard(kernel: Kernel, words: &str) -> Root {
    let image = fs::read(kernel.image()).unwrap();
    root(kernel, image, format!("{} {words}\n", kernel::WORDS))
}

/// What the first kernel's boot showed on the console, and what the second's did.
fn parts(serial: &str) -> (&str, &str) {
    serial.split_once("cvm-init: handing over to the kernel /vmlinuz").expect("a handoff")
}

/// What shows in a boot that logs each effect, and is only done for a volume: for a key first of all.
const OF_A_VOLUME: &[&str] =
    &["generate the volume key", "add the volume key", "LUKS2 header", "cocos_crypt"];

#[test]
fn a_newer_kernel_of_the_root_proves_it_again_and_boots() {
    let second = "cvm.tags=disk cvm.shares=no cvm.log=debug loglevel=8";
    let disk = Disk::builder().root(&standard(Kernel::TRIXIE, second)).build();
    let first = format!("{} {WORDS} cvm.log=debug loglevel=8", disk.verity_parameters);
    let mut guest = Vm::of(&disk).append(&first).tpm(Tpm::honest()).boot();

    let hello = guest.hello();
    assert_eq!((&hello["pid"], &hello["arguments"]), (&json!(1), &json!(["/sbin/init"])));
    let release = guest.read("/proc/sys/kernel/osrelease");
    assert!(release.starts_with("6.12."), "{release}");
    // The words that prove the root in front, and then what the file has, without its line feed.
    let root = format!("roothash={} {}", disk.roothash, disk.verity_parameters);
    let line = guest.read("/proc/cmdline");
    assert_eq!(line.trim_end_matches('\n'), format!("{root} {} {second}", kernel::WORDS));
    let report = guest.report();
    assert_eq!(report["verity"]["root_hash"], disk.roothash);
    assert_eq!(report["verity"]["parameters_from"], "command line");
    assert_eq!(report["volume"]["tags"], "disk");

    let serial = guest.serial();
    let (before, after) = parts(&serial);
    assert!(before.contains("cvm-init: root verified and mounted read-only, ext4"));
    assert!(before.contains("cvm-init: taken down, mappings left: none"));
    for mark in OF_A_VOLUME {
        let shown = |part: &str| {
            part.lines().any(|line| line.contains("cvm-init: ") && line.contains(mark))
        };
        assert_eq!((shown(before), shown(after)), (false, true), "{mark}");
    }
    assert!(after.contains("cvm-init: root verified and mounted read-only, ext4"));

    // The register goes on over both boots.
    let record = |words: &str| Record::of(words, "").unwrap().events();
    let events = [record(&format!("{root} {WORDS}")), record(&format!("{root} {second}"))].concat();
    assert_eq!(events.len(), 5);
    let value = Chain::of(Vec::new(), events).sha256[&IDENTITY].to_string();
    let held = guest.read("/sys/class/tpm/tpm0/pcr-sha256/15");
    assert_eq!(held.trim().to_ascii_lowercase(), value);
    guest.power_off();
}

/// An image as Debian ships it, but for its signature.
fn unsigned(kernel: Kernel) -> Vec<u8> {
    let folder = Scratch::new("unsigned");
    let image = folder.join("vmlinuz");
    fs::copy(kernel.image(), &image).unwrap();
    run(command("sbattach").arg("--remove").arg(&image));
    fs::read(&image).unwrap()
}

/// Boots with this root, to the end that it must have.
#[track_caller]
fn refusal(root: &Root, words: &str) -> String {
    let disk = Disk::builder().root(root).build();
    refusal_that_writes_nothing(Vm::of(&disk).append(words), &disk)
}

const CANNOT: &str = "handoff: cannot load the kernel /vmlinuz with /boot/initramfs: ";

#[test]
fn a_kernel_that_is_locked_down_takes_no_unsigned_one() {
    let root = root(Kernel::RUNNING, unsigned(Kernel::RUNNING), kernel::WORDS);
    assert_eq!(
        refusal(&root, &format!("{WORDS} lockdown=integrity")),
        format!(
            "{CANNOT}Operation not permitted (os error 1): the kernel is locked down and the image \
             has no signature of a key that it trusts, or kernel.kexec_load_disabled is set"
        )
    );
}

/// Debian's key is in no kernel of Debian's: it comes from the firmware, which is not there.
#[test]
#[ignore = "a boot: scripts/test --all"]
fn a_kernel_that_is_locked_down_takes_none_of_a_key_that_it_does_not_know() {
    let root = standard(Kernel::RUNNING, "");
    let reason = refusal(&root, &format!("{WORDS} lockdown=confidentiality"));
    assert!(reason.starts_with(CANNOT) && reason.contains("of a key that it trusts"), "{reason}");
}

#[test]
#[ignore = "a boot each: scripts/test --all"]
fn files_that_are_no_kernel_or_not_there_are_refused() {
    let root = root(Kernel::RUNNING, b"no kernel".to_vec(), kernel::WORDS);
    assert_eq!(
        refusal(&root, WORDS),
        format!("{CANNOT}Exec format error (os error 8): it is no kernel that this one can start")
    );
    for (key, file, cause) in [
        ("kernel", "/boot/none", "No such file or directory (os error 2)"),
        ("initramfs", "/boot", "it is no regular file"),
        // A name leads to nothing outside of the root.
        ("cmdline", "/../proc/cmdline", "No such file or directory (os error 2)"),
    ] {
        let other = WORDS.split(' ').filter(|word| !word.contains(&format!("_{key}=")));
        let words = other.collect::<Vec<_>>().join(" ");
        assert_eq!(
            refusal(&root, &format!("{words} cvm.kexec_{key}={file}")),
            format!("handoff: cannot find {file} in the root: {cause}")
        );
    }
}

#[test]
#[ignore = "a boot each: scripts/test --all"]
fn a_command_line_that_no_kernel_takes_is_refused() {
    for (content, cause) in [
        ("console=ttyS0\nquiet\n".to_owned(), "byte 13 is 0x0a, which is not printable ASCII"),
        (
            "a".repeat(5000),
            "it is longer than 1942 bytes, the most that the kernel hands on behind ",
        ),
    ] {
        let reason = refusal(&root(Kernel::RUNNING, Vec::new(), content), WORDS);
        assert!(reason.starts_with(&format!("handoff: /boot/cmdline: {cause}")), "{reason}");
    }
}

#[test]
#[ignore = "a boot: scripts/test --all"]
fn a_kernel_that_may_load_no_other_is_refused() {
    let reason = refusal(
        &standard(Kernel::RUNNING, ""),
        &format!("{WORDS} sysctl.kernel.kexec_load_disabled=1"),
    );
    assert!(
        reason.starts_with(CANNOT) && reason.ends_with("kexec_load_disabled is set"),
        "{reason}"
    );
}

/// The first boot has written nothing that the second could have come to.
#[test]
#[ignore = "two boots: scripts/test --all"]
fn a_second_boot_that_ends_at_its_words_finds_nothing_written() {
    let root = standard(Kernel::RUNNING, &format!("roothash={}", "00".repeat(32)));
    assert_eq!(refusal(&root, WORDS), "config: roothash= is given twice");
}

/// A block of the kernel that the host has altered is found before it is run.
#[test]
#[ignore = "a boot: scripts/test --all"]
fn a_kernel_that_is_altered_is_not_loaded() {
    let root = standard(Kernel::RUNNING, "");
    let image = fs::read(Kernel::RUNNING.image()).unwrap();
    let middle = &image[4 << 20..][..64];
    let data = fs::read(&root.data).unwrap();
    let at = data.windows(64).position(|bytes| bytes == middle).unwrap();
    let altered = [data[at] ^ 1];
    let disk = Disk::builder().root(&root).patch(Part::Root, at as u64, &altered).build();
    let reason = refusal_that_writes_nothing(Vm::of(&disk).append(WORDS), &disk);
    assert_eq!(reason, format!("{CANNOT}I/O error (os error 5)"));
}

/// There is no volume to make, so none has to be there. The command line is as long as it can be.
#[test]
#[ignore = "two boots: scripts/test --all"]
fn the_first_boot_needs_no_place_for_a_volume() {
    let length = cmdline::BYTES_MAX - "roothash= ".len() - 64 - kernel::WORDS.len();
    let words = format!("{:<1$}", "cvm.timeout=5", length - 2) + "!";
    let root = standard(Kernel::RUNNING, &words);
    let disk = Disk::builder().root(&root).without(Part::Cocos).build();
    let mut guest = Vm::of(&disk).append(WORDS).boot();
    assert_eq!(guest.wait_ending(Duration::from_secs(180)), Ending::PowerOff);
    assert!(guest.fatal_line().contains("it has no partition 4"), "{}", guest.fatal_line());
    parts(&guest.serial());
}
