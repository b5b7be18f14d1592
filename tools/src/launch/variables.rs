//! The Manager's variables: which there are, and what they may hold.

use std::collections::BTreeMap;
use std::env;
use std::ops::RangeInclusive;
use std::path::Path;

use cvm_init::error::{Error, Result};

/// What the name of each begins with in the environment.
pub const PREFIX: &str = "MANAGER_QEMU_";

/// What a variable may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true`, `false`, and what else Go's `ParseBool` takes.
    Bool,
    /// Digits, nine at most.
    Number,
    /// The same, and not 0.
    Count,
    /// Of TCP or vsock.
    Port,
    /// Two ports, with `-` between them.
    Range,
    /// Bytes, with one of QEMU's suffixes or without.
    Size,
    /// What QEMU takes as a name.
    Name,
    /// 32 bytes.
    Base64,
    /// The one format.
    Qcow2,
    /// Anything.
    Text,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Number => "number",
            Self::Count => "count",
            Self::Port => "port",
            Self::Range => "range",
            Self::Size => "size",
            Self::Name => "name",
            Self::Base64 => "base64",
            Self::Qcow2 => "qcow2",
            Self::Text => "text",
        }
    }

    /// The word as it is used, if it is one of these.
    fn take(self, word: &str) -> Option<&str> {
        let fits = match self {
            Self::Bool => {
                return parse_bool(word).map(|value| if value { "true" } else { "false" });
            }
            Self::Number => is_number(word),
            Self::Count => is_number(word) && !word.starts_with('0'),
            Self::Port => port(word).is_some(),
            Self::Range => range(word).is_some(),
            Self::Size => is_size(word),
            Self::Name => {
                word.starts_with(|c: char| c.is_ascii_alphabetic())
                    && word.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
            }
            Self::Base64 => word.strip_suffix('=').is_some_and(|digits| {
                digits.len() == 43
                    && digits.chars().all(|c| c.is_ascii_alphanumeric() || "+/".contains(c))
            }),
            Self::Qcow2 => word == "qcow2",
            Self::Text => true,
        };
        fits.then_some(word)
    }
}

/// What Go's `strconv.ParseBool` takes.
fn parse_bool(word: &str) -> Option<bool> {
    match word {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn is_number(word: &str) -> bool {
    (1..=9).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_digit())
}

/// A port, if the word is one.
#[must_use]
pub fn port(word: &str) -> Option<u16> {
    let digits = word.bytes().all(|byte| byte.is_ascii_digit()) && !word.starts_with('0');
    digits.then(|| word.parse().ok())?
}

/// The ports of `FIRST-LAST`, if the word is that.
fn range(word: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = word.split_once('-')?;
    let range = port(first)?..=port(last)?;
    (!range.is_empty()).then_some(range)
}

/// Whether the word is a number of bytes, with one of QEMU's suffixes or without.
#[must_use]
pub fn is_size(word: &str) -> bool {
    let digits = word.strip_suffix(['k', 'K', 'M', 'G', 'T']).unwrap_or(word);
    digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.starts_with(|c| c > '0')
}

/// A variable of the Manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variable {
    /// What follows [`PREFIX`].
    pub name: &'static str,
    /// What it may hold.
    pub kind: Kind,
    /// What it is when it is not set; nothing where that is decided later.
    pub default: &'static str,
    /// What it says.
    pub meaning: &'static str,
}

macro_rules! variables {
    ($($name:ident $kind:ident $default:literal $meaning:literal;)*) => {
        $(
            #[doc = concat!("`", stringify!($name), "`: ", $meaning, ".")]
            pub const $name: Variable = Variable {
                name: stringify!($name),
                kind: Kind::$kind,
                default: $default,
                meaning: $meaning,
            };
        )*

        /// All of them, in the order in which they are told.
        pub const ALL: &[Variable] = &[$($name),*];
    };
}

