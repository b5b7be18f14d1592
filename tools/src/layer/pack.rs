//! A tree as an archive that an ordinary tool unpacks: each name once, folders first, every path as it
//! is, and no link on the way of any.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use cvm_init::error::{Error, Result};
use tar::{Builder, EntryType, Header};

use super::{Archive, Folder, Inode, Kind, Meta, Node, What};

/// Overlayfs' mark of a folder that has nothing of the layers below, and its value.
const OPAQUE: (&str, &[u8]) = ("trusted.overlay.opaque", b"y");
/// What has room in the fields of a header.
const FIELD: usize = 100;

/// A file and its names.
type Named<'a> = (&'a Inode, &'a [Vec<u8>]);

/// Writes `tree`. The bytes of its files are read from the archives of their layers, of which `open`
/// gives the one of a number; it has to hold what it held when the tree was made of it. Returns the
/// latest time in the tree.
///
/// # Errors
/// An archive cannot be read, is another than it was, or nothing can be written.
pub fn pack<R: Read>(
    tree: &Folder,
    inodes: &[Inode],
    mut open: impl FnMut(usize) -> Result<R>,
    mut close: impl FnMut(R) -> Result<()>,
    out: impl Write,
) -> Result<u64> {
    let mut names = BTreeMap::new();
    let mut packer = Packer { builder: Builder::new(out), newest: 0 };
    packer.folder(tree, &mut vec![b".".to_vec()], &mut names)?;

    // By layer and entry: the files whose bytes are still to be found.
    let mut wanted: BTreeMap<usize, BTreeMap<usize, Named>> = BTreeMap::new();
    for (inode, names) in &names {
        let inode = inodes.get(*inode).ok_or_else(changed)?;
        match &inode.kind {
            Kind::File { layer, entry, .. } => {
                wanted.entry(*layer).or_default().insert(*entry, (inode, names.as_slice()));
            }
            _ => packer.file(inode, names, io::empty())?,
        }
    }
    for (layer, mut wanted) in wanted {
        let mut archive = Archive::new(open(layer)?);
        while let Some(entry) = archive.next_entry()? {
            let Some((inode, names)) = wanted.remove(&entry.number) else {
                continue;
            };
            let (What::File(found), Kind::File { size, .. }) = (&entry.what, &inode.kind) else {
                return Err(changed());
            };
            if found != size {
                return Err(changed());
            }
            packer.file(inode, names, archive.data())?;
        }
        if !wanted.is_empty() {
            return Err(changed());
        }
        close(archive.into_inner())?;
    }
    let out = packer.builder.into_inner().and_then(|mut out| out.flush());
    out.map_err(|cause| unwritten(&cause))?;
    Ok(packer.newest)
}

struct Packer<W: Write> {
    builder: Builder<W>,
    newest: u64,
}

impl<W: Write> Packer<W> {
    /// A folder and those in it; into `names` goes what else is in them.
    fn folder(
        &mut self,
        folder: &Folder,
        path: &mut Vec<Vec<u8>>,
        names: &mut BTreeMap<usize, Vec<Vec<u8>>>,
    ) -> Result<()> {
        let mut header = self.header(EntryType::Directory, &folder.meta);
        let opaque = folder.opaque.then_some(OPAQUE);
        self.append(&mut header, &folder.meta, opaque, &path.join(&b'/'), None, io::empty())?;
        for (name, node) in &folder.names {
            path.push(name.clone());
            match node {
                Node::Folder(folder) => self.folder(folder, path, names)?,
                Node::Inode(inode) => names.entry(*inode).or_default().push(path.join(&b'/')),
                Node::Removed => self.removed(&path.join(&b'/'))?,
            }
            path.pop();
        }
        Ok(())
    }

    /// Overlayfs' mark of a name that is gone.
    fn removed(&mut self, path: &[u8]) -> Result<()> {
        let meta = Meta::default();
        let mut header = self.header(EntryType::Char, &meta);
        number(&mut header, 0, 0)?;
        self.append(&mut header, &meta, None, path, None, io::empty())
    }

    /// A file by its first name, then its other names.
    fn file(&mut self, inode: &Inode, names: &[Vec<u8>], data: impl Read) -> Result<()> {
        let Inode { kind, meta } = inode;
        let Some((first, others)) = names.split_first() else {
            return Ok(());
        };
        let (entry, size, device, target) = match kind {
            Kind::File { size, .. } => (EntryType::Regular, *size, None, None),
            Kind::Symlink(target) => (EntryType::Symlink, 0, None, Some(&**target)),
            Kind::Char(major, minor) => (EntryType::Char, 0, Some((*major, *minor)), None),
            Kind::Block(major, minor) => (EntryType::Block, 0, Some((*major, *minor)), None),
            Kind::Fifo => (EntryType::Fifo, 0, None, None),
        };
        let mut header = self.header(entry, meta);
        header.set_size(size);
        if let Some((major, minor)) = device {
            number(&mut header, major, minor)?;
        }
        self.append(&mut header, meta, None, first, target, data)?;
        for name in others {
            let mut header = self.header(EntryType::Link, meta);
            self.append(&mut header, &Meta::default(), None, name, Some(first), io::empty())?;
        }
        Ok(())
    }

    fn header(&mut self, kind: EntryType, meta: &Meta) -> Header {
        self.newest = self.newest.max(meta.mtime);
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(meta.mode);
        header.set_uid(meta.uid.into());
        header.set_gid(meta.gid.into());
        header.set_mtime(meta.mtime);
        header.set_size(0);
        header
    }

    /// One entry, and before it what has no room in its header. The crate's own ways to set a path
    /// would alter some targets of links.
    fn append(
        &mut self,
        header: &mut Header,
        meta: &Meta,
        more: Option<(&str, &[u8])>,
        path: &[u8],
        target: Option<&[u8]>,
        data: impl Read,
    ) -> Result<()> {
        let xattrs = meta.xattrs.iter().map(|(name, value)| (&**name, &**value)).chain(more);
        let xattrs: Vec<_> =
            xattrs.map(|(name, value)| (format!("SCHILY.xattr.{name}"), value)).collect();
        let xattrs = xattrs.iter().map(|(key, value)| (&**key, *value));
        self.builder.append_pax_extensions(xattrs).map_err(|cause| unwritten(&cause))?;
        let fields = header.as_old_mut();
        for (kind, field, text) in [
            (EntryType::GNULongName, &mut fields.name, Some(path)),
            (EntryType::GNULongLink, &mut fields.linkname, target),
        ] {
            let text = text.unwrap_or_default();
            if let Some(field) = field.get_mut(..text.len()).filter(|_| text.len() < FIELD) {
                field.copy_from_slice(text);
            } else {
                self.long(kind, text)?;
            }
        }
        header.set_cksum();
        self.builder.append(header, data).map_err(|cause| unwritten(&cause))
    }

    /// GNU's entry for a name that is too long for the header behind it.
    fn long(&mut self, kind: EntryType, text: &[u8]) -> Result<()> {
        let mut header = self.header(kind, &Meta::default());
        header.set_size(text.len() as u64 + 1);
        header.set_cksum();
        self.builder.append(&header, text.chain(&b"\0"[..])).map_err(|cause| unwritten(&cause))
    }
}

fn number(header: &mut Header, major: u32, minor: u32) -> Result<()> {
    let set = header.set_device_major(major).and_then(|()| header.set_device_minor(minor));
    set.map_err(|cause| unwritten(&cause))
}

fn unwritten(cause: &io::Error) -> Error {
    Error::cannot(&"copy it", cause)
}

fn changed() -> Error {
    Error::new("it has changed while it was read")
}
