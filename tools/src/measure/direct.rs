//! The chain of QEMU's `-kernel`: the firmware starts the kernel that QEMU hands it, with the
//! command line and the initramfs that it finds beside it.
//!
//! Source: EDK2, `OvmfPkg/Library/GenericQemuLoadImageLib`. The kernel is started before the
//! firmware gets to its boot options, so that its measurement comes before the separator.

use cvm_init::error::Result;

use crate::measure::pe::Pe;
use crate::measure::tpm::{BOOT_CONFIG, BOOT_MANAGER, Event, FILES, GRUB_COMMANDS, UKI};
use crate::measure::tpm::{UKI_EXTENSIONS, UKI_PARAMETERS, utf16};

/// A kernel and what it is started with.
#[derive(Debug, Clone, Copy)]
pub struct Direct<'a> {
    /// The kernel, as QEMU hands it over.
    pub kernel: &'a [u8],
    /// The initramfs.
    pub initramfs: &'a [u8],
    /// The command line, of QEMU's `-append`.
    pub cmdline: &'a str,
}

impl Direct<'_> {
    /// The events of a boot.
    ///
    /// # Errors
    /// The kernel is no program for the firmware.
    pub fn events(&self) -> Result<Vec<Event>> {
        let mut events = vec![
            Event::digest(
                BOOT_MANAGER,
                "Authenticode of bzImage",
                Pe::parse("the kernel", self.kernel)?.authenticode(),
            ),
            Event::calling(),
            Event::separator(BOOT_MANAGER),
            Event::separator(BOOT_CONFIG),
            Event::of(
                FILES,
                "command line, a blank and initrd=initrd, UTF-16LE with NUL",
                &[&self.load_options()],
            ),
            Event::of(FILES, "rootfs.cpio.gz", &[self.initramfs]),
        ];
        events.extend(Event::exit());
        events.extend([
            Event::none(GRUB_COMMANDS, "no GRUB"),
            Event::none(UKI, "no unified kernel image"),
            Event::none(UKI_PARAMETERS, "no unified kernel image"),
            Event::none(UKI_EXTENSIONS, "no unified kernel image"),
        ]);
        Ok(events)
    }

    /// What the kernel gets from the firmware, which names the initramfs in it.
    #[must_use]
    pub fn load_options(&self) -> Vec<u8> {
        utf16(&format!("{} initrd=initrd", self.cmdline))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::hash::Digests;
    use crate::measure::kernel;
    use crate::measure::tpm::Chain;

    #[test]
    fn the_kernel_comes_before_the_separator() {
        let kernel = kernel::tests::sample("6.1.0");
        let direct = Direct { kernel: &kernel, initramfs: b"i", cmdline: "a" };
        let events = direct.events().unwrap();
        let first: Vec<_> = events.iter().take(3).map(|event| event.digests.unwrap()).collect();
        let authenticode = Pe::parse("k", &kernel).unwrap().authenticode();
        assert_eq!(
            first,
            [
                authenticode,
                Digests::of(&[b"Calling EFI Application from Boot Option"]),
                Digests::of(&[&[0; 4]])
            ]
        );
        assert_eq!(direct.load_options(), utf16("a initrd=initrd"));
        // The same for every image: Cocos publishes it for its own.
        let chain = Chain::of(Vec::new(), events);
        assert!(chain.sha256[&BOOT_CONFIG].to_string().starts_with("a5ceb755"));
        assert_eq!(chain.events.iter().filter(|event| event.digests.is_none()).count(), 4);
    }

    #[test]
    fn a_kernel_without_an_efi_stub_cannot_be_started_so() {
        let direct = Direct { kernel: b"x", initramfs: b"i", cmdline: "" };
        let error = direct.events().unwrap_err().to_string();
        assert!(error.starts_with("cannot read the kernel: it is no program"), "{error}");
    }
}
