//! A guest of an engine as it is today: its command line and disks, of which nothing is verified, and
//! our program in place of its script.

use crate::kit::artefacts::{self, initramfs_of_layers};
use crate::kit::guest::Guest;
use crate::kit::kernel::Kernel;
use crate::kit::layer::{Layer, image};
use crate::kit::root::{Node, Root};
use crate::kit::tool::{Scratch, command, run};
use crate::kit::vm::{Bus, Vm};
use crate::layers::{
    ENGINE, MIB, SECRET, all, check_content, check_mounts, check_writing, with_cow, with_layers,
};
use crate::refused::refusal;
use crate::volume_disk::blank;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const ENOENT: i32 = 2;

/// In the initramfs of an image that an engine may boot.
const UNVERIFIED: &str = "cvm.unverified=yes";

/// An ext4 as the engine makes it.
pub(crate) fn engines_cow(folder: &Path, bytes: u64) -> PathBuf {
    let cow = blank(folder, "cow.raw", bytes);
    run(command("mkfs.ext4")
        .args(["-F", "-m", "0", "-q", "-E", "lazy_itable_init=1,lazy_journal_init=1,discard"])
        .arg(&cow));
    cow
}

const NETWORK: &str = "net.ifnames=0 cocoon.hostname=my-vm \
                       ip=10.88.0.5::10.88.0.1:255.255.0.0:my-vm:eth0:off:8.8.8.8:1.1.1.1 \
                       ip=10.89.0.5:::255.255.255.0:my-vm:eth1:off";

/// The engine's own line and disks, with our program in place of its script.
fn engines(cow: &Path) -> Vm {
    with_cow(with_layers(&all()), cow)
        .initramfs(initramfs_of_layers(Kernel::RUNNING, UNVERIFIED))
        .append(ENGINE)
        .qemu(&["-device", "virtio-net-pci,mac=52:54:00:00:00:01"])
        .qemu(&["-device", "virtio-net-pci,mac=52:54:00:00:00:02"])
}

#[test]
fn an_engines_guest_boots_and_keeps_what_it_writes() {
    let scratch = Scratch::new("engine");
    let cow = engines_cow(scratch.path(), 64 * MIB);
    let mut guest = engines(&cow).append(NETWORK).boot();
    check_content(&mut guest);
    check_mounts(&mut guest);
    let report = guest.report();
    assert_eq!((&report["layers"]["upper"], &report["volume"]), (&json!("plain"), &Value::Null));
    assert_eq!(report["layers"]["layers"][0]["root_hash"], Value::Null);
    assert_eq!(
        guest.read("/etc/systemd/network/10-525400000001.network"),
        "[Match]\nMACAddress=52:54:00:00:00:01\n\n[Network]\nAddress=10.88.0.5/16\n\
         Gateway=10.88.0.1\nDNS=8.8.8.8\nDNS=1.1.1.1\n"
    );
    assert_eq!(
        guest.read("/etc/systemd/network/10-525400000002.network"),
        "[Match]\nMACAddress=52:54:00:00:00:02\n\n[Network]\nAddress=10.89.0.5/24\n"
    );
    assert_eq!(guest.read("/etc/resolv.conf"), "nameserver 8.8.8.8\nnameserver 1.1.1.1\n");
    assert_eq!(guest.read("/etc/hostname"), "my-vm\n");
    check_writing(&mut guest);
    guest.ask("write", json!({ "path": "/etc/machine-id", "text": "of one boot\n" }));
    guest.ask("sync", json!({}));
    // As an engine stops a guest.
    drop(guest);

    let mut guest = engines(&cow).boot();
    assert_eq!((guest.read("/new"), guest.read("/etc/changed")), (SECRET.into(), SECRET.into()));
    assert_eq!(guest.read("/etc/machine-id"), "");
    // This time it is told nothing: each device asks.
    let asks = "[Match]\nMACAddress=52:54:00:00:00:02\n\n[Network]\nDHCP=ipv4\n\n[DHCPv4]\n\
                ClientIdentifier=mac\n";
    assert_eq!(guest.read("/etc/systemd/network/10-525400000002.network"), asks);
    assert_eq!(guest.read("/etc/resolv.conf"), "nameserver 8.8.8.8\nnameserver 8.8.4.4\n");
    guest.power_off();
}

