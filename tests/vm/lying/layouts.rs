//! The places that root and hash tree may have beside those of Cocos: what is altered there is as
//! little use to the host.

use super::gpt::edited;
use crate::formats::{EROFS, SQUASHFS};
use crate::kit::disk::{Builder, Disk, Part};
use crate::kit::kernel::Kernel;
use crate::kit::root::Format;
use crate::kit::served::{Lie, On, Served};
use crate::kit::vm::{Bus, Vm};
use crate::layouts::{Parameters, Place, Row, all_rows};
use crate::refused::{PINNED, refusal, refusal_that_writes_nothing};

/// A layout, and how such a disk is built.
type Layout = (&'static str, fn() -> Builder<'static>);

const LAYOUTS: &[Layout] = &[
    ("behind the data", || Disk::builder().tree_behind()),
    ("named", || Disk::builder().named()),
    ("named, behind the data", || Disk::builder().named().tree_behind()),
];

/// Bytes that the host puts somewhere, and how the fatal line then begins.
const LIES: &[(Part, u64, &[u8], &str)] = &[
    (
        Part::Root,
        1024 + 0x38,
        b"!",
        "root: cannot read the root's superblock: I/O error (os error 5)",
    ),
    (
        Part::Verity,
        4096 + 17,
        b"!",
        "disk: sda: the top hash block does not match the root hash: its digest is ",
    ),
    (
        Part::Verity,
        88,
        b"!",
        "disk: sda: the top hash block does not match the root hash: its digest is ",
    ),
    (
        Part::Verity,
        0,
        b"VERITY",
        "disk: sda: verity superblock: magic is 5645524954590000, not 7665726974790000",
    ),
    (
        Part::Verity,
        32,
        b"sha512",
        "disk: sda: verity superblock: algorithm is \"sha512\", not sha256",
    ),
];

#[test]
fn what_is_altered_in_any_layout_ends_the_boot() {
    for (name, builder) in LAYOUTS {
        for (part, offset, bytes, expected) in LIES {
            let disk = builder().patch(*part, *offset, bytes).build();
            let reason = refusal_that_writes_nothing(Vm::of(&disk).append(PINNED), &disk);
            assert!(reason.starts_with(expected), "{name}: {reason}");
        }
    }
}

/// One byte of the data, of the hash tree and of its superblock, each in a boot of its own, and a root
/// hash that differs behind its first half.
fn refuse_what_is_altered(row: Row) {
    let (root, name) = (row.root(), row.disk_name());
    let unmatched =
        format!("disk: {name}: the top hash block does not match the root hash: its digest is ");
    // Of the file system's magic.
    let data = match row.format {
        Format::Ext4 => 1024 + 0x38,
        Format::Erofs(_) => 1024,
        Format::Squashfs(_) => 0,
    };
    let unread = "root: cannot read the root's superblock: I/O error (os error 5)";
    for (part, offset, expected) in [
        (Part::Root, data, unread),
        (Part::Verity, 4096 + 17, &unmatched),
        // The salt.
        (Part::Verity, 88, &unmatched),
    ] {
        let disk = row.disk(&root);
        let byte = disk.read(part, offset, 1)[0];
        disk.write(part, offset, &[byte ^ 1]);
        let vm = row.vm(&disk).words_of(&disk).append(&format!("cvm.disk=/dev/{name} quiet"));
        let reason = refusal_that_writes_nothing(vm, &disk);
        assert!(reason.starts_with(expected), "{row:?}: {reason}");
    }
    let disk = row.disk(&root);
    let words = format!(
        "roothash={} {} cvm.disk=/dev/{name} quiet",
        another_of_the_same_start(&disk),
        disk.place_of_tree
    );
    let reason = refusal_that_writes_nothing(row.vm(&disk).append(&words), &disk);
    let unnamed = format!("disk: {name}: it has no partition with the UUID ");
    let expected = if row.place == Place::Named { unnamed } else { unmatched };
    assert!(reason.starts_with(&expected), "{row:?}: {reason}");
}

#[test]
fn what_is_altered_on_large_sectors_or_in_other_file_systems_ends_the_boot() {
    for (format, place, bus) in
        [(SQUASHFS, Place::Named, Bus::VirtioBlk), (EROFS, Place::Behind, Bus::Nvme)]
    {
        refuse_what_is_altered(Row {
            format,
            place,
            sector_size: 4096,
            parameters: Parameters::Superblock,
            bus,
            kernel: Kernel::RUNNING,
        });
    }
}

