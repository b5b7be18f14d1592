//! `cvm-tools cmdline`, as `scripts/image` runs it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Output, Stdio};

const HASH: &str = "roothash=00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

fn tool() -> Command {
    let mut tool = Command::new(env!("CARGO_BIN_EXE_cvm-tools"));
    tool.arg("cmdline");
    tool
}

/// Exit status and the reason.
fn told(output: &Output) -> (i32, String) {
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn argument(line: impl AsRef<OsStr>) -> (i32, String) {
    told(&tool().arg(line).output().unwrap())
}

fn standard_input(line: &[u8]) -> (i32, String) {
    let mut child = tool().stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(line).unwrap();
    told(&child.wait_with_output().unwrap())
}

#[test]
fn a_line_that_a_boot_takes_is_good() {
    let line = format!("console=ttyS0 {HASH} cvm.log=debug quiet -- cvm.typo=1");
    assert_eq!(argument(&line), (0, String::new()));
    assert_eq!(standard_input(format!("{line}\n").as_bytes()), (0, String::new()));
}

#[test]
fn a_line_that_would_end_a_boot_is_refused_with_its_reason() {
    for (line, reason) in [
        (format!("{HASH} cvm.typo=1"), "unknown key cvm.typo=\n"),
        (format!("{HASH} {HASH}"), "roothash= is given twice\n"),
        ("quiet".to_owned(), "roothash= is missing\n"),
    ] {
        let refusal = (1, reason.to_owned());
        assert_eq!(argument(&line), refusal);
        assert_eq!(standard_input(line.as_bytes()), refusal);
    }
    assert_eq!(argument(OsStr::from_bytes(b"x\xff")), (1, "the line is not UTF-8\n".to_owned()));
}

#[test]
fn it_explains_itself_and_takes_one_line() {
    let help = tool().arg("--help").output().unwrap();
    assert!(help.status.success());
    assert!(help.stdout.starts_with(b"Hold a kernel command line"));
    let told = told(&tool().args(["quiet", HASH]).output().unwrap());
    assert_eq!(told, (2, format!("unknown argument {HASH} (see cvm-tools cmdline --help)\n")));
}

#[test]
fn words_for_the_initramfs_are_checked_alone_and_with_a_line() {
    let check = |arguments: &[&str]| told(&tool().args(arguments).output().unwrap());
    let refusal = |reason: &str| (1, format!("{reason}\n"));
    assert_eq!(check(&["--initramfs", "cvm.tags=disk"]), (0, String::new()));
    assert_eq!(check(&["--initramfs", "cvm.typo=1"]), refusal("unknown key cvm.typo="));
    let nobody = "\"quiet\" in the initramfs: nobody reads it there";
    assert_eq!(check(&["--initramfs", "quiet"]), refusal(nobody));
    assert_eq!(check(&["--initramfs", "cvm.tags=disk", HASH]), (0, String::new()));
    let line = format!("{HASH} cvm.tags=memory");
    let twice = refusal("cvm.tags= is given twice");
    assert_eq!(check(&["--initramfs", "cvm.tags=disk", &line]), twice);
    assert_eq!(check(&["--initramfs"]).0, 2);
}
