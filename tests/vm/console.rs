//! The console is the host's: whatever is typed there, at whatever moment, changes nothing.

use crate::good::mounts;
use crate::kit::disk::Disk;
use crate::kit::guest::{Ending, Guest};
use crate::kit::terminals::{Follower, Line, Terminals};
use crate::kit::vm::Vm;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// From power-on to power-off, emulated.
const LIMIT: Duration = Duration::from_secs(120);

/// Every key that `SysRq` knows on some kernel. Whatever follows a BREAK is one of them.
const SYSRQ: &[u8] = b"hboceifjklmnpqrstuvwxyzd0123456789";

/// Ctrl-C, Ctrl-D, Ctrl-Z, Ctrl-\, XOFF and XON, end of line, commands, a terminal's answers.
const BYTES: &[&[u8]] = &[
    b"\x03\x03\x03",
    b"\x04\x04",
    b"\x1a",
    b"\x1c",
    b"\x13",
    b"\x11",
    &[b'\n'; 64],
    b"root\n\n/bin/sh\nreboot -f\n",
    b"\x1b[6n\x1b[c\x1b]0;x\x07",
    &[0xff, 0x00, 0x80, 0x7f, 0x15, 0x12, 0x16],
];

/// What the keyboard can do besides `SysRq`. With Scroll Lock the kernel's own key map has it print
/// memory, tasks and registers.
const KEYS: &[&str] = &[
    "ctrl-alt-delete",
    "shift-scroll_lock",
    "ctrl-scroll_lock",
    "alt_r-scroll_lock",
    "scroll_lock",
    "ctrl-c",
    "ctrl-d",
    "ctrl-z",
    "ctrl-backslash",
    "ctrl-s",
    "ctrl-alt-f2",
    "alt-right",
    "ctrl-pause",
    "ret",
];

/// The kernel's words when a key had it do something.
const OBEYED: &[&str] =
    &["sysrq", "SysRq", "SAK", "Mem-Info", "Call Trace", "RIP:", "task:", "Resetting", "Changing"];

/// A line that shows, and what the boot does from then on.
const PROGRESS: &[(&str, &str)] = &[
    ("Run /init as init process", "start"),
    ("cvm-init: version", "platform"),
    ("cvm-init: disk\n", "disk"),
    ("cvm-init: root\n", "root"),
    ("cvm-init: volume\n", "volume"),
    ("cvm-init: runtime\n", "runtime"),
    ("cvm-init: handoff\n", "handoff"),
    ("cvm-init: handing over", "init"),
];

/// Follows the boot by its lines, and counts what was typed in each part of it.
#[derive(Default)]
struct Storm {
    salvos: Vec<(&'static str, usize)>,
    count: usize,
}

impl Storm {
    fn line(&mut self, terminals: &mut Terminals, line: &str) {
        let line = line.replace('\r', "");
        let begun = PROGRESS.iter().find(|(marker, _)| line.contains(marker));
        if let Some((_, part)) = begun {
            self.salvos.push((part, 0));
        }
        // Until PID 1 has switched them off, the kernel obeys keys: that is a test of its own.
        match self.salvos.last_mut() {
            None | Some(("start", _)) => self.bytes(terminals),
            Some((_, count)) => {
                *count += 1;
                self.salvo(terminals);
            }
        }
        self.count += 1;
    }

    fn bytes(&self, terminals: &mut Terminals) {
        for line in [Line::TtyS0, Line::Hvc0] {
            terminals.send(line, BYTES[self.count % BYTES.len()]);
        }
        terminals.press("ctrl-c");
    }

