//! Programs that the benchmark runs, what it says meanwhile, and how it is told to stop.

use std::fmt::Display;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use cvm_init::error::{Error, Result};
use indicatif::{ProgressBar, ProgressStyle};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use tempfile::TempDir;

use crate::files;

/// How often a wait looks whether it is to end.
pub(super) const GLANCE: Duration = Duration::from_millis(100);

/// What the script that people type calls itself.
const NAME: &str = "scripts/bench";

/// Where all lies.
#[derive(Clone, Debug)]
pub struct Places {
    /// The checkout.
    pub tree: PathBuf,
    /// Where cargo builds, and where everything goes that can be made again.
    pub target: PathBuf,
}

impl Places {
    /// What is made for the benchmark.
    pub(super) fn out(&self) -> PathBuf {
        self.target.join("bench")
    }

    /// A part of the benchmark.
    pub(super) fn part(&self, name: &str) -> PathBuf {
        self.tree.join("scripts/bench.d").join(name)
    }

    /// What is in the folder of the guests' kernel.
    pub(super) fn kernel(&self, name: &str) -> PathBuf {
        self.target.join("kernel").join(name)
    }

    /// What is in the folder of a distribution's initramfs.
    pub(super) fn dracut(&self, name: &str) -> PathBuf {
        self.target.join("dracut").join(name)
    }

    /// The program that is measured.
    pub(super) fn program(&self) -> PathBuf {
        self.target.join("x86_64-unknown-linux-musl/release/cvm-init")
    }

    /// A script of the checkout.
    pub(super) fn script(&self, name: &str) -> Command {
        let mut command = Command::new(self.tree.join("scripts").join(name));
        command.env("CARGO_TARGET_DIR", &self.target);
        command
    }
}

/// What all that is made here is made with.
#[derive(Clone, Copy)]
pub(super) struct Site<'a> {
    pub(super) places: &'a Places,
    pub(super) runner: &'a Runner,
    /// A folder that is gone when the benchmark ends.
    pub(super) scratch: &'a Path,
}

/// Signals by which somebody ends the benchmark.
#[derive(Clone, Debug)]
pub struct Stop(Arc<AtomicUsize>);

impl Stop {
    /// Listens from now on: a program that runs is waited for, and what was made for this run alone is
    /// removed.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn listen() -> Result<Self> {
        let got = Arc::new(AtomicUsize::new(0));
        for signal in [SIGHUP, SIGINT, SIGTERM] {
            let number = usize::try_from(signal).unwrap_or_default();
            flag::register_usize(signal, Arc::clone(&got), number)
                .map_err(|cause| Error::cannot(&"wait for signals", &cause))?;
        }
        Ok(Self(got))
    }

    /// The signal that came, if one did.
    #[must_use]
    pub fn signal(&self) -> Option<u8> {
        u8::try_from(self.0.load(Ordering::Relaxed)).ok().filter(|&signal| signal != 0)
    }

    pub(super) fn check(&self) -> Result<()> {
        match self.signal() {
            Some(signal) => Err(Error::new(format!("told to stop, by signal {signal}"))),
            None => Ok(()),
        }
    }
}

/// Runs programs, and tells how far it has come: in lines and, on a terminal, by a bar below them.
pub(super) struct Runner {
    stop: Stop,
    start: Instant,
    bar: ProgressBar,
}

impl Runner {
    pub(super) fn new(stop: Stop) -> Self {
        Self { stop, start: Instant::now(), bar: ProgressBar::hidden() }
    }

