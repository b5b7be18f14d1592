//! Further verified data, each on a disk of its own.

use crate::good::mounts;
use crate::kit::artefacts::initramfs_of_formats;
use crate::kit::data::{ALTERED, Data, NAME};
use crate::kit::disk::{Disk, Part};
use crate::kit::guest::{Ending, Guest};
use crate::kit::kernel::Kernel;
use crate::kit::tool::Scratch;
use crate::kit::vm::{Bus, Vm};
use crate::refused::{refusal, refusal_that_writes_nothing};
use crate::volume_disk::{blank, check_volume};
use serde_json::json;
use std::thread;
use std::time::Duration;

const EIO: i32 = 5;
const EROFS: i32 = 30;

/// A disk of a cloud, which has a size of its own.
const PADDING: u64 = (1 << 20) + 512;

fn mount_point(name: &str) -> String {
    format!("/run/cvm-init/data/{name}")
}

/// What a guest finds of data that calls itself `content`: the mount, its file, the report, the mapping.
#[track_caller]
fn check_data(guest: &mut Guest, name: &str, data: &Data, disk: &str, content: &str) {
    let (target, mapping) = (mount_point(name), format!("data_{name}"));
    let kind = data.kind;
    let mount = format!("{target} {kind} /dev/mapper/{mapping} / ro,nosuid,nodev,relatime");
    let all = mounts(guest);
    assert!(all.contains(&mount), "{all:?}");
    assert_eq!(guest.read(&format!("{target}/{NAME}")), content);
    let refused = guest.call("write", json!({ "path": format!("{target}/new"), "text": "" }));
    assert_eq!(refused.unwrap_err().errno, Some(EROFS));
    let facts = json!({
        "name": name, "disk": disk, "device": format!("/dev/mapper/{mapping}"), "mounted_on": target,
        "root_hash": data.roothash, "data_blocks": data.blocks,
    });
    let report = guest.report();
    assert!(report["data"].as_array().unwrap().contains(&facts), "{}", report["data"]);
    let mappings = guest.ask("dm", json!({}));
    let found = mappings.as_array().unwrap().iter().find(|it| it["name"] == mapping).unwrap();
    assert_eq!((&found["kind"], &found["read_only"]), (&json!("verity"), &json!(true)));
    let dev = guest.read(&format!("/sys/block/{disk}/dev"));
    let (dev, blocks) = (dev.trim_end(), data.blocks);
    let (start, hash) = (blocks + 1, &data.roothash);
    let table = format!("1 {dev} {dev} 4096 4096 {blocks} {start} sha256 {hash} ");
    assert!(found["table"].as_str().unwrap().starts_with(&table), "{found}");
    let uuid = format!("CRYPT-VERITY-{}-{mapping}", &hash[..32]);
    assert_eq!(found["uuid"], uuid);
}

/// A guest of Linux 6.1 with one disk of data, which may not be written to.
fn with_data(data: &Data, words: &str) -> (Guest, Disk) {
    let disk = Disk::builder().build();
    let vm = Vm::of(&disk).disk_on(Bus::VirtioBlk, data.path()).read_only();
    let mut guest = vm.append(&data.word("models", "disk1")).append(words).boot();
    guest.hello();
    (guest, disk)
}

#[test]
fn a_disk_of_data_and_a_byte_of_it_that_is_altered() {
    let data = Data::new("models");
    let (mut guest, _disk) = with_data(&data, "");
    check_data(&mut guest, "models", &data, "vda", "models");
    let rules = guest.read("/run/udev/rules.d/10-cvm-init.rules");
    assert!(rules.contains("|root_verity|data_models\""), "{rules}");
    check_volume(&mut guest);
    data.alter();
    guest.ask("drop_caches", json!({}));
    // As for the root: the machine does not go on with a part of it.
    let path = format!("{}/{ALTERED}", mount_point("models"));
    assert_eq!(guest.end_by("read", json!({ "path": path })), Ending::Reset);
    let restart = "reboot: Restarting system with command 'dm-verity device corrupted'";
    assert!(guest.serial().contains(restart));
}

