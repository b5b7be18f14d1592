//! Rows of the fault matrix: what is asked for, and what must come of it.

use super::points::{Point, points, told};
use super::{host_folder, vm};
use crate::kit::disk::Disk;
use crate::kit::guest::{Ending, Guest};
use crate::kit::slots::SLOTS;
use crate::kit::vm::{State, Vm};
use std::collections::BTreeMap;
use std::iter;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// From power-on to the fatal line; the longest limit of an effect is 30 s.
const LIMIT: Duration = Duration::from_secs(180);
/// From the fatal line to the end of the machine.
const END: Duration = Duration::from_secs(10);

/// As in `src/fault.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Fail,
    Late,
    Panic,
    Stall,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Fail, Self::Late, Self::Panic, Self::Stall];

    fn name(self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::Late => "late",
            Self::Panic => "panic",
            Self::Stall => "stall",
        }
    }
}

/// A machine to boot.
pub(crate) struct Setup {
    pub(crate) name: &'static str,
    pub(crate) disk: fn() -> Disk,
    pub(crate) words: fn(&Disk) -> String,
    pub(crate) attach: fn(Vm, &Disk, &Path) -> Vm,
    /// What is done to the machine while it boots.
    pub(crate) then: fn(&mut Guest),
    /// Whether a disk that fails one look is looked at again: as each of layers in turn, or because
    /// another has come meanwhile.
    pub(crate) looks_again: bool,
}

impl Setup {
    /// Has a machine with words more, which nobody has used.
    fn machine<T>(&self, words: &str, run: impl FnOnce(Vm) -> T) -> T {
        let (disk, host) = ((self.disk)(), host_folder());
        let vm = vm(&(self.words)(&disk)).append(words);
        run((self.attach)(vm, &disk, host.path()))
    }

    /// What the console shows of a boot without a fault.
    pub(crate) fn good_boot(&self) -> String {
        self.machine("", |vm| {
            let mut guest = vm.boot();
            (self.then)(&mut guest);
            guest.hello();
            let serial = guest.serial();
            guest.power_off();
            println!("{}: {} effects", self.name, points(&serial).len());
            serial
        })
    }
}

