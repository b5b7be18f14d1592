//! SECURITY.md: what it cites is there.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const TREE: &str = env!("CARGO_MANIFEST_DIR");

fn document() -> String {
    fs::read_to_string(Path::new(TREE).join("SECURITY.md")).unwrap()
}

/// What stands between backticks and is a path of a test: `target::module::test`.
fn citations(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2).filter(|words| {
        words.contains("::") && words.chars().all(|c| c == ':' || c == '_' || c.is_alphanumeric())
    })
}

/// The files that a module of a test target may be.
fn files(target: &str, modules: &[&str]) -> Vec<PathBuf> {
    let (folder, root) = match target {
        "lib" => (PathBuf::from("src"), "lib.rs"),
        "tools" => (PathBuf::from("tools/src"), "lib.rs"),
        target => (Path::new("tests").join(target), "main.rs"),
    };
    let module: PathBuf = modules.iter().filter(|module| **module != "tests").collect();
    if module == Path::new("") {
        return vec![folder.join(root), folder.with_extension("rs")];
    }
    let path = folder.join(module);
    let part_of_tests = modules.iter().fold(folder, |path, part| path.join(part));
    vec![
        path.with_extension("rs"),
        path.join("mod.rs"),
        path.join("tests.rs"),
        part_of_tests.with_extension("rs"),
    ]
}

/// Why a test may be left out: `scripts/test --all` runs it.
const LONG: &str = "scripts/test --all\"]";

/// Whether a source has this test, one that `scripts/test` runs, if with `--all` only.
fn has_test(source: &str, name: &str) -> bool {
    let head = format!("fn {name}(");
    let lines: Vec<_> = source.lines().map(str::trim_start).collect();
    lines.iter().enumerate().filter(|(_, line)| line.starts_with(&head)).any(|(at, _)| {
        let above = lines.iter().take(at).rev();
        let attributes: Vec<_> = above.take_while(|line| line.starts_with(['#', '/'])).collect();
        let mut left_out = attributes.iter().filter(|a| a.starts_with("#[ignore"));
        attributes.contains(&&"#[test]") && left_out.all(|reason| reason.ends_with(LONG))
    })
}

fn exists(citation: &str) -> bool {
    let path: Vec<_> = citation.split("::").collect();
    let [target, modules @ .., name] = path.as_slice() else {
        return false;
    };
    files(target, modules).iter().any(|file| {
        fs::read_to_string(Path::new(TREE).join(file)).is_ok_and(|source| has_test(&source, name))
    })
}

#[test]
fn every_test_that_it_cites_exists() {
    let document = document();
    let cited: BTreeSet<_> = citations(&document).collect();
    assert!(cited.len() > 40, "only {} citations are found", cited.len());
    let missing: Vec<_> = cited.iter().filter(|citation| !exists(citation)).collect();
    assert!(missing.is_empty(), "SECURITY.md cites tests that do not exist: {missing:?}");
}

#[test]
fn what_does_not_exist_is_seen() {
    for citation in [
        "vm::good::no_such_test",
        "vm::nowhere::a_disk_and_its_root_hash_are_enough",
        "lib::format::verity::tests::superblock", // no test, but a function
    ] {
        assert!(!exists(citation), "{citation}");
    }
}

/// The rows of the table that begins with a cell of this text, cell by cell.
fn tables<'a>(document: &'a str, first: &str) -> Vec<Vec<&'a str>> {
    let mut rows = Vec::new();
    let mut within = false;
    for line in document.lines() {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let head = cells.first().is_some_and(|cell| *cell == first);
        within = line.starts_with('|') && (within || head);
        if within && !head && !line.starts_with("|-") {
            rows.push(cells);
        }
    }
    rows
}

#[test]
fn every_claim_has_a_test() {
    let document = document();
    let claims = tables(&document, "claim");
    assert!(claims.len() > 20, "only {} claims are found", claims.len());
    for claim in claims {
        let held = claim.get(1).is_some_and(|tests| citations(tests).next().is_some());
        assert!(held, "no test holds {claim:?}");
    }
}

#[test]
fn every_target_of_the_fuzzer_has_its_figures() {
    let document = document();
    let rows: BTreeSet<_> = tables(&document, "target")
        .iter()
        .map(|row| row.first().unwrap().trim_matches('`').to_owned())
        .collect();
    let programs = fs::read_dir(Path::new(TREE).join("fuzz/fuzz_targets")).unwrap();
    let programs: BTreeSet<_> = programs
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(rows, programs);
}