/// On Linux 6.12, on two kinds of disk, one of which has sectors of 4096 bytes and another one is
/// larger than what is on it.
#[test]
fn three_disks_of_data() {
    let disk = Disk::builder().build();
    let [models, padded, nvme] = ["models", "padded", "nvme"].map(Data::new);
    padded.grow(PADDING);
    let words = [
        models.word("models", "disk1"),
        format!("{}@{}", padded.word("padded-2", "disk2"), padded.blocks),
        nvme.word("n_3", "disk3"),
    ];
    let vm = Vm::of(&disk)
        .kernel(Kernel::TRIXIE)
        .disk_on(Bus::VirtioBlk, models.path())
        .read_only()
        .disk_on(Bus::VirtioBlk, padded.path())
        .disk_on(Bus::Nvme, nvme.path())
        .with("logical_block_size=4096,physical_block_size=4096")
        .append(&words.join(" "))
        .append("cvm.verity_on_corruption=io-error");
    let mut guest = vm.boot();
    check_data(&mut guest, "models", &models, "vda", "models");
    check_data(&mut guest, "padded-2", &padded, "vdb", "padded");
    check_data(&mut guest, "n_3", &nvme, "nvme0n1", "nvme");
    for data in 1..4 {
        assert_eq!(guest.bytes_written(data), 0);
    }
    nvme.alter();
    guest.ask("drop_caches", json!({}));
    let altered = |name: &str| json!({ "path": format!("{}/{ALTERED}", mount_point(name)) });
    assert_eq!(guest.call("read", altered("n_3")).unwrap_err().errno, Some(EIO));
    assert_eq!(guest.read(&format!("{}/{NAME}", mount_point("n_3"))), "nvme");
    guest.ask("read", altered("models"));
    guest.power_off();
}

#[test]
fn data_of_other_file_systems() {
    let disk = Disk::builder().build();
    let erofs = Data::as_file_system("erofs", "mkfs.erofs -zlz4hc models.img models");
    let squashfs = Data::as_file_system(
        "squashfs",
        // Compressed it would be a single block, over which there is no tree.
        "mksquashfs models models.img -quiet -no-progress -comp zstd -noD -noF",
    );
    for kernel in [Kernel::RUNNING, Kernel::TRIXIE] {
        let vm = Vm::of(&disk)
            .kernel(kernel)
            .initramfs(initramfs_of_formats(kernel, &[]))
            .disk_on(Bus::VirtioBlk, erofs.path())
            .read_only()
            .disk_on(Bus::VirtioBlk, squashfs.path())
            .read_only()
            .append(&[erofs.word("a", "disk1"), squashfs.word("b", "disk2")].join(" "));
        let mut guest = vm.boot();
        check_data(&mut guest, "a", &erofs, "vda", "erofs");
        check_data(&mut guest, "b", &squashfs, "vdb", "squashfs");
        guest.power_off();
    }
}

/// One time limit holds for all; nothing is written before the last has come.
#[test]
fn disks_of_volume_and_data_that_are_plugged_in_while_waited_for() {
    let (disk, scratch) = (Disk::builder().without(Part::Cocos).build(), Scratch::new("late"));
    let volume = blank(scratch.path(), "volume", 64 << 20);
    let data = Data::standard();
    let vm = Vm::of(&disk)
        .disk_on(Bus::VirtioScsi, &volume)
        .not_plugged_in()
        .disk_on(Bus::VirtioScsi, data.path())
        .read_only()
        .not_plugged_in()
        .append(&format!("cvm.volume=serial:disk1 {}", data.word("models", "disk2")))
        .append("cvm.timeout=100");
    let mut guest = vm.boot();
    guest.wait_serial("kernel modules", Duration::from_secs(100));
    thread::sleep(Duration::from_secs(3));
    guest.plug_in_as(1, "disk1");
    thread::sleep(Duration::from_secs(3));
    assert!(!guest.serial().contains("mounted read-only"), "{}", guest.serial());
    assert_eq!(guest.bytes_written(1), 0);
    guest.plug_in_as(2, "disk2");
    check_data(&mut guest, "models", data, "sdc", "standard");
    check_volume(&mut guest);
    let report = guest.report();
    let ids = report["effects"].as_array().unwrap().iter().map(|effect| &effect["id"]);
    assert!(ids.into_iter().any(|id| id == "wait-for-disk"));
    guest.power_off();
}

