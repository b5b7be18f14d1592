//! dm-integrity: where the volume's IVs and tags are kept.
//!
//! The kernel formats the device itself when its superblock reads as zeros; how much data it
//! then provides is asked of the running target, never read from the disk.
//!
//! Source: `Documentation/admin-guide/device-mapper/dm-integrity.rst`.

use crate::block::Dev;
use crate::error::{Error, Result};

/// Bytes at the start of the device that must be zero for the kernel to format it.
pub const SUPERBLOCK_SIZE: usize = 4096;

/// Sectors that a table may cover before the provided data sectors are known: one block.
pub const PROVISIONAL_SECTORS: u64 = 8;

/// Mode `D`: no journal. The volume does not outlive the boot, so a journal would protect
/// nothing; the smallest one is asked for because the kernel writes it when it formats.
const JOURNAL_SECTORS: u32 = 8;

/// The table's parameters for tags beside the data, from sector `start` of `device` on.
#[must_use]
pub fn table(device: Dev, start: u64, tag_size: u32, block_size: u32) -> String {
    format!(
        "{device} {start} {tag_size} D 2 block_size:{block_size} journal_sectors:{JOURNAL_SECTORS}"
    )
}

/// Provided data sectors, from the target's status: "mismatches provided recalculated".
///
/// # Errors
/// When the status is not of that form.
pub fn provided_data_sectors(status: &str) -> Result<u64> {
    status
        .split(' ')
        .nth(1)
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| Error::cannot(&"read the status of dm-integrity", &format!("{status:?}")))
}

/// Says whether the live table is the one asked for. The kernel shows defaults that it filled
/// in and rounds the journal up to whole sections, so it may say more, never something else.
#[must_use]
pub fn is_live_table(asked: &str, live: &str) -> bool {
    let split = |table: &str| -> Option<(String, Vec<String>)> {
        // device start tag-size mode, number of options, options
        let mut fields = table.splitn(6, ' ');
        let head: Vec<_> = fields.by_ref().take(4).collect();
        let options = fields.nth(1)?.split(' ').map(str::to_owned).collect();
        Some((head.join(" "), options))
    };
    let (Some((asked_head, asked_options)), Some((live_head, live_options))) =
        (split(asked), split(live))
    else {
        return false;
    };
    asked_head == live_head
        && asked_options
            .iter()
            .filter(|option| !option.starts_with("journal_sectors:"))
            .all(|option| live_options.contains(option))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DEVICE: Dev = Dev { major: 8, minor: 64 };
    const LIVE: &str = "8:64 32768 28 D 5 block_size:4096 journal_sectors:264 \
                        interleave_sectors:32768 buffer_sectors:128 fix_padding";

    #[test]
    fn the_table_names_mode_and_sizes() {
        assert_eq!(
            table(DEVICE, 32768, 28, 4096),
            "8:64 32768 28 D 2 block_size:4096 journal_sectors:8"
        );
    }

    #[test]
    fn the_live_table_may_say_more_but_nothing_else() {
        let asked = table(DEVICE, 32768, 28, 4096);
        assert!(is_live_table(&asked, LIVE));
        for (from, to) in [
            ("8:64", "8:65"),
            ("32768 28", "0 28"),
            (" 28 ", " 4 "),
            (" D ", " J "),
            ("block_size:4096", "block_size:512"),
        ] {
            assert!(!is_live_table(&asked, &LIVE.replacen(from, to, 1)), "{to}");
        }
        assert!(!is_live_table(&asked, ""));
    }

    #[test]
    fn provided_sectors_are_the_second_field() {
        assert_eq!(provided_data_sectors("0 2033896 -").unwrap(), 2_033_896);
        for bad in ["", "0", "0 -", "0 -5 -"] {
            assert!(provided_data_sectors(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_status_is_read_as_the_kernel_writes_it(mismatches: u64, provided: u64,
                                                    recalculated in "-|[0-9]{1,9}") {
            let status = format!("{mismatches} {provided} {recalculated}");
            prop_assert_eq!(provided_data_sectors(&status).unwrap(), provided);
        }

        #[test]
        fn no_text_panics(asked in "\\PC*", live in "\\PC*") {
            let _ = provided_data_sectors(&live);
            let _ = is_live_table(&asked, &live);
        }

        #[test]
        fn the_order_of_options_does_not_matter(
            mut options in prop::collection::vec("[a-z_]{1,12}:[0-9]{1,5}", 0..6),
            at in any::<prop::sample::Index>(),
        ) {
            let asked = table(DEVICE, 32768, 28, 4096);
            let live = |options: &[String]| format!("8:64 32768 28 D {} {}", options.len(), options.join(" "));
            options.retain(|option| option != "block_size:4096");
            prop_assert!(!is_live_table(&asked, &live(&options)));
            options.insert(at.index(options.len() + 1), "block_size:4096".into());
            prop_assert!(is_live_table(&asked, &live(&options)));
        }
    }
}
