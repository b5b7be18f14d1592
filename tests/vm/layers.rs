//! A root of layers: each on a disk of its own, proven, and what is written on the encrypted volume or
//! in memory.

use crate::good::mounts;
use crate::kit::artefacts::initramfs_of_layers;
use crate::kit::guest::Guest;
use crate::kit::kernel::{Kernel, WORDS};
use crate::kit::layer::{Layer, image, word};
use crate::kit::root::{Builder, Node, Root};
use crate::kit::tool::{Scratch, command, run};
use crate::kit::vm::{Bus, Vm};
use crate::refused::refusal;
use crate::volume_disk::blank;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub(crate) const MIB: u64 = 1 << 20;
const ENOENT: i32 = 2;

/// As an engine writes it.
pub(crate) const ENGINE: &str = "boot=cocoon-overlay cocoon.layers=cocoon-layer2,cocoon-layer1,cocoon-layer0 \
                      cocoon.cow=cocoon-cow clocksource=kvm-clock rw";

/// The serial of a layer; 0 is the lowest.
fn serial(number: usize) -> String {
    format!("serial=cocoon-layer{number}")
}

/// A guest with these layers on a disk each, the topmost first, attached from the lowest on.
pub(crate) fn with_layers(layers: &[&Layer]) -> Vm {
    layers.iter().rev().enumerate().fold(Vm::new(), |vm, (number, layer)| {
        vm.disk_on(Bus::VirtioBlk, layer.path()).with(&serial(number)).read_only()
    })
}

pub(crate) fn with_cow(vm: Vm, cow: &Path) -> Vm {
    vm.disk_on(Bus::VirtioBlk, cow).with("serial=cocoon-cow")
}

pub(crate) fn all() -> Vec<&'static Layer> {
    image().iter().collect()
}

/// What is in the root is what the layers have, one above the other.
#[track_caller]
pub(crate) fn check_content(guest: &mut Guest) {
    assert_eq!(guest.read("/etc/changed"), "of the second layer\n");
    assert_eq!(guest.read("/etc/added"), "of the topmost layer\n");
    let removed = guest.call("stat", json!({ "path": "/etc/removed" }));
    assert_eq!(removed.unwrap_err().errno, Some(ENOENT));
    assert_eq!(guest.read("/etc/machine-id"), "");
}

/// The root is an overlay, and nobody sees what it is made of.
#[track_caller]
pub(crate) fn check_mounts(guest: &mut Guest) {
    let all = mounts(guest);
    let shown = guest.read("/proc/mounts");
    let root: Vec<_> = shown.lines().filter(|line| line.contains(" / ")).collect();
    let [root] = root[..] else { panic!("{shown}") };
    assert!(root.starts_with("overlay / overlay rw,relatime,"), "{root}");
    for option in
        ["lowerdir=/layers/0:/layers/1:/layers/2", "redirect_dir=on", "metacopy=on", "index=on"]
    {
        assert!(root.contains(option), "{root}");
    }
    assert!(!all.iter().any(|mount| mount.starts_with("/layers")), "{all:?}");
    assert!(!all.iter().any(|mount| mount.starts_with("/cocos")), "{all:?}");
    let left = guest.call("list", json!({ "path": "/layers" }));
    assert_eq!(left.unwrap_err().errno, Some(ENOENT));
}

/// What is written stays, also when memory has let go of it.
#[track_caller]
pub(crate) fn check_writing(guest: &mut Guest) {
    for path in ["/etc/changed", "/new"] {
        guest.ask("write", json!({ "path": path, "text": SECRET }));
    }
    guest.ask("sync", json!({}));
    guest.ask("drop_caches", json!({}));
    for path in ["/etc/changed", "/new"] {
        assert_eq!(guest.read(path), SECRET);
    }
}

pub(crate) const SECRET: &str = "what a guest of layers writes, and no host is to read\n";

