//! The launch digest of an SEV-SNP guest whose firmware checks kernel, initramfs and command line
//! against hashes in its own memory: QEMU's `kernel-hashes=on`, without an IGVM file.
//!
//! Sources: AMD, "SEV Secure Nested Paging Firmware ABI", 8.17 (`SNP_LAUNCH_UPDATE`, page
//! information) and "AMD64 Architecture Programmer's Manual", volume 2, table B-4 (VMSA); QEMU,
//! `target/i386/sev.c`.

use cvm_init::error::{Error, Result};

use crate::measure::direct::Direct;
use crate::measure::hash::Hash;
use crate::measure::ovmf::{Firmware, PAGE, TOP, guid, page};

/// Each CPU model of QEMU that such a guest can have, with family, model and stepping.
const CPUS: &[(&str, [u32; 3])] = &[
    ("EPYC", [23, 1, 2]),
    ("EPYC-IBPB", [23, 1, 2]),
    ("EPYC-Rome", [23, 49, 0]),
    ("EPYC-Milan", [25, 1, 1]),
    ("EPYC-Genoa", [25, 17, 0]),
    ("EPYC-Turin", [26, 0, 0]),
];

/// Processors of a guest.
const VCPUS_MAX: u32 = 4096;

/// Page types of `SNP_LAUNCH_UPDATE`.
const NORMAL: u8 = 1;
const VMSA: u8 = 2;
const ZERO: u8 = 3;
const SECRETS: u8 = 5;
const CPUID: u8 = 6;

/// Kinds of sections of the firmware's metadata.
const SECTION_MEMORY: u32 = 1;
const SECTION_SECRETS: u32 = 2;
const SECTION_CPUID: u32 = 3;
const SECTION_SVSM: u32 = 4;
const SECTION_HASHES: u32 = 0x10;

/// Where KVM puts the state of each processor.
const VMSA_ADDRESS: u64 = 0xffff_ffff_f000;
/// Where the first processor begins, by the architecture.
const RESET: u32 = 0xffff_fff0;

const HASHES: [u8; 16] = guid(0x9438_d606, 0x4f22, 0x4cc9, 0xb479_a793_d411_fd21);
const CMDLINE: [u8; 16] = guid(0x97d0_2dd8, 0xbd20, 0x4c94, 0xaa78_e771_4d36_ab2a);
const INITRD: [u8; 16] = guid(0x44ba_f731, 0x3a2f, 0x4bd7, 0x9af1_41e2_9169_781d);
const KERNEL: [u8; 16] = guid(0x4de7_9437, 0xabd2, 0x427f, 0xb835_d5b1_72d2_045b);

/// A guest, by what its launch digest depends on.
#[derive(Debug, Clone, Copy)]
pub struct Guest<'a> {
    /// The firmware.
    pub firmware: &'a Firmware<'a>,
    /// What it is booted with.
    pub boot: Direct<'a>,
    /// Number of processors.
    pub vcpus: u32,
    /// CPUID signature, by [`signature`].
    pub signature: u32,
    /// `SEV_FEATURES` of each VMSA.
    pub features: u64,
}

/// The CPUID signature of a CPU model of QEMU's, also of one with a version, such as `EPYC-v4`: its
/// family, model and stepping (AMD, "CPUID Specification", function 1).
///
/// # Errors
/// The model is none that is known.
pub fn signature(cpu: &str) -> Result<u32> {
    let base = match cpu.rsplit_once("-v") {
        Some((base, version)) if version.parse::<u8>().is_ok() => base,
        _ => cpu,
    };
    let Some((_, [family, model, stepping])) = CPUS.iter().find(|(name, _)| *name == base) else {
        let names: Vec<_> = CPUS.iter().map(|(name, _)| *name).collect();
        return Err(Error::new(format!(
            "CPU {cpu} is none of {}, or one of them with -vN",
            names.join(", ")
        )));
    };
    Ok((family - 15) << 20 | (model >> 4) << 16 | 15 << 8 | (model & 15) << 4 | stepping)
}

