//! What holds for an image on whatever machine it boots.

use cvm_init::config::{Config, Layout, Lines};
use cvm_init::error::{Error, Result};

use crate::measure::direct::Direct;
use crate::measure::document::{
    Boot, DISK_CHAIN, Document, File, Inputs, KERNEL_CHAIN, Layer, Program, Text, Tpm, Unknown,
    VERSION,
};
use crate::measure::grub::{self, Grub};
use crate::measure::hash::{Digests, Hash};
use crate::measure::pe::Pe;
use crate::measure::record::Record;
use crate::measure::tpm::{Chain, Event};
use crate::measure::{gpt, kernel, uki};

/// Where the files lie, beside the image ...
pub const KERNEL: &str = "bzImage";
/// ... the initramfs ...
pub const INITRAMFS: &str = "rootfs.cpio.gz";
/// ... the command line ...
pub const CMDLINE: &str = "cmdline";
/// ... the disk ...
pub const DISK: &str = "disk.img";
/// ... and in the EFI partition what the firmware starts ...
pub const BOOT_LOADER: &str = "EFI/BOOT/BOOTX64.EFI";
/// ... and GRUB's commands.
pub const GRUB_CFG: &str = "EFI/BOOT/grub.cfg";

/// What is measured of an image.
#[derive(Debug, Clone, Copy)]
pub struct Files<'a> {
    /// What the firmware starts.
    pub boot: Boot,
    /// [`KERNEL`].
    pub kernel: &'a [u8],
    /// [`INITRAMFS`].
    pub initramfs: &'a [u8],
    /// [`CMDLINE`], a line.
    pub cmdline: &'a str,
    /// What the initramfs says in the command line's stead.
    pub initramfs_words: &'a str,
    /// The start of [`DISK`], of [`gpt::HEAD_SIZE`] bytes.
    pub disk: &'a [u8],
    /// [`BOOT_LOADER`].
    pub boot_loader: &'a [u8],
    /// [`GRUB_CFG`], of an image with GRUB.
    pub grub_cfg: Option<&'a str>,
}

