//! Programs of the host, and the folders that tests work in.

use cvm_tools::vm::process;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, id};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{fs, thread};

/// A program, found where the system keeps such.
pub(crate) fn command(program: &str) -> Command {
    process::command(program).unwrap_or_else(|error| panic!("{error}"))
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

    /// An abstract name of a socket for who works in it: that of a path could be too long.
    pub(crate) fn socket(&self) -> String {
        let folder = self.0.file_name().unwrap_or_default().display();
        format!("cvm-init-{}-{folder}", id())
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
