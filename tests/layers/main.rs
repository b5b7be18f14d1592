//! `scripts/layers`: the disks that it makes of an image, that it makes the same again, and how it
//! refuses bad input.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod archive;
mod bounds;
mod disks;
mod erofs;
mod forms;
mod image;
mod refused;
#[path = "../script/mod.rs"]
mod script;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use archive::{FILE, Item, TIME, device, file, folder, link, mark, symlink, tar};
use image::{Blob, GZIP, layout, packed};
use script::{run, scratch, script, tool};
use serde_json::Value;
use tar::EntryType;

/// Bytes that a line of text or a word would end at.
const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x20\0\0\n\0\0\0\0\0\0\0=\0\0\0";

/// A name of 250 bytes.
fn long_name() -> String {
    "long".repeat(62) + "er"
}

/// Bytes that no compressor makes smaller.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

/// The archives of an image's layers. The second removes single files of the first, and all that was
/// in a folder; the third a folder with all below it, which it makes anew.
fn archives() -> Vec<Vec<u8>> {
    let (long, noise) = (format!("usr/{0}/{0}", long_name()), noise(100_000));
    let deep = format!("usr/{}", long_name());
    let first = tar(&[
        folder("./", 0o755),
        folder("./bin/", 0o755),
        file("./bin/tool", b"the tool"),
        Item {
            mode: 0o4755,
            owner: (0, 70_000),
            xattrs: &[("security.capability", CAPABILITY), ("user.note", b"")],
            ..file("./bin/su", b"su")
        },
        link("./bin/other-tool", "./bin/tool"),
        folder("etc", 0o755),
        file("etc/empty", b""),
        Item { mode: 0, owner: (1, 42), ..file("etc/shadow", b"secret") },
        Item { time: 1, ..file("etc/passwd", b"root") },
        folder("dev", 0o1777),
        device("dev/null", EntryType::Char, (1, 3)),
        device("dev/disk", EntryType::Block, (259, 70_000)),
        device("dev/pipe", EntryType::Fifo, (0, 0)),
        Item { owner: (1000, 1000), ..folder("usr", 0o711) },
        folder("usr/lib", 0o755),
        symlink("lib", "usr/lib"),
        symlink("bin/dangling", "..//nowhere/./"),
        file("usr/lib/big", &vec![b'x'; 300_000]),
        file("usr/lib/noise", &noise),
        folder(&deep, 0o755),
        file(&long, b"long"),
        file("usr/na\u{ef}ve \u{65e5}\u{672c}", b"names"),
        Item { name: b"usr/\xff\xfe\n", ..FILE },
        folder("doomed", 0o755),
        file("doomed/a", b"a"),
        file("doomed/b", b"b"),
        folder("sealed", 0o755),
        file("sealed/old", b"old"),
        file("gone", b"gone"),
    ]);
    let second = tar(&[
        file("lib/added", b"by a link, in folders that are not named"),
        mark(".wh.gone"),
        mark("doomed/.wh.a"),
        // Before and behind what it must not hide.
        file("sealed/new", b"new"),
        mark("sealed/.wh..wh..opq"),
        Item { xattrs: &[("user.x", b"1"), ("trusted.y", b"2")], ..folder("sealed", 0o700) },
        mark("nowhere/.wh.nothing"),
    ]);
    let third = tar(&[
        folder("doomed", 0o755),
        file("doomed/fresh", b"fresh"),
        mark(".wh.doomed"),
        link("bin/third-tool", "bin/tool"),
        file("etc/passwd", b"root and more"),
        folder("gone", 0o755),
    ]);
    vec![first, second, third]
}

fn blobs(dir: &Path, media_type: &'static str) -> Vec<Blob> {
    archives().iter().map(|archive| packed(dir, media_type, archive)).collect()
}

/// `scripts/layers` of an image.
fn layers(image: &Path, out: &Path) -> Command {
    let mut command = script("layers");
    command.arg("--oci").arg(image).arg("-o").arg(out);
    command
}

/// `DIR/layerN.img` of all layers.
fn disks(out: &Path) -> Vec<PathBuf> {
    let paths = (0..100).map(|number| out.join(format!("layer{number}.img")));
    paths.take_while(|disk| disk.exists()).collect()
}

fn described(out: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(out.join("layers.json")).unwrap()).unwrap()
}

/// What is in one of two listings, or is not the same in both.
fn differences(found: &BTreeMap<String, String>, expected: &[(&str, &str)]) -> Vec<String> {
    let expected: BTreeMap<_, _> =
        expected.iter().map(|(path, facts)| ((*path).to_owned(), (*facts).to_owned())).collect();
    let lines = |listing: &BTreeMap<String, String>| -> Vec<_> {
        listing.iter().map(|(path, facts)| format!("{path}: {facts}")).collect()
    };
    let (found, expected) = (lines(found), lines(&expected));
    let more = found.iter().filter(|line| !expected.contains(line)).map(|line| format!("+ {line}"));
    let less = expected.iter().filter(|line| !found.contains(line)).map(|line| format!("- {line}"));
    more.chain(less).collect()
}

