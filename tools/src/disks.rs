//! Layers as disks: what is written down about them, and the words by which they are booted.

use std::fmt::Display;

use cvm_init::error::{Error, Result};
use cvm_init::format::hex;
use cvm_init::format::verity::{Areas, HashOffset, Params, SUPERBLOCK_SIZE};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::oci::{self, Digest};

/// A reader has to know it, and refuse any other.
pub const VERSION: u32 = 1;
/// The file that these are written down in.
pub const FILE: &str = "layers.json";
/// The file of [`Disks::words`], beside it.
pub const CMDLINE: &str = "cmdline";

/// The kernel's `COMMAND_LINE_SIZE` on x86, less the NUL. What is longer is cut off without a word.
const LINE_MAX: usize = 2047;
/// What stands beside [`Disks::stock_words`] on the line that Cocoon's engine writes for a guest with
/// one network device, at most (its `hypervisor/utils.go`): `console=hvc0 loglevel=3`,
/// `clocksource=kvm-clock rw`, `net.ifnames=0`, `cocoon.hostname=` and `ip=` with a name of 63
/// characters in both.
const ENGINE_MAX: usize = 300;
/// What a hash tree is over, at least: that of a single block would have no top that proves it.
const BLOCKS_MIN: u64 = 2;

/// The disks of an image. Written as `layers.json`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Disks {
    /// [`VERSION`].
    pub version: u32,
    /// Digest of the image's manifest, where it has one.
    pub image_digest: Option<Digest>,
    /// Digest of its configuration.
    pub config_digest: Digest,
    /// What it is for: `linux/amd64`.
    pub platform: String,
    /// What a container of it runs, for information.
    pub entrypoint: Vec<String>,
    /// The same: the arguments of that, or what it runs.
    pub cmd: Vec<String>,
    /// Whether all layers were made one.
    pub flattened: bool,
    /// From the lowest to the topmost.
    pub layers: Vec<Disk>,
}

/// A disk: a file system, and behind it its hash tree.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Disk {
    /// Digest of the layer's blob; of all layers made one there is none.
    pub digest: Option<Digest>,
    /// Digest of the layer, unpacked; the same.
    pub diff_id: Option<Digest>,
    /// The file of the disk.
    pub file: String,
    /// The root hash, 64 digits.
    pub root_hash: String,
    /// Blocks of 4096 bytes before the tree.
    pub data_blocks: u64,
    /// The salt of the tree, 64 digits: what identifies the layer together with those below it
    /// (`ChainID`), so that the same image has the same tree.
    pub salt: String,
    /// By this a guest finds the disk.
    pub serial: String,
}

impl Disks {
    /// Those of an image, without the hashes, which are known when the disks are made.
    #[must_use]
    pub fn of(image: &oci::Image, flattened: bool) -> Self {
        let mut below = None;
        let chains: Vec<_> =
            image.layers.iter().map(|layer| *below.insert(layer.diff_id.chained(below))).collect();
        let one = |number: usize, layer: Option<&oci::Layer>, chain: &Digest| Disk {
            digest: layer.map(|layer| layer.digest),
            diff_id: layer.map(|layer| layer.diff_id),
            file: file_of(number),
            root_hash: String::new(),
            data_blocks: 0,
            salt: chain.hex(),
            serial: format!("cocoon-layer{number}"),
        };
        let layers = if flattened {
            chains.last().map(|chain| one(0, None, chain)).into_iter().collect()
        } else {
            let layers = image.layers.iter().zip(&chains).enumerate();
            layers.map(|(number, (layer, chain))| one(number, Some(layer), chain)).collect()
        };
        Self {
            version: VERSION,
            image_digest: image.digest,
            config_digest: image.config,
            platform: image.platform.to_string(),
            entrypoint: image.entrypoint.clone(),
            cmd: image.cmd.clone(),
            flattened,
            layers,
        }
    }

