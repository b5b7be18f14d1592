//! A document of the tree: Markdown, as far as the documents here go.

use std::fs;
use std::path::{Path, PathBuf};

const TREE: &str = env!("CARGO_MANIFEST_DIR");

/// A part of a document.
pub(crate) enum Part {
    /// Text, without code in it.
    Text(String),
    /// Code in a line of text.
    Code(String),
    /// A block of code, and the language that it is in.
    Block(String, String),
}

pub(crate) struct Page {
    /// From the top of the tree.
    pub(crate) path: PathBuf,
    pub(crate) parts: Vec<Part>,
}

impl Page {
    pub(crate) fn read(path: &str) -> Self {
        Self { path: path.into(), parts: parts(&read(path)) }
    }

    /// The anchors that GitHub makes of its headings.
    pub(crate) fn anchors(&self) -> Vec<String> {
        // A heading may have code in it, and a block of code a line that looks like a heading.
        let text: String = self
            .parts
            .iter()
            .map(|part| match part {
                Part::Text(text) | Part::Code(text) => text.as_str(),
                Part::Block(..) => "\n",
            })
            .collect();
        let mut anchors = Vec::new();
        for line in text.lines() {
            let heading = line.trim_start_matches('#');
            let Some(heading) = heading.strip_prefix(' ').filter(|_| line.starts_with('#')) else {
                continue;
            };
            anchors.push(anchor(heading, &anchors));
        }
        anchors
    }

    /// Where it links to, but for other sites.
    pub(crate) fn links(&self) -> Vec<&str> {
        let texts = self.parts.iter().filter_map(|part| match part {
            Part::Text(text) => Some(text),
            _ => None,
        });
        texts
            .flat_map(|text| text.split("](").skip(1))
            .filter_map(|rest| rest.split(')').next())
            .filter(|link| !link.contains("://"))
            .collect()
    }
}

/// What GitHub makes of a heading: letters, digits, `-` and `_` stay, in small letters, a blank
/// becomes `-`, anything else goes; a second one of a name gets a number.
fn anchor(heading: &str, before: &[String]) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    let name: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
    let numbered = |number| format!("{name}-{number}");
    let names = std::iter::once(name.clone()).chain((1..).map(numbered));
    names.into_iter().find(|name| !before.contains(name)).unwrap()
}

fn parts(text: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    for (number, piece) in text.split("\n```").enumerate() {
        if number % 2 == 1 {
            let (language, code) = piece.split_once('\n').unwrap_or_default();
            parts.push(Part::Block(language.to_owned(), code.to_owned()));
            continue;
        }
        for (number, piece) in piece.split('`').enumerate() {
            let part = if number % 2 == 1 { Part::Code } else { Part::Text };
            parts.push(part(piece.to_owned()));
        }
    }
    parts
}

/// A file of the tree.
pub(crate) fn read(path: &str) -> String {
    let file = Path::new(TREE).join(path);
    fs::read_to_string(&file).unwrap_or_else(|e| panic!("cannot read {path}: {e}"))
}

/// Whether a file or folder is there.
pub(crate) fn exists(path: &Path) -> bool {
    Path::new(TREE).join(path).exists()
}

/// What lies in a folder of the tree.
pub(crate) fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(Path::new(TREE).join(dir)).unwrap();
    entries.map(|entry| dir.join(entry.unwrap().file_name())).collect()
}

/// All documents, but for what cargo and git keep.
pub(crate) fn pages() -> Vec<Page> {
    let mut pages = Vec::new();
    let mut dirs = vec![PathBuf::new()];
    while let Some(dir) = dirs.pop() {
        for path in entries(&dir) {
            let name = path.file_name().unwrap().to_str().unwrap();
            if name == "target" || name.starts_with('.') {
                continue;
            }
            if Path::new(TREE).join(&path).is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(Page::read(path.to_str().unwrap()));
            }
        }
    }
    assert!(pages.len() > 20, "only {} documents are found", pages.len());
    pages
}

/// The rows of the tables whose first head is this, cell by cell.
pub(crate) fn rows(text: &str, head: &str) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut within = false;
    for line in text.lines() {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let is_head = cells.first() == Some(&head);
        within = line.starts_with('|') && (within || is_head);
        if within && !is_head && !line.starts_with("|-") {
            rows.push(cells.into_iter().map(str::to_owned).collect());
        }
    }
    rows
}

#[test]
fn headings_become_what_github_makes_of_them() {
    let text = "# What `fsck` says of it: /tmp, \"x_y\" & more\n\n```\n# none\n```\n\n## A [b](c.md)?\n\n## Twice\n\n### Twice\n";
    let page = Page { path: PathBuf::new(), parts: parts(text) };
    let made = ["what-fsck-says-of-it-tmp-x_y--more", "a-bcmd", "twice", "twice-1"];
    assert_eq!(page.anchors(), made);
    assert_eq!(page.links(), ["c.md"]);
}
