//! Places that are writable although the root is not: in memory, on the volume, by an overlay; and
//! links of the root on the way to them.

use crate::good::{check_fstab, mounts};
use crate::kit::artefacts;
use crate::kit::disk::{Disk, Part};
use crate::kit::guest::{Ending, Guest};
use crate::kit::images;
use crate::kit::kernel::Kernel;
use crate::kit::root::{Builder, Node, Root};
use crate::kit::tool::Scratch;
use crate::kit::vm::{Bus, Vm};
use serde_json::json;
use std::fs;
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// statfs(2).
const TMPFS_MAGIC: u64 = 0x0102_1994;
const EXT4_MAGIC: u64 = 0xef53;

const EBUSY: i32 = 16;
const EROFS: i32 = 30;

pub(crate) fn root_with(nodes: impl IntoIterator<Item = Node>) -> Root {
    nodes.into_iter().fold(Root::builder(), Builder::with).build()
}

pub(crate) fn root_with_fstab(fstab: &str) -> Root {
    root_with([Node::file("etc/fstab", fstab)])
}

/// Type of the file system at a place, its size in bytes, and the inodes that it can have.
fn file_system(guest: &mut Guest, path: &str) -> (u64, u64, u64) {
    let statfs = guest.ask("statfs", json!({ "path": path }));
    let field = |name: &str| statfs[name].as_u64().unwrap();
    (field("type"), field("blocks") * field("bsize"), field("files"))
}

