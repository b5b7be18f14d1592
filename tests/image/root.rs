//! The root: what it is made of, and what no guest could boot.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::script::{assert_empty, refuses, run, scratch, tool};
use crate::{image, root};

#[test]
fn an_image_of_a_tar_keeps_owners_by_number() {
    let dir = scratch("tar");
    let root = root(&dir);
    let archive = dir.join("root.tar.gz");
    run(tool("bsdtar")
        .args(["--uid", "1234", "--gid", "4321", "--uname", "daemon"])
        .arg("-C")
        .arg(&root)
        .arg("-czf")
        .arg(&archive)
        .arg("."));
    run(&mut image(&dir, &archive));
    let ext4 = dir.join("out/rootfs.ext4");
    let stat = run(tool("debugfs").args(["-R", "stat /bin/a"]).arg(&ext4));
    let words: Vec<_> = stat.split_whitespace().collect();
    let after = |key: &str| words[words.iter().position(|word| *word == key).unwrap() + 1];
    assert_eq!((after("User:"), after("Group:")), ("1234", "4321"));
    assert_eq!(after("Links:"), "2");
    run(tool("e2fsck").arg("-fn").arg(&ext4));
}

#[test]
fn an_image_of_an_ext4_holds_it_unchanged() {
    let dir = scratch("ready");
    let root = root(&dir);
    let ready = dir.join("ready.ext4");
    run(tool("mke2fs").args(["-q", "-b", "4096", "-d"]).arg(&root).arg(&ready).arg("8M"));
    run(&mut image(&dir, &ready));
    run(tool("cmp").arg(&ready).arg(dir.join("out/rootfs.ext4")));
}

#[test]
fn an_image_is_refused_by_what_is_wrong_with_its_root() {
    let dir = scratch("bad root");
    let root = root(&dir);
    let small = dir.join("small.ext4");
    run(tool("mke2fs").args(["-q", "-b", "1024"]).arg(&small).arg("8M"));
    refuses(
        &mut image(&dir, &small),
        1,
        "small.ext4 as root: the root's ext4 has blocks of 1024 bytes, dm-verity needs 4096: make it \
         with mke2fs -b 4096",
    );
    fs::write(dir.join("no archive"), "x".repeat(5000)).unwrap();
    refuses(
        &mut image(&dir, &dir.join("no archive")),
        1,
        "it is no file system that is known, nor can it be unpacked",
    );
    refuses(&mut image(&dir, &dir.join("nowhere")), 1, "nowhere: no such file");
    fs::remove_dir(root.join("tmp")).unwrap();
    symlink("var", root.join("tmp")).unwrap();
    refuses(&mut image(&dir, &root), 1, "its /tmp lies in its /var, where another file system");
    fs::remove_file(root.join("tmp")).unwrap();
    fs::write(root.join("tmp"), "").unwrap();
    refuses(&mut image(&dir, &root), 1, "its /tmp is no directory to mount on");
    fs::remove_file(root.join("tmp")).unwrap();
    fs::create_dir(root.join("tmp")).unwrap();
    fs::remove_dir(root.join("cocos")).unwrap();
    refuses(&mut image(&dir, &root), 1, "it has no /cocos");
    fs::remove_file(root.join("sbin/init")).unwrap();
    refuses(&mut image(&dir, &root), 1, "it has no /sbin/init");
    assert_empty(&dir.join("out"));
}

