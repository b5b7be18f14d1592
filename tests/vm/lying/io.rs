//! Disks that fail, end early, go away, or hold nothing but noise.

use super::leak::{check_volume, noise};
use super::{touches, vm_of};
use crate::kit::artefacts;
use crate::kit::disk::{Disk, Part};
use crate::kit::guest::{Ending, Guest};
use crate::kit::kernel::Arch;
use crate::kit::served::{Hold, Lie, On, Served};
use crate::kit::vm::Vm;
use crate::refused::refusal;
use serde_json::json;
use std::fs;

const MIB: u64 = 1 << 20;
const EIO: i32 = 5;
const ENODEV: i32 = 19;
const PINNED: &str = "cvm.disk=/dev/sda quiet";
const NO_PARTITIONS: &str = "disk: no disk that proves roothash= within 5 s; sda: the kernel found no partition on it: \
     is its table missing, damaged, or made for a larger disk?";
const NO_HEADER: &str = "volume: cannot sync sda4: I/O error (os error 5)";

/// The first blocks of data, behind the header.
const DATA: u64 = 16 * MIB;

/// The fatal line of a boot that nbdkit's own plugins and filters serve a disk to.
#[track_caller]
fn refusal_by(disk: &Disk, arguments: &[&str]) -> String {
    let image = disk.path().display().to_string();
    let arguments: Vec<_> =
        arguments.iter().map(|word| if *word == "IMAGE" { &*image } else { word }).collect();
    let served = Served::by(&arguments);
    refusal(vm_of(disk, &served).append("cvm.timeout=5 quiet"))
}

#[test]
fn a_disk_that_fails_every_read() {
    let disk = Disk::builder().build();
    let arguments = ["--filter=error", "file", "IMAGE", "error-pread-rate=100%"];
    assert_eq!(refusal_by(&disk, &arguments), NO_PARTITIONS);
}

/// It ends in the middle of partition 4, so that its table no longer fits it.
#[test]
fn a_disk_that_is_shorter_than_its_table_says() {
    let disk = Disk::builder().build();
    let arguments = ["--filter=truncate", "file", "IMAGE", "truncate=50000001"];
    assert_eq!(refusal_by(&disk, &arguments), NO_PARTITIONS);
}

#[test]
fn a_disk_full_of_random_bytes() {
    let disk = Disk::builder().build();
    let arguments = ["--filter=cow", "random", "size=84M", "seed=7"];
    assert_eq!(refusal_by(&disk, &arguments), NO_PARTITIONS);
}

/// The fatal line of a boot in which the requests that `on` and the place name come to no good.
#[track_caller]
fn refusal_with(on: On, part: Part, offset: u64, come_to: fn(Lie) -> Lie) -> String {
    let disk = Disk::builder().build();
    let lie = come_to(Lie::on(on, disk.place(part, offset)));
    let served = Served::lying(&disk, vec![lie]);
    refusal(vm_of(&disk, &served).append(PINNED))
}

#[test]
#[ignore = "scripts/test --all"]
fn a_verity_superblock_that_cannot_be_read() {
    assert_eq!(
        refusal_with(On::Read, Part::Verity, 0, Lie::fails),
        "disk: sda: cannot read the verity superblock of sda3: I/O error (os error 5)"
    );
}

#[test]
#[ignore = "scripts/test --all"]
fn a_root_that_cannot_be_read() {
    assert_eq!(
        refusal_with(On::Read, Part::Root, 0, Lie::fails),
        "root: cannot read the root's superblock: I/O error (os error 5)"
    );
}

#[test]
#[ignore = "scripts/test --all"]
fn a_header_that_cannot_be_written() {
    assert_eq!(refusal_with(On::Write, Part::Cocos, 0, Lie::fails), NO_HEADER);
}

/// A boot writes nothing but the header, so the guest is the first to find out.
#[test]
fn data_that_cannot_be_written_gives_io_errors() {
    let disk = Disk::builder().build();
    let lie = Lie::on(On::Write, disk.place(Part::Cocos, DATA)).fails();
    let served = Served::lying(&disk, vec![lie]);
    let mut guest = vm_of(&disk, &served).boot();
    guest.hello();
    let metadata = guest.report()["volume"]["metadata_memory_max"].as_u64().unwrap() - 2 * MIB;
    let first = json!({
        "path": "/dev/mapper/cocos_crypt", "offset": metadata, "bytes": 4096, "seed": 1,
        "direct": true,
    });
    assert_eq!(guest.call("pattern_write", first).unwrap_err().errno, Some(EIO));
    guest.power_off();
}

