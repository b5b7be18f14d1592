//! A VM before it boots: its disks, shares and kernel command line.

use crate::artefacts::{self, DEFAULT_CIPHER};
use crate::disk::Disk;
use crate::guest::Guest;
use crate::kernel::{Arch, Kernel};
use crate::served::Served;
use crate::slots::Slots;
use crate::tpm::Tpm;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

/// All that QEMU emulates but one instruction: before 8.0 it gives the flags behind cmpxchg16b bits that
/// none has (`helper_cmpxchg16b_unlocked`, of a `cc_op` that is not up to date), and an interrupt that
/// comes between it and the next instruction ends in a double fault of the kernel, once in some hundred
/// boots.
pub(crate) const PROCESSOR: &str = "max,-cx16";

/// How a disk is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bus {
    VirtioScsi,
    VirtioBlk,
    Nvme,
    /// That of the chipset.
    Ahci,
    Usb,
    /// Virtio without PCI, as QEMU's `virt` has it for aarch64.
    VirtioMmio,
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
    /// The arguments of a firmware.
    firmware: Vec<String>,
    /// Whether the firmware starts a disk, in place of kernel and initramfs.
    starts_disk: bool,
    memory: String,
    /// QEMU's model and features.
    processor: String,
    processors: u32,
    /// The arguments that describe the disks and shares, in the order given.
    devices: Vec<String>,
    disks: usize,
    shares: usize,
    terminals: bool,
    tpm: Option<Tpm>,
    slots: fn() -> Slots,
}