/// As `stage/root/places.rs` does it in the guest.
#[test]
fn links_are_followed_in_the_root_and_refused_where_they_lead_astray() {
    let dir = scratch("links");
    let root = root(&dir);
    let linked = |name: &str, target: &str| {
        let path = root.join(name);
        let _ = fs::remove_file(&path);
        let _ = fs::remove_dir(&path);
        symlink(target, path).unwrap();
    };
    // Absolute, relative, by way of another one, and too long to lie in an inode.
    let long = format!("private/{}", "long/".repeat(20));
    fs::create_dir_all(root.join(&long)).unwrap();
    fs::create_dir_all(root.join("usr/etc/static")).unwrap();
    fs::write(root.join("usr/etc/static/fstab"), "").unwrap();
    fs::rename(root.join("etc/machine-id"), root.join("usr/etc/machine-id")).unwrap();
    linked("etc", "/usr/etc");
    linked("tmp", &format!("../{long}"));
    linked("usr/etc/fstab", "/etc/static/fstab");
    linked("usr/etc/certs", "../../usr/etc/static");
    run(image(&dir, &root).args(["--append", "cvm.overlay=/etc"]));

    let refused = |name: &str, target: &str, words: &str, why: &str| {
        linked(name, target);
        refuses(image(&dir, &root).args(["--append", words]), 1, why);
        fs::remove_file(root.join(name)).unwrap();
    };
    for (name, target, why) in [
        ("usr/etc/fstab", "nowhere", "its /usr/etc/fstab is a link to nothing"),
        (
            "usr/etc/fstab",
            "/run/fstab",
            "its /etc/fstab leads to /run/fstab, which lies below /run",
        ),
        ("usr/etc/fstab", "static", "its /etc/fstab is of type directory, not regular"),
        ("usr/etc/certs", "/proc/self/root", "its /etc/certs leads to /proc/self, which lies"),
        ("usr/etc/cocos", "../../tmp/../x", "its /usr/etc/cocos is a link to nothing"),
        ("usr/etc/certs", "/tmp", "/long, where another file system is mounted"),
        ("cocos_init", "cocos_init", "its /cocos_init leads through too many links"),
        ("cocos_init", "/bin/a", "its /cocos_init is of type regular, not directory"),
    ] {
        refused(name, target, "quiet", why);
    }
    // A share that is not asked for has no place.
    linked("usr/etc/cocos", "nowhere");
    run(image(&dir, &root).args(["--append", "cvm.shares=certs_share"]));
    fs::remove_file(root.join("usr/etc/cocos")).unwrap();
    for (words, why) in [
        ("cvm.overlay=/srv", "it has no /srv, and read-only it will not get one"),
        ("cvm.overlay=/bin/a", "its /bin/a is no directory to mount on"),
        ("cvm.overlay=/etc,/usr", "its /etc lies in its /usr, where another file system is"),
        ("cvm.overlay=/private", "its /tmp lies in its /private, where another file system is"),
        ("cvm.overlay=/var/lib", "/var/lib lies in /var, over which a boot mounts"),
    ] {
        refuses(image(&dir, &root).args(["--append", words]), 1, why);
    }
    linked("opt", "/run/opt");
    let why = "its /opt is a link to nothing";
    refuses(image(&dir, &root).args(["--append", "cvm.overlay=/opt"]), 1, why);
}

/// The root as an ext4 with a journal.
fn journalled(dir: &Path, root: &Path) -> PathBuf {
    let ready = dir.join("ready.ext4");
    let mut mke2fs = tool("mke2fs");
    run(mke2fs
        .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-d"])
        .arg(root)
        .arg(&ready)
        .arg("16M"));
    ready
}

#[test]
fn an_ext4_that_cannot_be_mounted_read_only_is_refused_with_what_mends_it() {
    let dir = scratch("features");
    let root = root(&dir);
    let spoil = |command: &str| {
        let ready = journalled(&dir, &root);
        run(tool("debugfs").args(["-w", "-R", command]).arg(&ready));
        ready
    };
    // As one has that was copied while it was mounted.
    let ready = spoil("feature needs_recovery");
    refuses(
        &mut image(&dir, &ready),
        1,
        "its journal cannot be replayed here: run e2fsck -fp on it",
    );
    run(tool("e2fsck").arg("-fp").arg(&ready));
    run(&mut image(&dir, &ready));
    let ready = spoil("set_super_value journal_dev 0x801");
    let why = "has its journal on another device: run tune2fs -O ^has_journal on it";
    refuses(&mut image(&dir, &ready), 1, why);
    run(tool("tune2fs").args(["-f", "-O", "^has_journal"]).arg(&ready));
    run(&mut image(&dir, &ready));
    // A feature that only a kernel of somebody's has.
    let ready = spoil("set_super_value feature_incompat 0x12c2");
    refuses(&mut image(&dir, &ready), 1, "the root's ext4 has dirdata, which no Linux has");
    let ready = spoil("set_super_value feature_incompat 0x80002c2");
    refuses(&mut image(&dir, &ready), 1, "the root's ext4 has FEATURE_I27, which no Linux has");
}

