//! What a boot costs, printed; asserted only where it is no matter of time.

use crate::kit::artefacts::{self, DEFAULT_CIPHER};
use crate::kit::disk::Disk;
use crate::kit::kernel::Kernel;
use crate::kit::vm::Vm;

const MIB: u64 = 1 << 20;

/// At most, while a volume is made: a header, not a wipe.
const WRITTEN_MAX: u64 = 64 << 10;
/// At most, of PID 1, in KiB.
const MEMORY_MAX: u64 = 1024;

#[test]
fn the_cost_of_a_boot_does_not_grow_with_the_disk() {
    println!("partition 4  init to new root   volume  peak memory     written");
    let sizes = [64, 1024, 20 * 1024].map(|size| (Kernel::RUNNING, size));
    // Which gives whoever asks for enough memory a huge page, if it can.
    for (kernel, size) in sizes.into_iter().chain([(Kernel::TRIXIE, 64)]) {
        let disk = Disk::builder().cocos(size * MIB).build();
        let initramfs = artefacts::initramfs_of(kernel, DEFAULT_CIPHER);
        let mut guest = Vm::of(&disk).kernel(kernel).initramfs(initramfs).measuring().boot();
        let report = guest.report();
        let written = guest.bytes_written(0);
        let number = |field: &str| report.pointer(field).unwrap().as_u64().unwrap();
        let stages = report["stages"].as_array().unwrap();
        let volume = stages.iter().find(|stage| stage["stage"] == "volume").unwrap();
        let (total, volume) = (number("/total_us"), volume["us"].as_u64().unwrap());
        let memory = number("/peak_memory_kib");
        println!(
            "{size:>7} MiB {:>13} ms {:>5} ms {memory:>8} KiB {written:>9} B",
            total / 1000,
            volume / 1000
        );
        assert!(written <= WRITTEN_MAX, "{size} MiB: {written} bytes written");
        assert!(memory <= MEMORY_MAX, "{size} MiB: {memory} KiB of memory");
        guest.power_off();
    }
}
