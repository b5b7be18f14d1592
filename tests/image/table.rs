//! The disk and its partition table, for sectors of both sizes: what tools and kernel read of it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use cvm_init::format::gpt::{Entry, Header};
use cvm_init::format::{uuid, verity};

use crate::script::{run, scratch, tool};
use crate::{MIB, image, image_without_cocos, root};

pub(crate) const SECTOR_SIZES: [u64; 2] = [512, 4096];

pub(crate) fn read(disk: &Path, at: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    File::open(disk).unwrap().read_exact_at(&mut bytes, at).unwrap();
    bytes
}

/// The table, as PID 1 reads it.
pub(crate) fn table(disk: &Path, sector_size: u64) -> Vec<Entry> {
    let header = read(disk, sector_size, usize::try_from(sector_size).unwrap());
    let header = Header::parse(&header).unwrap();
    let at = header.entries_at(sector_size).unwrap();
    header.entries(&read(disk, at, header.entries_size())).unwrap()
}

/// What fdisk, which reads both copies of the table, says of the partitions: first sector, sectors,
/// type, UUID and name.
pub(crate) fn rows_of_fdisk(disk: &Path, sector_size: u64) -> Vec<[String; 5]> {
    let output = tool("fdisk")
        .env("LC_ALL", "C")
        .args(["-b", &sector_size.to_string(), "-l", "-o", "Start,Sectors,Type-UUID,UUID,Name"])
        .arg(disk)
        .output()
        .unwrap();
    let complaints = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && complaints.is_empty(), "{complaints}");
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains(&format!("Units: sectors of 1 * {sector_size} = ")), "{shown}");
    let rows = shown.lines().skip_while(|line| !line.trim_start().starts_with("Start")).skip(1);
    rows.map(|row| {
        let words: Vec<_> = row.split_whitespace().map(str::to_lowercase).collect();
        words.try_into().unwrap()
    })
    .collect()
}

/// The same of what PID 1 reads.
pub(crate) fn shown(entries: &[Entry]) -> Vec<[String; 5]> {
    let row = |entry: &Entry| {
        let sectors = entry.last - entry.first + 1;
        let [kind, own] = [entry.kind, entry.uuid].map(|of| uuid::hyphenated(&of));
        [entry.first.to_string(), sectors.to_string(), kind, own, entry.name.clone()]
    };
    entries.iter().map(row).collect()
}

#[test]
fn a_disk_is_made_for_sectors_of_either_size() {
    let dir = scratch("sectors");
    let root = root(&dir);
    for sector_size in SECTOR_SIZES {
        run(image(&dir, &root).args([
            "--sector-size",
            &sector_size.to_string(),
            "--cocos-size",
            "64M",
        ]));
        let part = |name: &str| dir.join("out").join(name);
        let disk = part("disk.img");
        let entries = table(&disk, sector_size);
        assert_eq!(rows_of_fdisk(&disk, sector_size), shown(&entries));

        let names: Vec<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["efi", "root", "verity", "cocos"]);
        let root_hash = fs::read_to_string(part("rootfs.roothash")).unwrap();
        let root_hash = cvm_init::format::hex::decode(root_hash.trim()).unwrap();
        let uuids = verity::partition_uuids(&root_hash.try_into().unwrap());
        assert_eq!([entries[1].uuid, entries[2].uuid], uuids);

        // Each part lies in its partition, which begins at a whole MiB and has room for it.
        for (entry, name) in [(&entries[1], "rootfs.ext4"), (&entries[2], "rootfs.verity")] {
            let content = fs::read(part(name)).unwrap();
            let start = entry.first * sector_size;
            assert_eq!(start % MIB, 0);
            assert!((entry.last - entry.first + 1) * sector_size >= content.len() as u64);
            assert!(read(&disk, start, content.len()) == content, "{name}");
        }
        let cocos = &entries[3];
        assert_eq!((cocos.last - cocos.first + 1) * sector_size, 64 * MIB);
        assert_eq!(fs::metadata(&disk).unwrap().len(), (cocos.last + 1) * sector_size + MIB);

        // The FAT counts in sectors of the disk, too (bytes a sector, at 11 of its first).
        let fat = read(&disk, entries[0].first * sector_size + 11, 2);
        assert_eq!(
            u16::from_le_bytes(fat.try_into().unwrap()),
            u16::try_from(sector_size).unwrap()
        );
        let efi = format!("{}@@1M", disk.display());
        let files = run(tool("mdir").args(["-/", "-b", "-i", &efi, "::"]));
        assert!(files.contains("::/bzImage"), "{files}");
        run(tool("fsck.fat").arg("-n").arg(efi_of(&dir, &disk, &entries[0], sector_size)));
    }
}

/// Where /cocos is on another disk there is no partition for it, and no room behind the last one but
/// for the second table.
#[test]
fn a_disk_whose_volume_is_on_another_one_has_three_partitions() {
    let dir = scratch("three");
    let root = root(&dir);
    run(image_without_cocos(&dir, &root).args(["--append", "console=ttyS0 cvm.volume=serial:v"]));
    let disk = dir.join("out/disk.img");
    let entries = table(&disk, 512);
    let names: Vec<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, ["efi", "root", "verity"]);
    let shown = fs::read_to_string(dir.join("out/cmdline")).unwrap();
    assert!(shown.contains(" cvm.volume=serial:v "), "{shown}");
    assert_eq!(rows_of_fdisk(&disk, 512).len(), 3);
    assert_eq!(fs::metadata(&disk).unwrap().len() % MIB, 0);
}

/// A copy of the EFI partition.
fn efi_of(dir: &Path, disk: &Path, entry: &Entry, sector_size: u64) -> std::path::PathBuf {
    let length = usize::try_from((entry.last - entry.first + 1) * sector_size).unwrap();
    let copy = dir.join("efi.vfat");
    fs::write(&copy, read(disk, entry.first * sector_size, length)).unwrap();
    copy
}

#[test]
fn sfdisk_finds_no_fault_with_a_table_of_small_sectors() {
    let dir = scratch("sfdisk");
    let root = root(&dir);
    run(&mut image(&dir, &root));
    let verdict = run(tool("sfdisk").arg("--verify").arg(dir.join("out/disk.img")));
    assert!(verdict.contains("No errors detected."), "{verdict}");
}

#[test]
fn a_disk_for_large_sectors_of_the_same_inputs_has_the_same_bytes() {
    let dirs = ["large here", "large there"].map(|place| {
        let dir = scratch(place);
        let root = root(&dir);
        let epoch = ["-exec", "touch", "-h", "-d", "@100", "{}", "+"];
        run(tool("find").arg(&root).args(epoch));
        run(image(&dir, &root).args(["--sector-size", "4096", "--cocos-size", "64M"]));
        dir
    });
    run(tool("cmp").args(dirs.iter().map(|dir| dir.join("out/disk.img"))));
}
