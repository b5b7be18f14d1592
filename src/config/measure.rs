//! What is recorded of a boot, and where: the same function tells PID 1 what to record and the image
//! build what will have been recorded.

use super::{Config, Layer, Layers, Layout, NextKernel, Partitions, Proof, Tags, Upper};
use crate::error::{Error, Result};
use crate::format::crypt;
use crate::format::event::Event;
use crate::format::hex;
use crate::format::verity::{self, BLOCK_SIZE, RootHash};

/// Where a boot is recorded (`cvm.measure=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// In a TPM, where there is one.
    Auto,
    /// In a TPM; without one there is no boot.
    Required,
    /// In RTMR3 of a TD, and nowhere else; without it there is no boot. Never by itself: some
    /// verifiers take a TD only as long as it is zero.
    Rtmr3,
    /// Nowhere.
    No,
}

pub(super) const MEASURES: &[(&str, Measure)] = &[
    ("auto", Measure::Auto),
    ("required", Measure::Required),
    ("rtmr3", Measure::Rtmr3),
    ("no", Measure::No),
];

impl Config {
    /// What is recorded of a boot, in this order: `root` with the parameters that a root on a partition
    /// was verified with, or a `layer` for each layer, the topmost first; `data` for each disk of
    /// `cvm.data=`, `volume`, `handoff`. A boot that hands over to another kernel has no data and no
    /// volume, and that kernel's boot records in turn. Nothing of it is of one boot alone, as keys, sizes, times and
    /// shares are, so that a verifier knows it before.
    ///
    /// # Errors
    /// `init=` is too long to be recorded; a root on a partition has no parameters.
    pub fn events(&self, root: Option<&verity::Params>) -> Result<Vec<Event>> {
        let mut events = match (&self.layout, root) {
            (Layout::Layers(layers), _) => self.layer_events(layers)?,
            (Layout::Partitions(partitions), Some(root)) => {
                vec![self.root_event(&partitions.root_hash, root)?]
            }
            (Layout::Partitions(_), None) => {
                return Err(Error::new("nobody knows what the root was verified with"));
            }
        };
        if let Layout::Partitions(Partitions { next_kernel: Some(next), .. }) = &self.layout {
            // The root hash covers the files, so their names say which they are.
            let NextKernel { kernel, initramfs, cmdline } = next;
            let content = format!("kexec={kernel} initramfs={initramfs} cmdline={cmdline}");
            events.push(Event::new("handoff", &content)?);
            return Ok(events);
        }
        for data in &self.data {
            // The root hash covers the salt. Where the command line does not say how many blocks
            // there are, the size of the disk does, which is the host's.
            let blocks = data.blocks.map_or_else(|| "-".to_owned(), |blocks| blocks.to_string());
            let hash = hex::encode(&data.root_hash);
            let content = format!(
                "name={} verity=sha256:{hash} data_blocks={blocks} block={BLOCK_SIZE}",
                data.name
            );
            events.push(Event::new("data", &content)?);
        }
        events.push(self.volume_event()?);
        events.push(Event::new("handoff", &format!("init={}", self.init))?);
        Ok(events)
    }

    /// As for data, the root hash covers the salt; the number of blocks is the command line's.
    fn layer_events(&self, layers: &Layers) -> Result<Vec<Event>> {
        let on_corruption = self.on_corruption.name();
        let event = |(number, layer): (usize, &Layer)| {
            let content = match &layer.proof {
                Some(Proof { root_hash, blocks }) => format!(
                    "number={number} verity=sha256:{} data_blocks={blocks} block={BLOCK_SIZE} \
                     on_corruption={on_corruption}",
                    hex::encode(root_hash)
                ),
                None => format!("number={number} verity=none"),
            };
            Event::new("layer", &content)
        };
        layers.layers.iter().enumerate().map(event).collect()
    }

    fn root_event(&self, root_hash: &RootHash, root: &verity::Params) -> Result<Event> {
        let content = format!(
            "verity=sha256:{} salt={} data_blocks={} block={BLOCK_SIZE} on_corruption={}",
            hex::encode(root_hash),
            root.salt_text(),
            root.data_blocks,
            self.on_corruption.name(),
        );
        Event::new("root", &content)
    }

