//! `cvm-tools measure-igvm`, which stands for igvmmeasure where there is none.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use igvm::{
    IgvmDirectiveHeader, IgvmFile, IgvmInitializationHeader, IgvmPlatformHeader, IgvmRevision,
};
use igvm_defs::{
    IGVM_VHS_SUPPORTED_PLATFORM, IgvmPageDataFlags, IgvmPageDataType, IgvmPlatformType,
};

/// A file of two pages for a guest of SNP.
fn sample() -> Vec<u8> {
    let platform = IGVM_VHS_SUPPORTED_PLATFORM {
        compatibility_mask: 1,
        highest_vtl: 0,
        platform_type: IgvmPlatformType::SEV_SNP,
        platform_version: 1,
        shared_gpa_boundary: 0,
    };
    let policy = IgvmInitializationHeader::GuestPolicy { policy: 0x30000, compatibility_mask: 1 };
    let page = |number: u8| IgvmDirectiveHeader::PageData {
        gpa: u64::from(number) * 4096,
        compatibility_mask: 1,
        flags: IgvmPageDataFlags::new(),
        data_type: IgvmPageDataType::NORMAL,
        data: vec![number; 4096],
    };
    let platforms = vec![IgvmPlatformHeader::SupportedPlatform(platform)];
    let pages = vec![page(1), page(2)];
    let file = IgvmFile::new(IgvmRevision::V1, platforms, vec![policy], pages).unwrap();
    let mut bytes = Vec::new();
    file.serialize(&mut bytes).unwrap();
    bytes
}

fn measure(file: &Path, data: &[u8]) -> Output {
    fs::write(file, data).unwrap();
    Command::new(env!("CARGO_BIN_EXE_cvm-tools")).arg("measure-igvm").arg(file).output().unwrap()
}

fn place(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// CRC-32 of IEEE 802.3.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ ((crc & 1) * 0xedb8_8320))
    })
}

#[test]
fn a_digest_is_all_that_is_printed() {
    let output = measure(&place("good.igvm"), &sample());
    assert!(output.status.success());
    let printed = String::from_utf8(output.stdout).unwrap();
    let digits = printed.strip_suffix('\n').unwrap();
    assert!(digits.len() == 96 && digits.bytes().all(|c| c.is_ascii_hexdigit()), "{printed}");
}

/// Each byte of the headers changed, under a checksum that is right, and the file cut off there: a
/// digest, or a line of reason.
#[test]
fn no_file_is_met_with_silence() {
    let whole = sample();
    let path = place("broken.igvm");
    let field = |at: usize| u32::from_le_bytes(*whole[at..].first_chunk().unwrap()) as usize;
    let (start, end) = (field(8), field(8) + field(12));
    let cannot = format!("cannot read {}: ", path.display());
    let refused = |output: &Output| {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let last = said.lines().last().unwrap_or_default();
        output.status.code() == Some(1) && last.starts_with(&cannot)
    };
    let mut good = 0;
    for at in start..end {
        assert!(refused(&measure(&path, &whole[..at])), "{at}");
        for byte in [0x01, 0xff] {
            let mut changed = whole.clone();
            changed[at] = byte;
            changed[20..24].fill(0);
            let checksum = crc32(&changed[..end]);
            changed[20..24].copy_from_slice(&checksum.to_le_bytes());
            let output = measure(&path, &changed);
            good += usize::from(output.status.success());
            assert!(output.status.success() || refused(&output), "{at} {byte:#x}: {output:?}");
        }
    }
    // The checksums were.
    assert!(good > 10, "{good}");
}
