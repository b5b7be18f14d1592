//! A VM before it boots: its disks, shares and kernel command line.

use crate::kit::artefacts::{self, DEFAULT_CIPHER};
use crate::kit::disk::Disk;
use crate::kit::guest::{Console, Guest};
use crate::kit::kernel::{Arch, Kernel, words};
use crate::kit::served::Served;
use crate::kit::slots::Slots;
use crate::kit::tool::Scratch;
use crate::kit::tpm::Tpm;
use cvm_tools::vm::command::{self, Accelerator, Machine, Qemu, Share};
pub(crate) use cvm_tools::vm::disk::Bus;
use cvm_tools::vm::disk::Drive;
use cvm_tools::vm::kvm_works;
use cvm_tools::vm::properties::Properties;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The processor of each machine that no test gives another.
pub(crate) const PROCESSOR: &str = Arch::X86.emulated();

/// A disk, and how it is attached.
struct Attached {
    bus: Bus,
    /// Counted from the first disk of the machine, which is 0.
    number: usize,
    drive: Drive,
    in_cd_drive: bool,
    /// Whether the device is there from the beginning; the drive is.
    plugged_in: bool,
    /// Of the device, in place of its own.
    properties: Vec<String>,
}

impl Attached {
    fn add_to(&self, qemu: &mut Qemu) {
        let Self { bus, number, .. } = *self;
        // That of virtio-scsi is there in any case.
        if let Some(controller) = bus.controller().filter(|_| bus == Bus::Usb) {
            qemu.device(controller);
        }
        qemu.drive(self.drive.clone());
        let device = if self.in_cd_drive { bus.cd_drive(number) } else { bus.device(number) };
        let name = drive_name(number);
        let device =
            device.with("drive", &name).with("serial", &name).with("id", device_id(number));
        if self.plugged_in {
            qemu.device(self.properties.iter().fold(device, |device, more| device.and(more)));
        }
    }
}

/// Something of a machine: the order of all decides which place each has.
enum Part {
    Disk(Attached),
    Other(Qemu),
}

/// ```
/// let disk = Disk::builder().build();
/// let mut guest = Vm::of(&disk).append("cvm.log=debug").boot();
/// assert_eq!(guest.hello()["pid"], 1);
/// ```
pub(crate) struct Vm {
    kernel: Kernel,
    initramfs: PathBuf,
    append: String,
    firmware: Option<Qemu>,
    /// Whether the firmware starts a disk, in place of kernel and initramfs.
    starts_disk: bool,
    memory: String,
    /// QEMU's model and features.
    processor: String,
    processors: u32,
    parts: Vec<Part>,
    disks: usize,
    shares: usize,
    console: Console,
    tpm: Option<Tpm>,
    slots: fn() -> Slots,
}

/// The state of a machine at some moment of its boot, without what is on its disks.
pub(crate) struct State {
    folder: Scratch,
}

impl State {
    fn file(&self) -> PathBuf {
        self.folder.join("state")
    }
}

impl Vm {
    /// No disk, and no other words on the command line than [`words`].
    pub(crate) fn new() -> Self {
        Self {
            kernel: Kernel::RUNNING,
            initramfs: PathBuf::new(),
            append: String::new(),
            firmware: None,
            starts_disk: false,
            memory: "1G".to_owned(),
            processor: PROCESSOR.to_owned(),
            processors: 2,
            parts: Vec::new(),
            disks: 0,
            shares: 0,
            console: Console::Shown,
            tpm: None,
            slots: Slots::one,
        }
    }

    /// A VM that boots this disk.
    pub(crate) fn of(disk: &Disk) -> Self {
        Self::new().disk(disk).words_of(disk)
    }

    /// What the command line says of this disk's root.
    pub(crate) fn words_of(self, disk: &Disk) -> Self {
        self.append(&format!("roothash={}", disk.roothash)).append(&disk.place_of_tree)
    }

    pub(crate) fn kernel(mut self, kernel: Kernel) -> Self {
        self.kernel = kernel;
        self
    }

    pub(crate) fn initramfs(mut self, archive: PathBuf) -> Self {
        self.initramfs = archive;
        self
    }

    /// A firmware with its variables, which it may write. What it starts is on the disk: kernel,
    /// initramfs and command line of this VM are not used.
    pub(crate) fn firmware(self, code: &Path, variables: &Path) -> Self {
        Self { starts_disk: true, ..self.firmware_below(code, variables) }
    }

    /// The same, where it starts this VM's kernel with its initramfs and command line.
    pub(crate) fn firmware_below(mut self, code: &Path, variables: &Path) -> Self {
        let mut firmware = Qemu::default();
        // Then the flash is written in system management mode only, not by the guest's kernel. A firmware
        // without that mode would keep its variables in a file on the disk.
        if code.to_string_lossy().contains(".secboot.") {
            firmware.option("-global", "driver=cfi.pflash01,property=secure,value=on");
        }
        firmware.flash(code, variables);
        self.firmware = Some(firmware);
        self
    }

