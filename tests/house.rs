//! The floors of src/: what a file there may use of the others. Arrows only point down.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Each file or folder, and the modules of the program that it may name. `boot` may name all of them.
const MAY_USE: &[(&str, &[&str])] = &[
    ("src/stage", &["stage", "config", "report", "kernel", "format", "effect", "error", "fault"]),
    ("src/config", &["kernel", "format", "error"]),
    ("src/report.rs", &["effect"]),
    ("src/kernel", &["kernel", "format", "effect", "error"]),
    ("src/format", &["format", "error"]),
    ("src/fault.rs", &["kernel", "effect"]),
    ("src/effect", &["error"]),
    ("src/error.rs", &[]),
];

/// The lines below `path` that name another module of the program, with its name. Tests and comments
/// are not looked at.
fn uses(path: &Path) -> Vec<(String, String)> {
    if path.is_dir() {
        let entries = fs::read_dir(path).unwrap();
        return entries.flat_map(|entry| uses(&entry.unwrap().path())).collect();
    }
    let text = fs::read_to_string(path).unwrap();
    let program = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = program.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines
        .flat_map(|line| line.split("crate::").skip(1).map(move |rest| (line, rest)))
        .map(|(line, rest)| {
            let name = rest.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
            (format!("{}: {}", path.display(), line.trim()), name.to_owned())
        })
        .collect()
}

#[test]
fn arrows_only_point_down() {
    for (path, allowed) in MAY_USE {
        let uses = uses(&Path::new(env!("CARGO_MANIFEST_DIR")).join(path));
        let up: Vec<_> = uses.iter().filter(|(_, name)| !allowed.contains(&&**name)).collect();
        assert!(up.is_empty(), "{up:#?}");
        // The list says no more than there is.
        for name in *allowed {
            assert!(uses.iter().any(|(_, used)| used == name), "{path} uses no {name}");
        }
    }
}

/// Every `Effect::new(NAME, WORDS)` below `path`, with the file.
fn effects(path: &Path) -> Vec<(String, String)> {
    if path.is_dir() {
        let entries = fs::read_dir(path).unwrap();
        return entries.flat_map(|entry| effects(&entry.unwrap().path())).collect();
    }
    let text = fs::read_to_string(path).unwrap();
    let program = text.split("#[cfg(test)]").next().unwrap_or_default();
    let calls = program.split("Effect::new(").skip(1);
    calls
        .filter_map(|call| {
            let mut quoted = call.split('"').skip(1).step_by(2);
            Some((quoted.next()?.to_owned(), quoted.next()?.to_owned()))
        })
        .collect()
}

/// What the boot report counts together is the same thing.
#[test]
fn a_name_of_effects_stands_for_the_same_words_everywhere() {
    let mut known = BTreeMap::new();
    let effects = effects(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(effects.len() > 60, "only {} effects are found", effects.len());
    for (name, words) in effects {
        let before = known.entry(name.clone()).or_insert_with(|| words.clone());
        assert_eq!(*before, words, "{name}");
    }
}
