//! A disk that stops answering: whoever reads or writes it waits in the kernel for ever, and the
//! machine is off all the same.

use crate::disk::Disk;
use crate::guest::{Ending, Guest};
use crate::vm::Vm;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// From power-on to the fatal line.
const LIMIT: Duration = Duration::from_secs(180);
/// From the fatal line to the end.
const END: Duration = Duration::from_secs(10);

/// Boots a disk that stops answering when so much was read and written. Returns the fatal line and
/// how the machine ended.
#[track_caller]
fn stalled(read: u64, written: u64, words: &str) -> (String, Ending) {
    let disk = Disk::builder().build();
    let vm = Vm::new().append(&format!("roothash={} {words}", disk.roothash));
    let mut guest = vm.disk_that_stalls(&disk, read, written).boot();
    let ending = end_of(&mut guest);
    (guest.fatal_line(), ending)
}

#[track_caller]
fn end_of(guest: &mut Guest) -> Ending {
    guest.wait_serial("FATAL", LIMIT);
    let start = Instant::now();
    let ending = guest.wait_ending(END);
    println!("{ending:?} {} ms after the fatal line", start.elapsed().as_millis());
    ending
}

#[test]
fn while_the_header_is_written() {
    // The first write passes whatever its size; with tags on the disk a second one follows.
    let (line, ending) = stalled(GIB, 1, "cvm.timeout=5 cvm.tags=disk");
    assert_eq!(line, "volume: cannot sync sda4: no end within 5 s");
    assert_eq!(ending, Ending::PowerOff);
}

#[test]
fn while_the_file_system_is_written() {
    let (line, ending) = stalled(GIB, MIB, "cvm.timeout=5");
    assert_eq!(line, "volume: cannot sync the file system: no end within 5 s");
    assert_eq!(ending, Ending::PowerOff);
}

/// The kernel reads the partition table while it loads the driver, and waits for that in any
/// orderly stop too: only a restart at once ends this machine.
#[test]
fn while_the_kernel_reads_the_partition_table() {
    // The firmware reads the first block.
    let (line, ending) = stalled(4096, 1, "");
    let (before, after) = ("platform: cannot load /modules/", ": no end within 30 s");
    assert!(line.starts_with(before) && line.ends_with(after), "{line}");
    // Whatever is loaded beside it waits for it too.
    assert!(line.contains("-sd_mod.ko"), "{line}");
    assert_eq!(ending, Ending::Reset);
}
