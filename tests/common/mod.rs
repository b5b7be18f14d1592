//! What oracle tests share: the tools that they ask, and files for them to look at.

#![allow(dead_code, reason = "each test takes its part")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Runs a tool; it has to exit with 0. Returns what it printed.
pub(crate) fn run(tool: &str, arguments: &[&str]) -> String {
    let output = outcome(tool, arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}\n{text}", failure(tool, arguments, &output));
    text
}

/// Runs a tool that has to refuse. Returns its reason.
pub(crate) fn refusal(tool: &str, arguments: &[&str]) -> String {
    let output = outcome(tool, arguments);
    // A tool that was killed has not refused.
    assert!(
        output.status.code().is_some_and(|code| code != 0),
        "{}",
        failure(tool, arguments, &output)
    );
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn outcome(tool: &str, arguments: &[&str]) -> Output {
    Command::new(tool)
        .args(arguments)
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .unwrap_or_else(|error| panic!("cannot run {tool}: {error}; scripts/setup installs it"))
}

fn failure(tool: &str, arguments: &[&str], output: &Output) -> String {
    format!(
        "{tool} {}: {}\n{}",
        arguments.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    )
}

/// A place of a test's own under the target directory, that goes when the test ends.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// An empty directory.
    pub(crate) fn dir(name: &str) -> Self {
        let scratch = Self::vacant(name);
        fs::create_dir(&scratch.0).unwrap();
        scratch
    }

    /// A file of this length, all of it a hole.
    pub(crate) fn sparse(name: &str, bytes: u64) -> (Self, File) {
        let scratch = Self::vacant(name);
        let file = File::create_new(&scratch.0).unwrap();
        file.set_len(bytes).unwrap();
        (scratch, file)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Its path as an argument.
    pub(crate) fn utf8(&self) -> &str {
        self.0.to_str().unwrap()
    }

    /// What a killed run may have left there is removed.
    fn vacant(name: &str) -> Self {
        let scratch = Self(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name));
        remove(&scratch.0);
        scratch
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

fn remove(path: &Path) {
    let _ = fs::remove_file(path).or_else(|_| fs::remove_dir_all(path));
}
