//! The chain of a unified kernel image: systemd's stub and what it starts, in one file.
//!
//! Source: systemd 252, `src/boot/efi/stub.c` and `src/fundamental/tpm-pcr.h`. Later ones measure
//! more sections, and hand the kernel another initramfs than the one in the file.

use cvm_init::error::{Error, Result};

use crate::measure::bytes::find;
use crate::measure::pe::Pe;
use crate::measure::tpm::{BOOT_CONFIG, BOOT_MANAGER, Event, FILES, GRUB_COMMANDS, UKI};
use crate::measure::tpm::{UKI_EXTENSIONS, UKI_PARAMETERS, utf16};

/// The versions that are known.
const KNOWN: &[&str] = &["252", "257"];
/// What the stub has in its `.sdmagic`, before and behind its version.
const MAGIC: &[u8] = b"#### LoaderInfo: systemd-stub ";
const MAGIC_END: &[u8] = b" ####";

/// The sections that the stub measures, in its order; those that are there. 252 leaves out those of
/// [`SINCE_257`].
const MEASURED: [&str; 10] = [
    ".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat",
    ".pcrpkey",
];
const SINCE_257: [&str; 3] = [".ucode", ".uname", ".sbat"];

/// What the firmware measures of the kernel when the stub has it start that. Where Secure Boot is on,
/// the kernel, which is unsigned, is started by a stub that answers for it, and the firmware neither
/// verifies nor measures it: that is in register 11 only (`install_security_override` in
/// `src/boot/efi/secure-boot.c`).
pub const LINUX: &str = "Authenticode of section .linux";

/// The version of the stub, such as `252.39-1~deb12u1`; nothing where the file does not say.
#[must_use]
pub fn version(image: &Pe<'_>) -> Option<String> {
    let magic = image.section(".sdmagic")?;
    let behind = magic.get(find(magic, MAGIC)? + MAGIC.len()..)?;
    let text = behind.get(..find(behind, MAGIC_END)?)?;
    text.iter().all(u8::is_ascii_graphic).then(|| String::from_utf8_lossy(text).into_owned())
}

/// Makes sure that this stub is one whose events are known.
///
/// # Errors
/// It is another.
pub fn require_known(version: Option<&str>) -> Result<()> {
    let of_what = "the boot loader does not say which systemd-stub it is";
    let version = version.ok_or_else(|| Error::new(of_what))?;
    if KNOWN.contains(&major(version)) {
        return Ok(());
    }
    Err(Error::new(format!("systemd-stub {version} is not known, {} are", KNOWN.join(" and "))))
}

fn major(version: &str) -> &str {
    version.split(['.', '-', '~', '+', ' ']).next().unwrap_or_default()
}

