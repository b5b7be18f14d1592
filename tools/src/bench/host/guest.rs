//! A measured guest: how it is booted and heard.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::thread::sleep;
use std::time::{Duration, Instant};

use cvm_init::error::{Error, Result};
use serde_json::{Map, Value, json};

use super::demo;
use super::program::{GLANCE, Site};
use crate::files;
use crate::vm::Arch;
use crate::vm::channel::Channel;
use crate::vm::command::Qemu;
use crate::vm::disk::Drive;
use crate::vm::monitor::Monitor;
use crate::vm::process::{self, Running};
use crate::vm::properties::Properties;

/// What all guests have in common; 2 GiB, because argon2 of luksFormat may take half of it. They are
/// emulated also where KVM works.
const MACHINE: [&str; 10] = [
    "-machine",
    "q35",
    "-accel",
    "tcg,thread=multi",
    "-cpu",
    Arch::X86.emulated(),
    "-smp",
    "2",
    "-m",
    "2G",
];

/// Of the kernel command line of each guest.
pub(super) const WORDS: &[&str] = &[
    // Messages of the kernel are kept, but not on the console: an emulated one takes its time.
    "console=ttyS0",
    "quiet",
    "panic=-1",
    // On a busy machine an emulated timer can be so late that the kernel takes it for broken.
    "no_timer_check",
    // Or, where it does not find emulated processors' clocks to differ, it patches code that they run,
    // which QEMU lets them run into.
    "tsc=unstable",
    // Each exec is stamped, by a clock that all processors share: guest/report.
    "trace_event=sched:sched_process_exec",
    "trace_clock=global",
    "init=/sbin/measure",
];

/// Statistics are of the disk of this name.
const DISK: &str = "disk0";

/// Mounts of a boot that went well: of the root, and of the volume where there is one.
const GOOD: &[&str] = &[
    "/ /dev/mapper/root_verity ext4 /cocos /dev/mapper/cocos_crypt ext4",
    "/ /dev/mapper/root ext4",
    "/ overlay overlay",
];

/// Until a process has ended that has said its last.
const SOON: Duration = Duration::from_millis(5);

/// The end of a console that a failure shows.
const TAIL: usize = 20;

/// What a guest is booted with.
pub(super) struct Booted {
    pub(super) loader: Loader,
    /// What the volume comes on.
    pub(super) disk: Disks,
    pub(super) report: Report,
}

/// What starts its kernel.
pub(super) enum Loader {
    /// QEMU, with this initramfs and these words.
    Kernel { initramfs: PathBuf, words: String },
    /// A firmware, from the disk; its variables are this machine's alone.
    Firmware { code: &'static Path, variables: PathBuf },
}

/// What it writes on its port.
#[derive(Clone, Copy)]
pub(super) enum Report {
    /// Lines of JSON, by `scripts/bench.d/guest/report`.
    Lines,
    /// An archive, by the demo's Debian.
    Demo,
}

impl Report {
    /// The name of the port.
    fn port(self) -> &'static str {
        match self {
            Self::Lines => "cvm.bench",
            Self::Demo => "cvm.report",
        }
    }
}

/// The disks of a guest.
pub(super) enum Disks {
    /// One with a partition table.
    Partitions(PathBuf),
    /// Those of the layers of an image, and one for what is written.
    Layers {
        /// The lowest first.
        layers: Vec<PathBuf>,
        /// For what is written.
        upper: PathBuf,
    },
}

/// What was seen of a guest when its port was opened, and when it was closed.
pub(super) type Moments = Map<String, Value>;

/// How guests are launched.
pub(super) struct Launcher<'a> {
    pub(super) site: Site<'a>,
    /// For one guest.
    pub(super) limit: Duration,
}

/// Machine and disks, as QEMU is told; where the guest's files are, and where it writes.
pub(super) fn arguments(booted: &Booted, kernel: &Path, serial: &Path, report: &Path) -> Qemu {
    let mut qemu = Qemu::default();
    qemu.words(MACHINE)
        .words(["-nodefaults", "-display", "none", "-no-reboot"])
        .device("virtio-serial-pci")
        // Without an id it makes no events.
        .device(format!("virtserialport,chardev=report,name={},id=port", booted.report.port()))
        .words(["-qmp", "stdio"]);
    match &booted.loader {
        Loader::Kernel { initramfs, words } => {
            qemu.option("-kernel", kernel).option("-initrd", initramfs).option("-append", words);
        }
        Loader::Firmware { code, variables } => {
            qemu.flash(code, variables);
        }
    }
    let raw = |file: &Path| Drive::file(file).format("raw");
    let on_virtio = |name: &str, serial: &str| {
        Properties::of("virtio-blk-pci").with("drive", name).with("serial", serial)
    };
    match &booted.disk {
        Disks::Partitions(disk) => {
            qemu.device("virtio-scsi-pci,id=scsi0,disable-legacy=on,iommu_platform=true")
                .device(format!("scsi-hd,bus=scsi0.0,drive={DISK}"))
                .drive(raw(disk).named(DISK));
        }
        Disks::Layers { layers, upper } => {
            for (number, layer) in layers.iter().enumerate() {
                let name = format!("layer{number}");
                qemu.drive(raw(layer).read_only().named(&name))
                    .device(on_virtio(&name, &format!("cocoon-{name}")));
            }
            qemu.drive(raw(upper).named(DISK)).device(on_virtio(DISK, "cocoon-cow"));
        }
    }
    let mut console = OsString::from("file:");
    console.push(serial);
    qemu.option("-serial", console).to_file("report", report);
    qemu
}

