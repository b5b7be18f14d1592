//! What lies on the disk, or is said of it.

use std::io;

use cvm_init::format::device::{Dev, SECTOR};
use cvm_init::format::gpt::{Header, Role};
use cvm_init::format::hex;
use cvm_init::format::program::Program;
use cvm_init::format::rootfs::{FileSystem, Kind, START_BYTES};
use cvm_init::format::verity::{
    Areas, BLOCK_SIZE, HashOffset, OnCorruption, Params, SUPERBLOCK_SIZE, data_blocks_before_tree,
};
use cvm_init::kernel::block::{self, Device, Disk, Partition};

use super::{check_refusal, split_padded};

/// 512 bytes of superblock, then the sizes of the data and of the hash device, which is also where the
/// hash area lies behind the data.
pub fn verity_superblock(bytes: &[u8]) {
    const DATA: Dev = Dev { major: 8, minor: 2 };
    const HASH: Dev = Dev { major: 8, minor: 3 };
    let (superblock, rest) = split_padded::<SUPERBLOCK_SIZE>(bytes);
    let params = match Params::from_superblock(&superblock) {
        Ok(params) => params,
        Err(error) => return check_refusal(&error),
    };
    assert_eq!(superblock[..8], *b"verity\0\0");
    assert_eq!(superblock[32..64], *b"sha256\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(superblock[88..][..params.salt.len()], params.salt);
    assert_eq!(Params::new(params.salt.clone(), params.data_blocks).as_ref(), Ok(&params));

    let root_hash = [0xab; 32];
    let table = params.table(DATA, (HASH, 1), &root_hash, OnCorruption::IoError, false);
    let fields: Vec<_> = table.split(' ').collect();
    let [kind, data, hash, data_size, hash_size, blocks, start, algorithm, root, salt] = fields[..]
    else {
        panic!("a table of ten fields: {table:?}");
    };
    assert_eq!([kind, data, hash, data_size, hash_size], ["1", "8:2", "8:3", "4096", "4096"]);
    assert_eq!(blocks.parse(), Ok(params.data_blocks));
    assert_eq!([start, algorithm, root], ["1", "sha256", &hex::encode(&root_hash)]);
    match salt {
        "-" => assert!(params.salt.is_empty()),
        digits => assert_eq!(hex::decode(digits).as_ref(), Some(&params.salt)),
    }

    let (data_bytes, rest) = split_padded(rest);
    let (hash_bytes, _) = split_padded(rest);
    let (data_bytes, hash_bytes) = (u64::from_le_bytes(data_bytes), u64::from_le_bytes(hash_bytes));
    let mapped = u128::from(params.sectors()) * u128::from(SECTOR);
    assert_eq!(mapped / u128::from(BLOCK_SIZE), params.data_blocks.into());
    // A superblock, and a digest of 32 bytes of each data block.
    let tree = 4096 + u128::from(params.data_blocks) * 32;
    let apart = Areas::apart(data_bytes, hash_bytes);
    match params.require_room(&apart, apart.tree(true)) {
        Ok(()) => assert!(mapped <= data_bytes.into() && tree <= hash_bytes.into()),
        Err(error) => check_refusal(&error),
    }
    let Some(offset) = HashOffset::new(hash_bytes) else { return };
    let together = Areas::together(data_bytes, offset).and_then(|areas| {
        assert_eq!(areas.hash_at(), hash_bytes);
        params.require_room(&areas, areas.tree(true))
    });
    match together {
        Ok(()) => {
            assert!(mapped <= hash_bytes.into());
            assert!(u128::from(hash_bytes) + tree <= data_bytes.into());
        }
        Err(error) => check_refusal(&error),
    }
    check_whole_disk(data_bytes / u64::from(BLOCK_SIZE));
}

/// What is told from the size of a disk with data and hash tree lies on it, and one block more of data
/// would not.
fn check_whole_disk(blocks: u64) {
    let bytes = blocks.saturating_mul(BLOCK_SIZE.into());
    let room = |data_blocks: u64| {
        let params = Params::new(Vec::new(), data_blocks).ok()?;
        let areas = Areas::together(bytes, HashOffset::behind(data_blocks)).ok()?;
        params.require_room(&areas, areas.tree(true)).ok()
    };
    match data_blocks_before_tree(blocks) {
        Some(data) => assert!(room(data).is_some() && room(data + 1).is_none(), "{blocks}: {data}"),
        None => assert!(room(2).is_none(), "{blocks}"),
    }
}

/// Bytes of a header and of an entry.
const HEADER: usize = 92;
const ENTRY: usize = 128;

/// The header of a partition table and, from byte 512 on, its entries. The checksums are set right, so
/// that what lies behind them is reached.
pub fn partition_table(bytes: &[u8]) {
    let (mut sector, entries) = split_padded::<512>(bytes);
    if let Err(error) = Header::parse(&sector) {
        check_refusal(&error);
    }
    let crc = |bytes: &[u8]| {
        !bytes.iter().fold(u32::MAX, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                crc >> 1 ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 }
            })
        })
    };
    let [size, count] =
        [12, 80].map(|at| u32::from_le_bytes(sector[at..at + 4].try_into().expect("four bytes")));
    let mut all = entries.to_vec();
    all.resize((count as usize).min(512) * ENTRY, 0);
    sector[88..HEADER].copy_from_slice(&crc(&all).to_le_bytes());
    sector[16..20].fill(0);
    let header_crc = crc(&sector[..(size as usize).min(sector.len())]);
    sector[16..20].copy_from_slice(&header_crc.to_le_bytes());
    let header = match Header::parse(&sector) {
        Ok(header) => header,
        Err(error) => return check_refusal(&error),
    };
    assert!(sector.starts_with(b"EFI PART") && (92..=512).contains(&size));
    assert!((1..=256).contains(&count) && header.entries_size() == all.len());
    let first = u64::from_le_bytes(sector[72..80].try_into().expect("eight bytes"));
    assert_eq!(header.entries_at(4096).ok(), first.checked_mul(4096));
    // One entry short, another checksum.
    header.entries(&[&all[..], b"x"].concat()).expect_err("a byte more");
    let found = header.entries(&all).expect("the checksum is right");
    let used = all.chunks(ENTRY).filter(|entry| entry[..16] != [0; 16]);
    assert_eq!(found.len(), used.count());
    for entry in found {
        let stored = &all[(entry.number as usize - 1) * ENTRY..][..ENTRY];
        assert_eq!([entry.kind[15], entry.uuid[15]], [stored[15], stored[31]]);
        assert_eq!(entry.first.to_le_bytes(), stored[32..40]);
        assert!(entry.name.chars().count() <= 36 && !entry.name.contains('\0'));
        if let Some((start, sectors)) = entry.span(4096) {
            assert!(start % 8 == 0 && sectors > 0);
            let last = (u128::from(start) + u128::from(sectors)) / 8 - 1;
            assert_eq!(last, entry.last.into());
        }
        for role in [Role::Root, Role::Tree] {
            if let Err(error) = entry.require(role) {
                check_refusal(&error);
            }
        }
        check_refusal(&format!("it is called {:?}", entry.name));
    }
}

