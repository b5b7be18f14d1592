//! `scripts/initramfs`: what it packs, that it packs the same again, and how it refuses bad input.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

mod script;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use script::{assert_empty, refuses, run, scratch, script, target, tool};

/// What stands for the kernel modules: `top` needs `mid-dle` and `bottom`, `mid-dle` needs
/// `bottom`; `lone` wants to find `mid-dle`. Each is compressed in its own way.
fn modules(dir: &Path) -> PathBuf {
    let modules = dir.join("modules");
    fs::create_dir_all(modules.join("kernel")).unwrap();
    for (name, compressor) in [
        ("top.ko", None),
        ("mid-dle.ko", Some("xz")),
        ("bottom.ko", Some("zstd")),
        ("lone.ko", Some("gzip")),
    ] {
        let file = modules.join("kernel").join(name);
        fs::write(&file, name).unwrap();
        if let Some(compressor) = compressor {
            run(tool(compressor).args(["-q", "-f"]).arg(&file));
        }
    }
    fs::write(
        modules.join("modules.dep"),
        "kernel/top.ko: kernel/mid-dle.ko.xz kernel/bottom.ko.zst\n\
         kernel/mid-dle.ko.xz: kernel/bottom.ko.zst\n\
         kernel/bottom.ko.zst:\n\
         kernel/lone.ko.gz:\n",
    )
    .unwrap();
    fs::write(modules.join("modules.builtin"), "kernel/fs/built-in.ko\n").unwrap();
    // The second cannot be had: top needs bottom.
    fs::write(
        modules.join("modules.softdep"),
        "softdep lone pre: an-algorithm absent post: bottom\nsoftdep bottom pre: top\n",
    )
    .unwrap();
    fs::write(modules.join("modules.alias"), "# aliases\nalias an-algorithm mid_dle\n").unwrap();
    modules
}

/// `scripts/initramfs` with those modules and the list given.
fn initramfs(dir: &Path, list: &str) -> Command {
    fs::write(dir.join("init"), "the init").unwrap();
    fs::write(dir.join("list"), list).unwrap();
    let mut command = script("initramfs");
    command
        .arg("--kernel-modules")
        .arg(modules(dir))
        .arg("--init")
        .arg(dir.join("init"))
        .arg("--modules-list")
        .arg(dir.join("list"))
        .arg("-o")
        .arg(dir.join("rootfs.cpio.gz"));
    command
}

/// Type, mode, owner, size or device, and name of each entry of an archive.
fn entries(archive: &Path) -> Vec<String> {
    run(tool("bsdtar").arg("-tvf").arg(archive))
        .lines()
        .map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let name = words.last().unwrap().trim_start_matches("./");
            format!("{} {}:{} {} {name}", words[0], words[2], words[3], words[4])
        })
        .collect()
}

#[test]
fn an_initramfs_without_modules_holds_init_mount_points_and_two_nodes() {
    let dir = scratch("bare");
    let archive = dir.join("rootfs.cpio.gz");
    fs::write(dir.join("init"), "the init").unwrap();
    run(script("initramfs")
        .args(["--kernel-modules", "none", "--init"])
        .arg(dir.join("init"))
        .arg("-o")
        .arg(&archive));
    assert_eq!(
        entries(&archive),
        [
            "drwxr-xr-x 0:0 0 dev/",
            "drwxr-xr-x 0:0 0 proc/",
            "drwxr-xr-x 0:0 0 root/",
            "drwxr-xr-x 0:0 0 run/",
            "drwxr-xr-x 0:0 0 sys/",
            "drwxr-xr-x 0:0 0 tmp/",
            "crw------- 0:0 5,1 dev/console",
            "crw-rw-rw- 0:0 1,3 dev/null",
            "-rwxr-xr-x 0:0 8 init",
        ]
    );
}

