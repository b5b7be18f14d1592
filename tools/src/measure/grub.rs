//! The chain of a GRUB image: GRUB, its grub.cfg, kernel and initramfs as files of the EFI
//! partition.
//!
//! Source: `grub-core/commands/tpm.c`, and of GRUB 2.06 `grub-core/loader/i386/linux.c`, of 2.12
//! `grub-core/loader/efi/linux.c`, which has the firmware start the kernel: so firmware and the kernel's
//! EFI stub measure, too.

use cvm_init::error::{Error, Result};

use crate::measure::bytes::find;
use crate::measure::pe::Pe;
use crate::measure::tpm::{BOOT_CONFIG, BOOT_MANAGER, Event, FILES, GRUB_COMMANDS};
use crate::measure::tpm::{UKI, UKI_EXTENSIONS, UKI_PARAMETERS, utf16};

/// How a GRUB starts the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Past the firmware and the kernel's EFI stub.
    ItsOwn,
    /// By the firmware, as a program for it.
    Firmware,
}

/// The versions that are known.
const KNOWN: &[(&str, Way)] = &[("2.06", Way::ItsOwn), ("2.12", Way::Firmware)];
/// What GRUB greets people with, and in its `normal.mod` the version behind it.
const GREETING: &[u8] = b"GNU GRUB  version %s\0";
const VERSION_MAX: usize = 64;

/// The version of the GRUB that is in this file, such as `2.06-13+deb12u1`; nothing where the file
/// does not say.
#[must_use]
pub fn version(image: &[u8]) -> Option<String> {
    let behind = image.get(find(image, GREETING)? + GREETING.len()..)?;
    let text = behind.split(|byte| *byte == 0).next()?;
    let printable = text.iter().all(u8::is_ascii_graphic) && !text.is_empty();
    (printable && text.len() <= VERSION_MAX).then(|| String::from_utf8_lossy(text).into_owned())
}

/// How this GRUB starts the kernel.
///
/// # Errors
/// It is not one whose events are known.
pub fn way(version: Option<&str>) -> Result<Way> {
    let version =
        version.ok_or_else(|| Error::new("the boot loader does not say which GRUB it is"))?;
    let upstream = version.split(['-', '~', '+']).next();
    let known = KNOWN.iter().find(|(known, _)| upstream == Some(known));
    known.map(|(_, way)| *way).ok_or_else(|| {
        let known: Vec<_> = KNOWN.iter().map(|(known, _)| *known).collect();
        Error::new(format!("GRUB {version} is not known, {} are", known.join(" and ")))
    })
}

/// What such a boot measures.
#[derive(Debug, Clone, Copy)]
pub struct Grub<'a> {
    /// GRUB itself.
    pub image: &'a Pe<'a>,
    /// The partition table, by [`crate::measure::gpt::event`].
    pub gpt: &'a [u8],
    /// Its commands, each a line of words in single quotes or none.
    pub config: &'a str,
    /// The kernel's file.
    pub kernel: &'a [u8],
    /// The initramfs' file.
    pub initramfs: &'a [u8],
    /// How it starts the kernel.
    pub way: Way,
}

impl Grub<'_> {
    /// The events of a boot.
    ///
    /// # Errors
    /// The kernel is no program for the firmware, where that is to start it.
    pub fn events(&self) -> Result<Vec<Event>> {
        let is_by_firmware = self.way == Way::Firmware;
        let mut events = vec![
            Event::calling(),
            Event::separator(BOOT_MANAGER),
            Event::separator(BOOT_CONFIG),
            Event::of(BOOT_CONFIG, "partition table: GPT", &[self.gpt]),
            Event::digest(
                BOOT_MANAGER,
                "Authenticode of EFI/BOOT/BOOTX64.EFI, which is GRUB",
                self.image.authenticode(),
            ),
        ];
        // Whether there is one is asked before it is read, which 2.12 measures, too.
        let times = if is_by_firmware { 2 } else { 1 };
        let config = Event::of(FILES, "EFI/BOOT/grub.cfg", &[self.config.as_bytes()]);
        events.extend(std::iter::repeat_n(config, times));
        let mut options = None;
        for command in commands(self.config) {
            events.push(Event::of(GRUB_COMMANDS, &command, &[command.as_bytes()]));
            if let Some(words) = command.strip_prefix("linux ") {
                events.push(Event::of(FILES, "bzImage", &[self.kernel]));
                let what = "the command line that GRUB hands to the kernel";
                events.push(Event::of(GRUB_COMMANDS, what, &[words.as_bytes()]));
                options = Some(format!("BOOT_IMAGE={words}"));
            } else if command.starts_with("initrd ") {
                events.push(Event::of(FILES, "rootfs.cpio.gz", &[self.initramfs]));
            }
        }
        if is_by_firmware {
            let kernel = Pe::parse("bzImage", self.kernel)?;
            let options = utf16(&options.unwrap_or_default());
            let options = options.strip_suffix(&[0, 0]).unwrap_or_default();
            events.extend([
                Event::digest(BOOT_MANAGER, "Authenticode of bzImage", kernel.authenticode()),
                Event::of(FILES, "BOOT_IMAGE= and the command line, UTF-16LE", &[options]),
                Event::of(FILES, "rootfs.cpio.gz", &[self.initramfs]),
            ]);
        }
        events.extend(Event::exit());
        events.extend([
            Event::none(UKI, "no unified kernel image"),
            Event::none(UKI_PARAMETERS, "no unified kernel image"),
            Event::none(UKI_EXTENSIONS, "no unified kernel image"),
        ]);
        Ok(events)
    }
}

