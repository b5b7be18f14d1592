//! Boots of the fault build: an effect fails, panics or never returns, and the machine is off.

use crate::artefacts;
use crate::disk::Disk;
use crate::guest::Ending;
use crate::vm::Vm;
use std::time::Duration;

/// From power-on to power-off, emulated.
const LIMIT: Duration = Duration::from_secs(120);

fn vm(disk: &Disk) -> Vm {
    Vm::of(disk).initramfs(artefacts::initramfs_with_faults())
}

#[test]
fn a_good_boot_tells_its_effects() {
    let disk = Disk::builder().build();
    let mut guest = vm(&disk).boot();
    guest.hello();
    let serial = guest.serial();
    for effect in ["#1 mount proc on /proc", "#1 open /dev/kmsg", "#1 run /sbin/init"] {
        assert!(serial.contains(effect), "{effect}");
    }
    guest.power_off();
}

#[test]
fn an_effect_that_reports_failure_when_it_is_done() {
    let disk = Disk::builder().build();
    let mut guest = vm(&disk).append("\"CVM_FAULT=late:write the file system#1\"").boot();
    assert_eq!(guest.wait_ending(LIMIT), Ending::PowerOff);
    assert_eq!(guest.fatal_line(), "volume: cannot write the file system: injected error");
    assert!(guest.serial().contains("fault build: LOOKED"));
}
