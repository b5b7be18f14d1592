//! The boot, from the first instruction of PID 1 to the new root's init.

use std::any::Any;
use std::convert::Infallible;
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::error::Result;
use crate::kmsg;
use crate::power;
use crate::report::{Report, Stage};
use crate::stage::{disk, handoff, platform, root, runtime, teardown, volume};

/// How long taking things down may last: a host that stalls the disk must not keep the machine on.
const TEARDOWN_LIMIT: Duration = Duration::from_secs(5);

/// The stage that is running, for the fatal line.
static STAGE: Mutex<Stage> = Mutex::new(Stage::Platform);

/// Where a panic was, for the fatal line.
static PANIC: Mutex<String> = Mutex::new(String::new());

/// Boots, or stops the machine.
pub fn start() -> ! {
    panic::set_hook(Box::new(|info| *lock(&PANIC) = info.to_string()));
    let reason = match panic::catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(never)) => match never {},
        Ok(Err(error)) => error.to_string(),
        Err(payload) => panicked(payload),
    };
    fail(&reason)
}

/// The boot: each line uses what the ones before it made.
fn run() -> Result<Infallible> {
    let mut report = Report::begin();
    let cmdline = stage(&mut report, Stage::Platform, |_| platform::prepare())?;
    let config = stage(&mut report, Stage::Config, |_| Config::from_cmdline(&cmdline))?;
    kmsg::set_level(config.log);
    let disk = stage(&mut report, Stage::Disk, |report| disk::find(&config, report))?;
    stage(&mut report, Stage::Root, |report| root::open(&config, &disk, report))?;
    stage(&mut report, Stage::Volume, |report| volume::provision(&config, &disk, report))?;
    stage(&mut report, Stage::Runtime, runtime::furnish)?;
    stage(&mut report, Stage::Handoff, |report| handoff::switch_root(&config.init, report))
}

/// Runs one stage, which the fatal line names should it be the last, and notes its time.
fn stage<T>(
    report: &mut Report,
    stage: Stage,
    run: impl FnOnce(&mut Report) -> Result<T>,
) -> Result<T> {
    *lock(&STAGE) = stage;
    log::debug!("{stage}");
    let start = Instant::now();
    let outcome = run(report)?;
    report.stage(stage, start.elapsed());
    Ok(outcome)
}

/// Ends a boot that failed: one line of reason, everything taken down, the machine stopped.
fn fail(reason: &str) -> ! {
    kmsg::fatal(&format!("{}: {reason}", *lock(&STAGE)));
    // Without /proc there is no command line to ask; powering off is the answer then.
    let cmdline = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let (done, wait) = mpsc::channel();
    let spawned = thread::Builder::new().spawn(move || {
        teardown::run();
        // The receiver is there until the machine stops.
        let _ = done.send(());
    });
    if spawned.is_ok() {
        // Done or late: the machine stops either way.
        let _ = wait.recv_timeout(TEARDOWN_LIMIT);
    }
    power::stop(Config::on_failure(&cmdline))
}

/// The hook has noted message and place of the panic; its payload says nothing more.
fn panicked(payload: Box<dyn Any + Send>) -> String {
    drop(payload);
    lock(&PANIC).clone()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
