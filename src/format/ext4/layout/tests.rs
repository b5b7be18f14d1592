use super::*;
use proptest::prelude::*;

const BLOCK: u64 = BLOCK_BYTES as u64;
const GROUP: u64 = BLOCKS_PER_GROUP as u64;
const MIB: u64 = 1 << 20;
/// Less two bitmaps and a table of 512 blocks a group, descriptors and journal.
const LARGEST: u64 = MAX_BYTES / GROUP * (GROUP - 514) - 80 * MIB;

#[test]
fn refuses_what_is_too_small_or_too_large_and_says_where_the_limits_are() {
    let refusal = |bytes| Layout::new(bytes, u64::MAX).unwrap_err().to_string();
    assert_eq!(
        refusal(MIN_BYTES - 1),
        "cannot lay out ext4 on 1048575 bytes: at least 1048576 bytes are needed"
    );
    let too_large = "with its metadata, at most 17592186040320 bytes are supported";
    for bytes in [MAX_BYTES, MAX_BYTES + 1, u64::MAX] {
        assert_eq!(refusal(bytes), format!("cannot lay out ext4 on {bytes} bytes: {too_large}"));
    }
    assert!(Layout::new(0, 0).is_err());
    assert!(Layout::new(MIN_BYTES, 0).is_ok());
    assert!(Layout::new(LARGEST, u64::MAX).is_ok());
}

#[test]
fn a_last_group_that_is_not_worth_its_metadata_is_left_out() {
    // The shortest journal.
    let layout = |data_bytes| Layout::new(data_bytes, 16 * MIB).unwrap();
    // Two groups, but for the data that does not fit into one.
    let metadata = |groups: u64| 1 + 1 + 2 + groups * (1 + 1 + 512) + 1024;
    let one = GROUP - metadata(1);
    assert_eq!(layout(one * BLOCK).blocks(), GROUP);
    assert_eq!(layout((one - 1) * BLOCK).blocks(), GROUP - 1);
    assert_eq!(layout((one + 49) * BLOCK).blocks(), GROUP);
    assert_eq!(layout((one + 50) * BLOCK - 1).blocks(), GROUP);
    assert_eq!(layout((one + 50) * BLOCK).blocks(), one + 50 + metadata(2));
}

#[test]
fn the_journal_is_as_long_as_volume_and_memory_allow() {
    let mib = |data_bytes, metadata_max| {
        let layout = Layout::new(data_bytes, metadata_max).unwrap();
        u64::from(layout.journal_blocks) * BLOCK / MIB
    };
    for (data, journal) in [(1, 4), (64, 4), (128, 8), (512, 32), (1024, 64), (2048, 64)] {
        assert_eq!(mib(data * MIB, u64::MAX), journal, "{data} MiB of data");
    }
    assert_eq!(mib(MAX_BYTES / 2, u64::MAX), 64);
    for (metadata, journal) in [(0, 4), (16, 4), (64, 16), (72, 18), (256, 64), (1024, 64)] {
        assert_eq!(mib(20 * 1024 * MIB, metadata * MIB), journal, "{metadata} MiB of metadata");
    }
}

#[test]
fn metadata_is_packed_in_front() {
    let layout = Layout::of_blocks(GROUP * 129, TABLE_BLOCKS_MAX, JOURNAL_BLOCKS_MIN);
    assert_eq!(layout.descriptor_blocks, 2);
    assert_eq!(layout.directories(), [(2, 3), (11, 4)]);
    assert_eq!(layout.block_bitmap(0), 5);
    assert_eq!(layout.inode_bitmap(0), 5 + 129);
    assert_eq!(layout.inode_table(0), 5 + 129 + 129);
    assert_eq!(layout.journal(), 5 + 129 * (1 + 1 + 512));
    assert_eq!(layout.used_blocks(), layout.journal() + 1024);
    assert_eq!(layout.group_used_blocks(1), 32768);
    assert_eq!(layout.group_used_blocks(2), 775 + 1024);
    assert_eq!(layout.group_used_blocks(3), 0);
}

#[test]
fn there_are_fewer_inodes_where_their_tables_would_be_too_large() {
    let kib_of = |metadata_max| {
        let layout = Layout::new(20 << 30, metadata_max).unwrap();
        (layout.blocks() * 4).div_ceil(layout.inodes())
    };
    assert_eq!(kib_of(u64::MAX), 16);
    assert_eq!(kib_of(128 * MIB), 56);
    assert_eq!(kib_of(16 * MIB), 510);
    // A block of inodes in each group.
    assert_eq!(kib_of(0), 8144);
}

proptest! {
    #[test]
    fn everything_fits(
        data_bytes in MIN_BYTES..=LARGEST,
        shift in 0..24u32,
        metadata_max in 0..=1_u64 << 40,
        metadata_shift in 0..40_u32,
    ) {
        let data_bytes = (data_bytes >> shift).max(MIN_BYTES);
        let metadata_max = metadata_max >> metadata_shift;
        let layout = Layout::new(data_bytes, metadata_max).unwrap();
        let groups = || 0..layout.groups;
        // The data that there is room for is used but for what is not worth a group.
        let data = layout.free_blocks() * BLOCK;
        prop_assert!(data <= data_bytes && data_bytes - data < 700 * BLOCK, "{data}");
        prop_assert!(layout.blocks() <= u32::MAX.into());
        prop_assert!(layout.used_blocks() <= u64::from(16 + layout.journal_blocks) + layout.blocks() / 32);
        prop_assert!(u64::from(layout.journal_blocks) <= 1024 + layout.blocks() / 16);
        prop_assert!(layout.inodes_per_group.is_multiple_of(INODES_PER_BLOCK));
        prop_assert!(layout.inodes() >= u64::from(USED_INODES));
        let tables = layout.inode_table_blocks;
        prop_assert!(layout.metadata_bytes() <= metadata_max || tables == 1);
        // Nothing is given up that there is room for.
        let about = layout.metadata_bytes() / 60 * 61 + (514 + 2 * layout.groups) * BLOCK;
        prop_assert!(about > metadata_max || layout.inodes() >= layout.blocks() / 4);
        prop_assert!(layout.descriptor_blocks + 3 < u64::from(BLOCKS_PER_GROUP));
        prop_assert!(groups().all(|group| layout.group_blocks(group) > 0));
        prop_assert!(groups().all(|group| layout.group_used_blocks(group) <= layout.group_blocks(group)));
        prop_assert_eq!(groups().map(|group| u64::from(layout.group_blocks(group))).sum::<u64>(), layout.blocks());
        prop_assert_eq!(groups().map(|group| u64::from(layout.group_used_blocks(group))).sum::<u64>(), layout.used_blocks());
    }
}
