//! The program that a boot ends in: what is wrong with it is told before anything is made, and a
//! host that keeps it back cannot keep the machine on.

use crate::kit::artefacts;
use crate::kit::disk::{Disk, Part};
use crate::kit::kernel::Arch;
use crate::kit::root::{Builder, Node, Root};
use crate::kit::vm::Vm;
use crate::refused::{PINNED, refusal_that_writes_nothing};
use std::fs;
use std::sync::OnceLock;

/// A program that asks for a loader, which the root lacks.
const DYNAMIC: &str = "/bin/true";

/// Its loader, as its section `.interp` has it.
const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";

/// A root with programs of all kinds in /usr/bin.
fn root() -> &'static Root {
    static ROOT: OnceLock<Root> = OnceLock::new();
    ROOT.get_or_init(|| {
        let program = |name: &str, content: &[u8]| {
            Node::file(&format!("usr/bin/{name}"), content).mode(0o755)
        };
        let mut of_another_machine = fs::read(artefacts::agent(Arch::X86)).unwrap();
        of_another_machine.splice(18..20, [183, 0]);
        [
            Node::directory("usr/bin"),
            program("text", b"echo no program\n"),
            program("without-shell", b"#!/bin/bash\n"),
            program("from-windows", b"#!/usr/lib/agent/init\r\n"),
            program("itself", b"#!/usr/bin/itself\n"),
            program("dynamic", &fs::read(DYNAMIC).unwrap()),
            program("of-another-machine", &of_another_machine),
            program("script", b"#! /usr/bin/other-script\n"),
            program("other-script", b"#!/usr/sbin/init with\n"),
            Node::link("usr/bin/in-var", "../../var/lib/init"),
            Node::directory("var/lib"),
            Node::file("var/lib/init", "#!/usr/lib/agent/init\n").mode(0o755),
        ]
        .into_iter()
        .fold(Root::builder(), Builder::with)
        .build()
    })
}

/// What is said of a program of that root.
#[track_caller]
fn said_of(program: &str) -> String {
    let disk = Disk::builder().root(root()).build();
    let vm = Vm::of(&disk).append(PINNED).append(&format!("init=/usr/bin/{program}"));
    refusal_that_writes_nothing(vm, &disk)
}

#[test]
fn a_text_is_no_program() {
    assert_eq!(
        said_of("text"),
        "root: cannot recognize /usr/bin/text as a program: it begins neither with \"#!\" nor as \
         an ELF file does"
    );
}

#[test]
fn a_script_whose_interpreter_is_missing() {
    assert_eq!(
        said_of("without-shell"),
        "root: cannot find the interpreter /bin/bash of /usr/bin/without-shell in the root: \
         No such file or directory (os error 2)"
    );
}

#[test]
fn a_script_with_line_ends_of_windows() {
    assert_eq!(
        said_of("from-windows"),
        "root: cannot find the interpreter \"/usr/lib/agent/init\\r\" of /usr/bin/from-windows in \
         the root: No such file or directory (os error 2) (the line that names it ends with a \
         carriage return)"
    );
}

#[test]
fn a_script_that_is_run_by_itself() {
    assert_eq!(
        said_of("itself"),
        "root: /usr/bin/itself is run by a script, and so on more than 5 times"
    );
}

#[test]
fn a_program_whose_loader_is_missing() {
    assert_eq!(
        said_of("dynamic"),
        format!(
            "root: cannot find the interpreter {LOADER} of /usr/bin/dynamic in the root: \
             No such file or directory (os error 2)"
        )
    );
}

#[test]
fn a_program_of_another_machine() {
    assert_eq!(
        said_of("of-another-machine"),
        "root: cannot recognize /usr/bin/of-another-machine as a program: it is for another \
         machine: its ELF class, byte order and machine are 2, 1 and 183, not 2, 1 and 62"
    );
}

/// It is there now, and when it is to be run a new file system lies over it.
#[test]
fn a_link_to_what_will_be_mounted_over() {
    assert_eq!(
        said_of("in-var"),
        "root: cannot find /usr/bin/in-var in the root: /var/lib/init lies below /var, which is \
         mounted over before init is run"
    );
}

/// A script that is run by a script that is run by a link to a program.
#[test]
fn a_script_boots() {
    let disk = Disk::builder().root(root()).build();
    let mut guest = Vm::of(&disk).append("init=/usr/bin/script -- end").boot();
    assert_eq!(
        guest.hello()["arguments"],
        serde_json::json!([
            "/usr/sbin/init",
            "with",
            "/usr/bin/other-script",
            "/usr/bin/script",
            "end"
        ])
    );
    assert!(disk.read(Part::Cocos, 0, 4) == b"LUKS");
    guest.power_off();
}
