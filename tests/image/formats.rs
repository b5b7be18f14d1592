//! The file systems that a root can be, made of its files and brought along.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use cvm_init::format::rootfs::{FileSystem, Kind, START_BYTES};

use crate::script::{refuses, run, scratch, tool};
use crate::{image, names, root};

/// Those besides the default.
const FORMATS: [Kind; 2] = [Kind::Erofs, Kind::Squashfs];

fn image_in(dir: &Path, rootfs: &Path, format: Kind) -> Command {
    let mut command = image(dir, rootfs);
    command.args(["--root-format", format.name()]);
    command
}

/// As a boot would see it, and all of it there.
fn recognize(path: &Path) -> FileSystem {
    let mut start = [0; START_BYTES];
    let file = File::open(path).unwrap();
    file.read_exact_at(&mut start, 0).unwrap();
    let found = FileSystem::recognize(&start, "it").unwrap();
    let length = file.metadata().unwrap().len();
    assert_eq!(length % 4096, 0);
    found.require_blocks(length / 4096, "there", "it").unwrap();
    found
}

/// The files of a root, by the format's own tool.
fn unpacked(dir: &Path, file: &Path, format: Kind) -> PathBuf {
    let to = dir.join(format!("unpacked {format}"));
    match format {
        Kind::Erofs => run(tool("fsck.erofs").arg(format!("--extract={}", to.display())).arg(file)),
        _ => run(tool("unsquashfs").args(["-no-progress", "-d"]).arg(&to).arg(file)),
    };
    to
}

#[test]
fn each_holds_the_files_with_their_times() {
    let dir = scratch("contents");
    let root = root(&dir);
    let large: Vec<_> = (0..40_000).map(|line| line.to_string()).collect();
    fs::write(root.join("etc/large"), large.join("\n")).unwrap();
    fs::set_permissions(root.join("etc/large"), fs::Permissions::from_mode(0o640)).unwrap();
    for (name, time) in [("etc/large", "2001-02-03 04:05:06"), ("var", "2038-01-19 03:14:08")] {
        run(tool("touch").args(["-d", &format!("{time} UTC")]).arg(root.join(name)));
    }
    for format in FORMATS {
        run(&mut image_in(&dir, &root, format));
        let made = dir.join("out").join(format!("rootfs.{format}"));
        let found = recognize(&made);
        assert_eq!(found.kind, format);
        // The kernels that guests have today.
        found.require_some_kernel("it").unwrap();
        let roothash = fs::read_to_string(dir.join("out/rootfs.roothash")).unwrap();
        run(tool("veritysetup")
            .arg("verify")
            .args([&made, &dir.join("out/rootfs.verity")])
            .arg(roothash.trim()));
        let files = unpacked(&dir, &made, format);
        run(tool("diff").args(["-r", "--no-dereference"]).args([&root, &files]));
        let [here, there] = [&root, &files].map(|at| fs::metadata(at.join("etc/large")).unwrap());
        assert_eq!((here.mode(), here.mtime()), (there.mode(), there.mtime()), "{format}");
        match format {
            // fsck.erofs makes two files of two names.
            Kind::Erofs => {
                let said = run(tool("dump.erofs").arg("--path=/bin/a").arg(&made));
                assert!(said.contains("Links: 2"), "{said}");
            }
            _ => assert_eq!(fs::metadata(files.join("bin/a")).unwrap().nlink(), 2),
        }
        let smaller = made.metadata().unwrap().len();
        assert!(smaller < 200_000, "{format}: {smaller} bytes");
    }
}

#[test]
fn each_of_the_same_inputs_has_the_same_bytes() {
    let dirs: Vec<_> = ["formats here", "formats there"]
        .iter()
        .map(|place| {
            let dir = scratch(place);
            let root = root(&dir);
            let times = ["-exec", "touch", "-h", "-d", "@100", "{}", "+"];
            run(tool("find").arg(&root).args(times));
            // Without a word about the topmost folder.
            let tar = dir.join("tar");
            run(tool("bsdtar")
                .args(["--uid", "7", "--gid", "8", "-C"])
                .arg(&root)
                .arg("-cf")
                .arg(&tar)
                .args(["bin", "cocos", "dev", "etc", "proc", "run", "sbin", "sys", "tmp", "var"]));
            std::thread::sleep(std::time::Duration::from_secs(2));
            for format in FORMATS {
                for (rootfs, out) in [(&root, "folder"), (&tar, "tar")] {
                    let out = dir.join(format!("{out} {format}"));
                    run(image_in(&dir, rootfs, format).arg("-o").arg(out));
                }
            }
            dir
        })
        .collect();
    for format in FORMATS {
        for out in [format!("folder {format}"), format!("tar {format}")] {
            for name in names(&dirs[0].join(&out)) {
                run(tool("cmp").args(dirs.iter().map(|dir| dir.join(&out).join(&name))));
            }
        }
    }
}

/// A file system that a tool has made, not `scripts/image`.
fn ready(dir: &Path, root: &Path, format: Kind, options: &[&str]) -> PathBuf {
    let file = dir.join(format!("no name for {format}"));
    let _ = fs::remove_file(&file);
    match format {
        Kind::Ext4 => {
            run(tool("mke2fs").args(["-q", "-b", "4096", "-d"]).arg(root).arg(&file).arg("8M"))
        }
        Kind::Erofs => run(tool("mkfs.erofs").args(options).arg(&file).arg(root)),
        Kind::Squashfs => run(tool("mksquashfs")
            .arg(root)
            .arg(&file)
            .args(["-quiet", "-no-progress"])
            .args(options)),
    };
    file
}

