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
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(path: &str, what: What) -> Entry {
        let meta = Meta { mode: 0o700, ..Meta::default() };
        Entry { path: Path::parse(path.as_bytes()).unwrap(), what, meta, number: 0 }
    }

    fn folder(path: &str) -> Entry {
        entry(path, What::Folder)
    }

    fn file(path: &str) -> Entry {
        entry(path, What::File(0))
    }

    fn symlink(path: &str, target: &str) -> Entry {
        entry(path, What::Symlink(target.as_bytes().to_vec()))
    }

    fn link(path: &str, target: &str) -> Entry {
        entry(path, What::Link(Path::parse(target.as_bytes()).unwrap()))
    }

    /// A tree in words: a slash for a folder, an exclamation mark where it is opaque, a minus for what
    /// is removed, and the number of a file.
    fn drawn(folder: &Folder) -> String {
        let names = folder.names.iter().map(|(name, node)| {
            let name = String::from_utf8_lossy(name);
            match node {
                Node::Folder(folder) if folder.opaque => format!("{name}/!{}", drawn(folder)),
                Node::Folder(folder) => format!("{name}/{}", drawn(folder)),
                Node::Inode(inode) => format!("{name}={inode}"),
                Node::Removed => format!("-{name}"),
            }
        });
        format!("({})", names.collect::<Vec<_>>().join(" "))
    }

    /// The trees of the layers, and that of all.
    fn layered(layers: Vec<Vec<Entry>>) -> (Vec<String>, String) {
        let mut image = Image::default();
        let layers =
            layers.into_iter().map(|entries| drawn(&image.add(entries).unwrap())).collect();
        (layers, drawn(&image.whole.alone()))
    }

    #[test]
    fn a_layer_says_what_it_removes_of_those_below() {
        let below = || vec![folder("a"), file("a/x"), file("a/y"), file("b")];
        for (above, layer, whole) in [
            (vec![file("a/.wh.x")], "(a/(-x))", "(a/(y=1) b=2)"),
            (vec![file(".wh.a")], "(-a)", "(b=2)"),
            (vec![file(".wh.b"), file(".wh.nothing"), file("no/.wh.x")], "(-b)", "(a/(x=0 y=1))"),
            (vec![file("a/.wh..wh..opq")], "(a/!())", "(a/() b=2)"),
            (vec![file(".wh..wh..opq"), file("c")], "(-a -b c=3)", "(c=3)"),
            // In any order; what the layer itself has stays.
            (vec![file("a/z"), file("a/.wh..wh..opq")], "(a/!(z=3))", "(a/(z=3) b=2)"),
            (vec![folder("a"), file(".wh.a"), file("a/z")], "(a/!(z=3))", "(a/(z=3) b=2)"),
            (vec![file("a/z"), file(".wh.a")], "(a/!(z=3))", "(a/(z=3) b=2)"),
            (vec![file(".wh.a"), file("a/.wh..wh..opq")], "(-a)", "(b=2)"),
            (vec![file("a/.wh..wh..opq"), file(".wh.a")], "(-a)", "(b=2)"),
            // One thing in place of another.
            (vec![file("a")], "(a=3)", "(a=3 b=2)"),
            (vec![folder("b")], "(b/())", "(a/(x=0 y=1) b/())"),
            (vec![file("a"), folder("a")], "(a/!())", "(a/() b=2)"),
            (vec![folder("c"), file("c"), file("c")], "(c=4)", "(a/(x=0 y=1) b=2 c=4)"),
        ] {
            let (layers, all) = layered(vec![below(), above.clone()]);
            assert_eq!((&*layers[1], &*all), (layer, whole), "{above:?}");
        }
    }

    /// Of a folder that is gone nothing can be removed, and no folder is made for that.
    #[test]
    fn what_is_removed_twice_is_removed_once() {
        for (above, layer) in [
            (vec![file("a/b/.wh.x"), file("a/.wh..wh..opq")], "(a/!())"),
            (vec![file("a/b/.wh..wh..opq"), file("a/.wh..wh..opq")], "(a/!())"),
            (vec![file("a/b/.wh.x"), file("a/.wh.b")], "(a/(-b))"),
            (vec![file("l/.wh.x"), file("a/.wh.b")], "(a/(-b))"),
        ] {
            let below = vec![file("a/b/x"), symlink("l", "a/b")];
            let (layers, all) = layered(vec![below, above.clone()]);
            assert_eq!((&*layers[1], &*all), (layer, "(a/() l=1)"), "{above:?}");
        }
    }

    #[test]
    fn links_on_the_way_are_followed_within_the_image() {
        let below = || {
            vec![
                folder("usr/lib"),
                symlink("lib", "usr/lib"),
                symlink("abs", "/usr"),
                file("usr/f"),
            ]
        };
        for (above, layer) in [
            (vec![file("lib/x")], "(usr/(lib/(x=3)))"),
            (vec![file("abs/lib/x")], "(usr/(lib/(x=3)))"),
            (vec![file("lib/.wh.x"), file("abs/.wh.f")], "(usr/(-f))"),
            (vec![link("x", "abs/f")], "(usr/(f=2) x=2)"),
            (vec![symlink("lib", "/abs/lib/../lib"), file("lib/x")], "(lib=3 usr/(lib/(x=4)))"),
            // The last name is the entry's own.
            (vec![file("lib")], "(lib=3)"),
            (vec![folder("lib"), file("lib/x")], "(lib/(x=3))"),
            (vec![link("y", "lib")], "(lib=0 y=0)"),
        ] {
            let (layers, _) = layered(vec![below(), above.clone()]);
            assert_eq!(layers[1], layer, "{above:?}");
        }
    }

    #[test]
    fn names_that_mean_something_else_are_refused_by_whatever_way() {
        for (entries, why) in [
            (vec![folder("a/lost+found")], "leaves out what is called lost+found"),
            (vec![symlink("a", "lost+found"), file("a/x")], "leaves out what is called lost+found"),
            (vec![symlink("a", ".wh.b"), file("a/x")], "stands for something that is removed"),
            (vec![symlink("a", ".wh.b/../c"), file("a/.wh.x")], ""),
            (vec![file(".wh..wh.aufs")], "the mark of nothing"),
        ] {
            let refusal = Image::default().add(entries.clone()).err();
            let refusal = refusal.map(|refusal| refusal.to_string()).unwrap_or_default();
            assert!(refusal.contains(why) && refusal.is_empty() == why.is_empty(), "{refusal:?}");
        }
    }

    #[test]
    fn folders_that_a_layer_does_not_name_are_as_below() {
        let mut image = Image::default();
        image.add(vec![folder("./"), folder("a")]).unwrap();
        let own = image.add(vec![file("a/b/x")]).unwrap();
        let Some(Node::Folder(a)) = own.names.get(&b"a"[..]) else { panic!("no a") };
        let Some(Node::Folder(b)) = a.names.get(&b"b"[..]) else { panic!("no b") };
        assert_eq!((own.meta.mode, a.meta.mode, b.meta.mode), (0o700, 0o700, 0o755));
    }

    /// What overlayfs shows of one layer on another.
    fn overlaid(mut lower: Folder, upper: &Folder) -> Folder {
        lower.meta = upper.meta.clone();
        for (name, node) in &upper.names {
            let node = match (lower.names.remove(name), node) {
                (_, Node::Removed) => continue,
                (Some(Node::Folder(below)), Node::Folder(folder)) if !folder.opaque => {
                    Node::Folder(overlaid(below, folder))
                }
                (_, Node::Folder(folder)) => Node::Folder(folder.clone().alone()),
                (_, Node::Inode(inode)) => Node::Inode(*inode),
            };
            lower.names.insert(name.clone(), node);
        }
        lower
    }

    fn some_path() -> impl Strategy<Value = String> {
        proptest::collection::vec("a|b|c", 1..4).prop_map(|names| names.join("/"))
    }

    fn some_entry() -> impl Strategy<Value = Entry> {
        let target =
            prop_oneof![some_path(), Just("..".into()), Just("/".into()), Just("../b".into())];
        prop_oneof![
            3 => some_path().prop_map(|path| folder(&path)),
            3 => some_path().prop_map(|path| file(&path)),
            1 => (some_path(), target).prop_map(|(path, target)| symlink(&path, &target)),
            1 => (some_path(), some_path()).prop_map(|(path, target)| link(&path, &target)),
            1 => some_path().prop_map(|path| file(&format!("{path}/.wh..wh..opq"))),
            1 => (some_path(), "a|b|c").prop_map(|(path, name)| file(&format!("{path}/.wh.{name}"))),
            1 => "a|b|c".prop_map(|name| file(&format!(".wh.{name}"))),
            1 => Just(file(".wh..wh..opq")),
        ]
    }

    proptest! {
        #[test]
        fn the_layers_on_top_of_each_other_are_the_whole(
            layers in proptest::collection::vec(proptest::collection::vec(some_entry(), 0..8), 1..5),
        ) {
            let mut image = Image::default();
            let mut shown = Folder::new(Meta::of_unnamed_folder());
            for mut entries in layers {
                // Some cannot be put there.
                let own = loop {
                    let mut next = image.clone();
                    match next.add(entries.clone()) {
                        Ok(own) => {
                            image = next;
                            break own;
                        }
                        Err(_) => drop(entries.pop()),
                    }
                };
                shown = overlaid(shown, &own);
                prop_assert_eq!(drawn(&shown), drawn(&image.whole.clone().alone()));
                prop_assert_eq!(&shown, &image.whole.clone().alone());
            }
        }
    }
}
