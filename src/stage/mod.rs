//! The stages of the boot, in the order in which [`crate::boot`] runs them.

pub mod data;
pub mod disk;
mod filesystem;
pub mod handoff;
pub mod kexec;
#[cfg(feature = "fault")]
pub mod leftovers;
pub mod measure;
pub mod modules;
pub mod platform;
pub mod root;
pub mod runtime;
pub mod teardown;
pub mod verity;
pub mod volume;

use std::cell::OnceCell;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::path::Arg;

use crate::effect::{Effect, effect};
use crate::error::Result;
use crate::kernel::dm::Control;
use crate::kernel::file;
use crate::kernel::mount::{self, Flags};

/// Where the new root is mounted until it becomes `/`.
pub const NEW_ROOT: &str = "/root";

/// Mounts that the new root takes over, on its directories of the same names.
const MOVED: &[&str] = &["/dev", "/proc", "/sys", "/run"];

/// The names of our mappings, which other software depends on.
pub mod mapping {
    /// The verified root.
    pub const ROOT: &str = "root_verity";
    /// The encrypted volume.
    pub const VOLUME: &str = "cocos_crypt";
    /// The volume's ciphertext with its tags; cryptsetup's name for what lies below `cocos_crypt`.
    pub const INTEGRITY: &str = "cocos_crypt_dif";
    /// The tags, where they lie on the disk.
    pub const TAGS: &str = "cocos_crypt_tags";
    /// The partition or disk behind its header.
    pub const DATA: &str = "cocos_crypt_data";

    /// Those of every boot, from the top one down: each uses the next.
    pub const ALL: &[&str] = &[VOLUME, INTEGRITY, TAGS, DATA, ROOT];

    /// What the names of further verified data begin with, and of layers.
    const VERIFIED: &[&str] = &["data_", "layer_"];

    /// Further verified data, by its name in `cvm.data=`.
    #[must_use]
    pub fn data(name: &str) -> String {
        format!("data_{name}")
    }

    /// A layer of the root; 0 is the topmost.
    #[must_use]
    pub fn layer(number: usize) -> String {
        format!("layer_{number}")
    }

    /// Whether a mapping of this name is one of these. Before the new root's init runs there are none
    /// but ours.
    #[must_use]
    pub fn is_verified(mapping: &str) -> bool {
        VERIFIED.iter().any(|start| mapping.starts_with(start))
    }
}

/// The path that the absolute `path` of the new root has for now, where none of it is a link.
fn in_new_root(path: &Path) -> PathBuf {
    Path::new(NEW_ROOT).join(path.strip_prefix("/").unwrap_or(path))
}

/// The new root, as it is mounted when something is looked for in it first. It keeps that mount in use
/// until it is dropped, or a teardown closes it.
#[derive(Debug, Default)]
pub struct NewRoot(OnceCell<File>);

impl NewRoot {
    /// Opens the absolute `path` as the new root will see it, where its links lead included: to nothing
    /// outside of it.
    fn open(&self, path: impl Arg, flags: OFlags) -> io::Result<File> {
        let root = if let Some(root) = self.0.get() {
            root
        } else {
            let root = file::open(NEW_ROOT, file::PLACE)?;
            self.0.get_or_init(|| root)
        };
        let flags = flags | OFlags::CLOEXEC;
        Ok(openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)?.into())
    }

    /// The directory of that name, to mount on or to look into.
    fn directory(&self, path: &str) -> io::Result<File> {
        self.open(path, file::PLACE | OFlags::DIRECTORY)
    }

    /// Mounts a file system of type `kind` on the directory of that name.
    fn mount(
        &self,
        source: &Path,
        target: &str,
        kind: &str,
        flags: Flags,
        data: &str,
    ) -> io::Result<()> {
        let place = self.directory(target)?;
        Ok(mount::mount(source, &mount::path_of(&place), kind, flags, data)?)
    }
}

/// Where the device-mapper is controlled.
const CONTROL: &str = "/dev/mapper/control";

const OPEN_CONTROL: Effect<1> = Effect::new("open-control", "open {} (kernel option BLK_DEV_DM)");

fn open_control() -> Result<Control> {
    effect(OPEN_CONTROL.on(&[&CONTROL]), || Control::open(Path::new(CONTROL)))
}

/// The node of a mapping.
fn node(mapping: &str) -> PathBuf {
    Path::new("/dev/mapper").join(mapping)
}
