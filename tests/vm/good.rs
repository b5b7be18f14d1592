//! Boots that succeed, and what the new root then finds.

use crate::kit::artefacts::initramfs_by_gzip;
use crate::kit::disk::{Disk, Part};
use crate::kit::guest::Guest;
use crate::kit::kernel::Kernel;
use crate::kit::root::{Kind, Root};
use crate::kit::vm::Vm;
use serde_json::{Value, json};
use std::fs;

/// statfs(2).
const TMPFS_MAGIC: u64 = 0x0102_1994;
const EROFS: i32 = 30;

/// The whole mount table: target, type, source, root within the source, options.
const MOUNTS: &[&str] = &[
    "/ ext4 /dev/mapper/root_verity / ro,relatime",
    "/cocos ext4 /dev/mapper/cocos_crypt / rw,noatime",
    "/cocos_init ext4 /dev/mapper/cocos_crypt /cocos_init rw,noatime",
    "/dev devtmpfs devtmpfs / rw,nosuid,relatime",
    "/dev/pts devpts devpts / rw,nosuid,noexec,relatime",
    "/etc/fstab tmpfs tmpfs /cvm-init/fstab rw,nosuid,nodev,relatime",
    "/proc proc proc / rw,nosuid,nodev,noexec,relatime",
    "/run tmpfs tmpfs / rw,nosuid,nodev,relatime",
    "/sys sysfs sysfs / rw,nosuid,nodev,noexec,relatime",
    "/sys/kernel/config configfs configfs / rw,nosuid,nodev,noexec,relatime",
    "/tmp tmpfs tmpfs / rw,nosuid,nodev,relatime",
    "/var tmpfs tmpfs / rw,nosuid,nodev,relatime",
    "/var/lib/containerd ext4 /dev/mapper/cocos_crypt /containerd rw,noatime",
    "/var/lib/docker ext4 /dev/mapper/cocos_crypt /docker rw,noatime",
];

/// Mode and type of directories that the boot makes or mounts.
const DIRECTORIES: &[(&str, u32)] = &[
    ("/tmp", 0o1777),
    ("/var", 0o755),
    ("/run", 0o755),
    ("/var/lib/containerd", 0o755),
    ("/var/lib/docker", 0o755),
    ("/cocos", 0o755),
    ("/cocos/.cache", 0o755),
    ("/cocos/.cache/oci", 0o755),
    ("/cocos/datasets", 0o755),
    ("/cocos/docker", 0o755),
    ("/cocos/containerd", 0o755),
];

/// Of the memory, what each tmpfs may come to take, in percent. With the quarter that tags and
/// metadata may take, it is less than all.
const TMPFS: &[(&str, u64)] = &[("/run", 20), ("/tmp", 25), ("/var", 25)];

const STAGES: &[&str] =
    &["config", "platform", "disk", "root", "data", "volume", "runtime", "measure", "handoff"];
/// What the root's own fstab says of /tmp, which stays.
pub(crate) const TMP_LINE: &str = "tmpfs /tmp tmpfs mode=1777,nosuid,nodev 0 0";

#[test]
fn a_disk_and_its_root_hash_are_enough() {
    boots_well(Kernel::RUNNING);
}

#[test]
fn an_initramfs_by_gzip_boots() {
    let disk = Disk::builder().build();
    let archive = initramfs_by_gzip();
    let magic = [0x1f, 0x8b];
    assert!(fs::read(&archive).unwrap().starts_with(&magic), "the archive is not by gzip");
    let mut guest = Vm::of(&disk).initramfs(archive).boot();
    assert_eq!(guest.hello()["pid"], 1);
}

#[test]
fn a_disk_and_its_root_hash_are_enough_on_aarch64() {
    boots_well(Kernel::ARM);
}

