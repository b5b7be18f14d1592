use crate::disk::{Disk, Part};
use crate::root::Root;
use crate::vm::{Bus, Vm};
use serde_json::json;
use std::time::Instant;

#[test]
fn probe() {
    let t = Instant::now();
    let disk = Disk::builder().build();
    eprintln!("disk {:?}", t.elapsed());
    let t = Instant::now();
    let mut guest = Vm::bare().disk(&disk).boot();
    let h = guest.hello();
    eprintln!("hello {:?} {h}", t.elapsed());
    guest.ask("mkdir", json!({"path": "/mnt"}));
    guest.ask(
        "mount",
        json!({"source": "/dev/sda2", "target": "/mnt", "fstype": "ext4", "options": "ro"}),
    );
    for n in &Root::standard().nodes {
        eprintln!("{n:.0?}", n = n.path);
        eprintln!(
            "{}",
            guest.ask("stat", json!({"path": format!("/mnt/{}", n.path)}))
        );
    }
    for (v, a) in [
        ("read", json!({"path": "/mnt/etc/fstab"})),
        ("list", json!({"path": "/mnt/cocos_init"})),
        ("mounts", json!({})),
        ("statfs", json!({"path": "/mnt"})),
        ("keys", json!({})),
        ("kmsg", json!({})),
        ("rootfs", json!({})),
        ("write", json!({"path": "/mnt/x", "text": "a"})),
        ("write", json!({"path": "/x", "text": "a"})),
        (
            "pattern_write",
            json!({"path": "/dev/sda4", "offset": 4096, "bytes": 40960, "seed": 3, "direct": true}),
        ),
        (
            "pattern_read",
            json!({"path": "/dev/sda4", "offset": 4096, "bytes": 40960, "seed": 3, "direct": true}),
        ),
        (
            "pattern_read",
            json!({"path": "/dev/sda4", "offset": 0, "bytes": 40960, "seed": 3}),
        ),
        (
            "pattern_read",
            json!({"path": "/dev/sda4", "offset": 0, "bytes": 80960000, "seed": 3}),
        ),
        (
            "pattern_write",
            json!({"path": "/dev/sda4", "offset": 0, "bytes": 67108864, "seed": 4, "direct": true}),
        ),
        (
            "pattern_read",
            json!({"path": "/dev/sda4", "offset": 0, "bytes": 67108864, "seed": 4, "direct": true}),
        ),
        ("umount", json!({"target": "/mnt"})),
        ("umount", json!({"target": "/mnt"})),
        ("fill", json!({"dir": "/big", "files": 3000, "seed": 3})),
        (
            "fill_check",
            json!({"dir": "/big", "files": 3000, "seed": 3}),
        ),
        (
            "fill_check",
            json!({"dir": "/big", "files": 3000, "seed": 4}),
        ),
        ("sync", json!({})),
        ("drop_caches", json!({})),
        ("nonsense", json!({})),
        ("read", json!({})),
    ] {
        let t = Instant::now();
        let answer = guest.call(v, a);
        let text = format!("{answer:?}");
        eprintln!("{v} {:?} {:.1500}", t.elapsed(), text);
    }
    eprintln!("{}", guest.bytes_written(0));
    disk.write(Part::Cocos, 8192, b"X");
    eprintln!(
        "{:?}",
        guest.call(
            "pattern_read",
            json!({"path": "/dev/sda4", "offset": 0, "bytes": 67108864, "seed": 4, "direct": true})
        )
    );
    let t = Instant::now();
    guest.power_off();
    eprintln!("off {:?}", t.elapsed());
    let _ = (Bus::Nvme, Bus::VirtioBlk);
}
