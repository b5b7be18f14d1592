//! How a test that has worked on /cocos ends: what was written is there, no fault was logged, and
//! e2fsck finds nothing.

use crate::kit::guest::Guest;
use crate::kit::root::{Builder, Node, Root};
use crate::kit::tool::command;
use serde_json::{Value, json};
use std::fs;
use std::sync::OnceLock;
use std::time::Duration;

pub(crate) const VOLUME: &str = "/dev/mapper/cocos_crypt";

/// What the kernel says of a sector that fails its tag, a table of inodes that cannot be read, a
/// file system that is not right, a device that fails and a want of memory. What else it warns of may
/// be but a busy machine.
const COMPLAINTS: [&str; 9] = [
    "INTEGRITY",
    "itable",
    "EXT4-fs error",
    "EXT4-fs warning",
    "I/O error",
    "Remounting filesystem read-only",
    "kernel BUG",
    "overlayfs",
    "Out of memory",
];

/// Programs that check the volume, and a shell that starts them.
pub(crate) fn nodes() -> Vec<Node> {
    let file = |program: &str| fs::read(command(program).get_program()).unwrap();
    vec![
        Node::directory("bin"),
        Node::file("bin/busybox", file("busybox")).mode(0o755),
        Node::link("bin/sh", "busybox"),
        Node::file("usr/sbin/e2fsck", file("e2fsck.static")).mode(0o755),
    ]
}

/// A root with those programs.
pub(crate) fn root() -> &'static Root {
    static ROOT: OnceLock<Root> = OnceLock::new();
    ROOT.get_or_init(|| {
        nodes().into_iter().fold(Root::builder().size("24M"), Builder::with).build()
    })
}

pub(crate) fn complaints(guest: &mut Guest) -> Vec<String> {
    let log = guest.ask("kmsg", json!({}));
    let lines = log.as_array().unwrap().iter().map(|line| line["text"].as_str().unwrap());
    lines.filter(|line| COMPLAINTS.iter().any(|it| line.contains(it))).map(str::to_owned).collect()
}

/// Until a request must be answered that makes the volume work.
const ANSWER: Duration = Duration::from_secs(600);

/// Has the agent do something whose failure is told with what the kernel complained of.
#[track_caller]
pub(crate) fn ask(guest: &mut Guest, verb: &str, arguments: Value) -> Value {
    ask_within(ANSWER, guest, verb, arguments)
}

/// The same with a limit of its own.
#[track_caller]
pub(crate) fn ask_within(
    limit: Duration,
    guest: &mut Guest,
    verb: &str,
    arguments: Value,
) -> Value {
    match guest.call_within(limit, verb, arguments) {
        Ok(answer) => answer,
        Err(error) => {
            let log = complaints(guest);
            panic!("the guest {}\nkernel log:\n{}", error.message, log.join("\n"))
        }
    }
}

/// What a command that succeeds writes to standard output.
#[track_caller]
pub(crate) fn run(guest: &mut Guest, command: &str) -> String {
    let output = guest.ask("run", json!({ "command": command }));
    assert_eq!(output["status"], 0, "{command}: {output}\nkernel log: {:?}", complaints(guest));
    output["stdout"].as_str().unwrap().to_owned()
}

/// The volume takes a file, comes off everywhere it is mounted, and e2fsck finds nothing wrong; and
/// all the while nothing was logged.
#[track_caller]
pub(crate) fn check(guest: &mut Guest) {
    assert_eq!(complaints(guest), [""; 0]);
    let text = "still writable";
    guest.ask("write", json!({ "path": "/cocos/still", "text": text }));
    guest.ask("drop_caches", json!({}));
    assert_eq!(guest.read("/cocos/still"), text);
    unmount(guest);
    assert_eq!(complaints(guest), [""; 0]);
    check_file_system(guest);
}

/// Has e2fsck look at the volume like any program, and once more without the kernel's read-ahead.
///
/// Of a program that reads directories which lie one after the other the kernel believes that it
/// reads on, and reads free blocks ahead of it, which were never written and have no tag. That
/// fails, nobody is told but the log, and the program's own reads are good. The file system reads
/// ahead within its files only.
fn check_file_system(guest: &mut Guest) {
    let e2fsck = format!("/usr/sbin/e2fsck -fn {VOLUME}");
    run(guest, &e2fsck);
    let ahead = complaints(guest);
    assert!(ahead.iter().all(|line| line.contains("INTEGRITY AEAD ERROR")), "{ahead:?}");
    let mappings = guest.ask("dm", json!({}));
    let mapping = mappings.as_array().unwrap().iter().find(|it| it["name"] == "cocos_crypt");
    let device = mapping.unwrap()["device"].as_str().unwrap();
    let read_ahead = format!("/sys/dev/block/{device}/queue/read_ahead_kb");
    guest.ask("write", json!({ "path": read_ahead, "text": "0" }));
    guest.ask("drop_caches", json!({}));
    run(guest, &e2fsck);
    assert_eq!(complaints(guest), ahead);
}

/// Everything that lies on the volume, the last mounted first: binds of it, and overlays, which
/// may have their upper layer there.
fn unmount(guest: &mut Guest) {
    let mounts = guest.ask("mounts", json!({}));
    let mounts = mounts.as_array().unwrap();
    let volume = mounts.iter().rfind(|mount| mount["target"] == "/cocos").unwrap();
    for mount in mounts.iter().rev() {
        if mount["device"] == volume["device"] || mount["fstype"] == "overlay" {
            guest.ask("umount", json!({ "target": mount["target"] }));
        }
    }
}
