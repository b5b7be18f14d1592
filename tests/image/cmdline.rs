//! The command line: what is on it, and what no guest could be booted with.

use std::fs;
use std::path::Path;

use crate::script::{refuses, run, scratch, tool};
use crate::{RELEASE, image, image_without_console, root};

/// What keeps the host from commanding the root's systemd.
const CLOSING: &[&str] = &[
    "systemd.import_credentials=no",
    "systemd.getty_auto=no",
    "systemd.ssh_auto=no",
    "SYSTEMD_EFI_OPTIONS=",
];

fn cmdline(dir: &Path) -> String {
    let line = fs::read_to_string(dir.join("out/cmdline")).unwrap();
    line.strip_suffix('\n').unwrap().to_owned()
}

#[test]
fn it_closes_what_the_host_says_to_systemd_and_ends_what_panics() {
    let dir = scratch("closed");
    let root = root(&dir);
    let append = ["--append", "panic=5 systemd.getty_auto=yes"];
    run(image(&dir, &root).args(append));
    let line = cmdline(&dir);
    let words: Vec<_> = line.split(' ').collect();
    let mut fixed = vec!["panic=-1", "systemd.verity=0", "systemd.gpt_auto=0"];
    fixed.extend(CLOSING);
    // Of two words of one name the kernel and systemd take the later one.
    fixed.extend(["console=ttyS0", "panic=5", "systemd.getty_auto=yes", "cvm.end"]);
    assert_eq!(words[0], "cvm.begin");
    assert_eq!(words[4..], fixed);
    run(image(&dir, &root).args(append).arg("--allow-credentials"));
    let place = fixed.iter().position(|word| CLOSING.contains(word)).unwrap();
    fixed.retain(|word| !CLOSING.contains(word));
    fixed.insert(place, "systemd.import_credentials=yes");
    let open = cmdline(&dir);
    let open: Vec<_> = open.split(' ').collect();
    assert_eq!((&open[..4], &open[4..]), (&words[..4], &fixed[..]));
}

#[test]
fn the_words_of_init_stand_behind_its_end() {
    let dir = scratch("init");
    let root = root(&dir);
    for (append, end) in [
        ("a -- b -- c", "console=ttyS0 a cvm.end -- b -- c"),
        ("--", "console=ttyS0 cvm.end --"),
        // No word by itself.
        ("a=\"x -- y\" --b", "console=ttyS0 a=\"x -- y\" --b cvm.end"),
        ("a=\"x -- y\" -- cvm.typo=1", "console=ttyS0 a=\"x -- y\" cvm.end -- cvm.typo=1"),
    ] {
        run(image(&dir, &root).args(["--boot", "uki", "--append", append]));
        let line = cmdline(&dir);
        assert!(line.ends_with(end), "{line}");
    }
}

/// GRUB puts `BOOT_IMAGE=/bzImage` in front and leaves out what then does not fit.
#[test]
fn a_line_that_would_be_cut_off_is_refused() {
    let dir = scratch("cut");
    let root = root(&dir);
    let of_length = |length: usize, boot: &str| {
        run(image(&dir, &root).args(["--append", "x", "--boot", boot]));
        let word = "x".repeat(length - cmdline(&dir).len() + 1);
        let mut command = image(&dir, &root);
        command.args(["--append", &word, "--boot", boot]);
        command
    };
    let grub = "the kernel takes 2047 less 20 that GRUB puts in front";
    for (boot, max, why) in [("grub", 2027, grub), ("uki", 2047, "the kernel takes 2047")] {
        run(&mut of_length(max, boot));
        let line = cmdline(&dir);
        assert_eq!(line.len(), max, "{line}");
        assert!(line.ends_with("x cvm.end"), "{line}");
        let why = format!("the command line has {} characters, {why}", max + 1);
        refuses(&mut of_length(max + 1, boot), 1, &why);
    }
}

#[test]
fn what_pid_1_would_refuse_is_refused_before_anything_is_made() {
    let dir = scratch("typo");
    let root = root(&dir);
    for (append, why) in [
        ("cvm.typo=1", "cannot boot with this command line: unknown key cvm.typo="),
        ("roothash=00", "roothash= is given twice"),
        ("cvm.tags=paper", "cvm.tags=paper: not one of memory, disk"),
        ("init=sh", "init=sh: not an absolute path"),
        ("cvm.cipher=rot13", "not one of aes-gcm-random"),
        ("cvm.end", "cvm.end"),
    ] {
        refuses(image(&dir, &root).args(["--append", append]), 1, why);
    }
    assert!(!dir.join("out").exists());
}

#[test]
fn without_cargo_a_parser_that_was_built_will_do_and_without_both_it_is_said() {
    let dir = scratch("no cargo");
    let root = root(&dir);
    run(&mut image(&dir, &root));
    let path = "/usr/bin:/bin";
    run(image(&dir, &root).env("PATH", path));
    refuses(
        image(&dir, &root).env("PATH", path).env("CARGO_TARGET_DIR", &*dir),
        1,
        "cvm-tools: no such file; nor is there a cargo to build it",
    );
}

#[test]
fn a_line_without_console_gets_one_warning() {
    let dir = scratch("console");
    let root = root(&dir);
    let warnings = |append: &str| {
        let output =
            image_without_console(&dir, &root).args(["--append", append]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        said.lines().filter(|line| line.contains("--append console=ttyS0")).count()
    };
    assert_eq!(warnings("quiet netconsole=x"), 1);
    assert_eq!(warnings("quiet console=tty0"), 0);
}

/// An initramfs with a module for this kernel.
pub(crate) fn initramfs_for(dir: &Path, release: &str) {
    let modules = dir.join("modules");
    fs::create_dir_all(&modules).unwrap();
    let module = format!("a module\0vermagic={release} SMP mod_unload \0\n");
    fs::write(modules.join("00-000-a.ko"), module).unwrap();
    run(tool("bsdtar")
        .args(["--format", "newc", "-czf"])
        .arg(dir.join("initramfs"))
        .arg("-C")
        .arg(dir)
        .arg("./modules"));
}

#[test]
fn modules_of_another_kernel_are_refused() {
    let dir = scratch("modules of another");
    let root = root(&dir);
    initramfs_for(&dir, RELEASE);
    run(&mut image(&dir, &root));
    initramfs_for(&dir, "6.12.0-other");
    refuses(
        &mut image(&dir, &root),
        1,
        "initramfs: the kernel is 6.1.0-test, they are for 6.12.0-other",
    );
}