/// All that a boot owes the new root, with the least that it can be told. What the kernel calls its
/// release.
pub(crate) fn boots_well(kernel: Kernel) -> String {
    let root = Root::standard_of(kernel.arch);
    let disk = Disk::builder().root(root).build();
    let mut guest = Vm::of(&disk).kernel(kernel).boot();

    let hello = guest.hello();
    assert_eq!((&hello["pid"], &hello["uid"], &hello["gid"]), (&json!(1), &json!(0), &json!(0)));
    assert_eq!(hello["arguments"], json!(["/sbin/init"]));
    // What closes the ways of the firmware to systemd, behind what the kernel makes of its line.
    assert_eq!(
        hello["environment"],
        json!([
            "HOME=/",
            "TERM=linux",
            format!("roothash={}", disk.roothash),
            "SYSTEMD_EFI_OPTIONS=",
            "CREDENTIALS_DIRECTORY=/run/credentials/@system",
        ])
    );
    // That of the new root, not the deleted node of the initramfs; and nothing else is open.
    assert_eq!(hello["files"], json!(["/dev/console", "/dev/console", "/dev/console"]));

    assert_eq!(mounts(&mut guest), MOUNTS);
    check_options_of_the_volume(&mut guest);
    // Of a share that is not on offer it says nothing: nobody mounts one that comes later.
    check_fstab(&mut guest, &[TMP_LINE]);
    check_report(&mut guest, &disk);
    check_mappings(&mut guest);
    check_fresh_volume(&mut guest);
    check_writable_places(&mut guest);
    check_copy_of_cocos_init(&mut guest, root);
    check_nothing_is_left_behind(&mut guest);
    check_kernel_log(&mut guest);
    let release = guest.read("/proc/sys/kernel/osrelease").trim().to_owned();
    guest.power_off();
    release
}

#[test]
fn the_command_line_can_stand_for_the_superblock() {
    // A superblock that is not there cannot have been read.
    let disk = Disk::builder().patch(Part::Verity, 0, &[0; 4096]).build();
    let mut guest = Vm::of(&disk)
        .append(&disk.verity_parameters)
        .append("systemd.import_credentials=yes SYSTEMD_EFI_OPTIONS=mine")
        .append("init=/usr/lib/agent/init --version -- one two")
        .boot();
    let hello = guest.hello();
    // Words that the kernel does not know are init's; PID 1 heeds none.
    let arguments = json!(["/usr/lib/agent/init", "--version", "one", "two"]);
    assert_eq!(hello["arguments"], arguments);
    let roothash = format!("roothash={}", disk.roothash);
    let environment = ["HOME=/", "TERM=linux", &roothash, "SYSTEMD_EFI_OPTIONS=mine"];
    assert_eq!(hello["environment"], json!(environment));
    assert_eq!(guest.report()["verity"]["parameters_from"], "command line");
    check_report(&mut guest, &disk);
    assert_eq!(mounts(&mut guest), MOUNTS);
}

/// Sorted by target.
pub(crate) fn mounts(guest: &mut Guest) -> Vec<String> {
    let table = guest.ask("mounts", json!({}));
    let mut lines: Vec<_> = table
        .as_array()
        .unwrap()
        .iter()
        .map(|mount| {
            ["target", "fstype", "source", "root", "options"]
                .map(|field| mount[field].as_str().unwrap())
                .join(" ")
        })
        .collect();
    lines.sort();
    lines
}

/// What a volume that dies with the boot need not pay for.
fn check_options_of_the_volume(guest: &mut Guest) {
    let mounts = guest.ask("mounts", json!({}));
    let cocos = mounts.as_array().unwrap().iter().find(|mount| mount["target"] == "/cocos");
    let options = cocos.unwrap()["super"].as_str().unwrap().to_owned();
    for option in ["nobarrier", "data=writeback"] {
        assert!(options.split(',').any(|given| given == option), "no {option} in {options}");
    }
}

#[track_caller]
pub(crate) fn check_fstab(guest: &mut Guest, more: &[&str]) {
    check_fstab_of("ext4", guest, more);
}

/// Of a root with this file system.
#[track_caller]
pub(crate) fn check_fstab_of(kind: &str, guest: &mut Guest, more: &[&str]) {
    let fstab = guest.read("/etc/fstab");
    let (comments, lines): (Vec<_>, Vec<_>) = fstab.lines().partition(|line| line.starts_with('#'));
    let root = format!("/dev/mapper/root_verity / {kind} ro,defaults 0 0");
    assert_eq!(lines, [&[root.as_str()], more].concat());
    assert!(comments.iter().any(|comment| comment.contains("/cocos")), "{fstab}");
}