impl Vm {
    /// No disk, and no other words on the command line than [`Arch::words`].
    pub(crate) fn new() -> Self {
        Self {
            kernel: Kernel::RUNNING,
            initramfs: PathBuf::new(),
            append: String::new(),
            firmware: Vec::new(),
            starts_disk: false,
            memory: "1G".to_owned(),
            processor: PROCESSOR.to_owned(),
            processors: 2,
            devices: Vec::new(),
            disks: 0,
            shares: 0,
            terminals: false,
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
        let flash = |unit: u8, options: &str, file: &Path| {
            let file = file.display();
            format!("if=pflash,unit={unit},format=raw,{options}file={file}")
        };
        self.firmware = vec![
            // The flash is written in system management mode only, not by the guest's kernel.
            "-global".to_owned(),
            "driver=cfi.pflash01,property=secure,value=on".to_owned(),
            "-drive".to_owned(),
            flash(0, "readonly=on,", code),
            "-drive".to_owned(),
            flash(1, "", variables),
        ];
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
        let mut vm = self.disk(disk);
        let drive = vm.devices.iter_mut().rev().find(|argument| argument.starts_with("if=none"));
        let drive = drive.expect("the disk has a drive");
        for (way, bytes) in [("read", read), ("write", written)] {
            let limit = format!(",throttling.bps-{way}=1,throttling.bps-{way}-max={bytes}");
            drive.push_str(&limit);
        }
        vm
    }

    /// A disk on virtio-scsi whose device has these properties of QEMU's in place of its own.
    pub(crate) fn disk_with(self, disk: &Disk, properties: &str) -> Self {
        self.disk(disk).with(properties)
    }

    /// Gives the device of the disk that was attached last these properties of QEMU's in place of its
    /// own.
    pub(crate) fn with(mut self, properties: &str) -> Self {
        let device = self.devices.last_mut().expect("the disk has a device");
        device.push(',');
        device.push_str(properties);
        self
    }

    /// Puts the disk that was attached last, on AHCI or virtio-scsi, into a drive of CDs.
    pub(crate) fn in_cd_drive(mut self) -> Self {
        let device = self.devices.last_mut().expect("the disk has a device");
        *device = device.replacen("-hd,", "-cd,", 1);
        self.read_only()
    }

    /// Has the guest not write to the disk that was attached last. Several VMs can have it at once.
    pub(crate) fn read_only(mut self) -> Self {
        let drive = self.devices.iter_mut().rev().find(|argument| argument.starts_with("if=none"));
        drive.expect("the disk has a drive").push_str(",readonly=on");
        self
    }

    /// Lets the disk that was attached last come later, by `Guest::plug_in`.
    pub(crate) fn not_plugged_in(mut self) -> Self {
        // The drive stays, the device comes later.
        self.devices.truncate(self.devices.len() - 2);
        self
    }

    /// A disk on virtio-scsi from a qcow2 file.
    pub(crate) fn disk_of_qcow2(self, path: &Path) -> Self {
        self.drive(Bus::VirtioScsi, "qcow2", &format!("cache=unsafe,file={}", path.display()))
    }

    /// A disk that the VM gets later, by `Guest::plug_in`.
    pub(crate) fn disk_not_plugged_in(self, disk: &Disk) -> Self {
        self.disk(disk).not_plugged_in()
    }

    /// A disk on virtio-scsi that `served` answers for.
    pub(crate) fn disk_served(self, served: &Served) -> Self {
        let source = format!(
            "file.driver=nbd,file.server.type=unix,file.server.abstract=on,file.server.path={}",
            served.socket()
        );
        self.drive(Bus::VirtioScsi, "raw", &source)
    }

    /// A disk from any raw file. The first has the serial number `disk0`, the second `disk1`; QEMU
    /// knows them by the same names.
    pub(crate) fn disk_on(self, bus: Bus, path: &Path) -> Self {
        // What is on the disk lives for one test, so no write need reach the host's.
        self.drive(bus, "raw", &format!("cache=unsafe,discard=unmap,file={}", path.display()))
    }

    fn drive(mut self, bus: Bus, format: &str, source: &str) -> Self {
        let name = format!("disk{}", self.disks);
        if bus == Bus::Usb {
            self.devices.extend(["-device".to_owned(), "qemu-xhci,id=usb".to_owned()]);
        }
        let drive = format!("if=none,id={name},format={format},{source}");
        self.devices.extend(["-drive".to_owned(), drive]);
        let device = match bus {
            Bus::VirtioScsi => format!("scsi-hd,bus=scsi.0,scsi-id={}", self.disks),
            Bus::VirtioBlk => "virtio-blk-pci".to_owned(),
            Bus::Nvme => "nvme".to_owned(),
            Bus::Ahci => format!("ide-hd,bus=ide.{}", self.disks),
            Bus::Usb => "usb-storage,bus=usb.0".to_owned(),
            Bus::VirtioMmio => "virtio-blk-device".to_owned(),
        };
        let device = format!("{device},drive={name},serial={name},id={}", device_id(self.disks));
        self.devices.extend(["-device".to_owned(), device]);
        self.disks += 1;
        self
    }

    /// A read-only 9P share of a folder of the host.
    pub(crate) fn share(mut self, tag: &str, folder: &Path) -> Self {
        let id = format!("share{}", self.shares);
        self.devices.extend([
            "-fsdev".to_owned(),
            format!("local,id={id},path={},security_model=none,readonly=on", folder.display()),
            "-device".to_owned(),
            format!("virtio-9p-pci,fsdev={id},mount_tag={tag}"),
        ]);
        self.shares += 1;
        self
    }

    /// A string in the firmware's tables, which the host writes.
    pub(crate) fn smbios(mut self, text: &str) -> Self {
        self.devices.extend(["-smbios".to_owned(), format!("type=11,value={text}")]);
        self
    }

    /// Words more of QEMU's command line.
    pub(crate) fn qemu(mut self, words: &[&str]) -> Self {
        self.devices.extend(words.iter().map(|&word| word.to_owned()));
        self
    }

    /// A TPM, for this VM alone.
    pub(crate) fn tpm(self, tpm: Tpm) -> Self {
        self.tpm_as("tpm-tis", tpm)
    }

    /// The same as this device of QEMU's.
    pub(crate) fn tpm_as(mut self, device: &str, tpm: Tpm) -> Self {
        self.devices.extend(tpm.arguments(device));
        self.tpm = Some(tpm);
        self
    }

    /// A file of the launcher's.
    pub(crate) fn fw_cfg(mut self, name: &str, text: &str) -> Self {
        self.devices.extend(["-fw_cfg".to_owned(), format!("name={name},string={text}")]);
        self
    }

    /// A virtio console that the command line does not name; what the guest writes on it is in this
    /// file of its scratch folder.
    pub(crate) fn console(mut self, file: &str) -> Self {
        self.devices.extend([
            "-chardev".to_owned(),
            format!("file,id={file},path={file}"),
            "-device".to_owned(),
            "virtio-serial-pci".to_owned(),
            "-device".to_owned(),
            format!("virtconsole,chardev={file}"),
        ]);
        self
    }

    /// A virtio console, a screen, a second serial line for the log alone, and a way to type on
    /// everything. The kernel is told to use all consoles; PID 1 has the one that `last` names.
    pub(crate) fn with_terminals(mut self, last: &str) -> Self {
        self.terminals = true;
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
        Guest::launch(slots, self.kernel.arch, &self.arguments(), self.terminals, self.tpm)
    }

    /// A firmware takes what is shipped only, and beside the log of a TPM QEMU 7.2 puts the initramfs
    /// of an unpacked kernel over the tables of ACPI.
    fn kernel_file(&self) -> PathBuf {
        let unpacked = self.firmware.is_empty() && self.tpm.is_none();
        if unpacked { self.kernel.unpacked() } else { self.kernel.image() }
    }

    fn arguments(&self) -> Vec<String> {
        let mut arguments: Vec<String> =
            ["-nodefaults", "-no-user-config", "-display", "none"].map(str::to_owned).to_vec();
        let mut pair = |name: &str, value: &str| {
            arguments.extend([name.to_owned(), value.to_owned()]);
        };
        pair("-machine", self.kernel.arch.machine());
        pair("-accel", if kvm_works() { "kvm" } else { "tcg" });
        pair("-cpu", if self.kernel.arch == Arch::X86 { &self.processor } else { "max" });
        pair("-smp", &self.processors.to_string());
        pair("-m", &self.memory);
        if !self.starts_disk {
            pair("-kernel", &self.kernel_file().to_string_lossy());
            pair("-initrd", &self.initramfs.to_string_lossy());
            pair("-append", &format!("{}{}", self.kernel.arch.words(), self.append));
        }
        pair("-device", "virtio-scsi-pci,id=scsi");
        arguments.extend_from_slice(&self.firmware);
        arguments.extend_from_slice(&self.devices);
        arguments
    }
}

/// What QEMU knows a disk's device by, the first being 0.
pub(crate) fn device_id(disk: usize) -> String {
    format!("device{disk}")
}

/// A /dev/kvm that opens is no proof: on nested hosts without the processor flag it can hang.
fn kvm_works() -> bool {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let virtualises = cpuinfo.split_whitespace().any(|flag| flag == "svm" || flag == "vmx");
    virtualises && OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok()
}