impl Guest<'_> {
    /// The launch digest, as an attestation report has it in MEASUREMENT.
    ///
    /// # Errors
    /// The firmware has no place for the hashes, so that nothing of what is booted is measured; or
    /// it asks for what is not known.
    pub fn launch_digest(&self) -> Result<Hash<48>> {
        let firmware = self.firmware;
        let sections = firmware.sev_sections()?;
        let sections = sections.ok_or_else(|| firmware.refuse("it is not made for SEV-SNP"))?;
        let no_place =
            || firmware.refuse("it has no place for hashes of kernel, initramfs and command line");
        let table = firmware.hash_table()?.ok_or_else(no_place)?;
        if self.vcpus == 0 || self.vcpus > VCPUS_MAX {
            return Err(Error::new(format!(
                "{} processors, not from 1 to {VCPUS_MAX}",
                self.vcpus
            )));
        }
        let mut digest = Digest(Hash::ZERO);
        digest.pages(TOP - firmware.data().len() as u64, firmware.data());
        let mut hashed = false;
        for section in sections {
            match section.kind {
                SECTION_MEMORY | SECTION_SVSM => {
                    for at in (0..section.size).step_by(4096) {
                        digest.page(ZERO, section.address + at, None);
                    }
                }
                SECTION_SECRETS => digest.page(SECRETS, section.address, None),
                SECTION_CPUID => digest.page(CPUID, section.address, None),
                SECTION_HASHES if section.size == PAGE && table_fits(table, section.address) => {
                    digest.pages(section.address, &page(&[(table % PAGE, &self.hashes())]));
                    hashed = true;
                }
                kind => return Err(firmware.refuse(&format!("it has a section of kind {kind:#x}"))),
            }
        }
        if !hashed {
            return Err(no_place());
        }
        let first = self.state(RESET);
        digest.page(VMSA, VMSA_ADDRESS, Some(&first));
        if self.vcpus > 1 {
            let reset = firmware.reset_address()?;
            let reset = reset
                .ok_or_else(|| firmware.refuse("it has no place where further processors begin"))?;
            let state = self.state(reset);
            for _ in 1..self.vcpus {
                digest.page(VMSA, VMSA_ADDRESS, Some(&state));
            }
        }
        Ok(digest.0)
    }

    /// The table that the firmware holds what it boots against.
    fn hashes(&self) -> Vec<u8> {
        let cmdline: &[&[u8]] = &[self.boot.cmdline.as_bytes(), b"\0"];
        let mut entries = Vec::new();
        for (guid, content) in
            [(CMDLINE, cmdline), (INITRD, &[self.boot.initramfs]), (KERNEL, &[self.boot.kernel])]
        {
            let hash = Hash::<32>::of(content);
            // Each with the length of itself.
            entries.extend([&guid[..], &50_u16.to_le_bytes(), &hash.0].concat());
        }
        [&HASHES[..], &168_u16.to_le_bytes(), &entries].concat()
    }

    /// The state that a processor starts with, a page.
    fn state(&self, reset: u32) -> Vec<u8> {
        let data = segment(0, 0x93, 0);
        let (base, ip) = (reset & 0xffff_0000, reset & 0xffff);
        page(&[
            (0x00, &data),
            (0x10, &segment(0xf000, 0x9b, base)),
            (0x20, &data),
            (0x30, &data),
            (0x40, &data),
            (0x50, &data),
            (0x60, &segment(0, 0, 0)),                         // gdtr
            (0x70, &segment(0, 0x82, 0)),                      // ldtr
            (0x80, &segment(0, 0, 0)),                         // idtr
            (0x90, &segment(0, 0x8b, 0)),                      // tr
            (0x0d0, &0x1000_u64.to_le_bytes()),                // efer, to which KVM adds SVME
            (0x148, &0x40_u64.to_le_bytes()),                  // cr4, to which KVM adds MCE
            (0x158, &0x10_u64.to_le_bytes()),                  // cr0
            (0x160, &0x400_u64.to_le_bytes()),                 // dr7
            (0x168, &0xffff_0ff0_u64.to_le_bytes()),           // dr6
            (0x170, &2_u64.to_le_bytes()),                     // rflags
            (0x178, &u64::from(ip).to_le_bytes()),             // rip
            (0x268, &0x0007_0406_0007_0406_u64.to_le_bytes()), // pat
            (0x310, &u64::from(self.signature).to_le_bytes()), // rdx
            (0x3b0, &self.features.to_le_bytes()),             // sev_features
            (0x3e8, &1_u64.to_le_bytes()),                     // xcr0
            (0x408, &0x1f80_u32.to_le_bytes()),                // mxcsr
            (0x410, &0x37f_u16.to_le_bytes()),                 // x87 control word
        ])
    }
}

/// Whether the table of hashes lies within the page at this address.
fn table_fits(table: u64, page: u64) -> bool {
    /// Bytes of the table, padded to 16.
    const SIZE: u64 = 176;
    table.checked_sub(page).is_some_and(|at| at <= PAGE - SIZE)
}

/// A segment register: selector, attributes, a limit of 64 KiB, base.
fn segment(selector: u16, attributes: u16, base: u32) -> [u8; 16] {
    let low = u128::from(selector) | u128::from(attributes) << 16 | 0xffff << 32;
    (low | u128::from(base) << 64).to_le_bytes()
}

/// A launch digest in the making.
struct Digest(Hash<48>);

impl Digest {
    /// A page of this type, whose content counts where it has one.
    fn page(&mut self, kind: u8, address: u64, content: Option<&[u8]>) {
        /// Bytes of the page information, as it says itself.
        const LENGTH: u16 = 112;
        let content = content.map_or(Hash::ZERO, |content| Hash::<48>::of(&[content]));
        self.0 = Hash::<48>::of(&[
            &self.0.0,
            &content.0,
            &LENGTH.to_le_bytes(),
            // Neither migrated nor for less privileged levels of the guest.
            &[kind, 0, 0, 0, 0, 0],
            &address.to_le_bytes(),
        ]);
    }

