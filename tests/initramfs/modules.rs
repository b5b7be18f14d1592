//! Kernel modules in an initramfs: which are packed, in what order, and what is said of them.

use std::fs;
use std::path::Path;

use crate::script::{refuses, run, scratch, script, target, tool};
use crate::{entries, initramfs};

/// What the list of an archive says, a line each.
fn listed(archive: &Path) -> Vec<String> {
    let list = run(tool("bsdtar").arg("-xOqf").arg(archive).arg("modules.list"));
    list.lines().map(str::to_owned).collect()
}

#[test]
fn modules_are_unpacked_and_named_in_the_order_of_their_dependencies() {
    let dir = scratch("order");
    let list = "# why\n\n?lone for root # first in the list\ntop\nbuilt_in\n?absent\nbottom\n";
    run(initramfs(&dir, list).args(["--extra-module", "mid-dle"]).env("LC_ALL", "C.UTF-8"));
    let packed: Vec<_> = entries(&dir.join("rootfs.cpio.gz"))
        .into_iter()
        .filter(|entry| entry.contains("modules/0"))
        .collect();
    // Sizes are those of the unpacked files, which hold their own names.
    assert_eq!(
        packed,
        [
            "-rw-r--r-- 0:0 9 modules/000-bottom.ko",
            "-rw-r--r-- 0:0 10 modules/001-mid_dle.ko",
            "-rw-r--r-- 0:0 7 modules/002-lone.ko",
            "-rw-r--r-- 0:0 6 modules/003-top.ko",
        ]
    );
    assert_eq!(
        listed(&dir.join("rootfs.cpio.gz")),
        [
            "000-bottom.ko stage=disk",
            "001-mid_dle.ko stage=disk needs=000-bottom.ko",
            "002-lone.ko stage=root after=001-mid_dle.ko",
            "003-top.ko stage=disk needs=001-mid_dle.ko,000-bottom.ko",
        ]
    );
}

/// Two drivers that use nothing of each other, of which one is the bus of the other's devices.
#[test]
fn a_driver_is_loaded_after_its_bus_and_with_its_device() {
    let dir = scratch("bus");
    let list = "?bottom if device after absent lone # a bus\nlone if x:y* for platform # the bus\n";
    let mut command = initramfs(&dir, list);
    let aliases = dir.join("modules/modules.alias");
    let all =
        fs::read_to_string(&aliases).unwrap() + "alias pci:v*bc01* bottom\nalias bot bottom\n";
    fs::write(&aliases, all).unwrap();
    run(&mut command);
    assert_eq!(
        listed(&dir.join("rootfs.cpio.gz")),
        [
            "000-lone.ko stage=platform device=x:y*",
            "001-bottom.ko stage=disk after=000-lone.ko device=pci:v*bc01*",
        ]
    );
}

#[test]
fn a_module_of_several_lines_is_for_the_first_stage_and_all_ciphers() {
    let list = "[cipher aes-gcm-random]\ntop for volume\nbottom for volume\n\
        [cipher chacha20-random]\ntop for root\n[]\nbottom for runtime\n";
    let lines = |ciphers: &[&str]| {
        let dir = scratch("lines");
        run(initramfs(&dir, list).args(ciphers));
        let mut lines = listed(&dir.join("rootfs.cpio.gz"));
        lines.retain(|line| !line.contains("mid_dle.ko needs"));
        lines
    };
    let needs = "needs=001-mid_dle.ko,000-bottom.ko";
    assert_eq!(
        lines(&[]),
        [
            "000-bottom.ko stage=volume".to_owned(),
            format!("002-top.ko stage=volume {needs} cipher=aes-gcm-random"),
        ]
    );
    assert_eq!(
        lines(&["--cipher", "aes-gcm-random", "--cipher", "chacha20-random"]),
        [
            "000-bottom.ko stage=volume".to_owned(),
            format!("002-top.ko stage=root {needs} cipher=aes-gcm-random cipher=chacha20-random"),
        ]
    );
}

#[test]
fn a_line_of_the_list_that_cannot_be_read_is_told() {
    let dir = scratch("line");
    for (line, why) in [
        (
            "top for dusk",
            "top is for dusk, which is none of platform disk root volume runtime handoff",
        ),
        ("top when", "when behind top is none of for, if and after"),
        ("missing", "cannot find module missing ("),
    ] {
        refuses(&mut initramfs(&dir, line), 1, why);
    }
}

