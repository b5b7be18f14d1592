//! Reads an OCI image and makes of its layers what disks are made of.

use std::env;
use std::ffi::OsString;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::ExitCode;

use cvm_init::error::{Error, Result};
use cvm_init::format::verity::SUPERBLOCK_SIZE;
use cvm_tools::disks::{self, Disk, Disks};
use cvm_tools::layer::{self, pack};
use cvm_tools::oci::{Blob, Image, Platform, Source};

const USAGE: &str = "usage: cvm-layers read [--platform PLATFORM] [--flatten] [--max-size BYTES] IMAGE DIR
       cvm-layers describe DIR
       cvm-layers check DIR

read checks an OCI image, a folder or a tar, and writes into DIR what its layers hold, each as a tar
whose paths follow no link and leave no folder: layerN.tar, from the lowest, 0, on. What a layer removes
is in it as overlayfs has it. Prints a line for each: its name, the salt of its hash tree, and the latest
time in it.

  --platform PLATFORM   of the image, such as linux/amd64 (default: that of this machine)
  --flatten             one tar of all layers
  --max-size BYTES      of all layers, unpacked, at most (default: 17179869184, 16 GiB)

describe reads a line for each of the layers in DIR, root hash and number of data blocks, from standard
input, and writes layers.json, cmdline and cmdline.stock beside them.

check holds cmdline, and the size and the superblock of each disk in DIR, against layers.json. Prints the
words by which cvm-init proves the disks, and a line for each, from the lowest on: its file, its root hash,
and the byte at which its hash area begins.

Exit status 0; 1 with the reason on standard error; 2 when the command line is wrong.";

/// What [`read`] leaves for [`describe`].
const IMAGE: &str = "image.json";
const MAX_SIZE: u64 = 16 << 30;

fn main() -> ExitCode {
    let Ok(arguments) = env::args_os()
        .skip(1)
        .map(OsString::into_string)
        .collect::<std::result::Result<Vec<_>, _>>()
    else {
        return wrong(&Error::new("an argument is not UTF-8"));
    };
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["--help" | "-h"] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        ["read", ref flags @ .., image, dir] => match Flags::parse(flags) {
            Ok(flags) => flags.read(Path::new(image), Path::new(dir)),
            Err(reason) => return wrong(&reason),
        },
        ["describe", dir] => describe(Path::new(dir)),
        ["check", dir] => check(Path::new(dir)),
        _ => return wrong(&Error::new(USAGE)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}

fn wrong(reason: &Error) -> ExitCode {
    eprintln!("{reason}");
    ExitCode::from(2)
}

struct Flags {
    platform: Platform,
    flatten: bool,
    max_size: u64,
}

impl Flags {
    fn parse(mut flags: &[&str]) -> Result<Self> {
        let mut parsed = Self { platform: Platform::host(), flatten: false, max_size: MAX_SIZE };
        loop {
            flags = match flags {
                [] => return Ok(parsed),
                ["--flatten", rest @ ..] => {
                    parsed.flatten = true;
                    rest
                }
                ["--platform", platform, rest @ ..] => {
                    parsed.platform = platform.parse()?;
                    rest
                }
                ["--max-size", bytes, rest @ ..] => {
                    let wrong = |_| Error::new(format!("{bytes:?} is no number of bytes"));
                    parsed.max_size = bytes.parse().map_err(wrong)?;
                    rest
                }
                _ => return Err(Error::new(USAGE)),
            };
        }
    }

    fn read(&self, image: &Path, dir: &Path) -> Result<()> {
        let source = Source::open(image)?;
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
            let out = BufWriter::new(create(&dir.join(format!("layer{number}.tar")))?);
            let newest = pack(folder, &inodes, open, close, out).map_err(cannot)?;
            println!("layer{number} {} {newest}", disk.salt);
        }
        write(&dir.join(IMAGE), &json(&disks)?)
    }
}

fn describe(dir: &Path) -> Result<()> {
    let mut hashes = String::new();
    let read = io::stdin().read_to_string(&mut hashes);
    read.map_err(|cause| Error::cannot(&"read standard input", &cause))?;
    let path = dir.join(IMAGE);
    let disks: Disks =
        serde_json::from_slice(&bytes_of(&path)?).map_err(|cause| cannot_read(&path, &cause))?;
    let disks = disks.hashed(&hashes)?;
    disks.require_room()?;
    for (name, text) in [
        (disks::FILE, json(&disks)?),
        (disks::CMDLINE, disks.words() + "\n"),
        ("cmdline.stock", disks.stock_words() + "\n"),
    ] {
        write(&dir.join(name), &text)?;
    }
    Ok(())
}

/// What is to be done about layers that are not as they were made.
const AGAIN: &str = "make the layers again with scripts/layers";

fn check(dir: &Path) -> Result<()> {
    let again = |cause: Error| Error::new(format!("{cause}; {AGAIN}"));
    let text = bytes_of(&dir.join(disks::FILE))?;
    let disks = Disks::read(&String::from_utf8_lossy(&text)).map_err(again)?;
    let words = disks.words();
    let cmdline = dir.join(disks::CMDLINE);
    if bytes_of(&cmdline).map_err(again)? != format!("{words}\n").as_bytes() {
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
    let file = File::open(path).map_err(|cause| cannot_read(path, &cause))?;
    let bytes = file.metadata().map_err(|cause| cannot_read(path, &cause))?.len();
    let mut superblock = [0; SUPERBLOCK_SIZE];
    match file.read_exact_at(&mut superblock, disk.hash_offset()) {
        // That there is none the size says better.
        Err(cause) if cause.kind() != io::ErrorKind::UnexpectedEof => {
            return Err(cannot_read(path, &cause));
        }
        _ => {}
    }
    disk.check(bytes, &superblock)
        .map_err(|cause| Error::cannot(&format_args!("use {}", path.display()), &cause))
}

fn cannot_read(path: &Path, cause: &dyn Display) -> Error {
    Error::cannot(&format_args!("read {}", path.display()), cause)
}

fn bytes_of(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|cause| cannot_read(path, &cause))
}

fn json(disks: &Disks) -> Result<String> {
    let text = serde_json::to_string_pretty(disks);
    text.map(|text| text + "\n").map_err(|cause| Error::cannot(&"write JSON", &cause))
}

fn create(path: &Path) -> Result<File> {
    File::create(path).map_err(|cause| Error::cannot(&format!("write {}", path.display()), &cause))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)
        .map_err(|cause| Error::cannot(&format!("write {}", path.display()), &cause))
}
