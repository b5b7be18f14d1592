//! What is looked for among the disks, and what is said when it is not there.

use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

use crate::error::Error;
use crate::kernel::{module, pci};
use crate::stage::modules;

/// One thing that is looked for, as often as the disks change.
#[derive(Debug)]
pub(super) struct Search {
    /// "disk that proves roothash=".
    wanted: String,
    /// What a disk is refused for, behind its name: nothing for the root, " for the volume".
    purpose: String,
    /// The latest reason for each disk that was seen and is not it.
    refused: Vec<(String, String)>,
    /// Whether the last look has missed it.
    missing: bool,
}

impl Search {
    /// For what is `wanted`, which serves a `purpose`.
    pub(super) fn new(wanted: impl Into<String>, purpose: impl Into<String>) -> Self {
        let (wanted, purpose) = (wanted.into(), purpose.into());
        Self { wanted, purpose, refused: Vec::new(), missing: true }
    }

    /// Notes whether a look has found it, and passes on what it has.
    pub(super) fn end<T>(&mut self, outcome: Option<T>) -> Option<T> {
        self.missing = outcome.is_none();
        outcome
    }

    /// Finds nothing, because where to look is not known before something else is found; that is what
    /// is missing then.
    pub(super) fn adjourn<T>(&mut self) -> Option<T> {
        self.missing = false;
        None
    }

    /// Keeps the latest reason for each disk, and logs it when it is new.
    pub(super) fn refuse(&mut self, disk: &str, reason: &dyn Display) {
        let entry = (disk.to_owned(), reason.to_string());
        if !self.refused.contains(&entry) {
            log::info!("not {disk}{}: {reason}", self.purpose);
            self.refused.retain(|(known, _)| known != disk);
            self.refused.push(entry);
        }
    }
}

/// What is still missing when the time is up, and what is wrong with each disk that was seen.
pub(super) fn nothing_found(searches: &[&Search], any_seen: bool, timeout: Duration) -> Error {
    let missing = || searches.iter().filter(|search| search.missing);
    let wanted: Vec<_> = missing().map(|search| format!("no {}", search.wanted)).collect();
    let mut message = format!("{} within {} s", wanted.join(", "), timeout.as_secs());
    if !any_seen {
        message.push_str("; no disk at all was seen, CDs aside");
        // Looks at buses and initramfs, only to say more.
        let storage = pci::storage_without_driver().unwrap_or_default();
        if !storage.is_empty() {
            let storage = storage.join(", ");
            for text in [", but storage on PCI without a driver (", &storage, ")"] {
                message.push_str(text);
            }
        }
        message.push_str(match module::list(Path::new(modules::FOLDER)).as_deref() {
            Ok([]) => ": is its driver built into the kernel? The initramfs has no modules",
            _ => ": is its driver among the modules of the initramfs, or built into the kernel?",
        });
    }
    for Search { purpose, refused, .. } in missing() {
        for (disk, reason) in refused {
            for text in ["; ", disk, purpose, ": ", reason] {
                message.push_str(text);
            }
        }
    }
    Error::new(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_the_latest_reason_for_each_disk() {
        let mut root = Search::new("disk that proves roothash=", "");
        let mut volume = Search::new("usable disk with serial \"v\"", " for the volume");
        let message = |root: &Search, volume: &Search| {
            nothing_found(&[root, volume], true, Duration::from_secs(5)).to_string()
        };
        root.refuse("sda", &"no");
        root.refuse("sdb", &"not yet");
        root.refuse("sda", &"never");
        volume.refuse("sda", &"it is read-only");
        assert_eq!(
            message(&root, &volume),
            "no disk that proves roothash=, no usable disk with serial \"v\" within 5 s; sdb: not \
             yet; sda: never; sda for the volume: it is read-only"
        );
        root.end(Some(()));
        assert_eq!(
            message(&root, &volume),
            "no usable disk with serial \"v\" within 5 s; sda for the volume: it is read-only"
        );
        root.end(None::<()>);
        assert_eq!(volume.adjourn::<()>(), None);
        assert_eq!(
            message(&root, &volume),
            "no disk that proves roothash= within 5 s; sdb: not yet; sda: never"
        );
    }
}