/// The first 2048 bytes of a file system, then the number of blocks that are verified.
pub fn root_start(bytes: &[u8]) {
    let (start, rest) = split_padded::<START_BYTES>(bytes);
    let verified = u64::from_le_bytes(split_padded(rest).0);
    let u32_at = |at: usize| u32::from_le_bytes(*start[at..].first_chunk().expect("four bytes"));
    let is_ext4 = start[0x438..0x43a] == [0x53, 0xef] && u32_at(0x418) <= 6;
    let is_erofs = u32_at(0x400) == 0xe0f5_e1e2;
    let is_squashfs = start.starts_with(b"hsqs");
    let found = match FileSystem::recognize(&start, "the root") {
        Ok(found) => found,
        Err(error) => return check_refusal(&error),
    };
    // One at a time, with blocks that dm-verity can carry.
    let (its, others, blocks) = match found.kind {
        Kind::Ext4 => (is_ext4, is_erofs || is_squashfs, u64::from(u32_at(0x404))),
        Kind::Erofs => (is_erofs, is_ext4 || is_squashfs, u64::from(u32_at(0x424))),
        Kind::Squashfs => {
            let used = u64::from(u32_at(44)) << 32 | u64::from(u32_at(40));
            (is_squashfs, is_ext4 || is_erofs, used / 4096 + u64::from(used % 4096 > 0))
        }
    };
    assert!(its && !others, "{found:?}");
    let is_4096 = match found.kind {
        Kind::Ext4 => u32_at(0x418) == 2 && u32_at(0x460) & 4 == 0,
        Kind::Erofs => start[0x40c] == 12,
        Kind::Squashfs => u32_at(12).is_power_of_two() && u32_at(12) >= 4096,
    };
    assert!(is_4096, "{found:?}");
    // An upper half counts where a feature says so.
    assert!(found.blocks == blocks || found.blocks & 0xffff_ffff == blocks, "{found:?}");
    assert_eq!(found.require_blocks(verified, "verified", "it").is_ok(), found.blocks <= verified);
    if let Err(error) = found.require_some_kernel("the root") {
        check_refusal(&error);
    }
    check_refusal(&found);
}

