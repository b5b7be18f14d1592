//! Where root, hash tree and volume may lie: by number or by UUID, the tree on a partition of its own
//! or behind the data, with a superblock or without, on sectors of both sizes, on each bus, as each file
//! system.

use crate::formats::{EROFS, SQUASHFS};
use crate::kit::artefacts::initramfs_of_formats;
use crate::kit::disk::{Builder, Disk, LARGE_SECTORS, Part};
use crate::kit::guest::{Ending, Guest};
use crate::kit::kernel::Kernel;
use crate::kit::root::{Format, Node, Root};
use crate::kit::vm::{Bus, Vm};
use crate::kit::volume_check;
use crate::refused::{PINNED, refusal, refusal_that_writes_nothing};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// From power-on to power-off, emulated.
const LIMIT: Duration = Duration::from_secs(120);

/// Where the hash tree is, and what says which partition is which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Numbers, and partition 3.
    Apart,
    /// Numbers, and behind the data.
    Behind,
    /// UUIDs, and a partition of its own.
    Named,
    /// UUIDs, and behind the data.
    NamedBehind,
}

/// Where the parameters of the hash tree come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parameters {
    Superblock,
    /// The superblock is there, and not read.
    CommandLine,
    /// There is none: `veritysetup --no-superblock`.
    Bare,
}

const PLACES: [Place; 4] = [Place::Apart, Place::Behind, Place::Named, Place::NamedBehind];
const SECTOR_SIZES: [u64; 2] = [512, 4096];
const PARAMETERS: [Parameters; 3] =
    [Parameters::Superblock, Parameters::CommandLine, Parameters::Bare];
const FORMATS: [Format; 3] = [Format::Ext4, EROFS, SQUASHFS];
const BUSES: [Bus; 3] = [Bus::VirtioScsi, Bus::VirtioBlk, Bus::Nvme];

/// A boot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) format: Format,
    pub(crate) place: Place,
    pub(crate) sector_size: u64,
    pub(crate) parameters: Parameters,
    pub(crate) bus: Bus,
    pub(crate) kernel: Kernel,
}

/// All that can be combined, on one bus after the other.
pub(crate) fn all_rows() -> Vec<Row> {
    let mut buses = BUSES.iter().copied().cycle();
    let mut rows = Vec::new();
    for format in FORMATS {
        for place in PLACES {
            for sector_size in SECTOR_SIZES {
                for (parameters, bus) in PARAMETERS.into_iter().zip(buses.by_ref()) {
                    let kernel = Kernel::RUNNING;
                    rows.push(Row { format, place, sector_size, parameters, bus, kernel });
                }
                // So that a bus does not always meet the same parameters.
                buses.next();
            }
        }
    }
    rows
}

impl Place {
    fn is_behind(self) -> bool {
        matches!(self, Self::Behind | Self::NamedBehind)
    }

    fn is_named(self) -> bool {
        matches!(self, Self::Named | Self::NamedBehind)
    }

    fn builder<'a>(self) -> Builder<'a> {
        let builder = if self.is_named() { Disk::builder().named() } else { Disk::builder() };
        if self.is_behind() { builder.tree_behind() } else { builder }
    }

    /// Numbers of the partitions of data, hash tree and volume.
    fn numbers(self) -> [u32; 3] {
        match self {
            Self::Apart => [2, 3, 4],
            Self::Behind => [2, 2, 4],
            Self::Named => [5, 6, 7],
            Self::NamedBehind => [5, 5, 7],
        }
    }
}

impl Row {
    /// Boots, and holds report, table and content against what the row asks for.
    fn check(self) {
        let start = Instant::now();
        let root = self.root();
        let disk = self.disk(&root);
        if self.parameters == Parameters::CommandLine {
            // What is not read may be anything.
            disk.write(Part::Verity, 0, &[0xa5; 4096]);
        }
        // The root as it was made, on another bus, so that it takes no name away.
        let (bus, original) = match self.bus {
            Bus::VirtioBlk => (Bus::VirtioScsi, "/dev/sda"),
            _ => (Bus::VirtioBlk, "/dev/vda"),
        };
        let vm = self.vm(&disk).words_of(&disk).disk_on(bus, &root.data);
        let mut guest = match self.parameters {
            Parameters::Superblock => vm.boot(),
            _ => vm.append(&disk.verity_parameters).boot(),
        };
        self.check_report(&mut guest, &disk, &root);
        check_content(&mut guest, original);
        guest.power_off();
        println!("passed {:>3} s  {self:?}", start.elapsed().as_secs());
    }