    /// All ways to type, each with the next of its keys.
    fn salvo(&self, terminals: &mut Terminals) {
        // Each second time the one that would reset the machine.
        let key = SYSRQ[self.count / 2 % SYSRQ.len()];
        let key = if self.count.is_multiple_of(2) { b'b' } else { key };
        terminals.send_break(Line::TtyS0, &[key]);
        // The virtio console's own BREAK is Ctrl-O.
        terminals.send(Line::Hvc0, &[0x0f, key]);
        terminals.press(&format!("alt-sysrq-{}", char::from(key)));
        terminals.press(KEYS[self.count % KEYS.len()]);
        self.bytes(terminals);
    }
}

/// What the guest can tell of a boot that is the same in every boot.
fn facts(guest: &mut Guest) -> Value {
    let mut mappings = guest.ask("dm", json!({}));
    for mapping in mappings.as_array_mut().unwrap() {
        mapping["uuid"] = Value::Null;
    }
    let report = guest.report();
    let effects: BTreeSet<_> = report["effects"]
        .as_array()
        .unwrap()
        .iter()
        .map(|effect| effect["id"].as_str().unwrap().to_owned())
        .collect();
    let programs: Vec<_> = guest
        .ask("list", json!({ "path": "/proc" }))
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|name| name.as_str().filter(|name| name.parse::<u32>().is_ok()))
        // The kernel's own threads have no command line, and may end before it is asked for.
        .filter_map(|process| {
            guest.call("read", json!({ "path": format!("/proc/{process}/cmdline") })).ok()
        })
        .filter(|cmdline| *cmdline != json!(""))
        .collect();
    let status = guest.read("/proc/1/status");
    let signals: Vec<_> = status
        .lines()
        .filter(|line| ["SigPnd", "ShdPnd", "SigBlk", "SigIgn"].iter().any(|s| line.starts_with(s)))
        .collect();
    // Field 7 is the controlling terminal, which would send signals.
    let stat = guest.read("/proc/1/stat");
    json!({
        "hello": guest.hello(),
        "mounts": mounts(guest),
        "mappings": mappings,
        "effects": effects,
        "programs": programs,
        "signals": signals,
        "terminal": stat.split(' ').nth(6),
        "ctrl-alt-del": guest.read("/proc/sys/kernel/ctrl-alt-del"),
        "printk": guest.read("/proc/sys/kernel/printk"),
    })
}

/// Nothing that the kernel does at a key is in its log.
#[track_caller]
fn assert_obeyed_nothing(guest: &mut Guest) {
    let log = guest.ask("kmsg", json!({}));
    let texts = log.as_array().unwrap().iter().map(|line| line["text"].as_str().unwrap());
    let obeyed: Vec<_> = texts
        .filter(|text| !text.starts_with("Kernel command line") && !text.contains("cvm-init: "))
        .filter(|text| OBEYED.iter().any(|word| text.contains(word)))
        .collect();
    assert!(obeyed.is_empty(), "{obeyed:#?}");
}

/// The kernel does at a key what it is told to, on each of the ways to type.
fn assert_keys_arrive(mut guest: Guest, follower: &Follower) {
    guest.ask("hold", json!({ "path": "/dev/hvc0" }));
    guest.ask("hold", json!({ "path": "/dev/ttyS0" }));
    follower.terminals().send_break(Line::TtyS0, b"h");
    guest.wait_serial("sysrq: HELP", LIMIT);
    follower.terminals().send(Line::Hvc0, b"\x0fw");
    guest.wait_serial("sysrq: Show Blocked State", LIMIT);
    follower.terminals().press("alt-sysrq-o");
    assert_eq!(guest.wait_ending(LIMIT), Ending::PowerOff);
}

