//! Archives of layers, as container tools write them and as nobody should.

use tar::{Builder, EntryType, Header};

/// An entry. What is not said of it is a file of root's without content, of 2023.
#[derive(Clone, Copy)]
pub(crate) struct Item<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) kind: EntryType,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) time: u64,
    pub(crate) target: &'a [u8],
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: &'a [(&'a str, &'a [u8])],
    pub(crate) data: &'a [u8],
}

pub(crate) const TIME: u64 = 1_700_000_000;

pub(crate) const FILE: Item = Item {
    name: b"",
    kind: EntryType::Regular,
    mode: 0o644,
    owner: (0, 0),
    time: TIME,
    target: b"",
    device: (0, 0),
    xattrs: &[],
    data: b"",
};

pub(crate) fn file<'a>(name: &'a str, data: &'a [u8]) -> Item<'a> {
    Item { name: name.as_bytes(), data, ..FILE }
}

pub(crate) fn folder(name: &str, mode: u32) -> Item<'_> {
    Item { name: name.as_bytes(), kind: EntryType::Directory, mode, ..FILE }
}

pub(crate) fn symlink<'a>(name: &'a str, target: &'a str) -> Item<'a> {
    let (name, target) = (name.as_bytes(), target.as_bytes());
    Item { name, target, kind: EntryType::Symlink, mode: 0o777, ..FILE }
}

pub(crate) fn link<'a>(name: &'a str, target: &'a str) -> Item<'a> {
    Item { name: name.as_bytes(), target: target.as_bytes(), kind: EntryType::Link, ..FILE }
}

pub(crate) fn device(name: &str, kind: EntryType, device: (u32, u32)) -> Item<'_> {
    Item { name: name.as_bytes(), kind, device, mode: 0o666, ..FILE }
}

/// What removes something of the layers below.
pub(crate) fn mark(name: &str) -> Item<'_> {
    file(name, b"")
}

/// The archive of these.
pub(crate) fn tar(items: &[Item]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for item in items {
        let mut header = Header::new_ustar();
        header.set_entry_type(item.kind);
        header.set_mode(item.mode);
        header.set_uid(item.owner.0.into());
        header.set_gid(item.owner.1.into());
        header.set_mtime(item.time);
        header.set_size(item.data.len() as u64);
        header.set_device_major(item.device.0).unwrap();
        header.set_device_minor(item.device.1).unwrap();
        let mut pax: Vec<(String, &[u8])> = Vec::new();
        let fields = header.as_old_mut();
        for (key, field, text) in
            [("path", &mut fields.name, item.name), ("linkpath", &mut fields.linkname, item.target)]
        {
            if text.len() <= 100 {
                field[..text.len()].copy_from_slice(text);
            } else {
                pax.push((key.to_owned(), text));
            }
        }
        pax.extend(
            item.xattrs.iter().map(|(name, value)| (format!("SCHILY.xattr.{name}"), *value)),
        );
        builder.append_pax_extensions(pax.iter().map(|(key, value)| (&**key, *value))).unwrap();
        header.set_cksum();
        builder.append(&header, item.data).unwrap();
    }
    builder.into_inner().unwrap()
}
