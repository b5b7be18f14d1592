//! Layers on top of each other: what each of them is by itself, and what they are together.

use std::collections::VecDeque;

use cvm_init::error::{Error, Result};

use super::path::Path;
use super::{Entry, Folder, Inode, Kind, Meta, Node, What};

/// Names that stand for something of a layer below: `.wh.NAME` for a `NAME` that is removed.
const REMOVED: &[u8] = b".wh.";
/// The folder that this stands in has nothing of the layers below.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// AUFS kept files of its own under such names.
const AUFS: &[u8] = b".wh..wh.";
/// mkfs.erofs leaves out what is called so (erofs-utils, `lib/inode.c`).
const LEFT_OUT: &[u8] = b"lost+found";
/// Links that are followed for one path, as the kernel does it.
const LINKS_MAX: usize = 40;

/// The layers of an image so far.
#[derive(Debug, Clone)]
pub struct Image {
    /// What is no directory, in any of the layers.
    pub inodes: Vec<Inode>,
    /// All layers as one tree.
    pub whole: Folder,
    layers: usize,
}

/// What a mark says of the layers below.
struct Hidden {
    /// Where the folder that it stands in really lies.
    folder: Path,
    /// What is removed of it, by its whole path; nothing stands for all.
    removed: Option<Path>,
}

impl Default for Image {
    fn default() -> Self {
        Self { inodes: Vec::new(), whole: Folder::new(Meta::of_unnamed_folder()), layers: 0 }
    }
}

