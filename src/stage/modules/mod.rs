//! Kernel modules, which are most of what a boot takes. They are loaded on all processors while the boot
//! goes on: each stage waits for those alone that it needs. What each needs, and the stage that it is
//! for, stands in a list that the image build packs beside them; drivers are loaded where their
//! devices are.

mod schedule;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::thread::sched_getaffinity;

use self::schedule::{LAST, Schedule};
use crate::config::Config;
use crate::effect::{self, Effect, effect};
use crate::error::{Error, Result};
use crate::format::modules;
use crate::kernel::{file, modalias, module, thread};
use crate::report::Stage;

const READ: Effect<1> = Effect::new("read", "read {}");
const LIST: Effect<1> = Effect::new("list", "list {}");
const LOAD: Effect<1> = Effect::new("load", "load {}");
const LIST_DEVICES: Effect<1> = Effect::new("list-devices", "list the devices on the bus {}");

/// What the initramfs brings.
pub const FOLDER: &str = "/modules";

/// What each of them needs ([`crate::format::modules`]).
const THE_LIST: &str = "/modules.list";

static LOADER: OnceLock<Loader> = OnceLock::new();

/// Who loads them.
struct Loader {
    schedule: Mutex<Schedule>,
    /// What is to be loaded, or is loaded, has changed.
    changed: Condvar,
    /// How many wait for that: telling nobody takes a system call, too.
    waiting: AtomicUsize,
    /// How many were loaded when the log was last told.
    told: AtomicUsize,
    /// Words of the kernel command line for modules.
    parameters: Vec<(String, String)>,
}

/// Begins to load what this boot wants.
///
/// # Errors
/// When what there is to load cannot be read.
pub fn begin(config: &Config) -> Result<()> {
    let list = effect(READ.on(&[&THE_LIST]), || match file::text(THE_LIST) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        list => list.map(Some),
    })?;
    let schedule = match list {
        Some(list) => modules::parse(&list)
            .and_then(|list| Schedule::of_list(&list, config.cipher.name))
            .map_err(|error| Error::cannot(&format_args!("use {THE_LIST}"), &error))?,
        None => {
            Schedule::of_names(effect(LIST.on(&[&FOLDER]), || module::list(Path::new(FOLDER)))?)
        }
    };
    let loader = LOADER.get_or_init(|| Loader {
        schedule: Mutex::new(schedule),
        changed: Condvar::new(),
        waiting: AtomicUsize::new(0),
        told: AtomicUsize::new(0),
        parameters: config.module_parameters.clone(),
    });
    look_for_devices()?;
    // The boot itself loads what it waits for, so one processor has two at a time: a driver that waits
    // for its device is no reason to wait with the rest.
    let processors = sched_getaffinity(None).map_or(1, |set| set.count() as usize);
    for _ in 1..processors.max(2) {
        // Without this thread the others do its part.
        let _ = thread::builder().spawn(|| loader.work());
    }
    Ok(())
}

/// Waits until all is loaded that the stages up to this one need.
///
/// # Errors
/// When one of these cannot be loaded.
pub fn need(stage: Stage) -> Result<()> {
    let Some(loader) = LOADER.get() else { return Ok(()) };
    let mut schedule = loader.schedule();
    while !schedule.has_all(stage)? {
        // Rather one for a later stage than none.
        schedule = match schedule.next(stage).or_else(|| schedule.next(LAST)) {
            Some((place, file)) => {
                drop(schedule);
                loader.load(place, &file);
                loader.schedule()
            }
            None => loader.wait(schedule),
        };
    }
    let count = schedule.loaded();
    if [Stage::Disk, LAST].contains(&stage) && loader.told.swap(count, Ordering::Relaxed) != count {
        log::info!("{count} kernel modules");
    }
    Ok(())
}

/// Wants the drivers of devices that are there by now.
///
/// # Errors
/// When sysfs cannot be read.
pub fn look_for_devices() -> Result<()> {
    LOADER.get().map_or(Ok(()), |loader| loader.look_for_devices(None))
}

impl Loader {
    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of the schedule until it has changed.
    fn wait<'a>(&self, schedule: MutexGuard<'a, Schedule>) -> MutexGuard<'a, Schedule> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let schedule = self.changed.wait(schedule).unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        effect::waited();
        schedule
    }

    /// Changes the schedule, and has those that wait look at it again. Who begins to wait holds it.
    fn change(&self, change: impl FnOnce(&mut Schedule)) {
        let mut schedule = self.schedule();
        change(&mut schedule);
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.changed.notify_all();
        }
    }

    /// Loads until there is nothing left that can come to be loaded without a new device.
    fn work(&self) {
        let mut schedule = self.schedule();
        loop {
            schedule = match schedule.next(LAST) {
                Some((place, file)) => {
                    drop(schedule);
                    self.load(place, &file);
                    self.schedule()
                }
                None if schedule.is_loading() => self.wait(schedule),
                None => return,
            };
        }
    }

    /// Loads the one at `place`, and looks for devices that it has brought. That it failed is told to
    /// the stage that needs it.
    fn load(&self, place: usize, file: &str) {
        let path = Path::new(FOLDER).join(file);
        let outcome = effect(LOAD.on(&[&path.display()]), || module::load(&path, &self.parameters))
            .inspect(|loaded| log::debug!("{file}: {loaded:?}"))
            .and_then(|_| self.look_for_devices(Some(place)));
        self.change(|schedule| schedule.ended(place, outcome));
    }

    fn look_for_devices(&self, place: Option<usize>) -> Result<()> {
        // A statement of its own, which lets go of the schedule.
        let buses = self.schedule().buses(place);
        for bus in buses {
            let devices = effect(LIST_DEVICES.on(&[&bus]), || modalias::on_bus(&bus))?;
            self.change(|schedule| schedule.appeared(&devices));
        }
        Ok(())
    }
}