#[test]
#[ignore = "scripts/test --all"]
fn what_is_altered_in_every_layout_ends_the_boot() {
    for row in all_rows() {
        if row.parameters == Parameters::Superblock {
            refuse_what_is_altered(row);
        }
    }
}

/// Neither where a tree lies behind its superblock nor where one without would.
#[test]
fn a_tree_whose_parameters_are_given_is_proven_in_both_places() {
    let disk = Disk::builder().tree_behind().patch(Part::Verity, 4096 + 17, b"!").build();
    let vm = Vm::of(&disk).append(&disk.verity_parameters).append(PINNED);
    let reason = refusal_that_writes_nothing(vm, &disk);
    let [behind, without] =
        ["disk: sda: ", "; and where it lies without a superblock, "].map(|before| {
            format!("{before}the top hash block does not match the root hash: its digest is ")
        });
    assert!(reason.starts_with(&behind) && reason.contains(&without), "{reason}");
}

/// A root hash whose first half is the disk's.
fn another_of_the_same_start(disk: &Disk) -> String {
    let mut other = disk.roothash.clone();
    other.replace_range(40..42, if &other[40..42] == "00" { "01" } else { "00" });
    other
}

/// It names the same root, and no tree; behind the data there is one, which does not match.
#[test]
fn another_root_hash_of_the_same_start_is_not_proven() {
    for (builder, expected) in [
        (Disk::builder().named(), "it has no partition with the UUID "),
        (Disk::builder().named().tree_behind(), "the top hash block does not match the root hash"),
    ] {
        let disk = builder.build();
        let words = format!("roothash={} {}", another_of_the_same_start(&disk), disk.place_of_tree);
        let vm = Vm::new().disk(&disk).append(&words).append(PINNED);
        let reason = refusal_that_writes_nothing(vm, &disk);
        assert!(reason.starts_with(&format!("disk: sda: {expected}")), "{reason}");
    }
}

/// Two partitions of one UUID, or of the volume's name, on one disk.
#[test]
fn two_candidates_on_one_disk_are_refused() {
    let uuid_of = |disk: &Disk, at: usize| {
        let digits = &disk.roothash[at..at + 32];
        let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| &digits[part]);
        parts.join("-")
    };
    for (number, what) in [(5, "root"), (6, "tree"), (7, "volume")] {
        let disk = edited(Disk::builder().named().build(), |table| table.copy(number, 9));
        let what = match what {
            "root" => format!("with the UUID {}", uuid_of(&disk, 0)),
            "tree" => format!("with the UUID {}", uuid_of(&disk, 32)),
            _ => "called \"cocos\"".to_owned(),
        };
        // Told at once, with no disk named on the command line.
        let reason = refusal_that_writes_nothing(Vm::of(&disk).append("quiet"), &disk);
        assert_eq!(reason, format!("disk: sda: it has two partitions {what}, {number} and 9"));
    }
}

/// Types that say something else than the UUID does.
#[test]
fn a_partition_of_another_architectures_type_is_refused_by_name() {
    for (number, kind, name) in [
        (5, 0xb921_b045_1df0_41c3_af44_4c6f_280d_3fae_u128, "root-arm64, not root-x86-64"),
        (6, 0x7386_cdf2_203c_47a9_a498_f2ec_ce45_a2d6, "root-arm-verity, not root-x86-64-verity"),
        (6, 0x4f68_bce3_e8cd_4db1_96e7_fbca_f984_b709, "root-x86-64, not root-x86-64-verity"),
    ] {
        let disk = edited(Disk::builder().named().build(), |table| table.set_kind(number, kind));
        assert_eq!(
            refusal_that_writes_nothing(Vm::of(&disk).append(PINNED), &disk),
            format!("disk: sda: partition {number} is named by roothash=, but its type is {name}")
        );
    }
}

/// The kernel reads the partition table, and PID 1 again: what it reads then is held against what the
/// kernel has made of the first.
#[test]
fn a_table_that_differs_on_the_second_read_leads_nowhere() {
    let disk = Disk::builder().named().build();
    let other = edited(Disk::builder().named().build(), |table| table.swap(5, 7));
    // The firmware reads the first sector only.
    let lie = Lie::on(On::Read, 512).from(2).puts(0, &other.table());
    let served = Served::lying(&disk, vec![lie]);
    let reason = refusal(super::vm_of(&disk, &served).append(PINNED));
    assert_eq!(reason, "disk: sda: partition 5 is not the one that the kernel has seen");
}
