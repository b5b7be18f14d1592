//! Headers on partition 4 that are swapped or altered as soon as they are written, and after.

use super::leak::check_volume;
use super::luks2::Forged;
use super::{touches, vm_of};
use crate::disk::{Disk, Part};
use crate::guest::Ending;
use crate::served::{Lie, On, Served};
use crate::vm::Vm;

/// Bytes of LUKS2 header, keyslots included; behind it lies dm-integrity's superblock.
const HEADER: u64 = 16 << 20;

/// Swaps the guest's LUKS2 header for another one when it has been written, and boots.
#[track_caller]
fn a_swapped_header_changes_nothing(forged: &Forged) {
    let disk = Disk::builder().build();
    let bytes = forged.bytes();
    // The second copy is written last.
    let second = disk.place(Part::Cocos, 16384);
    let lie = Lie::on(On::Write, second).puts(disk.place(Part::Cocos, 0), &bytes);
    let served = Served::lying(&disk, vec![lie]);
    let mut guest = vm_of(&disk, &served).boot();
    check_volume(&mut guest, &disk, &served);
    // It was there all the time, and nobody looked.
    assert!(disk.read(Part::Cocos, 0, bytes.len()) == bytes, "the header was not swapped");
    let reads = served.reads();
    let looks = reads.iter().filter(|read| touches(&disk, Part::Cocos, 0, HEADER, **read));
    assert_eq!(looks.count(), 0);
    guest.power_off();
}

#[test]
fn a_header_without_encryption_in_place_of_ours_changes_nothing() {
    a_swapped_header_changes_nothing(&Forged::with_the_null_cipher());
}

#[test]
fn a_header_with_an_attackers_key_in_place_of_ours_changes_nothing() {
    a_swapped_header_changes_nothing(&Forged::with_an_attackers_key());
}

/// What the kernel writes to partition 4 of these tests when it formats dm-integrity: magic,
/// version, interleave, tag size, journal sections; provided sectors; flags, block size. Its
/// `drivers/md/dm-integrity.c` has the layout, and [`the_forged_superblock_is_the_kernels_own`]
/// holds it against the running kernel.
const SUPERBLOCK: [u8; 32] = [
    b'i', b'n', b't', b'e', b'g', b'r', b't', 0, 1, 15, 28, 0, 1, 0, 0, 0, //
    0xf0, 0x7b, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 12, 0, 0,
];

/// Where a field lies in it, and what the host puts there.
type Alteration = (usize, &'static [u8]);

const OTHER_BLOCK_SIZE: Alteration = (28, &[0]);
const OTHER_TAG_SIZE: Alteration = (10, &[4, 0]);
const FEWER_SECTORS: Alteration = (16, &[0xf8, 0xbd, 0, 0]);
const OTHER_INTERLEAVE: Alteration = (9, &[3]);
const ALL_FLAGS: Alteration = (24, &[0x3f]);

/// When the superblock is altered. The kernel reads it for each table it loads and at each resume;
/// a first, short table makes it format, the second is the one that stays.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Moment {
    /// Where the kernel is to find zeros.
    BeforeFormat,
    BeforeFirstResume,
    BeforeSecondLoad,
    BeforeSecondResume,
    AfterSecondResume,
}

const MOMENTS: [Moment; 5] = [
    Moment::BeforeFormat,
    Moment::BeforeFirstResume,
    Moment::BeforeSecondLoad,
    Moment::BeforeSecondResume,
    Moment::AfterSecondResume,
];

/// Alters the superblock at a moment and boots. Either the boot ends in one fatal line, or the
/// volume is the one that was asked for. Returns the line.
#[track_caller]
fn boot_on_an_altered_superblock(alteration: Alteration, moment: Moment) -> Option<String> {
    let disk = Disk::builder().build();
    let served = altering(&disk, alteration, moment);
    let mut guest = tags_on(&disk, &served).boot();
    let ending = guest.booted_or_ended();
    let (at, value) = alteration;
    let there = disk.read(Part::Cocos, HEADER + at as u64, value.len());
    assert_eq!(there, value, "it was not altered");
    if ending.is_none() {
        check_volume(&mut guest, &disk, &served);
        guest.power_off();
        return None;
    }
    assert_eq!(ending, Some(Ending::PowerOff));
    Some(guest.fatal_line())
}

