//! What the documents tell of code and figures.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::page::{read, rows};

#[test]
fn the_table_of_the_command_line_has_every_key() {
    let source = read("src/config/keys.rs");
    // Rows of keys and of marks: ("NAME", |...
    let known: BTreeSet<_> = source
        .split("(\"")
        .skip(1)
        .filter_map(|rest| rest.split_once('"'))
        .filter(|(_, rest)| rest.starts_with(", |"))
        .map(|(name, _)| name.to_owned())
        .collect();
    assert!(known.len() > 30, "only {known:?} are found");

    let table = rows(&read("docs/command-line.md"), "key");
    let told: BTreeSet<_> = table
        .iter()
        .flat_map(|row| row.first().unwrap().split('`').skip(1).step_by(2))
        // A parameter of any module.
        .filter(|key| *key != "NAME.PARAMETER=")
        .filter_map(|key| key.split('=').next())
        .map(str::to_owned)
        .collect();
    assert_eq!(told, known);
}

/// With a comma behind each three digits.
fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The figure at a place of the first row of a section that has all these fields.
fn figure(figures: &Value, section: &str, fields: &Value, place: &str) -> f64 {
    let is_it = |row: &&Value| {
        fields.as_object().unwrap().iter().all(|(name, value)| row.get(name) == Some(value))
    };
    let row = figures[section].as_array().unwrap().iter().find(is_it);
    let row = row.unwrap_or_else(|| panic!("no {fields} in {section}"));
    row.pointer(place).unwrap().as_f64().unwrap()
}

#[test]
fn the_three_figures_of_readme_are_those_that_are_kept() {
    let figures: Value = serde_json::from_str(&read("docs/bench/figures.json")).unwrap();
    let boot = |way: &str| {
        let fields = serde_json::json!({ "way": way, "partition_mib": 64 });
        thousands(figure(&figures, "provisioning", &fields, "/total_us/median") / 1e3)
    };
    let size = |initramfs: &str| {
        let fields = serde_json::json!({ "initramfs": initramfs, "modules": true });
        thousands(figure(&figures, "footprints", &fields, "/packed_bytes") / 1024.0)
    };
    let written = |way: &str| {
        let fields = serde_json::json!({ "way": way, "job": "sequential-write" });
        format!("{:.1}", figure(&figures, "data", &fields, "/value/median"))
    };
    let told = rows(&read("README.md"), "figure");
    let [times, sizes, speeds] = &told[..] else { panic!("three rows are wanted: {told:?}") };
    let dracut = format!("{}, without a volume", boot("dracut"));
    assert_eq!(times.get(1..), Some(&[boot("cvm-memory"), boot("tuned"), dracut][..]));
    assert_eq!(sizes.get(1..), Some(&["cvm-init", "shell", "dracut"].map(size)[..]));
    let [ours, theirs] = ["cvm-memory", "tuned"].map(written);
    assert_eq!(speeds.get(1..), Some(&[ours, theirs, "-".to_owned()][..]));
    let label = speeds.first().unwrap();
    assert!(label.ends_with(&format!("without integrity: {}", written("cvm-plain"))), "{label}");
}
