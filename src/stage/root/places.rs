//! What a boot mounts on in the root: it is there, or is found missing while nothing else is made
//! yet.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::way::{self, End};
use crate::config::{Config, MOUNT_POINTS};
use crate::effect::{Effect, effect};
use crate::error::{Error, Result};
use crate::kernel::mount;
use crate::stage::{NEW_ROOT, NewRoot};

const FIND: Effect<1> = Effect::new("find", "find {} in the root");

/// A directory that the command line or this program names, and where its links lead.
struct Place<'a> {
    name: &'a str,
    path: PathBuf,
}

/// Makes sure that the root has the mount points, which cannot be made in it, and the directories that
/// are to be writable, and that none of them lies in another. Returns where the mount points are: what
/// the root has below them is out of sight when init is run.
///
/// # Errors
/// The one that is missing, is no directory, or lies in another.
pub(super) fn find(root: &NewRoot, config: &Config) -> Result<Vec<PathBuf>> {
    let mut places = Vec::new();
    for name in MOUNT_POINTS {
        let path = directory(root, name)?
            .ok_or_else(|| Error::new(format!("the root has no directory {name} to mount on")))?;
        places.push(Place { name, path });
    }
    let mounted: Vec<_> = places.iter().map(|place| place.path.clone()).collect();
    for name in &config.overlay {
        let path = directory(root, name)?.ok_or_else(|| {
            Error::new(format!("the root has no directory {name} for cvm.overlay="))
        })?;
        places.push(Place { name, path });
    }
    for (number, place) in places.iter().enumerate() {
        let others = places.iter().enumerate().filter(|(other, _)| *other != number);
        if let Some((_, other)) = others.into_iter().find(|(_, other)| place.lies_in(other)) {
            return Err(Error::new(format!("{place} lies in {other} of the root")));
        }
        require_way(place.name, &mounted)?;
    }
    Ok(mounted)
}

/// Where a mount point of a writable root is, and will be if it is not there yet.
///
/// # Errors
/// When it cannot be looked for.
pub(super) fn of(root: &NewRoot, name: &str) -> Result<PathBuf> {
    Ok(directory(root, name)?.unwrap_or_else(|| PathBuf::from(name)))
}

impl Place<'_> {
    fn lies_in(&self, other: &Self) -> bool {
        self.path.starts_with(&other.path)
    }
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, path } = self;
        if path == Path::new(name) {
            return f.write_str(name);
        }
        write!(f, "{name}, which is {},", path.display())
    }
}

/// Where a directory of the root is, all links followed as in the root; `None` when there is none.
fn directory(root: &NewRoot, name: &str) -> Result<Option<PathBuf>> {
    effect(FIND.on(&[&name]), || {
        let directory = match root.directory(name) {
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                _ => return Err(error),
            },
            directory => directory?,
        };
        let path = fs::read_link(mount::path_of(&directory))?;
        let below = path.strip_prefix(NEW_ROOT).map_err(io::Error::other)?;
        Ok(Some(Path::new("/").join(below)))
    })
}

/// Whether the root has what `name` leads to, when file systems are mounted on `places`.
///
/// # Errors
/// When a link on the way leads to nothing, or the way ends in one of these file systems.
pub(super) fn require_way(name: &str, places: &[PathBuf]) -> Result<bool> {
    effect(FIND.on(&[&name]), || {
        let cause = match way::follow(Path::new(name), places, way::look) {
            End::At(_) => return Ok(true),
            End::Nowhere => return Ok(false),
            End::Dangling(link) => format!("the link {} leads to nothing", link.display()),
            End::MountedOver(place, below) => format!(
                "{} lies below {}, where another file system is mounted",
                below.display(),
                place.display()
            ),
        };
        Err(io::Error::other(cause))
    })
}

/// The same for a directory that a boot uses where there is one.
///
/// # Errors
/// The same, and when it is no directory, or is one of these places itself or around one.
pub(super) fn require_directory(root: &NewRoot, name: &str, places: &[PathBuf]) -> Result<bool> {
    if !require_way(name, places)? {
        return Ok(false);
    }
    match directory(root, name)? {
        Some(path) => match places.iter().find(|place| place.starts_with(&path)) {
            None => Ok(true),
            Some(place) => Err(Error::new(format!(
                "the root's {name} is {}, and another file system is mounted on {}",
                path.display(),
                place.display()
            ))),
        },
        None => Err(Error::new(format!("the root's {name} is no directory"))),
    }
}
