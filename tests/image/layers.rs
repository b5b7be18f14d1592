//! Layers of an OCI image in place of a root: that the disk has them as `scripts/layers` made them, and
//! that what is not as it was made is refused.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::archive::{FILE, Item, file, folder, tar};
use crate::measure::document;
use crate::oci::{PLAIN, layout, packed};
use crate::script::{refuses, run, scratch, script, tool};
use crate::table::{SECTOR_SIZES, read, rows_of_fdisk, shown, table};
use crate::{BLOCK, MIB, image, image_of, names, root, stock_kernel};

const AGAIN: &str = "; make the layers again with scripts/layers";

/// Layers of an image whose topmost one holds `text`: the lower one has a hash tree of two levels.
fn layers_of(dir: &Path, name: &str, text: &str) -> PathBuf {
    let mut state = 1_u64;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    });
    let noise: Vec<_> = noise.take(600_000).collect();
    let init = Item { mode: 0o755, ..file("sbin/init", b"an init") };
    let base = tar(&[folder("sbin", 0o755), init, file("noise", &noise)]);
    let top = tar(&[Item { name: b"text", data: text.as_bytes(), ..FILE }]);
    let blobs = [base, top].map(|archive| packed(dir, PLAIN, &archive));
    let oci = layout(dir.join("oci").join(name), &blobs);
    let out = dir.join(name);
    run(script("layers").arg("--oci").arg(oci.path()).arg("-o").arg(&out));
    out
}

/// The same, with kernel and initramfs beside them.
pub(crate) fn layers(dir: &Path) -> PathBuf {
    root(dir);
    layers_of(dir, "layers", "of the topmost layer")
}

/// Without a partition for what is written.
fn without_cocos(dir: &Path, layers: &Path) -> Command {
    let mut command = image_of(dir, "--layers", layers);
    command.args(["--append", "console=ttyS0"]);
    command
}

pub(crate) fn of_layers(dir: &Path, layers: &Path) -> Command {
    let mut command = without_cocos(dir, layers);
    command.args(["--cocos-size", "64M"]);
    command
}

#[test]
fn each_layer_is_a_partition_as_it_is() {
    let dir = scratch("partitions of layers");
    let layers = layers(&dir);
    let words = fs::read_to_string(layers.join("cmdline")).unwrap();
    for sector_size in SECTOR_SIZES {
        run(of_layers(&dir, &layers).args(["--sector-size", &sector_size.to_string()]));
        let out = dir.join("out");
        let made = [
            "bzImage",
            "cmdline",
            "disk.img",
            "measurements.json",
            "pcr_values.json",
            "rootfs.cpio.gz",
        ];
        assert_eq!(names(&out), made);
        let disk = out.join("disk.img");
        let entries = table(&disk, sector_size);
        assert_eq!(rows_of_fdisk(&disk, sector_size), shown(&entries));
        if sector_size == 512 {
            let verdict = run(tool("sfdisk").arg("--verify").arg(&disk));
            assert!(verdict.contains("No errors detected."), "{verdict}");
        }
        let names: Vec<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["efi", "layer0", "layer1", "cocos"]);
        for (number, entry) in entries[1..3].iter().enumerate() {
            let layer = fs::read(layers.join(format!("layer{number}.img"))).unwrap();
            let start = entry.first * sector_size;
            assert_eq!(start % MIB, 0);
            assert_eq!((entry.last - entry.first + 1) * sector_size, layer.len() as u64);
            assert!(read(&disk, start, layer.len()) == layer, "layer {number}");
        }
        assert_ne!(entries[1].uuid, entries[2].uuid);
        assert_eq!((entries[3].last - entries[3].first + 1) * sector_size, 64 * MIB);
        let cmdline = fs::read_to_string(out.join("cmdline")).unwrap();
        let start = format!("cvm.begin {} panic=-1 systemd.verity=0 ", words.trim_end());
        assert!(cmdline.starts_with(&start), "{cmdline}");
        assert!(cmdline.ends_with(" console=ttyS0 cvm.end\n"), "{cmdline}");
    }
}