/// The commands of a grub.cfg of ours that are run, as GRUB measures them: without quotes. Behind
/// `boot` there is none when it goes well.
fn commands(config: &str) -> Vec<String> {
    let mut commands: Vec<_> = config.lines().map(|line| line.replace('\'', "")).collect();
    if let Some(boot) = commands.iter().position(|command| command == "boot") {
        commands.truncate(boot + 1);
    }
    commands
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::hash::Digests;
    use crate::measure::tpm::Chain;
    use crate::measure::{kernel, pe};

    #[test]
    fn the_version_stands_behind_the_greeting() {
        let image = [&b"MZ\0"[..], GREETING, b"2.06-13+deb12u1\0prefix\0"].concat();
        let found = version(&image);
        assert_eq!(found.as_deref(), Some("2.06-13+deb12u1"));
        assert_eq!(way(found.as_deref()), Ok(Way::ItsOwn));
        assert_eq!(way(Some("2.12-9+deb13u4")), Ok(Way::Firmware));
        for (image, why) in [
            (&b"MZ"[..], "the boot loader does not say which GRUB it is"),
            (GREETING, "the boot loader does not say which GRUB it is"),
            (&[GREETING, b"2.14-1\0"].concat(), "GRUB 2.14-1 is not known, 2.06 and 2.12 are"),
            (&[GREETING, b"2.060\0"].concat(), "GRUB 2.060 is not known, 2.06 and 2.12 are"),
        ] {
            let error = way(version(image).as_deref()).unwrap_err();
            assert_eq!(error.to_string(), why);
        }
    }

    #[test]
    fn commands_are_measured_as_they_are_run() {
        let config = "linux /bzImage 'cvm.begin' 'a=$b'\ninitrd /rootfs.cpio.gz\nboot\nhalt\n";
        let file = pe::tests::sample(&[(".text", b"grub")]);
        let image = Pe::parse("grub", &file).unwrap();
        let way = Way::ItsOwn;
        let grub = Grub { image: &image, gpt: b"gpt", config, kernel: b"k", initramfs: b"i", way };
        let events = grub.events().unwrap();
        let of = |pcr: u8| events.iter().filter(move |event| event.pcr == pcr);
        let expected = |pcr, data: &[&str]| {
            let digests: Vec<_> =
                data.iter().map(|d| Event::of(pcr, "", &[d.as_bytes()]).digests).collect();
            assert!(of(pcr).map(|event| event.digests).eq(digests), "PCR {pcr}");
        };
        expected(
            GRUB_COMMANDS,
            &[
                "linux /bzImage cvm.begin a=$b",
                "/bzImage cvm.begin a=$b",
                "initrd /rootfs.cpio.gz",
                "boot",
            ],
        );
        expected(FILES, &[config, "k", "i"]);
        assert_eq!(of(BOOT_MANAGER).count(), 3);
        assert_eq!(of(BOOT_CONFIG).count(), 4);
        // Started by the firmware, the kernel has to be a program for it.
        let error = Grub { way: Way::Firmware, ..grub }.events().unwrap_err().to_string();
        assert!(error.starts_with("cannot read bzImage: it is no program"), "{error}");
        let kernel = kernel::tests::sample("6.12.0");
        let by_firmware = Grub { way: Way::Firmware, kernel: &kernel, ..grub }.events().unwrap();
        let digests = |pcr: u8| {
            let of = by_firmware.iter().filter(|event| event.pcr == pcr);
            of.map(|event| event.digests.unwrap()).collect::<Vec<_>>()
        };
        let options = utf16("BOOT_IMAGE=/bzImage cvm.begin a=$b");
        let (options, _) = options.split_at(options.len() - 2);
        let files: [&[u8]; 6] =
            [config.as_bytes(), config.as_bytes(), &kernel, b"i", options, b"i"];
        assert_eq!(digests(FILES), files.map(|data| Digests::of(&[data])));
        let authenticode = Pe::parse("k", &kernel).unwrap().authenticode();
        assert_eq!(digests(BOOT_MANAGER)[3..], [authenticode]);
        assert!(Chain::of(Vec::new(), events.clone()).sha256.keys().eq(&crate::measure::tpm::PCRS));
    }
}
