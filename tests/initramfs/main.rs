//! `scripts/initramfs`: what it packs, that it packs the same again, and how it refuses bad input.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

mod modules;
#[path = "../script/mod.rs"]
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
fn an_archive_is_compressed_as_its_name_says() {
    let dir = scratch("compression");
    let unpacked: Vec<_> = [("rootfs.cpio.gz", "gzip"), ("rootfs.cpio.zst", "zstd")]
        .map(|(name, by)| {
            let pack = || {
                run(initramfs(&dir, "top\nlone\n").arg("-o").arg(dir.join(name)));
                fs::read(dir.join(name)).unwrap()
            };
            assert!(pack() == pack(), "{name} differs from time to time");
            tool(by).arg("-dc").arg(dir.join(name)).output().unwrap().stdout
        })
        .into();
    assert!(unpacked[0].starts_with(b"070701"));
    assert!(unpacked[0] == unpacked[1]);
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
    let without_zstd = stock.replace("CONFIG_RD_ZSTD=y\n", "");
    run(&mut look(folder, &without_zstd));
    let by_zstd = dir.join("rootfs.cpio.zst");
    refuses(look(folder, &without_zstd).arg("-o").arg(&by_zstd), 1, "it lacks RD_ZSTD (");
    let without_gzip = stock.replace("CONFIG_RD_GZIP=y\n", "");
    let by_gzip = dir.join("rootfs.cpio.gz");
    refuses(look(folder, &without_gzip).arg("-o").arg(by_gzip), 1, "it lacks RD_GZIP (");
    run(&mut look(folder, &without_gzip));
    let without_both = without_gzip.replace("CONFIG_RD_ZSTD=y\n", "");
    refuses(&mut look(folder, &without_both), 1, "it lacks RD_GZIP|RD_ZSTD (");
    fs::write(dir.join("init"), "the init").unwrap();
    run(look(folder, &without_gzip).arg("--init").arg(dir.join("init")).arg("-o").arg(&by_zstd));
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