/// Boots twice and compares: with nobody typing, on a kernel whose `SysRq` no switch switches off,
/// and with everything typed. `last` is the console that PID 1 has.
fn assert_typing_changes_nothing(last: &str) {
    let disk = Disk::builder().build();
    let vm = || Vm::of(&disk).append("cvm.log=debug").with_terminals(last);
    let mut quiet = vm().append("sysrq_always_enabled").boot();
    let silence = quiet.terminals().follow(|_, _| {});
    let wanted = facts(&mut quiet);
    assert_eq!(wanted["terminal"], "0");
    assert_keys_arrive(quiet, &silence);
    silence.finish();

    let mut guest = vm().boot();
    let storm = Arc::new(Mutex::new(Storm::default()));
    let typed = Arc::clone(&storm);
    let follower = guest
        .terminals()
        .follow(move |terminals, line| typed.lock().unwrap().line(terminals, line));
    guest.hello();
    let boot = guest.read("/proc/sys/kernel/random/boot_id");
    // A terminal that nobody has open hears nothing.
    for terminal in ["ttyS0", "hvc0", "tty1"] {
        guest.ask("hold", json!({ "path": format!("/dev/{terminal}") }));
    }
    for _ in 0..2 * SYSRQ.len() {
        // In the order in which the thread that follows the log takes them.
        let mut terminals = follower.terminals();
        let mut storm = storm.lock().unwrap();
        storm.salvo(&mut terminals);
        storm.count += 1;
    }
    assert_eq!(facts(&mut guest), wanted);
    assert_eq!(guest.read("/proc/sys/kernel/random/boot_id"), boot);
    assert_eq!(guest.read("/proc/sys/kernel/sysrq"), "0\n");
    assert_obeyed_nothing(&mut guest);
    guest.power_off();
    drop(guest);
    follower.finish();

    let salvos = std::mem::take(&mut storm.lock().unwrap().salvos);
    let parts: Vec<_> = salvos.iter().map(|(part, _)| *part).collect();
    let wanted: Vec<_> = PROGRESS.iter().map(|(_, part)| *part).collect();
    assert_eq!(parts, wanted, "one boot, from its first part to its last");
    eprintln!("salvos typed: {salvos:?}");
    assert!(salvos.iter().skip(1).all(|(_, count)| *count > 0), "{salvos:?}");
}

#[test]
fn nothing_that_is_typed_during_a_boot_changes_it() {
    assert_typing_changes_nothing("ttyS0");
}

#[test]
#[ignore = "scripts/test --all"]
fn nothing_that_is_typed_changes_a_boot_on_the_other_consoles() {
    for last in ["hvc0", "tty0"] {
        eprintln!("{last}");
        assert_typing_changes_nothing(last);
    }
}

/// Nobody can keep a machine on that has to go off.
#[test]
fn a_failed_boot_powers_off_whatever_is_typed() {
    let mut guest = Vm::new().append("cvm.log=debug").with_terminals("ttyS0").boot();
    let mut storm = Storm::default();
    let follower = guest.terminals().follow(move |terminals, line| storm.line(terminals, line));
    assert_eq!(guest.wait_ending(LIMIT), Ending::PowerOff);
    assert_eq!(guest.fatal_line(), "config: roothash= is missing");
    drop(guest);
    follower.finish();
}

/// The limit: before PID 1 runs, the keys are the kernel's, by its own default. Debian's lets them
/// reset the machine, and print nothing of what it holds. This kernel finds no first program and
/// waits for a disk that never comes: how fast a machine is does not matter.
#[test]
fn before_the_first_program_a_key_can_reset_the_machine_and_no_more() {
    let mut guest =
        Vm::new().append("rdinit=/none root=/dev/none rootwait").with_terminals("ttyS0").boot();
    let mut awaited = vec!["AT Translated Set 2 keyboard", "Waiting for root device /dev/none"];
    let follower = guest.terminals().follow(move |terminals, line| {
        let before = awaited.len();
        awaited.retain(|what| !line.contains(what));
        if awaited.is_empty() && before > 0 {
            terminals.press("alt-sysrq-p");
        }
        if line.contains("This sysrq operation is disabled") {
            terminals.press("alt-sysrq-b");
        }
    });
    assert_eq!(guest.wait_ending(LIMIT), Ending::Reset);
    let serial = guest.serial();
    assert!(serial.contains("sysrq: Resetting"), "{serial}");
    assert!(!serial.contains("cvm-init: "), "{serial}");
    drop(guest);
    follower.finish();
}