variables! {
    ENABLE_SEV_SNP                Bool   ""                             "--tee snp; unset: when the host has it";
    ENABLE_TDX                    Bool   ""                             "--tee tdx; unset: when the host has it";
    ENABLE_KVM                    Bool   ""                             "unset: when it works, else emulation";
    BIN_PATH                      Text   "qemu-system-x86_64"           "QEMU";
    USE_SUDO                      Bool   "false"                        "run QEMU as root";
    MACHINE                       Text   "q35"                          "machine type";
    CPU                           Text   "EPYC"                         "host with TDX, max when emulated";
    SMP_COUNT                     Count  "4"                            "processors";
    SMP_MAXCPUS                   Count  "64"                           "processors, with those plugged in later";
    MEMORY_SIZE                   Size   "2048M"                        "memory";
    MEMORY_SLOTS                  Number "5"                            "slots for more memory";
    MAX_MEMORY                    Size   "30G"                          "memory, with that plugged in later";
    MEM_ID                        Name   "ram1"                         "name of the memory of SNP and TDX";
    ENABLE_DISK                   Bool   ""                             "false: --boot kernel, and no disk";
    SRC_DISK_FILE                 Text   "img/disk.img"                 "the image, never written";
    DST_DISK_FILE                 Text   ""                             "its overlay; unset: a file in $TMPDIR";
    DISK_FORMAT                   Qcow2  "qcow2"                        "format of the overlay";
    DISK_ID                       Name   "disk0"                        "name of the drive";
    DISK_SCSI_ID                  Name   "scsi0"                        "name of its controller";
    DISK_IMG_KERNEL_FILE          Text   ""                             "kernel of --boot kernel; unset: bzImage beside the image";
    DISK_IMG_ROOTFS_FILE          Text   ""                             "its initramfs; unset: rootfs.cpio.gz beside the image";
    OVMF_CODE_FILE                Text   "/usr/share/OVMF/OVMF_CODE.fd" "firmware of a plain VM";
    OVMF_VARS_FILE                Text   "/usr/share/OVMF/OVMF_VARS.fd" "its variables; the VM gets a copy";
    SEV_SNP_ID                    Name   "sev0"                         "name of the SNP object";
    SEV_SNP_CBITPOS               Number "51"                           "place of the C-bit in an address";
    SEV_SNP_REDUCED_PHYS_BITS     Number "1"                            "address bits that encryption takes";
    ENABLE_HOST_DATA              Bool   "false"                        "put HOST_DATA into the SNP report";
    HOST_DATA                     Base64 ""                             "32 bytes, in base64";
    IGVM_ID                       Name   "igvm0"                        "name of the IGVM object";
    IGVM_FILE                     Text   "/root/coconut-qemu.igvm"      "firmware of an SNP VM";
    TDX_ID                        Name   "tdx0"                         "name of the TDX object";
    QUOTE_GENERATION_PORT         Port   "4050"                         "vsock port of the host's quoting service";
    OVMF_FILE                     Text   "/usr/share/ovmf/OVMF.fd"      "firmware of a TDX VM";
    VSOCK_ID                      Name   "vhost-vsock-pci0"             "name of a TDX VM's vsock";
    VSOCK_GUEST_CID               Number "3"                            "its address; each VM needs its own";
    NETDEV_ID                     Name   "vmnic"                        "name of the network";
    HOST_FWD_AGENT                Port   "7020"                         "port of the host ...";
    GUEST_FWD_AGENT               Port   "7002"                         "... that leads to this port of the guest";
    HOST_FWD_RANGE                Range  "6100-6200"                    "ports of the host to take when that is in use";
    VIRTIO_NET_PCI_DISABLE_LEGACY Text   "on"                           "of the network card";
    VIRTIO_NET_PCI_IOMMU_PLATFORM Bool   "true"                         "of the network card";
    VIRTIO_NET_PCI_ADDR           Text   "0x2"                          "of the network card";
    VIRTIO_NET_PCI_ROMFILE        Text   ""                             "of the network card";
    NO_GRAPHIC                    Bool   "true"                         "the serial console is standard input and output";
    MONITOR                       Text   "pty"                          "where QEMU's monitor is";
    CERTS_MOUNT                   Text   ""                             "--certs";
    ENV_MOUNT                     Text   ""                             "--env";
}