/// The events of a boot of this image, on a disk with this partition table, or from a CD: of one that
/// it starts by El Torito the firmware measures no table.
///
/// # Errors
/// A section is missing or broken.
pub fn events(image: &Pe<'_>, gpt: Option<&[u8]>) -> Result<Vec<Event>> {
    let section = |name: &str| {
        let missing = || Error::new(format!("the unified kernel image has no section {name}"));
        image.section(name).ok_or_else(missing)
    };
    let (linux, cmdline, initrd) = (section(".linux")?, section(".cmdline")?, section(".initrd")?);
    let kernel = Pe::parse("section .linux", linux)?;
    let cmdline = std::str::from_utf8(cmdline)
        .map_err(|_| Error::new("the section .cmdline is not UTF-8"))?;
    let mut events =
        vec![Event::calling(), Event::separator(BOOT_MANAGER), Event::separator(BOOT_CONFIG)];
    events.extend(gpt.map(|gpt| Event::of(BOOT_CONFIG, "partition table: GPT", &[gpt])));
    events.push(Event::digest(
        BOOT_MANAGER,
        "Authenticode of EFI/BOOT/BOOTX64.EFI, the unified kernel image",
        image.authenticode(),
    ));
    let is_252 = version(image).is_some_and(|version| major(&version) == "252");
    for name in MEASURED.into_iter().filter(|name| !is_252 || !SINCE_257.contains(name)) {
        if let Some(content) = image.section(name) {
            let what = format!("name of section {name}, with its NUL");
            events.push(Event::of(UKI, &what, &[name.as_bytes(), b"\0"]));
            events.push(Event::of(UKI, &format!("content of section {name}"), &[content]));
        }
    }
    events.extend([
        Event::digest(BOOT_MANAGER, LINUX, kernel.authenticode()),
        Event::of(FILES, "command line, UTF-16LE with NUL", &[&utf16(cmdline)]),
        Event::of(FILES, "content of section .initrd", &[initrd]),
    ]);
    events.extend(Event::exit());
    events.extend([
        Event::none(GRUB_COMMANDS, "no GRUB"),
        Event::none(
            UKI_PARAMETERS,
            "no command line but that of the image: another one shows here",
        ),
        Event::none(UKI_EXTENSIONS, "no extension of the root: one that is added shows here"),
    ]);
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::kernel;
    use crate::measure::pe;

    fn sample(sections: &[(&str, &[u8])]) -> Vec<u8> {
        pe::tests::sample(sections)
    }

    #[test]
    fn the_version_is_in_the_magic() {
        let with = |magic: &[u8]| {
            let file = sample(&[(".text", b"stub"), (".sdmagic", magic)]);
            version(&Pe::parse("uki", &file).unwrap())
        };
        let found = with(b"#### LoaderInfo: systemd-stub 252.39-1~deb12u1 ####\0");
        assert_eq!(found.as_deref(), Some("252.39-1~deb12u1"));
        require_known(found.as_deref()).unwrap();
        for (magic, why) in [
            (
                &b"#### LoaderInfo: systemd-stub 260.1-1 ####"[..],
                "systemd-stub 260.1-1 is not known, 252 and 257 are",
            ),
            (
                b"#### LoaderInfo: systemd-stub 2520 ####",
                "systemd-stub 2520 is not known, 252 and 257 are",
            ),
            (b"####", "the boot loader does not say which systemd-stub it is"),
        ] {
            let error = require_known(with(magic).as_deref()).unwrap_err();
            assert_eq!(error.to_string(), why);
        }
    }

    #[test]
    fn sections_are_measured_in_the_order_of_the_stub() {
        let linux = kernel::tests::sample("6.1.0");
        let file = sample(&[
            (".text", b"stub"),
            (".cmdline", b"quiet"),
            (".initrd", b"initrd"),
            (".linux", &linux),
        ]);
        let pe = Pe::parse("uki", &file).unwrap();
        let events = events(&pe, Some(b"gpt")).unwrap();
        // From a CD all is the same but for that.
        let mut less = events.clone();
        less.retain(|event| event.what != "partition table: GPT");
        assert_eq!(less.len() + 1, events.len());
        assert_eq!(super::events(&pe, None).unwrap(), less);
        let digests = |pcr: u8| {
            let of = events.iter().filter(|event| event.pcr == pcr);
            of.map(|event| event.digests.unwrap()).collect::<Vec<_>>()
        };
        let expected = |pcr: u8, data: &[&[u8]]| {
            let data = data.iter().map(|data| crate::measure::hash::Digests::of(&[data]));
            assert!(digests(pcr).into_iter().eq(data), "PCR {pcr}");
        };
        expected(UKI, &[b".linux\0", &linux, b".cmdline\0", b"quiet", b".initrd\0", b"initrd"]);
        // What 252 passes over, as the section that Secure Boot looks at, newer stubs measure.
        for (version, measures) in [("252.1", false), ("257.8", true)] {
            let magic = format!("#### LoaderInfo: systemd-stub {version} ####\0");
            let file = sample(&[
                (".sdmagic", magic.as_bytes()),
                (".sbat", b"sbat"),
                (".cmdline", b"quiet"),
                (".initrd", b"initrd"),
                (".linux", &linux),
            ]);
            let events = super::events(&Pe::parse("uki", &file).unwrap(), None).unwrap();
            let content = crate::measure::hash::Digests::of(&[b"sbat"]);
            assert_eq!(events.iter().any(|event| event.digests == Some(content)), measures);
        }
        expected(FILES, &[b"q\0u\0i\0e\0t\0\0\0", b"initrd"]);
        let kernel = Pe::parse("linux", &linux).unwrap();
        assert_eq!(digests(BOOT_MANAGER)[3], kernel.authenticode());
    }

    #[test]
    fn what_is_missing_is_named() {
        let file = sample(&[(".linux", b"MZ"), (".cmdline", b"\xff"), (".initrd", b"i")]);
        let pe = Pe::parse("uki", &file).unwrap();
        let why = |pe: &Pe<'_>| events(pe, Some(b"gpt")).unwrap_err().to_string();
        assert_eq!(
            why(&pe),
            "cannot read section .linux: it ends before its place of the PE header"
        );
        let file = sample(&[(".linux", b"MZ"), (".initrd", b"i")]);
        let pe = Pe::parse("uki", &file).unwrap();
        assert_eq!(why(&pe), "the unified kernel image has no section .cmdline");
        let linux = kernel::tests::sample("6.1.0");
        let file = sample(&[(".linux", &linux), (".cmdline", b"\xff"), (".initrd", b"i")]);
        let pe = Pe::parse("uki", &file).unwrap();
        assert_eq!(why(&pe), "the section .cmdline is not UTF-8");
    }
}
