//! Boots that must not happen: a reason on one line, the machine off, partition 4 untouched.

use crate::kit::artefacts;
use crate::kit::disk::{Disk, Part};
use crate::kit::guest::{Ending, Guest};
use crate::kit::root::{Node, Root};
use crate::kit::vm::{Bus, Vm};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// From power-on to power-off, emulated.
const LIMIT: Duration = Duration::from_secs(120);

/// Names the disk, so that what is wrong with it is told at once and not when the time is up.
pub(crate) const PINNED: &str = "cvm.disk=/dev/sda quiet";

/// Boots to the end that a failure must have, and returns its fatal line.
#[track_caller]
pub(crate) fn refusal(vm: Vm) -> String {
    let mut guest = vm.boot();
    assert_eq!(guest.wait_ending(LIMIT), Ending::PowerOff);
    guest.fatal_line()
}

/// The same for what is refused before anything is written.
#[track_caller]
pub(crate) fn refusal_that_writes_nothing(vm: Vm, disk: &Disk) -> String {
    let reason = refusal(vm);
    for offset in [0, 16 * MIB] {
        let length = usize::try_from(MIB.min(disk.size(Part::Cocos) - offset)).unwrap();
        let untouched = disk.read(Part::Cocos, offset, length).iter().all(|&byte| byte == 0);
        assert!(untouched, "partition 4 was written to at {offset}");
    }
    reason
}

#[test]
fn a_command_line_without_root_hash() {
    let disk = Disk::builder().build();
    let vm = Vm::new().disk(&disk).append(PINNED);
    assert_eq!(refusal_that_writes_nothing(vm, &disk), "config: roothash= is missing");
}

#[test]
fn an_unknown_key() {
    let disk = Disk::builder().build();
    let vm = Vm::of(&disk).append("cvm.encrypt=no");
    assert_eq!(refusal_that_writes_nothing(vm, &disk), "config: unknown key cvm.encrypt=");
}

#[test]
fn a_well_formed_root_hash_of_another_root() {
    let disk = Disk::builder().build();
    let other = "5a".repeat(32);
    let vm = Vm::new().disk(&disk).append(&format!("roothash={other} cvm.timeout=5 quiet"));
    assert_eq!(
        refusal_that_writes_nothing(vm, &disk),
        format!(
            "disk: no disk that proves roothash= within 5 s; sda: the top hash block does not \
             match the root hash: its digest is {}",
            disk.roothash
        )
    );
}

#[test]
fn no_disk_before_the_time_limit() {
    let roothash = "5a".repeat(32);
    let vm = Vm::new().append(&format!("roothash={roothash} cvm.timeout=5"));
    assert_eq!(
        refusal(vm),
        "disk: no disk that proves roothash= within 5 s; no disk at all was seen, CDs aside, but storage on PCI \
         without a driver (0000:00:1f.2 8086:2922): is its driver among the modules of the initramfs, or \
         built into the kernel?"
    );
}

/// The controller of the chipset is named.
#[test]
fn a_disk_whose_driver_is_not_there() {
    let disk = Disk::builder().build();
    let vm = Vm::new().disk_on(Bus::Ahci, disk.path());
    let vm = vm.append(&format!("roothash={} cvm.timeout=5", disk.roothash));
    let reason = refusal_that_writes_nothing(vm, &disk);
    let expected =
        "; no disk at all was seen, CDs aside, but storage on PCI without a driver (0000:00:1f.2 ";
    assert!(reason.contains(expected), "{reason}");
}

#[test]
fn an_initramfs_without_modules_for_a_kernel_that_needs_them() {
    let disk = Disk::builder().build();
    let vm = Vm::of(&disk).append("cvm.timeout=5");
    let reason = refusal(vm.initramfs(artefacts::initramfs_without_modules()));
    let storage = reason
        .strip_prefix("disk: no disk that proves roothash= within 5 s; no disk at all was seen, CDs aside, but storage on PCI without a driver (")
        .and_then(|rest| rest.strip_suffix("): is its driver built into the kernel? The initramfs has no modules"));
    // Virtio's and the chipset's.
    let storage = storage.unwrap_or_else(|| panic!("{reason}"));
    assert!(storage.contains(" 1af4:10") && storage.contains(" 8086:2922"), "{reason}");
}