/// The answer to a request ends in its middle, and nobody is there for the next one.
#[test]
fn a_server_that_is_gone_in_the_middle_of_a_write() {
    assert_eq!(refusal_with(On::Write, Part::Cocos, 0, Lie::vanishes), NO_HEADER);
}

#[test]
#[ignore = "scripts/test --all"]
fn a_server_that_is_gone_in_the_middle_of_a_read() {
    assert_eq!(
        refusal_with(On::Read, Part::Verity, 0, Lie::vanishes),
        "disk: sda: cannot read the verity superblock of sda3: I/O error (os error 5)"
    );
}

/// Each read takes longer, and none too long.
#[test]
fn a_slow_disk_boots() {
    let disk = Disk::builder().build();
    let served = Served::lying_behind(&disk, &["--filter=delay", "rdelay=100ms"], Vec::new());
    let mut guest = vm_of(&disk, &served).boot();
    check_volume(&mut guest, &disk, &served);
    guest.power_off();
}

/// How the machine ends, and why, when requests take minutes.
#[track_caller]
fn end_when_late(served: &Served, disk: &Disk) -> (String, Ending) {
    let mut guest = vm_of(disk, served).append("cvm.timeout=5").boot();
    let ending = guest.wait_ending(super::LIMIT);
    (guest.fatal_line(), ending)
}

/// The fatal line when the requests that `on` and the place name take minutes.
#[track_caller]
fn reason_when_late(on: On, part: Part, offset: u64) -> String {
    let disk = Disk::builder().build();
    let lie = Lie::on(on, disk.place(part, offset)).stalls(300);
    let (reason, ending) = end_when_late(&Served::lying(&disk, vec![lie]), &disk);
    assert!(matches!(ending, Ending::PowerOff | Ending::Reset), "{ending:?}");
    reason
}

/// The kernel waits for the partition table while it loads the driver. The firmware reads the first
/// sector only, so that it is not held up.
#[test]
#[ignore = "scripts/test --all"]
fn a_partition_table_that_takes_minutes() {
    let disk = Disk::builder().build();
    let served = Served::lying(&disk, vec![Lie::on(On::Read, 512).stalls(300)]);
    let (reason, ending) = end_when_late(&served, &disk);
    assert!(reason.ends_with("sd_mod.ko: no end within 5 s"), "{reason}");
    // An orderly end would wait for the disk too.
    assert_eq!(ending, Ending::Reset);
}

#[test]
#[ignore = "scripts/test --all"]
fn a_verity_superblock_that_takes_minutes() {
    assert_eq!(
        reason_when_late(On::Read, Part::Verity, 0),
        "disk: cannot read the verity superblock of sda3: no end within 5 s"
    );
}

#[test]
#[ignore = "scripts/test --all"]
fn a_root_that_takes_minutes() {
    assert_eq!(
        reason_when_late(On::Read, Part::Root, 0),
        "root: cannot read the root's superblock: no end within 5 s"
    );
}

#[test]
fn a_header_that_takes_minutes() {
    assert_eq!(
        reason_when_late(On::Write, Part::Cocos, 0),
        "volume: cannot sync sda4: no end within 5 s"
    );
}

/// What exec reads is read before, while somebody watches over time: the last block of the program,
/// which nobody has asked for until then.
#[test]
fn an_init_whose_end_takes_minutes() {
    let disk = Disk::builder().build();
    let program = fs::read(artefacts::agent(Arch::X86)).unwrap();
    let last = program.chunks(4096).nth_back(1).unwrap();
    let root = disk.read(Part::Root, 0, usize::try_from(disk.size(Part::Root)).unwrap());
    let block = root.chunks(4096).position(|block| block == last).unwrap();
    let lie = Lie::on(On::Read, disk.place(Part::Root, block as u64 * 4096)).stalls(300);
    let (reason, ending) = end_when_late(&Served::lying(&disk, vec![lie]), &disk);
    assert_eq!(reason, "handoff: cannot read /sbin/init: no end within 5 s");
    assert!(matches!(ending, Ending::PowerOff | Ending::Reset), "{ending:?}");
}

