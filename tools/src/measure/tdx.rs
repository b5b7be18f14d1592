//! The measurements of a TDX guest: MRTD over its firmware, RTMR1 and RTMR2 over what the firmware
//! boots directly.
//!
//! Sources: Intel, "TDX Module Base Architecture Specification", `TDH.MEM.PAGE.ADD` and
//! `TDH.MR.EXTEND`; UEFI 2.11, 38.4.1, for which register takes which event. A firmware without
//! `TdTcg2Dxe` extends no register.

use cvm_init::error::Result;
use sha2::{Digest as _, Sha384};

use crate::measure::direct::Direct;
use crate::measure::hash::Hash;
use crate::measure::ovmf::Firmware;
use crate::measure::pe::Pe;
use crate::measure::tpm::{CALLING, EXIT, EXITED, SEPARATOR};

/// In which order a VMM adds the pages of a section and has their content measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Each page is measured when it is added: KVM and QEMU of the mainline.
    PageByPage,
    /// All of them are added first: QEMU 8.2 with Ubuntu's patches.
    AllAddedFirst,
}

/// Bytes that one `TDH.MR.EXTEND` measures.
const CHUNK: usize = 256;

/// The measurement of the firmware.
///
/// # Errors
/// The firmware is not made for TDX.
pub fn mrtd(firmware: &Firmware<'_>, order: Order) -> Result<Hash<48>> {
    let sections = firmware.tdx_sections()?;
    let sections = sections.ok_or_else(|| firmware.refuse("it is not made for TDX"))?;
    let mut hasher = Sha384::new();
    for section in sections {
        let pages = || (0..section.size).step_by(4096).map(|at| (at, section.address + at));
        let extend = |hasher: &mut Sha384, at: u64, address: u64| {
            let start = usize::try_from(at).unwrap_or(usize::MAX);
            let data = section.data.get(start..).unwrap_or_default();
            for (index, chunk) in chunks(data).enumerate() {
                operation(hasher, b"MR.EXTEND", address + (index * CHUNK) as u64);
                hasher.update(chunk);
            }
        };
        for (at, address) in pages() {
            operation(&mut hasher, b"MEM.PAGE.ADD", address);
            if section.extended && order == Order::PageByPage {
                extend(&mut hasher, at, address);
            }
        }
        if section.extended && order == Order::AllAddedFirst {
            pages().for_each(|(at, address)| extend(&mut hasher, at, address));
        }
    }
    Ok(Hash(hasher.finalize().into()))
}

/// What names an operation and its address in the stream that is hashed: 128 bytes.
fn operation(hasher: &mut Sha384, name: &[u8], address: u64) {
    let mut padded = [0; 16];
    padded.iter_mut().zip(name).for_each(|(to, byte)| *to = *byte);
    hasher.update(padded);
    hasher.update(address.to_le_bytes());
    hasher.update([0; 104]);
}

/// A page of these bytes in chunks, with zeros behind their end.
fn chunks(data: &[u8]) -> impl Iterator<Item = [u8; CHUNK]> {
    (0..4096 / CHUNK).map(move |index| {
        let mut chunk = [0; CHUNK];
        let bytes = data.iter().skip(index * CHUNK);
        chunk.iter_mut().zip(bytes).for_each(|(to, byte)| *to = *byte);
        chunk
    })
}

/// What a direct boot extends RTMR1 by: the kernel, and the ends of the firmware's services.
///
/// # Errors
/// The kernel is no program for the firmware.
pub fn rtmr1(kernel: &[u8]) -> Result<Hash<48>> {
    let kernel = Pe::parse("the kernel", kernel)?.authenticode().sha384;
    let texts = [CALLING, SEPARATOR, EXIT, EXITED].map(|text| Hash::<48>::of(&[text]));
    Ok(texts.iter().fold(Hash::<48>::ZERO.extend(&kernel), |value, digest| value.extend(digest)))
}

