//! Trees of files.

use std::collections::BTreeMap;

use super::Meta;

/// A directory and all below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    /// Its own.
    pub meta: Meta,
    /// Whether it has nothing of the folders that the layers below have in its place.
    pub opaque: bool,
    /// What is in it.
    pub names: BTreeMap<Vec<u8>, Node>,
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Folder(Folder),
    /// Anything else: an index of [`super::Image::inodes`]. Several names may have the same.
    Inode(usize),
    /// What a layer below has there is gone.
    Removed,
}

/// A file that is no directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inode {
    /// What it is.
    pub kind: Kind,
    /// The rest of it.
    pub meta: Meta,
}

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file, whose bytes are in the archive of a layer.
    File {
        /// Which layer, from 0 on.
        layer: usize,
        /// Which entry of its archive, from 0 on.
        entry: usize,
        /// How many they are.
        size: u64,
    },
    /// A symbolic link, and what it points at.
    Symlink(Vec<u8>),
    /// A character device.
    Char(u32, u32),
    /// A block device.
    Block(u32, u32),
    /// A named pipe.
    Fifo,
}

impl Folder {
    pub(super) fn new(meta: Meta) -> Self {
        Self { meta, opaque: false, names: BTreeMap::new() }
    }

    /// As one that nothing is below.
    #[must_use]
    pub fn alone(mut self) -> Self {
        self.opaque = false;
        self.names.retain(|_, node| *node != Node::Removed);
        let names = self.names.into_iter().map(|(name, node)| match node {
            Node::Folder(folder) => (name, Node::Folder(folder.alone())),
            node => (name, node),
        });
        Self { names: names.collect(), ..self }
    }

    /// What is at a path, without following links.
    pub(super) fn at(&self, path: &[Vec<u8>]) -> Option<&Node> {
        let (name, above) = path.split_last()?;
        let folder = above.iter().try_fold(self, |folder, name| match folder.names.get(name) {
            Some(Node::Folder(folder)) => Some(folder),
            _ => None,
        });
        folder?.names.get(name)
    }

    /// The folder at a path. Those that are not there are made as they are in `model`.
    pub(super) fn make(&mut self, path: &[Vec<u8>], model: &Self) -> &mut Self {
        let Some((name, below)) = path.split_first() else {
            return self;
        };
        let model = match model.names.get(name) {
            Some(Node::Folder(folder)) => folder,
            _ => &Self::new(Meta::of_unnamed_folder()),
        };
        self.folder(name, &model.meta).make(below, model)
    }

    /// The folder of a name, which is made with this if there is none. Where something else is that it
    /// takes the place of, nothing of the layers below is to be seen in it.
    pub(super) fn folder(&mut self, name: &[u8], meta: &Meta) -> &mut Self {
        let fresh = |opaque| Node::Folder(Self { opaque, ..Self::new(meta.clone()) });
        let node = self.names.entry(name.to_vec()).or_insert_with(|| fresh(false));
        if !matches!(node, Node::Folder(_)) {
            *node = fresh(true);
        }
        match node {
            Node::Folder(folder) => folder,
            Node::Inode(_) | Node::Removed => unreachable!("it was made a folder"),
        }
    }
}