    fn pages(&mut self, address: u64, data: &[u8]) {
        for (index, page) in data.chunks(4096).enumerate() {
            self.page(NORMAL, address + index as u64 * PAGE, Some(page));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::ovmf;

    fn digest(vcpus: u32, cpu: &str, features: u64) -> String {
        let file = ovmf::tests::sample();
        let firmware = &Firmware::parse("a.fd", &file).unwrap();
        let boot = Direct { kernel: b"the kernel", initramfs: b"the initramfs", cmdline: "quiet" };
        let signature = signature(cpu).unwrap();
        let guest = Guest { firmware, boot, vcpus, signature, features };
        guest.launch_digest().unwrap().to_string()
    }

    /// Processors, model, features, and what sev-snp-measure 0.0.13 says of the same files.
    const GOLDEN: &[(u32, &str, u64, &str)] = &[
        (
            1,
            "EPYC",
            0x1,
            "c32ceaa7ba1cc281861688f8afb7071ce28ab79f775f1e78a12365c67cca1336\
             9d5249bda86a68634b81860c9b45deec",
        ),
        (
            4,
            "EPYC",
            0x1,
            "212031a17c05650254018518b68ef1eabbf84728201bc77ccac9b77512f18127\
             9f0169afe6d2b1f6f0a67551e2b13ffd",
        ),
        (
            4,
            "EPYC-v4",
            0x21,
            "394c0c2f7cf3790ca3d080301cd5daad5a126f3d07c93c7f5a8cf333cc6fccf0\
             e48b6f8cf19ac665ea444a9f9b3ee01a",
        ),
        (
            1,
            "EPYC-Milan",
            0x1,
            "9721c66c00588d771f937787fede366af50002eb4c0aa4e2ed0a5ae6da7da039\
             11329d262b775196166be2953c1f2d50",
        ),
        (
            4,
            "EPYC-Milan",
            0x21,
            "bf4fc461439f7034a46ecea8580b9a4387e01d04d584e62719af224435d549b0\
             82c1310455582d6af09ad2fb6ad5c813",
        ),
        (
            2,
            "EPYC-Genoa",
            0x1,
            "e69b86c922c37e896c072c8087499b0bc27415ee64eda4ea33f19b4934829e27\
             530e7cf03326006ab86ad2ecfa46fd23",
        ),
    ];

    #[test]
    fn digests_are_those_of_another_tool() {
        for (vcpus, cpu, features, expected) in GOLDEN {
            assert_eq!(
                digest(*vcpus, cpu, *features),
                *expected,
                "{vcpus} of {cpu}, {features:#x}"
            );
        }
    }

    #[test]
    fn models_have_the_signature_of_their_family() {
        for (cpu, expected) in [
            ("EPYC", 0x80_0f12),
            ("EPYC-v4", 0x80_0f12),
            ("EPYC-IBPB", 0x80_0f12),
            ("EPYC-Rome", 0x83_0f10),
            ("EPYC-Milan-v2", 0xa0_0f11),
            ("EPYC-Genoa", 0xa1_0f10),
            ("EPYC-Turin", 0xb0_0f00),
        ] {
            assert_eq!(signature(cpu).unwrap(), expected, "{cpu}");
        }
        for cpu in ["", "EPIC", "EPYC-v", "EPYC-Milan-2", "host"] {
            let error = signature(cpu).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("CPU {cpu} is none of EPYC, EPYC-IBPB, ")),
                "{error}"
            );
        }
    }

    #[test]
    fn a_guest_of_which_nothing_is_measured_has_no_digest() {
        let boot = Direct { kernel: b"k", initramfs: b"i", cmdline: "" };
        let why = |change: &dyn Fn(&mut Vec<u8>), vcpus: u32| {
            let mut file = ovmf::tests::sample();
            change(&mut file);
            let firmware = &Firmware::parse("a.fd", &file).unwrap();
            let guest = Guest { firmware, boot, vcpus, signature: 1, features: 1 };
            guest.launch_digest().unwrap_err().to_string()
        };
        let set = |at: usize, byte: u8| move |file: &mut Vec<u8>| file[at] = byte;
        let sections = ovmf::tests::SIZE - 0x400 + 16;
        // The last section is the place of the hashes; the one before serves COCONUT-SVSM.
        assert_eq!(
            why(&set(sections + 5 * 12 + 8, 0x11), 1),
            "cannot read a.fd: it has a section of kind 0x11"
        );
        assert_eq!(
            why(&set(sections + 5 * 12 + 8, 4), 1),
            "cannot read a.fd: it has no place for hashes of kernel, initramfs and command line"
        );
        // Its table would lie in another page.
        assert_eq!(
            why(&set(sections + 5 * 12 + 1, 0x10), 1),
            "cannot read a.fd: it has a section of kind 0x10"
        );
        // Nor may it reach beyond its own. The entry is the third before the end.
        let entry = ovmf::tests::SIZE - 32 - 18 - 22 - 26;
        assert_eq!(
            why(&|file| file[entry..][..2].copy_from_slice(&[0x51, 0x0f]), 1),
            "cannot read a.fd: it has a section of kind 0x10"
        );
        assert_eq!(why(&|_| {}, 0), "0 processors, not from 1 to 4096");
        assert_eq!(why(&|_| {}, 5000), "5000 processors, not from 1 to 4096");
    }
}
