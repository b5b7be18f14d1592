//! The firmware of a launch, and what of a boot anybody can attest with it.

use crate::measure::ovmf;

/// How QEMU is given a firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// Not at all: it has `SeaBIOS`.
    Own,
    /// In flash memory, of a plain VM.
    Flash,
    /// As one that checks the hashes of what an SNP VM boots directly.
    Hashes,
    /// In an IGVM file, of another SNP VM.
    Igvm,
    /// As a TDX VM's.
    Tdvf,
}

/// Where a distribution puts EDK2's `AmdSev` build, which has a place for the hashes of kernel, initramfs
/// and command line in memory that the launch digest covers, and starts nothing that differs.
const HASHING: [&str; 2] =
    ["/usr/share/ovmf/OVMF.amdsev.fd", "/usr/share/edk2/ovmf/OVMF.amdsev.fd"];

/// Where such a firmware is to be had.
const WHERE_HASHING: &str = "EDK2's AmdSev build is in Debian's package ovmf-amdsev (sid; none of \
                             Debian 12 or 13) and in Fedora's edk2-ovmf; name it with --ovmf";

/// The first of the usual places where there is such a firmware; else the first.
#[must_use]
pub fn hashing(exists: impl Fn(&str) -> bool) -> &'static str {
    let [first, ..] = HASHING;
    HASHING.into_iter().find(|file| exists(file)).unwrap_or(first)
}

/// Whether a firmware has a place for the hashes of kernel, initramfs and command line; the address of the
/// place is zero in builds that check nothing.
#[must_use]
pub fn has_place_for_hashes(name: &str, file: &[u8]) -> bool {
    let table = ovmf::Firmware::parse(name, file).and_then(|firmware| firmware.hash_table());
    matches!(table, Ok(Some(_)))
}

impl Firmware {
    /// How to have it when it is not there.
    #[must_use]
    pub const fn hint(self) -> &'static str {
        match self {
            Self::Igvm => "name it with --igvm",
            Self::Hashes => WHERE_HASHING,
            Self::Own | Self::Flash | Self::Tdvf => {
                "name it with --ovmf, or install it with 'apt-get install ovmf'"
            }
        }
    }

    /// What QEMU needs for it: the end of a message.
    #[must_use]
    pub const fn newer_qemu(self) -> Option<&'static str> {
        match self {
            Self::Own | Self::Flash => None,
            Self::Hashes => Some("needs QEMU 9.1 or newer"),
            Self::Igvm | Self::Tdvf => Some("needs QEMU 10.1 or newer"),
        }
    }
}
