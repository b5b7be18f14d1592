//! What PID 1 records of a boot: PID 1's own function tells it, of the words that PID 1 reads.

use cvm_init::config::{Config, Layout, Lines, Measure};
use cvm_init::error::{Error, Result};
use cvm_init::format::aael;
use cvm_init::format::event::Event as Line;

use crate::measure::hash::Hash;
use crate::measure::tpm::{Event, IDENTITY};

/// What is added to what else is measured.
const LATER: &str = "the root's systemd may extend it later";

/// What a boot records, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    measure: Measure,
    lines: Vec<Line>,
}

impl Record {
    /// What a boot by these words records.
    ///
    /// # Errors
    /// PID 1 would refuse the words, or would have to read from the disk what it records.
    pub fn of(cmdline: &str, initramfs_words: &str) -> Result<Self> {
        let lines = Lines { kernel: cmdline.to_owned(), initramfs: initramfs_words.to_owned() };
        let config = Config::from_lines(&lines)?;
        // Of layers all that is recorded stands in the words.
        let root = match &config.layout {
            Layout::Layers(_) => None,
            Layout::Partitions(partitions) => Some(partitions.verity.as_ref().ok_or_else(|| {
                Error::new(
                    "the command line has neither cvm.verity_salt= nor cvm.verity_data_blocks=, \
                     which are recorded",
                )
            })?),
        };
        Ok(Self { measure: config.measure, lines: config.events(root)? })
    }

    /// The events of a TPM's register, or the word that there are none.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        let none = match self.measure {
            Measure::Auto | Measure::Required => {
                let event = |line: &Line| {
                    Event::of(
                        IDENTITY,
                        &format!("{}, by PID 1", line.line()),
                        &[line.line().as_bytes()],
                    )
                };
                return self.lines.iter().map(event).collect();
            }
            Measure::Rtmr3 => format!("cvm.measure=rtmr3: PID 1 records in RTMR3; {LATER}"),
            Measure::No => format!("cvm.measure=no: PID 1 records nothing; {LATER}"),
        };
        vec![Event::none(IDENTITY, &none)]
    }

    /// What RTMR3 of a TD holds when init starts.
    #[must_use]
    pub fn rtmr3(&self) -> Hash<48> {
        if self.measure != Measure::Rtmr3 {
            return Hash::<48>::ZERO;
        }
        let extend =
            |value: Hash<48>, line: &Line| value.extend(&Hash::<48>::of(&[&aael::tagged(line)]));
        self.lines.iter().fold(Hash::<48>::ZERO, extend)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::measure::tpm::Chain;

    /// Words of an image.
    pub(crate) fn words(more: &str) -> String {
        let hash = "0f".repeat(32);
        format!("roothash={hash} cvm.verity_salt=01 cvm.verity_data_blocks=77 {more}")
    }

    fn record(more: &str) -> Record {
        Record::of(&words(more), "").unwrap()
    }

    /// `sha256sum` and `sha384sum` over registers and lines.
    #[test]
    fn a_register_holds_what_pid_1_extends_it_by() {
        let record = record("");
        let chain = Chain::of(Vec::new(), record.events());
        assert_eq!(
            chain.sha256[&IDENTITY].to_string(),
            "ea08eeddf5f3328a6394f42387e3220cafe776cbc615cbd2ca51c53242b2066f"
        );
        assert_eq!(
            chain.sha384[&IDENTITY].to_string(),
            "95e470cb83dc787c2f4ef8d08877650fc160f032b5973c40\
             4514443aad3ed6f6a90a8106de73f1150d627e0b52f40bad"
        );
        assert_eq!(chain.events[2].what, "cvm-init handoff init=/sbin/init, by PID 1");
        assert_eq!(record.rtmr3(), Hash::<48>::ZERO);
    }

    #[test]
    fn the_command_line_says_where_a_boot_is_recorded() {
        for (words, start) in [
            ("cvm.measure=no", "cvm.measure=no: PID 1 records nothing"),
            ("cvm.measure=rtmr3", "cvm.measure=rtmr3: PID 1 records in RTMR3"),
        ] {
            let events = record(words).events();
            assert!(events.len() == 1 && events[0].digests.is_none(), "{events:?}");
            assert!(events[0].what.starts_with(start), "{events:?}");
        }
        assert_eq!(record("cvm.measure=no").rtmr3(), Hash::<48>::ZERO);
        assert_eq!(
            record("cvm.measure=rtmr3").rtmr3().to_string(),
            "9fffbe4b8cf3dc9cd58fc8e0f99d07dc769f7b1348fa57c8\
             ae8eb65604fada7906c624cb4e216f0aadaa72ef4ec24c66"
        );
        assert_eq!(record("cvm.measure=required").events(), record("").events());
    }

    #[test]
    fn words_of_the_initramfs_count() {
        let there = Record::of(&words(""), "init=/bin/other").unwrap();
        assert_eq!(there, record("init=/bin/other"));
        assert_ne!(there, record(""));
    }

    /// Without what proves a root on a partition, and in the order of the words.
    #[test]
    fn of_layers_all_is_told_by_the_words() {
        let hash = "0f".repeat(32);
        let events = |words: &str| Record::of(words, "").unwrap().events();
        let layers = events(&format!("cvm.layers={hash}@2,{hash}@70"));
        assert_eq!(layers.len(), 4);
        assert!(layers[1].what.contains(" number=1 ") && layers[1].what.contains("=70 "));
        let memory = events(&format!("cvm.layers={hash}@2 cvm.cow=memory"));
        assert_eq!(memory[1].what, "cvm-init volume none upper=memory, by PID 1");
    }

    /// What the next kernel's boot records comes behind it.
    #[test]
    fn a_boot_that_hands_over_to_another_kernel_records_that() {
        let files =
            "cvm.handoff=kexec cvm.kexec_kernel=/k cvm.kexec_initramfs=/i cvm.kexec_cmdline=/c";
        let events = record(files).events();
        assert_eq!(events.len(), 2);
        assert_eq!(events[1].what, "cvm-init handoff kexec=/k initramfs=/i cmdline=/c, by PID 1");
    }

    #[test]
    fn what_is_read_from_the_disk_cannot_be_told() {
        let why = |words: &str| Record::of(words, "").unwrap_err().to_string();
        assert!(
            why(&format!("roothash={}", "0f".repeat(32)))
                .starts_with("the command line has neither cvm.verity_salt=")
        );
        assert_eq!(why("quiet"), "roothash= is missing");
    }
}
