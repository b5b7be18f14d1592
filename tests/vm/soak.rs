//! Boot after boot on machines of all sizes, each judged by what the guest finds: as many as
//! `scripts/soak` says in `SOAK_BOOTS`, or else each machine once.

use crate::kit::artefacts;
use crate::kit::disk::{Disk, Part};
use crate::kit::guest::Guest;
use crate::kit::vm::Vm;
use crate::kit::volume_check::ask;
use serde_json::{Value, json};
use std::env;
use std::time::Instant;

const MIB: u64 = 1 << 20;

/// In MiB.
const MEMORY: [u64; 3] = [256, 512, 2048];
const PROCESSORS: [u32; 5] = [1, 2, 4, 8, 16];
/// Partition 4, in MiB.
const COCOS: [u64; 4] = [64, 1024, 20 * 1024, 100 * 1024];

/// Has no divisor in common with the number of machines, so that its multiples come to all of
/// them, and neighbours differ.
const STRIDE: usize = 7;
const MACHINES: usize = MEMORY.len() * PROCESSORS.len() * COCOS.len();

/// Bytes that each boot writes and reads again.
const PATTERN: u64 = 4 * MIB;
const FILE: &str = "/cocos/datasets/soak";

/// Of the many that then make directories with files at the same time, and of what each makes. It
/// has to fit on the smallest volume.
const WRITERS: u64 = 16;
const PIECES: u64 = 16;

/// Of an AES-GCM sector: an IV and a tag.
const TAG: u64 = 28;
const SECTOR: u64 = 4096;

struct Machine {
    memory: u64,
    processors: u32,
    /// Which one of [`COCOS`].
    cocos: usize,
}

impl Machine {
    fn of_boot(boot: usize) -> Self {
        let number = boot * STRIDE % MACHINES;
        let (number, memory) = (number / MEMORY.len(), MEMORY[number % MEMORY.len()]);
        let (cocos, processors) =
            (number / PROCESSORS.len(), PROCESSORS[number % PROCESSORS.len()]);
        Self { memory, processors, cocos }
    }

    /// Tags of a full volume may take a quarter of the memory, no more. Where they would, they
    /// have to be asked to lie on the disk.
    fn tags_on_disk(&self) -> bool {
        COCOS[self.cocos] * MIB / SECTOR * TAG > self.memory * MIB / 4
    }
}

#[test]
#[ignore = "scripts/test --all"]
fn every_boot_is_good() {
    let boots = env::var("SOAK_BOOTS").map_or(MACHINES, |boots| boots.parse().expect("a number"));
    artefacts::initramfs();
    // Kept from boot to boot: each finds what the one before has left.
    let disks = COCOS.map(|size| Disk::builder().cocos(size * MIB).build());
    for boot in 0..boots {
        let machine = Machine::of_boot(boot);
        let on = if machine.tags_on_disk() { ", cvm.tags=disk" } else { "" };
        println!(
            "boot {} of {boots}: {} MiB of memory, processors: {}, {} MiB of /cocos{on}",
            boot + 1,
            machine.memory,
            machine.processors,
            COCOS[machine.cocos],
        );
        let start = Instant::now();
        let microseconds = boots_well(&machine, &disks[machine.cocos], boot as u64);
        let (inside, all) = (microseconds / 1000, start.elapsed().as_secs());
        println!("boot {} of {boots}: good; new init after {inside} ms, {all} s in all", boot + 1);
    }
    println!("{boots} of {boots} boots were good");
}

/// Boots, and returns the microseconds to the new init.
fn boots_well(machine: &Machine, disk: &Disk, boot: u64) -> u64 {
    let mut vm =
        Vm::of(disk).memory(&format!("{}M", machine.memory)).processors(machine.processors);
    if machine.tags_on_disk() {
        vm = vm.append("cvm.tags=disk");
    }
    let mut guest = vm.boot();
    assert_eq!(guest.hello()["pid"], 1);
    is_the_machine(&mut guest, machine);
    let report = guest.report();
    assert_eq!(report["verity"]["root_hash"], disk.roothash);
    assert_eq!(report["volume"]["partition_bytes"], disk.size(Part::Cocos));
    if machine.tags_on_disk() {
        assert_eq!(report["volume"]["tags"], "disk");
    }
    has_its_mappings(&mut guest);
    assert_eq!(guest.ask("rootfs", json!({}))["entries"], json!([]));
    assert!(!guest.ask("keys", json!({})).to_string().contains("logon"));

    assert_eq!(guest.ask("list", json!({ "path": "/cocos/datasets" })), json!([]));
    let pattern =
        json!({ "path": FILE, "offset": 0, "bytes": PATTERN, "seed": boot, "direct": false });
    guest.ask("pattern_write", pattern.clone());
    guest.ask("drop_caches", json!({}));
    assert_eq!(guest.ask("pattern_read", pattern), Value::Null);
    let crowd =
        json!({ "dir": "/cocos/crowd", "writers": WRITERS, "pieces": PIECES, "seed": boot });
    ask(&mut guest, "writers", crowd.clone());
    guest.ask("drop_caches", json!({}));
    ask(&mut guest, "writers_check", crowd);
    let log = guest.ask("kmsg", json!({})).to_string();
    for fault in ["INTEGRITY", "itable", "EXT4-fs error", "I/O error", "WARNING:", "Out of memory"]
    {
        assert!(!log.contains(fault), "{fault} in {log}");
    }
    guest.power_off();
    report["total_us"].as_u64().unwrap()
}

fn is_the_machine(guest: &mut Guest, machine: &Machine) {
    let count = guest.read("/proc/cpuinfo").matches("processor\t:").count();
    assert_eq!(count, machine.processors as usize);
    let memory = guest.read("/proc/meminfo");
    let kib: u64 = memory.split_whitespace().nth(1).unwrap().parse().unwrap();
    // The kernel takes its part.
    assert!((machine.memory / 2..=machine.memory).contains(&(kib / 1024)), "{memory}");
}

fn has_its_mappings(guest: &mut Guest) {
    let mappings = guest.ask("dm", json!({}));
    for (name, kind, target) in
        [("root_verity", "verity", "/"), ("cocos_crypt", "linear crypt linear", "/cocos")]
    {
        let found = mappings.as_array().unwrap().iter().find(|mapping| mapping["name"] == name);
        let mapping = found.unwrap_or_else(|| panic!("no {name}: {mappings}"));
        assert_eq!(mapping["kind"], kind);
        assert_ne!(mapping["status"], "C", "{name} is corrupted");
        let mounts = guest.ask("mounts", json!({}));
        let mut all = mounts.as_array().unwrap().iter();
        let mount = all.rfind(|mount| mount["target"] == target).unwrap();
        assert_eq!(mount["source"], format!("/dev/mapper/{name}"));
    }
}
