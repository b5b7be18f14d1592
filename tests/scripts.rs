//! The scripts: what they make, that they make the same again, and how they refuse bad input.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

mod script;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use script::{assert_empty, first_in_path, refuses, run, scratch, script, target, tool, tool_in};

const SCRIPTS: &[&str] = &[
    "setup",
    "kernel",
    "initramfs",
    "image",
    "layers",
    "boot",
    "bench",
    "debian-root",
    "fuzz",
    "measure",
    "qemu",
    "sizes",
    "soak",
    "test",
];

#[test]
fn every_script_explains_itself_and_refuses_what_it_does_not_know() {
    for name in SCRIPTS {
        let help = run(script(name).arg("--help"));
        assert!(help.starts_with(&format!("usage: scripts/{name}")), "{help}");
        refuses(script(name).arg("--colour"), 2, "unknown argument --colour");
    }
}

#[test]
fn a_flag_without_its_value_is_a_usage_error() {
    refuses(script("initramfs").arg("-o"), 2, "-o needs a value");
    refuses(script("initramfs").args(["-o", "x"]), 2, "--kernel-modules is missing");
    refuses(script("image").args(["--rootfs", "x"]), 2, "--kernel is missing");
    refuses(
        script("boot").args(["--timeout", "soon"]),
        2,
        "--timeout soon is not a number of seconds",
    );
    for name in ["kernel", "debian-root"] {
        refuses(script(name).args(["--suite", "../x"]), 2, "--suite ../x is not a suite");
    }
    refuses(
        script("debian-root").args(["--exclude", "docker"]),
        2,
        "--exclude docker is not among the packages",
    );
    refuses(script("fuzz").args(["--time", "0"]), 2, "--time 0 is not a number of seconds");
    refuses(script("fuzz").arg("everything"), 2, "no target everything");
    refuses(script("soak").args(["--boots", "some"]), 2, "--boots some is not a number of boots");
}

#[test]
fn without_a_nightly_toolchain_nothing_is_fuzzed_and_it_is_said_how_to_get_one() {
    let dir = scratch("stable");
    // Stands for a rustup that has no such toolchain.
    symlink("/bin/false", dir.join("rustup")).unwrap();
    let how = "no nightly toolchain: cargo-fuzz builds with its sanitizers; \
               install it with 'rustup toolchain install nightly'";
    refuses(script("fuzz").env("PATH", first_in_path(&dir)), 1, how);
}

/// A machine on which backports have brought `qemu-utils` and are no package source any more. Who
/// asks apt for `qemu-system-x86` without a word of `qemu-utils` loses that one; who asks for both
/// is told that they do not fit, unless `qemu-utils` may go back. Never there is what `LOST` names.
const HELD: &[(&str, &str)] = &[
    (
        "apt-get",
        r#"echo "$*" >>"$0.log"
        cd "${0%/*}" && case "$* " in
            *" -s "*"qemu-utils="*) ;;
            *" -s "*) exit 100 ;;
            *" install "*)
                for word; do
                    echo "${word%%=*} ${word%%=*} ${word#*=}"
                done | grep -v "^$LOST " >installed ;;
        esac"#,
    ),
    (
        "apt-cache",
        r#"case "$*" in
            "show "*) printf 'Package: fio\n\nPackage: qemu-system-x86\nSource: qemu (1:7)\n' ;;
            *" policy"*) printf 'qemu-utils:\n  Candidate: 1:7.2\n' ;;
            "madison "*) echo "qemu-utils | 1:7.2 | http://a.mirror bookworm/main amd64 Packages" ;;
        esac"#,
    ),
    (
        "dpkg-query",
        r#"while read -r name source version; do
            printf "$(printf %s "$3" | sed "s/[$]{db:Status-Status}/installed/
                s/[$]{source:Package}/$source/; s/[$]{Package}/$name/; s/[$]{Version}/$version/")"
        done <"${0%/*}/installed""#,
    ),
    ("sudo", r#"exec "$@""#),
    ("rustup", "exit 1"),
];