#[test]
fn an_initramfs_of_the_stock_kernel_holds_what_the_list_names() {
    run(&mut script("kernel"));
    let dir = scratch("stock");
    fs::write(dir.join("init"), "the init").unwrap();
    run(script("initramfs")
        .arg("--kernel-modules")
        .arg(target().join("kernel/modules"))
        .arg("--init")
        .arg(dir.join("init"))
        .arg("-o")
        .arg(dir.join("rootfs.cpio.gz")));
    let entries = entries(&dir.join("rootfs.cpio.gz"));
    let place = |name: &str| {
        let ending = format!("-{name}.ko");
        entries.iter().position(|entry| entry.ends_with(&ending))
    };
    for (first, later) in [
        ("scsi_mod", "virtio_scsi"),
        ("dm_mod", "dm_crypt"),
        ("dm_bufio", "dm_verity"),
        ("crypto_simd", "aesni_intel"),
        ("jbd2", "ext4"),
        ("9pnet", "9pnet_virtio"),
        // Built into newer kernels.
        ("virtio_pci", "virtio_blk"),
    ] {
        let (first_at, later_at) = (place(first), place(later));
        assert!(later_at.is_some() && first_at < later_at, "{first}, {later}: {entries:?}");
    }
    let listed = listed(&dir.join("rootfs.cpio.gz"));
    let line = |name: &str| {
        let file = format!("-{name}.ko ");
        listed.iter().find(|line| line.contains(&file)).unwrap()
    };
    assert!(line("9p").contains(" device=virtio:d00000009v*"), "{listed:?}");
    assert!(line("nvme").contains(" device=pci:v*d*sv*sd*bc01sc08i02*"), "{listed:?}");
    assert!(
        line("gcm").contains(" stage=volume") && line("gcm").contains(" cipher="),
        "{listed:?}"
    );
}

#[test]
fn a_kernel_without_9p_is_named_so_and_packed() {
    let warnings = |list: &str| {
        let dir = scratch("9p");
        let output = initramfs(&dir, list).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        said.lines().filter(|line| line.contains("warning: the kernel has no 9P")).count()
    };
    assert_eq!(warnings("top\n?9pnet_virtio\n?9p\n"), 1);
    assert_eq!(warnings("top\n?built_in\n?absent\n"), 0);
}

#[test]
fn only_the_modules_of_the_ciphers_asked_for_are_packed() {
    let list = "[cipher aes-gcm-random]\ntop\n[cipher chacha20-random]\nlone\n[]\n?bottom\n";
    let packed = |ciphers: &[&str]| -> Vec<String> {
        let dir = scratch("ciphers");
        run(initramfs(&dir, list).args(ciphers));
        let entries = entries(&dir.join("rootfs.cpio.gz")).into_iter();
        entries.filter_map(|entry| Some(entry.split_once(" modules/0")?.1.to_owned())).collect()
    };
    let gcm = ["00-bottom.ko", "01-mid_dle.ko", "02-top.ko"];
    assert_eq!(packed(&[]), gcm);
    assert_eq!(packed(&["--cipher", "aes-gcm-random"]), gcm);
    assert_eq!(packed(&["--cipher", "chacha20-random"]), ["00-lone.ko", "01-bottom.ko"]);
    let both = ["--cipher", "chacha20-random", "--cipher", "aes-gcm-random"];
    assert_eq!(packed(&both).len(), 4);
    for unknown in ["rot13", "", "20-random"] {
        let dir = scratch("ciphers");
        refuses(
            initramfs(&dir, list).args(["--cipher", unknown]),
            2,
            &format!("--cipher {unknown} is not one of aes-gcm-random aegis128-random"),
        );
    }
}

