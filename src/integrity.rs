//! dm-integrity: where the volume's IVs and tags are kept.
//!
//! The kernel formats the device itself when its superblock reads as zeros; how much data it
//! then provides is asked of the running target, never read from the disk.
//!
//! Sources: `Documentation/admin-guide/device-mapper/dm-integrity.rst`; for the size of a meta
//! device, `calculate_device_limits` in the kernel's `drivers/md/dm-integrity.c`.

use crate::block::Dev;
use crate::error::{Error, Result};

/// Bytes at the start of the device that must be zero for the kernel to format it.
pub const SUPERBLOCK_SIZE: usize = 4096;

/// Sectors that a table may cover before the provided data sectors are known: one block.
pub const PROVISIONAL_SECTORS: u64 = 8;

/// Mode `D`: no journal. The volume does not outlive the boot, so a journal would protect
/// nothing; the smallest one is asked for because the kernel writes it when it formats.
const JOURNAL_SECTORS: u32 = 8;

/// The kernel reads and writes tags in buffers of 128 sectors, and wants the last one whole.
const BUFFER: u64 = 64 * 1024;

/// Room on a meta device for its superblock and the smallest journal, which is 264 sectors with
/// tags of 28 bytes. What is not needed is never written.
const META_HEAD: u64 = 1024 * 1024;

/// The table's parameters. The tags lie beside the data, from sector `start` of `device` on; or on
/// the device `meta`, and then `start` has to be 0, because `device` is all data.
#[must_use]
pub fn table(device: Dev, start: u64, meta: Option<Dev>, tag_size: u32, block_size: u32) -> String {
    let (count, meta) = match meta {
        Some(meta) => (3, format!("meta_device:{meta} ")),
        None => (2, String::new()),
    };
    format!(
        "{device} {start} {tag_size} D {count} {meta}block_size:{block_size} \
         journal_sectors:{JOURNAL_SECTORS}"
    )
}

/// Bytes that a meta device needs for the tags of `blocks` blocks, if there is such a number.
#[must_use]
pub fn meta_device_bytes(blocks: u64, tag_size: u32) -> Option<u64> {
    blocks.checked_mul(tag_size.into())?.checked_next_multiple_of(BUFFER)?.checked_add(META_HEAD)
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
            table(DEVICE, 32768, None, 28, 4096),
            "8:64 32768 28 D 2 block_size:4096 journal_sectors:8"
        );
        assert_eq!(
            table(DEVICE, 0, Some(Dev { major: 7, minor: 0 }), 28, 4096),
            "8:64 0 28 D 3 meta_device:7:0 block_size:4096 journal_sectors:8"
        );
    }

    #[test]
    fn the_live_table_may_say_more_but_nothing_else() {
        let asked = table(DEVICE, 32768, None, 28, 4096);
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
    fn the_live_table_names_the_meta_device_that_was_asked_for() {
        let live = "8:64 0 28 D 5 meta_device:7:0 block_size:4096 journal_sectors:264 \
                    interleave_sectors:1 buffer_sectors:128";
        let asked = |minor| table(DEVICE, 0, Some(Dev { major: 7, minor }), 28, 4096);
        assert!(is_live_table(&asked(0), live));
        assert!(!is_live_table(&asked(1), live));
        assert!(!is_live_table(&asked(0), &live.replace("meta_device:7:0 ", "")));
    }

    /// What `calculate_device_limits` wants: a superblock of 8 sectors, one journal section, and
    /// whole buffers of tags.
    #[test]
    fn a_meta_device_has_room_for_all_tags() {
        for (mib, expected) in [(64, 1472), (1024, 8192), (20 * 1024, 144_384)] {
            let blocks = mib * 256;
            let bytes = meta_device_bytes(blocks, 28).unwrap();
            assert_eq!(bytes, expected * 1024, "{mib} MiB");
            let needed = (8 + 264) * 512 + (blocks * 28).div_ceil(BUFFER) * BUFFER;
            assert!(bytes >= needed && bytes - needed < META_HEAD, "{mib} MiB");
        }
        assert_eq!(meta_device_bytes(0, 28), Some(META_HEAD));
        assert_eq!(meta_device_bytes(u64::MAX / 28 + 1, 28), None);
        assert_eq!(meta_device_bytes(u64::MAX / 28, 28), None);
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
            let asked = table(DEVICE, 32768, None, 28, 4096);
            let live = |options: &[String]| format!("8:64 32768 28 D {} {}", options.len(), options.join(" "));
            options.retain(|option| option != "block_size:4096");
            prop_assert!(!is_live_table(&asked, &live(&options)));
            options.insert(at.index(options.len() + 1), "block_size:4096".into());
            prop_assert!(is_live_table(&asked, &live(&options)));
        }
    }
}