#[test]
fn an_image_of_the_same_layers_has_the_same_bytes_and_of_others_another_table() {
    let dirs = ["layers here", "layers there"].map(|place| {
        let dir = scratch(place);
        let layers = layers(&dir);
        stock_kernel(&dir);
        // Long enough for a time in a header, or in a FAT's two seconds, to differ.
        std::thread::sleep(std::time::Duration::from_secs(2));
        for boot in ["grub", "uki"] {
            run(of_layers(&dir, &layers).args(["--boot", boot, "-o"]).arg(dir.join(boot)));
        }
        dir
    });
    for boot in ["grub", "uki"] {
        let outs = dirs.each_ref().map(|dir| dir.join(boot));
        for name in names(&outs[0]) {
            run(tool("cmp").args(outs.iter().map(|out| out.join(&name))));
        }
        assert!(outs[0].join("pcr_values.json").exists());
    }
    let [dir, _] = &dirs;
    let other = layers_of(dir, "other", "of another layer");
    run(&mut of_layers(dir, &other));
    let [mut one, mut other] =
        ["grub", "out"].map(|out| shown(&table(&dir.join(out).join("disk.img"), 512)));
    let [lowest, _] = [&one, &other].map(|rows| rows[1].clone());
    assert_eq!(other.remove(1), lowest);
    assert_eq!(one.remove(1), lowest);
    for (one, other) in one.iter().zip(&other) {
        assert_ne!(one[3], other[3], "{}", one[4]);
    }
}

#[test]
fn what_is_measured_names_each_layer_and_changes_with_it() {
    let dir = scratch("measured layers");
    let layers = layers(&dir);
    let described = fs::read_to_string(layers.join("layers.json")).unwrap();
    let described: Value = serde_json::from_str(&described).unwrap();
    for (boot, shows) in
        [("grub", &["15", "5", "8", "9"][..]), ("uki", &["11", "15", "4", "5", "9"])]
    {
        run(of_layers(&dir, &layers).args(["--boot", boot]));
        let before = document(&dir.join("out"));
        assert_eq!(before["inputs"]["roothash"], Value::Null);
        let named = before["inputs"]["layers"].as_array().unwrap();
        let recorded = before["tpm"]["disk"]["events"].as_array().unwrap().iter();
        let recorded: Vec<_> = recorded.filter(|event| event["pcr"] == 15).collect();
        assert_eq!((named.len(), recorded.len()), (2, 4));
        // The topmost first.
        for (number, layer) in described["layers"].as_array().unwrap().iter().rev().enumerate() {
            let (hash, blocks) = (&layer["root_hash"], &layer["data_blocks"]);
            assert_eq!((&named[number]["roothash"], &named[number]["data_blocks"]), (hash, blocks));
            let line = format!(
                "cvm-init layer number={number} verity=sha256:{} data_blocks={blocks} block=4096 \
                 on_corruption=restart, by PID 1",
                hash.as_str().unwrap()
            );
            assert_eq!(recorded[number]["what"], line);
        }
        let other = layers_of(&dir, "other", "of another layer");
        run(of_layers(&dir, &other).args(["--boot", boot]));
        let after = document(&dir.join("out"));
        let values = |of: &Value| of["tpm"]["disk"]["sha256"].as_object().unwrap().clone();
        let (before, after) = (values(&before), values(&after));
        let differ: Vec<_> = before.keys().filter(|pcr| before[*pcr] != after[*pcr]).collect();
        assert_eq!(differ, shows, "{boot}");
    }
    // By what verifiers ask.
    let told = run(script("measure").arg(dir.join("out")));
    assert!(told.contains("PCR 15"), "{told}");
}

/// Where nothing is written to this disk there is no partition for it.
#[test]
fn layers_below_memory_or_another_disk_have_no_volume_beside_them() {
    let dir = scratch("no volume");
    let layers = layers(&dir);
    for word in ["cvm.cow=memory", "cvm.volume=serial:v"] {
        run(without_cocos(&dir, &layers).args(["--append", word]));
        let entries = table(&dir.join("out/disk.img"), 512);
        let names: Vec<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["efi", "layer0", "layer1"]);
        refuses(
            of_layers(&dir, &layers).args(["--append", word]),
            2,
            &format!("--cocos-size 64M and {word} exclude each other"),
        );
    }
}

#[test]
fn the_root_of_an_image_before_does_not_stay_beside_layers() {
    let dir = scratch("layers behind a root");
    let layers = layers(&dir);
    run(&mut image(&dir, &dir.join("root")));
    assert!(dir.join("out/rootfs.roothash").exists());
    run(&mut of_layers(&dir, &layers));
    let left: Vec<_> =
        names(&dir.join("out")).into_iter().filter(|name| name.starts_with("rootfs")).collect();
    assert_eq!(left, ["rootfs.cpio.gz"]);
}

