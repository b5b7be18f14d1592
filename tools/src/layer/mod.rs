//! The layers of an image as trees of files: what each holds, what it removes of those below it, and
//! the tree of all of them.
//!
//! Whoever made the image wrote the archives, so they are read as hostile: nothing of them is put
//! into a tree that is not below its root by name, and by every link on the way there.
//!
//! Sources: OCI Image Format Specification 1.1, `layer.md`; Linux,
//! `Documentation/filesystems/overlayfs.rst`.

mod archive;
mod entry;
mod merge;
mod pack;
mod path;
mod pax;
mod tree;

pub use archive::{Archive, entries};
pub use entry::{Entry, What};
pub use merge::Image;
pub use pack::pack;
pub use path::Path;
pub use tree::{Folder, Inode, Kind, Node};

use std::collections::BTreeMap;

/// What a file has beside its content.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Meta {
    /// Permissions with set-user-ID, set-group-ID and sticky: 12 bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When it was modified, in whole seconds since 1970.
    pub mtime: u64,
    /// Extended attributes.
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

impl Meta {
    /// A folder that no layer says anything of: root's, and everybody may look into it.
    #[must_use]
    pub fn of_unnamed_folder() -> Self {
        Self { mode: 0o755, ..Self::default() }
    }
}
