//! The file systems that a root can be: each boots on each kernel, and none is taken that is not
//! what it says, or reaches behind what is verified.

use crate::good::{TMP_LINE, check_copy_of_cocos_init, check_fstab_of, mounts};
use crate::kit::artefacts::initramfs_of_formats;
use crate::kit::disk::{Disk, Part};
use crate::kit::guest::Guest;
use crate::kit::kernel::Kernel;
use crate::kit::root::{Builder, Format, Node, Root};
use crate::kit::vm::{Bus, Vm};
use crate::refused::{PINNED, refusal, refusal_that_writes_nothing};
use cvm_init::format::rootfs::FileSystem;
use serde_json::json;
use std::fs;

/// As `scripts/image` makes them.
pub(crate) const EROFS: Format = Format::Erofs(&["-zlz4hc", "-C65536"]);
pub(crate) const SQUASHFS: Format = Format::Squashfs(&["-comp", "zstd"]);

/// Every compression that Debian's kernels have, and no compression.
const ALL: &[Format] = &[
    EROFS,
    Format::Erofs(&[]),
    Format::Erofs(&["-zlz4"]),
    Format::Erofs(&["-zlz4hc,12"]),
    Format::Erofs(&["-zlz4hc", "-Eztailpacking"]),
    SQUASHFS,
    Format::Squashfs(&["-comp", "gzip"]),
    Format::Squashfs(&["-comp", "xz"]),
    Format::Squashfs(&["-comp", "xz", "-Xbcj", "x86"]),
    Format::Squashfs(&["-comp", "lzo"]),
    Format::Squashfs(&["-comp", "lz4"]),
    Format::Squashfs(&["-comp", "zstd", "-b", "1M"]),
    Format::Squashfs(&["-noI", "-noD", "-noF", "-noX"]),
];

const GOES_ON: &str = "cvm.verity_on_corruption=io-error";
const EIO: i32 = 5;
const EROFS_ERRNO: i32 = 30;

/// statfs(2).
const RAMFS_MAGIC: u64 = 0x8584_58f6;

/// Fields of the verity superblock.
const DATA_BLOCKS: u64 = 72;

fn builder(format: Format) -> Builder {
    Root::builder().format(format)
}

fn vm(disk: &Disk, kernel: Kernel) -> Vm {
    Vm::of(disk).kernel(kernel).initramfs(initramfs_of_formats(kernel, &[]))
}

/// What the guest sees of a root: where it is from, and what is in it, with every attribute.
#[track_caller]
fn check(guest: &mut Guest, root: &Root, format: Format) {
    let kind = format.name();
    let mounts = mounts(guest);
    assert_eq!(mounts[0], format!("/ {kind} /dev/mapper/root_verity / ro,relatime"));
    check_fstab_of(kind, guest, &[TMP_LINE]);
    let report = guest.report();
    assert_eq!(report["root"]["file_system"], kind);
    assert_eq!(report["root"]["bytes"], root.data_blocks * 4096);
    check_copy_of_cocos_init(guest, root);
    let refused = guest.call("write", json!({ "path": "/etc/new", "text": "" })).unwrap_err();
    assert_eq!(refused.errno, Some(EROFS_ERRNO), "{}", refused.message);
}

#[track_caller]
fn boots(format: Format, kernel: Kernel) {
    let root = builder(format).build();
    let disk = Disk::builder().root(&root).build();
    let mut guest = vm(&disk, kernel).boot();
    check(&mut guest, &root, format);
    guest.power_off();
}

#[test]
fn an_erofs_boots() {
    boots(EROFS, Kernel::RUNNING);
}

#[test]
fn an_erofs_boots_on_a_newer_kernel() {
    boots(EROFS, Kernel::TRIXIE);
}

#[test]
fn a_squashfs_boots() {
    boots(SQUASHFS, Kernel::RUNNING);
}

#[test]
#[ignore = "scripts/test --all"]
fn a_squashfs_boots_on_a_newer_kernel() {
    boots(SQUASHFS, Kernel::TRIXIE);
}

#[test]
#[ignore = "26 boots: scripts/test --all"]
fn every_compression_boots_on_each_kernel() {
    for format in ALL {
        for kernel in [Kernel::RUNNING, Kernel::TRIXIE] {
            println!("{format:?} {kernel}");
            boots(*format, kernel);
        }
    }
}

