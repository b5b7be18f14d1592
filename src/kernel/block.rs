//! Block devices as sysfs shows them. Their names and serials are the host's choice.
//!
//! Source: `Documentation/ABI/stable/sysfs-block`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, fstat};

use crate::format::device::{Dev, SECTOR};
use crate::format::gpt;
use crate::kernel::{attribute, file};

/// Sectors to which partitions are aligned: a megabyte, as by every partitioning tool.
const ALIGNMENT: u64 = 2048;

/// A block device: a whole disk, or a partition of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Kernel name: `sda`, `nvme0n1p3`.
    pub name: String,
    /// Device number.
    pub dev: Dev,
    /// Length in sectors of 512 bytes.
    pub sectors: u64,
}

/// A whole disk.
#[derive(Debug, Clone)]
pub struct Disk {
    /// All of it.
    pub device: Device,
    /// Bytes in a sector as the disk counts them, and its partition table with it.
    pub logical_block: u64,
}

/// A partition of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// What lies in it.
    pub device: Device,
    /// Number in the partition table, from 1.
    pub number: u32,
    /// First sector, in sectors of 512 bytes.
    pub start: u64,
    /// What the partition table calls it, if anything.
    pub label: Option<String>,
}

impl Device {
    /// Its node.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }

    /// Opens its node and makes sure that it is the device that sysfs spoke of.
    ///
    /// # Errors
    /// When the node cannot be opened, or is another device's.
    pub fn open(&self, flags: OFlags) -> io::Result<File> {
        let file = file::open(self.path(), flags)?;
        let dev = Dev::from_rdev(fstat(&file)?.st_rdev);
        if dev != self.dev {
            return Err(io::Error::other(format!("the node is device {dev}, not {}", self.dev)));
        }
        Ok(file)
    }

    /// The same where nobody else uses it, and nobody can as long as the file is open: it is not
    /// mounted, no mapping lies on it, and both are true of each of its partitions (open(2), `O_EXCL`
    /// on a block device; `bd_may_claim` in the kernel's `block/bdev.c`).
    ///
    /// # Errors
    /// EBUSY when it is in use; those of [`Device::open`].
    pub fn claim(&self, flags: OFlags) -> io::Result<File> {
        self.open(flags | OFlags::EXCL)
    }

    /// Length in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.sectors.saturating_mul(SECTOR)
    }
}

impl Partition {
    /// From its attributes in sysfs, each a line but for `uevent`. `None` when it has no number: then
    /// it is no partition.
    ///
    /// # Errors
    /// When the device number cannot be read, or an attribute is not what the kernel writes.
    pub fn from_attributes(
        name: &str,
        read: impl Fn(&str) -> io::Result<String>,
    ) -> io::Result<Option<Self>> {
        let number = |attribute| read(attribute).ok().and_then(|line| parse_number(&line));
        let incomplete = || io::Error::other(format!("{name} has incomplete attributes"));
        let Some(index) = number("partition") else {
            return Ok(None);
        };
        Ok(Some(Self {
            device: Device {
                name: name.to_owned(),
                dev: Dev::parse(&read("dev")?).ok_or_else(incomplete)?,
                sectors: number("size").ok_or_else(incomplete)?,
            },
            number: u32::try_from(index).map_err(|_| incomplete())?,
            start: number("start").ok_or_else(incomplete)?,
            label: read("uevent").ok().as_deref().and_then(parse_label),
        }))
    }

    /// The length in sectors that it has when it reaches the end of `disk`, up to the place of a
    /// backup partition table. `None` when it gains nothing, or when one of `others` reaches behind
    /// its start.
    #[must_use]
    pub fn length_to_end(&self, disk: &Disk, others: &[Self]) -> Option<u64> {
        if others.iter().any(|other| other != self && self.starts_before_end_of(other)) {
            return None;
        }
        let backup = gpt::sectors_of_a_copy(disk.logical_block);
        let backup = backup.saturating_mul(disk.logical_block / SECTOR);
        let end = disk.device.sectors.saturating_sub(backup) / ALIGNMENT * ALIGNMENT;
        let length = end.checked_sub(self.start)?;
        (length > self.device.sectors).then_some(length)
    }

    /// Whether all of it lies on a disk of `disk_sectors`. The kernel takes a table's word for a
    /// partition that ends before it starts, whose length is then nearly 2^64.
    #[must_use]
    pub fn lies_within(&self, disk_sectors: u64) -> bool {
        self.start.checked_add(self.device.sectors).is_some_and(|end| end <= disk_sectors)
    }

    /// Whether the two share a sector.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.starts_before_end_of(other) && other.starts_before_end_of(self)
    }

    /// By their distance, which cannot overflow as an end can.
    fn starts_before_end_of(&self, other: &Self) -> bool {
        self.start.checked_sub(other.start).is_none_or(|distance| distance < other.device.sectors)
    }
}

