//! The figures of `scripts/bench`: how runs become medians, tables and pictures. What is in
//! `tests/golden/bench` was made up, so that each figure can be told by hand.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod script;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use cvm_tools::bench::figures::Figures;
use cvm_tools::bench::{publish, summary};
use script::{Scratch, assert_empty, refuses, run, scratch, script, target, tool};
use serde::Deserialize as _;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const TREE: &str = env!("CARGO_MANIFEST_DIR");

fn golden(name: &str) -> PathBuf {
    Path::new(TREE).join("tests/golden/bench").join(name)
}

/// A value of each line of a golden file.
fn lines<T: DeserializeOwned>(name: &str) -> Vec<T> {
    let text = fs::read_to_string(golden(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The figures of the golden runs, as `figures.json` has them.
fn figures() -> Value {
    let made = serde_json::from_str(&fs::read_to_string(golden("facts.json")).unwrap()).unwrap();
    let figures = summary::figures(made, lines("footprints.json"), lines("runs.json")).unwrap();
    serde_json::to_value(figures).unwrap()
}

/// The same in a file.
fn figures_in(dir: &Scratch) -> PathBuf {
    let file = dir.join("figures.json");
    fs::write(&file, figures().to_string()).unwrap();
    file
}

/// The row of one way and size.
fn row<'a>(figures: &'a Value, way: &str, mib: u64) -> &'a Value {
    figures["provisioning"]
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["way"] == way && row["partition_mib"] == mib)
        .unwrap()
}

#[test]
fn runs_of_one_way_and_size_become_a_median_with_its_spread() {
    let figures = figures();
    let of_three = row(&figures, "cvm-memory", 64);
    assert_eq!(of_three["runs"], 3);
    assert_eq!(of_three["rest_us"], json!({ "median": 320_000, "min": 300_000, "max": 410_000 }));
    // Of two runs it lies between them.
    let of_two = row(&figures, "cvm-disk", 64);
    assert_eq!(
        of_two["modules_us"],
        json!({ "median": 910_000.0, "min": 890_000, "max": 930_000 })
    );
    assert_eq!(of_two["stages"][0], json!({ "stage": "modules", "us": of_two["modules_us"] }));
    assert_eq!(of_two["stages"][1]["us"]["median"], 30_000.0);
}

#[test]
fn the_shell_way_goes_on_in_a_straight_line_above_what_was_measured() {
    let figures = figures();
    let beyond = row(&figures, "shell", 20480);
    assert_eq!(beyond["extrapolated"], true);
    // 14 s at 64 MiB and 20 s at 256 MiB: 31.25 ms for each MiB.
    assert_eq!(beyond["rest_us"]["median"], 20_000_000 + (20480 - 256) * 31_250);
    assert_eq!(row(&figures, "shell", 256)["extrapolated"], false);
    // Nobody else is extrapolated, not even where a size is missing.
    let guessed = figures["provisioning"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["extrapolated"] == true && row["way"] != "shell")
        .count();
    assert_eq!(guessed, 0);
}

#[test]
fn what_a_way_does_not_tell_is_no_zero() {
    let figures = figures();
    let dracut = row(&figures, "dracut", 64);
    assert_eq!(dracut["modules_us"], Value::Null);
    assert_eq!(dracut["total_us"]["median"], 9_900_000);
    assert_eq!(row(&figures, "cvm-memory", 64)["children_peak_kib"], Value::Null);
}

#[test]
fn modules_that_load_side_by_side_count_once() {
    let figures = figures();
    // One from 1 to 801 ms, the other from 701 to 901.
    assert_eq!(row(&figures, "cvm-memory", 64)["modules_us"]["median"], 900_000);
    assert_eq!(figures["effects"][0]["doing"], "load 2 kernel modules");
    assert_eq!(figures["effects"][0]["us"]["median"], 900_000);
}