/// Some requests fail, by chance: the boot ends as it must, or /cocos is what it must be.
#[test]
#[ignore = "scripts/test --all"]
fn a_disk_that_fails_now_and_then() {
    for rate in ["1%", "3%", "10%"] {
        let disk = Disk::builder().build();
        let rate = format!("error-rate={rate}");
        let served = Served::lying_behind(&disk, &["--filter=error", &rate], Vec::new());
        let mut guest = vm_of(&disk, &served).append("cvm.timeout=5").boot();
        if guest.booted_or_ended().is_some() {
            assert_eq!(guest.wait_ending(super::LIMIT), Ending::PowerOff);
            guest.fatal_line();
        } else {
            // Reads and writes may fail; what was asked for is there, and none of it in clear.
            super::leak::check_ciphertext(&mut guest, &disk, &served);
        }
    }
}

/// Boots, and unplugs the disk while the request that `on` and the place name has no answer yet.
#[track_caller]
fn refusal_when_unplugged(on: On, part: Part, offset: u64) -> String {
    let disk = Disk::builder().build();
    let hold = Hold::new();
    let lie = Lie::on(on, disk.place(part, offset)).holds(&hold);
    let served = Served::lying(&disk, vec![lie]);
    let mut guest = vm_of(&disk, &served).append(PINNED).append("cvm.timeout=5").boot();
    let request = hold.wait();
    guest.unplug(0, || drop(request));
    assert_eq!(guest.wait_ending(super::LIMIT), Ending::PowerOff);
    guest.fatal_line()
}

#[test]
fn a_disk_that_is_unplugged_while_the_volume_is_made() {
    let reason = refusal_when_unplugged(On::Write, Part::Cocos, 0);
    assert!(reason.starts_with("volume: cannot "), "{reason}");
}

#[test]
#[ignore = "scripts/test --all"]
fn a_disk_that_is_unplugged_while_it_is_looked_at() {
    let reason = refusal_when_unplugged(On::Read, Part::Verity, 0);
    // The answer that was held may still prove the root hash.
    let stages = ["disk: ", "root: cannot "];
    assert!(stages.iter().any(|stage| reason.starts_with(stage)), "{reason}");
}

#[test]
#[ignore = "scripts/test --all"]
fn a_disk_that_is_unplugged_while_the_root_is_opened() {
    let reason = refusal_when_unplugged(On::Read, Part::Root, 0);
    assert!(reason.starts_with("root: cannot "), "{reason}");
}

/// While the kernel takes the disk out a request fails with ENODEV (`BLK_STS_OFFLINE`,
/// block/blk-core.c), once it is out with EIO.
#[test]
fn a_disk_that_is_unplugged_after_the_boot_gives_io_errors() {
    let disk = Disk::builder().build();
    let mut guest = Vm::of(&disk).boot();
    guest.hello();
    guest.unplug(0, || ());
    let write = |guest: &mut Guest| {
        let span = json!({
            "path": "/dev/mapper/cocos_crypt", "offset": 20 * MIB, "bytes": 4096, "seed": 1,
            "direct": true,
        });
        guest.call("pattern_write", span)
    };
    let errno = write(&mut guest).unwrap_err().errno;
    assert!([Some(EIO), Some(ENODEV)].contains(&errno), "{errno:?}");
    guest.power_off();
}

/// What lay on partition 4 before is never read, be it noise.
#[test]
fn random_bytes_on_partition_4_are_no_matter() {
    let disk = Disk::builder().build();
    let size = usize::try_from(disk.size(Part::Cocos)).unwrap();
    disk.write(Part::Cocos, 0, &noise(size));
    let served = Served::lying(&disk, Vec::new());
    let mut guest = vm_of(&disk, &served).boot();
    check_volume(&mut guest, &disk, &served);
    let reads = served.reads();
    assert!(!reads.iter().any(|read| touches(&disk, Part::Cocos, 0, 16 * MIB, *read)));
    guest.power_off();
}