    /// Words more for the kernel command line, if any.
    pub(crate) fn append(mut self, words: &str) -> Self {
        if words.is_empty() {
            return self;
        }
        self.append.push(' ');
        self.append.push_str(words);
        self
    }

    /// Main memory, as QEMU spells it: `512M`.
    pub(crate) fn memory(mut self, size: &str) -> Self {
        size.clone_into(&mut self.memory);
        self
    }

    /// The processor's model, and what it has or lacks of it, as QEMU spells them: `max,-aes`.
    pub(crate) fn processor(mut self, model: &str) -> Self {
        model.clone_into(&mut self.processor);
        self
    }

    pub(crate) fn processors(mut self, count: u32) -> Self {
        self.processors = count;
        self
    }

    /// A disk on virtio-scsi.
    pub(crate) fn disk(self, disk: &Disk) -> Self {
        self.disk_on(Bus::VirtioScsi, disk.path())
    }

    /// A disk on virtio-scsi that answers as long as no more bytes than these are read and written,
    /// and then no longer: the next request takes a second a byte.
    pub(crate) fn disk_that_stalls(self, disk: &Disk, read: u64, written: u64) -> Self {
        [("read", read), ("write", written)].iter().fold(self.disk(disk), |vm, (way, bytes)| {
            vm.drive_with(&format!("throttling.bps-{way}=1,throttling.bps-{way}-max={bytes}"))
        })
    }

    /// A disk on virtio-scsi whose device has these properties of QEMU's in place of its own.
    pub(crate) fn disk_with(self, disk: &Disk, properties: &str) -> Self {
        self.disk(disk).with(properties)
    }

    /// Gives the device of the disk that was attached last these properties of QEMU's in place of its
    /// own.
    pub(crate) fn with(mut self, properties: &str) -> Self {
        self.last_disk().properties.push(properties.to_owned());
        self
    }

    /// The same of its drive.
    fn drive_with(mut self, properties: &str) -> Self {
        let last = self.last_disk();
        last.drive = last.drive.clone().and(properties);
        self
    }

    fn last_disk(&mut self) -> &mut Attached {
        let disk = self.parts.iter_mut().rev().find_map(|part| match part {
            Part::Disk(disk) => Some(disk),
            Part::Other(_) => None,
        });
        disk.expect("a disk is attached")
    }

    /// Puts the disk that was attached last, on AHCI or virtio-scsi, into a drive of CDs.
    pub(crate) fn in_cd_drive(mut self) -> Self {
        self.last_disk().in_cd_drive = true;
        self.read_only()
    }

    /// Has the guest not write to the disk that was attached last. Several VMs can have it at once.
    pub(crate) fn read_only(mut self) -> Self {
        let last = self.last_disk();
        last.drive = last.drive.clone().read_only();
        self
    }

    /// Lets the disk that was attached last come later, by `Guest::plug_in`.
    pub(crate) fn not_plugged_in(mut self) -> Self {
        self.last_disk().plugged_in = false;
        self
    }

    /// A disk on virtio-scsi from a qcow2 file.
    pub(crate) fn disk_of_qcow2(self, path: &Path) -> Self {
        self.drive(Bus::VirtioScsi, Drive::file(path).format("qcow2").and("cache=unsafe"))
    }

    /// A disk that the VM gets later, by `Guest::plug_in`.
    pub(crate) fn disk_not_plugged_in(self, disk: &Disk) -> Self {
        self.disk(disk).not_plugged_in()
    }

    /// A disk on virtio-scsi that `served` answers for.
    pub(crate) fn disk_served(self, served: &Served) -> Self {
        self.drive(Bus::VirtioScsi, Drive::served(served.socket()).format("raw"))
    }

    /// A disk from any raw file. The first has the serial number `disk0`, the second `disk1`; QEMU
    /// knows them by the same names.
    pub(crate) fn disk_on(self, bus: Bus, path: &Path) -> Self {
        // What is on the disk lives for one test, so no write need reach the host's.
        self.drive(bus, Drive::file(path).format("raw").and("cache=unsafe,discard=unmap"))
    }

    fn drive(mut self, bus: Bus, drive: Drive) -> Self {
        self.parts.push(Part::Disk(Attached {
            bus,
            number: self.disks,
            drive: drive.named(&drive_name(self.disks)),
            in_cd_drive: false,
            plugged_in: true,
            properties: Vec::new(),
        }));
        self.disks += 1;
        self
    }

    /// Something more of the machine.
    fn and(mut self, add: impl FnOnce(&mut Qemu) -> &mut Qemu) -> Self {
        let mut part = Qemu::default();
        add(&mut part);
        self.parts.push(Part::Other(part));
        self
    }

    /// A read-only 9P share of a folder of the host.
    pub(crate) fn share(mut self, tag: &str, folder: &Path) -> Self {
        let id = format!("share{}", self.shares);
        self.shares += 1;
        let (tag, folder) = (tag.to_owned(), folder.to_owned());
        let access = "security_model=none,readonly=on";
        self.and(|qemu| qemu.share(&Share { id, tag, folder, access }))
    }

