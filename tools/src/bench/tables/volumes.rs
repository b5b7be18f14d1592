//! Tables of what volumes do.

use super::text::{Columns, NONE, figure, grid, grouped, paragraph, table};
use crate::bench::figures::{Figures, OfVolume, Throughput, Unpacking, Volume, Writing};

/// What is tried in `scripts/bench.d/guest/choices`.
const CHOICES: &[(&str, &str)] = &[
    ("base", "as cvm-init does it"),
    ("metadata-on-disk", "metadata on the disk, no journal"),
    ("no-journal", "no journal"),
    ("journal-4", "a journal of 4 MiB"),
    ("journal-16", "a journal of 16 MiB"),
    ("journal-64", "a journal of 64 MiB"),
    ("ordered", "`data=ordered`"),
    ("fast-commit", "`fast_commit`"),
    ("relatime", "times of access, `relatime`"),
    ("barrier", "with flushes, `barrier`"),
    ("workqueues", "dm-crypt `no_read_workqueue no_write_workqueue`"),
    ("discard", "`discard`, dm-crypt and dm-integrity `allow_discards`"),
];

/// How a volume is called.
fn title(volume: &Volume) -> String {
    let Some(cipher) = &volume.cipher else { return volume.way.title().to_owned() };
    let integrity = volume.integrity.as_deref().unwrap_or_default();
    let place = match volume.tags.as_deref() {
        _ if integrity == "none" => "",
        Some("memory") => ", tags in memory",
        _ => ", tags on disk",
    };
    let integrity = if integrity == "aead" { String::new() } else { format!(" {integrity}") };
    format!("`{cipher}{integrity}`{place}")
}

/// Each once, in the order of their first.
fn unique<T: PartialEq>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen = Vec::new();
    for each in all {
        if !seen.contains(&each) {
            seen.push(each);
        }
    }
    seen
}

/// The name of a job of fio's, and what it is counted in.
type Job<'a> = (&'a str, &'a str);

fn jobs<'a>(all: impl Iterator<Item = &'a Throughput>) -> Vec<Job<'a>> {
    unique(all.map(|each| (&*each.job, &*each.unit)))
}

fn heads(jobs: &[Job]) -> impl Iterator<Item = String> {
    jobs.iter().map(|(job, unit)| format!("{}, {unit}", job.replace('-', " ")))
}

/// A cell for each job, of what there is of that volume.
fn cells<'a>(jobs: &[Job], there: &(impl Iterator<Item = &'a Throughput> + Clone)) -> Vec<String> {
    let value = |job| there.clone().find(|each| each.job == job).map(|each| each.value);
    jobs.iter().map(|(job, _)| figure(value(*job), 1.0)).collect()
}

pub(super) fn data(figures: &Figures) -> String {
    let rows = &figures.data;
    if rows.is_empty() {
        return String::new();
    }
    let jobs = jobs(rows.iter().map(|row| &row.figure));
    let lines = unique(rows.iter().map(|row| &row.volume)).into_iter().map(|volume| {
        let there = rows.iter().filter(|row| row.volume == *volume).map(|row| &row.figure);
        [vec![title(volume)], cells(&jobs, &there)].concat()
    });
    paragraph(&format!(
        "fio on `/cocos`: a file of {} MiB written until it is on the disk; past the page cache, read \
         1 MiB at a time in sequence, and read and written 4 KiB at random; and 4 KiB written with an \
         fsync after each:",
        figures.made.fio_size.trim_end_matches('M')
    )) + &grid(["volume".to_owned()].into_iter().chain(heads(&jobs)).collect(), lines)
}

const WRITERS: Columns<OfVolume<Writing>> = &[
    ("volume", |row| title(&row.volume)),
    ("files a second", |row| match &row.figure.died {
        Some(died) => format!("it died: {died}"),
        None => figure(row.figure.files_s, 1.0),
    }),
];

pub(super) fn writers(figures: &Figures) -> String {
    if figures.writers.is_empty() {
        return String::new();
    }
    paragraph(&format!(
        "16 processes at once, each of which makes {} files of 4 KiB in a directory of its own, until \
         all is on the disk:",
        figures.made.writer_files
    )) + &table(WRITERS, &figures.writers)
}

const UNPACK: Columns<OfVolume<Unpacking>> = &[
    ("volume", |row| row.volume.way.title().to_owned()),
    ("seconds", |row| figure(row.figure.took.seconds, 1.0)),
    ("again, seconds", |row| figure(row.figure.took.again_seconds, 1.0)),
    ("errors of the disk in the kernel's log", |row| row.figure.disk_errors.to_string()),
];

pub(super) fn unpack(figures: &Figures) -> String {
    if figures.unpack.is_empty() {
        return String::new();
    }
    let image = &figures.made.layer;
    paragraph(&format!(
        "An image of {} files, {} MiB, unpacked into an overlay whose layers lie on a new volume, and \
         synced; all of it is read back and removed, and it is unpacked again:",
        grouped(image.files.value(), 0),
        grouped(image.bytes.value() / f64::from(1 << 20), 0)
    )) + &table(UNPACK, &figures.unpack)
}

pub(super) fn choices(figures: &Figures) -> String {
    let rows = &figures.choices;
    if rows.is_empty() {
        return String::new();
    }
    let jobs = jobs(rows.iter().flat_map(|row| &row.fio));
    let head = ["choice", "image, seconds", "again, seconds", "written, MiB"].map(str::to_owned);
    let head =
        head.into_iter().chain(heads(&jobs)).chain(["16 writers, files a second".to_owned()]);
    let lines = rows.iter().map(|row| {
        let mut line = vec![tried(&row.choice)];
        if let Some(refused) = &row.refused {
            line.push(format!("the kernel refuses: {refused}"));
            line.resize(jobs.len() + 5, NONE.to_owned());
            return line;
        }
        line.push(figure(row.took.seconds, 1.0));
        line.push(figure(row.took.again_seconds, 1.0));
        line.push(figure(row.written_bytes, f64::from(1 << 20)));
        line.extend(cells(&jobs, &row.fio.iter()));
        line.push(figure(row.files_s, 1.0));
        line
    });
    paragraph(
        "What of that image lies below `/usr/share`, some of the jobs of fio, and 16 writers, with one \
         other choice of journal, mount or dm-crypt at a time, on volumes that mke2fs makes one after \
         the other in one boot. What is written to the disk is the image, what reading it back makes of \
         it, and the image again:",
    ) + &grid(head.collect(), lines)
}

/// In words; one that is not known here keeps its name.
fn tried(choice: &str) -> String {
    let words = CHOICES.iter().find(|(name, _)| *name == choice).map_or(choice, |(_, words)| words);
    words.to_owned()
}