/// The kernel's own word: of a list, the one that is there; else nothing is mounted.
#[test]
fn the_kernels_rootfstype_narrows_what_is_taken() {
    let root = builder(EROFS).build();
    let disk = Disk::builder().root(&root).build();
    let with = |list| vm(&disk, Kernel::RUNNING).append(&format!("rootfstype={list} {PINNED}"));
    let refused = |list| refusal_that_writes_nothing(with(list), &disk);
    assert_eq!(refused("ext4"), "root: the root is erofs, but rootfstype= is ext4");
    assert_eq!(
        refused("squashfs,ext4,tmpfs"),
        "root: the root is erofs, but rootfstype= is squashfs,ext4"
    );
    assert_eq!(
        refused("xfs,erofs"),
        "config: rootfstype=xfs,erofs: \"xfs\" is not one of ext4, erofs, squashfs"
    );
    // The initramfs is then no tmpfs, but a ramfs.
    let mut guest = with("squashfs,erofs").boot();
    check(&mut guest, &root, EROFS);
    assert_eq!(guest.ask("rootfs", json!({})), json!({ "type": RAMFS_MAGIC, "entries": [] }));
    guest.power_off();
}

/// What is said of a root with these bytes in its first block, which its hash tree is made over.
#[track_caller]
fn refusal_of(format: Format, patches: &[(u64, &[u8])]) -> String {
    let patch = |root: Builder, (at, bytes): &(u64, &[u8])| root.patch(*at, bytes);
    let root = patches.iter().fold(builder(format), patch).build();
    let disk = Disk::builder().root(&root).build();
    refusal_that_writes_nothing(vm(&disk, Kernel::RUNNING).append(PINNED), &disk)
}

#[test]
fn a_root_with_the_magic_of_two_is_none() {
    assert_eq!(
        refusal_of(Format::Ext4, &[(0, b"hsqs")]),
        "root: the root begins as ext4 and as squashfs, and nothing says which it is: make it anew \
         in an empty file"
    );
}

#[test]
fn a_root_without_a_magic_is_none() {
    assert_eq!(
        refusal_of(Format::Ext4, &[(1024 + 0x38, &[0, 0])]),
        "root: the root is no file system that is known (ext4, erofs, squashfs): it begins with \
         0000000000000000"
    );
}

#[test]
fn an_erofs_of_other_blocks_or_on_other_devices_is_refused() {
    assert_eq!(
        refusal_of(EROFS, &[(1024 + 12, &[9])]),
        "root: the root's erofs has blocks of 512 bytes, dm-verity needs 4096: make it with \
         mkfs.erofs -b 4096"
    );
    let reason = refusal_of(EROFS, &[(1024 + 0x50, &[0xb]), (1024 + 0x56, &[1, 0])]);
    let why = "root: the root's erofs has data on 1 further devices, which nothing verifies: ";
    assert!(reason.starts_with(why), "{reason}");
}

/// The root hash does not cover the number of blocks. With one less, the tree keeps its shape and
/// every block its digest, so it is the file system that tells.
#[test]
fn a_root_of_which_less_is_verified_is_refused() {
    for format in [EROFS, SQUASHFS] {
        let root = builder(format).build();
        let less = root.data_blocks - 1;
        let disk = Disk::builder()
            .root(&root)
            .patch(Part::Verity, DATA_BLOCKS, &less.to_le_bytes())
            .build();
        let reason = refusal(vm(&disk, Kernel::RUNNING).append(PINNED));
        let (kind, blocks) = (format.name(), root.data_blocks);
        assert_eq!(
            reason,
            format!("root: the root's {kind} has {blocks} blocks, but only {less} are verified")
        );
    }
}

#[test]
fn a_superblock_that_was_altered_is_an_io_error() {
    for (format, at) in [(EROFS, 1024 + 0x24), (SQUASHFS, 40)] {
        let root = builder(format).build();
        let disk = Disk::builder().root(&root).patch(Part::Root, at, b"!").build();
        assert_eq!(
            refusal(vm(&disk, Kernel::RUNNING).append(PINNED)),
            "root: cannot read the root's superblock: I/O error (os error 5)"
        );
    }
}