#[test]
fn an_initramfs_can_hold_words_of_a_command_line() {
    let dir = scratch("words");
    let archive = dir.join("rootfs.cpio.gz");
    fs::write(dir.join("init"), "the init").unwrap();
    let with = |words: &[&str]| {
        let mut command = script("initramfs");
        command.args(["--kernel-modules", "none", "--init"]).arg(dir.join("init"));
        command.args(words.iter().flat_map(|words| ["--append", words])).arg("-o").arg(&archive);
        command
    };
    run(&mut with(&["cvm.tags=disk", "cvm.disk=\"serial:A B\" cvm.log=debug"]));
    assert!(entries(&archive).contains(&"-rw-r--r-- 0:0 50 cmdline".to_owned()));
    let words = run(tool("bsdtar").arg("-xOqf").arg(&archive).arg("cmdline"));
    assert_eq!(words, "cvm.tags=disk cvm.disk=\"serial:A B\" cvm.log=debug\n");
    fs::remove_file(&archive).unwrap();
    for (words, reason) in [
        ("cvm.typo=1", "cannot use --append: unknown key cvm.typo="),
        ("console=hvc0", "\"console=hvc0\" in the initramfs: nobody reads it there"),
    ] {
        refuses(&mut with(&[words]), 1, reason);
    }
    assert!(!archive.exists());
}

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
fn an_initramfs_of_the_same_inputs_has_the_same_bytes() {
    let archives: Vec<_> = [("here", "022"), ("there", "077")]
        .iter()
        .map(|(place, umask)| {
            let dir = scratch(place);
            let command = initramfs(&dir, "top\nlone\n");
            let mut with_umask = Command::new("sh");
            with_umask
                .args(["-c", &format!("umask {umask}; exec \"$@\""), "sh"])
                .arg(command.get_program())
                .args(command.get_args());
            run(&mut with_umask);
            fs::read(dir.join("rootfs.cpio.gz")).unwrap()
        })
        .collect();
    assert!(archives[0] == archives[1]);
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

#[test]
fn a_kernel_is_held_against_the_options_that_a_boot_needs() {
    run(&mut script("kernel"));
    let stock = fs::read_to_string(target().join("kernel/config")).unwrap();
    let dir = scratch("options");
    let config = dir.join("config");
    let look = |modules: &str, text: &str| {
        fs::write(&config, text).unwrap();
        let mut command = script("initramfs");
        command.args(["--kernel-modules", modules, "--kernel-config"]);
        command.arg(&config);
        command
    };
    let folder = target().join("kernel/modules");
    let folder = folder.to_str().unwrap();
    run(&mut look(folder, &stock));
    let without_aegis = stock.replace("CONFIG_CRYPTO_AEGIS128=m\n", "");
    run(&mut look(folder, &without_aegis));
    refuses(
        look(folder, &without_aegis).args(["--cipher", "aegis128-random"]),
        1,
        "it lacks CRYPTO_AEGIS128 (",
    );
    let without_erofs = stock.replace("CONFIG_EROFS_FS=m\n", "");
    run(look(folder, &without_erofs).args(["--root-format", "squashfs"]));
    refuses(
        look(folder, &without_erofs).args(["--root-format", "erofs"]),
        1,
        "it lacks EROFS_FS (",
    );
    refuses(
        &mut look(
            folder,
            &stock
                .replace("CONFIG_DM_CRYPT=m", "# CONFIG_DM_CRYPT is not set")
                .replace("CONFIG_KEYS=y", "CONFIG_KEYS=n"),
        ),
        1,
        "it lacks DM_CRYPT KEYS (",
    );
    // What is a module is missing when none can be loaded.
    refuses(&mut look("none", &stock), 1, " DM_VERITY DM_INTEGRITY ");
    run(&mut look("none", &stock.replace("=m", "=y")));
}

#[test]
fn an_initramfs_is_refused_by_what_is_wrong_with_it() {
    let dir = scratch("refused");
    let out = dir.join("out");
    fs::create_dir(&out).unwrap();
    let archive = out.join("rootfs.cpio.gz");
    let with = |modules: &Path, init: &Path| {
        let mut command = script("initramfs");
        command.arg("--kernel-modules").arg(modules).arg("--init").arg(init);
        command.arg("-o").arg(&archive);
        command
    };
    let init = dir.join("init");
    refuses(
        &mut with(Path::new("none"), &init),
        1,
        "init: no such file; build it with 'cargo build --release --target x86_64-unknown-linux-musl'",
    );
    refuses(
        with(Path::new("none"), Path::new("/bin/ls")).args(["--arch", "aarch64"]),
        1,
        "cannot use /bin/ls with --arch aarch64: it is for Advanced Micro Devices X86-64",
    );
    refuses(
        with(Path::new("none"), Path::new("/bin/ls")).args(["--arch", "arm64"]),
        2,
        "--arch arm64 is neither x86_64 nor aarch64",
    );
    refuses(
        &mut with(Path::new("none"), Path::new("/bin/ls")),
        1,
        "cannot use /bin/ls as /init: it wants /lib64/ld-linux-x86-64.so.2",
    );
    fs::write(&init, "the init").unwrap();
    refuses(&mut with(&dir, &init), 1, "modules.dep: no such file");
    refuses(initramfs(&dir, "top\nbogus\n").arg("-o").arg(&archive), 1, "cannot find module bogus");
    refuses(
        initramfs(&dir, "top\n").args(["--extra-module", "more", "-o"]).arg(&archive),
        1,
        "cannot find module more (--extra-module)",
    );
    // The header of an object file for AArch64.
    let mut foreign = initramfs(&dir, "top\n");
    let module = [&b"\x7fELF\x02\x01\x01"[..], &[0; 9], &[1, 0, 183, 0, 1], &[0; 43]].concat();
    fs::write(dir.join("modules/kernel/top.ko"), module).unwrap();
    refuses(foreign.arg("-o").arg(&archive), 1, "modules with --arch x86_64: it is for AArch64");
    let mut broken = initramfs(&dir, "top\n");
    fs::write(dir.join("modules/kernel/mid-dle.ko.xz"), "no xz").unwrap();
    refuses(broken.arg("-o").arg(&archive), 1, "cannot unpack");
    assert_empty(&out);
}
