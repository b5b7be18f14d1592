//! QEMU's command line of a launch.

use std::path::PathBuf;

use cvm_init::error::Result;

use crate::launch::firmware::Firmware;
use crate::launch::host::Found;
use crate::launch::own::{Own, absolute};
use crate::launch::plan::{Boot, Plan, Tee};
use crate::launch::variables::{self as of, Variable};
use crate::vm::Arch;
use crate::vm::channel::Socket;
use crate::vm::command::{Accelerator, Kernel, Machine, Qemu, Share};
use crate::vm::disk::{Drive, scsi_disk};
use crate::vm::properties::Properties;

/// How QEMU is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Whether sudo(8) runs it.
    pub as_root: bool,
    /// Its name or path.
    pub program: String,
    /// Its command line.
    pub qemu: Qemu,
    /// A file for the end of what the guest's console says, where it is looked at.
    pub console: Option<PathBuf>,
}

struct Composer<'a> {
    plan: &'a Plan,
    found: &'a Found,
    own: &'a Own,
    qemu: Qemu,
}

/// Puts it together. `on_terminal` is whether standard input is one.
///
/// # Errors
/// There is no current folder.
pub fn compose(plan: &Plan, found: &Found, own: &Own, on_terminal: bool) -> Result<Launch> {
    let mut composer = Composer { plan, found, own, qemu: Qemu::default() };
    composer.add_machine();
    composer.add_firmware()?;
    composer.add_network();
    composer.add_disks()?;
    composer.add_kernel();
    composer.add_shares()?;
    if plan.tpm.is_some() {
        composer.qemu.tpm(&Socket::Path(own.tpm.clone()), "tpm-tis");
    }
    let console = composer.add_console(on_terminal);
    let mut qemu = composer.qemu;
    qemu.option("-monitor", plan.variables.get(&of::MONITOR)).words(&plan.more);
    Ok(Launch {
        as_root: plan.variables.says(&of::USE_SUDO) == Some(true),
        program: plan.variables.get(&of::BIN_PATH).to_owned(),
        qemu,
        console,
    })
}