#[test]
fn a_choice_that_the_kernel_refuses_has_its_word_and_no_figures() {
    let figures = figures();
    let choice = |name| {
        let mut rows = figures["choices"].as_array().unwrap().iter();
        rows.find(|row| row["choice"] == name).unwrap()
    };
    let base = choice("base");
    assert_eq!(base["seconds"], json!({ "median": 9.1, "min": 9.0, "max": 9.2 }));
    assert_eq!(base["fio"][0]["value"]["median"], 11.0);
    assert_eq!(base["refused"], Value::Null);
    let discard = choice("discard");
    assert_eq!(discard["refused"], "Discard can be only used with internal hash");
    assert_eq!(discard["seconds"], Value::Null);
    assert_eq!(discard["fio"], json!([]));
}

#[test]
fn a_volume_that_died_under_its_writers_has_no_figure() {
    let figures = figures();
    let writers = |way| {
        let mut rows = figures["writers"].as_array().unwrap().iter();
        rows.find(|row| row["way"] == way).unwrap()
    };
    let files = json!({ "median": 1_600.0, "min": 1_500.0, "max": 1_700.0 });
    assert_eq!(writers("cvm-memory")["files_s"], files);
    assert_eq!(writers("cvm-memory")["died"], Value::Null);
    // It made 2,000 in a second, the first time.
    let died = writers("cvm-plain");
    assert_eq!(died["files_s"], Value::Null);
    assert_eq!(died["died"], "cannot make /cocos/writers.2/3/7: Read-only file system");
}

#[test]
fn the_memory_of_a_volume_is_what_the_boot_said() {
    let figures = figures();
    let memory = json!({
        "tags_memory_max": 1_572_864, "metadata_memory_max": 1_310_720, "inodes": 4_096
    });
    assert_eq!(row(&figures, "cvm-memory", 64)["memory"], memory);
    assert_eq!(row(&figures, "cvm-disk", 2_097_152)["memory"]["tags_memory_max"], Value::Null);
    assert_eq!(row(&figures, "shell", 64)["memory"], Value::Null);
}

#[test]
fn the_figures_become_the_tables_that_are_known() {
    let dir = scratch("tables");
    let file = figures_in(&dir);
    let tables = run(script("bench").arg("--from").arg(&file));
    assert_eq!(tables, fs::read_to_string(golden("tables.md")).unwrap());
}

/// The page with these figures in it.
fn page(figures: &Value, page: &str) -> String {
    publish::page(&Figures::deserialize(figures).unwrap(), page).unwrap()
}

const START: &str = "<!-- figures: written by scripts/bench --publish -->\n";
const END: &str = "<!-- figures: end -->\n";

#[test]
fn the_page_changes_between_its_markers_only() {
    let figures = figures();
    let once = page(&figures, &format!("before\n\n{START}old\n{END}\nafter\n"));
    assert!(once.starts_with(&format!("before\n\n{START}\n![")), "{once}");
    assert!(once.ends_with(&format!("\n{END}\nafter\n")), "{once}");
    assert!(once.contains(&fs::read_to_string(golden("tables.md")).unwrap()), "{once}");
    let links = once.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let beside = Path::new(TREE).join(publish::PAGE);
    let pictures: Vec<_> = links.map(|link| beside.with_file_name(link)).collect();
    let there = Path::new(TREE).join(publish::FOLDER);
    let expected = ["provisioning.svg", "timeline.svg", "data.svg"].map(|name| there.join(name));
    assert_eq!(pictures, expected);
    assert!(!once.contains("old"), "{once}");
    // And again, to the same text.
    assert_eq!(page(&figures, &once), once);
}

#[test]
fn the_page_shows_the_figures_that_are_kept() {
    let text = |name: &str| fs::read_to_string(Path::new(TREE).join(name)).unwrap();
    let kept = serde_json::from_str(&text("docs/bench/figures.json")).unwrap();
    let shown = text(publish::PAGE);
    assert_eq!(page(&kept, &shown), shown);
}