    /// A string in the firmware's tables, which the host writes.
    pub(crate) fn smbios(self, text: &str) -> Self {
        self.qemu(&["-smbios", &format!("type=11,value={text}")])
    }

    /// Words more of QEMU's command line.
    pub(crate) fn qemu(self, words: &[&str]) -> Self {
        self.and(|qemu| qemu.words(words))
    }

    /// A TPM, for this VM alone.
    pub(crate) fn tpm(self, tpm: Tpm) -> Self {
        self.tpm_as("tpm-tis", tpm)
    }

    /// The same as this device of QEMU's.
    pub(crate) fn tpm_as(mut self, device: &str, tpm: Tpm) -> Self {
        let socket = tpm.socket().clone();
        self.tpm = Some(tpm);
        self.and(|qemu| qemu.tpm(&socket, device))
    }

    /// A file of the launcher's.
    pub(crate) fn fw_cfg(self, name: &str, text: &str) -> Self {
        self.qemu(&["-fw_cfg", &format!("name={name},string={text}")])
    }

    /// A virtio console that the command line does not name; what the guest writes on it is in this
    /// file of its scratch folder.
    pub(crate) fn console(self, file: &str) -> Self {
        self.and(|qemu| {
            qemu.to_file(file, file)
                .device("virtio-serial-pci")
                .device(Properties::of("virtconsole").with("chardev", file))
        })
    }

    /// A virtio console, a screen, a second serial line for the log alone, and a way to type on
    /// everything. The kernel is told to use all consoles; PID 1 has the one that `last` names.
    pub(crate) fn with_terminals(mut self, last: &str) -> Self {
        self.console = Console::Terminals;
        let all = ["tty0", "ttyS0", "hvc0"].into_iter().filter(|console| *console != last);
        let words: Vec<_> = all.chain([last]).map(|console| format!("console={console}")).collect();
        self.append(&format!("earlyprintk=ttyS1,115200,keep loglevel=8 {}", words.join(" ")))
    }

    /// Runs alone, so that its times can be compared.
    pub(crate) fn measuring(mut self) -> Self {
        self.slots = Slots::all;
        self
    }

    pub(crate) fn boot(mut self) -> Guest {
        if self.initramfs == Path::new("") && !self.starts_disk {
            self.initramfs = artefacts::initramfs_of(self.kernel, DEFAULT_CIPHER);
        }
        let slots = (self.slots)();
        Guest::launch(slots, self.kernel.arch, &self.arguments(), self.console, self.tpm)
    }

    /// Boots until the console shows `text`, and keeps what the machine is then. Nothing may have been
    /// written to its disks.
    pub(crate) fn boot_to(mut self, text: &str, limit: Duration) -> State {
        self.console = Console::Typed;
        let state = State { folder: Scratch::new("state") };
        let mut guest = self.boot();
        guest.wait_serial(text, limit);
        guest.keep_state(&state.file());
        state
    }

    /// Goes on from there, on a machine of the same parts.
    pub(crate) fn resume(mut self, state: &State) -> Guest {
        self.console = Console::Typed;
        let from = format!("exec:cat {}", state.file().display());
        let mut guest = self.qemu(&["-incoming", &from]).boot();
        guest.wait_resumed();
        guest
    }

    /// A firmware takes what is shipped only, and beside the log of a TPM QEMU 7.2 puts the initramfs
    /// of an unpacked kernel over the tables of ACPI.
    fn kernel_file(&self) -> PathBuf {
        let unpacked = self.firmware.is_none() && self.tpm.is_none();
        if unpacked { self.kernel.unpacked() } else { self.kernel.image() }
    }

    fn arguments(&self) -> Vec<OsString> {
        let arch = self.kernel.arch;
        let mut qemu = Qemu::bare();
        qemu.machine(Machine {
            accelerator: if kvm_works() { Accelerator::Kvm } else { Accelerator::Tcg },
            board: Properties::of(arch.board()),
            processor: match arch {
                Arch::X86 => self.processor.clone(),
                Arch::Arm => arch.emulated().to_owned(),
            },
            processors: Properties::of(self.processors.to_string()),
            memory: Properties::of(&self.memory),
        });
        if !self.starts_disk {
            qemu.kernel(command::Kernel {
                image: self.kernel_file(),
                initramfs: self.initramfs.clone(),
                words: format!("{}{}", words(arch), self.append),
            });
        }
        if let Some(controller) = Bus::VirtioScsi.controller() {
            qemu.device(controller);
        }
        if let Some(firmware) = &self.firmware {
            qemu.words(firmware.arguments());
        }
        for part in &self.parts {
            match part {
                Part::Disk(disk) => disk.add_to(&mut qemu),
                Part::Other(other) => {
                    qemu.words(other.arguments());
                }
            }
        }
        qemu.arguments().to_owned()
    }
}

/// What QEMU knows a disk by, the first being 0.
fn drive_name(disk: usize) -> String {
    format!("disk{disk}")
}

/// What QEMU knows its device by.
pub(crate) fn device_id(disk: usize) -> String {
    format!("device{disk}")
}