    pub(crate) fn root(self) -> Root {
        Root::builder().format(self.format).build()
    }

    pub(crate) fn disk(self, root: &Root) -> Disk {
        let builder = self.place.builder().root(root).sector_size(self.sector_size);
        match self.parameters {
            Parameters::Bare => builder.without_superblock().build(),
            _ => builder.build(),
        }
    }

    /// A guest with the disk, which is told nothing of it.
    pub(crate) fn vm(self, disk: &Disk) -> Vm {
        let initramfs = initramfs_of_formats(self.kernel, &[]);
        let vm = Vm::new().disk_on(self.bus, disk.path()).kernel(self.kernel).initramfs(initramfs);
        if self.sector_size == 512 { vm } else { vm.with(LARGE_SECTORS) }
    }

    /// The kernel's name of the disk.
    pub(crate) fn disk_name(self) -> &'static str {
        match self.bus {
            Bus::VirtioScsi | Bus::Ahci | Bus::Usb => "sda",
            Bus::VirtioBlk | Bus::VirtioMmio => "vda",
            Bus::Nvme => "nvme0n1",
        }
    }

    fn check_report(self, guest: &mut Guest, disk: &Disk, root: &Root) {
        let report = guest.report();
        assert_eq!(report["root"]["file_system"], self.format.name());
        let before = if matches!(self.bus, Bus::Nvme) { "p" } else { "" };
        let name = |number: u32| format!("{}{before}{number}", self.disk_name());
        let [data, hash, volume] = self.place.numbers().map(name);
        let behind = if self.place.is_behind() { disk.size(Part::Root) / 4096 } else { 0 };
        let superblock = u64::from(self.parameters != Parameters::Bare);
        let verity = &report["verity"];
        let found = ["data", "hash", "hash_start", "parameters_from"].map(|field| &verity[field]);
        let from = match self.parameters {
            Parameters::Superblock => "superblock",
            Parameters::CommandLine | Parameters::Bare => "command line",
        };
        let expected = [json!(data), json!(hash), json!(behind + superblock), json!(from)];
        assert_eq!(found.map(Value::clone), expected);
        assert_eq!(report["volume"]["partition"], json!(volume));

        // As the kernel runs it.
        let mut device = |partition: &str| {
            guest.read(&format!("/sys/class/block/{partition}/dev")).trim_end().to_owned()
        };
        let devices = [device(&data), device(&hash)].join(" ");
        let mappings = guest.ask("dm", json!({}));
        let table = mappings[0]["table"].as_str().unwrap().to_owned();
        let start = format!(
            "1 {devices} 4096 4096 {} {} sha256 {} {}",
            root.data_blocks,
            behind + superblock,
            root.roothash,
            root.salt
        );
        assert!(table.starts_with(&start), "{table}, not {start}");
    }
}

/// All of the root reads as it was made, and the volume keeps what is written.
fn check_content(guest: &mut Guest, original: &str) {
    let found =
        guest.ask("compare", json!({ "path": "/dev/mapper/root_verity", "with": original }));
    assert_eq!(found, json!({ "differing": [], "unreadable": [] }));
    let pattern = json!({
        "path": "/cocos/pattern", "offset": 0, "bytes": 4 << 20, "seed": 1, "direct": false,
    });
    guest.ask("pattern_write", pattern.clone());
    guest.ask("drop_caches", json!({}));
    assert_eq!(guest.ask("pattern_read", pattern), Value::Null);
    assert_eq!(volume_check::complaints(guest), [""; 0]);
}