impl Composer<'_> {
    fn get(&self, variable: &Variable) -> &str {
        self.plan.variables.get(variable)
    }

    /// Processors and memory, and what protects them from the host.
    fn add_machine(&mut self) {
        let Plan { variables, tee, firmware, .. } = self.plan;
        let memory = self.get(&of::MEM_ID);
        let board = Properties::of(self.get(&of::MACHINE));
        let mut board = match tee {
            Tee::None => board,
            Tee::Snp => board
                .with("confidential-guest-support", self.get(&of::SEV_SNP_ID))
                .with("memory-backend", memory),
            Tee::Tdx => board
                .with("kernel_irqchip", "split")
                .with("confidential-guest-support", self.get(&of::TDX_ID))
                .with("memory-backend", memory)
                .with("hpet", "off"),
        };
        if *firmware == Firmware::Igvm {
            board = board.with("igvm-cfg", self.get(&of::IGVM_ID));
        }
        let arch = if self.plan.is_aarch64() { Arch::Arm } else { Arch::X86 };
        let processor = match self.found.accelerator {
            Accelerator::Tcg => arch.emulated(),
            // No other model is one that TDX could attest.
            Accelerator::Kvm if *tee == Tee::Tdx && !variables.is_given(&of::CPU) => "host",
            Accelerator::Kvm => self.get(&of::CPU),
        };
        let size = self.get(&of::MEMORY_SIZE);
        let machine = Machine {
            accelerator: self.found.accelerator,
            board,
            processor: processor.to_owned(),
            processors: Properties::of(self.get(&of::SMP_COUNT))
                .with("maxcpus", self.get(&of::SMP_MAXCPUS)),
            memory: Properties::of(size)
                .with("slots", self.get(&of::MEMORY_SLOTS))
                .with("maxmem", self.get(&of::MAX_MEMORY)),
        };
        let protected =
            Properties::of("memory-backend-memfd").with("id", memory).with("size", size);
        self.qemu.machine(machine);
        if *tee != Tee::None {
            self.qemu.object(protected.and("share=true,prealloc=false"));
        }
    }

    fn add_firmware(&mut self) -> Result<()> {
        let Plan { variables, tee, firmware, firmware_file: file, .. } = self.plan;
        if *tee == Tee::Snp {
            let host_data = variables.says(&of::ENABLE_HOST_DATA) == Some(true);
            let hashes = *firmware == Firmware::Hashes;
            let snp = Properties::of("sev-snp-guest")
                .with("id", self.get(&of::SEV_SNP_ID))
                .with("cbitpos", self.get(&of::SEV_SNP_CBITPOS))
                .with("reduced-phys-bits", self.get(&of::SEV_SNP_REDUCED_PHYS_BITS))
                .with_some("host-data", host_data.then(|| self.get(&of::HOST_DATA)))
                .with_some("kernel-hashes", hashes.then_some("on"));
            self.qemu.object(snp);
        }
        match firmware {
            Firmware::Own => {}
            Firmware::Flash => {
                self.qemu.flash(&absolute(file)?, &self.own.variables);
            }
            Firmware::Hashes => {
                self.qemu.option("-bios", file);
            }
            Firmware::Igvm => {
                let igvm = Properties::of("igvm-cfg").with("id", self.get(&of::IGVM_ID));
                self.qemu.object(igvm.with("file", absolute(file)?));
            }
            Firmware::Tdvf => {
                // CID 2 is the host.
                let socket = format!(
                    r#"{{"type":"vsock","cid":"2","port":"{}"}}"#,
                    self.get(&of::QUOTE_GENERATION_PORT)
                );
                let tdx = format!(
                    r#"{{"qom-type":"tdx-guest","id":"{}","quote-generation-socket":{socket}}}"#,
                    self.get(&of::TDX_ID)
                );
                let vsock = Properties::of("vhost-vsock-pci")
                    .with("id", self.get(&of::VSOCK_ID))
                    .with("guest-cid", self.get(&of::VSOCK_GUEST_CID));
                self.qemu.object(tdx).option("-bios", file).words(["-nodefaults"]).device(vsock);
            }
        }
        Ok(())
    }

    /// Before all other cards, which take the next free address.
    fn add_network(&mut self) {
        let name = self.get(&of::NETDEV_ID);
        let listen = self.plan.listen.map(|address| address.to_string()).unwrap_or_default();
        let net = self.found.forward.iter().fold(
            Properties::of("user").with("id", name),
            |net, forward| {
                net.with("hostfwd", format!("tcp:{listen}:{}-:{}", forward.host, forward.guest))
            },
        );
        let card = Properties::of("virtio-net-pci")
            .with("disable-legacy", self.get(&of::VIRTIO_NET_PCI_DISABLE_LEGACY))
            .with("iommu_platform", self.get(&of::VIRTIO_NET_PCI_IOMMU_PLATFORM))
            .with("netdev", name)
            .with("addr", self.get(&of::VIRTIO_NET_PCI_ADDR))
            .with("romfile", self.get(&of::VIRTIO_NET_PCI_ROMFILE));
        self.qemu.option("-netdev", net).device(card);
    }

    fn add_disks(&mut self) -> Result<()> {
        let Plan { disk, layers, volume, data, .. } = self.plan;
        let controller = self.get(&of::DISK_SCSI_ID).to_owned();
        if *disk || layers.is_some() {
            self.qemu.device(
                Properties::of("virtio-scsi-pci")
                    .with("id", &controller)
                    .and("disable-legacy=on,iommu_platform=true"),
            );
        }
        if *disk {
            let name = self.get(&of::DISK_ID);
            let drive =
                Drive::file(&self.own.overlay).named(name).format(self.get(&of::DISK_FORMAT));
            let device = scsi_disk(&controller).with("drive", name);
            self.qemu.drive(drive).device(device);
        }
        let mut add = |name: &str, serial: &str, drive: Drive| {
            let device = scsi_disk(&controller).with("drive", name).with("serial", serial);
            self.qemu.drive(drive.named(name)).device(device);
        };
        let read_only = |file: &str| Ok(Drive::file(&absolute(file)?).format("raw").read_only());
        for (number, file) in self.found.layers.iter().enumerate() {
            let drive = read_only(&file.to_string_lossy())?;
            add(&format!("layer{number}"), &format!("cocoon-layer{number}"), drive);
        }
        if let Some(volume) = volume {
            add("volume", &volume.serial, Drive::file(&self.own.volume).format("qcow2"));
        }
        for (number, data) in data.iter().enumerate() {
            add(&format!("data{number}"), &data.serial, read_only(&data.of)?);
        }
        Ok(())
    }

    fn add_kernel(&mut self) {
        if let (Boot::Kernel, Some(words)) = (self.plan.boot, &self.found.words) {
            self.qemu.kernel(Kernel {
                image: self.get(&of::DISK_IMG_KERNEL_FILE).into(),
                initramfs: self.get(&of::DISK_IMG_ROOTFS_FILE).into(),
                words: words.clone(),
            });
        }
    }

    fn add_shares(&mut self) -> Result<()> {
        for (variable, id, tag) in
            [(of::CERTS_MOUNT, "cert_fs", "certs_share"), (of::ENV_MOUNT, "env_fs", "env_share")]
        {
            if let Some(folder) = self.plan.variables.some(&variable) {
                self.qemu.share(&Share {
                    id: id.to_owned(),
                    tag: tag.to_owned(),
                    folder: absolute(folder)?,
                    access: "security_model=mapped",
                });
            }
        }
        Ok(())
    }

    /// The guest's console, and where the end of what it says is kept.
    fn add_console(&mut self, on_terminal: bool) -> Option<PathBuf> {
        if self.plan.variables.says(&of::NO_GRAPHIC) != Some(true) {
            return None;
        }
        self.qemu.words(["-nographic"]);
        if self.plan.more.iter().any(|word| word == "-serial") {
            return None;
        }
        let mut console = Properties::of("stdio").with("id", "console");
        if on_terminal {
            // mux takes Ctrl-A X, and without signals Ctrl-C is a key like others.
            console = console.and("mux=on,signal=off");
        }
        let kept = (!self.plan.dry_run).then(|| self.own.folder.join("console"));
        self.qemu
            .option("-chardev", console.with_some("logfile", kept.as_ref()))
            .option("-serial", "chardev:console");
        kept
    }
}
