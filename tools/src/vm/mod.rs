//! Virtual machines, as launches, benchmarks and tests have them: [`command`] is QEMU's command line,
//! of [`properties`] and [`disk`]s; [`process`] runs it, [`monitor`] speaks with it over a
//! [`channel`]; [`tpm`] and [`qemu_img`] make what it is given.

pub mod channel;
pub mod command;
pub mod disk;
pub mod monitor;
pub mod process;
pub mod properties;
pub mod qemu_img;
pub mod tpm;

use std::fs::{self, OpenOptions};

/// What a machine's processors are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// Those of AMD and Intel.
    X86,
    /// Those of Arm, with 64 bits.
    Arm,
}

impl Arch {
    /// As Rust and QEMU call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::X86 => "x86_64",
            Self::Arm => "aarch64",
        }
    }

    /// QEMU's program for it.
    #[must_use]
    pub fn qemu(self) -> String {
        format!("qemu-system-{}", self.name())
    }

    /// QEMU's model of the board.
    #[must_use]
    pub const fn board(self) -> &'static str {
        match self {
            Self::X86 => "q35",
            Self::Arm => "virt",
        }
    }

    /// The processor with all that QEMU emulates but one instruction: before 8.0 it gives the flags behind
    /// cmpxchg16b bits that none has (`helper_cmpxchg16b_unlocked`, of a `cc_op` that is not up to date),
    /// and an interrupt that comes between it and the next instruction ends in a double fault of the
    /// kernel, once in some hundred boots.
    #[must_use]
    pub const fn emulated(self) -> &'static str {
        match self {
            Self::X86 => "max,-cx16",
            Self::Arm => "max",
        }
    }
}

/// Whether this host's processors can be a guest's. A /dev/kvm that opens is no proof: on nested hosts
/// without the processor's flag it can hang a guest.
#[must_use]
pub fn kvm_works() -> bool {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let virtualises = cpuinfo.split_whitespace().any(|flag| flag == "svm" || flag == "vmx");
    virtualises && OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok()
}
