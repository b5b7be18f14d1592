//! What an image may take of the machine that disks of it are made on.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tar::EntryType;

use crate::archive::{Item, file, tar};
use crate::image::{GZIP, layout, packed};
use crate::refused::{image_of, refused};
use crate::script::{assert_empty, first_in_path, refuses, run, scratch, tool_in};
use crate::{bytes_in, layers};

/// 64 MiB of zeros are 64 KiB of gzip. What is unpacked is counted, and none of it kept.
#[test]
fn a_layer_that_unpacks_to_too_much_is_refused_in_little_memory() {
    let dir = scratch("bomb");
    let zeros = vec![0; 64 << 20];
    let blob = packed(&dir, GZIP, &tar(&[file("zeros", &zeros)]));
    assert!(blob.bytes.len() < 1 << 17);
    let image = layout(dir.join("image"), &[blob]);
    let out = dir.join("out");
    let limited = |max: &str| {
        let mut command = layers(image.path(), &out);
        command.args(["--max-size", max]);
        // 32 MiB of address space for data: none of the programs may keep a layer.
        let mut limited = Command::new("bash");
        limited
            .args(["-c", "ulimit -d 32768; exec \"$@\"", "bash"])
            .arg(command.get_program())
            .args(command.get_args())
            .env("PATH", first_in_path(&without_cargo(&dir)));
        for (name, value) in command.get_envs() {
            limited.env(name, value.unwrap());
        }
        limited
    };
    let why = "cannot read it: the image has more than the 33554432 bytes that --max-size allows";
    refuses(&mut limited("32M"), 1, why);
    assert_empty(&out);
    run(&mut limited("65M"));
    assert_eq!(crate::contents(&out.join("layer0.img"), &dir)["/zeros"], zeros);
}

/// A folder with a cargo that has nothing to build: it needs more memory than that, and the tool is
/// there once an image was looked at.
fn without_cargo(dir: &Path) -> PathBuf {
    let (nothing, bin) = (dir.join("nothing"), dir.join("bin"));
    fs::create_dir_all(&nothing).unwrap();
    fs::create_dir_all(&bin).unwrap();
    refused(dir, &nothing, "it holds no image");
    tool_in(&bin, "cargo", "exit 0");
    bin
}

#[test]
fn a_header_that_claims_a_long_name_is_refused_in_little_memory() {
    let dir = scratch("name bomb");
    let path = dir.join("archive");
    let mut archive = File::create(&path).unwrap();
    let long = Item { kind: EntryType::GNULongName, ..file("././@LongLink", b"") };
    let mut header = tar(&[long])[..512].to_vec();
    // 64 MiB, in octal; the sum of the header with it.
    header[124..136].copy_from_slice(b"00400000000\0");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    archive.write_all(&header).unwrap();
    archive.set_len(512 + (64 << 20)).unwrap();
    let blob = packed(&dir, GZIP, &fs::read(&path).unwrap());
    let image = layout(dir.join("image"), &[blob]);
    refused(
        &dir,
        image.path(),
        "cannot use layer 0: 67108864 bytes are too many for what is said of one file",
    );
}

#[test]
fn disks_that_cannot_be_written_are_not_left_in_part() {
    let dir = scratch("full");
    let image = layout(
        dir.join("image"),
        &[packed(&dir, GZIP, &tar(&[file("a", &crate::noise(3 << 20))]))],
    );
    let out = dir.join("out");
    // A limit on the size of files fails writes as a full disk does.
    let command = layers(image.path(), &out);
    for kib in [100, 3076, 3092] {
        let mut limited = Command::new("bash");
        limited
            .args(["-c", &format!("trap '' XFSZ; ulimit -f {kib}; exec \"$@\""), "bash"])
            .arg(command.get_program())
            .args(command.get_args())
            .env("PATH", first_in_path(&without_cargo(&dir)));
        for (name, value) in command.get_envs() {
            limited.env(name, value.unwrap());
        }
        refuses(&mut limited, 1, "cannot ");
        assert_empty(&out);
    }
    // What was there before stays, when a later one fails.
    run(&mut layers(image.path(), &out));
    let before = bytes_in(&out);
    refuses(&mut layers(&image_of(&dir, &[&[file("/", b"")]]), &out), 1, "cannot use ");
    assert!(bytes_in(&out) == before);
}
