//! Figures as a part of a page.

use std::path::Path;

use cvm_init::error::{Error, Result};

use super::figures::Figures;
use super::tables;

/// The page, in the tree.
pub const PAGE: &str = "docs/figures.md";
/// Where the figures and their pictures lie, in the tree.
pub const FOLDER: &str = "docs/bench";

/// What the figures stand between in the page.
const MARKERS: [&str; 2] =
    ["<!-- figures: written by scripts/bench --publish -->", "<!-- figures: end -->"];

const PICTURES: &[(&str, &str)] = &[
    ("provisioning", "Time to the new init by size of partition 4, log-log"),
    ("timeline", "Stages of a boot"),
    ("data", "Throughput of the volume, by cipher and place of the tags"),
];

/// What is published is whole.
fn missing(figures: &Figures) -> Vec<&'static str> {
    let parts = [
        ("provisioning", figures.provisioning.is_empty()),
        ("effects", figures.effects.is_empty()),
        ("costs", figures.costs.is_empty()),
        ("data", figures.data.is_empty()),
        ("unpack", figures.unpack.is_empty()),
        ("choices", figures.choices.is_empty()),
    ];
    parts.into_iter().filter(|(_, is_empty)| *is_empty).map(|(name, _)| name).collect()
}

/// The page with these figures in place of those between its markers.
///
/// # Errors
///
/// Where they are not of a whole measurement, or the page has no place for them.
pub fn page(figures: &Figures, page: &str) -> Result<String> {
    let missing = missing(figures);
    if !missing.is_empty() {
        return Err(Error::new(format!("it lacks {}", missing.join(", "))));
    }
    if figures.made.quick {
        return Err(Error::new("it was made with --quick"));
    }
    let [start, end] = MARKERS;
    let parts = page.split_once(&format!("{start}\n")).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(&format!("{end}\n"))?;
        Some((before, after))
    });
    let (before, after) = parts
        .ok_or_else(|| Error::new(format!("the lines {start} and {end} are not in {PAGE}")))?;
    let pictures: String = PICTURES.iter().map(picture).collect();
    let tables = tables::document(figures);
    Ok(format!("{before}{start}\n\n{pictures}{tables}{end}\n{after}"))
}

/// A picture of the page, which leads to it from where the page is.
fn picture((name, text): &(&str, &str)) -> String {
    let beside = Path::new(PAGE).parent().unwrap_or(Path::new(""));
    let folder = Path::new(FOLDER).strip_prefix(beside).unwrap_or(Path::new(FOLDER));
    format!("![{text}]({}/{name}.svg)\n\n", folder.display())
}
