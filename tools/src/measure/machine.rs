//! What only the machine decides: the launch measurements, by firmware, processors and memory.

use cvm_init::error::{Error, Result};
use serde::Serialize;

use crate::measure::direct::Direct;
use crate::measure::document::{Document, FILE, File, Unknown};
use crate::measure::hash::{Digests, Hash};
use crate::measure::image::{CMDLINE, INITRAMFS, KERNEL, line};
use crate::measure::ovmf::Firmware;
use crate::measure::record::Record;
use crate::measure::tpm::{BOOT_MANAGER, Chain};
use crate::measure::{kernel, snp, tdx};

/// Names of QEMU's for whatever processors the host has.
const OF_THE_HOST: [&str; 2] = ["host", "max"];

/// What a guest of the image is launched as.
#[derive(Debug, Clone)]
pub struct Shape<'a> {
    /// Number of processors.
    pub vcpus: u32,
    /// Model of the processors, by QEMU's name.
    pub cpu: &'a str,
    /// `SEV_FEATURES` of the guest, each that it may have.
    pub features: &'a [u64],
    /// Bytes of memory.
    pub memory: u64,
}

/// The files beside an image that a direct boot is of.
#[derive(Debug, Clone, Copy)]
pub struct Files<'a> {
    /// [`KERNEL`].
    pub kernel: &'a [u8],
    /// [`INITRAMFS`].
    pub initramfs: &'a [u8],
    /// [`CMDLINE`].
    pub cmdline: &'a str,
    /// What the initramfs says in its stead.
    pub initramfs_words: &'a str,
}

/// The launch digest of an SNP guest that is booted directly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Snp {
    /// The firmware.
    pub ovmf: File,
    /// Number of processors.
    pub vcpus: u32,
    /// Model of the processors.
    pub cpu: String,
    /// `SEV_FEATURES`, as hexadecimal digits behind `0x`.
    pub guest_features: String,
    /// The digest.
    pub launch_digest: Hash<48>,
}

/// The launch digest of an IGVM file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Igvm {
    /// Name of the file.
    pub file: String,
    /// Of its content.
    pub sha256: Hash<32>,
    /// The digest.
    pub launch_digest: Hash<48>,
    /// Who computed it.
    pub by: String,
}

/// The measurements of a TDX guest that is booted directly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tdx {
    /// The firmware.
    pub ovmf: File,
    /// Of the firmware.
    pub mrtd: Hash<48>,
    /// The same, by [`tdx::Order::AllAddedFirst`].
    pub mrtd_all_added_first: Hash<48>,
    /// Of the kernel, by version of QEMU.
    pub rtmr1: Rtmr1,
    /// Of command line and initramfs.
    pub rtmr2: Hash<48>,
    /// What PID 1 records there, when it is told to; else zero.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtmr3: Option<Hash<48>>,
}

/// RTMR1, which depends on QEMU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rtmr1 {
    /// QEMU that hands over the kernel as it is.
    pub qemu_10_2: Hash<48>,
    /// QEMU that fills in the kernel's header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub older: Option<OfMemory<Hash<48>>>,
}

/// A value that depends on the memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OfMemory<T> {
    /// Bytes of memory.
    pub memory: u64,
    /// The value.
    pub value: T,
}

/// What is added to the document of the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// PCR 4 of a direct boot by QEMU before 10.2, of a guest that is not of SEV.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pcr_4_of_older_qemu: Option<OfMemory<Digests>>,
    /// SNP, with kernel hashes.
    pub snp: Vec<Snp>,
    /// SNP, from an IGVM file.
    pub igvm: Vec<Igvm>,
    /// TDX.
    pub tdx: Vec<Tdx>,
}

