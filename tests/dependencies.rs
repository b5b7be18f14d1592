//! What is built on: crates of crates.io alone, under licences that this project can be given on
//! under, one version of each, and no more of them in PID 1 than are named here.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

use serde_json::Value;
use spdx::{Expression, ParseMode};
use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::process::Command;

const TARGETS: [&str; 2] = ["x86_64-unknown-linux-musl", "aarch64-unknown-linux-musl"];

/// Licences (SPDX) that ask for no more than their text.
const LICENCES: &[&str] =
    &["0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "MIT", "Unicode-3.0", "Zlib"];

const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// What is there in two versions, and why.
const TWICE: &[&str] = &[
    // Macros of the igvm crates are still made with the one before.
    "syn",
];

/// What is linked into PID 1, with what those crates are made of.
const IN_PID_1: &[&str] = &[
    "base64ct",
    "bitflags",
    "block-buffer",
    "cfg-if",
    "cmov",
    "cpufeatures",
    "crypto-common",
    "ctutils",
    "digest",
    "getrandom",
    "hmac",
    "hybrid-array",
    "itoa",
    "libc",
    "linux-raw-sys",
    "log",
    "memchr",
    "pbkdf2",
    "rustix",
    "serde",
    "serde_core",
    "serde_json",
    "sha2",
    "typenum",
    "zeroize",
    "zmij",
];

/// What cargo says of the versions that are locked, without a network.
fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(arguments)
        .args(["--locked", "--offline"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn metadata(target: &str) -> Value {
    let output = cargo(&["metadata", "--format-version", "1", "--filter-platform", target]);
    serde_json::from_str(&output).unwrap()
}

/// The packages that are used for a target, by their identifiers.
fn packages(metadata: &Value) -> BTreeMap<&str, &Value> {
    let all: BTreeMap<_, _> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| (package["id"].as_str().unwrap(), package))
        .collect();
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap().iter();
    nodes.map(|node| node["id"].as_str().unwrap()).map(|id| (id, all[id])).collect()
}

/// Whether it is one of this workspace's own.
fn is_ours(package: &Value) -> bool {
    package["source"].is_null()
}

/// Why a licence may not be used, if it may not.
fn fault_of(licence: &Value) -> Option<String> {
    let Some(text) = licence.as_str() else { return Some("no licence".to_owned()) };
    // Older crates write A/B for A OR B.
    let Ok(expression) = Expression::parse_mode(text, ParseMode::LAX) else {
        return Some(format!("{text} is no expression of SPDX"));
    };
    let accepted = expression.evaluate(|wanted| {
        let name = wanted.license.id().map_or("", |id| id.name);
        wanted.addition.is_none() && LICENCES.contains(&name)
    });
    (!accepted).then(|| text.to_owned())
}

#[test]
fn a_licence_that_asks_for_more_is_found() {
    for good in ["MIT", "GPL-3.0-only OR MIT", "MIT/Apache-2.0", "Zlib AND (0BSD OR MPL-2.0)"] {
        assert_eq!(fault_of(&good.into()), None, "{good}");
    }
    for bad in ["MPL-2.0", "MIT AND GPL-2.0-only", "Apache-2.0 WITH LLVM-exception", "Mine"] {
        assert!(fault_of(&bad.into()).is_some(), "{bad}");
    }
    assert!(fault_of(&Value::Null).is_some());
}

#[test]
fn every_crate_is_from_the_registry_and_its_licence_can_be_passed_on() {
    for target in TARGETS {
        let metadata = metadata(target);
        let packages = packages(&metadata);
        assert!(packages.len() > IN_PID_1.len());
        for (id, package) in packages {
            if is_ours(package) {
                assert!(id.starts_with("path+file://"), "{id}");
            } else {
                assert_eq!(package["source"], REGISTRY, "{id}");
                assert_eq!(fault_of(&package["license"]), None, "{id}");
            }
        }
    }
}

#[test]
fn there_is_one_version_of_each_crate() {
    for target in TARGETS {
        let metadata = metadata(target);
        let mut seen = BTreeSet::new();
        let mut twice: Vec<_> = packages(&metadata)
            .values()
            .map(|package| package["name"].as_str().unwrap())
            .filter(|name| !seen.insert(*name))
            .collect();
        twice.dedup();
        assert_eq!(twice, TWICE, "{target}");
    }
}

#[test]
fn pid_1_is_made_of_the_crates_that_are_named() {
    for target in TARGETS {
        let edges =
            ["--edges", "normal,no-proc-macro", "--prefix", "none", "--package", "cvm-init"];
        let tree = cargo(&[&["tree", "--target", target][..], &edges].concat());
        let linked: BTreeSet<_> =
            tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
        let named: BTreeSet<_> = IN_PID_1.iter().copied().chain(["cvm-init"]).collect();
        assert_eq!(linked, named, "{target}");
    }
}