impl Files<'_> {
    /// What a boot of it will have measured.
    ///
    /// # Errors
    /// A file is broken. That it is of another version than those that are known is no error but in
    /// the document.
    pub fn measure(&self) -> Result<Document> {
        let mut not_predicted = of_others();
        let cmdline = line(self.cmdline);
        let (roothash, layers) = self.root()?;
        let image = Pe::parse(BOOT_LOADER, self.boot_loader)?;
        let gpt = gpt::event(DISK, self.disk)?;
        let (linux, release) = match self.boot {
            Boot::Grub => ("GRUB", grub::version(self.boot_loader)),
            Boot::Uki => ("systemd-stub", uki::version(&image)),
        };
        let mut told = |value: &str, chain: Result<Chain>| {
            chain.map_err(|error| not_predicted.push(Unknown::of(value, &error))).ok()
        };
        let disk = told(DISK_CHAIN, self.disk_chain(&image, &gpt, release.as_deref(), linux));
        let direct = Direct { kernel: self.kernel, initramfs: self.initramfs, cmdline };
        let direct = told(KERNEL_CHAIN, self.direct_chain(&direct));
        Ok(Document {
            version: VERSION,
            boot: self.boot,
            inputs: Inputs {
                kernel: Program {
                    file: KERNEL.to_owned(),
                    sha256: Hash::<32>::of(&[self.kernel]),
                    authenticode: Pe::parse(KERNEL, self.kernel).ok().map(|pe| pe.authenticode()),
                    release: kernel::release(KERNEL, self.kernel)?,
                },
                initramfs: File::of(INITRAMFS, self.initramfs),
                cmdline: text(cmdline),
                initramfs_words: self.initramfs_words.to_owned(),
                roothash,
                layers,
                boot_loader: Program {
                    file: BOOT_LOADER.to_owned(),
                    sha256: Hash::<32>::of(&[self.boot_loader]),
                    authenticode: Some(image.authenticode()),
                    release: release.map(|release| format!("{linux} {release}")),
                },
                grub_cfg: self.grub_cfg.map(|config| File::of(GRUB_CFG, config.as_bytes())),
                partition_table: Digests::of(&[&gpt]),
            },
            tpm: Tpm { disk, kernel: direct },
            not_predicted,
        })
    }

    /// What proves the root: a root hash, or what does of each layer, as PID 1 reads it.
    fn root(&self) -> Result<(Option<Hash<32>>, Vec<Layer>)> {
        let cannot = |cause| Error::cannot(&format_args!("use {CMDLINE}"), &cause);
        let (kernel, initramfs) = (line(self.cmdline).to_owned(), self.initramfs_words.to_owned());
        let config = Config::from_lines(&Lines { kernel, initramfs }).map_err(cannot)?;
        let layers = match config.layout {
            Layout::Partitions(partitions) => {
                return Ok((Some(Hash(partitions.root_hash)), vec![]));
            }
            Layout::Layers(layers) => layers.layers,
        };
        let proven = layers.iter().map(|layer| {
            let proof = layer.proof.ok_or_else(|| cannot(Error::new("not each layer is verified")));
            proof.map(|of| Layer { roothash: Hash(of.root_hash), data_blocks: of.blocks })
        });
        Ok((None, proven.collect::<Result<_>>()?))
    }

    fn disk_chain(
        &self,
        image: &Pe<'_>,
        gpt: &[u8],
        version: Option<&str>,
        loader: &str,
    ) -> Result<Chain> {
        let mut holds_for = vec![format!("{loader} {}", version.unwrap_or_default())];
        let events = match self.boot {
            Boot::Grub => {
                grub::require_known(version)?;
                let config = self.grub_cfg.ok_or_else(|| Error::new("there is no grub.cfg"))?;
                let (kernel, initramfs) = (self.kernel, self.initramfs);
                Grub { image, gpt, config, kernel, initramfs }.events()
            }
            Boot::Uki => {
                uki::require_known(version)?;
                holds_for.push(self.linux()?);
                uki::events(image, gpt)?
            }
        };
        self.chain(holds_for, events)
    }

    fn direct_chain(&self, direct: &Direct<'_>) -> Result<Chain> {
        let holds_for =
            vec![self.linux()?, "QEMU 10.2 and newer, and any for a guest of SEV".to_owned()];
        self.chain(holds_for, direct.events()?)
    }

    /// The chain up to the start of init: PID 1 goes on with what was measured before.
    fn chain(&self, mut holds_for: Vec<String>, mut events: Vec<Event>) -> Result<Chain> {
        let record = Record::of(line(self.cmdline), self.initramfs_words)
            .map_err(|cause| Error::cannot(&"tell what PID 1 records", &cause))?;
        events.extend(record.events());
        holds_for.push(format!("cvm-init {}", cvm_init::VERSION));
        Ok(Chain::of(holds_for, events))
    }

    /// The kernel, whose EFI stub measures what it is started with.
    fn linux(&self) -> Result<String> {
        kernel::require_measuring(KERNEL, self.kernel)?;
        let release = kernel::release(KERNEL, self.kernel)?;
        Ok(format!("Linux {}", release.unwrap_or_default()))
    }
}

/// The text of a file of one line.
#[must_use]
pub fn line(text: &str) -> &str {
    text.strip_suffix('\n').unwrap_or(text)
}

fn text(text: &str) -> Text {
    Text { text: text.to_owned(), sha256: Hash::<32>::of(&[text.as_bytes()]) }
}