/// What machines have become when PID 1 begins and asks for its fault, by setup and by what is to be done
/// when the boot fails. The kernel's own boot, of which nothing is asked, is half of each row's time.
#[derive(Default)]
struct Begun(Mutex<BTreeMap<(usize, &'static str), Once>>);

/// Made by the first who wants it.
type Once = Arc<OnceLock<State>>;

impl Begun {
    /// Kept until rows of later setups come: they take room.
    fn of(&self, setup: usize, action: &'static str) -> Once {
        let mut begun = self.0.lock().unwrap();
        begun.retain(|(other, _), _| *other + 1 >= setup);
        begun.entry((setup, action)).or_default().clone()
    }
}

/// One boot, and the fault that befalls it.
#[derive(Clone)]
pub(crate) struct Row {
    pub(crate) setup: usize,
    pub(crate) point: Point,
    pub(crate) kind: Kind,
    pub(crate) index: usize,
}

/// What `cvm.on_failure=` asks for, and how that ends; most rows keep the default.
const ACTIONS: &[(&str, Option<Ending>)] = &[
    ("poweroff", Some(Ending::PowerOff)),
    ("reboot", Some(Ending::Reset)),
    ("poweroff", Some(Ending::PowerOff)),
    ("halt", None),
    ("poweroff", Some(Ending::PowerOff)),
    // The platform has seen to it that a panic restarts the machine.
    ("panic", Some(Ending::Reset)),
    ("poweroff", Some(Ending::PowerOff)),
];

/// Effects before which there is no command line to ask, so that the default is taken.
const BEFORE_PROC: &[&str] = &[
    "make-node:/dev/kmsg",
    "open:/dev/kmsg",
    "make-keyring",
    "start-watchdog",
    "make-dir:/proc",
    "mount:proc",
];

/// What may be mounted when the machine stops: the initramfs and what the kernel fills.
const MOUNTS: &[&str] = &[
    "rootfs / rootfs",
    "none / rootfs",
    "proc /proc proc",
    "sysfs /sys sysfs",
    "devtmpfs /dev devtmpfs",
    "devpts /dev/pts devpts",
    "tmpfs /run tmpfs",
    "configfs /sys/kernel/config configfs",
];

impl Row {
    pub(crate) fn name(&self) -> String {
        format!("{}: {} {}", self.point.stage, self.kind.name(), self.point.name())
    }

    fn check(&self, setup: &Setup, begun: &Begun) {
        let default = BEFORE_PROC.contains(&self.point.id.as_str());
        let (action, ending) = &ACTIONS[if default { 0 } else { self.index % ACTIONS.len() }];
        let words = format!("CVM_FAULT=ask cvm.on_failure={action}");
        let state = begun.of(self.setup, action);
        let state =
            state.get_or_init(|| setup.machine(&words, |vm| vm.boot_to("fault build: ASK", LIMIT)));
        setup.machine(&words, |vm| {
            let guest = &mut vm.resume(state);
            guest.enter(&format!("{}:{}", self.kind.name(), self.point.name()));
            (setup.then)(guest);
            let fails = matches!(self.kind, Kind::Fail | Kind::Late);
            if fails && self.point.is_optional() {
                self.check_good_boot(guest);
            } else if fails && setup.looks_again && self.boots_all_the_same(guest) {
                Self::check_second_look(guest);
            } else {
                self.check_failed_boot(guest, ending.as_ref());
            }
        });
    }

    /// Whether a failure among the disks has come to nothing.
    fn boots_all_the_same(&self, guest: &Guest) -> bool {
        let boots = "cvm-init: handing over to ";
        self.point.stage == "disk" && guest.wait_serial_for(&["FATAL", boots], LIMIT) == boots
    }

    fn check_second_look(guest: &mut Guest) {
        guest.hello();
        let serial = guest.serial();
        assert_eq!(told(&serial).filter(|line| line.starts_with("INJECT")).count(), 1);
        guest.report();
        guest.power_off();
    }

    fn check_good_boot(&self, guest: &mut Guest) {
        guest.hello();
        let serial = guest.serial();
        assert_eq!(told(&serial).filter(|line| line.starts_with("INJECT")).count(), 1);
        let warning = format!("cannot {}: injected error (going on without)", self.point.doing);
        assert!(serial.contains(&warning), "no warning");
        guest.report();
        guest.power_off();
    }

    fn check_failed_boot(&self, guest: &mut Guest, ending: Option<&Ending>) {
        guest.wait_serial("FATAL", LIMIT);
        let start = Instant::now();
        match ending {
            Some(ending) => assert_eq!(&guest.wait_ending(END), ending),
            None => guest.wait_serial("reboot: System halted", END),
        }
        assert!(start.elapsed() < END, "it took {} ms", start.elapsed().as_millis());
        self.check_reason(&guest.fatal_line());
        let serial = guest.serial();
        let told: Vec<_> = told(&serial).collect();
        let injected = told.iter().position(|line| line.starts_with("INJECT"));
        let after = &told[injected.expect("the fault struck") + 1..];
        let further: Vec<_> = after.iter().filter(|line| line.starts_with("STAGE")).collect();
        // The boot goes on until it needs what was not loaded.
        assert!(self.point.is_beside() || further.is_empty(), "{further:?}");
        assert_eq!(after.iter().filter(|line| **line == "LOOKED").count(), 1, "{after:?}");
        let left: Vec<_> = after.iter().filter(|line| is_left(line)).collect();
        assert!(left.is_empty(), "{left:?}");
    }

    fn check_reason(&self, line: &str) {
        let cannot = format!("cannot {}: ", self.point.doing);
        let (names, cause) = match self.kind {
            Kind::Fail | Kind::Late => (cannot.as_str(), "injected error"),
            Kind::Panic => ("panicked at src/fault.rs:", "injected panic"),
            // What goes on beside it is told with it.
            Kind::Stall if self.point.is_load() => (&*self.point.doing, "no end within "),
            Kind::Stall => (cannot.as_str(), "no end within "),
        };
        // Which stage needs a module has nothing to do with when it is loaded.
        let stage = format!("{}: ", self.point.stage);
        assert!(self.point.is_beside() || line.starts_with(&stage), "{line}");
        assert!(line.contains(names) && line.contains(cause), "{line}");
    }
}

fn is_left(line: &str) -> bool {
    line.strip_prefix("LEFT ").is_some_and(|left| {
        let mount = left.strip_prefix("mount ").unwrap_or_default();
        !MOUNTS.iter().any(|known| mount.starts_with(known))
    })
}

/// What became of a row: nothing, or why it is not as it must be.
pub(crate) type Outcome = (Row, Option<String>);

/// Runs rows.
pub(crate) fn run(setups: &[Setup], rows: Vec<Row>) -> Vec<Outcome> {
    let begun = Begun::default();
    at_once(rows, |row| {
        let start = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| row.check(&setups[row.setup], &begun)));
        let fault = outcome.err().map(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            text.or_else(|| panic.downcast_ref::<&str>().map(|t| (*t).to_owned()))
                .unwrap_or_default()
        });
        let verdict = if fault.is_none() { "passed" } else { "FAILED" };
        let why = fault.as_deref().unwrap_or_default();
        println!("{verdict} {:>3} s  {} {why}", start.elapsed().as_secs(), row.name());
        (row, fault)
    })
}

