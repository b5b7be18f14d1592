//! What container tools write, of which an image build makes disks.

use std::collections::BTreeSet;

use cvm_tools::layer::{Folder, Image, Inode, What, entries, pack};

use super::{check_refusal, split_padded};

/// The length of a first layer, its archive, and that of a second.
pub fn layer(bytes: &[u8]) {
    let (length, rest) = split_padded::<2>(bytes);
    let (first, second) = rest.split_at(rest.len().min(u16::from_be_bytes(length).into()));
    let archives = [first, second];
    let mut image = Image::default();
    for archive in archives {
        let layer = match entries(archive).and_then(|entries| image.add(entries)) {
            Ok(layer) => layer,
            Err(error) => return check_refusal(&error),
        };
        packed(&layer, &image.inodes, &archives);
    }
    let whole = image.whole.alone();
    let once = packed(&whole, &image.inodes, &archives);

    // What is unpacked: every path once, below folders that are there, and by no link.
    let read = entries(&*once).expect("what was written can be read");
    let mut seen = BTreeSet::new();
    let mut folders = BTreeSet::new();
    for entry in &read {
        assert!(seen.insert(&entry.path), "{} is there twice", entry.path);
        if entry.what == What::Folder {
            folders.insert(entry.path.clone());
        }
        if let Some((above, name)) = entry.path.split() {
            assert!(folders.contains(&above), "{} is in no folder", entry.path);
            assert!(!name.starts_with(b".wh."), "{} is the mark of a removal", entry.path);
        }
        if let What::Link(target) = &entry.what {
            assert!(seen.contains(target), "{} links to nothing", entry.path);
        }
    }

    // As a layer it is the same tree again.
    let mut again = Image::default();
    again.add(read).expect("what was written is a layer");
    assert!(packed(&again.whole.alone(), &again.inodes, &[&once]) == once, "it is another tree");
}

fn packed(tree: &Folder, inodes: &[Inode], archives: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    let open = |layer: usize| Ok(archives[layer]);
    pack(tree, inodes, open, |_| Ok(()), &mut out).expect("a tree can be written");
    out
}