/// What neither the image nor the way it is booted decides.
fn of_others() -> Vec<Unknown> {
    [
        ("PCR 0", "the firmware's code: from a boot, or from whoever made the firmware"),
        ("PCR 1", "the machine's, as firmware sees it: boot variables, SMBIOS, ACPI"),
        (
            "PCR 2, 3 and 6",
            "of devices that bring code or settings; without any, the separator alone",
        ),
        ("PCR 7", "whether Secure Boot is on, and its keys"),
        ("PCR 10", "of the kernel's IMA"),
        ("PCR 14", "of shim, which the image does not have"),
    ]
    .map(|(value, why)| Unknown::of(value, &why))
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::pe;
    use crate::measure::record::tests::words;

    const CONFIG: &str = "linux /bzImage 'a'\ninitrd /rootfs.cpio.gz\nboot\nhalt\n";

    fn disk() -> Vec<u8> {
        let mut disk = vec![0; 4096];
        disk[512..520].copy_from_slice(b"EFI PART");
        disk[512 + 72] = 2;
        disk[512 + 80] = 4;
        disk[512 + 84] = 128;
        disk[1024..1040].fill(1);
        disk
    }

    fn grub(version: &str) -> Vec<u8> {
        let greeting = format!("GNU GRUB  version %s\0{version}\0");
        pe::tests::sample(&[(".text", greeting.as_bytes())])
    }

    fn uki(version: &str, kernel: &[u8]) -> Vec<u8> {
        let magic = format!("#### LoaderInfo: systemd-stub {version} ####");
        pe::tests::sample(&[
            (".sdmagic", magic.as_bytes()),
            (".cmdline", b"a"),
            (".initrd", b"i"),
            (".linux", kernel),
        ])
    }

    fn measure(boot: Boot, boot_loader: &[u8], kernel: &[u8]) -> Result<Document> {
        measure_by(&words(""), boot, boot_loader, kernel)
    }

    fn measure_by(words: &str, boot: Boot, boot_loader: &[u8], kernel: &[u8]) -> Result<Document> {
        Files {
            boot,
            kernel,
            initramfs: b"i",
            cmdline: &format!("{words}\n"),
            initramfs_words: "",
            disk: &disk(),
            boot_loader,
            grub_cfg: (boot == Boot::Grub).then_some(CONFIG),
        }
        .measure()
    }

    #[test]
    fn a_known_boot_loader_and_kernel_are_predicted_whole() {
        let linux = kernel::tests::sample("6.1.0-x");
        for (boot, boot_loader, release) in [
            (Boot::Grub, grub("2.06-1"), "GRUB 2.06-1"),
            (Boot::Uki, uki("252.1", &linux), "systemd-stub 252.1"),
        ] {
            let document = measure(boot, &boot_loader, &linux).unwrap();
            assert_eq!(document.missing().count(), 0);
            let inputs = &document.inputs;
            assert_eq!(inputs.boot_loader.release.as_deref(), Some(release));
            assert_eq!(inputs.kernel.release.as_deref(), Some("6.1.0-x"));
            assert_eq!(inputs.cmdline.text, words(""));
            assert_eq!((inputs.roothash, inputs.layers.len()), (Some(Hash([0x0f; 32])), 0));
            assert_eq!(inputs.grub_cfg.is_some(), boot == Boot::Grub);
            let disk = document.tpm.disk.as_ref().unwrap();
            assert_eq!(disk.holds_for[0], release);
            assert_eq!(disk.events.iter().filter(|event| event.pcr == 15).count(), 3);
            let values = document.pcr_values().unwrap();
            assert_eq!(values["pcr_values"]["sha256"]["4"], disk.sha256[&4].to_string());
            assert_eq!(values["pcr_values"]["sha384"].as_object().unwrap().len(), 8);
            let text = crate::measure::document::to_text(&document);
            assert_eq!(Document::read(&text).unwrap(), document);
        }
    }

    /// In place of a root hash each layer is told, and recorded.
    #[test]
    fn an_image_of_layers_is_predicted_by_what_proves_them() {
        let linux = kernel::tests::sample("6.1.0-x");
        let [top, base] = ["0a", "0b"].map(|byte| byte.repeat(32));
        let words = format!("cvm.layers={top}@2,{base}@70");
        let document = measure_by(&words, Boot::Grub, &grub("2.06"), &linux).unwrap();
        let layer = |byte, data_blocks| Layer { roothash: Hash([byte; 32]), data_blocks };
        assert_eq!(document.inputs.roothash, None);
        assert_eq!(document.inputs.layers, [layer(0x0a, 2), layer(0x0b, 70)]);
        let tpm = &document.tpm;
        let lines = |chain: &Option<Chain>| -> Vec<String> {
            let events = chain.as_ref().unwrap().events.iter().filter(|event| event.pcr == 15);
            events.map(|event| event.what.clone()).collect()
        };
        let [disk, direct] = [&tpm.disk, &tpm.kernel].map(lines);
        assert_eq!(disk, direct);
        assert_eq!(disk.len(), 4);
        for (number, start) in [(0, &top), (1, &base)] {
            let start = format!("cvm-init layer number={number} verity=sha256:{start} ");
            assert!(disk[number].starts_with(&start), "{disk:?}");
        }
        let text = crate::measure::document::to_text(&document);
        assert!(!text.contains("roothash\": null"), "{text}");
        assert_eq!(Document::read(&text).unwrap(), document);
        // A root that nothing says anything of, or that is both.
        let neither = text.replace("\"layers\"", "\"other\"");
        let both = text.replace("\"layers\"", &format!("\"roothash\": \"{top}\",\n\"layers\""));
        let without = {
            let mut document = document.clone();
            document.inputs.layers.clear();
            crate::measure::document::to_text(&document)
        };
        for (text, why) in [
            (neither, "unknown field `other`"),
            (both, "it has not one of a root hash and layers"),
            (without, "it has not one of a root hash and layers"),
        ] {
            let refusal = Document::read(&text).unwrap_err().to_string();
            assert!(refusal.contains(why), "{refusal}");
        }
    }

    #[test]
    fn an_image_whose_root_is_not_verified_is_refused() {
        let linux = kernel::tests::sample("6.1.0-x");
        for (words, why) in [
            (
                "cocoon.layers=a cocoon.cow=b cvm.unverified=yes",
                "cannot use cmdline: not each layer is verified",
            ),
            ("quiet", "cannot use cmdline: roothash= is missing"),
        ] {
            let refusal = measure_by(words, Boot::Grub, &grub("2.06"), &linux).unwrap_err();
            assert_eq!(refusal.to_string(), why);
        }
    }

    /// A list of values that lacks some would let through what these would have shown.
    #[test]
    fn what_is_not_known_is_left_out_whole_and_said() {
        let linux = kernel::tests::sample("6.1.0-x");
        let old = kernel::tests::sample("5.10.0");
        let mut no_program = linux.clone();
        no_program[..2].fill(0);
        let of_disk = "boot from the disk";
        for (boot, boot_loader, kernel, missing) in [
            (
                Boot::Grub,
                grub("2.12-9"),
                &linux,
                &[(of_disk, "GRUB 2.12-9 is not known, 2.06 is")][..],
            ),
            (
                Boot::Uki,
                uki("257.8", &linux),
                &linux,
                &[(of_disk, "systemd-stub 257.8 is not known, 252 is")],
            ),
            (
                Boot::Uki,
                uki("252.1", &old),
                &old,
                &[
                    (
                        of_disk,
                        "cannot read bzImage: Linux 5.10.0 measures no command line, 6.1 and newer do",
                    ),
                    (
                        "direct boot",
                        "cannot read bzImage: Linux 5.10.0 measures no command line, 6.1 and newer do",
                    ),
                ],
            ),
            (
                Boot::Grub,
                grub("2.06"),
                &no_program,
                &[(
                    "direct boot",
                    "cannot read the kernel: it is no program for the firmware (a PE begins with MZ)",
                )],
            ),
        ] {
            let document = measure(boot, &boot_loader, kernel).unwrap();
            let told: Vec<_> =
                document.missing().map(|of| (of.value.as_str(), of.why.as_str())).collect();
            assert_eq!(told, missing);
            let of_disk = missing.iter().any(|(chain, _)| *chain == of_disk);
            assert_eq!(document.pcr_values().is_none(), of_disk);
        }
    }

    #[test]
    fn a_record_that_depends_on_the_disk_leaves_out_both_chains() {
        let linux = kernel::tests::sample("6.1.0-x");
        let words = format!("roothash={}", "0f".repeat(32));
        let document = measure_by(&words, Boot::Grub, &grub("2.06"), &linux).unwrap();
        let start = "cannot tell what PID 1 records: the command line has neither cvm.verity_salt=";
        assert_eq!(document.missing().filter(|of| of.why.starts_with(start)).count(), 2);
    }

    #[test]
    fn what_is_broken_is_an_error() {
        let linux = kernel::tests::sample("6.1.0-x");
        let why = |boot_loader: &[u8], kernel: &[u8]| {
            measure(Boot::Grub, boot_loader, kernel).unwrap_err().to_string()
        };
        let grub = grub("2.06");
        assert!(why(b"MZ", &linux).starts_with("cannot read EFI/BOOT/BOOTX64.EFI: "));
        assert!(
            why(&grub, &linux[..0x202])
                .starts_with("cannot read bzImage: it ends before its header")
        );
    }
}