/// Links on a disk that the host writes: none leads to where this program would write.
#[test]
fn what_is_written_by_name_stays_within_the_root() {
    let scratch = Scratch::new("links");
    let cow = engines_cow(scratch.path(), 64 * MIB);
    let script = "mkdir /upper\nmkdir /upper/etc\n\
                  symlink /upper/etc/hostname /dev/kmsg\n\
                  symlink /upper/etc/machine-id /proc/sys/kernel/panic\n\
                  symlink /upper/etc/resolv.conf /run/resolv\n\
                  symlink /upper/etc/systemd ../../run\n";
    let edits = scratch.join("edits");
    fs::write(&edits, script).unwrap();
    run(command("debugfs").args(["-w", "-f"]).arg(&edits).arg(&cow));
    let mut guest = engines(&cow).append(NETWORK).boot();
    assert_eq!(guest.read("/etc/hostname"), "my-vm\n");
    assert_eq!(guest.ask("stat", json!({ "path": "/etc/hostname" }))["type"], "file");
    assert_eq!(guest.read("/etc/machine-id"), "");
    assert_eq!(guest.ask("stat", json!({ "path": "/etc/resolv.conf" }))["type"], "symlink");
    // In the root's own /run, over which that of the boot is mounted, and not in the boot's.
    let ours = guest.call("list", json!({ "path": "/run/network" }));
    assert_eq!(ours.unwrap_err().errno, Some(ENOENT));
    guest.power_off();
    drop(guest);

    // In the root it leads to nothing, and where the boot is to a directory.
    let cow = engines_cow(scratch.path(), 64 * MIB);
    let script = "mkdir /upper\nmkdir /upper/etc\nsymlink /upper/etc/systemd /modules\n";
    fs::write(&edits, script).unwrap();
    run(command("debugfs").args(["-w", "-f"]).arg(&edits).arg(&cow));
    assert_eq!(
        refusal(engines(&cow).append("quiet")),
        "runtime: cannot make /etc/systemd: Not a directory (os error 20)"
    );
}

/// What an engine's guest is refused for whose disks are these.
#[track_caller]
fn engines_refusal(layers: &[&Layer], cow: impl FnOnce(Vm) -> Vm) -> String {
    let vm = cow(with_layers(layers))
        .initramfs(initramfs_of_layers(Kernel::RUNNING, UNVERIFIED))
        .append(ENGINE)
        .append("cocoon.timeout=5 quiet");
    refusal(vm)
}

#[test]
fn a_disk_for_what_is_written_that_cannot_be_is_refused_by_its_fault() {
    let scratch = Scratch::new("cow");
    let cow = engines_cow(scratch.path(), 64 * MIB);
    let missing = "disk: no usable disk with serial \"cocoon-cow\" for what is written within 5 s";
    assert_eq!(engines_refusal(&all(), |vm| vm), missing);
    assert_eq!(
        engines_refusal(&all(), |vm| with_cow(vm, &cow).read_only()),
        format!("{missing}; vdd for what is written: it is read-only")
    );
    assert_eq!(
        engines_refusal(&all(), |vm| with_cow(with_cow(vm, &cow).read_only(), &cow).read_only()),
        format!(
            "{missing}; vdd for what is written: another disk has this serial, too; vde for what is \
             written: another disk has this serial, too"
        )
    );
    let nothing = blank(scratch.path(), "nothing", MIB);
    assert_eq!(
        engines_refusal(&all(), |vm| with_cow(vm, &nothing)),
        "root: the disk for what is written, vdd, has no ext4"
    );
    fs::OpenOptions::new().write(true).open(&cow).unwrap().set_len(63 * MIB).unwrap();
    assert_eq!(
        engines_refusal(&all(), |vm| with_cow(vm, &cow)),
        format!(
            "root: the disk for what is written, vdd, has {} bytes, but its ext4 was made for {}",
            63 * MIB,
            64 * MIB
        )
    );
}

/// What is on the disk for what is written refers to files of the layers by their handles.
#[test]
fn other_layers_below_what_was_written_are_told() {
    let scratch = Scratch::new("stale");
    let cow = engines_cow(scratch.path(), 64 * MIB);
    engines(&cow).boot().power_off();
    let [top, _, base] = image();
    let other = Layer::of(Root::builder().empty().with(Node::file("other", "other\n")));
    assert_eq!(
        engines_refusal(&[&other, top, base], |vm| with_cow(vm, &cow)),
        "root: cannot mount the layers as the root: what is on the disk for what is written belongs \
         to other layers: the image was changed since"
    );
}

#[test]
fn a_layer_of_an_engine_that_is_none_is_refused_by_its_fault() {
    let scratch = Scratch::new("none");
    let cow = engines_cow(scratch.path(), 64 * MIB);
    let [top, middle, base] = image();
    let spoilt = middle.altered(1024);
    assert_eq!(
        engines_refusal(&[top, &spoilt, base], |vm| with_cow(vm, &cow)),
        "root: layer 1 is no file system that is known (ext4, erofs, squashfs): it begins with \
         0000000000000000"
    );
    assert_eq!(
        engines_refusal(&[top, base], |vm| with_cow(vm, &cow)),
        "disk: no usable disk with serial \"cocoon-layer2\" for layer 0 within 5 s"
    );
}