/// Publishes figures in a tree that has this page, and the scripts.
fn published_in(tree: &Path, figures: &Value, page: &str) -> Output {
    let file = tree.join("figures.json");
    fs::write(&file, figures.to_string()).unwrap();
    let place = tree.join(publish::PAGE);
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    fs::write(place, page).unwrap();
    let program = target().join("x86_64-unknown-linux-musl/release/cvm-tools");
    let mut bench = Command::new(program);
    bench
        .args(["bench", "--publish"])
        .arg("--from")
        .arg(&file)
        .env("CVM_TREE", tree)
        .output()
        .unwrap()
}

/// A tree to publish in.
fn tree(test: &str) -> Scratch {
    let tree = scratch(test);
    // Builds the program.
    run(script("bench").arg("--help"));
    symlink(Path::new(TREE).join("scripts"), tree.join("scripts")).unwrap();
    tree
}

#[test]
fn what_is_published_goes_into_the_tree_without_the_single_runs() {
    let tree = tree("published");
    let figures = figures();
    let output = published_in(&tree, &figures, &format!("{START}{END}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = |name: &str| fs::read_to_string(tree.join(name)).unwrap();
    assert_eq!(text(publish::PAGE), page(&figures, &format!("{START}{END}")));
    let kept: Value = serde_json::from_str(&text("docs/bench/figures.json")).unwrap();
    let mut expected = figures;
    assert!(!expected["all"].take().as_array().unwrap().is_empty());
    expected.as_object_mut().unwrap().remove("all");
    assert_eq!(kept, expected);
    for picture in ["provisioning", "timeline", "data"] {
        assert!(text(&format!("docs/bench/{picture}.svg")).contains("<svg"));
    }
}

#[test]
fn nothing_but_a_whole_measurement_is_published() {
    let tree = tree("partly");
    let whole = figures();
    let refused = |change: fn(&mut Value), page: &str, why: &str| {
        let mut figures = whole.clone();
        change(&mut figures);
        let output = published_in(&tree, &figures, page);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(why), "{said}");
        assert_eq!(fs::read_to_string(tree.join(publish::PAGE)).unwrap(), page);
        assert!(!tree.join(publish::FOLDER).exists());
    };
    refused(|figures| figures["made"]["quick"] = true.into(), "", "made with --quick");
    refused(|figures| figures["data"] = json!([]), "", "it lacks data");
    refused(|_| {}, "no markers\n", "are not in");
    // The other way round.
    refused(|_| {}, &format!("{END}{START}"), "are not in");
}

#[test]
fn the_same_figures_make_the_same_pictures() {
    let dir = scratch("pictures");
    let file = figures_in(&dir);
    let draw = |place: &str| {
        let out = dir.join(place);
        fs::create_dir(&out).unwrap();
        run(tool(&format!("{TREE}/scripts/bench.d/plot.py")).arg(&file).arg(&out));
        ["provisioning", "timeline", "data"]
            .map(|name| fs::read_to_string(out.join(format!("{name}.svg"))).unwrap())
    };
    let (once, again) = (draw("once"), draw("again"));
    assert!(once == again);
    for picture in &once {
        // A ground of its own, or it cannot be read on a dark page; and no date of making.
        assert!(picture.contains("fill: #ffffff"));
        assert!(!picture.contains("<dc:date>"));
    }
}

#[test]
fn a_bench_is_refused_by_what_is_wrong_with_it() {
    let dir = scratch("refused");
    refuses(script("bench").args(["--only", "luck"]), 2, "luck is nothing that is measured");
    refuses(script("bench").args(["--ways", "shell,windows"]), 2, "windows is no way to boot");
    refuses(script("bench").args(["--runs", "0"]), 2, "--runs 0 is not a number");
    refuses(script("bench").args(["--sizes", "64"]), 2, "64 is not a size");
    refuses(script("bench").args(["--sizes", "32M"]), 2, "needs 64M at least");
    for partly in [["--quick"].as_slice(), &["--only", "data"], &["--ways", "shell"]] {
        let whole_only = "--publish is for a whole measurement";
        refuses(script("bench").arg("--publish").args(partly), 2, whole_only);
    }
    refuses(script("bench").arg("--from").arg(dir.join("none")), 1, "no such file");
    assert_empty(&dir);
}