#[test]
fn only_the_modules_of_the_file_systems_asked_for_are_packed() {
    let list = "[root-format erofs]\nlone\n[root-format squashfs]\ntop\n[]\n?bottom\n";
    let packed = |formats: &[&str]| -> Vec<String> {
        let dir = scratch("formats");
        run(initramfs(&dir, list).args(formats.iter().flat_map(|format| ["--root-format", format])));
        let entries = entries(&dir.join("rootfs.cpio.gz")).into_iter();
        entries.filter_map(|entry| Some(entry.split_once(" modules/0")?.1.to_owned())).collect()
    };
    let none = ["00-bottom.ko"];
    assert_eq!(packed(&[]), none);
    assert_eq!(packed(&["ext4"]), none);
    assert_eq!(packed(&["erofs"]), ["00-lone.ko", "01-bottom.ko"]);
    assert_eq!(packed(&["erofs", "squashfs"]).len(), 4);
    for unknown in ["xfs", "", "aes-gcm-random"] {
        let dir = scratch("formats");
        refuses(
            initramfs(&dir, list).args(["--root-format", unknown]),
            2,
            &format!("--root-format {unknown} is not one of ext4 erofs squashfs"),
        );
    }
}

#[test]
fn what_only_some_boots_need_is_packed_when_asked_for() {
    run(&mut script("kernel"));
    let kernel = target().join("kernel");
    let packed = |words: &[&str]| {
        let dir = scratch("with");
        fs::write(dir.join("init"), "the init").unwrap();
        run(script("initramfs")
            .arg("--kernel-modules")
            .arg(kernel.join("modules"))
            .arg("--init")
            .arg(dir.join("init"))
            .args(words)
            .arg("-o")
            .arg(dir.join("rootfs.cpio.gz")));
        entries(&dir.join("rootfs.cpio.gz"))
    };
    let (without, with) = (packed(&[]), packed(&["--with", "overlay"]));
    assert!(!without.iter().any(|entry| entry.ends_with("-overlay.ko")), "{without:?}");
    assert_eq!(with.iter().filter(|entry| entry.ends_with("-overlay.ko")).count(), 1, "{with:?}");
    assert_eq!(with.len(), without.len() + 1);

    let dir = scratch("with");
    let stock = fs::read_to_string(kernel.join("config")).unwrap();
    fs::write(dir.join("config"), stock.replace("CONFIG_OVERLAY_FS=m\n", "")).unwrap();
    let mut look = script("initramfs");
    look.arg("--kernel-modules").arg(kernel.join("modules"));
    look.arg("--kernel-config").arg(dir.join("config"));
    run(&mut look);
    refuses(look.args(["--with", "overlay"]), 1, "it lacks OVERLAY_FS (");
    fs::write(dir.join("config"), stock.replace("CONFIG_KEXEC_FILE=y\n", "")).unwrap();
    refuses(look.args(["--with", "kexec"]), 1, "it lacks KEXEC_FILE (");
    for unknown in ["aes-gcm-random", ""] {
        let why = format!("--with {unknown} is not one of kexec overlay layers rtmr3");
        refuses(initramfs(&dir, "top\n").args(["--with", unknown]), 2, &why);
    }
}

/// Each with the option of the stock kernel's that it is of.
#[test]
fn drivers_for_other_disks_are_packed_when_asked_for() {
    run(&mut script("kernel"));
    let kernel = target().join("kernel");
    let dir = scratch("drivers");
    let stock = fs::read_to_string(kernel.join("config")).unwrap();
    for (name, driver, option) in [
        ("ahci", "ahci", "SATA_AHCI"),
        ("usb", "usb_storage", "USB_STORAGE"),
        ("virtio-mmio", "virtio_mmio", "VIRTIO_MMIO"),
        ("hyperv", "hv_storvsc", "HYPERV_STORAGE"),
        ("xen", "xen_blkfront", "XEN_BLKDEV_FRONTEND"),
    ] {
        let mut pack = script("initramfs");
        pack.arg("--kernel-modules").arg(kernel.join("modules"));
        pack.args(["--drivers", name, "--init", "/etc/hostname", "--kernel-config"]);
        pack.arg(dir.join("config")).arg("-o").arg(dir.join("rootfs.cpio.gz"));
        fs::write(dir.join("config"), &stock).unwrap();
        run(&mut pack);
        let packed = entries(&dir.join("rootfs.cpio.gz"));
        let file = format!("-{driver}.ko");
        assert!(packed.iter().any(|entry| entry.ends_with(&file)), "{name}: {packed:?}");
        fs::write(dir.join("config"), stock.replace(&format!("CONFIG_{option}=m\n"), "")).unwrap();
        refuses(&mut pack, 1, &format!("it lacks {option} ("));
    }
    let why = "--drivers floppy is not one of ahci usb virtio-mmio hyperv xen";
    refuses(initramfs(&dir, "top\n").args(["--drivers", "floppy"]), 2, why);
}