pub(crate) fn contains(file: &Path, text: &str) -> bool {
    let bytes = fs::read(file).expect("the disk is there");
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[track_caller]
fn boots_confidentially(kernel: Kernel) {
    let scratch = Scratch::new("layers");
    let cow = blank(scratch.path(), "cow", 256 * MIB);
    let words = format!("{ENGINE} {}", word(&all()));
    let vm = with_cow(with_layers(&all()), &cow)
        .kernel(kernel)
        .initramfs(initramfs_of_layers(kernel, ""))
        .append(&words)
        .append("cocoon.hostname=my-vm");
    let mut guest = vm.boot();
    check_content(&mut guest);
    check_mounts(&mut guest);
    assert_eq!(guest.read("/etc/hostname"), "my-vm\n");
    assert_eq!(guest.read("/proc/sys/kernel/hostname"), "my-vm\n");

    let report = guest.report();
    assert_eq!(report["volume"]["partition"], "vdd");
    assert_eq!((&report["root"], &report["disk"]), (&Value::Null, &Value::Null));
    assert_eq!(report["layers"]["upper"], "volume");
    let layers = report["layers"]["layers"].as_array().unwrap();
    let mappings = guest.ask("dm", json!({}));
    for (number, (layer, disk)) in image().iter().zip(["vdc", "vdb", "vda"]).enumerate() {
        let (name, hash) = (format!("layer_{number}"), &layer.roothash);
        let facts = json!({
            "disk": disk, "device": format!("/dev/mapper/{name}"), "root_hash": hash,
            "data_blocks": layer.blocks,
        });
        assert_eq!(layers[number], facts);
        let mapping = mappings.as_array().unwrap().iter().find(|it| it["name"] == name).unwrap();
        assert_eq!((&mapping["kind"], &mapping["read_only"]), (&json!("verity"), &json!(true)));
        let table = mapping["table"].as_str().unwrap();
        let (blocks, start) = (layer.blocks, layer.blocks + 1);
        assert!(table.contains(&format!(" 4096 4096 {blocks} {start} sha256 {hash} ")), "{table}");
        // As for any other root.
        assert!(table.contains("restart_on_corruption"), "{table}");
        assert_eq!(mapping["uuid"], format!("CRYPT-VERITY-{}-{name}", &hash[..32]));
    }
    let rules = guest.read("/run/udev/rules.d/10-cvm-init.rules");
    assert!(rules.contains("|root_verity|layer_0|layer_1|layer_2\""), "{rules}");

    check_writing(&mut guest);
    let stores = mounts(&mut guest);
    for store in ["docker", "containerd"] {
        let mount = format!("/var/lib/{store} ext4 /dev/mapper/cocos_crypt /{store} rw,noatime");
        assert!(stores.iter().any(|it| it.starts_with(&mount)), "{stores:?}");
    }
    guest.power_off();
    assert!(!contains(&cow, SECRET));
    for layer in all() {
        assert!(contains(layer.path(), "of the"), "what is not encrypted would be seen");
    }
}

#[test]
fn an_image_boots_with_every_layer_proven_and_all_that_is_written_encrypted() {
    boots_confidentially(Kernel::RUNNING);
}

#[test]
fn an_image_boots_with_a_newer_kernel() {
    boots_confidentially(Kernel::TRIXIE);
}

/// Without an engine: disks by what they prove, in any order, and one layer.
#[test]
fn layers_are_found_by_proof_and_one_is_enough() {
    let (image, scratch) = (image(), Scratch::new("one"));
    let whole = &image[2];
    let cow = blank(scratch.path(), "cow", 64 * MIB);
    let vm = Vm::new()
        .disk_on(Bus::VirtioBlk, &cow)
        .with("serial=scratch")
        .disk_on(Bus::VirtioBlk, image[0].path())
        .read_only()
        .disk_on(Bus::VirtioBlk, whole.path())
        .read_only()
        .initramfs(initramfs_of_layers(Kernel::RUNNING, ""))
        .append(&word(&[whole]))
        .append("cvm.volume=serial:scratch cvm.volume_min=64M");
    let mut guest = vm.boot();
    assert_eq!(guest.report()["layers"]["layers"][0]["disk"], "vdc");
    assert_eq!(guest.read("/etc/removed"), "of the lowest layer\n");
    // Nobody has said that a network is wanted.
    let networks = guest.call("list", json!({ "path": "/etc/systemd/network" }));
    assert_eq!(networks.map_or(json!([]), |found| found), json!([]));
    check_writing(&mut guest);
    guest.power_off();
    assert!(!contains(&cow, SECRET));
}

#[test]
fn what_is_written_to_memory_reaches_no_disk() {
    let vm = with_layers(&all())
        .initramfs(initramfs_of_layers(Kernel::RUNNING, ""))
        .append(&word(&all()))
        .append("cvm.cow=memory");
    let mut guest = vm.boot();
    check_content(&mut guest);
    check_mounts(&mut guest);
    check_writing(&mut guest);
    let report = guest.report();
    assert_eq!((&report["layers"]["upper"], &report["volume"]), (&json!("memory"), &Value::Null));
    guest.power_off();
}

/// An image may have one and the same layer twice; one disk is enough for it.
#[test]
fn a_layer_that_stands_twice_lies_on_one_disk() {
    let [top, middle, base] = image();
    let vm = with_layers(&all())
        .initramfs(initramfs_of_layers(Kernel::RUNNING, ""))
        .append(&word(&[top, middle, top, base]))
        .append("cvm.cow=memory");
    let mut guest = vm.boot();
    check_content(&mut guest);
    let report = guest.report();
    let disks = [0, 1, 2, 3].map(|number| report["layers"]["layers"][number]["disk"].clone());
    assert_eq!(disks, ["vdc", "vdb", "vdc", "vda"]);
    check_writing(&mut guest);
    guest.power_off();
}

/// A disk whose partitions are the layers, the lowest first, and others of these names.
pub(crate) fn partitioned(folder: &Path, layers: &[&Layer], others: &[&str]) -> PathBuf {
    let disk = blank(folder, "disk.img", 256 * MIB);
    let (mut table, mut at) = ("label: gpt\n".to_owned(), 1);
    let mut places = Vec::new();
    for layer in layers.iter().rev() {
        let mib = fs::metadata(layer.path()).unwrap().len().div_ceil(MIB);
        writeln!(table, "start={at}MiB, size={mib}MiB, name=layer").unwrap();
        places.push(at * MIB);
        at += mib;
    }
    for name in others {
        writeln!(table, "start={at}MiB, size=64MiB, name={name}").unwrap();
        at += 64;
    }
    let script = folder.join("table");
    fs::write(&script, table).unwrap();
    let by = ["-euo", "pipefail", "-c", r#"sfdisk -q "$2" <"$1""#, "bash"];
    run(command("bash").args(by).args([&script, &disk]));
    let file = fs::OpenOptions::new().write(true).open(&disk).unwrap();
    for (layer, place) in layers.iter().rev().zip(places) {
        file.write_all_at(&fs::read(layer.path()).unwrap(), place).unwrap();
    }
    disk
}

#[test]
fn layers_can_be_partitions_of_the_disk_that_the_volume_is_on() {
    let scratch = Scratch::new("partitions");
    let disk = partitioned(scratch.path(), &all(), &["other", "cocos"]);
    let vm = |disk: &Path| {
        Vm::new()
            .disk_on(Bus::VirtioScsi, disk)
            .initramfs(initramfs_of_layers(Kernel::RUNNING, ""))
            .append(&word(&all()))
    };
    let mut guest = vm(&disk).boot();
    check_content(&mut guest);
    let report = guest.report();
    assert_eq!(report["layers"]["layers"][0]["disk"], "sda3");
    assert_eq!(report["volume"]["partition"], "sda5");
    check_writing(&mut guest);
    guest.power_off();
    drop(guest);
    for (others, fault) in [
        (&["other"][..], "it has no partition called \"cocos\""),
        (&["cocos", "cocos"], "it has two partitions called \"cocos\", 4 and 5"),
    ] {
        let disk = partitioned(scratch.path(), &all(), others);
        assert_eq!(
            refusal(vm(&disk).append("cvm.timeout=5 quiet")),
            format!(
                "disk: no partition for the volume beside the layers within 5 s; sda for the volume: \
                 {fault}"
            )
        );
    }
}

/// What the command line of an x86 kernel holds.
pub(crate) const LINE: usize = 2047;

/// As many as fit on a command line beside the words of an engine with a network.
#[test]
fn an_image_of_18_layers_boots() {
    let [top, middle, base] = image();
    let between: Vec<_> = (0..15)
        .map(|number| {
            let content = format!("of layer {number}\n");
            let nodes = [
                Node::directory("etc"),
                Node::file("etc/last", content.as_str()),
                Node::file(&format!("etc/number-{number}"), content.as_str()),
            ];
            Layer::of(nodes.into_iter().fold(Root::builder().empty(), Builder::with))
        })
        .collect();
    let layers: Vec<_> = [top].into_iter().chain(&between).chain([middle, base]).collect();
    let serials: Vec<_> = (0..layers.len()).rev().map(|it| format!("cocoon-layer{it}")).collect();
    let line = format!(
        "loglevel=3 boot=cocoon-overlay cocoon.layers={} cocoon.cow=cocoon-cow clocksource=kvm-clock \
         rw net.ifnames=0 cocoon.hostname=my-vm \
         ip=10.88.0.5::10.88.0.1:255.255.0.0:my-vm:eth0:off:8.8.8.8:1.1.1.1 {}",
        serials.join(","),
        word(&layers)
    );
    // With room for numbers of blocks that have seven digits.
    let longest = WORDS.len() + 1 + line.len() + layers.len() * 6;
    assert!(longest <= LINE, "{longest}");
    let scratch = Scratch::new("18");
    let vm = with_cow(with_layers(&layers), &blank(scratch.path(), "cow", 256 * MIB))
        .initramfs(initramfs_of_layers(Kernel::RUNNING, ""))
        .append(&line);
    let mut guest = vm.boot();
    assert_eq!(guest.read("/proc/cmdline"), format!("{WORDS} {line}\n"));
    for number in [0, 7, 14] {
        let content = guest.read(&format!("/etc/number-{number}"));
        assert_eq!(content, format!("of layer {number}\n"));
    }
    // Of the topmost that has it.
    assert_eq!(guest.read("/etc/last"), "of layer 0\n");
    assert_eq!(guest.report()["layers"]["layers"].as_array().unwrap().len(), 18);
    check_writing(&mut guest);
    guest.power_off();
}

/// The host may name its disks as it likes: each layer is where it is proven.
#[test]
fn serials_that_are_swapped_change_nothing() {
    let [top, middle, base] = image();
    let vm = with_layers(&[middle, base, top])
        .initramfs(initramfs_of_layers(Kernel::RUNNING, ""))
        .append(&format!("{ENGINE} {} cvm.cow=memory", word(&all())));
    let mut guest = vm.boot();
    check_content(&mut guest);
    guest.power_off();
}
