//! QEMU's command line, put together from what a machine has.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::vm::channel::Socket;
use crate::vm::disk::Drive;
use crate::vm::properties::Properties;

/// Who carries out a guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// This host's processors.
    Kvm,
    /// QEMU.
    Tcg,
}

/// Board, processors and memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Who carries out its instructions.
    pub accelerator: Accelerator,
    /// Model of the board, and what it has: `q35`.
    pub board: Properties,
    /// Model of the processors, and what it has or lacks of it, as QEMU spells them: `max,-cx16`.
    pub processor: String,
    /// How many: `4`, or `4,maxcpus=64`.
    pub processors: Properties,
    /// How much, with QEMU's suffixes: `2048M`, or `2048M,slots=5,maxmem=30G`.
    pub memory: Properties,
}

/// A kernel that is started without a boot loader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Its file.
    pub image: PathBuf,
    /// The file of its initramfs.
    pub initramfs: PathBuf,
    /// Its command line.
    pub words: String,
}

/// A folder of this host's that a guest has by 9P.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// QEMU's name for it.
    pub id: String,
    /// By which the guest mounts it.
    pub tag: String,
    /// The folder.
    pub folder: PathBuf,
    /// How owners and modes are kept, and whether the guest may write: `security_model=mapped`.
    pub access: &'static str,
}

/// What follows the program on its command line, in the order in which it was put together: that of
/// devices decides which place each has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Qemu(Vec<OsString>);

impl Qemu {
    /// One without devices, a screen or a configuration that it is not given.
    #[must_use]
    pub fn bare() -> Self {
        let mut qemu = Self::default();
        qemu.words(["-nodefaults", "-no-user-config", "-display", "none"]);
        qemu
    }

    /// Words, as QEMU spells them.
    pub fn words(&mut self, words: impl IntoIterator<Item = impl Into<OsString>>) -> &mut Self {
        self.0.extend(words.into_iter().map(Into::into));
        self
    }

    /// An option and its value.
    pub fn option(&mut self, name: &str, value: impl Into<OsString>) -> &mut Self {
        self.words([OsString::from(name), value.into()])
    }

    /// A device of the guest.
    pub fn device(&mut self, device: impl Into<OsString>) -> &mut Self {
        self.option("-device", device)
    }

    /// Where the bytes of a disk or of flash memory are.
    pub fn drive(&mut self, drive: Drive) -> &mut Self {
        self.option("-drive", drive)
    }

    /// What QEMU makes of this host for others: `-object`.
    pub fn object(&mut self, object: impl Into<OsString>) -> &mut Self {
        self.option("-object", object)
    }

    /// Board, processors and memory.
    pub fn machine(&mut self, machine: Machine) -> &mut Self {
        match machine.accelerator {
            Accelerator::Kvm => self.words(["-enable-kvm"]),
            Accelerator::Tcg => self.option("-accel", "tcg"),
        }
        .option("-machine", machine.board)
        .option("-cpu", machine.processor)
        .option("-smp", machine.processors)
        .option("-m", machine.memory)
    }

    /// A kernel that is started without a boot loader.
    pub fn kernel(&mut self, kernel: Kernel) -> &mut Self {
        self.option("-kernel", kernel.image)
            .option("-initrd", kernel.initramfs)
            .option("-append", kernel.words)
    }

    /// A firmware in flash memory with its variables, which alone the guest may write.
    pub fn flash(&mut self, code: &Path, variables: &Path) -> &mut Self {
        self.drive(Drive::flash(0, code).read_only()).drive(Drive::flash(1, variables))
    }

    /// A folder of this host's.
    pub fn share(&mut self, share: &Share) -> &mut Self {
        let Share { id, tag, folder, access } = share;
        let folder = Properties::of("local").with("id", id).with("path", folder).and(access);
        let device = Properties::of("virtio-9p-pci").with("fsdev", id).with("mount_tag", tag);
        self.option("-fsdev", folder).device(device)
    }

    /// A stream of bytes between a device, of which `id` is the name, and a file.
    pub fn to_file(&mut self, id: &str, file: impl AsRef<OsStr>) -> &mut Self {
        self.option("-chardev", Properties::of("file").with("id", id).with("path", file))
    }

    /// The same between a device and a socket, which QEMU connects to.
    pub fn to_socket(&mut self, id: &str, socket: &Socket) -> &mut Self {
        self.option("-chardev", socket.chardev(id))
    }

    /// A TPM that [`crate::vm::tpm`] emulates behind a socket, and a device such as `tpm-tis` by which the
    /// guest has it.
    pub fn tpm(&mut self, socket: &Socket, device: &str) -> &mut Self {
        self.to_socket("tpm_socket", socket)
            .option("-tpmdev", "emulator,id=tpm,chardev=tpm_socket")
            .device(Properties::of(device).with("tpmdev", "tpm"))
    }

    /// All of it.
    #[must_use]
    pub fn arguments(&self) -> &[OsString] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_spelled_in_the_order_of_its_parts() {
        let mut qemu = Qemu::bare();
        qemu.machine(Machine {
            accelerator: Accelerator::Tcg,
            board: Properties::of("q35"),
            processor: "max,-cx16".to_owned(),
            processors: Properties::of("2").with("maxcpus", "8"),
            memory: Properties::of("1G"),
        })
        .kernel(Kernel { image: "k".into(), initramfs: "i".into(), words: "a b".to_owned() })
        .flash(Path::new("a,b"), Path::new("v"))
        .share(&Share {
            id: "s".to_owned(),
            tag: "t".to_owned(),
            folder: "f".into(),
            access: "security_model=none,readonly=on",
        })
        .tpm(&Socket::Abstract("x".to_owned()), "tpm-tis");
        let expected = "-nodefaults -no-user-config -display none -accel tcg -machine q35 -cpu max,-cx16 \
             -smp 2,maxcpus=8 -m 1G -kernel k -initrd i -append a b \
             -drive if=pflash,format=raw,unit=0,file=a,,b,readonly=on \
             -drive if=pflash,format=raw,unit=1,file=v \
             -fsdev local,id=s,path=f,security_model=none,readonly=on \
             -device virtio-9p-pci,fsdev=s,mount_tag=t \
             -chardev socket,id=tpm_socket,path=x,abstract=on \
             -tpmdev emulator,id=tpm,chardev=tpm_socket -device tpm-tis,tpmdev=tpm";
        assert_eq!(qemu.arguments().join(OsStr::new(" ")), expected);
    }
}
