//! The boot, from the first instruction of PID 1 to the new root's init.

use std::convert::Infallible;
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use crate::config::{Config, DEFAULT_TIMEOUT};
use crate::effect::{self, Effect, effect};
use crate::error::Result;
use crate::kernel;
use crate::kernel::key;
use crate::kernel::kmsg;
use crate::kernel::power::{self, Action};
use crate::report::{Report, Stage};
use crate::stage::root::Opened;
use crate::stage::{
    data, disk, handoff, kexec, measure, modules, platform, root, runtime, teardown, volume,
};

const MAKE_KEYRING: Effect<0> = Effect::new("make-keyring", "make the keyring");
const START_WATCHDOG: Effect<0> = Effect::new("start-watchdog", "start the watchdog");

/// How long taking things down may last: a host that stalls the disk must not keep the machine on.
const TEARDOWN_LIMIT: Duration = Duration::from_secs(5);

/// How long ending a boot may last: the teardown, and the kernel's own way to the end.
const END_LIMIT: Duration = Duration::from_secs(9);

/// The stage that is running, for the fatal line.
static STAGE: Mutex<Stage> = Mutex::new(Stage::Config);

/// What the command line asks for when the boot fails; kept, because its file moves with /proc.
static ON_FAILURE: OnceLock<Action> = OnceLock::new();

/// Boots, or stops the machine.
pub fn start() -> ! {
    #[cfg(feature = "fault")]
    crate::fault::install();
    // A panic ends like any other failure. The key that it may leave behind goes in the teardown.
    panic::set_hook(Box::new(|info| fail(&info.to_string())));
    match run() {
        Ok(never) => match never {},
        Err(error) => fail(&error.to_string()),
    }
}

/// The boot: each line uses what the ones before it made.
fn run() -> Result<Infallible> {
    let start = Instant::now();
    let mut report = Report::default();
    let config = stage(&mut report, Stage::Config, |_| {
        kmsg::open()?;
        start_watchdog()?;
        let lines = platform::command_line()?;
        let _ = ON_FAILURE.set(Config::on_failure(&lines));
        Config::from_lines(&lines)
    })?;
    kmsg::set_level(config.log);
    effect::set_limit(config.timeout);
    let register = stage(&mut report, Stage::Platform, |_| {
        platform::prepare(&config)?;
        measure::find(config.measure)
    })?;
    let disks = stage(&mut report, Stage::Disk, |report| disk::find(&config, report))?;
    let root = stage(&mut report, Stage::Root, |report| root::open(&config, &disks.root, report))?;
    // Before another kernel of the root there is no key, and nothing is written.
    if let Opened::ForInit(root) = &root {
        stage(&mut report, Stage::Data, |report| data::open(&disks.data, report))?;
        stage(&mut report, Stage::Volume, |report| match &disks.volume {
            Some(place) => volume::provision(&config, place, root.place_of_volume(), report),
            None => Ok(()),
        })?;
        stage(&mut report, Stage::Runtime, |report| runtime::prepare(&config, root, report))?;
    }
    stage(&mut report, Stage::Measure, |report| {
        measure::record(&config, disks.root.params(), register, report)
    })?;
    enter(Stage::Handoff);
    modules::need(Stage::Handoff)?;
    let root = match root {
        Opened::ForInit(root) => root,
        Opened::ForKernel { next, words } => return kexec::hand_over(next, &words),
    };
    root::guard(&disks.root, config.on_corruption)?;
    data::guard(&disks.data, config.on_corruption)?;
    handoff::switch_root(&root.init, config.credentials, start, report)
}

/// Runs one stage when the kernel modules are loaded that it needs, and notes its time.
fn stage<T>(
    report: &mut Report,
    stage: Stage,
    run: impl FnOnce(&mut Report) -> Result<T>,
) -> Result<T> {
    enter(stage);
    let start = Instant::now();
    modules::need(stage)?;
    let outcome = run(report)?;
    report.stage(stage, start.elapsed());
    Ok(outcome)
}

/// From here on the fatal line names this stage.
fn enter(stage: Stage) {
    *current_stage() = stage;
    log::debug!("{stage}");
    #[cfg(feature = "fault")]
    crate::fault::tell(&format_args!("STAGE {stage}"));
}

/// From here on an effect that does not return ends the boot: a thread that waits for a disk does
/// so in the kernel, where nothing reaches it.
fn start_watchdog() -> Result<()> {
    effect::set_limit(DEFAULT_TIMEOUT);
    // Before there is a second thread, so that whichever takes the key away finds it.
    effect(MAKE_KEYRING, key::make_keyring)?;
    effect(START_WATCHDOG, || {
        kernel::thread::builder().spawn(|| fail(&effect::overdue().to_string())).map(drop)
    })
}

/// Ends a boot that failed: one line of reason, everything taken down, the machine stopped.
fn fail(reason: &str) -> ! {
    static FAILING: OnceLock<ThreadId> = OnceLock::new();
    let me = thread::current().id();
    if FAILING.set(me).is_err() {
        if FAILING.get() == Some(&me) {
            // This very function has panicked.
            power::stop(Action::default());
        }
        // Another thread is ending the boot, and has a time limit to do so.
        loop {
            thread::park();
        }
    }
    // Without /proc there is no command line to ask; powering off is the answer then.
    let action = *ON_FAILURE.get_or_init(|| {
        // What it asks for may be a panic.
        platform::restart_at_panic();
        Config::on_failure(&platform::lines_as_far_as_there())
    });
    power::stop_at_latest(action, END_LIMIT);
    kmsg::fatal(&format!("{}: {reason}", *current_stage()));
    take_down(Instant::now() + TEARDOWN_LIMIT);
    #[cfg(feature = "fault")]
    crate::stage::leftovers::tell();
    power::stop(action)
}

/// Takes everything down, or as much as can be until `deadline`.
fn take_down(deadline: Instant) {
    static DONE: AtomicBool = AtomicBool::new(false);
    let waiting = thread::current();
    let worker = kernel::thread::builder().spawn(move || {
        // The log has what is left.
        let _ = teardown::run();
        DONE.store(true, Ordering::Release);
        waiting.unpark();
    });
    while worker.is_ok() && !DONE.load(Ordering::Acquire) {
        let Some(left) = deadline.checked_duration_since(Instant::now()) else {
            return;
        };
        thread::park_timeout(left);
    }
}

fn current_stage() -> MutexGuard<'static, Stage> {
    STAGE.lock().unwrap_or_else(PoisonError::into_inner)
}