/// Each value of each column.
#[test]
fn a_slice_of_all_layouts_boots() {
    for (format, place, sector_size, parameters, bus) in [
        (Format::Ext4, Place::Apart, 4096, Parameters::Superblock, Bus::VirtioScsi),
        (SQUASHFS, Place::Behind, 512, Parameters::Superblock, Bus::VirtioScsi),
        (EROFS, Place::Behind, 4096, Parameters::Bare, Bus::Nvme),
        (EROFS, Place::Named, 512, Parameters::Superblock, Bus::VirtioScsi),
        (SQUASHFS, Place::Named, 4096, Parameters::CommandLine, Bus::VirtioBlk),
        (Format::Ext4, Place::NamedBehind, 512, Parameters::Bare, Bus::VirtioScsi),
    ] {
        Row { format, place, sector_size, parameters, bus, kernel: Kernel::RUNNING }.check();
    }
}

#[test]
fn a_slice_of_all_layouts_boots_with_a_newer_kernel() {
    for (format, place, sector_size, parameters, bus) in [
        (SQUASHFS, Place::Apart, 4096, Parameters::CommandLine, Bus::VirtioScsi),
        (EROFS, Place::Behind, 4096, Parameters::Superblock, Bus::VirtioBlk),
        (Format::Ext4, Place::Named, 4096, Parameters::Superblock, Bus::Nvme),
    ] {
        Row { format, place, sector_size, parameters, bus, kernel: Kernel::TRIXIE }.check();
    }
}

#[test]
#[ignore = "scripts/test --all"]
fn every_layout_boots() {
    for row in all_rows() {
        row.check();
    }
}

/// The same root but for one file.
fn other_root() -> Root {
    Root::builder().with(Node::file("etc/hostname", "the other\n")).build()
}

/// Each kernel image, which has its own root hash, boots its own slot of the one disk, and the other
/// one stays as it is, though the first lies where Cocos has its root, and the second where Cocos has
/// its volume.
#[test]
fn two_slots_of_one_disk_boot_by_their_root_hashes() {
    let other = other_root();
    let disk = Disk::builder().named().numbers([1, 2, 3, 6]).slot(&other, [4, 5]).build();
    let whole = |disk: &Disk| {
        let bytes = std::fs::read(disk.path()).unwrap();
        bytes[..usize::try_from(disk.place(Part::Cocos, 0)).unwrap()].to_vec()
    };
    let before = whole(&disk);
    for (roothash, words, data) in [
        (&disk.roothash, "verified\n", "sda2"),
        (&other.roothash, "the other\n", "sda4"),
        (&disk.roothash, "verified\n", "sda2"),
    ] {
        let vm = Vm::new().disk(&disk).append(&format!("roothash={roothash}"));
        let mut guest = vm.boot();
        assert_eq!(guest.read("/etc/hostname"), words);
        let report = guest.report();
        assert_eq!(
            (&report["verity"]["data"], &report["volume"]["partition"]),
            (&json!(data), &json!("sda6"))
        );
        guest.ask("write", json!({ "path": "/cocos/datasets/file", "text": words }));
        guest.power_off();
        drop(guest);
        assert!(whole(&disk) == before, "something in front of the volume was written to");
    }
}

#[test]
fn a_root_hash_of_no_slot_is_refused_with_the_uuid_that_was_looked_for() {
    let disk = Disk::builder().named().build();
    let other = "5a".repeat(32);
    let vm = Vm::new().disk(&disk).append(&format!("roothash={other} cvm.timeout=5 quiet"));
    assert_eq!(
        refusal_that_writes_nothing(vm, &disk),
        "disk: no disk that proves roothash= within 5 s; sda: it has no partition 2, 3, 4, and none \
         with the UUID 5a5a5a5a-5a5a-5a5a-5a5a-5a5a5a5a5a5a, the start of roothash="
    );
}

/// Which of two it is is told by nobody, so neither is.
#[test]
fn two_disks_whose_partitions_the_root_hash_names_are_refused() {
    let disks = [Disk::builder().named().build(), Disk::builder().named().build()];
    let vm = Vm::of(&disks[0]).disk(&disks[1]).append("quiet");
    assert_eq!(
        refusal(vm),
        "disk: sda, sdb each have the partitions that roothash= names: cvm.disk= says which disk is \
         meant"
    );
    for disk in &disks {
        let start = disk.read(Part::Cocos, 0, 1 << 20);
        assert!(start.iter().all(|&byte| byte == 0), "partition 4 was written to");
    }
}

