//! Programs of the host, and the folders that tests work in.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, id};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, thread};

/// Folders that a user without root may not have in `PATH`: mke2fs and sfdisk live there.
const SYSTEM: &str = "/usr/sbin:/sbin";

/// A program, found where the system keeps such; `scripts/setup` installs what is missing.
pub(crate) fn command(program: &str) -> Command {
    let path = env::var("PATH").unwrap_or_default() + ":" + SYSTEM;
    let found = env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file());
    let mut command = Command::new(
        found.unwrap_or_else(|| panic!("{program} is missing: install it with scripts/setup")),
    );
    command.env("PATH", path);
    command
}

/// Runs a program to its end and returns what it wrote to standard output.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    let Output { status, stdout, stderr } = output;
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{command:?} failed ({status}): {stderr}");
    String::from_utf8_lossy(&stdout).into_owned()
}

/// The folder of this test run. What failed runs have kept is removed by the next one.
fn run_folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
        for entry in fs::read_dir(tmp).expect("cargo makes it").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let process = name.strip_prefix("run-");
            if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        tmp.join(format!("run-{}", id()))
    })
}

/// A folder of one test: removed when the test passes, kept for a look when it fails.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(purpose: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = run_folder().join(format!("{purpose}-{number}"));
        fs::create_dir_all(&path).expect("the target folder is writable");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("kept until the next run: {}", self.0.display());
        } else {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}