/// `/run/cvm-init/boot.json` against the disk and the kernel; its times are printed.
fn check_report(guest: &mut Guest, disk: &Disk) {
    let report = guest.report();
    assert_eq!(report["disk"], json!({ "name": "sda", "found_by": "proof", "also_proven": [] }));
    assert_eq!(report["verity"]["root_hash"], disk.roothash);
    assert_eq!(report["root"]["bytes"], disk.size(Part::Root));
    assert_eq!(report["root"]["file_system"], "ext4");
    let volume = &report["volume"];
    assert_eq!(volume["partition"], "sda4");
    assert_eq!(volume["partition_bytes"], disk.size(Part::Cocos));
    assert_eq!(volume["cipher"], "aes-gcm-random");
    assert_eq!(volume["integrity"], "aead");
    assert_eq!(volume["tags"], "memory");
    // 12,288 blocks behind the header, 28 bytes each, in buffers of 64 KiB and one more, behind a
    // superblock and a journal.
    assert_eq!(volume["tags_memory_max"], (6 * 64 + 64 + 136) * 1024);
    // A table of inodes of 212 blocks, two bitmaps and what there is one of, 4 MiB of journal, and 2
    // MiB of end.
    assert_eq!(volume["metadata_memory_max"], (4 + 2 + 212 + 1024 + 512) * 4096);
    assert_eq!(volume["inodes"], 212 * 16);
    assert_eq!(volume["sector_size"], 4096);

    let stages = report["stages"].as_array().unwrap();
    let names: Vec<_> = stages.iter().map(|stage| stage["stage"].as_str().unwrap()).collect();
    assert_eq!(names, STAGES);
    let sum: u64 = stages.iter().map(|stage| stage["us"].as_u64().unwrap()).sum();
    let total = report["total_us"].as_u64().unwrap();
    assert!(0 < sum && sum <= total, "stages take {sum} us of {total}");
    eprintln!(
        "{total} us to the new init, {} KiB of memory at most, {} bytes written; stages: {}",
        report["peak_memory_kib"],
        guest.bytes_written(0),
        report["stages"]
    );
}

/// The tables as the kernel runs them, by their names for other software.
fn check_mappings(guest: &mut Guest) {
    let mappings = guest.ask("dm", json!({}));
    let text = |mapping: &Value, field: &str| mapping[field].as_str().unwrap().to_owned();
    let [root, data, tags, volume] = mappings.as_array().unwrap().as_slice() else {
        panic!("four mappings are wanted: {mappings}");
    };
    assert_eq!((&root["name"], &root["kind"]), (&json!("root_verity"), &json!("verity")));
    assert_eq!(root["read_only"], true);
    // Newer kernels say behind it how many blocks were corrected, or - without error correction.
    assert_eq!(text(root, "status").split(' ').next(), Some("V"));
    assert!(text(root, "uuid").starts_with("CRYPT-VERITY-"));

    assert_eq!(data["kind"], "linear");
    // Behind the 16 MiB of LUKS2 header.
    assert!(text(data, "table").ends_with(" 32768"), "{data}");
    assert_eq!(data["sectors"], tags["sectors"]);

    assert_eq!(tags["kind"], "integrity");
    let table = text(tags, "table");
    assert!(table.starts_with(&format!("{} 0 28 D ", text(data, "device"))), "{tags}");
    assert!(table.contains(" meta_device:7:1 block_size:4096 "), "{tags}");
    assert!(text(tags, "uuid").starts_with("CRYPT-INTEGRITY-"));

    assert_eq!(volume["name"], "cocos_crypt");
    assert_eq!(volume["kind"], "linear crypt linear");
    let metadata = (4 + 2 + 212 + 1024) * 8;
    let sectors = metadata + tags["sectors"].as_u64().unwrap() + 512 * 8;
    assert_eq!(volume["sectors"], sectors);
    assert!(text(volume, "uuid").starts_with("CRYPT-LUKS2-"));
    let tables = text(volume, "table");
    let [front, table, end] = tables.lines().collect::<Vec<_>>()[..] else {
        panic!("three targets are wanted: {tables}");
    };
    assert_eq!([front, end], ["7:0 0", &format!("7:0 {metadata}")]);
    // A key of the keyring, by its name: no key bytes in the table.
    assert!(table.starts_with("capi:gcm(aes)-random :32:logon:"), "{table}");
    let device = text(tags, "device");
    let rest = format!(" 0 {device} 0 2 integrity:28:aead sector_size:4096");
    assert!(table.ends_with(&rest), "{table}");

    for mapping in ["root_verity", "cocos_crypt"] {
        let path = format!("/dev/mapper/{mapping}");
        assert!(!guest.ask("stat", json!({ "path": path })).is_null());
    }
}

