//! What holds for an image on whatever machine it boots.

use cvm_init::config::{Config, Layout, Lines};
use cvm_init::error::{Error, Result};

use crate::measure::direct::Direct;
use crate::measure::document::{
    Boot, CD_CHAIN, DISK_CHAIN, Document, File, ISO_CHAIN, Inputs, KERNEL_CHAIN, Layer, Program,
    Text, Tpm, Unknown, VERSION,
};
use crate::measure::grub::{self, Grub};
use crate::measure::hash::{Digests, Hash};
use crate::measure::pe::Pe;
use crate::measure::record::Record;
use crate::measure::tpm::{BOOT_MANAGER, Chain, Event};
use crate::measure::{gpt, kernel, uki};

/// Where the files lie, beside the image ...
pub const KERNEL: &str = "bzImage";
/// ... the initramfs ...
pub const INITRAMFS: &str = "rootfs.cpio.gz";
/// ... the command line ...
pub const CMDLINE: &str = "cmdline";
/// ... the disk ...
pub const DISK: &str = "disk.img";
/// ... and, if it was asked for, a medium to boot from in its stead ...
pub const ISO: &str = "boot.iso";
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
    /// The start of [`ISO`], where there is one.
    pub iso: Option<&'a [u8]>,
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
        let chain = |gpt| self.disk_chain(&image, gpt, release.as_deref(), linux);
        let disk = told(DISK_CHAIN, chain(Some(&gpt)));
        let (mut iso_as_cd, mut iso_as_disk) = (None, None);
        if let Some(iso) = self.iso {
            iso_as_cd = told(CD_CHAIN, chain(None));
            iso_as_disk = told(ISO_CHAIN, chain(Some(&gpt::event(ISO, iso)?)));
        }
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
            tpm: Tpm { disk, iso_as_cd, iso_as_disk, kernel: direct },
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

    /// From a disk with this partition table, or a CD.
    fn disk_chain(
        &self,
        image: &Pe<'_>,
        gpt: Option<&[u8]>,
        version: Option<&str>,
        loader: &str,
    ) -> Result<Chain> {
        let mut holds_for = vec![format!("{loader} {}", version.unwrap_or_default())];
        let events = match self.boot {
            Boot::Grub => {
                let way = grub::way(version)?;
                if way == grub::Way::Firmware {
                    holds_for.push(self.linux()?);
                }
                let config = self.grub_cfg.ok_or_else(|| Error::new("there is no grub.cfg"))?;
                let gpt = gpt.ok_or_else(|| Error::new("GRUB looks for its files on a disk"))?;
                let (kernel, initramfs) = (self.kernel, self.initramfs);
                Grub { image, gpt, config, kernel, initramfs, way }.events()?
            }
            Boot::Uki => {
                uki::require_known(version)?;
                holds_for.push(self.linux()?);
                uki::events(image, gpt)?
            }
        };
        let mut chain = self.chain(holds_for, events)?;
        if self.boot == Boot::Uki {
            chain.pcr_4_under_secure_boot = Some(chain.without(BOOT_MANAGER, uki::LINUX));
        }
        Ok(chain)
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
mod tests;
