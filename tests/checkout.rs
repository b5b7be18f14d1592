//! One checkout: its scripts find each other from wherever they are called, and of those that work
//! in its target folder one run waits for the other.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod script;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use script::{run, scratch, script, target};

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts");

/// Each script that a person runs: all files of `scripts/` that may be.
fn names() -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(SCRIPTS)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.metadata().unwrap().permissions().mode() & 0o111 != 0)
        .filter(|entry| entry.path().is_file())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(names.len() > 10, "{names:?}");
    names
}

#[test]
fn a_script_finds_the_others_from_everywhere() {
    let dir = scratch("from everywhere");
    for name in names() {
        let usage = format!("usage: scripts/{name}");
        let help = |command: &mut Command| {
            let said = run(command.arg("--help"));
            assert!(said.starts_with(&usage), "{command:?}: {said}");
        };
        help(Command::new("bash").arg(&name).current_dir(SCRIPTS));
        help(Command::new(format!("./{name}")).current_dir(SCRIPTS));
        // A link to a link, one of them relative.
        symlink(Path::new(SCRIPTS).join(&name), dir.join("first")).unwrap();
        symlink("first", dir.join("second")).unwrap();
        help(Command::new("./second").current_dir(&*dir));
        help(Command::new("bash").arg("second").current_dir(&*dir));
        // What it says of itself names the script, not the link.
        let output = Command::new(dir.join("second")).arg("--colour").output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.starts_with(&format!("scripts/{name}: ")), "{said}");
        for link in ["first", "second"] {
            fs::remove_file(dir.join(link)).unwrap();
        }
    }
}

/// What stands for a step of a script: it notes that it began, and fails when the gate is open, or
/// when nobody opens it.
const GATE: &str = r#"#!/bin/sh
case " $* " in *" --version "*) exit ;; esac
echo began >>"$GATE/log"
for try in $(seq 300); do [ ! -e "$GATE/open" ] || exit 1; sleep 0.1; done
exit 1
"#;

/// Runs of one script in a copy of the checkout's scripts.
struct Runs<'a> {
    dir: &'a Path,
    script: &'a str,
    arguments: &'a [&'a str],
}

impl<'a> Runs<'a> {
    /// Of a checkout that has a kernel, and stands for steps that go well at these paths.
    fn of(dir: &'a Path, script: &'a str, arguments: &'a [&'a str], good: &[&str]) -> Self {
        let runs = Self { dir, script, arguments };
        run(Command::new("cp").arg("-r").arg(SCRIPTS).arg(dir));
        fs::create_dir_all(dir.join("bin")).unwrap();
        fs::create_dir_all(dir.join("target/kernel")).unwrap();
        for (file, text) in [("release", "6\n"), ("vmlinux", "")] {
            fs::write(dir.join("target/kernel").join(file), text).unwrap();
        }
        for path in good {
            runs.program(path, "#!/bin/sh\n");
        }
        runs
    }

    /// Puts a program into a folder of `dir`: a tool, or another script in place of the real one.
    fn program(&self, path: &str, text: &str) {
        let path = self.dir.join(path);
        let _ = fs::remove_file(&path);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    }

    /// Has the program that cargo, of which there is a stand-in, would have built.
    fn have_tools(&self) {
        run(script("bench").arg("--help"));
        let program = Path::new("x86_64-unknown-linux-musl/release/cvm-tools");
        let place = self.dir.join("target").join(program);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::copy(target().join(program), place).unwrap();
    }

    /// Starts one, with what it says in a file of this name.
    fn start(&self, log: &str) -> Child {
        let path = std::env::var("PATH").unwrap();
        Command::new("/usr/bin/env")
            .arg("--default-signal")
            .arg(self.dir.join("scripts").join(self.script))
            .args(self.arguments)
            .env("PATH", format!("{}:{path}", self.dir.join("bin").display()))
            .env("CARGO_TARGET_DIR", self.dir.join("target"))
            .env("GATE", self.dir)
            .stderr(File::create(self.dir.join(log)).unwrap())
            .spawn()
            .unwrap()
    }

    /// Waits until a file has this in it.
    fn until(&self, file: &str, text: &str) {
        let end = Instant::now() + Duration::from_secs(30);
        let said = || fs::read_to_string(self.dir.join(file)).unwrap_or_default();
        while !said().contains(text) {
            assert!(Instant::now() < end, "no {text:?} in {file} of {}: {}", self.script, said());
            sleep(Duration::from_millis(50));
        }
    }

    fn began(&self) -> usize {
        fs::read_to_string(self.dir.join("log")).unwrap().lines().count()
    }
}

#[test]
fn of_a_script_that_works_in_target_one_run_waits_for_the_other() {
    #[rustfmt::skip]
    let rows: &[(&str, &[&str], &[&str], &str)] = &[
        ("kernel", &[], &["bin/apt-get"], "bin/apt-cache"),
        // It runs scripts/kernel, which has a kernel.
        ("debian-root", &[], &[], "bin/xargs"),
        ("boot", &["--check"], &["scripts/setup", "scripts/debian-root", "bin/cargo"], "scripts/initramfs"),
        ("bench", &[], &["scripts/setup", "bin/cargo"], "scripts/dracut-initramfs"),
        ("fuzz", &[], &["bin/rustup"], "bin/cargo"),
    ];
    for &(name, arguments, good, gate) in rows {
        let dir = scratch(&format!("waits {name}"));
        let runs = Runs::of(&dir, name, arguments, good);
        if name == "kernel" {
            fs::remove_file(dir.join("target/kernel/vmlinux")).unwrap();
        }
        runs.program(gate, GATE);
        if name == "bench" {
            runs.have_tools();
        }

        let mut first = runs.start("first");
        runs.until("log", "began");
        let waiting = format!("scripts/{name}: waiting for another scripts/{name} to end");
        let mut second = runs.start("second");
        runs.until("second", &waiting);
        // Whoever waits can be told not to.
        let id = Pid::from_raw(second.id().cast_signed()).unwrap();
        kill_process(id, Signal::TERM).unwrap();
        assert_eq!(second.wait().unwrap().code(), Some(143));
        let mut third = runs.start("third");
        runs.until("third", &waiting);
        assert_eq!(runs.began(), 1, "{name}");

        fs::write(dir.join("open"), "").unwrap();
        assert!(!first.wait().unwrap().success());
        assert!(!third.wait().unwrap().success());
        assert!(runs.began() > 1, "{name}");
    }
}

/// Root of the demo has no password.
#[test]
fn the_demo_forwards_ports_of_this_host_alone_and_says_when_its_guest_refuses() {
    let dir = scratch("demo");
    let good = ["setup", "debian-root", "initramfs", "image"].map(|name| format!("scripts/{name}"));
    let good: Vec<_> = good.iter().map(String::as_str).chain(["bin/cargo"]).collect();
    let runs = Runs::of(&dir, "boot", &["--check"], &good);
    runs.program(
        "scripts/qemu",
        "#!/bin/sh\necho the console\necho \" $* \" >\"$GATE/args\"\nexit 3\n",
    );
    assert_eq!(runs.start("said").wait().unwrap().code(), Some(1));
    let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
    assert!(read("args").contains(" --listen 127.0.0.1 "), "{}", read("args"));
    assert_eq!(read("target/boot/serial.log"), "the console\n");
    let said = read("said");
    assert!(said.ends_with("\nscripts/boot: the guest refused to boot\n"), "{said}");
}
