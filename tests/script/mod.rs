//! What a test of a script is written with.

#![allow(dead_code, reason = "each test takes its part")]

use std::fs;
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const TREE: &str = env!("CARGO_MANIFEST_DIR");
/// Where cargo builds, whatever flag or variable set it: `CARGO_TARGET_TMPDIR` is `TARGET/tmp` in
/// there, because `.cargo/config.toml` names a target.
pub(crate) fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).ancestors().nth(2).unwrap()
}

/// A folder of one test, empty at its start, and gone when the test has passed.
pub(crate) struct Scratch(PathBuf);

impl Deref for Scratch {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// Its name has a blank, as users' folders may.
pub(crate) fn scratch(test: &str) -> Scratch {
    let path =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{} {test}", env!("CARGO_CRATE_NAME")));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    Scratch(path)
}

pub(crate) fn script(name: &str) -> Command {
    let mut command = Command::new(Path::new(TREE).join("scripts").join(name));
    command.env("CARGO_TARGET_DIR", target());
    command
}

/// `PATH` with a folder before all others.
pub(crate) fn first_in_path(dir: &Path) -> String {
    format!("{}:{}", dir.display(), std::env::var("PATH").unwrap())
}

/// Puts a shell script into the folder that stands for a tool.
pub(crate) fn tool_in(dir: &Path, name: &str, text: &str) {
    let tool = dir.join(name);
    fs::write(&tool, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Runs a program that has to succeed, and returns what it wrote to standard output.
pub(crate) fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{command:?}: {status}: {stderr}");
    String::from_utf8_lossy(&stdout).into_owned()
}

/// A tool of the system; mke2fs and its kind are not in every user's `PATH`.
pub(crate) fn tool(name: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let mut command = Command::new("env");
    command.env("PATH", path).arg(name);
    command
}

/// A script that has to fail with `status`; its last line says `why`, and nothing but the script
/// itself speaks.
pub(crate) fn refuses(command: &mut Command, status: i32, why: &str) {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{command:?}: {stderr}");
    let last = stderr.lines().last().unwrap_or_default();
    assert!(last.contains(why), "{command:?}: {stderr}");
    for line in stderr.lines() {
        assert!(line.starts_with("scripts/"), "{command:?}: {stderr}");
    }
}

pub(crate) fn assert_empty(dir: &Path) {
    let left: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}