#[test]
fn one_of_two_disks_whose_partitions_the_root_hash_names_can_be_pinned() {
    let disks = [Disk::builder().named().build(), Disk::builder().named().build()];
    let vm = Vm::of(&disks[0]).disk(&disks[1]).append("cvm.disk=serial:disk1");
    let mut guest = vm.boot();
    assert_eq!(guest.report()["disk"]["found_by"], "cvm.disk");
    guest.power_off();
    assert_eq!(disks[1].read(Part::Cocos, 0, 4), b"LUKS");
    assert_eq!(disks[0].read(Part::Cocos, 0, 4), [0; 4]);
}

/// At once where no other disk can be meant; else when the time is up, since the right one may come late.
#[test]
fn a_table_for_other_sectors_is_told() {
    let found = "sda: the kernel found no partition on it: its table is made for sectors of";
    let late = "cvm.timeout=5";
    let at_once = "cvm.timeout=600 cvm.disk=/dev/sda";
    let missing = "disk: no disk that proves roothash= within 5 s; ";
    for (made_for, is, words, head) in
        [(512_u64, 4096_u64, at_once, "disk: "), (4096, 512, late, missing)]
    {
        let disk = Disk::builder().sector_size(made_for).build();
        let sectors = format!("logical_block_size={is},physical_block_size={is}");
        let mut guest = Vm::new().disk_with(&disk, &sectors).words_of(&disk).append(words).boot();
        assert_eq!(guest.wait_ending(LIMIT), Ending::PowerOff);
        assert_eq!(
            guest.fatal_line(),
            format!(
                "{head}{found} {made_for} bytes, but they have {is}: an image for these is made \
                 with scripts/image --sector-size {is}"
            )
        );
    }
}

/// Beside the right disk it is no matter.
#[test]
fn a_disk_with_a_table_for_other_sectors_beside_the_right_one_is_passed_over() {
    let (wrong, right) = (Disk::builder().sector_size(4096).build(), Disk::builder().build());
    let mut guest = Vm::new().disk(&wrong).disk(&right).words_of(&right).boot();
    assert_eq!(guest.report()["disk"]["also_proven"], json!([]));
    guest.power_off();
}

/// The fatal line of a boot whose hash area is said to begin elsewhere.
#[track_caller]
fn refusal_at(offset: u64) -> String {
    let disk = Disk::builder().tree_behind().build();
    let words = format!("roothash={} cvm.verity_hash_offset={offset}", disk.roothash);
    let vm = Vm::new().disk(&disk).append(&words).append(PINNED);
    refusal_that_writes_nothing(vm, &disk)
}

#[test]
fn a_hash_area_within_the_data_or_behind_the_end_is_refused() {
    let data = Disk::builder().build().size(Part::Root);
    let magic = "disk: sda: verity superblock: magic is ";
    assert!(refusal_at(data - 4096).starts_with(magic));
    let tree = Root::standard().tree.metadata().unwrap().len();
    assert_eq!(
        refusal_at(data + tree),
        format!(
            "disk: sda: the hash area would begin at byte {end}, but all ends at {end}",
            end = data + tree
        )
    );
    assert_eq!(
        refusal_at(data + 1),
        format!(
            "config: cvm.verity_hash_offset={}: not a number of bytes that 4096 divides",
            data + 1
        )
    );
}

/// The superblock says that there is more data than lies before it.
#[test]
fn data_that_reaches_into_the_hash_area_is_refused() {
    let disk =
        Disk::builder().tree_behind().patch(Part::Verity, 72, &4097_u64.to_le_bytes()).build();
    assert_eq!(
        refusal_that_writes_nothing(Vm::of(&disk).append(PINNED), &disk),
        "disk: sda: verity data blocks 4097, but there is room for 4096"
    );
}
