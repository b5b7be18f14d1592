//! Verified data on a disk of its own, made by the commands that docs/disks.md gives for it.

use crate::kit::tool::{Scratch, command, run};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

const PAGE: &str = include_str!("../../../docs/disks.md");

/// Where it has the commands.
const SECTION: &str = "## Further verified data\n";

/// Names in the commands: the folder that becomes the data, and the disk.
const FOLDER: &str = "models";
const IMAGE: &str = "models.img";

/// A file that is read, and another one that nobody reads before it is altered.
pub(crate) const NAME: &str = "name";
pub(crate) const ALTERED: &str = "altered";

/// In no other file, and long enough to lie in blocks of its own.
const CONTENT: &str = "a file of verified data that the host alters while the guest runs\n";

pub(crate) struct Data {
    path: PathBuf,
    /// Its file system.
    pub(crate) kind: &'static str,
    pub(crate) roothash: String,
    pub(crate) blocks: u64,
    _scratch: Scratch,
}

fn commands() -> &'static str {
    let section = PAGE.split_once(SECTION).expect("the page has the section").1;
    let block = section.split_once("```sh\n").expect("it has commands").1;
    block.split_once("```").expect("that end").0
}

impl Data {
    /// Data that holds its name.
    pub(crate) fn new(name: &str) -> Self {
        Self::by(name, commands())
    }

    /// The same whose file system has this block size.
    pub(crate) fn with_blocks_of(bytes: u32) -> Self {
        let by = commands().replace("-b 4096", &format!("-b {bytes}"));
        assert_ne!(by, commands(), "the page names the block size");
        Self::by("data", &by)
    }

    /// The same in another file system than the page has, made by `command`.
    pub(crate) fn as_file_system(kind: &'static str, command: &str) -> Self {
        let (_, rest) = commands().split_once('\n').expect("the first line makes the file system");
        Self { kind, ..Self::by(kind, &format!("{command}\n{rest}")) }
    }

    fn by(name: &str, commands: &str) -> Self {
        let scratch = Scratch::new("data");
        let folder = scratch.join(FOLDER);
        fs::create_dir(&folder).expect("the folder is ours");
        fs::write(folder.join(NAME), name).expect("the folder is ours");
        fs::write(folder.join(ALTERED), CONTENT.repeat(200)).expect("the folder is ours");
        let said = run(command("bash")
            .args(["-euo", "pipefail", "-c", commands])
            .current_dir(scratch.path()));
        let field = |name: &str| {
            let line = said.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("veritysetup reports no {name}")).trim().to_owned()
        };
        Self {
            path: scratch.join(IMAGE),
            kind: "ext4",
            roothash: field("Root hash:"),
            blocks: field("Data blocks:").parse().expect("a number"),
            _scratch: scratch,
        }
    }

    /// What tests attach that do not alter it.
    pub(crate) fn standard() -> &'static Self {
        static STANDARD: OnceLock<Data> = OnceLock::new();
        STANDARD.get_or_init(|| Self::new("standard"))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What the command line says of it, where it is the disk of this serial.
    pub(crate) fn word(&self, name: &str, serial: &str) -> String {
        format!("cvm.data={name}:serial:{serial}:{}", self.roothash)
    }

    /// Makes the disk larger than what is on it.
    pub(crate) fn grow(&self, bytes: u64) {
        let file = OpenOptions::new().write(true).open(&self.path).expect("the image is there");
        let size = file.metadata().expect("the image is there").len();
        file.set_len(size + bytes).expect("a sparse file");
    }

    /// What a hostile host does to one file, also while the VM runs.
    pub(crate) fn alter(&self) {
        let bytes = fs::read(&self.path).expect("the image is there");
        let mut places = bytes.windows(CONTENT.len()).enumerate();
        let place =
            places.find(|(_, window)| *window == CONTENT.as_bytes()).expect("it is there").0;
        self.write(place as u64, &[bytes[place] ^ 1]);
    }

    /// Bytes that the host has put in place of others.
    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) {
        let file = File::options().write(true).open(&self.path).expect("the image is there");
        file.write_all_at(bytes, offset).expect("room on this machine's disk");
    }
}
