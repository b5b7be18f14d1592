//! Disks that systemd-repart has made, and mkosi by it.

use crate::kit::artefacts::{initramfs_of_formats, script};
use crate::kit::disk::LARGE_SECTORS;
use crate::kit::images;
use crate::kit::kernel::Kernel;
use crate::kit::root::Root;
use crate::kit::tool::{Scratch, command, run};
use crate::kit::vm::{Bus, Vm};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// What a disk is made by, one file a partition (repart.d(5)): any order and any numbers will do. The
/// hash tree's size is that of a tree over 16 MiB, and more; its blocks would be sectors.
fn definitions(root: &Path) -> [(&'static str, String); 3] {
    [
        (
            "10-cocos.conf",
            "[Partition]\nType=linux-generic\nLabel=cocos\nSizeMinBytes=64M\nSizeMaxBytes=64M\n"
                .to_owned(),
        ),
        (
            "20-root.conf",
            format!(
                "[Partition]\nType=root\nCopyBlocks={}\nVerity=data\nVerityMatchKey=root\n",
                root.display()
            ),
        ),
        (
            "30-root-verity.conf",
            "[Partition]\nType=root-verity\nVerity=hash\nVerityMatchKey=root\nSizeMinBytes=1M\n\
             SizeMaxBytes=1M\nVerityDataBlockSizeBytes=4096\nVerityHashBlockSizeBytes=4096\n"
                .to_owned(),
        ),
    ]
}

/// Makes a disk, and says what its root hash is.
fn repart(scratch: &Scratch, disk: &Path, sector_size: u64) -> String {
    let folder = scratch.join(&format!("repart.d-{sector_size}"));
    fs::create_dir(&folder).unwrap();
    for (name, text) in definitions(&Root::standard().data) {
        fs::write(folder.join(name), text).unwrap();
    }
    let [loader, libraries, program] = images::systemd_repart();
    let said = run(command("env")
        .arg(loader)
        .arg("--library-path")
        .arg(libraries)
        .arg(program)
        .args(["--empty=create", "--size=auto", "--offline=yes", "--dry-run=no", "--json=short"])
        .arg(format!("--sector-size={sector_size}"))
        .arg(format!("--definitions={}", folder.display()))
        .arg(disk));
    let rows: Value = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"));
    let hashes: Vec<_> =
        rows.as_array().unwrap().iter().filter_map(|r| r["roothash"].as_str()).collect();
    let hash = hashes.iter().find(|hash| hash.len() == 64);
    (*hash.unwrap_or_else(|| panic!("no root hash: {said}"))).to_owned()
}

#[test]
fn a_disk_of_systemd_repart_boots_by_its_root_hash_alone() {
    let scratch = Scratch::new("repart");
    for (sector_size, properties) in [(512, "logical_block_size=512"), (4096, LARGE_SECTORS)] {
        let disk = scratch.join(&format!("disk-{sector_size}.img"));
        let hash = repart(&scratch, &disk, sector_size);
        let vm = Vm::new().disk_on(Bus::VirtioScsi, &disk).with(properties);
        let mut guest = vm.append(&format!("roothash={hash}")).boot();
        let report = guest.report();
        assert_eq!(report["verity"]["root_hash"], json!(hash));
        assert_eq!(report["verity"]["data_blocks"], Root::standard().data_blocks);
        let places =
            [&report["verity"]["data"], &report["verity"]["hash"], &report["volume"]["partition"]];
        assert_eq!(places, [&json!("sda2"), &json!("sda3"), &json!("sda1")]);
        assert_eq!(guest.read("/etc/hostname"), "verified\n");
        guest.ask("write", json!({ "path": "/cocos/datasets/file", "text": "some" }));
        guest.power_off();
    }
}

/// A Debian on EROFS, as `docs/integrate.md` has it made.
#[test]
#[ignore = "needs root and two minutes: scripts/test --all"]
fn an_image_of_mkosi_boots_by_its_root_hash_to_a_login() {
    let scratch = Scratch::new("mkosi");
    let disk = scratch.join("mkosi.raw");
    let hash = run(script("mkosi-image").arg("-o").arg(&disk));
    for kernel in [Kernel::RUNNING, Kernel::TRIXIE] {
        let vm = Vm::new()
            .disk_on(Bus::VirtioScsi, &disk)
            .kernel(kernel)
            .initramfs(initramfs_of_formats(kernel, &[]))
            .append(&format!("roothash={}", hash.trim()));
        let guest = vm.boot();
        guest.wait_serial("localhost login:", Duration::from_secs(300));
        let said = guest.serial();
        assert!(said.contains("cvm-init: root verified and mounted read-only, erofs"), "{said}");
        assert!(said.contains(" on sda3\n"), "{said}");
    }
}
