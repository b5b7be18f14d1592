//! Where the files of an image lie: in a folder, or in an archive that is not unpacked for them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Take};
use std::path::{Path, PathBuf};

use cvm_init::error::{Error, Result};
use tar::{Archive, EntryType};

/// More than any JSON of an image has; registries take no larger manifest than 4 MiB.
const JSON_MAX: u64 = 4 << 20;
/// Links that lead to links.
const LINKS_MAX: usize = 8;

/// By what a compressed file is told, and what unpacks it.
const COMPRESSED: &[(&[u8], &str)] = &[
    (&[0x1f, 0x8b], "gzip"),
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
    (&[0xfd, b'7', b'z', b'X', b'Z'], "xz"),
    (b"BZh", "bzip2"),
];

/// The files of an image, by their names in it.
pub struct Source {
    path: PathBuf,
    /// What an archive holds; nothing where the image is a folder.
    archive: Option<BTreeMap<String, Place>>,
}

/// Where a file of an archive is.
enum Place {
    Bytes {
        start: u64,
        length: u64,
    },
    /// By another name.
    Link(String),
}

impl Source {
    /// The image in a folder or an archive.
    ///
    /// # Errors
    /// It cannot be read, or is neither.
    pub fn open(path: &Path) -> Result<Self> {
        let archive = if path.is_dir() { None } else { Some(contents(path)?) };
        Ok(Self { path: path.to_owned(), archive })
    }

    /// Whether there is a file of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.place(name).is_ok()
    }

    /// A file, from its start to its end: the limit is its length.
    ///
    /// # Errors
    /// It is not there, or cannot be read.
    pub fn file(&self, name: &str) -> Result<Take<File>> {
        let cannot =
            |cause: &dyn std::fmt::Display| Error::cannot(&format!("read {name:?}"), cause);
        let (path, start, length) = self.place(name).map_err(|cause| cannot(&cause))?;
        let mut file = File::open(path).map_err(|cause| cannot(&cause))?;
        file.seek(SeekFrom::Start(start)).map_err(|cause| cannot(&cause))?;
        Ok(file.take(length))
    }

    /// The bytes of a file that is as small as JSON.
    ///
    /// # Errors
    /// It is not there, cannot be read, or is larger than 4 MiB.
    pub fn json(&self, name: &str) -> Result<Vec<u8>> {
        let mut file = self.file(name)?;
        if file.limit() > JSON_MAX {
            return Err(Error::new(format!(
                "{name:?} has {} bytes, too many for JSON",
                file.limit()
            )));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)
            .map_err(|cause| Error::cannot(&format!("read {name:?}"), &cause))?;
        Ok(bytes)
    }

    /// The file that holds it, where in there it starts, and its length.
    fn place(&self, name: &str) -> io::Result<(PathBuf, u64, u64)> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, "it is not in the image");
        let mut name = clean(name).ok_or_else(missing)?;
        let Some(archive) = &self.archive else {
            let path = self.path.join(name);
            let about = fs::metadata(&path).map_err(|_| missing())?;
            // A pipe or a device would be waited for.
            return if about.is_file() { Ok((path, 0, about.len())) } else { Err(missing()) };
        };
        for _ in 0..LINKS_MAX {
            match archive.get(&name).ok_or_else(missing)? {
                Place::Bytes { start, length } => return Ok((self.path.clone(), *start, *length)),
                Place::Link(target) => name.clone_from(target),
            }
        }
        Err(missing())
    }
}

/// What an archive holds.
fn contents(path: &Path) -> Result<BTreeMap<String, Place>> {
    let mut file = File::open(path).map_err(|cause| Error::cannot(&"read it", &cause))?;
    let mut start = Vec::new();
    let read = file.by_ref().take(8).read_to_end(&mut start).and_then(|_| file.rewind());
    read.map_err(|cause| Error::cannot(&"read it", &cause))?;
    if let Some((_, tool)) = COMPRESSED.iter().find(|(magic, _)| start.starts_with(magic)) {
        return Err(Error::new(format!("it is compressed; unpack it with '{tool} -d' first")));
    }
    let no_archive = |cause: io::Error| {
        Error::new(format!("it is neither a folder nor a tar that holds an image: {cause}"))
    };
    let mut places = BTreeMap::new();
    let mut archive = Archive::new(file);
    for entry in archive.entries_with_seek().map_err(no_archive)? {
        let entry = entry.map_err(no_archive)?;
        let Some(name) = std::str::from_utf8(&entry.path_bytes()).ok().and_then(clean) else {
            continue;
        };
        let link = entry.link_name_bytes();
        let link = link.and_then(|link| String::from_utf8(link.into_owned()).ok());
        let place = match (entry.header().entry_type(), link) {
            (EntryType::Regular | EntryType::Continuous, _) => {
                Some(Place::Bytes { start: entry.raw_file_position(), length: entry.size() })
            }
            (EntryType::Link, Some(link)) => clean(&link).map(Place::Link),
            // docker save once wrote layers that are the same as links to each other.
            (EntryType::Symlink, Some(link)) => {
                let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
                clean(&format!("{folder}/{link}")).map(Place::Link)
            }
            _ => None,
        };
        places.extend(place.map(|place| (name, place)));
    }
    Ok(places)
}

/// A name without `.` and `..`; nothing for one that leads out of the image.
fn clean(name: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_in_the_image() {
        for (name, cleaned) in [
            ("./index.json", Some("index.json")),
            ("a/../../b", None),
            ("..", None),
            ("a//b/../c/layer.tar", Some("a/c/layer.tar")),
            ("/blobs", Some("blobs")),
        ] {
            assert_eq!(clean(name).as_deref(), cleaned, "{name}");
        }
    }
}