/// The disks there are now, by name, `sda` first.
///
/// # Errors
/// When sysfs cannot be read.
pub fn disks() -> io::Result<Vec<Disk>> {
    let mut disks = BTreeMap::new();
    for name in names(Path::new("/sys/block"))? {
        let dir = sys(&name);
        let line = |attribute| attribute::text(&dir.join(attribute)).ok();
        let number = |attribute| line(attribute).as_deref().and_then(parse_number);
        // A drive without a medium has no sectors; one that went away has no size.
        let Some(sectors @ 1..) = number("size") else { continue };
        // One of several paths to a disk has no number: it is not to be used by itself
        // (`GENHD_FL_HIDDEN` in the kernel's `block/genhd.c`).
        let Some(dev) = line("dev").as_deref().and_then(Dev::parse) else { continue };
        let logical_block = number("queue/logical_block_size").unwrap_or(SECTOR).max(SECTOR);
        let order = order(&name);
        disks.insert(order, Disk { device: Device { name, dev, sectors }, logical_block });
    }
    Ok(disks.into_values().collect())
}

impl Disk {
    /// Its partitions, in no particular order.
    ///
    /// # Errors
    /// When sysfs cannot be read, as when the disk went away.
    pub fn partitions(&self) -> io::Result<Vec<Partition>> {
        let disk = sys(&self.device.name);
        let mut partitions = Vec::new();
        // They have its name and a number behind it (`part_devt` and `disk_name` in the kernel's
        // `block/partitions`).
        for name in names(&disk)?.into_iter().filter(|name| name.starts_with(&self.device.name)) {
            let dir = disk.join(&name);
            let read = |attribute: &str| attribute::text(&dir.join(attribute));
            partitions.extend(Partition::from_attributes(&name, read)?);
        }
        Ok(partitions)
    }

    /// Its serial, where its driver shows one.
    ///
    /// # Errors
    /// When sysfs cannot be read.
    pub fn serial(&self) -> io::Result<Option<String>> {
        let dir = sys(&self.device.name);
        for (attribute, serial_in) in SERIALS {
            let serial = match attribute::read(&dir.join(attribute)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                content => serial_in(&content?),
            };
            return Ok(serial.as_deref().map(parse_serial));
        }
        Ok(None)
    }

    /// Whether the kernel refuses writes to it.
    ///
    /// # Errors
    /// When sysfs cannot be read.
    pub fn is_read_only(&self) -> io::Result<bool> {
        let ro = attribute::text(&sys(&self.device.name).join("ro"))?;
        Ok(parse_number(&ro) != Some(0))
    }
}