/// The content of each file of an EROFS.
fn contents(disk: &Path, dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let out = dir.join("extracted");
    let _ = fs::remove_dir_all(&out);
    fs::create_dir(&out).unwrap();
    run(tool("fakeroot").arg("fsck.erofs").arg(format!("--extract={}", out.display())).arg(disk));
    let mut contents = BTreeMap::new();
    collect(&out, "", &mut contents);
    fs::remove_dir_all(&out).unwrap();
    contents
}

fn collect(folder: &Path, path: &str, contents: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{path}/{}", entry.file_name().to_string_lossy());
        if entry.file_type().unwrap().is_dir() {
            collect(&entry.path(), &path, contents);
        } else if entry.file_type().unwrap().is_file() && entry.metadata().unwrap().size() > 0 {
            contents.insert(path, fs::read(entry.path()).unwrap());
        }
    }
}

/// All that is in a folder.
fn bytes_in(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| {
            (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap())
        })
        .collect()
}

#[test]
fn each_layer_becomes_an_erofs_with_all_that_its_archive_has() {
    let dir = scratch("layers");
    let out = dir.join("out");
    run(&mut layers(layout(dir.join("image"), &blobs(&dir, GZIP)).path(), &out));
    let disks = disks(&out);
    assert_eq!(disks.len(), 3);
    let (long, capability) = (long_name(), CAPABILITY.escape_ascii().to_string());
    let (deep, longer) = (format!("./usr/{long}"), format!("./usr/{long}/{long}"));
    let su = format!("f4755 0:70000 @{TIME} 2 security.capability={capability} user.note=");
    let first: &[(&str, &str)] = &[
        (".", "d0755 0:0 @1700000000"),
        ("./bin", "d0755 0:0 @1700000000"),
        ("./bin/tool", "f0644 0:0 @1700000000 8 x2"),
        ("./bin/other-tool", "f0644 0:0 @1700000000 8 x2"),
        ("./bin/su", &su),
        ("./bin/dangling", "l0777 0:0 @1700000000 ..//nowhere/./"),
        ("./etc", "d0755 0:0 @1700000000"),
        ("./etc/empty", "f0644 0:0 @1700000000 0"),
        ("./etc/shadow", "f0000 1:42 @1700000000 6"),
        ("./etc/passwd", "f0644 0:0 @1 4"),
        ("./dev", "d1777 0:0 @1700000000"),
        ("./dev/null", "c0666 0:0 @1700000000 1:3"),
        ("./dev/disk", "b0666 0:0 @1700000000 259:70000"),
        ("./dev/pipe", "p0666 0:0 @1700000000"),
        ("./usr", "d0711 1000:1000 @1700000000"),
        ("./usr/lib", "d0755 0:0 @1700000000"),
        ("./lib", "l0777 0:0 @1700000000 usr/lib"),
        ("./usr/lib/big", "f0644 0:0 @1700000000 300000"),
        ("./usr/lib/noise", "f0644 0:0 @1700000000 100000"),
        (&deep, "d0755 0:0 @1700000000"),
        (&longer, "f0644 0:0 @1700000000 4"),
        ("./usr/na\u{ef}ve \u{65e5}\u{672c}", "f0644 0:0 @1700000000 5"),
        ("./usr/\\xff\\xfe\\n", "f0644 0:0 @1700000000 0"),
        ("./doomed", "d0755 0:0 @1700000000"),
        ("./doomed/a", "f0644 0:0 @1700000000 1"),
        ("./doomed/b", "f0644 0:0 @1700000000 1"),
        ("./sealed", "d0755 0:0 @1700000000"),
        ("./sealed/old", "f0644 0:0 @1700000000 3"),
        ("./gone", "f0644 0:0 @1700000000 4"),
    ];
    // What is removed is a device 0:0, and folders that the layer does not name are as they were below.
    let second: &[(&str, &str)] = &[
        (".", "d0755 0:0 @1700000000"),
        ("./gone", "c0000 0:0 @0 0:0"),
        ("./doomed", "d0755 0:0 @1700000000"),
        ("./doomed/a", "c0000 0:0 @0 0:0"),
        ("./sealed", "d0700 0:0 @1700000000 trusted.overlay.opaque=y trusted.y=2 user.x=1"),
        ("./sealed/new", "f0644 0:0 @1700000000 3"),
        ("./usr", "d0711 1000:1000 @1700000000"),
        ("./usr/lib", "d0755 0:0 @1700000000"),
        ("./usr/lib/added", "f0644 0:0 @1700000000 40"),
    ];
    // A file of a layer below that gets another name comes up with it.
    let third: &[(&str, &str)] = &[
        (".", "d0755 0:0 @1700000000"),
        ("./bin", "d0755 0:0 @1700000000"),
        ("./bin/third-tool", "f0644 0:0 @1700000000 8 x2"),
        ("./bin/tool", "f0644 0:0 @1700000000 8 x2"),
        ("./doomed", "d0755 0:0 @1700000000 trusted.overlay.opaque=y"),
        ("./doomed/fresh", "f0644 0:0 @1700000000 5"),
        ("./etc", "d0755 0:0 @1700000000"),
        ("./etc/passwd", "f0644 0:0 @1700000000 13"),
        ("./gone", "d0755 0:0 @1700000000"),
    ];
    for (disk, expected) in disks.iter().zip([first, second, third]) {
        let differences = differences(&erofs::listing(disk), expected);
        assert!(differences.is_empty(), "{}: {differences:#?}", disk.display());
        // Not padded, without a checksum or of another block size it would be refused by a kernel.
        run(tool("fsck.erofs").arg(disk));
    }

    let found = contents(&disks[0], &dir);
    assert_eq!(found["/bin/tool"], b"the tool");
    assert_eq!(found["/bin/other-tool"], b"the tool");
    assert_eq!(found["/etc/shadow"], b"secret");
    assert_eq!(found["/usr/lib/big"], vec![b'x'; 300_000]);
    assert!(found["/usr/lib/noise"] == noise(100_000));
    assert_eq!(found[&longer[1..]], b"long");
    assert_eq!(found["/usr/na\u{ef}ve \u{65e5}\u{672c}"], b"names");
    let found = contents(&disks[2], &dir);
    assert_eq!(found["/bin/third-tool"], b"the tool");
    assert_eq!(found["/bin/tool"], b"the tool");
    assert_eq!(found["/doomed/fresh"], b"fresh");
    assert_eq!(found["/etc/passwd"], b"root and more");
}

