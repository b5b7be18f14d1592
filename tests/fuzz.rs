//! The fuzzer's targets without the fuzzer: over its seeds, and over all that it ever found.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

#[expect(unreachable_pub, reason = "public for the programs that run them under the fuzzer")]
#[path = "../fuzz/src/lib.rs"]
mod fuzz;

use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name)
}

/// What lies in a folder, without the endings; nothing where there is none.
fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.map(|e| e.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

#[test]
fn every_seed_and_every_input_that_was_found_holds() {
    let mut fallen = Vec::new();
    for (name, target) in fuzz::TARGETS {
        let seeds = folder("corpus").join(name);
        assert!(!names(&seeds).is_empty(), "{name} has no seeds");
        for inputs in [seeds, folder("regressions").join(name)] {
            for input in fs::read_dir(inputs).into_iter().flatten() {
                let path = input.unwrap().path();
                let bytes = fs::read(&path).unwrap();
                if catch_unwind(|| target(&bytes)).is_err() {
                    fallen.push(path);
                }
            }
        }
    }
    assert!(fallen.is_empty(), "these inputs fail: {fallen:?}");
}

#[test]
fn every_target_has_its_program_and_every_folder_its_target() {
    let targets: BTreeSet<_> = fuzz::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(&folder("fuzz_targets")), targets);
    for inputs in ["corpus", "regressions", "dictionaries"] {
        let strangers: Vec<_> = names(&folder(inputs)).difference(&targets).cloned().collect();
        assert!(strangers.is_empty(), "of no target: {strangers:?} in fuzz/{inputs}");
    }
    let manifest = fs::read_to_string(folder("Cargo.toml")).unwrap();
    for name in targets {
        assert!(manifest.contains(&format!("\nname = \"{name}\"\n")), "{name} is not built");
    }
}