/// `scripts/setup` on that machine.
fn setup_where_qemu_is_held(dir: &Path) -> Command {
    fs::write(dir.join("installed"), "qemu-utils qemu 1:10.0~bpo12\n").unwrap();
    for (name, text) in HELD {
        tool_in(dir, name, text);
    }
    let mut command = script("setup");
    command.env("PATH", first_in_path(dir)).env("LOST", "none");
    command
}

#[test]
fn apt_is_asked_for_all_packages_at_once_and_a_held_one_goes_back() {
    let dir = scratch("held");
    let output = setup_where_qemu_is_held(&dir).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("held by another suite: qemu-utils 1:10.0~bpo12\n"), "{said}");
    assert!(said.contains("going back to qemu-utils=1:7.2\n"), "{said}");

    let log = fs::read_to_string(dir.join("apt-get.log")).unwrap();
    let installs: Vec<_> =
        log.lines().filter(|line| line.contains(" install ") && !line.contains(" -s ")).collect();
    let [install] = installs[..] else { panic!("not one: {installs:?}") };
    let words: Vec<_> = install.split(' ').collect();
    let help = run(script("setup").arg("--help"));
    let packages = help.split("\n\n").nth(2).unwrap();
    for package in packages.lines().filter_map(|line| line.split_whitespace().next()) {
        assert!(words.contains(&package), "no {package} in {install}");
    }
    assert!(words.contains(&"qemu-utils=1:7.2"), "{install}");
}

#[test]
fn a_package_that_is_not_there_after_all_is_named() {
    let dir = scratch("lost");
    let mut setup = setup_where_qemu_is_held(&dir);
    refuses(setup.env("LOST", "fio"), 1, "cannot install fio: apt-get ended well");
}

/// Runs it where `/etc/os-release` says something else.
fn on_release(text: &str, dir: &Path, command: &Command) -> String {
    let os_release = dir.join("os-release");
    fs::write(&os_release, text).unwrap();
    let mut elsewhere = Command::new("sh");
    elsewhere
        .args(["-euc", ELSEWHERE, "sh"])
        .arg(&os_release)
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        elsewhere.env(name, value.unwrap());
    }
    let output = elsewhere.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

/// In mounts of its own, which need root or a user namespace.
const ELSEWHERE: &str = r#"
    as_root=--map-root-user
    [ "$(id -u)" != 0 ] || as_root=
    exec unshare $as_root --mount sh -euc 'mount --bind "$1" /etc/os-release; shift; exec "$@"' sh "$@"
"#;

#[test]
fn a_release_that_was_not_tried_is_named_and_set_up_all_the_same() {
    let dir = scratch("release");
    let setup = setup_where_qemu_is_held(&dir);
    let warnings = |text: &str| -> Vec<String> {
        let said = on_release(text, &dir, &setup);
        assert!(said.contains("all is installed"), "{said}");
        said.lines().filter(|line| line.contains("warning")).map(str::to_owned).collect()
    };
    assert!(warnings("ID=debian\nVERSION_CODENAME=bookworm\n").is_empty());
    for (text, name) in [("VERSION_CODENAME=trixie\n", "trixie"), ("ID=arch\n", "no release")] {
        let warnings = warnings(text);
        let [warning] = &warnings[..] else { panic!("not one: {warnings:?}") };
        assert!(
            warning.starts_with(&format!("scripts/setup: warning: this is {name}")),
            "{warning}"
        );
    }
}

#[test]
fn a_refusal_of_mmdebstrap_is_told_once() {
    let dir = scratch("refusal");
    run(&mut script("kernel"));
    let refusal = "cannot create /a/root: Permission denied";
    let joined = [refusal; 4].join("; ");
    tool_in(&dir, "mmdebstrap", &format!("echo 'E: {joined}' >&2; exit 1"));
    let mut debian_root = script("debian-root");
    debian_root.arg("-o").arg(dir.join("rootfs.tar")).env("PATH", first_in_path(&dir));
    let output = debian_root.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.matches(refusal).count(), 1, "{said}");
    assert!(said.ends_with(": mmdebstrap failed\n"), "{said}");
}

