//! One checkout: its scripts find each other from wherever they are called.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod script;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use script::{run, scratch};

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