/// Serves a disk whose superblock is altered at a moment.
fn altering(disk: &Disk, alteration: Alteration, moment: Moment) -> Served {
    let (at, value) = alteration;
    let mut superblock = SUPERBLOCK;
    superblock[at..at + value.len()].copy_from_slice(value);
    let place = disk.place(Part::Cocos, HEADER);
    let lie = match moment {
        Moment::AfterSecondResume => {
            // The first block of data: superblock, journal and a first run of tags lie before it.
            Lie::on(On::Write, place + 0x42000)
        }
        other => Lie::on(On::Read, place).from(other as u32 + 1),
    };
    Served::lying(disk, vec![lie.puts(place, &superblock)])
}

/// Only where the tags lie on the disk has the disk a superblock.
fn tags_on(disk: &Disk, served: &Served) -> Vm {
    vm_of(disk, served).append("cvm.tags=disk quiet")
}

#[test]
fn the_forged_superblock_is_the_kernels_own() {
    let disk = Disk::builder().build();
    let served = Served::lying(&disk, Vec::new());
    let mut guest = tags_on(&disk, &served).boot();
    check_volume(&mut guest, &disk, &served);
    assert_eq!(disk.read(Part::Cocos, HEADER, 32), SUPERBLOCK);
    guest.power_off();
}

const REFUSED: &str = "volume: cannot load the integrity table of cocos_crypt_dif: Invalid \
                       argument (os error 22)";
const UNUSABLE: &str = "volume: cannot sync the file system: I/O error (os error 5)";

#[track_caller]
fn is_held(alteration: Alteration, expected: [Option<&str>; 5]) {
    for (moment, expected) in MOMENTS.into_iter().zip(expected) {
        let reason = boot_on_an_altered_superblock(alteration, moment);
        assert_eq!(reason.as_deref(), expected, "{alteration:?} {moment:?}");
    }
}

/// One moment each; the tests below have them all.
#[test]
fn an_altered_integrity_superblock_ends_the_boot_or_changes_nothing() {
    for (alteration, moment, expected) in [
        (OTHER_BLOCK_SIZE, Moment::BeforeSecondLoad, Some(REFUSED)),
        (OTHER_TAG_SIZE, Moment::BeforeFirstResume, Some(REFUSED)),
        (FEWER_SECTORS, Moment::AfterSecondResume, None),
    ] {
        let reason = boot_on_an_altered_superblock(alteration, moment);
        assert_eq!(reason.as_deref(), expected, "{alteration:?} {moment:?}");
    }
}

#[test]
#[ignore = "scripts/test --all"]
fn another_block_size_in_the_superblock_at_any_moment() {
    is_held(OTHER_BLOCK_SIZE, [Some(REFUSED), Some(REFUSED), Some(REFUSED), Some(UNUSABLE), None]);
}

#[test]
#[ignore = "scripts/test --all"]
fn another_tag_size_in_the_superblock_at_any_moment() {
    is_held(OTHER_TAG_SIZE, [Some(REFUSED), Some(REFUSED), Some(REFUSED), None, None]);
}

#[test]
#[ignore = "scripts/test --all"]
fn another_interleave_in_the_superblock_at_any_moment() {
    is_held(OTHER_INTERLEAVE, [Some(UNUSABLE), Some(REFUSED), Some(REFUSED), Some(UNUSABLE), None]);
}

/// A limit: told at a resume to go on with a recalculation, for which this mode has no worker, the
/// kernel stumbles in the middle of a call of ours. The machine is off all the same.
#[test]
#[ignore = "scripts/test --all"]
fn every_flag_in_the_superblock_at_a_resume_stops_the_machine() {
    let disk = Disk::builder().build();
    let served = altering(&disk, ALL_FLAGS, Moment::BeforeFirstResume);
    let mut guest = tags_on(&disk, &served).boot();
    assert_eq!(guest.booted_or_ended(), Some(Ending::PowerOff));
    assert!(guest.serial().contains("dm_integrity_resume"), "the kernel did not stumble");
    // There is exactly one.
    guest.fatal_line();
}
