//! The launch digest of an IGVM file, as crate `igvm` computes it: what QEMU and KVM leave out or
//! change is not looked at, which `igvmmeasure --check-kvm` does.

use cvm_init::error::{Error, Result};
use igvm::{IgvmFile, IgvmPlatformHeader};
use igvm_defs::IgvmPlatformType;

use crate::measure::hash::Hash;

/// Who says so.
pub const BY: &str = "crate igvm 0.5, without igvmmeasure's checks for KVM";

/// The digest of an SNP guest that is started from this file.
///
/// # Errors
/// The file is broken, or not for SNP.
///
/// # Panics
/// Crate `igvm` does with some that are broken.
pub fn launch_digest(name: &str, data: &[u8]) -> Result<Hash<48>> {
    let refuse = |cause: &dyn std::fmt::Display| Error::cannot(&format_args!("read {name}"), cause);
    let file = IgvmFile::new_from_binary(data, None).map_err(|error| refuse(&error))?;
    let mask = file.platforms().iter().find_map(|platform| {
        let IgvmPlatformHeader::SupportedPlatform(platform) = platform;
        (platform.platform_type == IgvmPlatformType::SEV_SNP).then_some(platform.compatibility_mask)
    });
    let mask = mask.ok_or_else(|| refuse(&"it is not made for SEV-SNP"))?;
    let digest = igvm::measurement::generate_snp_measurement(
        file.initializations(),
        file.directives(),
        mask,
    );
    digest.map(Hash).map_err(|error| refuse(&error))
}

/// The digest that a program has printed, such as `igvmmeasure measure --bare`.
///
/// # Errors
/// It is none.
pub fn printed(output: &str) -> Result<Hash<48>> {
    let word = output.trim();
    let bytes = cvm_init::format::hex::decode(word).and_then(|bytes| bytes.try_into().ok());
    bytes.map(Hash).ok_or_else(|| Error::new(format!("no digest was printed but {word:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use igvm::{IgvmDirectiveHeader, IgvmInitializationHeader, IgvmRevision};
    use igvm_defs::{IGVM_VHS_SUPPORTED_PLATFORM, IgvmPageDataFlags, IgvmPageDataType};

    /// A file with these pages, from 4096 on, for a guest of this kind.
    fn file(platform_type: IgvmPlatformType, pages: &[&[u8]]) -> Vec<u8> {
        let platform = IGVM_VHS_SUPPORTED_PLATFORM {
            compatibility_mask: 1,
            highest_vtl: 0,
            platform_type,
            platform_version: 1,
            shared_gpa_boundary: 0,
        };
        let policy =
            IgvmInitializationHeader::GuestPolicy { policy: 0x30000, compatibility_mask: 1 };
        let page = |(index, data): (usize, &&[u8])| IgvmDirectiveHeader::PageData {
            gpa: (index as u64 + 1) * 4096,
            compatibility_mask: 1,
            flags: IgvmPageDataFlags::new(),
            data_type: IgvmPageDataType::NORMAL,
            data: data.to_vec(),
        };
        let pages = pages.iter().enumerate().map(page).collect();
        let platforms = vec![IgvmPlatformHeader::SupportedPlatform(platform)];
        let file = IgvmFile::new(IgvmRevision::V1, platforms, vec![policy], pages).unwrap();
        let mut bytes = Vec::new();
        file.serialize(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn pages_are_measured_one_behind_the_other() {
        let pages: [&[u8]; 2] = [&[1; 4096], &[2; 4096]];
        let measure = |value: Hash<48>, (index, page): (usize, &&[u8])| {
            let content = Hash::<48>::of(&[page]);
            let address = (index as u64 + 1) * 4096;
            let information = [0x70, 0, 1, 0, 0, 0, 0, 0];
            Hash::<48>::of(&[&value.0, &content.0, &information, &address.to_le_bytes()])
        };
        let expected = pages.iter().enumerate().fold(Hash::ZERO, measure);
        let file = |platform| file(platform, &pages);
        assert_eq!(launch_digest("a.igvm", &file(IgvmPlatformType::SEV_SNP)).unwrap(), expected);
        assert_eq!(
            launch_digest("a.igvm", &file(IgvmPlatformType::TDX)).unwrap_err().to_string(),
            "cannot read a.igvm: it is not made for SEV-SNP"
        );
    }

    #[test]
    fn what_is_printed_is_a_digest_or_refused() {
        let digits = "7CAC8D1A".repeat(12);
        assert_eq!(printed(&format!("\n{digits}\n")).unwrap().to_string(), digits.to_lowercase());
        for text in ["", "7CAC8D1A", "Launch Digest:"] {
            let error = printed(text).unwrap_err().to_string();
            assert_eq!(error, format!("no digest was printed but {text:?}"));
        }
    }

    #[test]
    fn what_is_no_igvm_file_is_refused() {
        for data in [&b""[..], b"IGVM", &[0; 4096]] {
            let error = launch_digest("a.igvm", data).unwrap_err().to_string();
            assert!(error.starts_with("cannot read a.igvm: "), "{error}");
        }
    }
}