    /// From now on there is a bar, of so many steps.
    pub(super) fn begin(&mut self, steps: usize) {
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len}, {eta} to go: {msg}");
        self.bar = ProgressBar::new(steps as u64)
            .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    }

    /// One of the steps begins.
    pub(super) fn step(&self, what: &dyn Display) {
        self.bar.set_message(what.to_string());
        self.note(&format_args!("{what} ..."));
    }

    /// It is done.
    pub(super) fn stepped(&self, what: &dyn Display) {
        self.bar.inc(1);
        self.note(&format_args!("{what}: {} s since the start", self.seconds()));
    }

    /// All of them are.
    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }

    /// Since the start.
    pub(super) fn seconds(&self) -> u64 {
        self.start.elapsed().as_secs()
    }

    /// Says something.
    pub(super) fn note(&self, message: &dyn Display) {
        self.say(&format!("{NAME}: {message}"));
    }

    /// Passes on what somebody else says.
    pub(super) fn say(&self, text: &str) {
        let text = text.trim_end();
        if !text.is_empty() {
            self.bar.suspend(|| eprintln!("{text}"));
        }
    }

    /// Ends it when somebody has asked for that.
    pub(super) fn check(&self) -> Result<()> {
        self.stop.check()
    }

    /// Runs a program, and returns what it writes. What it says is shown when it fails.
    pub(super) fn run(&self, doing: &dyn Display, command: &mut Command) -> Result<String> {
        let output = command.output().map_err(|cause| cannot_run(doing, command, &cause))?;
        self.judge(doing, command, &output)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The same, with what it writes in a file.
    pub(super) fn run_into(
        &self,
        file: &Path,
        doing: &dyn Display,
        command: &mut Command,
    ) -> Result<()> {
        let out = files::create(file)?;
        let child = command.stdin(Stdio::null()).stdout(out).stderr(Stdio::piped()).spawn();
        let output = child
            .and_then(Child::wait_with_output)
            .map_err(|cause| cannot_run(doing, command, &cause))?;
        self.judge(doing, command, &output)
    }

    /// Runs one that tells how far it has come itself.
    pub(super) fn pass(&self, doing: &dyn Display, command: &mut Command) -> Result<()> {
        let status = command.status().map_err(|cause| cannot_run(doing, command, &cause))?;
        self.judge(doing, command, &Output { status, stdout: Vec::new(), stderr: Vec::new() })
    }

    fn judge(&self, doing: &dyn Display, command: &Command, output: &Output) -> Result<()> {
        self.check()?;
        if output.status.success() {
            return Ok(());
        }
        let said = [&*output.stdout, &*output.stderr].concat();
        self.say(&String::from_utf8_lossy(&said));
        let program = Path::new(command.get_program());
        let name = program.file_name().unwrap_or_default().display();
        Err(Error::cannot(doing, &format_args!("{name} failed")))
    }

    /// Waits until this is the only one that works in `target`.
    pub(super) fn alone(&self, target: &Path) -> Result<File> {
        let file = target.join(".bench.lock");
        let lock = fs::create_dir_all(target)
            .and_then(|()| File::options().append(true).create(true).open(&file))
            .map_err(|cause| cannot("write", &file, &cause))?;
        let mut told = false;
        loop {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(lock),
                Err(Errno::WOULDBLOCK) => self.check()?,
                Err(cause) => return Err(cannot("lock", &file, &cause.into())),
            }
            if !told {
                let place = target.display();
                self.note(&format_args!(
                    "waiting for another {NAME} to end, which works in {place}"
                ));
                told = true;
            }
            sleep(GLANCE);
        }
    }
}

/// A folder in `dir` that is gone when this is dropped.
pub(super) fn scratch_in(dir: &Path) -> Result<TempDir> {
    fs::create_dir_all(dir)
        .and_then(|()| tempfile::Builder::new().prefix(".bench.").tempdir_in(dir))
        .map_err(|cause| cannot("write in", dir, &cause))
}

/// An error about a file.
pub(super) fn cannot(verb: &str, file: &Path, cause: &io::Error) -> Error {
    Error::cannot(&format_args!("{verb} {}", file.display()), cause)
}

fn cannot_run(doing: &dyn Display, command: &Command, cause: &io::Error) -> Error {
    let program = command.get_program().display();
    Error::cannot(doing, &format_args!("{program}: {cause}; scripts/setup installs what is needed"))
}
