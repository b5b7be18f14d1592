//! The figures of `scripts/bench`: how runs become medians, tables and pictures. What is in
//! `tests/golden/bench` was made up, so that each figure can be told by hand.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod script;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use script::{Scratch, assert_empty, refuses, run, scratch, script, tool};
use serde_json::{Value, json};

const TREE: &str = env!("CARGO_MANIFEST_DIR");

fn golden(name: &str) -> PathBuf {
    Path::new(TREE).join("tests/golden/bench").join(name)
}

fn part(name: &str) -> Command {
    tool(&format!("{TREE}/scripts/bench.d/{name}"))
}

/// The figures of the golden runs, and a file that holds them.
fn figures(dir: &Scratch) -> (Value, PathBuf) {
    let text = run(part("figures.py")
        .arg(golden("facts.json"))
        .arg(golden("footprints.json"))
        .arg(golden("runs.json")));
    let file = dir.join("figures.json");
    fs::write(&file, &text).unwrap();
    (serde_json::from_str(&text).unwrap(), file)
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
    let (figures, _) = figures(&scratch("median"));
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
    let (figures, _) = figures(&scratch("line"));
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
    let (figures, _) = figures(&scratch("untold"));
    let dracut = row(&figures, "dracut", 64);
    assert_eq!(dracut["modules_us"], Value::Null);
    assert_eq!(dracut["total_us"]["median"], 9_900_000);
    assert_eq!(row(&figures, "cvm-memory", 64)["children_peak_kib"], Value::Null);
}

#[test]
fn modules_that_load_side_by_side_count_once() {
    let (figures, _) = figures(&scratch("side"));
    // One from 1 to 801 ms, the other from 701 to 901.
    assert_eq!(row(&figures, "cvm-memory", 64)["modules_us"]["median"], 900_000);
    assert_eq!(figures["effects"][0]["doing"], "load 2 kernel modules");
    assert_eq!(figures["effects"][0]["us"]["median"], 900_000);
}

#[test]
fn a_choice_that_the_kernel_refuses_has_its_word_and_no_figures() {
    let (figures, _) = figures(&scratch("refusal"));
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
    let (figures, _) = figures(&scratch("writers"));
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
    let (figures, _) = figures(&scratch("memory"));
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
    let (_, file) = figures(&dir);
    let tables = run(script("bench").arg("--from").arg(&file));
    assert_eq!(tables, fs::read_to_string(golden("tables.md")).unwrap());
}

#[test]
fn the_page_changes_between_its_markers_only() {
    let dir = scratch("page");
    let (_, file) = figures(&dir);
    let page = dir.join("figures.md");
    let (start, end) =
        ("<!-- figures: written by scripts/bench --publish -->\n", "<!-- figures: end -->\n");
    fs::write(&page, format!("before\n\n{start}old\n{end}\nafter\n")).unwrap();
    run(part("tables.py").arg(&file).arg(&page));
    let once = fs::read_to_string(&page).unwrap();
    assert!(once.starts_with(&format!("before\n\n{start}")), "{once}");
    assert!(once.ends_with(&format!("\n{end}\nafter\n")), "{once}");
    assert!(once.contains(&fs::read_to_string(golden("tables.md")).unwrap()), "{once}");
    assert!(once.contains("](bench/provisioning.svg)"), "{once}");
    assert!(!once.contains("old"), "{once}");
    // And again, to the same text.
    run(part("tables.py").arg(&file).arg(&page));
    assert_eq!(fs::read_to_string(&page).unwrap(), once);
}

#[test]
fn the_page_shows_the_figures_that_are_kept() {
    let dir = scratch("kept");
    let [shown, again] = [Path::new(TREE).join("docs/figures.md"), dir.join("figures.md")];
    fs::copy(&shown, &again).unwrap();
    run(part("tables.py").arg(Path::new(TREE).join("docs/bench/figures.json")).arg(&again));
    assert_eq!(fs::read_to_string(again).unwrap(), fs::read_to_string(shown).unwrap());
}

#[test]
fn nothing_but_a_whole_measurement_is_published() {
    let dir = scratch("partly");
    let (whole, file) = figures(&dir);
    let page = dir.join("figures.md");
    let refused = |change: fn(&mut Value), page_text: &str, why: &str| {
        let mut figures = whole.clone();
        change(&mut figures);
        fs::write(&file, figures.to_string()).unwrap();
        fs::write(&page, page_text).unwrap();
        let output = part("tables.py").arg(&file).arg(&page).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(why), "{said}");
        assert_eq!(fs::read_to_string(&page).unwrap(), page_text);
    };
    refused(|figures| figures["made"]["quick"] = true.into(), "", "made with --quick");
    refused(|figures| figures["data"] = json!([]), "", "it lacks data");
    refused(|_| {}, "no markers\n", "are not there");
    // The other way round.
    refused(
        |_| {},
        "<!-- figures: end -->\n<!-- figures: written by scripts/bench --publish -->\n",
        "are not there",
    );
}

#[test]
fn the_same_figures_make_the_same_pictures() {
    let dir = scratch("pictures");
    let (_, file) = figures(&dir);
    let draw = |place: &str| {
        let out = dir.join(place);
        fs::create_dir(&out).unwrap();
        run(part("plot.py").arg(&file).arg(&out));
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