/// As far as blkid looks.
fn luks_header() -> Vec<u8> {
    let header = cvm_init::format::luks2::Header {
        uuid: [1; 16],
        cipher: "aes-gcm-random",
        integrity: Some("aead"),
        requirement: None,
        sector_size: 4096,
        digest: cvm_init::format::luks2::KeyDigest::new(&[2; 32], [3; 32]),
        checksum_salts: [[4; 64], [5; 64]],
    };
    let mut bytes = header.encode().unwrap();
    bytes.resize(16 << 20, 0);
    bytes
}

#[test]
fn another_file_system_or_a_disk_is_called_what_it_is() {
    let dir = scratch("kinds");
    root(&dir);
    let luks = dir.join("luks");
    fs::write(&luks, luks_header()).unwrap();
    let not = "not ext4, erofs, squashfs; give its files as a folder or a tar";
    refuses(&mut image(&dir, &luks), 1, &format!("it holds crypto_LUKS, {not}"));
    run(&mut image(&dir, &dir.join("root")));
    refuses(&mut image(&dir, &dir.join("out/disk.img")), 1, &format!("it holds gpt, {not}"));
}

#[test]
fn the_times_of_files_are_kept_before_1970_and_after_2038() {
    let dir = scratch("times");
    let root = root(&dir);
    let times = [
        ("bin/a", "1960-01-02 03:04:05"),
        ("var", "1969-12-31 23:59:59"),
        ("etc/machine-id", "2038-01-19 03:14:07"),
        ("sbin/init", "2042-01-02 03:04:05"),
        ("etc/a \"quoted\" name", "2400-01-02 03:04:05"),
        ("etc", "2107-01-02 03:04:05"),
    ];
    fs::write(root.join("etc/a \"quoted\" name"), "").unwrap();
    for (name, time) in times {
        let touched = root.join(name);
        run(tool("touch").args(["-h", "-d", &format!("{time} UTC")]).arg(touched));
    }
    run(&mut image(&dir, &root));
    let ext4 = dir.join("out/rootfs.ext4");
    run(tool("e2fsck").arg("-fn").arg(&ext4));
    for (name, time) in times {
        let name = name.replace('"', "\"\"");
        let stat = run(tool("debugfs")
            .env("TZ", "UTC")
            .args(["-R", &format!("stat \"/{name}\"")])
            .arg(&ext4));
        // What is stored: some versions of debugfs are wrong about the date.
        let (_, stored) = stat.split_once(" mtime: 0x").unwrap();
        let (stored, _) = stored.split_once(" -- ").unwrap();
        let (low, extra) = stored.split_once(':').unwrap();
        let low = i64::from(u32::from_str_radix(low, 16).unwrap().cast_signed());
        let epoch = i64::from(u32::from_str_radix(extra, 16).unwrap() & 3) << 32;
        let shown = run(tool("date").args(["-u", "-d", &format!("@{}", low + epoch), "+%F %T"]));
        assert_eq!(shown.trim(), time, "{name}");
    }
    for (time, name, why) in [
        ("2500-01-01", "a", "root/a: ext4 has 1901 to 2446"),
        ("2042-01-01", "a\nb", "there is a line break in its name"),
    ] {
        let file = root.join(name);
        fs::write(&file, "").unwrap();
        run(tool("touch").args(["-d", time]).arg(&file));
        // Where the build machine cannot hold the time, neither can the image.
        if run(tool("stat").args(["-c", "%y"]).arg(&file)).starts_with(time) {
            let output = image(&dir, &root).output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(said.contains(why) && output.status.code() == Some(1), "{said}");
        }
        fs::remove_file(&file).unwrap();
    }
}

#[test]
fn a_root_without_identity_gets_one_warning() {
    let dir = scratch("identity");
    let root = root(&dir);
    let id = root.join("etc/machine-id");
    let warnings = || {
        let output = image(&dir, &root).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        said.lines()
            .filter(|line| line.contains("warning: the root has no /etc/machine-id"))
            .count()
    };
    assert_eq!(warnings(), 0);
    fs::remove_file(&id).unwrap();
    assert_eq!(warnings(), 1);
    fs::write(root.join("etc/other"), "").unwrap();
    fs::create_dir_all(root.join("var/lib/dbus")).unwrap();
    fs::write(root.join("var/lib/dbus/machine-id"), "").unwrap();
    for (target, count) in
        [("other", 0), ("/etc/other", 0), ("/nowhere", 1), ("/var/lib/dbus/machine-id", 1)]
    {
        symlink(target, &id).unwrap();
        assert_eq!(warnings(), count, "{target}");
        fs::remove_file(&id).unwrap();
    }
}
