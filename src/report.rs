//! What a boot did and how long it took: `/run/cvm-init/boot.json`.

use std::fmt;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::effect;

/// A part of the boot, as the fatal line and the report name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Pseudo file systems, kernel log, modules.
    Platform,
    /// The kernel command line.
    Config,
    /// The disk that proves the root hash.
    Disk,
    /// The verified root.
    Root,
    /// The encrypted volume.
    Volume,
    /// Mounts of the new root.
    Runtime,
    /// The way to the new init.
    Handoff,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Platform => "platform",
            Self::Config => "config",
            Self::Disk => "disk",
            Self::Root => "root",
            Self::Volume => "volume",
            Self::Runtime => "runtime",
            Self::Handoff => "handoff",
        })
    }
}

/// The report, as it grows from stage to stage.
#[derive(Debug)]
pub struct Report {
    start: Instant,
    stages: Vec<(Stage, Duration)>,
    facts: Map<String, Value>,
}

impl Report {
    /// Begins now.
    #[must_use]
    pub fn begin() -> Self {
        Self {
            start: Instant::now(),
            stages: Vec::new(),
            facts: Map::new(),
        }
    }

    /// Notes how long a stage took.
    pub fn stage(&mut self, stage: Stage, took: Duration) {
        self.stages.push((stage, took));
    }

    /// Notes what a stage found or made.
    pub fn fact(&mut self, name: &str, value: Value) {
        self.facts.insert(name.to_owned(), value);
    }

    /// The whole report, with the stage that is about to end it and began at `began`. All times
    /// are in microseconds, sizes as the names of their fields say.
    #[must_use]
    pub fn finish(&self, last: Stage, began: Instant, peak_memory_kib: Option<u64>) -> String {
        let now = Instant::now();
        let mut stages = self.stages.clone();
        stages.push((last, now.duration_since(began)));
        let stages: Vec<_> = stages
            .iter()
            .map(|(stage, took)| json!({ "stage": stage.to_string(), "us": us(*took) }))
            .collect();
        let effects: Vec<_> = effect::entries()
            .iter()
            .map(|entry| json!({ "doing": entry.doing, "us": us(entry.took) }))
            .collect();
        let mut report = self.facts.clone();
        report.insert("version".into(), env!("CARGO_PKG_VERSION").into());
        report.insert("total_us".into(), us(now.duration_since(self.start)).into());
        report.insert("peak_memory_kib".into(), peak_memory_kib.into());
        report.insert("stages".into(), stages.into());
        report.insert("effects".into(), effects.into());
        format!("{:#}\n", Value::Object(report))
    }
}

fn us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_holds_stages_in_order_and_facts() {
        let mut report = Report::begin();
        report.stage(Stage::Platform, Duration::from_micros(7));
        report.fact("disk", json!({ "name": "sda" }));
        let text = report.finish(Stage::Handoff, Instant::now(), Some(2048));
        let report: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(report["stages"][0], json!({ "stage": "platform", "us": 7 }));
        assert_eq!(report["stages"][1]["stage"], "handoff");
        assert_eq!(report["disk"]["name"], "sda");
        assert_eq!(report["peak_memory_kib"], 2048);
    }
}
