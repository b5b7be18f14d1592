//! `cvm-tools rootfs`, as `scripts/image` runs it.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Exit status, standard output, and the reason.
fn look(file: &Path) -> (i32, String, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_cvm-tools")).arg("rootfs").arg(file).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A file of 8 blocks less a byte, with these bytes in it.
fn file(name: &str, fields: &[(usize, &[u8])]) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let mut content = vec![0; 8 * 4096 - 1];
    for (at, bytes) in fields {
        content[*at..*at + bytes.len()].copy_from_slice(bytes);
    }
    fs::write(&path, content).unwrap();
    path
}

const EXT4: &[(usize, &[u8])] = &[(0x438, &[0x53, 0xef]), (0x418, &[2]), (0x404, &[8])];

#[test]
fn a_root_that_a_boot_takes_is_named() {
    assert_eq!(look(&file("ext4", EXT4)), (0, "ext4\n".to_owned(), String::new()));
    let squashfs =
        [(0, &b"hsqs"[..]), (14, &[2, 0, 0, 0, 0, 0, 1, 0, 17, 0]), (28, &[4]), (40, &[96])];
    assert_eq!(look(&file("squashfs", &squashfs)).1, "squashfs\n");
    let erofs = [(0x400, &[0xe2, 0xe1, 0xf5, 0xe0][..]), (0x40c, &[12]), (0x424, &[8])];
    assert_eq!(look(&file("erofs", &erofs)).1, "erofs\n");
}

#[test]
fn one_that_would_end_each_boot_is_refused_with_the_reason() {
    for (name, field, reason) in [
        ("cut", (0x404, &[9][..]), "the root's ext4 has 9 blocks, but only 8 are in the file\n"),
        ("dirdata", (0x461, &[0x10][..]), "the root's ext4 has dirdata, which no Linux has\n"),
        (
            "small",
            (0x418, &[0][..]),
            "the root's ext4 has blocks of 1024 bytes, dm-verity needs 4096: make it with mke2fs -b \
             4096\n",
        ),
    ] {
        let found = look(&file(name, &[EXT4, &[field]].concat()));
        assert_eq!(found, (1, String::new(), reason.to_owned()));
    }
}

#[test]
fn what_is_none_has_a_status_of_its_own() {
    let (status, none, reason) = look(&file("none", &[(0, b"\x1f\x8b\x08")]));
    assert_eq!((status, none.as_str()), (3, ""));
    assert!(reason.ends_with("it begins with 1f8b080000000000\n"), "{reason}");
    let empty = Path::new(env!("CARGO_TARGET_TMPDIR")).join("empty");
    fs::write(&empty, "").unwrap();
    assert_eq!(look(&empty).0, 3);
    assert_eq!(look(Path::new("/nowhere")).0, 1);
}

#[test]
fn it_explains_itself_and_takes_one_file() {
    let run = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_cvm-tools"))
            .arg("rootfs")
            .args(arguments)
            .output()
            .unwrap()
    };
    assert!(run(&["--help"]).stdout.starts_with(b"Hold a file system against"));
    for (wrong, why) in [(&[][..], "<FILE> is missing"), (&["a", "b"], "unknown argument b")] {
        let output = run(wrong);
        assert_eq!(output.status.code(), Some(2));
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said, format!("{why} (see cvm-tools rootfs --help)\n"));
    }
}