#[test]
fn flattened_it_is_one_disk_of_all_that_is_left() {
    let dir = scratch("flattened");
    let out = dir.join("out");
    let image = layout(dir.join("image"), &blobs(&dir, GZIP));
    run(layers(image.path(), &out).arg("--flatten"));
    let [disk] = &disks(&out)[..] else { panic!("not one disk") };
    let long = long_name();
    let (deep, longer) = (format!("./usr/{long}"), format!("./usr/{long}/{long}"));
    let su = format!(
        "f4755 0:70000 @{TIME} 2 security.capability={} user.note=",
        CAPABILITY.escape_ascii()
    );
    let expected: &[(&str, &str)] = &[
        (".", "d0755 0:0 @1700000000"),
        ("./bin", "d0755 0:0 @1700000000"),
        ("./bin/tool", "f0644 0:0 @1700000000 8 x3"),
        ("./bin/other-tool", "f0644 0:0 @1700000000 8 x3"),
        ("./bin/third-tool", "f0644 0:0 @1700000000 8 x3"),
        ("./bin/su", &su),
        ("./bin/dangling", "l0777 0:0 @1700000000 ..//nowhere/./"),
        ("./etc", "d0755 0:0 @1700000000"),
        ("./etc/empty", "f0644 0:0 @1700000000 0"),
        ("./etc/shadow", "f0000 1:42 @1700000000 6"),
        ("./etc/passwd", "f0644 0:0 @1700000000 13"),
        ("./dev", "d1777 0:0 @1700000000"),
        ("./dev/null", "c0666 0:0 @1700000000 1:3"),
        ("./dev/disk", "b0666 0:0 @1700000000 259:70000"),
        ("./dev/pipe", "p0666 0:0 @1700000000"),
        ("./usr", "d0711 1000:1000 @1700000000"),
        ("./usr/lib", "d0755 0:0 @1700000000"),
        ("./usr/lib/added", "f0644 0:0 @1700000000 40"),
        ("./usr/lib/big", "f0644 0:0 @1700000000 300000"),
        ("./usr/lib/noise", "f0644 0:0 @1700000000 100000"),
        ("./lib", "l0777 0:0 @1700000000 usr/lib"),
        (&deep, "d0755 0:0 @1700000000"),
        (&longer, "f0644 0:0 @1700000000 4"),
        ("./usr/na\u{ef}ve \u{65e5}\u{672c}", "f0644 0:0 @1700000000 5"),
        ("./usr/\\xff\\xfe\\n", "f0644 0:0 @1700000000 0"),
        ("./doomed", "d0755 0:0 @1700000000"),
        ("./doomed/fresh", "f0644 0:0 @1700000000 5"),
        ("./sealed", "d0700 0:0 @1700000000 trusted.y=2 user.x=1"),
        ("./sealed/new", "f0644 0:0 @1700000000 3"),
        ("./gone", "d0755 0:0 @1700000000"),
    ];
    let differences = differences(&erofs::listing(disk), expected);
    assert!(differences.is_empty(), "{differences:#?}");
    let found = contents(disk, &dir);
    assert_eq!(found["/usr/lib/added"], b"by a link, in folders that are not named");
    assert_eq!(found["/etc/passwd"], b"root and more");
    assert!(found["/usr/lib/noise"] == noise(100_000));

    let described = described(&out);
    assert_eq!(described["flattened"], true);
    assert_eq!(described["layers"][0]["digest"], Value::Null);
}