/// Where drivers show a serial, and how it is taken out of what they show.
type Serial = (&'static str, fn(&[u8]) -> Option<Vec<u8>>);
const SERIALS: &[Serial] = &[
    ("serial", |text| Some(text.to_vec())),
    ("device/serial", |text| Some(text.to_vec())),
    ("device/vpd_pg80", unit_serial_number),
];

/// A serial without its padding, or the NUL or line feed that ends it.
#[must_use]
pub fn parse_serial(serial: &[u8]) -> String {
    String::from_utf8_lossy(serial).trim_matches(['\0', ' ', '\n']).to_owned()
}

/// The serial in a SCSI unit serial number page (SPC-4, 7.8.15): four bytes of head, the last
/// two of them the length.
#[must_use]
pub fn unit_serial_number(page: &[u8]) -> Option<Vec<u8>> {
    let (&[_, _, high, low], rest) = page.split_first_chunk()?;
    let length = usize::from(u16::from_be_bytes([high, low]));
    rest.get(..length).map(<[u8]>::to_vec)
}

/// `/dev/sda` is where the disk is expected, so it is tried first; then shorter names before
/// longer ones, which puts `sdb` before `sdaa`.
fn order(name: &str) -> (bool, usize, String) {
    (name != "sda", name.len(), name.to_owned())
}

fn sys(disk: &str) -> PathBuf {
    Path::new("/sys/block").join(disk)
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for name in file::names(dir)? {
        // The kernel's own names are ASCII; any other is none that we look for.
        names.extend(name.into_string());
    }
    Ok(names)
}

/// The label in what a partition shows as `uevent` (`part_uevent` in the kernel's
/// `block/partitions/core.c`).
fn parse_label(lines: &str) -> Option<String> {
    lines.lines().find_map(|line| line.strip_prefix("PARTNAME=")).map(str::to_owned)
}

fn parse_number(line: &str) -> Option<u64> {
    line.trim_end().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn partition(start: u64, sectors: u64) -> Partition {
        let dev = Dev { major: 8, minor: 4 };
        let device = Device { name: "sda4".into(), dev, sectors };
        Partition { device, number: 4, start, label: None }
    }

    fn disk(sectors: u64, logical_block: u64) -> Disk {
        let dev = Dev { major: 8, minor: 0 };
        Disk { device: Device { name: "sda".into(), dev, sectors }, logical_block }
    }

    #[test]
    fn sda_is_tried_first_then_by_name() {
        let mut names = ["nvme0n1", "sdb", "vda", "sdaa", "sda"];
        names.sort_by_key(|name| order(name));
        assert_eq!(names, ["sda", "sdb", "vda", "sdaa", "nvme0n1"]);
    }

    #[test]
    fn overlap_is_seen_also_where_a_length_would_overflow() {
        assert!(partition(0, 10).overlaps(&partition(9, 1)));
        assert!(!partition(0, 10).overlaps(&partition(10, 5)));
        assert!(partition(5, u64::MAX).overlaps(&partition(1 << 40, 1)));
    }

    #[test]
    fn a_partition_lies_within_its_disk_or_not() {
        assert!(partition(10, 90).lies_within(100));
        assert!(!partition(10, 91).lies_within(100));
        assert!(!partition(10, u64::MAX - 5).lies_within(100));
    }

    #[test]
    fn the_last_partition_can_reach_the_end_of_a_grown_disk() {
        let (first, last) = (partition(2048, 2048), partition(4096, 2048));
        let others = [first.clone(), last.clone()];
        let grown = |partition: &Partition, sectors, logical_block| {
            partition.length_to_end(&disk(sectors, logical_block), &others)
        };
        for (logical_block, backup) in [(512, 33), (4096, 40)] {
            // As it was made: a megabyte behind it for the backup table.
            assert_eq!(grown(&last, 8192, logical_block), None);
            assert_eq!(grown(&last, 8192 + 2048, logical_block), Some(4096));
            assert_eq!(grown(&last, 8192 + 2048 + backup - 1, logical_block), Some(4096));
            assert_eq!(grown(&last, 8192 + 2048 + backup, logical_block), Some(6144));
            assert_eq!(grown(&first, 1 << 30, logical_block), None);
            for sectors in [0, 32, 4096] {
                assert_eq!(grown(&last, sectors, logical_block), None);
            }
            assert!(grown(&last, u64::MAX, logical_block).is_some());
        }
    }

    #[test]
    fn a_label_is_that_of_the_table() {
        let shown = "MAJOR=8\nMINOR=4\nDEVNAME=sda4\nDEVTYPE=partition\nPARTN=4\nPARTNAME=a b=c\n";
        let partition = |uevent: &str| {
            let read = |attribute: &str| match attribute {
                "uevent" => Ok(uevent.to_owned()),
                "dev" => Ok("8:4\n".to_owned()),
                _ => Ok("4\n".to_owned()),
            };
            Partition::from_attributes("sda4", read).unwrap().unwrap()
        };
        assert_eq!(partition(shown).label.as_deref(), Some("a b=c"));
        assert_eq!(partition("DEVNAME=sda4\n").label, None);
    }

    #[test]
    fn a_node_of_another_device_is_not_opened() {
        let device =
            |minor| Device { name: "null".into(), dev: Dev { major: 1, minor }, sectors: 1 };
        for flags in [file::READ, file::WRITE] {
            assert!(device(3).open(flags).is_ok());
            let error = device(5).open(flags).unwrap_err().to_string();
            assert_eq!(error, "the node is device 1:3, not 1:5");
        }
    }

    #[test]
    fn a_scsi_serial_is_as_long_as_its_page_says() {
        assert_eq!(unit_serial_number(b"\0\x80\0\x03abcd"), Some(b"abc".to_vec()));
        for bad in [&b""[..], b"\0\x80\0", b"\0\x80\0\x05abcd", b"\0\x80\xff\xff"] {
            assert_eq!(unit_serial_number(bad), None);
        }
    }

    proptest! {
        #[test]
        fn a_device_number_is_read_as_it_is_shown(major: u32, minor: u32) {
            let dev = Dev { major, minor };
            prop_assert_eq!(Dev::parse(&dev.to_string()), Some(dev));
            prop_assert_eq!(Dev::parse(&format!("{dev}\n")), Some(dev));
        }

        #[test]
        fn no_device_number_panics(text in "[0-9:+ -]{0,12}|\\PC*", huge: u64) {
            let _ = Dev::parse(&text);
            let _ = Dev::from_huge(huge);
        }

        /// The encoding is `huge_encode_dev` of the kernel's `include/linux/kdev_t.h`.
        #[test]
        fn a_huge_device_number_survives(major in 0..1_u32 << 12, minor in 0..1_u32 << 20) {
            let huge = minor & 0xff | major << 8 | (minor & !0xff) << 12;
            prop_assert_eq!(Dev::from_huge(huge.into()), Dev { major, minor });
        }

        #[test]
        fn a_serial_lies_within_its_page(page: Vec<u8>, length in 0..300_u16) {
            let mut page = page;
            if let Some(field) = page.get_mut(2..4) {
                field.copy_from_slice(&length.to_be_bytes());
            }
            let length = usize::from(length);
            let expected = page.get(4..4 + length).map(<[u8]>::to_vec);
            prop_assert_eq!(unit_serial_number(&page), expected);
        }
    }
}