    /// Reads what was written down.
    ///
    /// # Errors
    /// It is none of these, of another version, or of no image's layers.
    pub fn read(text: &str) -> Result<Self> {
        let cannot = |cause: &dyn Display| Error::cannot(&format_args!("read {FILE}"), cause);
        let value: Value = serde_json::from_str(text).map_err(|error| cannot(&error))?;
        let version = value.get("version").cloned().unwrap_or_default();
        if version != VERSION {
            return Err(cannot(&format_args!(
                "it is of version {version}, and {VERSION} is known"
            )));
        }
        let disks: Self = serde_json::from_value(value).map_err(|error| cannot(&error))?;
        if disks.layers.is_empty() {
            return Err(cannot(&"it has no layers"));
        }
        for (number, disk) in disks.layers.iter().enumerate() {
            // Other names could lead anywhere.
            if disk.file != file_of(number) || !is_hash(&disk.root_hash) {
                return Err(cannot(&format_args!(
                    "layer {number} is no {} with a root hash",
                    file_of(number)
                )));
            }
        }
        Ok(disks)
    }

    /// Adds what `hashes` says of each disk, from the lowest on: a root hash and a number of blocks a
    /// line.
    ///
    /// # Errors
    /// There are more or fewer lines, or they say something else.
    pub fn hashed(mut self, hashes: &str) -> Result<Self> {
        let lines: Vec<_> = hashes.lines().collect();
        if lines.len() != self.layers.len() {
            let (lines, disks) = (lines.len(), self.layers.len());
            return Err(Error::new(format!("there are {lines} root hashes for {disks} layers")));
        }
        for (disk, line) in self.layers.iter_mut().zip(lines) {
            let (hash, blocks) = line.split_once(' ').unwrap_or_default();
            let blocks = blocks.parse().ok().filter(|blocks| *blocks >= BLOCKS_MIN);
            let (true, Some(blocks)) = (is_hash(hash), blocks) else {
                return Err(Error::new(format!("{line:?} is no root hash and number of blocks")));
            };
            (disk.root_hash, disk.data_blocks) = (hash.to_owned(), blocks);
        }
        Ok(self)
    }

    /// The words by which cvm-init proves the layers, the topmost first.
    #[must_use]
    pub fn words(&self) -> String {
        let hashes = self.joined(|disk| format!("{}@{}", disk.root_hash, disk.data_blocks));
        format!("cvm.layers={hashes}")
    }

    /// The words by which Cocoon's engine names the same disks.
    #[must_use]
    pub fn stock_words(&self) -> String {
        let serials = self.joined(|disk| disk.serial.clone());
        format!("boot=cocoon-overlay cocoon.layers={serials} cocoon.cow=cocoon-cow")
    }

    /// Stops at more layers than a command line has room for, beside all that Cocoon's engine adds.
    ///
    /// # Errors
    /// There are more.
    pub fn require_room(&self) -> Result<()> {
        let room = LINE_MAX.saturating_sub(ENGINE_MAX);
        let characters = self.characters();
        if characters <= room {
            return Ok(());
        }
        let mut fewer = self.clone();
        while fewer.characters() > room && fewer.layers.pop().is_some() {}
        Err(Error::new(format!(
            "the words of {} layers have {characters} characters, and the kernel takes {LINE_MAX}, of which \
             Cocoon may need {ENGINE_MAX}: {} layers fit; --flatten makes one of them",
            self.layers.len(),
            fewer.layers.len()
        )))
    }

    /// Those of all words, with a blank between, when each disk has its hash.
    fn characters(&self) -> usize {
        let hashes = self.layers.iter().map(|disk| 64_usize.saturating_sub(disk.root_hash.len()));
        self.words().len() + hashes.sum::<usize>() + 1 + self.stock_words().len()
    }

    fn joined(&self, word: impl Fn(&Disk) -> String) -> String {
        self.layers.iter().rev().map(word).collect::<Vec<_>>().join(",")
    }
}

impl Disk {
    /// The byte at which the hash area begins.
    #[must_use]
    pub fn hash_offset(&self) -> u64 {
        HashOffset::behind(self.data_blocks).bytes()
    }