impl Files<'_> {
    /// Makes sure that they are what the document is of.
    ///
    /// # Errors
    /// Which one is not.
    pub fn require(&self, document: &Document) -> Result<()> {
        let inputs = &document.inputs;
        for (name, data, known) in [
            (KERNEL, self.kernel, inputs.kernel.sha256),
            (INITRAMFS, self.initramfs, inputs.initramfs.sha256),
            (CMDLINE, line(self.cmdline).as_bytes(), inputs.cmdline.sha256),
        ] {
            if Hash::<32>::of(&[data]) != known {
                let cause = format!("it is not the one that {FILE} is of");
                return Err(Error::cannot(&format_args!("use {name}"), &cause));
            }
        }
        Ok(())
    }

    /// What such a guest measures with each of these firmwares, and what of it cannot be told: what
    /// no firmware is for, and what none decides.
    ///
    /// # Errors
    /// The shape is none that a guest can have, or a firmware is broken or for neither SNP nor TDX.
    pub fn measure(
        &self,
        firmwares: &[(&str, &[u8])],
        shape: &Shape<'_>,
    ) -> Result<(Machine, Vec<Unknown>)> {
        let Self { kernel, initramfs, cmdline, initramfs_words } = *self;
        let boot = Direct { kernel, initramfs, cmdline: line(cmdline) };
        let signature = shape.signature()?;
        let mut unknown = Vec::new();
        let mut untold = |value: &str, error: Error| unknown.push(Unknown::of(value, &error));

        let older = shape.older_qemu(&boot);
        let pcr_4_of_older_qemu = older
            .as_deref()
            .map_err(Clone::clone)
            .and_then(|kernel| pcr_4(&Direct { kernel, ..boot }))
            .map(|value| OfMemory { memory: shape.memory, value })
            .map_err(|error| untold("PCR 4 of a direct boot by QEMU before 10.2", error))
            .ok();
        let mut machine =
            Machine { pcr_4_of_older_qemu, snp: Vec::new(), igvm: Vec::new(), tdx: Vec::new() };
        if firmwares.is_empty() {
            untold("SNP and TDX", Error::new("there is no firmware: name one with --ovmf"));
        }
        let record = Record::of(line(cmdline), initramfs_words).map(|record| record.rtmr3());
        let (mut no_snp, mut no_tdx) = (None, None);
        for (name, data) in firmwares {
            let firmware = Firmware::parse(name, data)?;
            if firmware.hash_table()?.is_none() && firmware.tdx_sections()?.is_none() {
                return Err(firmware
                    .refuse("it is made neither for SEV-SNP with kernel hashes nor for TDX"));
            }
            let file = File::of(name, data);
            match shape.snp(&firmware, &file, boot, signature) {
                Ok(digests) => machine.snp.extend(digests),
                Err(error) => no_snp = no_snp.or(Some(error)),
            }
            match shape.tdx(&firmware, file, boot, older.as_deref().ok()) {
                Ok(registers) => {
                    machine.tdx.push(Tdx { rtmr3: record.as_ref().ok().copied(), ..registers });
                }
                Err(error) => no_tdx = no_tdx.or(Some(error)),
            }
        }
        if let Some(error) = no_snp.filter(|_| machine.snp.is_empty()) {
            untold("launch digest of a direct boot on SNP", error);
        }
        if let Some(error) = no_tdx.filter(|_| machine.tdx.is_empty()) {
            untold("MRTD, RTMR1 and RTMR2 of a direct boot on TDX", error);
        }
        if !machine.tdx.is_empty() {
            if let Err(error) = record {
                untold("RTMR3", error);
            }
            unknown.extend(of_tdx());
        }
        Ok((machine, unknown))
    }
}

