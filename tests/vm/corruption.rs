//! A root that the host alters under the running guest, and what the kernel is told to do then.

use crate::kit::disk::{Disk, Part};
use crate::kit::guest::{Ending, Guest};
use crate::kit::kernel::Kernel;
use crate::kit::root::{Node, Root};
use crate::kit::served::{Lie, On, Served};
use crate::kit::vm::Vm;
use serde_json::json;

const EIO: i32 = 5;

/// In no other file, and long enough to lie in blocks of its own.
const CONTENT: &str = "a file of the root that the host alters while the guest runs\n";
const FILE: &str = "/usr/lib/altered";

fn place_of_the_content(root: &[u8]) -> usize {
    root.windows(CONTENT.len()).position(|window| window == CONTENT.as_bytes()).unwrap()
}

/// Boots, and flips a bit of a file that nobody has read yet.
fn altered(words: &str) -> (Guest, Disk) {
    let root = Root::builder().with(Node::file(&FILE[1..], CONTENT.repeat(200))).build();
    let disk = Disk::builder().root(&root).build();
    let mut guest = Vm::of(&disk).append(words).boot();
    guest.hello();
    let size = usize::try_from(disk.size(Part::Root)).unwrap();
    let bytes = disk.read(Part::Root, 0, size);
    let place = place_of_the_content(&bytes);
    disk.write(Part::Root, place as u64, &[bytes[place] ^ 1]);
    guest.ask("drop_caches", json!({}));
    (guest, disk)
}

#[test]
fn an_altered_root_can_be_an_io_error_and_the_guest_goes_on() {
    let (mut guest, _disk) = altered("cvm.verity_on_corruption=io-error");
    let refused = guest.call("read", json!({ "path": FILE }));
    assert_eq!(refused.unwrap_err().errno, Some(EIO));
    let mappings = guest.ask("dm", json!({}));
    // The target's status: a block was found corrupted.
    assert_eq!(mappings[0]["status"], "C");
    assert_eq!(guest.read("/etc/hostname"), "verified\n");
    guest.power_off();
}

#[test]
fn an_altered_root_restarts_the_machine() {
    let (mut guest, _disk) = altered("");
    assert_eq!(guest.end_by("read", json!({ "path": FILE })), Ending::Reset);
    let serial = guest.serial();
    assert!(serial.contains("reboot: Restarting system with command 'dm-verity device corrupted'"));
    assert!(!serial.contains("Kernel panic"));
}

#[test]
fn an_altered_root_can_panic_the_kernel() {
    let (mut guest, _disk) = altered("cvm.verity_on_corruption=panic");
    // The platform has seen to it that a panic restarts the machine.
    assert_eq!(guest.end_by("read", json!({ "path": FILE })), Ending::Reset);
    let panic = "Kernel panic - not syncing: dm-verity device corrupted";
    assert!(guest.serial().contains(panic));
}

/// Boots from a host that has altered nothing, but does not give one block out.
fn withheld(kernel: Kernel) -> (Guest, Served) {
    let root = Root::builder().with(Node::file(&FILE[1..], CONTENT.repeat(200))).build();
    let disk = Disk::builder().root(&root).build();
    let size = usize::try_from(disk.size(Part::Root)).unwrap();
    let content = place_of_the_content(&disk.read(Part::Root, 0, size));
    let place = disk.place(Part::Root, content as u64);
    let served = Served::lying(&disk, vec![Lie::on(On::Read, place).fails()]);
    let vm = Vm::new().kernel(kernel).append(&format!("roothash={}", disk.roothash));
    (vm.disk_served(&served).boot(), served)
}

const GUARDS_LESS: &str = "this kernel's dm-verity guards against blocks that were altered";

#[test]
fn a_root_that_cannot_be_read_restarts_the_machine() {
    let (mut guest, _served) = withheld(Kernel::TRIXIE);
    assert_eq!(guest.end_by("read", json!({ "path": FILE })), Ending::Reset);
    assert!(!guest.serial().contains(GUARDS_LESS));
}

/// The limit, and a line that says so.
#[test]
fn on_an_older_kernel_a_root_that_cannot_be_read_is_an_io_error() {
    let (mut guest, _served) = withheld(Kernel::RUNNING);
    let refused = guest.call("read", json!({ "path": FILE }));
    assert_eq!(refused.unwrap_err().errno, Some(EIO));
    assert!(guest.serial().contains(GUARDS_LESS));
    guest.power_off();
}
