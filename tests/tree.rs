//! Copies of directory trees, and their emptying, as far as a user without privileges sees it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod common;

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use cvm_init::kernel::tree;
use rustix::buffer::spare_capacity;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, lgetxattr, lsetxattr, mknodat,
    utimensat,
};
use rustix::io::Errno;

use common::{Scratch, run};

/// A directory to copy and an empty one to copy it to.
struct Pair {
    _scratch: Scratch,
    from: PathBuf,
    to: PathBuf,
}

impl Pair {
    fn new(name: &str) -> Self {
        let scratch = Scratch::dir(&format!("tree-{name}"));
        let (from, to) = (scratch.path().join("from"), scratch.path().join("to"));
        fs::create_dir(&from).unwrap();
        fs::create_dir(&to).unwrap();
        Self { _scratch: scratch, from, to }
    }

    fn copy(&self) {
        tree::copy(&self.from, &self.to).unwrap();
    }
}

/// What find sees of each file: name, type, mode, owner, links, time of modification, target of a
/// symbolic link.
fn listing(dir: &Path) -> Vec<String> {
    let format = "%P|%y|%m|%U|%G|%n|%T@|%l\\n";
    let seen = run("find", &[dir.to_str().unwrap(), "-printf", format]);
    let mut lines: Vec<_> = seen.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn set_time(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

#[test]
fn types_modes_times_and_links_are_kept() {
    let pair = Pair::new("listing");
    let from = &pair.from;
    for (name, mode) in [
        ("program", 0o755),
        ("set-user-id", 0o4711),
        ("set-group-id", 0o2755),
        ("all", 0o7777),
        ("secret", 0o400),
    ] {
        fs::write(from.join(name), name).unwrap();
        set_mode(&from.join(name), mode);
    }
    fs::create_dir_all(from.join("nested/empty/directories")).unwrap();
    for (name, mode) in [("sticky", 0o1777), ("set-group-id-dir", 0o2750), ("read-only", 0o555)] {
        fs::create_dir(from.join(name)).unwrap();
        fs::write(from.join(name).join("file"), name).unwrap();
        set_mode(&from.join(name), mode);
    }
    symlink("nowhere", from.join("dangling")).unwrap();
    symlink("nested/empty", from.join("to-directory")).unwrap();
    symlink("/", from.join("to-root")).unwrap();
    mknodat(CWD, from.join("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    // The longest way to it may be longer than a socket's address can be.
    mknodat(CWD, from.join("socket"), FileType::Socket, Mode::RWXU, 0).unwrap();
    set_mode(from, 0o1751);
    // Inside out, because a new entry changes its directory's time. One is before 1970.
    for (name, seconds, nanoseconds) in [
        ("program", 1_234_567_890, 123_456_789),
        ("secret", -1, 999_999_999),
        ("dangling", 1, 1),
        ("to-directory", 2, 2),
        ("fifo", 3, 3),
        ("sticky/file", 4, 4),
        ("sticky", 5, 5),
        ("nested/empty", 6, 6),
        ("nested", 7, 999),
        ("", 1_700_000_000, 1),
    ] {
        set_time(&from.join(name), seconds, nanoseconds);
    }
    let before = listing(from);
    pair.copy();
    assert_eq!(listing(&pair.to), before);
    assert_eq!(listing(from), before);
    for dir in [&pair.from, &pair.to] {
        // So that it can be removed.
        set_mode(&dir.join("read-only"), 0o755);
    }
}

#[test]
fn names_of_one_file_stay_names_of_one_file() {
    let pair = Pair::new("links");
    let from = &pair.from;
    fs::create_dir(from.join("dir")).unwrap();
    fs::write(from.join("first"), "one").unwrap();
    fs::write(from.join("alone"), "one").unwrap();
    symlink("first", from.join("symlink")).unwrap();
    mknodat(CWD, from.join("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    for name in ["first", "symlink", "fifo"] {
        fs::hard_link(from.join(name), from.join("dir").join(name)).unwrap();
    }
    // A name outside of what is copied.
    fs::hard_link(from.join("alone"), from.with_file_name("outside")).unwrap();
    pair.copy();

    let inode = |name: &str| fs::symlink_metadata(pair.to.join(name)).unwrap().ino();
    for name in ["first", "symlink", "fifo"] {
        assert_eq!(inode(name), inode(&format!("dir/{name}")), "{name}");
    }
    assert_ne!(inode("first"), inode("alone"));
    let original = fs::metadata(from.join("first")).unwrap();
    assert_ne!(inode("first"), original.ino());
    assert_eq!(fs::metadata(pair.to.join("alone")).unwrap().nlink(), 1);
}

#[test]
fn extended_attributes_are_kept() {
    let pair = Pair::new("xattrs");
    let from = &pair.from;
    fs::create_dir(from.join("dir")).unwrap();
    fs::write(from.join("dir/file"), "").unwrap();
    let long = [0xa5; 1024];
    let attributes: [(&str, &str, &[u8]); 5] = [
        ("", "user.of-the-tree", b"itself"),
        ("dir", "user.dir", b"\0\xff\n"),
        ("dir/file", "user.none", b""),
        ("dir/file", "user.long", &long),
        ("dir/file", "user.\u{e9}", b"name"),
    ];
    for (path, name, value) in attributes {
        let path = from.join(path);
        lsetxattr(&path, name, value, XattrFlags::empty()).unwrap_or_else(|errno| {
            panic!(
                "cannot set {name} on {}: {errno}; build on a file system that has user attributes",
                path.display()
            )
        });
    }
    // The copy gets attributes although it cannot be written to in the end.
    set_mode(&from.join("dir/file"), 0o444);
    set_mode(&from.join("dir"), 0o555);
    pair.copy();

    for (path, name, value) in attributes {
        let mut copied = Vec::with_capacity(4096);
        lgetxattr(pair.to.join(path), name, spare_capacity(&mut copied)).unwrap();
        assert_eq!(copied, value, "{path}: {name}");
    }
    for dir in [&pair.from, &pair.to] {
        set_mode(&dir.join("dir"), 0o755);
    }
}

#[test]
fn content_is_kept_also_around_holes() {
    let pair = Pair::new("content");
    let sparse = File::create(pair.from.join("sparse")).unwrap();
    sparse.set_len((40 << 20) + 1).unwrap();
    for offset in [5, (1 << 20) - 3, 33 << 20] {
        sparse.write_all_at(b"between holes", offset).unwrap();
    }
    fs::write(pair.from.join("empty"), "").unwrap();
    fs::write(pair.from.join("odd"), vec![0x5a; 70_001]).unwrap();
    pair.copy();
    for name in ["sparse", "empty", "odd"] {
        let [from, to] = [&pair.from, &pair.to].map(|dir| fs::read(dir.join(name)).unwrap());
        assert!(from == to, "{name}");
    }
}

const ODD_NAMES: &[&[u8]] =
    &[b"\xff\xfe", b"\xc3", b"new\nline", b"-rf", b"*", b" ", b"...", b"a\\b\"c'", &[b'x'; 255]];

#[test]
fn names_are_bytes() {
    let pair = Pair::new("names");
    for name in ODD_NAMES.iter().map(|name| OsStr::from_bytes(name)) {
        fs::create_dir(pair.from.join(name)).unwrap();
        fs::write(pair.from.join(name).join(name), name.as_bytes()).unwrap();
    }
    pair.copy();
    for name in ODD_NAMES.iter().map(|name| OsStr::from_bytes(name)) {
        let content = fs::read(pair.to.join(name).join(name)).unwrap();
        assert_eq!(content, name.as_bytes());
    }
    assert_eq!(fs::read_dir(&pair.to).unwrap().count(), ODD_NAMES.len());

    let dir = File::open(&pair.to).unwrap();
    tree::clear(dir.as_fd()).unwrap();
    assert_eq!(fs::read_dir(&pair.to).unwrap().count(), 0);
}

/// What lies at the target already is neither overwritten nor written through.
#[test]
fn a_name_that_is_taken_is_refused() {
    let pair = Pair::new("taken");
    let victim = pair.from.with_file_name("victim");
    fs::write(&victim, "untouched").unwrap();
    fs::create_dir(pair.from.join("dir")).unwrap();
    fs::create_dir(pair.to.join("dir")).unwrap();
    let error = tree::copy(&pair.from, &pair.to).unwrap_err().to_string();
    let dir = pair.from.join("dir");
    assert_eq!(error, "cannot copy dir: File exists (os error 17)");

    fs::remove_dir(&dir).unwrap();
    let file = pair.from.join("file");
    fs::write(&file, "new").unwrap();
    symlink(&victim, pair.to.join("file")).unwrap();
    let error = tree::copy(&pair.from, &pair.to).unwrap_err().to_string();
    assert_eq!(error, "cannot copy file: File exists (os error 17)");
    assert_eq!(fs::read(&victim).unwrap(), b"untouched");
}

#[test]
fn clear_removes_all_that_is_in_a_directory_and_nothing_else() {
    let pair = Pair::new("clear");
    let (kept, dir) = (&pair.from, &pair.to);
    fs::write(kept.join("file"), "kept").unwrap();
    fs::create_dir_all(dir.join("a/b/c/d")).unwrap();
    // More than one call of getdents returns, so that entries go while the rest is still to be read.
    for number in 0..3000 {
        fs::write(dir.join(format!("a/b/{number}")), "").unwrap();
    }
    let deep: PathBuf = std::iter::repeat_n("deep", 100).collect();
    fs::create_dir_all(dir.join(deep)).unwrap();
    symlink(kept, dir.join("symlink")).unwrap();
    symlink("nowhere", dir.join("a/dangling")).unwrap();
    fs::hard_link(kept.join("file"), dir.join("link")).unwrap();
    mknodat(CWD, dir.join("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    set_mode(&dir.join("fifo"), 0);

    let open = File::open(dir).unwrap();
    tree::clear(open.as_fd()).unwrap();
    assert_eq!(fs::read_dir(dir).unwrap().count(), 0);
    assert_eq!(fs::read(kept.join("file")).unwrap(), b"kept");
    assert_eq!(fs::metadata(kept.join("file")).unwrap().nlink(), 1);
    // An empty one is as good.
    tree::clear(open.as_fd()).unwrap();

    let file = File::open(kept.join("file")).unwrap();
    assert_eq!(tree::clear(file.as_fd()), Err(Errno::NOTDIR));
}

/// A large file that is mostly holes takes no more room, and no more time.
#[test]
fn holes_stay_holes() {
    let pair = Pair::new("holes");
    let (from, to) = (pair.from.join("sparse"), pair.to.join("sparse"));
    let file = File::create(&from).unwrap();
    for (offset, text) in [(0, "start"), (3 << 30, "middle"), ((8 << 30) - 3, "end")] {
        file.write_all_at(text.as_bytes(), offset).unwrap();
    }
    for (name, text) in [("hole", ""), ("ends-in-a-hole", "x")] {
        let file = File::create(pair.from.join(name)).unwrap();
        file.write_all_at(text.as_bytes(), 0).unwrap();
        file.set_len(1 << 30).unwrap();
    }
    pair.copy();
    for name in ["sparse", "hole", "ends-in-a-hole"] {
        let [old, new] = [&pair.from, &pair.to].map(|dir| dir.join(name).metadata().unwrap());
        assert_eq!(new.len(), old.len(), "{name}");
        assert_eq!(new.blocks(), old.blocks(), "{name}");
    }
    let copy = File::open(&to).unwrap();
    for (offset, text) in [(0, "start"), (3 << 30, "middle"), ((8 << 30) - 3, "end")] {
        let mut bytes = vec![1; text.len() + 1];
        let got = copy.read_at(&mut bytes, offset).unwrap();
        assert_eq!(&bytes[..text.len()], text.as_bytes());
        // A byte of the hole, but at the end of the file.
        assert_eq!(bytes[got - 1], if text == "end" { b'd' } else { 0 });
    }
}
