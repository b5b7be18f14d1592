//! What the demo's Debian reports of its boot: `scripts/demo-root/usr/lib/demo/report`.

use std::collections::BTreeMap;
use std::io::{self, Read as _};

use cvm_init::error::{Error, Result};
use serde_json::{Map, Value, json};
use tar::Archive;

use super::guest::Moments;

/// Its files by their names.
struct Report(BTreeMap<String, String>);

/// What is kept of a boot, when it was a good one.
pub(super) fn whole(facts: Map<String, Value>, disk: Moments, report: &[u8]) -> Result<Value> {
    let report = Report::read(report)
        .map_err(|cause| Error::cannot(&"use what the guest reported", &cause))?;
    let of = |name: &str| {
        let missing = || Error::new(format!("the guest did not report its {name}"));
        report.0.get(name).map(|text| text.trim_end()).ok_or_else(missing)
    };
    of("whole")?;
    match of("multi-user")? {
        "active" => {}
        state => return Err(Error::new(format!("not a good boot: multi-user.target is {state}"))),
    }
    let missing = |what: &str| Error::new(format!("the guest did not tell {what}"));
    let uptime_us = hundredths(of("uptime")?).map(|hundredths| hundredths * 10_000);
    let opened_us = disk.get("open").and_then(|open| open.get("at_us")?.as_i64());
    let before_us = opened_us.zip(uptime_us).map(|(opened, uptime)| opened - uptime);
    let multi_user_us: Option<i64> = of("multi-user.us")?.parse().ok().filter(|&us| us > 0);
    let mut run = facts;
    for (name, value) in [
        ("before_us", json!(before_us.ok_or_else(|| missing("how long it ran"))?)),
        ("multi_user_us", json!(multi_user_us.ok_or_else(|| missing("when it was through"))?)),
        ("failed", json!(of("failed.list")?.lines().count())),
        ("stamps", json!(stamps(of("trace")?))),
        ("disk", disk.into()),
    ] {
        run.insert(name.to_owned(), value);
    }
    Ok(run.into())
}

impl Report {
    fn read(tar: &[u8]) -> io::Result<Self> {
        let mut files = BTreeMap::new();
        for entry in Archive::new(tar).entries()? {
            let mut entry = entry?;
            let name = entry.path()?.display().to_string();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            let name = name.strip_prefix("./").unwrap_or(&name).to_owned();
            files.insert(name, String::from_utf8_lossy(&bytes).into_owned());
        }
        Ok(Self(files))
    }
}

/// Of a second: proc(5), `/proc/uptime`.
fn hundredths(uptime: &str) -> Option<i64> {
    let (seconds, rest) = uptime.split_whitespace().next()?.split_once('.')?;
    let hundredths: u8 = rest.parse().ok().filter(|_| rest.len() == 2)?;
    Some(i64::from(seconds.parse::<u32>().ok()?) * 100 + i64::from(hundredths))
}

/// When PID 1 became `/init`, and when it became the new init, which it stayed:
///
/// ```text
/// init-1  [001] .....  1.641786: sched_process_exec: filename=/init pid=1 old_pid=1
/// ```
fn stamps(trace: &str) -> String {
    let of_pid_1 = trace.lines().filter_map(|line| {
        let (before, event) = line.split_once(": sched_process_exec: ")?;
        event.contains(" pid=1 ").then(|| before.rsplit(' ').next()).flatten()
    });
    let all: Vec<_> = of_pid_1.collect();
    let ends: Vec<_> = all.first().into_iter().chain(all.last()).copied().collect();
    ends.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "# tracer: nop\n\
        \x20          <...>-1       [000] .....     2.500000: sched_process_exec: filename=/init pid=1 old_pid=1\n\
        \x20           init-99      [001] .....     2.600000: sched_process_exec: filename=/bin/mkfs.ext4 pid=99 old_pid=99\n\
        \x20           init-1       [001] .....     3.100000: sched_process_exec: filename=/bin/switch_root pid=1 old_pid=1\n\
        \x20    switch_root-1       [001] .....     3.250000: sched_process_exec: filename=/sbin/init pid=1 old_pid=1\n";

    const FILES: &[(&str, &str)] = &[
        ("./failed.list", "docker.service loaded failed failed Docker\n"),
        ("./multi-user", "active\n"),
        ("./multi-user.us", "20000000\n"),
        ("./trace", TRACE),
        ("./uptime", "30.25 40.00\n"),
        ("whole", "yes\n"),
    ];

    fn tar(files: &[(&str, &str)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, text) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            tar.append_data(&mut header, name, text.as_bytes()).unwrap();
        }
        tar.into_inner().unwrap()
    }

    fn judged(files: &[(&str, &str)]) -> Result<Value> {
        let moments = json!({ "open": { "at_us": 36_000_000 } });
        whole(Map::new(), moments.as_object().unwrap().clone(), &tar(files))
    }

    #[test]
    fn what_was_before_the_kernel_is_what_its_clock_does_not_know() {
        let run = judged(FILES).unwrap();
        assert_eq!(
            (&run["before_us"], &run["multi_user_us"]),
            (&json!(5_750_000), &json!(20_000_000))
        );
        assert_eq!((&run["stamps"], &run["failed"]), (&json!("2.500000 3.250000"), &json!(1)));
    }

    #[test]
    fn a_boot_that_tells_too_little_is_none_to_count() {
        for (name, text, why) in [
            ("./multi-user", "activating\n", "multi-user.target is activating"),
            ("./multi-user.us", "0\n", "when it was through"),
            ("./uptime", "30\n", "how long it ran"),
        ] {
            let changed: Vec<_> = FILES
                .iter()
                .map(|file| if file.0 == name { (name, text) } else { *file })
                .collect();
            let said = judged(&changed).unwrap_err().to_string();
            assert!(said.contains(why), "{said}");
        }
        for (place, (name, _)) in FILES.iter().enumerate() {
            let mut fewer = FILES.to_vec();
            fewer.remove(place);
            let said = judged(&fewer).unwrap_err().to_string();
            assert!(said.ends_with(name.trim_start_matches("./")), "{said}");
        }
    }
}