/// What a direct boot extends RTMR2 by: command line and initramfs.
#[must_use]
pub fn rtmr2(boot: &Direct<'_>) -> Hash<48> {
    let digests = [Hash::<48>::of(&[&boot.load_options()]), Hash::<48>::of(&[boot.initramfs])];
    digests.iter().fold(Hash::ZERO, |value, digest| value.extend(digest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{kernel, ovmf};
    use igvm::IgvmDirectiveHeader;
    use igvm_defs::{IgvmPageDataFlags, IgvmPageDataType};

    /// What crate `igvm` says of a guest with the same pages in the same order.
    fn of_igvm(firmware: &Firmware<'_>) -> Hash<48> {
        let mut pages = Vec::new();
        for section in firmware.tdx_sections().unwrap().unwrap() {
            for at in (0..section.size).step_by(4096) {
                let start = usize::try_from(at).unwrap().min(section.data.len());
                let end = (start + 4096).min(section.data.len());
                pages.push(IgvmDirectiveHeader::PageData {
                    gpa: section.address + at,
                    compatibility_mask: 1,
                    flags: IgvmPageDataFlags::new().with_unmeasured(!section.extended),
                    data_type: IgvmPageDataType::NORMAL,
                    data: section.data[start..end].to_vec(),
                });
            }
        }
        Hash(igvm::measurement::generate_tdx_measurement(&pages, 1).unwrap())
    }

    #[test]
    fn mrtd_is_that_of_another_implementation() {
        let file = ovmf::tests::sample();
        let firmware = Firmware::parse("a.fd", &file).unwrap();
        let values =
            [Order::PageByPage, Order::AllAddedFirst].map(|order| mrtd(&firmware, order).unwrap());
        assert_eq!(values[0], of_igvm(&firmware));
        // By a script of few lines, which the values of published firmwares were checked with.
        assert_eq!(
            values.map(|value| value.to_string()),
            [
                "8cc5cc5dd5119080a3d241ae72964864ee612273d8183271f770ab914753cec5\
                 a5006be72deee219bd604e1d946e7410",
                "32c08ba48ba219d91f506dd50a36f30b462b985f19a12127ebf59ef32d27d6e1\
                 fda7562fa24026110e51c725e1616429",
            ]
        );
    }

    /// Debian's, of whatever version is installed.
    #[test]
    fn mrtd_of_a_real_firmware_is_that_of_another_implementation() {
        let file = std::fs::read("/usr/share/ovmf/OVMF.fd")
            .expect("cannot read /usr/share/ovmf/OVMF.fd; scripts/setup installs it");
        let firmware = Firmware::parse("OVMF.fd", &file).unwrap();
        let value = mrtd(&firmware, Order::PageByPage).unwrap();
        assert_eq!(value, of_igvm(&firmware));
        assert_ne!(value, mrtd(&firmware, Order::AllAddedFirst).unwrap());
    }

    #[test]
    fn what_is_measured_counts_and_what_is_not_does_not() {
        let of = |at: usize| {
            let mut file = ovmf::tests::sample();
            file[at] ^= 1;
            let firmware = Firmware::parse("a.fd", &file).unwrap();
            [Order::PageByPage, Order::AllAddedFirst].map(|order| mrtd(&firmware, order).unwrap())
        };
        // The variables, and a byte of the code.
        let (variables, others) = (of(0x100), of(0x200));
        assert_eq!(variables, others);
        let code = of(0x4000);
        assert!(code[0] != variables[0] && code[1] != variables[1]);
    }

    #[test]
    fn registers_of_a_direct_boot() {
        let kernel = kernel::tests::sample("6.1.0");
        let boot = Direct { kernel: &kernel, initramfs: b"i", cmdline: "a" };
        // By hand, as a log would be replayed.
        let replay = |digests: &[Hash<48>]| {
            digests.iter().fold([0; 48], |value, digest| Hash::<48>::of(&[&value, &digest.0]).0)
        };
        let of = |data: &[u8]| Hash::<48>::of(&[data]);
        let authenticode = Pe::parse("k", &kernel).unwrap().authenticode().sha384;
        let events = [
            authenticode,
            of(b"Calling EFI Application from Boot Option"),
            of(&[0; 4]),
            of(b"Exit Boot Services Invocation"),
            of(b"Exit Boot Services Returned with Success"),
        ];
        assert_eq!(rtmr1(&kernel).unwrap().0, replay(&events));
        let options: Vec<u8> = b"a initrd=initrd\0".iter().flat_map(|c| [*c, 0]).collect();
        assert_eq!(rtmr2(&boot).0, replay(&[of(&options), of(b"i")]));
        assert!(rtmr1(b"no kernel").is_err());
    }
}
