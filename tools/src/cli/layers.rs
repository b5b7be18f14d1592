//! Reads an OCI image and makes of its layers what disks are made of.

use std::io::{self, BufWriter};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use cvm_init::error::{Error, Result};
use cvm_init::format::verity::SUPERBLOCK_SIZE;
use cvm_tools::disks::{self, Disk, Disks};
use cvm_tools::files::{self, unreadable};
use cvm_tools::layer::{self, pack};
use cvm_tools::oci::{Blob, Image, Platform, Source};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Check an OCI image and write what its layers hold
    Read(Read),
    /// Write down the disks that were made of the layers
    #[command(after_help = DESCRIBE_HELP)]
    Describe {
        /// Where the layers are
        dir: PathBuf,
    },
    /// Hold disks against what is written down of them
    #[command(after_help = CHECK_HELP)]
    Check {
        /// Where the layers are
        dir: PathBuf,
    },
}

const READ_HELP: &str = "\
Checks an OCI image, a folder or a tar, and writes into DIR what its layers hold, each as a tar whose
paths follow no link and leave no folder: layerN.tar, from the lowest, 0, on. What a layer removes is in
it as overlayfs has it. Prints a line for each: its name, the salt of its hash tree, and the latest time
in it.";

const DESCRIBE_HELP: &str = "\
Reads a line for each of the layers in DIR, root hash and number of data blocks, from standard input, and
writes layers.json, cmdline and cmdline.stock beside them.";

const CHECK_HELP: &str = "\
Holds cmdline, and the size and the superblock of each disk in DIR, against layers.json. Prints the words
by which cvm-init proves the disks, and a line for each, from the lowest on: its file, its root hash, and
the byte at which its hash area begins.";

#[derive(Args)]
#[command(after_help = READ_HELP)]
pub(crate) struct Read {
    /// Of the image, such as linux/amd64 (default: that of this machine)
    #[arg(long, default_value_t = Platform::host(), hide_default_value = true)]
    platform: Platform,
    /// One tar of all layers
    #[arg(long)]
    flatten: bool,
    /// Bytes of all layers, unpacked, at most
    #[arg(long, value_name = "BYTES", default_value_t = MAX_SIZE)]
    max_size: u64,
    /// The image
    image: PathBuf,
    /// Where the layers go
    dir: PathBuf,
}

/// What [`Command::Read`] leaves for [`Command::Describe`].
const IMAGE: &str = "image.json";
const MAX_SIZE: u64 = 16 << 30;

pub(crate) fn run(command: &Command) -> Result<()> {
    match command {
        Command::Read(read) => read.run(),
        Command::Describe { dir } => describe(dir),
        Command::Check { dir } => check(dir),
    }
}

impl Read {
    fn run(&self) -> Result<()> {
        let source = Source::open(&self.image)?;
        let image = Image::choose(&source, &self.platform)?;
        let disks = Disks::of(&image, self.flatten);
        disks.require_room()?;

        let mut tree = layer::Image::default();
        let mut layers = Vec::new();
        let mut left = self.max_size;
        for (number, layer) in image.layers.iter().enumerate() {
            let cannot = |cause| Error::cannot(&format!("use layer {number}"), &cause);
            let mut blob = Blob::open(&source, layer, left).map_err(cannot)?;
            let entries = layer::entries(&mut blob).map_err(cannot)?;
            left = left.saturating_sub(blob.finish().map_err(cannot)?);
            layers.push(tree.add(entries).map_err(cannot)?);
        }
        let layer::Image { inodes, whole, .. } = tree;
        if self.flatten {
            layers = vec![whole.alone()];
        }

        for (number, (folder, disk)) in layers.iter().zip(&disks.layers).enumerate() {
            let cannot = |cause| Error::cannot(&format!("read layer {number} again"), &cause);
            let open = |number: usize| {
                let layer =
                    image.layers.get(number).ok_or_else(|| Error::new("there is no such layer"))?;
                Blob::open(&source, layer, self.max_size)
            };
            let close = |blob: Blob| blob.finish().map(drop);
            let out = BufWriter::new(files::create(&self.dir.join(format!("layer{number}.tar")))?);
            let newest = pack(folder, &inodes, open, close, out).map_err(cannot)?;
            println!("layer{number} {} {newest}", disk.salt);
        }
        files::write(&self.dir.join(IMAGE), &json(&disks)?)
    }
}

fn describe(dir: &Path) -> Result<()> {
    let hashes = files::standard_input()?;
    let path = dir.join(IMAGE);
    let disks: Disks = serde_json::from_slice(&files::bytes(&path, "")?)
        .map_err(|cause| unreadable(&path, &cause))?;
    let disks = disks.hashed(&hashes)?;
    disks.require_room()?;
    for (name, text) in [
        (disks::FILE, json(&disks)?),
        (disks::CMDLINE, disks.words() + "\n"),
        ("cmdline.stock", disks.stock_words() + "\n"),
    ] {
        files::write(&dir.join(name), &text)?;
    }
    Ok(())
}

/// What is to be done about layers that are not as they were made.
const AGAIN: &str = "make the layers again with scripts/layers";

fn check(dir: &Path) -> Result<()> {
    let again = |cause: Error| Error::new(format!("{cause}; {AGAIN}"));
    let text = files::bytes(&dir.join(disks::FILE), "")?;
    let disks = Disks::read(&String::from_utf8_lossy(&text)).map_err(again)?;
    let words = disks.words();
    let cmdline = dir.join(disks::CMDLINE);
    if files::bytes(&cmdline, "").map_err(again)? != format!("{words}\n").as_bytes() {
        let cause = format_args!("it has not the words of {}", disks::FILE);
        return Err(again(Error::cannot(&format_args!("use {}", cmdline.display()), &cause)));
    }
    println!("{words}");
    for disk in &disks.layers {
        let path = dir.join(&disk.file);
        check_disk(disk, &path).map_err(again)?;
        println!("{} {} {}", disk.file, disk.root_hash, disk.hash_offset());
    }
    Ok(())
}

fn check_disk(disk: &Disk, path: &Path) -> Result<()> {
    let file = files::open(path, "")?;
    let bytes = file.metadata().map_err(|cause| unreadable(path, &cause))?.len();
    let mut superblock = [0; SUPERBLOCK_SIZE];
    match file.read_exact_at(&mut superblock, disk.hash_offset()) {
        // That there is none the size says better.
        Err(cause) if cause.kind() != io::ErrorKind::UnexpectedEof => {
            return Err(unreadable(path, &cause));
        }
        _ => {}
    }
    disk.check(bytes, &superblock)
        .map_err(|cause| Error::cannot(&format_args!("use {}", path.display()), &cause))
}

fn json(disks: &Disks) -> Result<String> {
    let text = serde_json::to_string_pretty(disks);
    text.map(|text| text + "\n").map_err(|cause| Error::cannot(&"write JSON", &cause))
}
