//! Layers that are not those of the command line, and command lines that were cut.

use crate::kit::artefacts::initramfs_of_layers;
use crate::kit::kernel::{Kernel, WORDS};
use crate::kit::layer::{Layer, image, word};
use crate::kit::root::{Node, Root};
use crate::kit::tool::Scratch;
use crate::layers::{ENGINE, LINE, MIB, all, with_cow, with_layers};
use crate::refused::refusal;
use crate::volume_disk::blank;
use std::fs;

/// What a guest is refused for whose layers are these.
#[track_caller]
fn refused(layers: &[&Layer], words: &str) -> String {
    let scratch = Scratch::new("refused");
    let cow = blank(scratch.path(), "cow", 64 * MIB);
    let vm = with_cow(with_layers(layers), &cow)
        .initramfs(initramfs_of_layers(Kernel::RUNNING, ""))
        .append(words)
        .append("cvm.timeout=5 quiet");
    let reason = refusal(vm);
    let untouched = fs::read(&cow).unwrap().iter().all(|&byte| byte == 0);
    assert!(untouched, "the disk for what is written was written to");
    reason
}

#[test]
fn a_layer_that_was_altered_ends_the_boot() {
    let image = image();
    let words = format!("{ENGINE} {}", word(&all()));
    let unmatched = "the top hash block does not match the root hash: its digest is ";
    let missing = |number: usize| {
        format!(
            "disk: no disk with serial \"cocoon-layer{}\" or another that proves layer {number} \
             within 5 s; ",
            2 - number
        )
    };
    for (number, disk) in ["vdc", "vdb", "vda"].into_iter().enumerate() {
        let layer = &image[number];
        // The magic, read through dm-verity; the tree; the salt in the superblock.
        for (offset, expected) in [
            (
                1024,
                format!("root: cannot read layer {number}'s superblock: I/O error (os error 5)"),
            ),
            (
                layer.tree() + 4096,
                format!("{}{disk} for layer {number}: {unmatched}", missing(number)),
            ),
            (
                layer.tree() + 88,
                format!("{}{disk} for layer {number}: {unmatched}", missing(number)),
            ),
        ] {
            let altered = layer.altered(offset);
            let mut layers = all();
            layers[number] = &altered;
            let reason = refused(&layers, &words);
            assert!(reason.starts_with(&expected), "{number} {offset}: {reason}");
        }
    }
}

/// Who starts the kernel may leave off the end of a line that is too long, and say nothing.
#[test]
fn a_line_that_is_cut_where_it_is_too_long_ends_the_boot() {
    let scratch = Scratch::new("cut");
    let cow = blank(scratch.path(), "cow", 64 * MIB);
    let cut = |off: usize| {
        let line = format!("{ENGINE} cvm.timeout=5 quiet {}", word(&all()));
        let used = WORDS.len() + " filler= ".len() + line.len();
        let mut line = format!("filler={} {line}", "f".repeat(LINE + off - used));
        line.truncate(LINE - WORDS.len() - 1);
        let vm = with_cow(with_layers(&all()), &cow);
        refusal(vm.initramfs(initramfs_of_layers(Kernel::RUNNING, "")).append(&line))
    };
    let [_, _, base] = image();
    let (proof, digits) = (base.proof().len(), base.blocks.to_string().len());
    // Within the last number of blocks, which is another then.
    let reason = cut(1);
    assert!(digits > 1 && reason.contains("that proves layer 2 within 5 s"), "{reason}");
    // The last layer with its comma.
    assert_eq!(
        cut(proof + 1),
        "config: cvm.layers= has 2, but cocoon.layers= has 3: was the command line cut?"
    );
    // Within its root hash.
    let reason = cut(digits + 20);
    assert!(reason.starts_with("config: cvm.layers="), "{reason}");
}

#[test]
fn layers_that_are_not_those_of_the_line_end_the_boot() {
    let [top, middle, base] = image();
    let other = Layer::of(Root::builder().empty().with(Node::file("other", "other\n")));
    let line = |layers: &[&Layer]| format!("{ENGINE} {}", word(layers));
    // One too few, as of a line that was cut.
    assert_eq!(
        refused(&all(), &line(&[top, middle])),
        "config: cvm.layers= has 2, but cocoon.layers= has 3: was the command line cut?"
    );
    // One that no disk has.
    let reason = refused(&all(), &line(&[top, &other, base]));
    let start = "disk: no disk with serial \"cocoon-layer1\" or another that proves layer 1 within \
                 5 s; vdb for layer 1: ";
    assert!(reason.starts_with(start), "{reason}");
    // A number of blocks that is another.
    let more = line(&[top, middle, base])
        .replace(&base.proof(), &format!("{}@{}", base.roothash, base.blocks + 1));
    let reason = refused(&all(), &more);
    assert!(reason.contains(" that proves layer 2 within 5 s; vda for layer 2: "), "{reason}");
    assert_eq!(
        refused(&all(), ENGINE),
        "config: cocoon.layers= without cvm.layers=: the layers are not verified, which \
         cvm.unverified=yes would allow"
    );
    assert_eq!(
        refused(&all(), &format!("{} cvm.cow=plain", line(&[top, middle, base]))),
        "config: cvm.cow=plain: what is on it is not verified, which cvm.unverified=yes would allow"
    );
}
