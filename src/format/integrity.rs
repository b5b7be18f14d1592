//! dm-integrity: where the volume's IVs and tags are kept.
//!
//! Its superblock and its journal lie in front of the tags on a device of their own, the meta device.
//! The kernel formats it when it begins with zeros.
//!
//! Sources: `Documentation/admin-guide/device-mapper/dm-integrity.rst`; for sizes,
//! `calculate_journal_section_size` and `calculate_device_limits` in the kernel's
//! `drivers/md/dm-integrity.c`.

use crate::format::device::Dev;

/// Mode `D`: no journal. The volume does not outlive the boot, so a journal would protect
/// nothing; the smallest one is asked for because the kernel writes it when it formats.
const JOURNAL_SECTORS: u32 = 8;

/// Bytes of the meta device before its tags: a superblock of 8 sectors and a journal of one section,
/// which has 8 sectors of entries for 32 blocks, and these blocks.
pub const META_HEAD: u64 = (8 + 8 + 32 * 8) * 512;

/// The kernel reads and writes tags in buffers of 128 sectors, counted from the start of the meta
/// device, and wants the last one whole.
const BUFFER: u64 = 64 * 1024;

/// The table's parameters: blocks of `block_size` bytes on all of `data`, `tag_size` bytes of tag for
/// each on `meta`.
#[must_use]
pub fn table(data: Dev, meta: Dev, tag_size: u32, block_size: u32) -> String {
    format!(
        "{data} 0 {tag_size} D 3 meta_device:{meta} block_size:{block_size} \
         journal_sectors:{JOURNAL_SECTORS}"
    )
}

/// Bytes that the tags of `blocks` blocks need on the meta device behind [`META_HEAD`], if there is
/// such a number: a buffer more than they fill, because the first one begins inside a buffer.
#[must_use]
pub fn tag_bytes(blocks: u64, tag_size: u32) -> Option<u64> {
    blocks.checked_mul(tag_size.into())?.checked_next_multiple_of(BUFFER)?.checked_add(BUFFER)
}

/// How many blocks of `block_size` bytes fit into `bytes` together with their tags.
#[must_use]
pub fn blocks_with_tags(bytes: u64, tag_size: u32, block_size: u32) -> u64 {
    bytes.saturating_sub(2 * BUFFER) / (u64::from(tag_size) + u64::from(block_size))
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

    const DATA: Dev = Dev { major: 8, minor: 64 };
    const META: Dev = Dev { major: 7, minor: 0 };
    const LIVE: &str = "8:64 0 28 D 5 meta_device:7:0 block_size:4096 journal_sectors:264 \
                        interleave_sectors:1 buffer_sectors:128";

    #[test]
    fn the_table_names_devices_mode_and_sizes() {
        assert_eq!(
            table(DATA, META, 28, 4096),
            "8:64 0 28 D 3 meta_device:7:0 block_size:4096 journal_sectors:8"
        );
    }

    #[test]
    fn the_live_table_may_say_more_but_nothing_else() {
        let asked = table(DATA, META, 28, 4096);
        assert!(is_live_table(&asked, LIVE));
        for (from, to) in [
            ("8:64", "8:65"),
            ("0 28", "8 28"),
            (" 28 ", " 4 "),
            (" D ", " J "),
            ("meta_device:7:0 ", ""),
            ("meta_device:7:0", "meta_device:7:1"),
            ("block_size:4096", "block_size:512"),
        ] {
            assert!(!is_live_table(&asked, &LIVE.replacen(from, to, 1)), "{to}");
        }
        assert!(!is_live_table(&asked, ""));
    }

    /// What `calculate_device_limits` wants: behind the head whole buffers of tags; and the last
    /// buffer that holds a tag ends inside.
    #[test]
    fn a_meta_device_has_room_for_all_tags() {
        for blocks in [1, 2340, 2341, 16384, 5 << 20, 1 << 29] {
            for tag_size in [28, 32] {
                let bytes = META_HEAD + tag_bytes(blocks, tag_size).unwrap();
                let tags = blocks * u64::from(tag_size);
                assert!(bytes >= META_HEAD + tags.next_multiple_of(BUFFER));
                assert!(bytes >= (META_HEAD + tags).next_multiple_of(BUFFER));
                assert!(bytes < META_HEAD + tags + 2 * BUFFER);
            }
        }
        assert_eq!(tag_bytes(u64::MAX / 28 + 1, 28), None);
        assert_eq!(tag_bytes(u64::MAX / 28, 28), None);
    }

    proptest! {
        #[test]
        fn blocks_fit_with_their_tags(bytes: u64, shift in 0..64_u32, tag_size in 1..64_u32) {
            let bytes = bytes >> shift;
            let blocks = blocks_with_tags(bytes, tag_size, 4096);
            let tags = tag_bytes(blocks, tag_size).unwrap();
            prop_assert!(blocks == 0 || blocks * 4096 + tags <= bytes);
            prop_assert!((blocks + 32 + 1) * (4096 + u64::from(tag_size)) > bytes.min(u64::MAX / 2));
        }

        #[test]
        fn no_text_panics(asked in "\\PC*", live in "\\PC*") {
            let _ = is_live_table(&asked, &live);
        }

        #[test]
        fn the_order_of_options_does_not_matter(
            mut options in prop::collection::vec("[a-z_]{1,12}:[0-9]{1,5}", 0..6),
            at in any::<prop::sample::Index>(),
        ) {
            let asked = "8:64 0 28 D 2 block_size:4096 journal_sectors:8";
            let live = |options: &[String]| format!("8:64 0 28 D {} {}", options.len(), options.join(" "));
            options.retain(|option| option != "block_size:4096");
            prop_assert!(!is_live_table(asked, &live(&options)));
            options.insert(at.index(options.len() + 1), "block_size:4096".into());
            prop_assert!(is_live_table(asked, &live(&options)));
        }
    }
}