/// No byte of a compressed file that the host has altered is ever good: each block reads as it was,
/// or not at all, and so does the file in it.
#[test]
fn an_altered_block_of_a_compressed_file_is_an_io_error() {
    for format in [EROFS, SQUASHFS] {
        // By far most of it, compressed or not.
        let numbers: Vec<_> = (0..1_000_000).map(|number| number.to_string()).collect();
        let numbers = Node::file("etc/numbers", numbers.join("\n"));
        let root = builder(format).with(numbers).build();
        let disk = Disk::builder().root(&root).build();
        let block = root.data_blocks / 2;
        let byte = disk.read(Part::Root, block * 4096 + 7, 1)[0];
        disk.write(Part::Root, block * 4096 + 7, &[byte ^ 1]);
        let vm = vm(&disk, Kernel::RUNNING).disk_on(Bus::VirtioBlk, &root.data);
        let mut guest = vm.append(GOES_ON).boot();
        let devices = json!({ "path": "/dev/mapper/root_verity", "with": "/dev/vda" });
        let found = guest.ask("compare", devices);
        assert_eq!(found, json!({ "differing": [], "unreadable": [block] }), "{format:?}");
        let error = guest.call("read", json!({ "path": "/etc/numbers" })).unwrap_err();
        assert_eq!(error.errno, Some(EIO), "{format:?}: {}", error.message);
        assert_eq!(guest.read("/etc/hostname"), "verified\n");
        guest.power_off();
    }
}

/// What the kernel has to have is in the line, where its own error says nothing.
#[test]
fn a_kernel_without_the_file_system_is_told_what_it_lacks() {
    let refused = |format, without: &[&str]| {
        let root = builder(format).build();
        let disk = Disk::builder().root(&root).build();
        let initramfs = initramfs_of_formats(Kernel::RUNNING, without);
        let vm = Vm::of(&disk).initramfs(initramfs).append(PINNED);
        refusal_that_writes_nothing(vm, &disk)
    };
    assert_eq!(
        refused(SQUASHFS, &["squashfs"]),
        "root: cannot mount the root on /root: No such device (os error 19) (it is squashfs (kernel \
         option SQUASHFS) with zstd (SQUASHFS_ZSTD); scripts/initramfs --root-format squashfs packs \
         what is a module)"
    );
}

/// A compression that Debian's kernel does not have, and features that none has.
#[test]
fn what_of_a_file_system_the_kernel_lacks_is_named() {
    let reason = refusal_of(Format::Squashfs(&["-comp", "zstd"]), &[(20, &[2])]);
    let why = "root: cannot mount the root on /root: Invalid argument (os error 22) (it is squashfs \
               (kernel option SQUASHFS) with lzma (no Linux has it); ";
    assert!(reason.starts_with(why), "{reason}");
    // Behind its superblock EROFS has nothing that its checksum would not cover: this one has none.
    let features = [(1024 + 8, &[2][..]), (1024 + 0x51, &[0x10])];
    let reason = refusal_of(Format::Erofs(&[]), &features);
    let why = "root: cannot mount the root on /root: Invalid argument (os error 22) (it is erofs \
               (kernel option EROFS_FS) with the feature of bit 12 (no Linux has it); ";
    assert!(reason.starts_with(why), "{reason}");
    let ext4 =
        Root::builder().options(&["-O", "^metadata_csum"]).patch(1024 + 0x61, &[0x12]).build();
    let disk = Disk::builder().root(&ext4).build();
    let reason = refusal_that_writes_nothing(Vm::of(&disk).append(PINNED), &disk);
    let why = "root: cannot mount the root on /root: Invalid argument (os error 22) (it is ext4 \
               (kernel option EXT4_FS) with dirdata (no Linux has it); ";
    assert!(reason.starts_with(why), "{reason}");
}

/// What the image of a test looks like to who reads it without a kernel.
#[test]
fn the_roots_of_these_tests_are_what_they_are_called() {
    for &format in [Format::Ext4].iter().chain(ALL) {
        let root = builder(format).build();
        let image = fs::read(&root.data).unwrap();
        let found = FileSystem::recognize(image.first_chunk().unwrap(), "it").unwrap();
        assert_eq!(found.kind.name(), format.name());
        assert_eq!(found.blocks, root.data_blocks);
        assert!(found.to_string().starts_with(format.name()));
    }
}
