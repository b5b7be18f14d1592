//! Every link within the tree leads somewhere, and README leads to every document.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use crate::page::{Page, entries, exists, pages};

/// The path, from the top of the tree, that a link means in a document.
fn target(page: &Path, link: &str) -> PathBuf {
    let mut path = page.parent().unwrap().to_owned();
    for component in Path::new(link).components() {
        match component {
            Component::ParentDir => assert!(path.pop(), "{link} leads out of the tree"),
            other => path.push(other),
        }
    }
    path
}

/// Where the links of a document lead, and to which heading there.
fn targets(page: &Page) -> impl Iterator<Item = (PathBuf, Option<&str>)> {
    page.links().into_iter().map(|link| {
        let (file, anchor) = link.split_once('#').map_or((link, None), |(f, a)| (f, Some(a)));
        let path = if file.is_empty() { page.path.clone() } else { target(&page.path, file) };
        (path, anchor)
    })
}

#[test]
fn every_link_leads_to_a_file_and_a_heading_that_are_there() {
    let pages = pages();
    let anchors: BTreeMap<_, _> = pages.iter().map(|page| (&page.path, page.anchors())).collect();
    let mut astray = Vec::new();
    let mut seen = 0;
    for page in &pages {
        for (path, anchor) in targets(page) {
            seen += 1;
            let heading = |anchor: &str| {
                anchors.get(&path).is_some_and(|names| names.iter().any(|name| name == anchor))
            };
            if !exists(&path) || !anchor.is_none_or(heading) {
                let (page, path) = (page.path.display(), path.display());
                astray.push(format!("{page}: {path} {}", anchor.unwrap_or_default()));
            }
        }
    }
    assert!(seen > 60, "only {seen} links are found");
    assert!(astray.is_empty(), "{astray:#?}");
}

#[test]
fn readme_leads_to_all_that_is_in_docs() {
    let pages: BTreeMap<_, _> = pages().into_iter().map(|page| (page.path.clone(), page)).collect();
    let mut reached = vec![PathBuf::from("README.md")];
    let mut at = 0;
    while let Some(path) = reached.get(at) {
        at += 1;
        let Some(page) = pages.get(path) else { continue };
        for (path, _) in targets(page) {
            if !reached.contains(&path) {
                reached.push(path);
            }
        }
    }
    let wanted = entries(Path::new("docs"));
    let lost: Vec<_> =
        wanted.iter().filter(|entry| !reached.iter().any(|path| path.starts_with(entry))).collect();
    assert!(lost.is_empty(), "no link leads there: {lost:?}");
}
