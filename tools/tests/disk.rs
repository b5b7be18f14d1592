//! `cvm-tools disk`, as `scripts/image` runs it; fdisk reads what it writes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const MIB: u64 = 1 << 20;
const DISK: &str = "5a17aa00-1122-3344-5566-778899aabbcc";
const LINUX: &str = "0fc63daf-8483-4772-8e79-3d69d8477de4";
const ROOT: &str = "00112233-4455-6677-8899-aabbccddeeff";
const COCOS: &str = "10112233-4455-6677-8899-aabbccddeeff";

/// A folder of one test, empty at its start.
fn scratch(test: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("disk {test}"));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cvm-tools")).arg("disk").args(arguments).output().unwrap()
}

/// Exit status, and what it says is wrong: one line.
fn refusal(arguments: &[&str]) -> (i32, String) {
    let Output { status, stderr, .. } = run(arguments);
    let said = String::from_utf8(stderr).unwrap();
    let line = said.strip_suffix('\n').unwrap();
    assert!(!line.contains('\n'), "{said}");
    (status.code().unwrap(), line.replace(" (see cvm-tools disk --help)", ""))
}

/// The rows of partitions that fdisk shows, without the name of the file; it must have no complaint.
fn fdisk(disk: &Path, sector_size: &str) -> Vec<Vec<String>> {
    let output = Command::new("fdisk")
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .args(["-b", sector_size, "-l", "-o", "Device,Start,Sectors,Type-UUID,UUID,Name"])
        .arg(disk)
        .output()
        .unwrap();
    let complaints = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && complaints.is_empty(), "{complaints}");
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("Disklabel type: gpt"), "{shown}");
    assert!(shown.contains(&format!("Disk identifier: {}", DISK.to_uppercase())), "{shown}");
    let rows = shown.lines().skip_while(|line| !line.starts_with("Device")).skip(1);
    let name = disk.display().to_string();
    rows.map(|row| row.replace(&name, "").split_whitespace().map(str::to_owned).collect()).collect()
}

#[test]
fn the_parts_lie_where_the_table_says_for_sectors_of_both_sizes() {
    let dir = scratch("parts");
    let (root, disk) = (dir.join("root"), dir.join("disk.img"));
    // It ends in the middle of a sector, and begins with a hole.
    let mut content = vec![0; 3 * usize::try_from(MIB).unwrap()];
    content.extend(b"the end");
    fs::write(&root, &content).unwrap();
    for (sector_size, sectors) in [(512_u64, 6145), (4096, 769)] {
        let size = sector_size.to_string();
        let root = format!("root:{LINUX}:{ROOT}:{}", root.display());
        let cocos = format!("cocos:{LINUX}:{COCOS}:={}", 64 * MIB);
        let out = disk.to_str().unwrap();
        let output = run(&["--sector-size", &size, "--uuid", DISK, "-o", out, &root, &cocos]);
        assert!(output.status.success(), "{output:?}");
        let row = |number: u32, start: u64, sectors: u64, uuid: &str, name: &str| {
            let mut row = vec![number.to_string(), (start / sector_size).to_string()];
            row.extend([sectors.to_string(), LINUX.to_uppercase(), uuid.to_uppercase()]);
            row.push(name.to_owned());
            row
        };
        let expected = [
            row(1, MIB, sectors, ROOT, "root"),
            row(2, 5 * MIB, 64 * MIB / sector_size, COCOS, "cocos"),
        ];
        assert_eq!(fdisk(&disk, &size), expected);
        let bytes = fs::read(&disk).unwrap();
        assert_eq!(bytes.len() as u64, 70 * MIB);
        let start = usize::try_from(MIB).unwrap();
        assert!(bytes[start..][..content.len()] == content);
        assert!(fs::metadata(&disk).unwrap().blocks() * 512 < MIB, "holes take space");
        // A copy of the table ends the disk.
        let sector = usize::try_from(sector_size).unwrap();
        for header in [sector, bytes.len() - sector] {
            assert_eq!(bytes[header..][..8], *b"EFI PART");
        }
    }
}

#[test]
fn what_is_wrong_is_said() {
    let dir = scratch("wrong");
    let out = dir.join("disk.img").display().to_string();
    let good = ["--sector-size", "512", "--uuid", DISK, "-o", &out];
    let with = |more: &[&str]| refusal(&[&good[..], more].concat());
    let part = |content: &str| format!("a:{LINUX}:{ROOT}:{content}");
    for (arguments, status, reason) in [
        (vec![], 2, "--sector-size is missing"),
        (vec!["--sector-size"], 2, "--sector-size needs a value"),
        (vec!["--sector-size", "1024"], 2, "--sector-size 1024 is neither 512 nor 4096"),
        (vec!["--uuid", "5a17"], 2, "--uuid 5a17 is not a UUID"),
        (vec!["--size", "1"], 2, "unknown argument --size"),
        (
            vec!["--sector-size", "4096", "--uuid", DISK, "-o", &out, "--cd"],
            2,
            "--cd is for a disk with sectors of 512 bytes",
        ),
    ] {
        assert_eq!(refusal(&arguments), (status, reason.to_owned()));
    }
    for (word, status, reason) in [
        ("a:b", 2, "a:b is not NAME:TYPE:UUID:FILE"),
        ("a:b:c:d", 2, "a:b:c:d has a type that is not a UUID"),
        (&part("=1M"), 2, ":=1M is not =BYTES"),
        (&part("=513"), 1, "partition a: 513 bytes are no whole number of sectors of 512"),
        (&part("=0"), 1, "partition a has no bytes"),
        (&part("=18446744073709551104"), 1, "the disk would be too large"),
        (&part("/nowhere"), 1, "cannot read /nowhere: No such file or directory (os error 2)"),
    ] {
        let (ended, said) = with(&[word]);
        assert_eq!(ended, status, "{said}");
        assert!(said.ends_with(reason), "{said}");
    }
    assert!(!dir.join("disk.img").exists());
    let help = run(&["--help"]);
    assert!(help.status.success() && help.stdout.starts_with(b"Put the parts of an image behind"));
}