/// What the figures say of the machine.
pub(super) fn machine() -> String {
    MACHINE.join(" ")
}

impl Launcher<'_> {
    /// Boots a guest, waits for its end, and returns what it and QEMU said, with these facts.
    pub(super) fn run(&self, booted: &Booted, facts: Map<String, Value>) -> Result<Value> {
        let report = self.site.scratch.join("report");
        let outcome = self.boot(booted, &report).and_then(|disk| match booted.report {
            Report::Lines => whole(facts, disk, &fs::read_to_string(&report).unwrap_or_default()),
            Report::Demo => demo::whole(facts, disk, &fs::read(&report).unwrap_or_default()),
        });
        self.site.runner.check()?;
        outcome.inspect_err(|_| self.keep(&report))
    }

    fn serial(&self) -> PathBuf {
        self.site.places.out().join("serial.log")
    }

    /// Everything comes through QEMU's own protocol (QMP), as it happens.
    fn boot(&self, booted: &Booted, report: &Path) -> Result<Moments> {
        let log = self.site.scratch.join("log");
        let _ = fs::remove_file(report);
        let complaints = files::create(&log)?;
        let qemu = arguments(booted, &self.site.places.kernel("vmlinuz"), &self.serial(), report);
        let mut command = process::bound("KILL", Arch::X86.qemu())?;
        command.args(qemu.arguments()).stderr(complaints);
        let channel = Channel::to_child(&mut command)?;
        let start = Instant::now();
        let mut process = Running::start(&mut command)?;
        // QEMU alone has the other end.
        drop(command);
        let end = start + self.limit;
        let mut disk = Moments::new();
        // It may end at any time, and then its answers do too; how it ended says why.
        let _ = Monitor::open(channel)
            .and_then(|mut monitor| self.listen(&mut monitor, start, &mut disk));
        self.site.runner.check()?;
        let Some(status) = ended(&mut process, end)? else {
            let limit = self.limit.as_secs();
            let why = format!("the guest did not report within {limit} seconds (see --timeout)");
            return Err(Error::new(why));
        };
        match status {
            status if !status.success() => {
                self.site.runner.say(&fs::read_to_string(log).unwrap_or_default());
                Err(Error::cannot(&"run the guest", &format_args!("QEMU ended with {status}")))
            }
            _ if disk.contains_key("closed") => Ok(disk),
            _ => Err(Error::new("the guest stopped without a report")),
        }
    }

    /// Takes QEMU's statistics when the new init opens the port to report on, and when it closes it, all
    /// caches written out.
    fn listen(&self, monitor: &mut Monitor, start: Instant, disk: &mut Moments) -> Result<()> {
        while start.elapsed() < self.limit {
            self.site.runner.check()?;
            let Some(event) = monitor.event(GLANCE)? else { continue };
            if event.name != "VSERPORT_CHANGE" {
                continue;
            }
            let at = start.elapsed();
            let is_open = event.data.get("open") == Some(&Value::Bool(true));
            let all = monitor.execute("query-blockstats", &json!({}))?;
            let moment = if is_open { "open" } else { "closed" };
            disk.insert(moment.to_owned(), statistics(&all, at).unwrap_or_default());
            if !is_open {
                monitor.tell("quit", &json!({}))?;
                return Ok(());
            }
        }
        Ok(())
    }

    /// Shows how far the guest came, and keeps what it said.
    fn keep(&self, report: &Path) {
        let serial = self.serial();
        let place = serial.display();
        self.site.runner.note(&format_args!("the end of its console, which is in {place}:"));
        let console = fs::read(&serial).unwrap_or_default();
        let console = String::from_utf8_lossy(&console);
        let lines: Vec<_> = console.lines().collect();
        self.site.runner.say(&lines.split_at(lines.len().saturating_sub(TAIL)).1.join("\n"));
        if fs::metadata(report).is_ok_and(|report| report.len() > 0) {
            let _ = fs::copy(report, self.site.places.out().join("report"));
        }
    }
}

/// What was written to the disk with the volume until so long after the start of QEMU.
fn statistics(all: &Value, at: Duration) -> Option<Value> {
    let of_disk = all.as_array()?.iter().find(|each| each.get("device") == Some(&DISK.into()))?;
    let count = |name: &str| of_disk.get("stats")?.get(name);
    Some(json!({
        "at_us": u64::try_from(at.as_micros()).ok()?,
        "bytes": count("wr_bytes")?,
        "requests": count("wr_operations")?,
        "flushes": count("flush_operations")?,
    }))
}