/// Does the same with every item, with as many at once as there are slots for VMs; the results are in
/// the order of the items.
pub(crate) fn at_once<T: Send, R: Send>(items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let todo = Mutex::new(items.into_iter().enumerate());
    let next = || todo.lock().unwrap().next();
    let mut done = thread::scope(|scope| {
        let worker =
            || iter::from_fn(next).map(|(place, item)| (place, work(item))).collect::<Vec<_>>();
        let workers: Vec<_> = (0..SLOTS).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect::<Vec<_>>()
    });
    done.sort_by_key(|(place, _)| *place);
    done.into_iter().map(|(_, result)| result).collect()
}

/// The matrix as a table; fails when a row has.
pub(crate) fn print(outcomes: &[Outcome]) {
    let mut counts: BTreeMap<(usize, &str, Kind), (usize, usize)> = BTreeMap::new();
    let mut order: Vec<&str> = Vec::new();
    let mut sorted: Vec<_> = outcomes.iter().collect();
    sorted.sort_by_key(|(row, _)| row.index);
    for (row, fault) in &sorted {
        if !order.contains(&row.point.stage.as_str()) {
            order.push(&row.point.stage);
        }
        let place = order.iter().position(|stage| *stage == row.point.stage).unwrap_or_default();
        let (passed, failed) = counts.entry((place, &row.point.stage, row.kind)).or_default();
        *(if fault.is_none() { passed } else { failed }) += 1;
    }
    println!("\nstage      kind    points  passed  failed");
    for ((_, stage, kind), (passed, failed)) in &counts {
        let points = passed + failed;
        println!("{stage:<10} {:<6} {points:>7} {passed:>7} {failed:>7}", kind.name());
    }
    let failed: Vec<_> = sorted.iter().filter(|(_, fault)| fault.is_some()).collect();
    println!(
        "all        {:>14} {:>7} {:>7}",
        sorted.len(),
        sorted.len() - failed.len(),
        failed.len()
    );
    for (row, fault) in &failed {
        println!("FAILED {}: {}", row.name(), fault.as_deref().unwrap_or_default());
    }
    assert!(failed.is_empty(), "{} rows failed", failed.len());
}