#[test]
fn one_that_is_brought_along_is_known_by_its_content_and_kept() {
    let dir = scratch("ready");
    let root = root(&dir);
    for (format, options) in [
        (Kind::Ext4, &[][..]),
        (Kind::Erofs, &[]),
        (Kind::Erofs, &["-zlz4"]),
        (Kind::Squashfs, &["-comp", "xz"]),
        (Kind::Squashfs, &["-comp", "gzip", "-nopad"]),
    ] {
        let file = ready(&dir, &root, format, options);
        run(&mut image(&dir, &file));
        let out = dir.join("out");
        let roots: Vec<_> =
            names(&out).into_iter().filter(|name| name.starts_with("rootfs.")).collect();
        let name = format!("rootfs.{format}");
        // No other one beside it.
        let mut expected =
            ["cpio.gz", "roothash", "verity"].map(|end| format!("rootfs.{end}")).to_vec();
        expected.push(name.clone());
        expected.sort();
        assert_eq!(roots, expected);
        let (given, kept) = (fs::read(&file).unwrap(), fs::read(out.join(&name)).unwrap());
        assert_eq!(kept.len(), given.len().next_multiple_of(4096).max(2 * 4096));
        assert!(kept[..given.len()] == given && kept[given.len()..].iter().all(|&byte| byte == 0));
        assert_eq!(recognize(&out.join(&name)).kind, format);
        // Asked for as well, or something else.
        run(&mut image_in(&dir, &file, format));
        let other = if format == Kind::Erofs { Kind::Squashfs } else { Kind::Erofs };
        refuses(
            &mut image_in(&dir, &file, other),
            1,
            &format!("it is {format}, not {other}; leave --root-format out, or give its files"),
        );
    }
}

#[test]
fn what_no_boot_would_take_is_refused_with_what_mends_it() {
    let dir = scratch("refused formats");
    let root = root(&dir);
    for (format, at, bytes, why) in [
        (
            Kind::Erofs,
            1024 + 12,
            &[14][..],
            "the root's erofs has blocks of 16384 bytes, dm-verity needs 4096: make it with \
             mkfs.erofs -b 4096",
        ),
        (Kind::Erofs, 1024 + 0x26, &[1], "are in the file"),
        (Kind::Erofs, 0, b"hsqs", "the root begins as erofs and as squashfs, and nothing says"),
        (Kind::Squashfs, 20, &[2], "the root's squashfs has lzma, which no Linux has"),
        (
            Kind::Squashfs,
            28,
            &[3],
            "the root's squashfs is of version 3.0, Linux has 4.0: make it with mksquashfs",
        ),
        (Kind::Squashfs, 43, &[1], "are in the file"),
        (Kind::Ext4, 0, b"hsqs", "the root begins as ext4 and as squashfs, and nothing says"),
    ] {
        let file = ready(&dir, &root, format, &[]);
        File::options().write(true).open(&file).unwrap().write_all_at(bytes, at).unwrap();
        refuses(&mut image(&dir, &file), 1, why);
    }
    let unknown = "--root-format xfs is not one of ext4 erofs squashfs";
    refuses(image(&dir, &root).args(["--root-format", "xfs"]), 2, unknown);
    assert!(!dir.join("out").exists());
}

/// The same words for each format, be it made here or brought along.
#[test]
fn a_root_that_lacks_what_a_boot_needs_is_refused_in_each_format() {
    let dir = scratch("lacking");
    let root = root(&dir);
    fs::remove_dir(root.join("cocos")).unwrap();
    for format in FORMATS {
        refuses(&mut image_in(&dir, &root, format), 1, "it has no /cocos");
        let file = ready(&dir, &root, format, &[]);
        refuses(&mut image(&dir, &file), 1, "it has no /cocos");
    }
    // A way through links, as in a root with merged /usr.
    fs::create_dir(root.join("cocos")).unwrap();
    fs::create_dir(root.join("usr")).unwrap();
    fs::rename(root.join("sbin"), root.join("usr/sbin")).unwrap();
    std::os::unix::fs::symlink("usr/sbin", root.join("sbin")).unwrap();
    for format in FORMATS {
        run(&mut image(&dir, &ready(&dir, &root, format, &[])));
    }
    fs::remove_file(root.join("usr/sbin/init")).unwrap();
    for format in FORMATS {
        refuses(&mut image_in(&dir, &root, format), 1, "it has no /sbin/init");
    }
}

#[test]
fn a_time_that_a_format_cannot_hold_is_refused() {
    let dir = scratch("far times");
    let root = root(&dir);
    let of_var = |time: &str| {
        run(tool("touch").args(["-d", &format!("{time} UTC")]).arg(root.join("var")));
    };
    let squashfs = "root/var: squashfs has 1970 to 2106";
    of_var("1969-12-31 23:59:59");
    refuses(&mut image_in(&dir, &root, Kind::Squashfs), 1, squashfs);
    let erofs = "root/var: mkfs.erofs has 1970 and later";
    refuses(&mut image_in(&dir, &root, Kind::Erofs), 1, erofs);
    of_var("2107-01-02 03:04:05");
    refuses(&mut image_in(&dir, &root, Kind::Squashfs), 1, squashfs);
    run(&mut image_in(&dir, &root, Kind::Erofs));
    let made = dir.join("out/rootfs.erofs");
    let said = run(tool("dump.erofs").env("TZ", "UTC").arg("--path=/var").arg(&made));
    assert!(said.contains("2107-01-02 03:04:05"), "{said}");
}

#[test]
fn an_initramfs_without_the_module_gets_a_warning() {
    let dir = scratch("without module");
    let root = root(&dir);
    crate::cmdline::initramfs_for(&dir, crate::RELEASE);
    let output = image_in(&dir, &root, Kind::Erofs).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("initramfs has no module erofs: "), "{said}");
}