/// Nothing is on the volume but what the boot puts there, by the kernel's count too.
fn check_fresh_volume(guest: &mut Guest) {
    let top = guest.ask("list", json!({ "path": "/cocos" }));
    assert_eq!(
        top,
        json!([".cache", "cocos_init", "containerd", "datasets", "docker", "lost+found"])
    );
    let copied = Root::standard().nodes.iter().filter(|n| n.path.starts_with("cocos_init/"));
    // The six directories of the boot: all above but lost+found, and .cache/oci.
    let made = 6 + copied.count() as u64;
    let free = guest.ask("statfs", json!({ "path": "/cocos" }))["ffree"].as_u64().unwrap();
    assert_eq!(guest.report()["volume"]["free_inodes"], free + made);
}

fn check_writable_places(guest: &mut Guest) {
    for (path, mode) in DIRECTORIES {
        let stat = guest.ask("stat", json!({ "path": path }));
        assert_eq!((&stat["type"], &stat["mode"]), (&json!("directory"), &json!(mode)), "{path}");
    }
    let memory = guest.read("/proc/meminfo");
    let kib: u64 = memory.split_whitespace().nth(1).unwrap().parse().unwrap();
    for (path, percent) in TMPFS {
        let tmpfs = guest.ask("statfs", json!({ "path": path }));
        let size = tmpfs["blocks"].as_u64().unwrap() * tmpfs["bsize"].as_u64().unwrap() / 1024;
        let part = kib * percent / 100;
        assert!(
            (part - part / 50..=part + part / 50).contains(&size),
            "{path}: {size} of {kib} KiB"
        );
    }
    let images = ["/var/lib/docker", "/var/lib/containerd"];
    for folder in ["/tmp", "/var", "/run", "/cocos", "/cocos_init"].into_iter().chain(images) {
        guest.ask("write", json!({ "path": format!("{folder}/new"), "text": "" }));
    }
    for folder in ["", "/etc", "/usr/lib"] {
        let refused = guest.call("write", json!({ "path": format!("{folder}/new"), "text": "" }));
        assert_eq!(refused.unwrap_err().errno, Some(EROFS), "{folder}");
    }
}

/// Everything that the root's `/cocos_init` has, with every attribute.
pub(crate) fn check_copy_of_cocos_init(guest: &mut Guest, root: &Root) {
    for node in &root.nodes {
        let path = format!("/{}", node.path);
        if !path.starts_with("/cocos_init/") {
            continue;
        }
        let stat = guest.ask("stat", json!({ "path": path }));
        let (kind, target) = match &node.kind {
            Kind::Directory => ("directory", None),
            Kind::File(_) => ("file", None),
            Kind::Symlink(target) => ("symlink", Some(target)),
            Kind::Whiteout => panic!("no layer is copied"),
        };
        let xattrs: serde_json::Map<_, _> =
            node.xattrs.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        let wanted = json!({
            "type": kind, "target": target, "mode": node.mode,
            "uid": node.owner.0, "gid": node.owner.1,
            "mtime": node.mtime.0, "mtime_nsec": node.mtime.1, "xattrs": xattrs,
        });
        for (field, wanted) in wanted.as_object().unwrap() {
            assert_eq!(&stat[field], wanted, "{field} of {path}");
        }
        if let Kind::File(content) = &node.kind {
            assert_eq!(guest.read(&path).as_bytes(), content, "content of {path}");
        }
    }
}

/// Neither the initramfs, nor the key, nor a console that commands the kernel.
fn check_nothing_is_left_behind(guest: &mut Guest) {
    assert_eq!(guest.ask("rootfs", json!({})), json!({ "type": TMPFS_MAGIC, "entries": [] }));
    let keys = guest.ask("keys", json!({}));
    let keys = keys.as_str().unwrap();
    assert!(!keys.contains("logon"), "{keys}");
    assert_eq!(guest.read("/proc/sys/kernel/sysrq"), "0\n");
    assert_eq!(guest.read("/proc/sys/kernel/ctrl-alt-del"), "0\n");
}

fn check_kernel_log(guest: &mut Guest) {
    let log = guest.ask("kmsg", json!({}));
    let faults: Vec<_> = log
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line["text"].as_str().unwrap())
        .filter(|text| {
            ["AEAD ERROR", "EXT4-fs error", "I/O error", "WARNING:"]
                .iter()
                .any(|f| text.contains(f))
        })
        .collect();
    assert!(faults.is_empty(), "{faults:?}");
}
