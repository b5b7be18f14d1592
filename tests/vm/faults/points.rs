//! Where a fault can strike: the effects that good boots of the fault build tell of, and the places
//! in the source that call for an effect.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// What the fault build's lines begin with.
const MARK: &str = "cvm-init: fault build: ";

/// One effect of a boot.
#[derive(Clone, Debug)]
pub(crate) struct Point {
    pub(crate) stage: String,
    /// `FILE:LINE` of what calls for it.
    pub(crate) site: String,
    /// The how many-th of its identifier, from 1.
    pub(crate) number: usize,
    pub(crate) id: String,
    /// In words, as the fatal line has it.
    pub(crate) doing: String,
}

impl Point {
    /// As `CVM_FAULT` has it.
    pub(crate) fn name(&self) -> String {
        format!("{}#{}", self.id, self.number)
    }

    /// Whether it loads a module.
    pub(crate) fn is_load(&self) -> bool {
        self.id.starts_with("load:/modules/")
    }

    /// Whether it is done beside the stages of the boot, in whichever of them that is: modules are loaded,
    /// and devices are listed for their drivers.
    pub(crate) fn is_beside(&self) -> bool {
        self.is_load() || self.id.starts_with("list-devices:")
    }

    /// Whether a boot can do without it.
    pub(crate) fn is_optional(&self) -> bool {
        let (file, line) = self.site.rsplit_once(':').expect("a file and a line");
        let line: usize = line.parse().expect("a number");
        source(Path::new(file))[line - 1].contains("optional(")
    }
}

/// What the fault build told on a console, without the mark.
pub(crate) fn told(serial: &str) -> impl Iterator<Item = &str> {
    serial.lines().filter_map(|line| line.split_once(MARK).map(|(_, told)| told))
}

/// The effects that a boot told of, in order.
pub(crate) fn points(serial: &str) -> Vec<Point> {
    let mut stage = "";
    let mut points = Vec::new();
    for line in told(serial) {
        if let Some(name) = line.strip_prefix("STAGE ") {
            stage = name;
        }
        let Some(effect) = line.strip_prefix("EFFECT ") else { continue };
        let parsed = effect.split_once(" #").and_then(|(site, rest)| {
            let (number, step) = rest.split_once(' ')?;
            let (id, doing) = step.split_once(": ")?;
            let (site, id, doing) = (site.to_owned(), id.to_owned(), doing.to_owned());
            Some(Point { stage: stage.to_owned(), site, number: number.parse().ok()?, id, doing })
        });
        points.push(parsed.unwrap_or_else(|| panic!("not an effect's line: {line}")));
    }
    points
}

fn source(file: &Path) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines().map(str::to_owned).collect()
}

/// Every place of the source that calls for an effect, as `FILE:LINE`.
pub(crate) fn sites() -> BTreeSet<String> {
    let mut sites = BTreeSet::new();
    let mut folders = vec![Path::new("src").to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(&folder)).unwrap();
        for entry in entries.flatten() {
            let file = folder.join(entry.file_name());
            if entry.path().is_dir() {
                folders.push(file);
            } else if !file.starts_with("src/effect") {
                sites.extend(sites_in(&file));
            }
        }
    }
    sites
}

fn sites_in(file: &Path) -> Vec<String> {
    let calls = |line: &str| {
        let code = line.split("//").next().unwrap_or_default();
        ["effect(", "optional("].iter().any(|call| {
            // A whole word: not the end of another function's name.
            code.match_indices(call).any(|(at, _)| !code[..at].ends_with(is_word))
        })
    };
    let lines = source(file).into_iter().take_while(|line| line != "mod tests {");
    let numbered = lines.enumerate().filter(|(_, line)| calls(line));
    numbered.map(|(index, _)| format!("{}:{}", file.display(), index + 1)).collect()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}