fn memory(guest: &mut Guest) -> u64 {
    let memory = guest.read("/proc/meminfo");
    memory.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[track_caller]
fn check_percent(guest: &mut Guest, path: &str, percent: u64) {
    let (kind, size, _) = file_system(guest, path);
    let part = memory(guest) * percent / 100;
    assert_eq!(kind, TMPFS_MAGIC, "{path}");
    assert!((part - part / 50..=part + part / 50).contains(&size), "{path}: {size} of {part}");
}

fn mode(guest: &mut Guest, path: &str) -> u64 {
    guest.ask("stat", json!({ "path": path }))["mode"].as_u64().unwrap()
}

fn write(guest: &mut Guest, path: &str, text: &str) {
    guest.ask("write", json!({ "path": path, "text": text }));
}

/// Flags of what is mounted on top at a place.
fn options(guest: &mut Guest, target: &str) -> Vec<String> {
    let table = guest.ask("mounts", json!({}));
    let top = table.as_array().unwrap().iter().rfind(|mount| mount["target"] == target);
    top.unwrap()["options"].as_str().unwrap().split(',').map(str::to_owned).collect()
}

/// What the two overlays below lie over: /etc as no directory that is made anew is, and /opt.
fn layered_root() -> Root {
    root_with([
        Node::directory("etc").mode(0o2751).owner(7, 1000).xattr("user.of-etc", "kept"),
        Node::file("etc/changed", "old"),
        Node::file("etc/removed", "old"),
        Node::file("etc/kept", "old").mode(0o640).owner(1000, 1001),
        Node::directory("etc/directory"),
        Node::file("etc/directory/file", "of a directory"),
        Node::directory("opt").mode(0o711),
        Node::file("opt/setuid", "").mode(0o4755),
    ])
}

/// All that is on the volume, with a share of the host's below one of them.
fn places_on_the_volume(kernel: Kernel) {
    let disk = Disk::builder().root(&layered_root()).build();
    let before = disk.read(Part::Root, 0, disk.size(Part::Root).try_into().unwrap());
    let host = Scratch::new("shares");
    fs::write(host.join("name"), "certs").unwrap();
    let mut guest = Vm::of(&disk)
        .kernel(kernel)
        .initramfs(artefacts::initramfs_for_overlays_of(kernel))
        .append("cvm.tmp=volume cvm.var=volume cvm.overlay=/etc,/opt")
        .share("certs_share", host.path())
        .boot();

    let cocos = "ext4 /dev/mapper/cocos_crypt";
    let flags = "rw,nosuid,nodev,noatime";
    let mounts = mounts(&mut guest);
    for wanted in [
        format!("/tmp {cocos} /.writable/tmp {flags}"),
        format!("/var {cocos} /.writable/var {flags}"),
        format!("/var/lib/docker {cocos} /docker rw,noatime"),
        "/etc overlay overlay / rw,nodev,relatime".to_owned(),
        "/opt overlay overlay / rw,nodev,relatime".to_owned(),
        "/etc/fstab tmpfs tmpfs /cvm-init/fstab rw,nosuid,nodev,relatime".to_owned(),
    ] {
        assert!(mounts.contains(&wanted), "no {wanted}: {mounts:#?}");
    }
    assert_eq!([mode(&mut guest, "/tmp"), mode(&mut guest, "/var")], [0o1777, 0o755]);
    // Nobody but root comes by them without their flags and permissions.
    assert_eq!(mode(&mut guest, "/cocos/.writable"), 0o700);
    for place in ["/tmp", "/var"] {
        assert_eq!(file_system(&mut guest, place).0, EXT4_MAGIC);
        write(&mut guest, &format!("{place}/file"), "");
    }
    assert_eq!(guest.read("/etc/certs/name"), "certs");
    check_layers(&mut guest);
    check_fstab_below_an_overlay(&mut guest);
    let refused = guest.call("write", json!({ "path": "/usr/new", "text": "" }));
    assert_eq!(refused.unwrap_err().errno, Some(EROFS));
    guest.power_off();
    let after = disk.read(Part::Root, 0, before.len());
    assert!(before == after, "the root was written to");
}

/// What a program sees that changes a directory of the root, also when nothing of it is in memory.
fn check_layers(guest: &mut Guest) {
    for (path, mode, uid, gid, xattrs) in [
        ("/etc", 0o2751, 7, 1000, json!({ "user.of-etc": "kept" })),
        ("/opt", 0o711, 0, 0, json!({})),
    ] {
        let stat = guest.ask("stat", json!({ "path": path }));
        let found = [&stat["mode"], &stat["uid"], &stat["gid"], &stat["xattrs"]];
        assert_eq!(found, [&json!(mode), &json!(uid), &json!(gid), &xattrs], "{path}");
    }
    assert_eq!(mode(guest, "/opt/setuid"), 0o4755);
    assert_eq!(guest.read("/etc/hostname"), "verified\n");
    write(guest, "/etc/changed", "new");
    write(guest, "/etc/made", "new");
    write(guest, "/opt/made", "new");
    guest.ask("remove", json!({ "path": "/etc/removed" }));
    guest.ask("rename", json!({ "from": "/etc/directory", "to": "/etc/renamed" }));
    guest.ask("rename", json!({ "from": "/etc/made", "to": "/etc/kept" }));
    guest.ask("drop_caches", json!({}));
    assert_eq!(guest.read("/etc/changed"), "new");
    assert_eq!(guest.read("/etc/kept"), "new");
    assert_eq!(guest.read("/etc/renamed/file"), "of a directory");
    let names = guest.ask("list", json!({ "path": "/etc" }));
    assert_eq!(names, json!(["certs", "changed", "cocos", "fstab", "hostname", "kept", "renamed"]));
    // The layers: what stands for a file that is gone, and for a directory that was renamed.
    let upper = "/cocos/.writable/0/upper";
    let whiteout = guest.ask("stat", json!({ "path": format!("{upper}/removed") }));
    assert_eq!([&whiteout["type"], &whiteout["rdev"]], ["character", "0:0"]);
    let renamed = guest.ask("stat", json!({ "path": format!("{upper}/renamed") }));
    assert_eq!(renamed["xattrs"]["trusted.overlay.redirect"], "directory");
    assert_eq!(guest.read("/cocos/.writable/1/upper/made"), "new");
}

/// It can be written to, and is not replaced.
fn check_fstab_below_an_overlay(guest: &mut Guest) {
    assert!(guest.read("/etc/fstab").starts_with("# Generated by cvm-init."));
    write(guest, "/etc/fstab", "# mine\n");
    assert_eq!(guest.read("/run/cvm-init/fstab"), "# mine\n");
    write(guest, "/etc/other", "");
    let refused = guest.call("rename", json!({ "from": "/etc/other", "to": "/etc/fstab" }));
    assert_eq!(refused.unwrap_err().errno, Some(EBUSY));
}

#[test]
fn the_volume_and_overlays_on_it_make_places_writable() {
    places_on_the_volume(Kernel::RUNNING);
}

#[test]
fn the_volume_and_overlays_on_it_make_places_writable_on_a_newer_kernel() {
    places_on_the_volume(Kernel::TRIXIE);
}

/// What the fstab says of a place that the command line speaks of is not in force.
#[test]
fn the_command_line_says_how_much_memory_a_place_may_take() {
    let root = root_with_fstab(
        "tmpfs /tmp tmpfs size=1M,noexec 0 0\ntmpfs /var tmpfs size=1M,ro,colour=red 0 0\n",
    );
    let disk = Disk::builder().root(&root).build();
    let mut guest = Vm::of(&disk).append("cvm.tmp=memory:32M cvm.var=memory:7%").boot();
    let (kind, size, _) = file_system(&mut guest, "/tmp");
    assert_eq!((kind, size), (TMPFS_MAGIC, 32 * MIB));
    check_percent(&mut guest, "/var", 7);
    assert_eq!(options(&mut guest, "/tmp"), ["rw", "nosuid", "nodev", "relatime"]);
    check_fstab(&mut guest, &[]);
    for line in ["tmpfs /tmp tmpfs size=1M,noexec", "tmpfs /var tmpfs size=1M,ro,colour=red"] {
        let told = format!("cvm-init: /etc/fstab: not in force: {line} 0 0");
        assert!(guest.serial().contains(&told), "no {told}");
    }
    write(&mut guest, "/var/lib/docker/file", "");
    guest.power_off();
}

#[test]
fn the_fstab_says_how_large_places_are_and_what_for() {
    let root = root_with_fstab(
        "tmpfs /tmp tmpfs size=40M,nr_inodes=500,noexec,suid 0 0\n\
         none\t/var/ tmpfs mode=0711,uid=7,gid=8\n\
         run /run tmpfs size=12%,nr_inodes=4k,mode=750,uid=9,noexec\n\
         tmpfs /run/user tmpfs size=1M\n",
    );
    let disk = Disk::builder().root(&root).build();
    let mut guest = Vm::of(&disk).boot();
    assert_eq!(file_system(&mut guest, "/tmp"), (TMPFS_MAGIC, 40 * MIB, 500));
    assert_eq!(mode(&mut guest, "/tmp"), 0o1777);
    check_percent(&mut guest, "/var", 25);
    check_percent(&mut guest, "/run", 12);
    assert_eq!(file_system(&mut guest, "/run").2, 4096);
    for (path, mode, uid, gid) in [("/var", 0o711, 7, 8), ("/run", 0o750, 9, 0)] {
        let stat = guest.ask("stat", json!({ "path": path }));
        assert_eq!([&stat["mode"], &stat["uid"], &stat["gid"]], [mode, uid, gid], "{path}");
    }
    for path in ["/tmp", "/run"] {
        let wanted = ["rw", "nosuid", "nodev", "noexec", "relatime"];
        assert_eq!(options(&mut guest, path), wanted, "{path}");
    }
    check_fstab(
        &mut guest,
        &[
            "tmpfs /tmp tmpfs size=40M,nr_inodes=500,noexec,suid,nosuid,nodev 0 0",
            "tmpfs /var tmpfs mode=0711,uid=7,gid=8,nosuid,nodev 0 0",
            "tmpfs /run tmpfs size=12%,nr_inodes=4k,mode=750,uid=9,noexec,nosuid,nodev 0 0",
        ],
    );
    let serial = guest.serial();
    let dropped = "cvm-init: /etc/fstab: not in force: ";
    assert!(serial.contains(&format!("{dropped}tmpfs /run/user tmpfs size=1M")), "{serial}");
    assert_eq!(serial.matches(dropped).count(), 1, "{serial}");
    guest.power_off();
}

/// A root in which almost every place is a link, absolute or relative, or lies behind one.
fn linked_root() -> Builder {
    let builder = ["etc", "cocos_init", "tmp", "run"]
        .into_iter()
        .fold(Root::builder(), Builder::without_all_of);
    [
        Node::link("etc", "usr/etc"),
        Node::directory("usr/etc"),
        Node::directory("usr/etc/static"),
        Node::directory("usr/etc/static/certs"),
        Node::link("usr/etc/certs", "/etc/static/certs"),
        Node::link("usr/etc/fstab", "static/fstab"),
        Node::file(
            "usr/etc/static/fstab",
            "tmpfs /tmp tmpfs size=3M\nenv_share /etc/cocos 9p ro\n",
        ),
        Node::directory("private"),
        Node::directory("private/tmp"),
        Node::directory("private/run"),
        Node::link("tmp", "../private/tmp"),
        Node::link("run", "/private/run"),
        Node::link("cocos_init", "/usr/lib/scripts"),
        Node::directory("usr/lib/scripts").mode(0o750),
        Node::file("usr/lib/scripts/agent.sh", "#!/bin/sh\n"),
    ]
    .into_iter()
    .fold(builder, Builder::with)
}

#[test]
fn places_that_are_links_are_where_these_lead_in_the_root() {
    let disk = Disk::builder().root(&linked_root().build()).build();
    let host = Scratch::new("shares");
    fs::write(host.join("name"), "certs").unwrap();
    let mut guest = Vm::of(&disk)
        .initramfs(artefacts::initramfs_with_overlay())
        .append("cvm.overlay=/etc")
        .share("certs_share", host.path())
        .boot();
    let mounts = mounts(&mut guest);
    let targets: Vec<_> = mounts.iter().map(|mount| mount.split(' ').next().unwrap()).collect();
    assert_eq!(
        targets,
        [
            "/",
            "/cocos",
            "/dev",
            "/dev/pts",
            "/private/run",
            "/private/tmp",
            "/proc",
            "/sys",
            "/sys/kernel/config",
            "/usr/etc",
            "/usr/etc/static/certs",
            "/usr/etc/static/fstab",
            "/usr/lib/scripts",
            "/var",
            "/var/lib/containerd",
            "/var/lib/docker",
        ]
    );
    assert_eq!(file_system(&mut guest, "/tmp").1, 3 * MIB);
    assert_eq!(guest.read("/etc/certs/name"), "certs");
    assert!(guest.read("/etc/fstab").contains("\ntmpfs /tmp tmpfs size=3M,nosuid,nodev 0 0\n"));
    assert_eq!(guest.read("/cocos/cocos_init/agent.sh"), "#!/bin/sh\n");
    assert_eq!(mode(&mut guest, "/cocos/cocos_init"), 0o750);
    for path in ["/etc/new", "/usr/etc/static/new", "/cocos_init/new", "/tmp/new", "/run/new"] {
        write(&mut guest, path, "");
    }
    assert_eq!(guest.report()["shares"], json!(["certs_share"]));
    guest.power_off();
}

/// systemd makes mounts of the lines of the fstab, and mounts /run anew with the options there.
#[test]
#[ignore = "scripts/test --all"]
fn a_debian_guest_lives_with_places_of_every_kind() {
    let scratch = Scratch::new("debian");
    let fstab = "tmpfs /tmp tmpfs size=300M,noexec 0 0\ntmpfs /run tmpfs size=17%,nr_inodes=9k\n";
    let words = "cvm.var=volume cvm.overlay=/etc";
    let image = images::debian_image_with_fstab(&scratch, fstab, words);
    let mut guest = Vm::new()
        .memory("2G")
        .initramfs(image.initramfs.clone())
        .disk_on(Bus::VirtioScsi, &image.disk)
        .append(&image.cmdline)
        .boot();
    let run = crate::debian::run;
    assert_eq!(run(&mut guest, "systemctl is-system-running --wait"), "running\n");
    for disturbance in ["true", "systemctl daemon-reload", "systemctl restart systemd-remount-fs"] {
        run(&mut guest, disturbance);
        assert_eq!(file_system(&mut guest, "/tmp").1, 300 * MIB, "after {disturbance}");
        check_percent(&mut guest, "/run", 17);
        assert_eq!(file_system(&mut guest, "/run").2, 9 * 1024, "after {disturbance}");
        assert_eq!(file_system(&mut guest, "/var").0, EXT4_MAGIC);
        for (path, flags) in
            [("/tmp", &["nosuid", "nodev", "noexec"][..]), ("/run", &["nosuid", "nodev"])]
        {
            let options = options(&mut guest, path);
            let lost: Vec<_> =
                flags.iter().filter(|flag| !options.contains(&(**flag).into())).collect();
            assert!(lost.is_empty(), "{path} lost {lost:?} after {disturbance}");
        }
        assert_eq!(run(&mut guest, "systemctl is-active tmp.mount"), "active\n");
        assert_eq!(run(&mut guest, "systemctl --failed --plain --no-legend"), "");
    }
    // Written, and no mount of its own.
    assert_eq!(run(&mut guest, "cat /etc/machine-id").trim().len(), 32);
    let table = mounts(&mut guest);
    assert!(!table.iter().any(|mount| mount.starts_with("/etc/machine-id ")), "{table:#?}");
    // As the agent of Cocos sets its services up.
    run(&mut guest, "mkdir /etc/systemd/system/docker.service.d");
    write(
        &mut guest,
        "/etc/systemd/system/docker.service.d/override.conf",
        "[Service]\nEnvironment=DOCKER_RAMDISK=true\n",
    );
    run(&mut guest, "systemctl daemon-reload && systemctl restart docker");
    let environment = run(&mut guest, "systemctl show --property Environment docker");
    assert_eq!(environment, "Environment=DOCKER_RAMDISK=true\n");
    assert_eq!(run(&mut guest, "/usr/lib/demo/container"), "overlay / overlay\n");
    run(&mut guest, "systemctl poweroff --no-block");
    assert_eq!(guest.wait_ending(Duration::from_secs(90)), Ending::PowerOff);
    assert!(!guest.serial().contains("Failed unmounting"), "{}", guest.serial());
}