/// The serial is the host's word, and the first that proves the data is taken.
#[test]
fn two_disks_of_one_serial_of_which_one_is_forged() {
    let (disk, data, forged) = (Disk::builder().build(), Data::standard(), Data::new("forged"));
    let vm = Vm::of(&disk)
        .disk_on(Bus::VirtioBlk, forged.path())
        .with("serial=twin")
        .disk_on(Bus::VirtioBlk, data.path())
        .with("serial=twin")
        .read_only()
        .append(&data.word("models", "twin"));
    let mut guest = vm.boot();
    check_data(&mut guest, "models", data, "vdb", "standard");
    guest.power_off();
}

/// A boot that lacks several things says so of each of them, and what was seen in its place.
#[test]
fn whatever_is_missing_is_named_when_the_time_is_up() {
    let (disk, data) = (Disk::builder().build(), Data::standard());
    let other = format!("cvm.data=other:serial:disk1:{}", "5a".repeat(32));
    let vm = Vm::of(&disk)
        .disk_on(Bus::VirtioBlk, data.path())
        .read_only()
        .append(&format!("{other} {} cvm.timeout=5 quiet", data.word("models", "gone")));
    let reason = refusal_that_writes_nothing(vm, &disk);
    let blocks = data.blocks;
    assert_eq!(
        reason,
        format!(
            "disk: no disk with serial \"disk1\" that proves the data other, no disk with serial \
             \"gone\" that proves the data models within 5 s; vda for the data other: the top hash \
             block does not match the root hash: its digest is {} (its hash tree was looked for \
             behind {blocks} data blocks, by the size of the disk: @BLOCKS at the end of cvm.data= \
             says where else it is)",
            data.roothash
        )
    );
}

/// What is said of one disk of data that is not as it must be.
#[track_caller]
fn refusal_of(data: &Data, word: &str) -> String {
    let disk = Disk::builder().build();
    let vm = Vm::of(&disk).disk_on(Bus::VirtioBlk, data.path()).read_only();
    refusal_that_writes_nothing(vm.append(word).append("cvm.timeout=5 quiet"), &disk)
}

#[test]
#[ignore = "scripts/test --all"]
fn a_disk_that_is_larger_than_what_is_on_it_needs_the_number_of_blocks() {
    let data = Data::new("padded");
    data.grow(PADDING);
    let reason = refusal_of(&data, &data.word("models", "disk1"));
    assert!(reason.contains("@BLOCKS at the end of cvm.data= says where else it is"), "{reason}");
}

/// The root hash leaves the number of blocks open; the command line does not.
#[test]
fn a_superblock_that_claims_fewer_blocks() {
    let data = Data::new("fewer");
    let fewer = data.blocks - 1;
    data.write(data.blocks * 4096 + 72, &fewer.to_le_bytes());
    for at in [String::new(), format!("@{}", data.blocks)] {
        let reason = refusal_of(&data, &format!("{}{at}", data.word("models", "disk1")));
        let end =
            format!("its superblock has {fewer} data blocks, but lies behind {}", data.blocks);
        assert!(reason.contains(&end), "{reason}");
    }
}

#[test]
#[ignore = "scripts/test --all"]
fn data_whose_ext4_has_1024_byte_blocks() {
    let data = Data::with_blocks_of(1024);
    assert_eq!(
        refusal_of(&data, &data.word("models", "disk1")),
        "data: the data models's ext4 has blocks of 1024 bytes, dm-verity needs 4096: make it with \
         mke2fs -b 4096"
    );
}

#[test]
#[ignore = "scripts/test --all"]
fn a_name_that_is_given_twice() {
    let (data, disk) = (Data::standard(), Disk::builder().build());
    let second = data.word("models", "disk2");
    let vm = Vm::of(&disk).append(&format!("{} {second}", data.word("models", "disk1")));
    assert_eq!(refusal(vm), format!("config: {second}: the name models is given twice"));
}
