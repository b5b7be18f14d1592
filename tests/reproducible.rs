//! Who builds a commit gets the program of that commit: the same bytes from another folder, with
//! another `CARGO_HOME`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod script;

use script::{run, scratch, target, tool};
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

const TREE: &str = env!("CARGO_MANIFEST_DIR");
const PROGRAM: &str = "x86_64-unknown-linux-musl/release/cvm-init";

/// The program, built in `tree` into `target` with `home` in place of cargo's.
fn built(tree: &Path, target: &Path, home: &Path) -> Vec<u8> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    run(tool(cargo.to_str().unwrap())
        .current_dir(tree)
        .args(["build", "--locked", "--offline", "--release", "--quiet", "--target-dir"])
        .arg(target)
        .env("CARGO_HOME", home)
        .env_remove("CARGO_TARGET_DIR"));
    fs::read(target.join(PROGRAM)).unwrap()
}

/// Where cargo keeps what it has fetched.
fn cargo_home() -> PathBuf {
    env::var_os("CARGO_HOME")
        .map_or_else(|| Path::new(&env::var_os("HOME").unwrap()).join(".cargo"), PathBuf::from)
}

/// What git would take of this tree, in another folder.
fn copy_to(folder: &Path) {
    let files = run(tool("git").current_dir(TREE).args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]));
    for file in files.split_terminator('\0').filter(|file| Path::new(TREE).join(file).is_file()) {
        let copy = folder.join(file);
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(Path::new(TREE).join(file), copy).unwrap();
    }
}

#[test]
fn the_program_is_the_same_from_another_folder_and_another_home_of_cargo() {
    let dir = scratch("reproducible");
    let (tree, home) = (dir.join("another checkout"), dir.join("another home"));
    copy_to(&tree);
    fs::create_dir(&home).unwrap();
    // What is fetched is the same, by another path.
    symlink(cargo_home().join("registry"), home.join("registry")).unwrap();
    let here = built(Path::new(TREE), target(), &cargo_home());
    let there = built(&tree, &dir.join("another target"), &home);
    assert!(here == there, "the program depends on where it is built");
    // Which is no wonder, as long as no path is in it.
    for path in [cargo_home().as_os_str(), OsStr::new(TREE), tree.as_os_str(), home.as_os_str()] {
        let path = path.as_encoded_bytes();
        assert!(!here.windows(path.len()).any(|bytes| bytes == path));
    }
}
