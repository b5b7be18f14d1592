//! `--format iso`: one EFI partition, to which a partition table leads and El Torito, as other tools read
//! them.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use cvm_init::format::gpt::Entry;
use cvm_tools::iso;

use crate::layers::{layers, of_layers};
use crate::measure::document;
use crate::script::{run, scratch, script, tool};
use crate::table::{read, rows_of_fdisk, shown, table};
use crate::{MIB, image, names, root};

/// An image of `dir`, with a volume that is quickly compared.
fn iso_of(dir: &Path, root: &Path, more: &[&str]) -> Command {
    let mut command = image(dir, root);
    command.args(["--boot", "uki", "--cocos-size", "64M", "--format", "iso"]).args(more);
    command
}

/// What the parts of an ISO lie in: `sgdisk`, which reads both copies of the table, finds nothing wrong,
/// and the last byte is that of the second one.
fn checked_table(medium: &Path) -> Vec<Entry> {
    let verdict = run(tool("sgdisk").arg("-v").arg(medium));
    assert!(verdict.contains("No problems found"), "{verdict}");
    let end = fs::metadata(medium).unwrap().len();
    assert_eq!(read(medium, end - 512, 8), b"EFI PART");
    // A CD consists of blocks.
    assert_eq!(end % iso::BLOCK, 0);
    let entries = table(medium, 512);
    assert_eq!(rows_of_fdisk(medium, 512), shown(&entries));
    entries
}

/// What the catalogue leads to, as xorriso reads it: sectors of 512 bytes as far as they can be counted,
/// and the byte at which they begin.
fn el_torito(medium: &Path) -> (u64, u64) {
    let report = run(tool("xorriso").arg("-indev").arg(medium).args([
        "-report_el_torito",
        "plain",
        "-report_system_area",
        "plain",
    ]));
    let images: Vec<_> =
        report.lines().filter(|line| line.starts_with("El Torito boot img :")).collect();
    assert_eq!(images.len(), 1, "{report}");
    let words: Vec<_> = images[0].split_whitespace().skip(5).collect();
    // number, platform, bootable, emulation, segment, type, sectors, block
    assert_eq!(words[..6], ["1", "UEFI", "y", "none", "0x0000", "0x00"]);
    // It takes the table for one, too.
    assert!(report.contains("GPT"), "{report}");
    let number = |word: &str| word.parse::<u64>().unwrap();
    (number(words[6]), number(words[7]) * iso::BLOCK)
}

/// The bytes of a partition.
fn content(medium: &Path, entry: &Entry) -> Vec<u8> {
    let sectors = usize::try_from(entry.last - entry.first + 1).unwrap();
    read(medium, entry.first * 512, sectors * 512)
}

/// The EFI partition of a medium is there once: firmware gets to the same bytes either way.
fn check_efi(medium: &Path, efi: &Entry, expected: &[u8]) {
    assert_eq!(efi.name, "efi");
    let found = content(medium, efi);
    assert!(found == expected, "{}", medium.display());
    let (sectors, start) = el_torito(medium);
    assert_eq!(start, efi.first * 512);
    let all = found.len() as u64 / 512;
    assert_eq!(sectors, if all > 0xffff { 0 } else { all });
    // A reader of the CD knows no end but that of the volume.
    let volume = read(medium, iso::AT + 80, 4);
    let blocks = u32::from_le_bytes(volume.try_into().unwrap());
    assert_eq!(u64::from(blocks) * iso::BLOCK, (efi.last + 1) * 512);
}

#[test]
fn a_medium_has_the_efi_partition_of_the_disk_beside_it() {
    let dir = scratch("medium");
    let root = root(&dir);
    run(image(&dir, &root).args(["--boot", "uki", "--cocos-size", "64M"]));
    let out = dir.join("out");
    let (raw, disk) = (dir.join("raw.img"), out.join("disk.img"));
    fs::rename(&disk, &raw).unwrap();
    run(&mut iso_of(&dir, &root, &[]));
    // The disk does not know of it.
    run(tool("cmp").args([&raw, &disk]));
    let medium = out.join("boot.iso");
    let (media, disks) = (checked_table(&medium), table(&disk, 512));
    assert_eq!(media.len(), 1);
    let efi = &media[0];
    check_efi(&medium, efi, &content(&disk, &disks[0]));
    assert_ne!(efi.uuid, disks[0].uuid);
    assert_eq!(efi.kind, disks[0].kind);
    assert_eq!(
        fs::metadata(&medium).unwrap().len(),
        (efi.last + 1) * 512 + MIB,
        "more than the partition is on the medium"
    );
}