    /// Holds a disk of so many bytes, and the superblock that it has at [`Disk::hash_offset`], against
    /// what is written down. What is hashed is not looked at.
    ///
    /// # Errors
    /// What is not the same.
    pub fn check(&self, bytes: u64, superblock: &[u8; SUPERBLOCK_SIZE]) -> Result<()> {
        let offset = HashOffset::behind(self.data_blocks);
        let areas = Areas::together(bytes, offset)?;
        let params = Params::from_superblock(superblock)?;
        let said = hex::encode(&params.salt);
        if (params.data_blocks, &said) != (self.data_blocks, &self.salt) {
            return Err(Error::new(format!(
                "its superblock has {} data blocks and salt {said}, but {FILE} has {} and {}",
                params.data_blocks, self.data_blocks, self.salt
            )));
        }
        params.require_room(&areas, areas.tree(true))
    }
}

/// What the disk of a layer is called.
fn file_of(number: usize) -> String {
    format!("layer{number}.img")
}

fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Image, Layer, Packing, Platform};

    fn image(layers: u8) -> Image {
        let layers = (0..layers).map(|number| Layer {
            digest: Digest::of(&[number]),
            diff_id: Digest::of(&[number, 1]),
            file: String::new(),
            packing: Packing::Gzip,
        });
        Image {
            digest: None,
            config: Digest::of(b"configuration"),
            platform: "linux/amd64".parse::<Platform>().unwrap(),
            entrypoint: Vec::new(),
            cmd: vec!["/sbin/init".to_owned()],
            layers: layers.collect(),
        }
    }

    fn hashes(layers: usize, blocks: u64) -> String {
        let lines = (0..layers).map(|number| format!("{number:064x} {blocks}"));
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_topmost_layer_comes_first() {
        let disks = Disks::of(&image(3), false).hashed(&hashes(3, 7)).unwrap();
        assert_eq!(disks.words(), format!("cvm.layers={:064x}@7,{:064x}@7,{:064x}@7", 2, 1, 0));
        assert_eq!(
            disks.stock_words(),
            "boot=cocoon-overlay cocoon.layers=cocoon-layer2,cocoon-layer1,cocoon-layer0 \
             cocoon.cow=cocoon-cow"
        );
        let files: Vec<_> = disks.layers.iter().map(|disk| &*disk.file).collect();
        assert_eq!(files, ["layer0.img", "layer1.img", "layer2.img"]);
        assert_eq!(disks.layers[1].digest, Some(Digest::of(&[1])));
    }

    #[test]
    fn a_salt_is_of_a_layer_and_all_below_it() {
        let (layered, flat) = (Disks::of(&image(3), false), Disks::of(&image(3), true));
        let [first, second] = [0, 1].map(|number| Digest::of(&[number, 1]));
        let both = Digest::of(format!("{first} {second}").as_bytes());
        assert_eq!(layered.layers[0].salt, first.hex());
        assert_eq!(layered.layers[1].salt, both.hex());
        assert_eq!(flat.layers.len(), 1);
        assert_eq!(flat.layers[0].salt, layered.layers[2].salt);
        assert_eq!((flat.layers[0].digest, flat.flattened), (None, true));
    }

    #[test]
    fn no_more_layers_are_taken_than_the_command_line_has_room_for() {
        for blocks in [2, 99_999] {
            let fit = (1..40).find(|layers| {
                let disks =
                    Disks::of(&image(*layers), false).hashed(&hashes((*layers).into(), blocks));
                disks.unwrap().require_room().is_err()
            });
            let fit = fit.unwrap() - 1;
            let disks = Disks::of(&image(fit), false).hashed(&hashes(fit.into(), blocks)).unwrap();
            let line = disks.words().len() + 1 + disks.stock_words().len() + ENGINE_MAX;
            assert!(line <= LINE_MAX && line + 90 > LINE_MAX, "{line}");
            let disks = Disks::of(&image(40), false).hashed(&hashes(40, blocks)).unwrap();
            let refusal = disks.require_room().unwrap_err().to_string();
            assert!(refusal.starts_with("the words of 40 layers have "), "{refusal}");
            assert!(
                refusal.ends_with(&format!(": {fit} layers fit; --flatten makes one of them")),
                "{refusal}"
            );
        }
        // Too many are told before they are packed.
        Disks::of(&image(40), false).require_room().unwrap_err();
        Disks::of(&image(40), true).require_room().unwrap();
    }

    #[test]
    fn hashes_are_one_a_layer_and_well_formed() {
        let disks = || Disks::of(&image(2), false);
        let refusal = |hashes: &str| disks().hashed(hashes).unwrap_err().to_string();
        assert_eq!(refusal(&hashes(1, 2)), "there are 1 root hashes for 2 layers");
        assert_eq!(refusal(&hashes(3, 2)), "there are 3 root hashes for 2 layers");
        for wrong in
            ["", "x 2", &format!("{:064x} 1", 0), &format!("{:064X} 2", 10), &format!("{:064x}", 0)]
        {
            let refusal = refusal(&format!("{wrong}\n{}", hashes(1, 2)));
            assert_eq!(refusal, format!("{wrong:?} is no root hash and number of blocks"));
        }
    }

    #[test]
    fn what_is_written_down_is_read_again() {
        let disks = Disks::of(&image(2), false).hashed(&hashes(2, 5)).unwrap();
        let text = serde_json::to_string(&disks).unwrap();
        assert_eq!(Disks::read(&text).unwrap(), disks);
    }

    #[test]
    fn what_was_not_written_down_like_that_is_refused() {
        type Change = fn(&mut Value);
        let read = |change: Change| {
            let disks = Disks::of(&image(2), false).hashed(&hashes(2, 5)).unwrap();
            let mut value = serde_json::to_value(disks).unwrap();
            change(&mut value);
            Disks::read(&value.to_string()).unwrap_err().to_string()
        };
        let cases: [(Change, &str); 5] = [
            (|value| value["version"] = 2.into(), "it is of version 2, and 1 is known"),
            (|value| value["layers"] = Value::Array(Vec::new()), "it has no layers"),
            (
                |value| value["layers"][1]["file"] = "../layer1.img".into(),
                "layer 1 is no layer1.img with a root hash",
            ),
            (
                |value| value["layers"][0]["root_hash"] = "0f".into(),
                "layer 0 is no layer0.img with a root hash",
            ),
            (|value| *value = Value::Null, "it is of version null, and 1 is known"),
        ];
        for (change, why) in cases {
            assert_eq!(read(change), format!("cannot read layers.json: {why}"));
        }
        assert!(Disks::read("").unwrap_err().to_string().starts_with("cannot read layers.json: "));
    }

    #[test]
    fn a_disk_is_held_against_what_is_written_down() {
        let disks = Disks::of(&image(1), false).hashed(&hashes(1, 5)).unwrap();
        let disk = &disks.layers[0];
        assert_eq!(disk.hash_offset(), 5 * 4096);
        let mut superblock = [0; SUPERBLOCK_SIZE];
        superblock[..8].copy_from_slice(b"verity\0\0");
        (superblock[8], superblock[12]) = (1, 1);
        superblock[32..38].copy_from_slice(b"sha256");
        (superblock[65], superblock[69]) = (0x10, 0x10);
        (superblock[72], superblock[80]) = (5, 32);
        superblock[88..120].copy_from_slice(&hex::decode(&disk.salt).unwrap());
        // Data, superblock and one block of hashes.
        disk.check(7 * 4096, &superblock).unwrap();
        let why = |bytes, superblock: &_| disk.check(bytes, superblock).unwrap_err().to_string();
        assert_eq!(
            why(7 * 4096 - 1, &superblock),
            "verity hash tree of 2 blocks, but there is room for 1"
        );
        assert!(why(5 * 4096, &superblock).starts_with("the hash area would begin at byte 20480"));
        for (at, value) in [(72, 6), (88, superblock[88] ^ 1)] {
            let mut other = superblock;
            other[at] = value;
            assert!(why(7 * 4096, &other).starts_with("its superblock has "), "{at}");
        }
        superblock[0] = 0;
        assert!(why(7 * 4096, &superblock).starts_with("verity superblock: magic is "));
    }
}