    fn volume_event(&self) -> Result<Event> {
        if let Layout::Layers(layers) = &self.layout {
            match layers.upper {
                Upper::Volume(_) => {}
                Upper::Memory => return Event::new("volume", "none upper=memory"),
                Upper::Plain(_) => return Event::new("volume", "none upper=plain"),
            }
        }
        let content = format!(
            "luks2=fresh-key cipher={} integrity={} tags={} metadata=memory sector={} fs=ext4",
            self.cipher.name,
            self.cipher.integrity,
            self.tags.map_or("none", Tags::name),
            crypt::SECTOR_SIZE,
        );
        Event::new("volume", &content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    fn lines(words: &str, salt: &[u8], blocks: u64) -> Vec<String> {
        let config = Config::from_cmdline(&format!("roothash={HASH} {words}")).unwrap();
        let root = verity::Params::new(salt.to_vec(), blocks).unwrap();
        config.events(Some(&root)).unwrap().iter().map(|event| event.line().to_owned()).collect()
    }

    #[test]
    fn three_lines_say_what_the_boot_has_come_to() {
        let start = format!("cvm-init root verity=sha256:{HASH}");
        let root = format!("{start} salt=0a0b data_blocks=77 block=4096 on_corruption=restart");
        assert_eq!(
            lines("", &[0xa, 0xb], 77),
            [
                root.as_str(),
                "cvm-init volume luks2=fresh-key cipher=aes-gcm-random integrity=aead tags=memory \
                 metadata=memory sector=4096 fs=ext4",
                "cvm-init handoff init=/sbin/init",
            ]
        );
        let words = "cvm.verity_on_corruption=io-error cvm.cipher=aes-xts-plain64 \
                     cvm.integrity=none \"init=/bin/a b\\\"";
        let root = format!("{start} salt=- data_blocks=2 block=4096 on_corruption=io-error");
        assert_eq!(
            lines(words, &[], 2),
            [
                root.as_str(),
                "cvm-init volume luks2=fresh-key cipher=aes-xts-plain64 integrity=none tags=none \
                 metadata=memory sector=4096 fs=ext4",
                "cvm-init handoff init=/bin/a b\\\\",
            ]
        );
    }

    #[test]
    fn each_disk_of_data_has_a_line() {
        let words = format!("cvm.data=m:serial:A:{HASH}@77 cvm.data=n:serial:B:{HASH}");
        let lines = lines(&words, &[], 2);
        let line = |name: &str, blocks: &str| {
            format!(
                "cvm-init data name={name} verity=sha256:{HASH} data_blocks={blocks} block=4096"
            )
        };
        assert_eq!(lines[1..3], [line("m", "77"), line("n", "-")]);
        assert_eq!(lines.len(), 5);
    }

    #[test]
    fn each_layer_has_a_line_and_what_is_above_them_has_one() {
        let lines = |words: &str| {
            let config = Config::from_cmdline(words).unwrap();
            let events = config.events(None).unwrap();
            events.iter().map(|event| event.line().to_owned()).collect::<Vec<_>>()
        };
        let line = |number: u8, blocks: u8| {
            format!(
                "cvm-init layer number={number} verity=sha256:{HASH} data_blocks={blocks} \
                 block=4096 on_corruption=restart"
            )
        };
        let proven = lines(&format!("cvm.layers={HASH}@2,{HASH}@70 cocoon.hostname=vm"));
        assert_eq!(proven[..2], [line(0, 2), line(1, 70)]);
        assert!(proven[2].starts_with("cvm-init volume luks2=fresh-key cipher=aes-gcm-random "));
        assert_eq!(proven[3..], ["cvm-init handoff init=/sbin/init"]);
        let memory = lines(&format!("cvm.layers={HASH}@2 cvm.cow=memory"));
        assert_eq!(memory[1], "cvm-init volume none upper=memory");
        let plain = lines("cocoon.layers=a cocoon.cow=b cvm.unverified=yes");
        assert_eq!(
            plain[..2],
            ["cvm-init layer number=0 verity=none", "cvm-init volume none upper=plain"]
        );
    }

    #[test]
    fn another_kernel_is_named_by_its_files() {
        let words = "cvm.handoff=kexec cvm.kexec_kernel=/boot/vmlinuz \
                     cvm.kexec_initramfs=/boot/initrd cvm.kexec_cmdline=/boot/cmdline";
        let root = format!("cvm-init root verity=sha256:{HASH} salt=01 data_blocks=77");
        assert_eq!(
            lines(words, &[1], 77),
            [
                format!("{root} block=4096 on_corruption=io-error"),
                "cvm-init handoff kexec=/boot/vmlinuz initramfs=/boot/initrd cmdline=/boot/cmdline"
                    .to_owned(),
            ]
        );
        let before = lines(words, &[1], 77);
        for file in ["/boot/vmlinuz", "/boot/initrd", "/boot/cmdline"] {
            let after = lines(&words.replace(file, "/boot/other"), &[1], 77);
            assert_eq!((&after[0], after[1] == before[1]), (&before[0], false), "{file}");
        }
    }

    /// Which disk it is, how large it is, what the host shares and how long it may take.
    #[test]
    fn nothing_of_one_boot_is_recorded() {
        let before = lines("", &[1], 77);
        let words = "cvm.disk=serial:A cvm.volume=serial:B cvm.volume_min=64M cvm.grow=no \
                     cvm.shares=no cvm.timeout=5 cvm.log=debug cvm.measure=required";
        assert_eq!(lines(words, &[1], 77), before);
    }

    #[test]
    fn every_word_of_a_line_makes_another() {
        let before = lines("", &[1], 77);
        for (at, words, salt, blocks) in [
            (0, "", 2, 77),
            (0, "", 1, 78),
            (0, "cvm.verity_on_corruption=panic", 1, 77),
            (1, "cvm.tags=disk", 1, 77),
            (1, "cvm.cipher=aegis128-random", 1, 77),
            (2, "init=/sbin/init2", 1, 77),
        ] {
            let after = lines(words, &[salt], blocks);
            let differ: Vec<_> = (0..3).filter(|line| after[*line] != before[*line]).collect();
            assert_eq!(differ, [at], "{words}");
        }
    }

    #[test]
    fn what_is_too_long_to_be_recorded_is_refused() {
        let words = format!("roothash={HASH} init=/{}", "a".repeat(1024));
        let config = Config::from_cmdline(&words).unwrap();
        let root = verity::Params::new(Vec::new(), 2).unwrap();
        let error = config.events(Some(&root)).unwrap_err().to_string();
        assert!(error.starts_with("cannot record handoff: its line has "), "{error}");
    }
}
