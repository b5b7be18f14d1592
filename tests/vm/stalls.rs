//! A disk that stops answering: whoever reads or writes it waits in the kernel for ever, and the
//! machine is off all the same.

use crate::kit::disk::Disk;
use crate::kit::guest::{Ending, Guest};
use crate::kit::vm::Vm;
use std::time::{Duration, Instant};

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

/// The kernel reads the partition table while it loads the driver, and waits for that in any
/// orderly stop too: only a restart at once ends this machine.
#[test]
fn while_the_kernel_reads_the_partition_table() {
    // The firmware reads the first block.
    let (line, ending) = stalled(4096, 1, "cvm.timeout=10");
    let (before, after) = ("disk: cannot load /modules/", ": no end within 10 s");
    assert!(line.starts_with(before) && line.ends_with(after), "{line}");
    // Whatever is loaded beside it waits for it too.
    assert!(line.contains("-sd_mod.ko"), "{line}");
    assert_eq!(ending, Ending::Reset);
}