impl Shape<'_> {
    /// The signature of the processors; none where they are those of the host.
    fn signature(&self) -> Result<Option<u32>> {
        if OF_THE_HOST.contains(&self.cpu) { Ok(None) } else { snp::signature(self.cpu).map(Some) }
    }

    /// The kernel as QEMU before 10.2 hands it over.
    fn older_qemu(&self, boot: &Direct<'_>) -> Result<Vec<u8>> {
        let initramfs = boot.initramfs.len() as u64;
        kernel::of_older_qemu(KERNEL, boot.kernel, initramfs, boot.cmdline, self.memory)
    }

    /// A launch digest for each of the features.
    fn snp(
        &self,
        firmware: &Firmware<'_>,
        ovmf: &File,
        boot: Direct<'_>,
        signature: Option<u32>,
    ) -> Result<Vec<Snp>> {
        let of_the_host = || Error::new(format!("processors of model {} are the host's", self.cpu));
        let (vcpus, signature) = (self.vcpus, signature.ok_or_else(of_the_host)?);
        let digests = self.features.iter().map(|features| {
            let guest = snp::Guest { firmware, boot, vcpus, signature, features: *features };
            Ok(Snp {
                ovmf: ovmf.clone(),
                vcpus,
                cpu: self.cpu.to_owned(),
                guest_features: format!("{features:#x}"),
                launch_digest: guest.launch_digest()?,
            })
        });
        digests.collect()
    }

    fn tdx(
        &self,
        firmware: &Firmware<'_>,
        ovmf: File,
        boot: Direct<'_>,
        older: Option<&[u8]>,
    ) -> Result<Tdx> {
        let older = older.map(|kernel| {
            let value = tdx::rtmr1(kernel)?;
            Ok(OfMemory { memory: self.memory, value })
        });
        Ok(Tdx {
            ovmf,
            mrtd: tdx::mrtd(firmware, tdx::Order::PageByPage)?,
            mrtd_all_added_first: tdx::mrtd(firmware, tdx::Order::AllAddedFirst)?,
            rtmr1: Rtmr1 { qemu_10_2: tdx::rtmr1(boot.kernel)?, older: older.transpose()? },
            rtmr2: tdx::rtmr2(&boot),
            rtmr3: None,
        })
    }
}

/// PCR 4 of a direct boot.
fn pcr_4(boot: &Direct<'_>) -> Result<Digests> {
    let chain = Chain::of(Vec::new(), boot.events()?);
    let value =
        |pcr| Some(Digests { sha256: *chain.sha256.get(pcr)?, sha384: *chain.sha384.get(pcr)? });
    value(&BOOT_MANAGER).ok_or_else(|| Error::new("there is no PCR 4"))
}

