//! Disks: where the bytes of one are, and the device that a guest has it as.

use std::ffi::OsString;
use std::path::Path;

use crate::vm::channel::Socket;
use crate::vm::properties::Properties;

/// Where a disk's bytes are: a value of `-drive`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drive(Properties);

impl Drive {
    /// A file of this host's.
    #[must_use]
    pub fn file(path: &Path) -> Self {
        Self(Properties::default().with("file", path))
    }

    /// What somebody serves on a socket by the protocol of network block devices.
    #[must_use]
    pub fn served(socket: &Socket) -> Self {
        let drive =
            Properties::default().with("file.driver", "nbd").with("file.server.type", "unix");
        Self(match socket {
            Socket::Abstract(name) => {
                drive.with("file.server.abstract", "on").with("file.server.path", name)
            }
            Socket::Path(path) => drive.with("file.server.path", path),
        })
    }

    /// Flash memory, of which a firmware is unit 0 and its variables unit 1.
    #[must_use]
    pub fn flash(unit: u8, path: &Path) -> Self {
        let drive = Properties::default().with("if", "pflash").with("format", "raw");
        Self(drive.with("unit", unit.to_string()).with("file", path))
    }

    /// The format of the file, such as `raw` and `qcow2`.
    #[must_use]
    pub fn format(self, format: &str) -> Self {
        Self(self.0.with("format", format))
    }

    /// The name by which a device and QEMU's monitor know it.
    #[must_use]
    pub fn named(self, name: &str) -> Self {
        Self(self.0.with("if", "none").with("id", name))
    }

    /// The guest does not write to it. Several machines can have it at once.
    #[must_use]
    pub fn read_only(self) -> Self {
        self.and("readonly=on")
    }

    /// More properties, as QEMU spells them.
    #[must_use]
    pub fn and(self, more: &str) -> Self {
        Self(self.0.and(more))
    }
}

impl From<Drive> for OsString {
    fn from(drive: Drive) -> Self {
        drive.0.into()
    }
}

/// How a disk is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bus {
    /// Behind the controller [`SCSI`].
    VirtioScsi,
    /// Virtio's own.
    VirtioBlk,
    /// A controller a disk.
    Nvme,
    /// That of the chipset.
    Ahci,
    /// Behind the controller [`USB`].
    Usb,
    /// Virtio without PCI, as QEMU's `virt` has it for aarch64.
    VirtioMmio,
}

/// Name of the controller of [`Bus::VirtioScsi`].
pub const SCSI: &str = "scsi";

/// Name of the controller of [`Bus::Usb`].
pub const USB: &str = "usb";

impl Bus {
    /// The controller that a disk there needs, where it is no part of the board or of the disk.
    #[must_use]
    pub fn controller(self) -> Option<Properties> {
        match self {
            Self::VirtioScsi => Some(Properties::of("virtio-scsi-pci").with("id", SCSI)),
            Self::Usb => Some(Properties::of("qemu-xhci").with("id", USB)),
            Self::VirtioBlk | Self::Nvme | Self::Ahci | Self::VirtioMmio => None,
        }
    }

    /// The device of a disk, with its place where the bus has more than one, the first being 0.
    #[must_use]
    pub fn device(self, place: usize) -> Properties {
        self.holding("hd", place)
    }

    /// The same of a drive of CDs, of which [`VirtioScsi`](Self::VirtioScsi) and [`Ahci`](Self::Ahci)
    /// know some.
    #[must_use]
    pub fn cd_drive(self, place: usize) -> Properties {
        self.holding("cd", place)
    }

    fn holding(self, medium: &str, place: usize) -> Properties {
        match self {
            Self::VirtioScsi => Properties::of(format!("scsi-{medium}"))
                .with("bus", format!("{SCSI}.0"))
                .with("scsi-id", place.to_string()),
            Self::VirtioBlk => Properties::of("virtio-blk-pci"),
            Self::Nvme => Properties::of("nvme"),
            Self::Ahci => {
                Properties::of(format!("ide-{medium}")).with("bus", format!("ide.{place}"))
            }
            Self::Usb => Properties::of("usb-storage").with("bus", format!("{USB}.0")),
            Self::VirtioMmio => Properties::of("virtio-blk-device"),
        }
    }
}

/// The device of a disk behind a SCSI controller, in the next place that is free.
#[must_use]
pub fn scsi_disk(controller: &str) -> Properties {
    Properties::of("scsi-hd").with("bus", format!("{controller}.0"))
}