/// A file that exec is to run.
pub fn program(bytes: &[u8]) {
    let read = |at: u64, length: usize| {
        assert!(length <= 65_536, "{length} bytes to be read at once");
        let rest = usize::try_from(at).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
        Ok(rest[..length.min(rest.len())].to_vec())
    };
    let name = match Program::from_content(read) {
        Ok(Program::Script { interpreter }) => {
            assert!(bytes.starts_with(b"#!"));
            let name = interpreter.into_os_string().into_encoded_bytes();
            assert!(!name.contains(&b' ') && !name.contains(&b'\t') && !name.contains(&b'\n'));
            name
        }
        Ok(Program::Code { loader }) => {
            assert!(bytes.starts_with(b"\x7fELF\x02\x01"));
            let Some(loader) = loader else { return };
            loader.into_os_string().into_encoded_bytes()
        }
        Err(error) => return check_refusal(&error),
    };
    assert!(!name.is_empty() && !name.contains(&0));
    assert!(bytes.windows(name.len()).any(|window| window == name));
}

/// Lines: the sectors of the disk, then `partition dev start size label` of each partition, as sysfs
/// shows them.
pub fn partitions(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.lines();
    let Some(disk_sectors) = lines.next().and_then(|line| line.parse().ok()) else {
        return;
    };
    let mut found = Vec::new();
    for line in lines.take(32) {
        let attributes: Vec<_> = line.split(' ').collect();
        let read = |name: &str| {
            let names = ["partition", "dev", "start", "size", "uevent"];
            let at = names.iter().position(|known| *known == name);
            let value = at.and_then(|at| attributes.get(at)).ok_or(io::ErrorKind::NotFound)?;
            let prefix = if name == "uevent" { "PARTN=4\nPARTNAME=" } else { "" };
            Ok(format!("{prefix}{value}\n"))
        };
        match Partition::from_attributes("sda", read) {
            Ok(Some(partition)) => {
                assert_eq!(attributes[0].trim_end().parse(), Ok(partition.number));
                let device = &partition.device;
                assert_eq!(Dev::parse(&device.dev.to_string()), Some(device.dev));
                assert_eq!(device.bytes(), device.sectors.saturating_mul(512));
                let label = attributes.get(4).copied();
                assert_eq!(
                    partition.label.as_deref(),
                    label.map(|l| l.strip_suffix('\r').unwrap_or(l))
                );
                found.push(partition);
            }
            Ok(None) => assert!(attributes[0].trim_end().parse::<u64>().is_err()),
            Err(error) => check_refusal(&error),
        }
    }
    for one in &found {
        for other in &found {
            let overlap = one.overlaps(other);
            assert_eq!(other.overlaps(one), overlap);
            // One without a sector may be seen to overlap what it lies within.
            let is_empty = one.device.sectors.min(other.device.sectors) == 0;
            let exact = overlap == share_a_sector(one, other) || is_empty;
            assert!(exact, "{one:?} {other:?}");
        }
    }
    if let Some(cocos) = found.iter().find(|partition| partition.number == 4) {
        check_growth(cocos, disk_sectors, &found);
    }
}

/// The same by arithmetic that cannot overflow.
fn share_a_sector(one: &Partition, other: &Partition) -> bool {
    let end =
        |partition: &Partition| u128::from(partition.start) + u128::from(partition.device.sectors);
    let first = one.start.max(other.start);
    u128::from(first) < end(one).min(end(other))
}

/// What a partition grows over must be nobody else's, and on the disk.
fn check_growth(cocos: &Partition, disk_sectors: u64, all: &[Partition]) {
    let others = || all.iter().filter(|other| *other != cocos);
    if others().any(|other| other.overlaps(cocos)) {
        return; // such a disk is refused
    }
    // The backup of the table: 33 sectors of 512 bytes, or 5 of 4096.
    for (logical_block, backup) in [(512, 33), (4096, 40)] {
        let device =
            Device { name: "sda".to_owned(), dev: cocos.device.dev, sectors: disk_sectors };
        let disk = Disk { device, logical_block };
        let Some(sectors) = cocos.length_to_end(&disk, all) else {
            continue;
        };
        assert!(sectors > cocos.device.sectors);
        let end = cocos.start.checked_add(sectors).expect("an end that is a sector");
        assert!(end + backup <= disk_sectors, "{end} is not on a disk of {disk_sectors}");
        let mut grown = cocos.clone();
        grown.device.sectors = sectors;
        for other in others() {
            assert!(!share_a_sector(&grown, other), "{grown:?} grew over {other:?}");
        }
    }
}

/// A page of vital product data, or a driver's attribute.
pub fn disk_serial(bytes: &[u8]) {
    let page = block::unit_serial_number(bytes);
    if let Some(serial) = &page {
        assert_eq!(serial.len(), usize::from(bytes[2]) << 8 | usize::from(bytes[3]));
        assert_eq!(bytes[4..][..serial.len()], *serial);
    }
    for attribute in [Some(bytes), page.as_deref()].into_iter().flatten() {
        let serial = block::parse_serial(attribute);
        let padding = ['\0', ' ', '\n'];
        assert!(!serial.starts_with(padding) && !serial.ends_with(padding), "{serial:?}");
        assert!(String::from_utf8_lossy(attribute).contains(&serial));
        // It is compared with what the command line asks for, and shown.
        check_refusal(&format!("no usable disk with serial {serial:?}"));
    }
}