/// A line each, for `--help`.
#[must_use]
pub fn told() -> String {
    let line = |Variable { name, default, meaning, .. }: &Variable| {
        format!("  {name:<30} {default:<29} {meaning}\n")
    };
    ALL.iter().map(line).collect()
}

/// A default file where this host has it. Debian 12 has its firmware for flash of 2 MiB, by which the
/// Manager knows it, and of 4; later releases have only that.
fn of_this_host(file: &str, exists: impl Fn(&str) -> bool) -> String {
    let larger = file.strip_suffix(".fd").map(|name| format!("{name}_4M.fd"));
    larger.filter(|larger| !exists(file) && exists(larger)).unwrap_or_else(|| file.to_owned())
}

/// What all of them hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Variables {
    values: BTreeMap<&'static str, String>,
    given: Vec<&'static str>,
}

impl Variables {
    /// Those of this process, on this host.
    ///
    /// # Errors
    /// As of [`read`](Self::read).
    pub fn of_environment() -> Result<Self> {
        let lookup = |name: &str| env::var_os(name).map(|word| word.to_string_lossy().into_owned());
        Self::read(lookup, |file| Path::new(file).exists())
    }

    /// Those that `lookup` finds by their whole name, and the defaults of a host that has certain files. An
    /// empty variable is an unset one, as in systemd's environment files.
    ///
    /// # Errors
    /// The first that holds what it may not.
    pub fn read(
        lookup: impl Fn(&str) -> Option<String>,
        exists: impl Fn(&str) -> bool,
    ) -> Result<Self> {
        let mut variables = Self::default();
        for Variable { name, kind, default, meaning } in ALL {
            let variable = format!("{PREFIX}{name}");
            let word = match lookup(&variable).filter(|word| !word.is_empty()) {
                Some(word) => {
                    variables.given.push(name);
                    word
                }
                None if [OVMF_CODE_FILE.name, OVMF_VARS_FILE.name].contains(name) => {
                    of_this_host(default, &exists)
                }
                None => (*default).to_owned(),
            };
            let value = if word.is_empty() { Some("") } else { kind.take(&word) };
            let value = value.ok_or_else(|| {
                Error::new(format!("{variable}={word} is not a {}: {meaning}", kind.name()))
            })?;
            variables.values.insert(name, value.to_owned());
        }
        Ok(variables)
    }

    /// What one holds; nothing is an empty text.
    #[must_use]
    pub fn get(&self, variable: &Variable) -> &str {
        self.values.get(variable.name).map_or("", String::as_str)
    }

    /// The same, where it holds something.
    #[must_use]
    pub fn some(&self, variable: &Variable) -> Option<&str> {
        Some(self.get(variable)).filter(|value| !value.is_empty())
    }

    /// What one of [`Kind::Bool`] says; nothing where it is unset.
    #[must_use]
    pub fn says(&self, variable: &Variable) -> Option<bool> {
        parse_bool(self.get(variable))
    }

    /// The ports of [`HOST_FWD_RANGE`].
    #[must_use]
    pub fn forward_range(&self) -> Option<RangeInclusive<u16>> {
        range(self.get(&HOST_FWD_RANGE))
    }

    /// Whether it was set, by the environment or [`set`](Self::set).
    #[must_use]
    pub fn is_given(&self, variable: &Variable) -> bool {
        self.given.contains(&variable.name)
    }

    /// What a flag says instead, where there is one.
    pub fn set(&mut self, variable: &Variable, value: Option<&str>) {
        if let Some(value) = value {
            self.values.insert(variable.name, value.to_owned());
            self.given.push(variable.name);
        }
    }