/// How a process that has nothing more to say ended, if it did in time.
fn ended(process: &mut Running, end: Instant) -> Result<Option<ExitStatus>> {
    while Instant::now() < end {
        let status = process.ended().map_err(|cause| Error::cannot(&"wait for QEMU", &cause))?;
        if status.is_some() {
            return Ok(status);
        }
        sleep(SOON);
    }
    Ok(None)
}

/// What is kept of a boot, when it was a good one: `report` is objects of JSON, some of many lines.
fn whole(facts: Map<String, Value>, disk: Moments, report: &str) -> Result<Value> {
    let mut run = facts;
    run.insert("disk".to_owned(), disk.into());
    for said in serde_json::Deserializer::from_str(report).into_iter::<Map<_, _>>() {
        run.extend(said.map_err(|cause| Error::cannot(&"use what the guest reported", &cause))?);
    }
    if run.get("whole") != Some(&Value::Bool(true)) {
        return Err(Error::new("the guest could not do its job"));
    }
    let mounts = run.get("mounts").unwrap_or(&Value::Null);
    if !mounts.as_str().is_some_and(|mounts| GOOD.contains(&mounts)) {
        return Err(Error::new(format!("not a good boot, it mounted {mounts}")));
    }
    match run.get("disk_errors").and_then(Value::as_i64).unwrap_or_default() {
        0 => Ok(run.into()),
        errors => Err(Error::new(format!("the kernel of the guest saw {errors} errors of /cocos"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(disk: Disks) -> Vec<String> {
        let loader = Loader::Kernel { initramfs: "i".into(), words: "a b".to_owned() };
        let booted = Booted { loader, disk, report: Report::Lines };
        let qemu = arguments(&booted, Path::new("k"), Path::new("s"), Path::new("r"));
        qemu.arguments().iter().map(|word| word.to_str().unwrap().to_owned()).collect()
    }

    const BEGINNING: &str = "-machine q35 -accel tcg,thread=multi -cpu max,-cx16 -smp 2 -m 2G \
        -nodefaults -display none -no-reboot -device virtio-serial-pci \
        -device virtserialport,chardev=report,name=cvm.bench,id=port -qmp stdio -kernel k -initrd i -append";
    const END: &str = "-serial file:s -chardev file,id=report,path=r";

    #[test]
    fn figures_are_of_one_machine() {
        let one = told(Disks::Partitions("d".into())).join(" ");
        assert_eq!(
            one,
            format!(
                "{BEGINNING} a b -device virtio-scsi-pci,id=scsi0,disable-legacy=on,iommu_platform=true \
                 -device scsi-hd,bus=scsi0.0,drive=disk0 -drive file=d,format=raw,if=none,id=disk0 {END}"
            )
        );
        let two = told(Disks::Layers { layers: vec!["l".into()], upper: "u".into() }).join(" ");
        assert_eq!(
            two,
            format!(
                "{BEGINNING} a b -drive file=l,format=raw,readonly=on,if=none,id=layer0 \
                 -device virtio-blk-pci,drive=layer0,serial=cocoon-layer0 \
                 -drive file=u,format=raw,if=none,id=disk0 \
                 -device virtio-blk-pci,drive=disk0,serial=cocoon-cow {END}"
            )
        );
    }

    fn judged(report: &str) -> Result<Value> {
        whole(Map::new(), Moments::new(), report)
    }

    #[test]
    fn a_boot_that_was_not_good_is_none_to_count() {
        let good = format!("{{\"mounts\": \"{}\"}}\n", GOOD[0]);
        // fio writes many lines.
        let fio = "{\"fio\": {\n  \"jobs\" : []\n}\n, \"disk_errors\": 0}\n";
        let run = judged(&format!("{good}{fio}{{\"whole\": true}}\n")).unwrap();
        assert_eq!((&run["mounts"], &run["disk"]), (&json!(GOOD[0]), &json!({})));
        assert_eq!(run["fio"], json!({ "jobs": [] }));
        for (report, why) in [
            (good.clone(), "the guest could not do its job"),
            (format!("{good}{{\"whole\""), "cannot use what the guest reported: "),
            (format!("{good}{{\"whole\": true, \"disk_errors\": 2}}"), "saw 2 errors of /cocos"),
            ("{\"whole\": true, \"mounts\": \"/ a b\"}".to_owned(), "it mounted \"/ a b\""),
        ] {
            let said = judged(&report).unwrap_err().to_string();
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn statistics_are_those_of_the_disk_with_the_volume() {
        let stats =
            json!({ "wr_bytes": 1, "wr_operations": 2, "flush_operations": 3, "rd_bytes": 4 });
        let all = json!([{ "device": "layer0" }, { "device": "disk0", "stats": stats }]);
        let expected = json!({ "at_us": 4_000, "bytes": 1, "requests": 2, "flushes": 3 });
        let at = Duration::from_millis(4);
        assert_eq!(statistics(&all, at), Some(expected));
        assert_eq!(statistics(&json!([]), at), None);
    }
}
