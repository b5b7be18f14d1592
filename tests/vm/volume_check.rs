//! How a test that has worked on /cocos ends: what was written is there, no fault was logged, and
//! e2fsck finds nothing.

use crate::guest::Guest;
use crate::root::{Builder, Node, Root};
use crate::tool::command;
use serde_json::{Value, json};
use std::fs;
use std::sync::OnceLock;
use std::time::Duration;

pub(crate) const VOLUME: &str = "/dev/mapper/cocos_crypt";

/// What the kernel says of a sector that fails its tag, a table of inodes that cannot be read, a
/// file system that is not right and a device that fails. What else it warns of may be but a busy
/// machine.
const COMPLAINTS: [&str; 7] = [
    "INTEGRITY",
    "itable",
    "EXT4-fs error",
    "EXT4-fs warning",
    "I/O error",
    "Remounting filesystem read-only",
    "kernel BUG",
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

/// The volume takes a file, comes off everywhere it is mounted, and e2fsck, which reads ahead like
/// any other program, finds nothing wrong; and all the while nothing was logged.
#[track_caller]
pub(crate) fn check(guest: &mut Guest) {
    assert_eq!(complaints(guest), [""; 0]);
    let text = "still writable";
    guest.ask("write", json!({ "path": "/cocos/still", "text": text }));
    guest.ask("drop_caches", json!({}));
    assert_eq!(guest.read("/cocos/still"), text);
    unmount(guest);
    run(guest, &format!("/usr/sbin/e2fsck -fn {VOLUME}"));
    assert_eq!(complaints(guest), [""; 0]);
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