    /// What is so when one says nothing.
    pub fn set_default(&mut self, variable: &Variable, value: &str) {
        if self.some(variable).is_none() {
            self.values.insert(variable.name, value.to_owned());
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What variables hold when these are set, on a host that has no file.
    pub(crate) fn of(set: &[(&str, &str)]) -> Result<Variables> {
        let lookup = |name: &str| {
            let name = name.strip_prefix(PREFIX)?;
            set.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned())
        };
        Variables::read(lookup, |_| false)
    }

    #[test]
    fn every_default_is_what_its_variable_may_hold() {
        let variables = of(&[]).unwrap();
        assert_eq!(variables.get(&SMP_COUNT), "4");
        assert_eq!(variables.forward_range(), Some(6100..=6200));
        assert!(!variables.is_given(&SMP_COUNT));
    }

    #[test]
    fn what_a_kind_takes_and_refuses() {
        #[rustfmt::skip]
        let cases: &[(Kind, &[&str], &[&str])] = &[
            (Kind::Bool, &["1", "T", "true", "False"], &["yes", "tRUE", "2"]),
            (Kind::Number, &["0", "007", "999999999"], &["", "1000000000", "-1", "0x1"]),
            (Kind::Count, &["1", "64"], &["0", "01", "many"]),
            (Kind::Port, &["1", "65535"], &["0", "65536", "+1", "01", "1 ", ""]),
            (Kind::Range, &["1-1", "6100-6200"], &["9-8", "1", "1-2-3", "0-1", "1-65536"]),
            (Kind::Size, &["1", "2048M", "64k"], &["", "0M", "M", "2 GB", "1.5G", "1MM"]),
            (Kind::Name, &["a", "vhost-vsock-pci0"], &["", "0a", "a,b", "-a"]),
            (Kind::Base64, &["AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="], &["short", "AA=="]),
            (Kind::Qcow2, &["qcow2"], &["raw"]),
        ];
        for (kind, good, bad) in cases {
            for word in *good {
                assert!(kind.take(word).is_some(), "{kind:?}: {word:?}");
            }
            for word in *bad {
                assert!(kind.take(word).is_none(), "{kind:?}: {word:?}");
            }
        }
    }

    #[test]
    fn an_empty_variable_is_an_unset_one_and_a_flag_wins() {
        let mut variables = of(&[("CPU", ""), ("ENABLE_KVM", "1"), ("MEM_ID", "x")]).unwrap();
        assert!(!variables.is_given(&CPU) && variables.is_given(&MEM_ID));
        assert_eq!(variables.get(&CPU), "EPYC");
        assert_eq!(variables.says(&ENABLE_KVM), Some(true));
        assert_eq!(variables.says(&ENABLE_TDX), None);
        variables.set(&MEM_ID, None);
        assert_eq!(variables.get(&MEM_ID), "x");
        variables.set(&MEM_ID, Some("y"));
        variables.set_default(&MEM_ID, "z");
        variables.set_default(&ENV_MOUNT, "/e");
        assert_eq!((variables.get(&MEM_ID), variables.get(&ENV_MOUNT)), ("y", "/e"));
    }

    /// Debian 12 has both sizes of its firmware, later releases the larger alone.
    #[test]
    fn a_host_without_the_smaller_firmware_has_the_larger() {
        let of_a_host = |files: &[&str]| of_this_host("/CODE.fd", |file| files.contains(&file));
        // Where there is neither, the one that is told is the one that everybody knows.
        assert_eq!(of_a_host(&[]), "/CODE.fd");
        assert_eq!(of_a_host(&["/CODE_4M.fd"]), "/CODE_4M.fd");
        assert_eq!(of_a_host(&["/CODE.fd", "/CODE_4M.fd"]), "/CODE.fd");
    }
}
