//! Layers as partitions of the one disk that `scripts/image` makes of them.

use crate::kit::artefacts::{self, initramfs_of_layers};
use crate::kit::guest::Guest;
use crate::kit::kernel::{Kernel, WORDS};
use crate::kit::layer::{self, SALT};
use crate::kit::tool::{Scratch, command, run};
use crate::kit::vm::{Bus, Vm};
use crate::layers::{SECRET, check_content, check_mounts, check_writing, contains};
use crate::measure::measures_what_was_predicted;
use crate::refused::refusal;
use cvm_tools::disks::{self, Disks};
use cvm_tools::oci::Digest;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

const MIB: u64 = 1 << 20;

/// Writes the folder that `scripts/layers` would.
fn write_layers(folder: &Path) {
    fs::create_dir(folder).unwrap();
    let layers = layer::image().iter().rev().enumerate().map(|(number, layer)| {
        let file = format!("layer{number}.img");
        fs::copy(layer.path(), folder.join(&file)).unwrap();
        disks::Disk {
            digest: None,
            diff_id: None,
            file,
            root_hash: layer.roothash.clone(),
            data_blocks: layer.blocks,
            salt: SALT.to_owned(),
            serial: format!("cocoon-layer{number}"),
        }
    });
    let disks = Disks {
        version: disks::VERSION,
        image_digest: None,
        config_digest: Digest::of(b"of a test"),
        platform: "linux/amd64".to_owned(),
        entrypoint: Vec::new(),
        cmd: Vec::new(),
        flattened: false,
        layers: layers.collect(),
    };
    fs::write(folder.join(disks::FILE), serde_json::to_string(&disks).unwrap()).unwrap();
    fs::write(folder.join(disks::CMDLINE), disks.words() + "\n").unwrap();
}

/// `scripts/image` for these layers; makes `disk.img` and `cmdline` in the folder.
fn image(folder: &Scratch) -> Command {
    let layers = folder.join("layers");
    write_layers(&layers);
    let mut image = artefacts::script("image");
    image
        .arg("--layers")
        .arg(layers)
        .arg("--kernel")
        .arg(artefacts::kernel())
        .arg("--initramfs")
        .arg(initramfs_of_layers(Kernel::RUNNING, ""))
        .args(["--cocos-size", "64M", "--append", WORDS, "-o"])
        .arg(folder.path());
    image
}

/// Booted as by a launcher that hands kernel, initramfs and command line over.
fn directly(folder: &Scratch, words: &str) -> Vm {
    Vm::new()
        .disk_on(Bus::VirtioScsi, &folder.join("disk.img"))
        .initramfs(folder.join("rootfs.cpio.gz"))
        .append(words)
        .append(fs::read_to_string(folder.join("cmdline")).unwrap().trim_end())
}

/// Each layer is where it was put, and so is what is written.
#[track_caller]
fn check_boot(guest: &mut Guest) {
    check_content(guest);
    check_mounts(guest);
    let report = guest.report();
    for (number, (layer, disk)) in layer::image().iter().zip(["sda4", "sda3", "sda2"]).enumerate() {
        let facts = &report["layers"]["layers"][number];
        assert_eq!(
            (&facts["disk"], &facts["root_hash"]),
            (&json!(disk), &json!(layer.roothash)),
            "{number}"
        );
    }
    assert_eq!(report["volume"]["partition"], "sda5");
    check_writing(guest);
}

#[test]
fn an_image_of_layers_boots_from_its_one_disk() {
    let folder = Scratch::new("layers-image");
    run(&mut image(&folder));
    let disk = folder.join("disk.img");
    // As launchers do it, for a volume that is larger.
    let file = File::options().write(true).open(&disk).unwrap();
    file.set_len(file.metadata().unwrap().len() + 64 * MIB).unwrap();
    let mut guest = directly(&folder, "").boot();
    check_boot(&mut guest);
    assert_eq!(guest.report()["volume"]["partition_bytes"], 128 * MIB);
    guest.power_off();
    assert!(!contains(&disk, SECRET));
    assert!(contains(&disk, "of the topmost layer"), "what is not encrypted would be seen");
}

#[test]
fn a_unified_image_of_layers_boots_by_firmware_and_measures_what_was_predicted() {
    let folder = Scratch::new("layers-uki");
    run(image(&folder).args(["--boot", "uki"]));
    let mut guest = measures_what_was_predicted(&folder);
    check_boot(&mut guest);
    guest.power_off();
}

#[test]
#[ignore = "scripts/test --all"]
fn an_image_of_layers_with_grub_boots_and_measures_what_was_predicted() {
    let folder = Scratch::new("layers-grub");
    run(&mut image(&folder));
    let mut guest = measures_what_was_predicted(&folder);
    check_boot(&mut guest);
    guest.power_off();
}

/// Where the partition of this name begins, and its bytes.
fn partition(disk: &Path, name: &str) -> (u64, u64) {
    let table: Value = serde_json::from_str(&run(command("sfdisk").arg("-J").arg(disk))).unwrap();
    let all = table["partitiontable"]["partitions"].as_array().unwrap();
    let found = all.iter().find(|partition| partition["name"] == name).unwrap();
    let bytes = |key: &str| found[key].as_u64().unwrap() * 512;
    (bytes("start"), bytes("size"))
}

#[test]
fn a_byte_of_a_layer_that_the_host_has_changed_on_the_disk_ends_the_boot() {
    let folder = Scratch::new("layers-altered");
    run(&mut image(&folder));
    let path = folder.join("disk.img");
    let disk = File::options().read(true).write(true).open(&path).unwrap();
    let [top, ..] = layer::image();
    // The magic, read through dm-verity; and the tree.
    for (name, offset, expected) in [
        ("layer1", 1024, "root: cannot read layer 1's superblock: I/O error (os error 5)"),
        (
            "layer2",
            top.tree() + 4096,
            "disk: no disk or partition that proves layer 0 within 5 s; sda4 for layer 0: the top hash \
             block does not match the root hash: its digest is ",
        ),
    ] {
        let (start, _) = partition(&path, name);
        let flip = || {
            let mut byte = [0];
            disk.read_exact_at(&mut byte, start + offset).unwrap();
            disk.write_all_at(&[byte[0] ^ 1], start + offset).unwrap();
        };
        flip();
        let reason = refusal(directly(&folder, "cvm.timeout=5 quiet"));
        assert!(reason.starts_with(expected), "{name}: {reason}");
        flip();
    }
    let (start, size) = partition(&path, "cocos");
    assert_eq!(size, 64 * MIB);
    let mut volume = vec![0; usize::try_from(size).unwrap()];
    disk.read_exact_at(&mut volume, start).unwrap();
    assert!(volume.iter().all(|&byte| byte == 0), "the volume was written to");
}