#[test]
fn a_disk_without_a_partition_table() {
    let disk = Disk::builder().build();
    let file = File::options().write(true).open(disk.path()).unwrap();
    file.write_all_at(&vec![0; 34 * 512], 0).unwrap();
    assert_eq!(
        refusal(Vm::of(&disk).append("cvm.timeout=5")),
        "disk: no disk that proves roothash= within 5 s; sda: the kernel found no partition on it: \
         is its table missing, damaged, or made for a larger disk?"
    );
}

#[test]
fn a_pinned_disk_that_is_not_there() {
    let disk = Disk::builder().build();
    let vm = Vm::of(&disk).append("cvm.disk=serial:other cvm.timeout=5");
    assert_eq!(
        refusal_that_writes_nothing(vm, &disk),
        "disk: no usable disk with serial \"other\" within 5 s"
    );
}

#[test]
fn a_disk_without_partition_4() {
    let disk = Disk::builder().without(Part::Cocos).build();
    let vm = Vm::of(&disk).append("cvm.timeout=5");
    let digits = &disk.roothash;
    let uuid = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..32]];
    assert_eq!(
        refusal(vm),
        format!(
            "disk: no disk that proves roothash= within 5 s; sda: it has no partition 4, and none \
             with the UUID {}, the start of roothash=",
            uuid.join("-")
        )
    );
}

#[test]
fn a_partition_4_that_is_too_small() {
    let disk = Disk::builder().cocos(31 * MIB).build();
    let vm = Vm::of(&disk).append(PINNED);
    assert_eq!(
        refusal_that_writes_nothing(vm, &disk),
        "volume: sda4 is too small: 32505856 bytes, at least 33554432 are needed"
    );
}

#[test]
fn a_verity_superblock_with_another_magic() {
    let disk = Disk::builder().patch(Part::Verity, 0, b"VERITY").build();
    let vm = Vm::of(&disk).append(PINNED);
    assert_eq!(
        refusal_that_writes_nothing(vm, &disk),
        "disk: sda: verity superblock: magic is 5645524954590000, not 7665726974790000"
    );
}

#[test]
fn a_verity_superblock_that_claims_more_blocks_than_there_are() {
    let more = 1_000_000_u64.to_le_bytes();
    let disk = Disk::builder().patch(Part::Verity, 72, &more).build();
    let vm = Vm::of(&disk).append(PINNED);
    assert_eq!(
        refusal_that_writes_nothing(vm, &disk),
        "disk: sda: verity data blocks 1000000, but there is room for 4096"
    );
}

#[test]
fn a_hash_tree_that_is_damaged_at_the_top() {
    let disk = Disk::builder().patch(Part::Verity, 4096 + 17, b"!").build();
    let vm = Vm::of(&disk).append(PINNED);
    let reason = refusal_that_writes_nothing(vm, &disk);
    assert!(
        reason.starts_with("disk: sda: the top hash block does not match the root hash"),
        "{reason}"
    );
}

#[test]
fn a_root_whose_ext4_has_1024_byte_blocks() {
    let root = Root::builder().block_size(1024).build();
    let disk = Disk::builder().root(&root).build();
    let vm = Vm::of(&disk).append(PINNED);
    assert_eq!(
        refusal_that_writes_nothing(vm, &disk),
        "root: the root's ext4 has blocks of 1024 bytes, dm-verity needs 4096: make it with \
         mke2fs -b 4096"
    );
}

/// What is said of a root with these bytes in its first block.
#[track_caller]
fn refusal_of_root(offset: u64, bytes: &[u8]) -> String {
    let root = Root::builder().patch(offset, bytes).build();
    let disk = Disk::builder().root(&root).build();
    refusal_that_writes_nothing(Vm::of(&disk).append(PINNED), &disk)
}

/// As when it was copied while it was mounted.
#[test]
fn a_root_whose_journal_is_to_be_replayed() {
    assert_eq!(
        refusal_of_root(1024 + 0x60, &[0xc6]),
        "root: the root's ext4 was not unmounted, and its journal cannot be replayed here: run \
         e2fsck -fp on it before its hash tree is made"
    );
}

#[test]
fn a_root_whose_first_block_is_not_what_was_hashed() {
    let disk = Disk::builder().patch(Part::Root, 1024 + 0x38, b"!").build();
    let vm = Vm::of(&disk).append(PINNED);
    assert_eq!(
        refusal_that_writes_nothing(vm, &disk),
        "root: cannot read the root's superblock: I/O error (os error 5)"
    );
}