/// All that makes a disk an ISO lies where nothing of the disk does, so it has the table, and the
/// measurements with it, of one that is none.
#[test]
fn the_whole_disk_as_an_iso_is_the_disk() {
    let dir = scratch("whole");
    let root = root(&dir);
    let out = dir.join("out");
    run(image(&dir, &root).args(["--boot", "uki", "--cocos-size", "2G"]));
    let raw = dir.join("raw.img");
    fs::rename(out.join("disk.img"), &raw).unwrap();
    let raw_measurements = document(&out);
    run(&mut iso_of(&dir, &root, &["--whole", "--cocos-size", "2G"]));
    let whole = out.join("disk.iso");
    assert!(!names(&out).contains(&"disk.img".to_owned()));
    assert_eq!(document(&out), raw_measurements);
    let entries = checked_table(&whole);
    let names: Vec<_> = entries.iter().map(|entry| (entry.number, entry.name.as_str())).collect();
    assert_eq!(names, [(1, "efi"), (2, "root"), (3, "verity"), (4, "cocos")]);
    assert_eq!(entries, table(&raw, 512));
    check_efi(&whole, &entries[0], &content(&raw, &entries[0]));
    let differ = tool("cmp").arg("-l").args([&raw, &whole]).output().unwrap();
    let differ = String::from_utf8(differ.stdout).unwrap();
    let at = |line: &str| line.split_whitespace().next().unwrap().parse::<u64>().unwrap() - 1;
    let places: Vec<_> = differ.lines().map(at).collect();
    assert!(!places.is_empty());
    let ours = iso::AT..iso::AT + 7 * iso::BLOCK;
    assert!(places.iter().all(|place| ours.contains(place)), "{places:?}");
    let taken = fs::metadata(&whole).unwrap().blocks() * 512;
    assert!(taken < 64 * MIB, "the volume takes space: {taken} bytes");
}

/// The catalogue counts with 16 bits.
#[test]
fn an_efi_partition_of_more_than_32_mib_is_led_to_as_well() {
    let dir = scratch("large medium");
    let root = root(&dir);
    fs::write(dir.join("initramfs"), vec![2; 20 << 20]).unwrap();
    for more in [&[][..], &["--whole"]] {
        run(&mut iso_of(&dir, &root, more));
        let medium = dir.join("out").join(if more.is_empty() { "boot.iso" } else { "disk.iso" });
        let efi = &checked_table(&medium)[0];
        let bytes = content(&medium, efi);
        assert!(bytes.len() as u64 > 32 * MIB);
        check_efi(&medium, efi, &bytes);
        let fat = dir.join("efi.vfat");
        fs::write(&fat, &bytes).unwrap();
        run(tool("fsck.fat").arg("-n").arg(fat));
    }
}

#[test]
fn isos_of_the_same_inputs_have_the_same_bytes() {
    let dirs = ["iso here", "iso there"].map(|place| {
        let dir = scratch(place);
        let root = root(&dir);
        let epoch = ["-exec", "touch", "-h", "-d", "@100", "{}", "+"];
        run(tool("find").arg(&root).args(epoch));
        for (out, more) in [("beside", &[][..]), ("whole", &["--whole"])] {
            run(iso_of(&dir, &root, more).arg("-o").arg(dir.join(out)));
        }
        // Long enough for a time in the second one to differ.
        std::thread::sleep(std::time::Duration::from_secs(2));
        dir
    });
    for file in ["beside/disk.img", "beside/boot.iso", "beside/measurements.json", "whole/disk.iso"]
    {
        run(tool("cmp").args(dirs.iter().map(|dir| dir.join(file))));
    }
}

#[test]
fn layers_can_be_isos() {
    let dir = scratch("iso of layers");
    let layers = layers(&dir);
    for (more, medium, expected) in [
        (&[][..], "boot.iso", &["efi"][..]),
        (&["--whole"], "disk.iso", &["efi", "layer0", "layer1", "cocos"]),
    ] {
        run(of_layers(&dir, &layers).args(["--boot", "uki", "--format", "iso"]).args(more));
        let medium = dir.join("out").join(medium);
        let entries = checked_table(&medium);
        let names: Vec<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, expected);
        check_efi(&medium, &entries[0], &content(&medium, &entries[0]));
    }
}

/// PCR 5, which is of the table, is told for each way to attach a medium; nothing else differs.
#[test]
fn a_medium_has_measurements_of_its_own() {
    let dir = scratch("measured medium");
    let root = root(&dir);
    run(&mut iso_of(&dir, &root, &[]));
    let tpm = &document(&dir.join("out"))["tpm"];
    let without_table = |chain: &str| {
        let mut values = tpm[chain]["sha256"].as_object().unwrap().clone();
        (values.remove("5").unwrap(), values)
    };
    let [disk, cd, medium] = ["disk", "iso_as_cd", "iso_as_disk"].map(without_table);
    assert!(disk.1 == cd.1 && disk.1 == medium.1);
    assert!(disk.0 != cd.0 && disk.0 != medium.0 && cd.0 != medium.0);
    let told = run(script("measure").arg(dir.join("out")));
    for chain in
        ["boot from the disk", "boot from boot.iso as a CD", "boot from boot.iso as a disk"]
    {
        assert!(told.contains(&format!("{chain}, a TPM's SHA-256 bank")), "{told}");
    }
}