/// Without root it works as another user, who has to get into the folder that it is given.
#[test]
fn mmdebstrap_is_given_a_folder_that_other_users_can_enter() {
    let dir = scratch("entered");
    run(&mut script("kernel"));
    tool_in(&dir, "mmdebstrap", r#"stat -c %a "$TMPDIR" >"$0.mode"; exit 1"#);
    let mut debian_root = script("debian-root");
    debian_root.arg("-o").arg(dir.join("rootfs.tar")).env("PATH", first_in_path(&dir));
    refuses(&mut debian_root, 1, "cannot make a Debian root: mmdebstrap failed");
    assert_eq!(fs::read_to_string(dir.join("mmdebstrap.mode")).unwrap(), "711\n");
}

#[test]
fn a_folder_that_other_users_cannot_enter_is_found_above_one_that_they_can() {
    let dir = scratch("closed");
    let home = dir.join("home");
    let checkout = home.join("checkout");
    fs::create_dir_all(&checkout).unwrap();
    let allow = |dir: &Path, mode| fs::set_permissions(dir, fs::Permissions::from_mode(mode));
    allow(&checkout, 0o755).unwrap();
    let closed = |mode| {
        allow(&home, mode).unwrap();
        run(Command::new("bash")
            .args(["-c", r#"source scripts/lib.bash; closed_to_others "$1""#, "scripts/it"])
            .arg(&checkout))
    };
    assert_eq!(closed(0o700), format!("{}\n", home.display()));
    assert!(!closed(0o711).contains("home\n"));
}

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
fn modules_are_unpacked_and_named_in_the_order_of_their_dependencies() {
    let dir = scratch("order");
    let list = "# why\n\n?lone  # first in the list\ntop\nbuilt_in\n?absent\nbottom\n";
    run(initramfs(&dir, list).args(["--extra-module", "mid-dle"]).env("LC_ALL", "C.UTF-8"));
    let packed: Vec<_> = entries(&dir.join("rootfs.cpio.gz"))
        .into_iter()
        .filter(|entry| entry.contains("modules/0"))
        .collect();
    // Sizes are those of the unpacked files, which hold their own names. The larger of a generation
    // comes first.
    assert_eq!(
        packed,
        [
            "-rw-r--r-- 0:0 9 modules/00-000-bottom.ko",
            "-rw-r--r-- 0:0 10 modules/01-001-mid_dle.ko",
            "-rw-r--r-- 0:0 7 modules/02-002-lone.ko",
            "-rw-r--r-- 0:0 6 modules/02-003-top.ko",
        ]
    );
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
        entries
            .iter()
            .position(|entry| entry.ends_with(&ending))
            .ok_or(format!("no {name} in {entries:?}"))
    };
    for (first, later) in [
        ("scsi_mod", "virtio_scsi"),
        ("dm_mod", "dm_crypt"),
        ("dm_bufio", "dm_verity"),
        ("crypto_simd", "aesni_intel"),
        ("jbd2", "ext4"),
        ("9pnet", "9pnet_virtio"),
    ] {
        assert!(place(first) < place(later), "{first}, {later}: {entries:?}");
    }
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
    let gcm = ["0-000-bottom.ko", "1-001-mid_dle.ko", "2-002-top.ko"];
    assert_eq!(packed(&[]), gcm);
    assert_eq!(packed(&["--cipher", "aes-gcm-random"]), gcm);
    assert_eq!(packed(&["--cipher", "chacha20-random"]), ["0-000-bottom.ko", "0-001-lone.ko"]);
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
    let none = ["0-000-bottom.ko"];
    assert_eq!(packed(&[]), none);
    assert_eq!(packed(&["ext4"]), none);
    assert_eq!(packed(&["erofs"]), ["0-000-bottom.ko", "0-001-lone.ko"]);
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
    for unknown in ["aes-gcm-random", ""] {
        let why = format!("--with {unknown} is not one of overlay");
        refuses(initramfs(&dir, "top\n").args(["--with", unknown]), 2, &why);
    }
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
        "init: no such file; build it with 'cargo build --release'",
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
    let mut broken = initramfs(&dir, "top\n");
    fs::write(dir.join("modules/kernel/mid-dle.ko.xz"), "no xz").unwrap();
    refuses(broken.arg("-o").arg(&archive), 1, "cannot unpack");
    assert_empty(&out);
}