impl Image {
    /// Puts a layer on top, and returns the tree that it is by itself.
    ///
    /// # Errors
    /// An entry leads out of the image by a link, or has something on its way that is no folder.
    pub fn add(&mut self, entries: Vec<Entry>) -> Result<Folder> {
        // Folders that a layer does not name itself are as they were below.
        let mut own = Folder::new(self.whole.meta.clone());
        let layer = self.layers;
        self.layers = layer.saturating_add(1);
        // What is removed is of the layers below, wherever in the archive it says so.
        let (marks, entries): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|entry| is_mark(&entry.path));
        let cannot = |path: &Path, cause| Error::cannot(&format!("take {path}"), &cause);
        let marks = marks
            .iter()
            .map(|entry| self.read_mark(&entry.path).map_err(|cause| cannot(&entry.path, cause)));
        let mut hidden: Vec<_> = marks.collect::<Result<_>>()?;
        // What lies in a folder that is removed is gone by then.
        hidden.sort_by_key(|hidden| hidden.folder.names().len());
        for hidden in &hidden {
            self.hide(&mut own, hidden);
        }
        for entry in entries {
            let path = entry.path.clone();
            self.put(&mut own, layer, entry).map_err(|cause| cannot(&path, cause))?;
        }
        Ok(own)
    }

    /// What a mark stands for.
    fn read_mark(&self, mark: &Path) -> Result<Hidden> {
        let of_nothing = || Error::new("it is the mark of nothing that could be removed");
        let (above, name) = mark.split().ok_or_else(of_nothing)?;
        if above.names().iter().any(|name| name.starts_with(REMOVED)) {
            return Err(of_nothing());
        }
        let folder = self.resolve(&above)?;
        if name == OPAQUE {
            return Ok(Hidden { folder, removed: None });
        }
        match name.strip_prefix(REMOVED).filter(|_| !name.starts_with(AUFS)) {
            None | Some(b"" | b"." | b"..") => Err(of_nothing()),
            Some(name) => {
                let mut removed = folder.clone();
                removed.push(name)?;
                Ok(Hidden { folder, removed: Some(removed) })
            }
        }
    }

    /// Removes it. What is not there is left out.
    fn hide(&mut self, own: &mut Folder, Hidden { folder, removed }: &Hidden) {
        let Some((removed, (above, name))) =
            removed.as_ref().and_then(|it| Some((it, it.split()?)))
        else {
            self.hide_all(own, folder);
            return;
        };
        if self.whole.at(removed.names()).is_some() {
            own.make(above.names(), &self.whole).names.insert(name.to_vec(), Node::Removed);
            self.whole.make(above.names(), own).names.remove(name);
        }
    }

    /// Removes all that is in a folder.
    fn hide_all(&mut self, own: &mut Folder, folder: &Path) {
        if folder.names().is_empty() {
            // Overlayfs does not look for its mark on the root of a layer.
            let names = std::mem::take(&mut self.whole.names).into_keys();
            own.names.extend(names.map(|name| (name, Node::Removed)));
        } else if let Some(Node::Folder(_)) = self.whole.at(folder.names()) {
            own.make(folder.names(), &self.whole).opaque = true;
            self.whole.make(folder.names(), own).names.clear();
        }
    }

    fn put(&mut self, own: &mut Folder, layer: usize, entry: Entry) -> Result<()> {
        let Entry { path, what, meta, number } = entry;
        let Some((above, name)) = path.split() else {
            if what != What::Folder {
                return Err(Error::new("it is in the place of the root, and no folder"));
            }
            self.whole.meta = meta.clone();
            own.meta = meta;
            return Ok(());
        };
        let above = self.resolve(&above)?;
        let mut real = above.clone();
        real.push(name)?;
        // Which a link on the way may have led to.
        if is_mark(&real) {
            return Err(Error::new("its name stands for something that is removed"));
        }
        if real.names().iter().any(|name| name.starts_with(LEFT_OUT)) {
            return Err(Error::new("mkfs.erofs leaves out what is called lost+found"));
        }
        let kind = match what {
            What::Folder => {
                own.make(above.names(), &self.whole).folder(name, &meta).meta.clone_from(&meta);
                self.whole.make(above.names(), own).folder(name, &meta).meta.clone_from(&meta);
                return Ok(());
            }
            What::Link(target) => return self.link(own, &above, name, &target),
            What::File(size) => Kind::File { layer, entry: number, size },
            What::Symlink(target) => Kind::Symlink(target),
            What::Char(major, minor) => Kind::Char(major, minor),
            What::Block(major, minor) => Kind::Block(major, minor),
            What::Fifo => Kind::Fifo,
        };
        self.name(own, &above, name, self.inodes.len());
        self.inodes.push(Inode { kind, meta });
        Ok(())
    }

    /// Gives a file one more name.
    fn link(&mut self, own: &mut Folder, above: &Path, name: &[u8], target: &Path) -> Result<()> {
        let nothing = || Error::new(format!("it links to {target}, which is no file"));
        let (target_above, target_name) = target.split().ok_or_else(nothing)?;
        let mut real = self.resolve(&target_above)?;
        let folder = real.clone();
        real.push(target_name)?;
        let Some(Node::Inode(inode)) = self.whole.at(real.names()) else {
            return Err(nothing());
        };
        let inode = *inode;
        // Where the other name is in a layer below, it comes up, too: as overlayfs does it.
        self.name(own, &folder, target_name, inode);
        self.name(own, above, name, inode);
        Ok(())
    }

    /// Lets a name stand for a file, whatever it stood for.
    fn name(&mut self, own: &mut Folder, above: &Path, name: &[u8], inode: usize) {
        let node = || Node::Inode(inode);
        own.make(above.names(), &self.whole).names.insert(name.to_vec(), node());
        self.whole.make(above.names(), own).names.insert(name.to_vec(), node());
    }

    /// Where a path leads when the links on its way are followed, as they are in the image: an absolute
    /// one begins at the image's root. What is not there is taken for folders to come.
    fn resolve(&self, path: &Path) -> Result<Path> {
        let mut todo: VecDeque<Vec<u8>> = path.names().iter().cloned().collect();
        let mut real = Path::default();
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            match &*name {
                b"" | b"." => continue,
                b".." => {
                    real.pop()
                        .ok_or_else(|| Error::new("a link on its way leads out of the image"))?;
                    continue;
                }
                name => real.push(name)?,
            }
            match self.whole.at(real.names()) {
                None | Some(Node::Folder(_) | Node::Removed) => {}
                Some(Node::Inode(inode)) => {
                    let Some(Kind::Symlink(target)) =
                        self.inodes.get(*inode).map(|inode| &inode.kind)
                    else {
                        return Err(Error::new(format!("{real} on its way is no folder")));
                    };
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Error::new("there are too many links on its way"));
                    }
                    real.pop();
                    if target.starts_with(b"/") {
                        real = Path::default();
                    }
                    for name in target.split(|byte| *byte == b'/').rev() {
                        todo.push_front(name.to_vec());
                    }
                }
            }
        }
        Ok(real)
    }
}

fn is_mark(path: &Path) -> bool {
    path.names().iter().any(|name| name.starts_with(REMOVED))
}

#[cfg(test)]
mod tests;
