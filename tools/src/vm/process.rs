//! Programs of this host: where they are, and that none outlives who started it.

use std::env;
use std::ffi::OsStr;
use std::fmt::Display;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::thread::sleep;
use std::time::{Duration, Instant};

use cvm_init::error::{Error, Result};
use rustix::process::{Pid, Signal, kill_process};

/// Folders that a user without root may not have in `PATH`: mke2fs and sfdisk live there.
const SYSTEM: &str = "/usr/sbin:/sbin";

/// How often [`Running::ends_within`] looks.
const GLANCE: Duration = Duration::from_millis(20);

/// `PATH`, with the system's folders behind it.
fn path() -> String {
    env::var("PATH").unwrap_or_default() + ":" + SYSTEM
}

/// Where a program is, by its name or by its path.
pub fn find(program: impl AsRef<OsStr>) -> Option<PathBuf> {
    let program = Path::new(program.as_ref());
    let runs = |file: &PathBuf| {
        file.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    if program.components().count() > 1 {
        return Some(program.to_owned()).filter(runs);
    }
    env::split_paths(&path()).map(|dir| dir.join(program)).find(runs)
}

/// A program, to be run.
///
/// # Errors
/// It is not installed.
pub fn command(program: impl AsRef<OsStr>) -> Result<Command> {
    let program = program.as_ref();
    let found = find(program).ok_or_else(|| {
        Error::new(format!("cannot find {}: install it with scripts/setup", program.display()))
    })?;
    let mut command = Command::new(found);
    command.env("PATH", path());
    Ok(command)
}

/// The same, to be run by a thread with whose end it gets a signal of this name: a process that is killed
/// runs no destructor, and the kernel then sends it (setpriv(1), `--pdeathsig`).
///
/// # Errors
/// It, or setpriv, is not installed.
pub fn bound(signal: &str, program: impl AsRef<OsStr>) -> Result<Command> {
    let program = command(program)?;
    let mut bound = command("setpriv")?;
    bound.args(["--pdeathsig", signal]).arg(program.get_program());
    Ok(bound)
}

/// Runs a command quietly to its end.
///
/// # Errors
/// "cannot DO THIS: the last line that the command said".
pub fn attempt(doing: &dyn Display, command: &mut Command) -> Result<()> {
    let output = command.output().map_err(|cause| Error::cannot(doing, &cause))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    match said.lines().last() {
        Some(line) => Err(Error::cannot(doing, &line)),
        None => Err(Error::cannot(doing, &output.status)),
    }
}

/// A process that runs, and is killed when this is dropped.
#[derive(Debug)]
pub struct Running(Child);

impl Running {
    /// Starts it.
    ///
    /// # Errors
    /// The system's.
    pub fn start(command: &mut Command) -> Result<Self> {
        let program = command.get_program().display().to_string();
        let child = command.spawn();
        child.map(Self).map_err(|cause| Error::cannot(&format_args!("run {program}"), &cause))
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// The system's.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.0.try_wait()
    }

    /// Waits for its end, so long at most, and tells whether it has come.
    pub fn ends_within(&mut self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        while matches!(self.ended(), Ok(None)) {
            if Instant::now() > until {
                return false;
            }
            sleep(GLANCE);
        }
        true
    }

    /// Asks it to end, and waits so long at most until it has.
    pub fn stop(&mut self, limit: Duration) {
        if let Some(process) = Pid::from_raw(self.id().cast_signed()) {
            // What it cannot be sent to has ended.
            let _ = kill_process(process, Signal::TERM);
        }
        self.ends_within(limit);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Neither goes wrong but when it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::process::Stdio;

    #[test]
    fn what_fails_says_why_in_its_last_line() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo first; echo last >&2; exit 3"]);
        assert_eq!(attempt(&"try", &mut command).unwrap_err().to_string(), "cannot try: last");
        let silent = attempt(&"try", &mut Command::new("false")).unwrap_err();
        assert_eq!(silent.to_string(), "cannot try: exit status: 1");
        attempt(&"try", &mut Command::new("true")).unwrap();
    }

    #[test]
    fn a_program_is_found_by_name_and_by_path() {
        let sh = find("sh").unwrap();
        assert_eq!(find(&sh), Some(sh));
        // A folder, and a file that is no program.
        assert_eq!(find("/usr/bin"), None);
        assert_eq!(find("/proc/self/status"), None);
        let missing = command("no-such-tool").unwrap_err().to_string();
        assert_eq!(missing, "cannot find no-such-tool: install it with scripts/setup");
    }

    #[test]
    fn what_is_asked_to_end_has_time_to() {
        let mut shell = Command::new("sh");
        let mut shell = Running::start(
            shell
                .args(["-c", "trap 'exit 7' TERM; echo; read never"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped()),
        )
        .unwrap();
        assert!(!shell.ends_within(Duration::ZERO));
        // It has set its trap when it speaks.
        shell.0.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
        shell.stop(Duration::from_secs(60));
        assert_eq!(shell.ended().unwrap().unwrap().code(), Some(7));
    }

    #[test]
    fn what_runs_is_gone_when_it_is_dropped() {
        let running = Running::start(Command::new("sleep").arg("600")).unwrap();
        let process = PathBuf::from(format!("/proc/{}", running.id()));
        assert!(process.exists());
        drop(running);
        assert!(!process.exists());
    }
}
