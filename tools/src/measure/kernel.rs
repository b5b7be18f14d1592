//! The kernel, a bzImage: its release, and what QEMU before 10.2 makes of its header.
//!
//! Source: Linux, `Documentation/arch/x86/boot.rst`.

use cvm_init::error::Result;

use crate::measure::bytes::Bytes;

const MAGIC_AT: u64 = 0x202;
const PROTOCOL_AT: u64 = 0x206;
/// Distance of the text of the version from the end of the boot sector, 0 for none.
const VERSION_AT: u64 = 0x20e;
const BOOT_SECTOR: u64 = 0x200;
const VERSION_MAX: u64 = 128;
const INITRD_MAX_AT: u64 = 0x22c;
const XLOADFLAGS_AT: u64 = 0x236;
const CAN_BE_LOADED_ABOVE_4G: u16 = 2;

/// The first whose EFI stub measures both the command line and the initramfs.
const MEASURES_SINCE: (u32, u32) = (6, 1);

/// What `uname -r` will say, where the header says it.
///
/// # Errors
/// The file is no kernel, or cut off.
pub fn release(name: &str, kernel: &[u8]) -> Result<Option<String>> {
    let file = header(name, kernel)?;
    let at = u64::from(file.le16("version", VERSION_AT)?);
    if at == 0 {
        return Ok(None);
    }
    let room = (file.len().saturating_sub(at + BOOT_SECTOR)).min(VERSION_MAX);
    let text = file.get("version", at + BOOT_SECTOR, room)?;
    let word = text.split(|byte| *byte == b' ' || *byte == 0).next().unwrap_or_default();
    Ok(Some(String::from_utf8_lossy(word).into_owned()))
}

/// Makes sure that the EFI stub of this kernel measures what it is given.
///
/// # Errors
/// It is older, or does not say what it is.
pub fn require_measuring(name: &str, kernel: &[u8]) -> Result<()> {
    let file = Bytes::new(name, kernel);
    let release = release(name, kernel)?.unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= MEASURES_SINCE => Ok(()),
        (Some(Ok(_)), Some(Ok(_))) => {
            Err(file.refuse(&format!("Linux {release} measures no command line, 6.1 and newer do")))
        }
        _ => Err(file.refuse("its header does not say which Linux it is")),
    }
}

/// The kernel as the firmware of a guest that is not of SEV gets it from QEMU before 10.2, which
/// fills in the fields of a boot loader's: `x86_load_linux` in `hw/i386/x86-common.c`, taken out
/// for firmwares by commit a7542a38f399. `memory` is the guest's, in bytes, on machine type q35.
///
/// # Errors
/// The file is no kernel or too old, or the initramfs does not fit.
pub fn of_older_qemu(
    name: &str,
    kernel: &[u8],
    initramfs: u64,
    cmdline: &str,
    memory: u64,
) -> Result<Vec<u8>> {
    /// What lies at the end of the memory below 4 GiB: ACPI tables and more.
    const RESERVED: u64 = 0x2_8000;
    const REAL_MODE: u32 = 0x1_0000;
    const CMDLINE: u32 = 0x2_0000;
    /// More memory than that leaves room for devices below 4 GiB ...
    const LOW_MAX: u64 = 0xb000_0000;
    /// ... and is cut here.
    const LOW_OF_MORE: u64 = 0x8000_0000;
    /// A boot loader without a number of its own, as QEMU's.
    const LOADER: u8 = 0xb0;
    const CAN_USE_HEAP: u8 = 0x80;
    let file = header(name, kernel)?;
    if file.le16("protocol", PROTOCOL_AT)? < 0x20c {
        return Err(file.refuse("its boot protocol is older than 2.12"));
    }
    if cmdline.contains("vga=") {
        return Err(file.refuse("QEMU changes its header further for vga= on the command line"));
    }
    let low = if memory >= LOW_MAX { LOW_OF_MORE } else { memory };
    let anywhere = file.le16("flags", XLOADFLAGS_AT)? & CAN_BE_LOADED_ABOVE_4G != 0;
    let own_max = if anywhere { u32::MAX } else { file.le32("initrd_addr_max", INITRD_MAX_AT)? };
    let top = low.checked_sub(RESERVED + 1).map(|max| max.min(u64::from(own_max)));
    let place = top.and_then(|top| top.checked_sub(initramfs)).map(|place| place & !4095);
    let (Some(place), Ok(size)) =
        (place.and_then(|at| u32::try_from(at).ok()), u32::try_from(initramfs))
    else {
        return Err(file.refuse("its initramfs does not fit into the memory"));
    };
    let flags = file.array::<1>("flags", 0x211)?;
    let mut changed = kernel.to_vec();
    for (at, bytes) in [
        (0x210, &[LOADER, flags[0] | CAN_USE_HEAP][..]),
        (0x218, &place.to_le_bytes()),
        (0x21c, &size.to_le_bytes()),
        // Where the heap ends, by the start of real mode and less what the protocol keeps.
        (0x224, &(CMDLINE - REAL_MODE - 0x200).to_le_bytes()[..2]),
        (0x228, &CMDLINE.to_le_bytes()),
    ] {
        let field = changed.get_mut(at..).and_then(|rest| rest.get_mut(..bytes.len()));
        field.ok_or_else(|| file.refuse("it ends within its header"))?.copy_from_slice(bytes);
    }
    Ok(changed)
}

