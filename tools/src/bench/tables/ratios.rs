//! The table of one way's figure over another's, of the same run.

use super::text::{grid, number, paragraph};
use crate::bench::figures::{Figures, OfVolume, Provisioned};
use crate::bench::spread::Spread;
use crate::bench::way::Way;

/// The shell's, with which volumes are compared.
const CIPHER: &str = "aes-gcm-random";
const GIB: u64 = 1 << 10;
const TIB: u64 = 1 << 20;

/// What is a ratio of what.
type Ratio = fn(&Figures) -> Option<f64>;

const RATIOS: &[(&str, Ratio)] = &[
    ("shell over cvm-init, 1 GiB, without modules", |figures| {
        ratio(rest(figures, Way::Shell, GIB), rest(figures, ours(figures), GIB))
    }),
    ("tuned shell over cvm-init, 1 GiB, without modules", |figures| {
        ratio(rest(figures, Way::Tuned, GIB), rest(figures, ours(figures), GIB))
    }),
    ("2 TiB over 64 MiB, cvm-init with tags on disk", |figures| {
        let total = |mib| Some(timed(figures, Way::CvmDisk, mib)?.total_us);
        ratio(total(2 * TIB), total(64))
    }),
    ("2 TiB over 64 MiB, cvm-init with tags on disk, without modules", |figures| {
        ratio(rest(figures, Way::CvmDisk, 2 * TIB), rest(figures, Way::CvmDisk, 64))
    }),
    ("sequential write, cvm-init over shell, both `aes-gcm-random`", |figures| {
        let written = |way| {
            let mut rows = figures.data.iter().filter(|row| row.figure.job == "sequential-write");
            Some(rows.find(|row| is_gcm(row, way))?.figure.value)
        };
        ratio(written(ours(figures)), written(Way::Shell))
    }),
    ("16 writers, files a second, cvm-init over shell, both `aes-gcm-random`", |figures| {
        let files = |way| figures.writers.iter().find(|row| is_gcm(row, way))?.figure.files_s;
        ratio(files(ours(figures)), files(Way::Shell))
    }),
    ("image unpacked again over the first time, cvm-init", |figures| {
        let mut rows = figures.unpack.iter();
        let image = &rows.find(|row| row.volume.way == ours(figures))?.figure.took;
        ratio(image.again_seconds, image.seconds)
    }),
];

pub(super) fn ratios(figures: &Figures) -> String {
    let known = RATIOS.iter().filter_map(|(name, of)| Some((name, of(figures)?)));
    let rows: Vec<_> = known.map(|(name, value)| vec![(*name).to_owned(), number(value)]).collect();
    if rows.is_empty() {
        return String::new();
    }
    let head = ["of", "times"].map(str::to_owned).to_vec();
    paragraph("Ratios:") + &grid(head, rows.into_iter())
}

/// One median over another.
pub(super) fn ratio(over: Option<Spread>, under: Option<Spread>) -> Option<f64> {
    let under = under?.median.value();
    (under != 0.0).then_some(over?.median.value() / under)
}

/// The way of cvm-init that was measured, the one with tags in memory first.
fn ours(figures: &Figures) -> Way {
    let in_memory = figures.provisioning.iter().any(|row| row.way == Way::CvmMemory);
    if in_memory { Way::CvmMemory } else { Way::CvmDisk }
}

fn timed(figures: &Figures, way: Way, mib: u64) -> Option<&Provisioned> {
    figures.provisioning.iter().find(|row| row.way == way && row.partition_mib == mib)
}

/// The time without modules.
fn rest(figures: &Figures, way: Way, mib: u64) -> Option<Spread> {
    timed(figures, way, mib)?.rest_us
}

/// Whether it is of this way's volume with the shell's cipher, which the shell does not name.
fn is_gcm<T>(row: &OfVolume<T>, way: Way) -> bool {
    row.volume.way == way && row.volume.cipher.as_deref().is_none_or(|cipher| cipher == CIPHER)
}
