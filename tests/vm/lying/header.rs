//! Headers on partition 4 that are swapped or altered as soon as they are written, and after.

use super::leak::check_volume;
use super::luks2::Forged;
use super::{touches, vm_of};
use crate::kit::disk::{Disk, Part};
use crate::kit::served::{Lie, On, Served};

/// Bytes of LUKS2 header, keyslots included; behind it lies the ciphertext.
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

/// What the kernel would write there if it formatted dm-integrity on the disk: magic, version,
/// interleave, tag size, journal sections; provided sectors; flags, here all of them, and block size.
/// Its `drivers/md/dm-integrity.c` has the layout.
const SUPERBLOCK: [u8; 32] = [
    b'i', b'n', b't', b'e', b'g', b'r', b't', 0, 1, 15, 28, 0, 1, 0, 0, 0, //
    0xf0, 0x7b, 1, 0, 0, 0, 0, 0, 0x3f, 0, 0, 0, 3, 12, 0, 0,
];

/// With tags on the disk, dm-integrity's superblock and journal lie in memory all the same: there is
/// nothing that the host could alter between two looks at it.
#[test]
fn an_integrity_superblock_on_the_disk_is_never_looked_at() {
    let disk = Disk::builder().build();
    let forgeries: Vec<_> = SUPERBLOCK.into_iter().cycle().take(4 << 20).collect();
    let size = disk.size(Part::Cocos);
    // At the start of the ciphertext, and where the tags are, behind it.
    let places = [HEADER, size - forgeries.len() as u64];
    for place in places {
        disk.write(Part::Cocos, place, &forgeries);
    }
    let served = Served::lying(&disk, Vec::new());
    let mut guest = vm_of(&disk, &served).append("cvm.tags=disk quiet").boot();
    guest.hello();
    let reads = served.reads();
    let looks = reads.iter().filter(|read| touches(&disk, Part::Cocos, 0, size, **read));
    assert_eq!(looks.count(), 0);
    check_volume(&mut guest, &disk, &served);
    guest.power_off();
}