fn header<'a>(name: &'a str, kernel: &'a [u8]) -> Result<Bytes<'a>> {
    let file = Bytes::new(name, kernel);
    if file.array("header", MAGIC_AT)? != *b"HdrS" {
        return Err(file.refuse("it is no Linux kernel (a bzImage has HdrS at byte 514)"));
    }
    Ok(file)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::measure::pe;
    use proptest::prelude::*;

    /// What serves as a kernel of this release: a program of the firmware with a setup header.
    pub(crate) fn sample(release: &str) -> Vec<u8> {
        let mut kernel = pe::tests::sample(&[(".text", &[5; 1000])]);
        kernel[0x202..][..4].copy_from_slice(b"HdrS");
        kernel[0x206..][..2].copy_from_slice(&0x20f_u16.to_le_bytes());
        kernel[0x20e..][..2].copy_from_slice(&0x140_u16.to_le_bytes());
        kernel[0x236] = 2;
        let version = format!("{release} (somebody) #1\0");
        kernel[0x340..][..version.len()].copy_from_slice(version.as_bytes());
        kernel
    }

    #[test]
    fn the_release_is_the_first_word_of_the_version() {
        assert_eq!(release("k", &sample("6.1.0-x")).unwrap().as_deref(), Some("6.1.0-x"));
        let mut without = sample("6.1.0");
        without[0x20e..][..2].fill(0);
        assert_eq!(release("k", &without).unwrap(), None);
        without[0x20e..][..2].fill(0xff);
        assert_eq!(
            release("k", &without).unwrap_err().to_string(),
            "cannot read k: it ends before its version"
        );
        assert_eq!(
            release("k", &[0; 1024]).unwrap_err().to_string(),
            "cannot read k: it is no Linux kernel (a bzImage has HdrS at byte 514)"
        );
    }

    #[test]
    fn a_kernel_has_to_measure() {
        for good in ["6.1.0-56-amd64", "6.12.1", "7.0", "10.0"] {
            require_measuring("k", &sample(good)).unwrap();
        }
        for (bad, why) in [
            ("5.10.0", "Linux 5.10.0 measures no command line, 6.1 and newer do"),
            ("6.0.1", "Linux 6.0.1 measures no command line, 6.1 and newer do"),
            ("next", "its header does not say which Linux it is"),
        ] {
            let error = require_measuring("k", &sample(bad)).unwrap_err();
            assert_eq!(error.to_string(), format!("cannot read k: {why}"));
        }
    }

    #[test]
    fn older_qemu_fills_in_what_a_boot_loader_would() {
        let kernel = sample("6.1.0");
        let changed = |memory: u64| of_older_qemu("k", &kernel, 0x1234, "quiet", memory).unwrap();
        let two_gib = changed(2 << 30);
        let expected: &[(usize, &[u8])] = &[
            (0x210, &[0xb0, 0x80]),
            // 0x80000000 - 0x28000 - 1 - 0x1234, rounded down to 4 KiB.
            (0x218, &0x7ffd_6000_u32.to_le_bytes()),
            (0x21c, &0x1234_u32.to_le_bytes()),
            (0x224, &[0, 0xfe]),
            (0x228, &[0, 0, 2, 0]),
        ];
        let mut by_hand = kernel.clone();
        for (at, bytes) in expected {
            by_hand[*at..][..bytes.len()].copy_from_slice(bytes);
        }
        assert!(two_gib == by_hand);
        // From 2.75 GiB on, what is below 4 GiB is 2 GiB again.
        assert!(changed(0xb000_0000) == two_gib && changed(1 << 40) == two_gib);
        assert!(changed(0xaff0_0000) != two_gib);
        let why = |cmdline: &str, memory| {
            of_older_qemu("k", &kernel, 0x1234, cmdline, memory).unwrap_err().to_string()
        };
        assert_eq!(why("", 4096), "cannot read k: its initramfs does not fit into the memory");
        assert!(why("vga=ask", 1 << 30).contains("vga="));
    }

    #[test]
    fn an_initramfs_stays_where_its_kernel_reaches() {
        let mut kernel = sample("6.1.0");
        kernel[0x236] = 0;
        kernel[0x22c..][..4].copy_from_slice(&0x0fff_ffff_u32.to_le_bytes());
        let changed = of_older_qemu("k", &kernel, 1, "", 2 << 30).unwrap();
        assert_eq!(changed[0x218..][..4], 0x0fff_f000_u32.to_le_bytes());
    }

    proptest! {
        #[test]
        fn no_kernel_panics(
            at in 0x1f1..0x260_usize,
            bytes in any::<[u8; 8]>(),
            length in 0..2048_usize,
            initramfs: u64,
            memory: u64,
        ) {
            let mut kernel = sample("6.1.0");
            kernel[at..][..8].copy_from_slice(&bytes);
            kernel.truncate(length);
            let _ = release("k", &kernel);
            let _ = require_measuring("k", &kernel);
            let _ = of_older_qemu("k", &kernel, initramfs, "", memory);
        }
    }
}