#[test]
fn a_root_without_cocos() {
    let root = Root::builder().without("cocos").build();
    let disk = Disk::builder().root(&root).build();
    let vm = Vm::of(&disk).append(PINNED);
    assert_eq!(
        refusal_that_writes_nothing(vm, &disk),
        "root: the root has no directory /cocos to mount on"
    );
}

/// What is wrong with the init of a root is found before the volume is made.
#[test]
fn a_root_without_init() {
    let root = Root::builder().without("usr/lib/agent/init").build();
    let disk = Disk::builder().root(&root).build();
    let vm = Vm::of(&disk).append(PINNED);
    assert_eq!(
        refusal_that_writes_nothing(vm, &disk),
        "root: cannot find /sbin/init in the root: No such file or directory (os error 2)"
    );
}

#[test]
fn an_init_that_is_not_executable() {
    let disk = Disk::builder().build();
    let vm = Vm::of(&disk).append(PINNED).append("init=/etc/hostname");
    assert_eq!(
        refusal_that_writes_nothing(vm, &disk),
        "root: cannot find /etc/hostname in the root: it is not executable"
    );
}

/// Boots with a kernel that lacks some modules.
#[track_caller]
fn refusal_without(modules: &[&str]) -> String {
    let disk = Disk::builder().build();
    let vm = Vm::of(&disk).append(PINNED).initramfs(artefacts::initramfs_without(modules));
    refusal(vm)
}

#[test]
fn a_kernel_without_dm_verity() {
    assert_eq!(
        refusal_without(&["dm_verity"]),
        "root: the kernel has no device-mapper target \"verity\" (kernel option DM_VERITY)"
    );
}

#[test]
fn a_kernel_without_dm_crypt() {
    assert_eq!(
        refusal_without(&["dm_crypt"]),
        "volume: the kernel has no device-mapper target \"crypt\" (kernel option DM_CRYPT)"
    );
}

#[test]
fn a_kernel_without_gcm() {
    // The processor's own gcm(aes) would do as well.
    assert_eq!(
        refusal_without(&["gcm", "aesni_intel"]),
        "volume: cannot load the table of cocos_crypt: No such file or directory \
         (os error 2) (aes-gcm-random needs the kernel options CRYPTO_AES, CRYPTO_GCM; \
         scripts/initramfs --cipher aes-gcm-random packs what is a module)"
    );
}

/// What is left when a boot fails late: no mapping, no mount. The root has room for both attributes,
/// in an inode that is larger than the volume's, and in a block; the volume has not.
#[test]
fn a_late_failure_takes_the_mappings_down() {
    let [small, large]: [&str; 2] = [700, 3900].map(|bytes| &*"x".repeat(bytes).leak());
    let file = Node::file("cocos_init/tagged", "x");
    let file = file.xattr("trusted.small", small).xattr("trusted.large", large);
    let root = Root::builder().options(&["-I", "1024"]).with(file).build();
    let disk = Disk::builder().root(&root).build();
    let mut guest = Vm::of(&disk).boot();
    assert_eq!(guest.wait_ending(LIMIT), Ending::PowerOff);
    assert_eq!(
        guest.fatal_line(),
        "runtime: cannot copy /cocos_init to /cocos/cocos_init: cannot copy tagged: its attribute \
         trusted.large of 3900 bytes: No space left on device (os error 28)"
    );
    assert!(guest.serial().contains("taken down, mappings left: none"));
}

/// `cvm.on_failure=` counts also when it stands beside what is wrong.
#[track_caller]
fn failed_boot(action: &str) -> Guest {
    Vm::new().append(&format!("cvm.on_failure={action}")).boot()
}

#[test]
fn a_failure_can_reboot() {
    assert_eq!(failed_boot("reboot").wait_ending(LIMIT), Ending::Reset);
}

#[test]
fn a_failure_can_halt() {
    let mut guest = failed_boot("halt");
    guest.wait_serial("reboot: System halted", LIMIT);
    assert_eq!(guest.fatal_line(), "config: roothash= is missing");
    assert_eq!(guest.qmp("query-status")["running"], true);
}

#[test]
fn a_failure_can_panic() {
    let mut guest = failed_boot("panic");
    // PID 1 has seen to it first of all that a panic restarts the machine.
    assert_eq!(guest.wait_ending(LIMIT), Ending::Reset);
    assert!(guest.serial().contains("Kernel panic - not syncing: Attempted to kill init!"));
}