/// What neither firmware nor image decide of a TDX guest.
fn of_tdx() -> Vec<Unknown> {
    [
        ("RTMR0", "the host's: memory map, ACPI tables, boot variables, Secure Boot's keys"),
        (
            "RTMR1 and RTMR2 of a boot from the disk",
            "its events in SHA-384, replayed in the order of the firmware's log",
        ),
    ]
    .map(|(value, why)| Unknown::of(value, &why))
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::ovmf;
    use crate::measure::record::tests::words;

    const SHAPE: Shape<'_> =
        Shape { vcpus: 4, cpu: "EPYC", features: &[0x1, 0x21], memory: 2 << 30 };

    fn measure(ovmf: &[&[u8]], shape: &Shape<'_>) -> Result<(Machine, Vec<String>)> {
        measure_by(&words(""), ovmf, shape)
    }

    fn measure_by(
        words: &str,
        ovmf: &[&[u8]],
        shape: &Shape<'_>,
    ) -> Result<(Machine, Vec<String>)> {
        let kernel = kernel::tests::sample("6.1.0");
        let cmdline = &format!("{words}\n");
        let files = Files { kernel: &kernel, initramfs: b"i", cmdline, initramfs_words: "" };
        let firmwares: Vec<_> = ["a.fd", "b.fd"].into_iter().zip(ovmf.iter().copied()).collect();
        let (machine, unknown) = files.measure(&firmwares, shape)?;
        Ok((machine, unknown.into_iter().map(|of| format!("{}: {}", of.value, of.why)).collect()))
    }

    #[test]
    fn a_firmware_for_both_is_measured_for_both() {
        let file = ovmf::tests::sample();
        let (machine, unknown) = measure(&[&file], &SHAPE).unwrap();
        let features: Vec<_> = machine.snp.iter().map(|snp| snp.guest_features.as_str()).collect();
        assert_eq!(features, ["0x1", "0x21"]);
        assert_ne!(machine.snp[0].launch_digest, machine.snp[1].launch_digest);
        let tdx = &machine.tdx[0];
        let rtmr1 = &tdx.rtmr1;
        assert_ne!(rtmr1.older.as_ref().unwrap().value, rtmr1.qemu_10_2);
        assert_ne!(tdx.mrtd, tdx.mrtd_all_added_first);
        assert!(machine.pcr_4_of_older_qemu.is_some());
        assert_eq!(tdx.rtmr3, Some(Hash::<48>::ZERO));
        assert_eq!(unknown.len(), 2, "{unknown:?}");
        assert!(unknown[0].starts_with("RTMR0: "));
    }

    /// A launcher has one for SNP and another for TDX.
    #[test]
    fn each_firmware_is_measured_for_what_it_is_for() {
        let (both, for_tdx) = (ovmf::tests::sample(), ovmf::tests::sample_without_hashes());
        let (machine, unknown) = measure(&[&for_tdx, &both], &SHAPE).unwrap();
        let files: Vec<_> = machine.snp.iter().map(|snp| snp.ovmf.file.as_str()).collect();
        assert_eq!(files, ["b.fd", "b.fd"]);
        let files: Vec<_> = machine.tdx.iter().map(|tdx| tdx.ovmf.file.as_str()).collect();
        assert_eq!(files, ["a.fd", "b.fd"]);
        assert_eq!(unknown.len(), 2, "{unknown:?}");
        let (machine, unknown) = measure(&[&for_tdx], &SHAPE).unwrap();
        assert!(machine.snp.is_empty());
        assert!(unknown[0].starts_with("launch digest of a direct boot on SNP: "), "{unknown:?}");
    }

    #[test]
    fn rtmr3_is_what_pid_1_is_told_to_record_there() {
        let file = ovmf::tests::sample();
        let of = |words: &str| measure_by(words, &[&file], &SHAPE).unwrap();
        let (machine, _) = of(&words("cvm.measure=rtmr3"));
        assert_ne!(machine.tdx[0].rtmr3, Some(Hash::<48>::ZERO));
        let (machine, unknown) = of("a");
        assert_eq!(machine.tdx[0].rtmr3, None);
        assert_eq!(unknown[0], "RTMR3: roothash= is missing");
    }

    #[test]
    fn what_cannot_be_told_is_named() {
        let file = ovmf::tests::sample();
        let (machine, unknown) = measure(&[&file], &Shape { cpu: "host", ..SHAPE }).unwrap();
        assert!(machine.snp.is_empty() && machine.tdx.len() == 1);
        assert_eq!(
            unknown[0],
            "launch digest of a direct boot on SNP: processors of model host are the host's"
        );
        let (machine, unknown) = measure(&[], &Shape { memory: 4096, ..SHAPE }).unwrap();
        assert!(machine.snp.is_empty() && machine.tdx.is_empty());
        assert_eq!(
            unknown,
            [
                "PCR 4 of a direct boot by QEMU before 10.2: cannot read bzImage: its initramfs does not \
                 fit into the memory",
                "SNP and TDX: there is no firmware: name one with --ovmf",
            ]
        );
    }

    #[test]
    fn what_is_wrong_is_an_error() {
        let file = ovmf::tests::sample();
        let why = |file: &[u8], shape: &Shape<'_>| measure(&[file], shape).unwrap_err().to_string();
        assert!(
            why(&file, &Shape { cpu: "EPIC", ..SHAPE }).starts_with("CPU EPIC is none of EPYC, ")
        );
        assert!(why(&file[1..], &SHAPE).starts_with("cannot read a.fd: it is no OVMF"));
    }
}