#[test]
fn an_image_of_layers_is_refused_by_what_is_wrong_with_its_arguments() {
    let dir = scratch("arguments of layers");
    let layers = layers(&dir);
    let own = layers.to_str().unwrap();
    let nowhere = dir.join("nowhere");
    let nowhere = nowhere.to_str().unwrap();
    let cases: &[(&[&str], i32, &str)] = &[
        (&["--rootfs", "x"], 2, "--rootfs and --layers exclude each other"),
        (
            &["--root-format", "erofs"],
            2,
            "--root-format erofs and --layers exclude each other: scripts/layers has made them erofs",
        ),
        (&["-o", own], 2, "are one folder: the image has a cmdline of its own"),
        (
            &["--layers", nowhere],
            1,
            "nowhere/layers.json: no such file; make it with scripts/layers",
        ),
        (
            &["--append", "cvm.shares=no"],
            1,
            "cvm.shares= says nothing where the root is made of layers",
        ),
        (&["--append", "cvm.overlay=/etc"], 1, "cvm.overlay= says nothing"),
        (&["--append", "cvm.layers=x"], 1, "cvm.layers= is given twice"),
        (
            &["--append", &"x".repeat(2000)],
            1,
            "that GRUB puts in front; with --boot uki there are none; scripts/layers --flatten makes one of \
             all layers",
        ),
    ];
    for (arguments, status, why) in cases {
        refuses(of_layers(&dir, &layers).args(*arguments), *status, why);
    }
    refuses(
        &mut without_cocos(&dir, &layers),
        2,
        "--cocos-size is missing; only with cvm.volume= or cvm.cow=memory among the words",
    );
    assert!(!dir.join("out").exists());
}

/// Changes one byte of a file.
fn flip(file: &Path, at: u64) {
    let file = fs::File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

#[test]
fn layers_that_are_not_as_they_were_made_are_refused_by_file_and_fault() {
    let dir = scratch("altered layers");
    let layers = layers(&dir);
    let described = fs::read_to_string(layers.join("layers.json")).unwrap();
    let value: Value = serde_json::from_str(&described).unwrap();
    let hash_area = value["layers"][0]["data_blocks"].as_u64().unwrap() * BLOCK;
    let refused = |change: &dyn Fn(&Path), object: &str, fault: &str| {
        let copy = dir.join("altered");
        let _ = fs::remove_dir_all(&copy);
        run(tool("cp").arg("-r").args([&layers, &copy]));
        change(&copy);
        for part in [object, fault, AGAIN] {
            refuses(&mut of_layers(&dir, &copy), 1, part);
        }
    };
    let proof = "altered/layer0.img: it does not have the root hash of layers.json (";
    // Data, the lower level of the tree, and its top.
    for at in [hash_area / 2, hash_area + 3 * BLOCK, hash_area + BLOCK] {
        refused(&|copy| flip(&copy.join("layer0.img"), at), "cannot use ", proof);
    }
    refused(
        &|copy| flip(&copy.join("layer0.img"), hash_area + 88),
        "altered/layer0.img: its superblock has ",
        " but layers.json has ",
    );
    refused(
        &|copy| flip(&copy.join("layer0.img"), hash_area),
        "altered/layer0.img: ",
        "verity superblock: magic is ",
    );
    for (length, fault) in [
        (hash_area, "the hash area would begin at byte "),
        (hash_area + 2 * BLOCK, "but there is room for 2"),
    ] {
        let cut = |copy: &Path| {
            let file = fs::File::options().write(true).open(copy.join("layer0.img"));
            file.unwrap().set_len(length).unwrap();
        };
        refused(&cut, "altered/layer0.img: ", fault);
    }
    refused(
        &|copy| fs::remove_file(copy.join("layer1.img")).unwrap(),
        "altered/layer1.img: ",
        "no such file",
    );
    refused(
        &|copy| fs::rename(copy.join("layer1.img"), copy.join("layer0.img")).unwrap(),
        "altered/layer0.img: ",
        "",
    );
    refused(
        &|copy| fs::write(copy.join("cmdline"), "cvm.layers=x\n").unwrap(),
        "altered/cmdline: ",
        "it has not the words of layers.json",
    );
    for (old, new, fault) in [
        ("\"version\": 1", "\"version\": 2", "it is of version 2, and 1 is known"),
        ("layer1.img", "../layer1.img", "layer 1 is no layer1.img with a root hash"),
        ("{", "", "cannot read layers.json: "),
    ] {
        refused(
            &|copy| fs::write(copy.join("layers.json"), described.replacen(old, new, 1)).unwrap(),
            "layers.json: ",
            fault,
        );
    }
    assert!(!dir.join("out").exists());
}

#[test]
fn an_initramfs_without_what_joins_layers_gets_a_warning() {
    let dir = scratch("modules for layers");
    let layers = layers(&dir);
    crate::cmdline::initramfs_for(&dir, crate::RELEASE);
    let output = of_layers(&dir, &layers).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    for module in ["erofs", "overlay"] {
        let warnings = said.lines().filter(|line| {
            line.contains(&format!("has no module {module}: "))
                && line.ends_with("scripts/initramfs --with layers packs it")
        });
        assert_eq!(warnings.count(), 1, "{said}");
    }
}