/// As on Firecracker, which gives no serials: by the order in which the disks are attached.
#[test]
fn disks_can_be_named_by_the_order_that_they_are_attached_in() {
    let scratch = Scratch::new("named");
    let cow = engines_cow(scratch.path(), 64 * MIB);
    let vm = with_cow(with_layers(&all()), &cow)
        .initramfs(initramfs_of_layers(Kernel::RUNNING, UNVERIFIED))
        .append(
            "boot=cocoon-overlay cocoon.layers=/dev/vdc,/dev/vdb,/dev/vda cocoon.cow=/dev/vdd rw",
        );
    let mut guest = vm.boot();
    check_content(&mut guest);
    check_writing(&mut guest);
    guest.power_off();
}

/// As long as virtio lets it be, with nothing that ends it.
#[test]
fn a_serial_of_20_bytes_is_told_from_a_longer_one() {
    const SERIAL: &str = "12345678901234567890";
    let scratch = Scratch::new("serial");
    let cow = engines_cow(scratch.path(), 64 * MIB);
    let vm = |named: &str| {
        with_layers(&all())
            .disk_on(Bus::VirtioBlk, &cow)
            .with(&format!("serial={SERIAL}"))
            .initramfs(initramfs_of_layers(Kernel::RUNNING, UNVERIFIED))
            .append(&ENGINE.replace("cow=cocoon-cow", &format!("cow={named}")))
            .append("cocoon.timeout=5 quiet")
    };
    let mut guest = vm(SERIAL).boot();
    check_writing(&mut guest);
    guest.power_off();
    drop(guest);
    for named in [format!("{SERIAL}1"), SERIAL[1..].to_owned()] {
        let reason = refusal(vm(&named));
        assert!(reason.contains(&format!("no usable disk with serial \"{named}\"")), "{reason}");
    }
}

/// What is in the root's own file system: of each path its kind, owner, mode and attributes, and what
/// is in it.
fn tree(guest: &mut Guest) -> BTreeMap<String, Value> {
    // Where others are mounted.
    const OTHERS: [&str; 4] = ["/dev", "/proc", "/run", "/sys"];
    let mut found = BTreeMap::new();
    let mut left = vec![String::new()];
    while let Some(folder) = left.pop() {
        let names = guest.ask("list", json!({ "path": format!("{folder}/") }));
        for name in names.as_array().unwrap() {
            let path = format!("{folder}/{}", name.as_str().unwrap());
            let mut fact = guest.ask("stat", json!({ "path": path }));
            let of_one_boot = ["mtime", "mtime_nsec", "inode", "nlink"];
            fact.as_object_mut().unwrap().retain(|key, _| !of_one_boot.contains(&key.as_str()));
            match fact["type"].as_str() {
                Some("directory") => {
                    // How large it is tells where it lies.
                    fact["size"] = Value::Null;
                    if !OTHERS.contains(&path.as_str()) {
                        left.push(path.clone());
                    }
                }
                Some("file") if fact["size"].as_u64() < Some(65536) => {
                    fact["content"] = json!(guest.read(&path));
                }
                _ => {}
            }
            found.insert(path, fact);
        }
    }
    found
}

/// How the root is mounted, without the places of what it is made of.
fn options(guest: &mut Guest) -> Vec<String> {
    let shown = guest.read("/proc/mounts");
    let root = shown.lines().find_map(|line| line.strip_prefix("overlay / overlay ")).unwrap();
    let options = root.split([',', ' ']).filter(|option| !option.contains("dir=/"));
    options.map(str::to_owned).collect()
}

/// The same disks, booted by initramfs-tools with a script in the steps of the engine's.
#[test]
fn the_root_is_the_one_that_a_script_in_the_initramfs_makes() {
    // Of several networks that script sets up one.
    let one = NETWORK.split(" ip=10.89").next().unwrap();
    for network in [one, ""] {
        let (scratch, by_script) = (Scratch::new("engine"), artefacts::engines_initramfs());
        let cow = |name: &str| {
            let folder = scratch.join(name);
            fs::create_dir(&folder).unwrap();
            engines_cow(&folder, 64 * MIB)
        };
        let seen = ["ours", "script"].map(|name| {
            let vm = engines(&cow(name)).append(network);
            let vm = if name == "ours" { vm } else { vm.initramfs(by_script.clone()) };
            let mut guest = vm.boot();
            check_content(&mut guest);
            let seen = (tree(&mut guest), options(&mut guest));
            guest.power_off();
            seen
        });
        let [(ours, our_options), (script, script_options)] = &seen;
        assert!(script.contains_key("/etc/systemd/network/10-525400000001.network"), "{script:?}");
        assert_eq!(our_options, script_options);
        let differing: Vec<_> = (ours.keys().chain(script.keys()))
            .filter(|path| ours.get(*path) != script.get(*path))
            .map(|path| format!("{path}: {:?} {:?}", ours.get(path), script.get(path)))
            .collect();
        assert!(differing.is_empty(), "{}", differing.join("\n"));
    }
}
