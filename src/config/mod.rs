//! The kernel command line, typed. Every key is in the table of `docs/command-line.md`.
//!
//! The command line is measured with the launch, so it is trusted; it is parsed strictly all the
//! same, because a mistyped security parameter must stop the boot and not fall back to a default.

mod handoff;
mod keys;
mod layers;
mod measure;
mod partitions;
mod values;

use std::time::Duration;

use log::LevelFilter;

use self::keys::{Given, HANDOFF_KEYS, KEYS, LAYER_KEYS, MARKS, REPEATABLE, SHARED};
use self::values::{ACTIONS, one_of};
use crate::error::{Error, Result};
use crate::format::crypt::Cipher;
use crate::format::fstab::Share;
use crate::format::verity::OnCorruption;
use crate::kernel::module;
use crate::kernel::power::Action;

pub use self::handoff::NextKernel;
pub use self::keys::DEFAULT_TIMEOUT;
pub use self::layers::{Layer, Layers, Proof, Upper};
pub use self::measure::Measure;
pub use self::partitions::Partitions;
pub use self::values::{DataDisk, DiskChoice, DiskName, MOUNT_POINTS, Medium, SHARES, Tags};

/// What an engine's keys begin with, which may come to have more of them.
const ENGINES: &str = "cocoon.";

/// Everything that a boot is told from outside.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// What the root is made of.
    pub layout: Layout,
    /// `cvm.verity_on_corruption=`
    pub on_corruption: OnCorruption,
    /// `cvm.volume_min=`: the least that the volume's place has, in bytes.
    pub volume_min: u64,
    /// `cvm.data=`, as often as it is given.
    pub data: Vec<DataDisk>,
    /// `cvm.cipher=` and `cvm.integrity=`
    pub cipher: &'static Cipher,
    /// `cvm.tags=`; none where the cipher has no tags.
    pub tags: Option<Tags>,
    /// `cvm.grow=`
    pub grow: bool,
    /// `cvm.timeout=` or `cocoon.timeout=`
    pub timeout: Duration,
    /// `cvm.log=`
    pub log: LevelFilter,
    /// `cvm.shares=`
    pub shares: Vec<Share>,
    /// `cvm.tmp=`; none where the root's fstab has a say.
    pub tmp: Option<Medium>,
    /// `cvm.var=`; none where the root's fstab has a say.
    pub var: Option<Medium>,
    /// `cvm.overlay=`: directories of the root, none of which lies in another or in a mount point.
    pub overlay: Vec<String>,
    /// `systemd.import_credentials=`, systemd's own key: whether the root may take credentials from
    /// the firmware, which are the host's words.
    pub credentials: bool,
    /// `cvm.measure=`
    pub measure: Measure,
    /// `NAME.PARAMETER`, `NAME.PARAMETER=VALUE`: the name of each module, without dashes, and the rest,
    /// which is for the kernel to read when the module is loaded.
    pub module_parameters: Vec<(String, String)>,
    /// `init=`
    pub init: String,
}

/// What the root is made of.
#[derive(Debug, Clone, PartialEq)]
pub enum Layout {
    /// A partition of a disk that has others for the hash tree and the volume.
    Partitions(Partitions),
    /// Layers of an image, on a disk each.
    Layers(Layers),
}

/// Where a boot is told what to do, both of them measured with the launch. A key in both is given
/// twice.
#[derive(Debug, Clone, Default)]
pub struct Lines {
    /// The kernel command line as `/proc/cmdline` shows it.
    pub kernel: String,
    /// The words in the initramfs, by those who cannot add any to the kernel's line.
    pub initramfs: String,
}

impl Config {
    /// Reads a kernel command line, without words in the initramfs.
    ///
    /// # Errors
    /// A key that is missing, unknown, given twice or malformed, by name.
    pub fn from_cmdline(cmdline: &str) -> Result<Self> {
        Self::from_lines(&Lines { kernel: cmdline.to_owned(), ..Lines::default() })
    }

    /// Reads what a boot is told.
    ///
    /// # Errors
    /// As [`Self::from_cmdline`], and a word in the initramfs that nobody reads there.
    pub fn from_lines(lines: &Lines) -> Result<Self> {
        read(lines)?.settle()
    }

    /// Makes sure that words can stand in an initramfs, as far as they can be told without the kernel
    /// command line.
    ///
    /// # Errors
    /// As [`Self::from_lines`], but for what is missing.
    pub fn check_initramfs_words(words: &str) -> Result<()> {
        read(&Lines { initramfs: words.to_owned(), ..Lines::default() }).map(drop)
    }

    /// `cvm.on_failure=` alone, leniently: it decides what happens when the rest is wrong.
    #[must_use]
    pub fn on_failure(lines: &Lines) -> Action {
        kernel_words(&lines.kernel)
            .chain(words(&lines.initramfs))
            .filter_map(|word| word.strip_prefix("cvm.on_failure=").map(str::to_owned))
            .find_map(|value| one_of(&value, ACTIONS).ok())
            .unwrap_or_default()
    }
}

/// Takes every word of both lines.
fn read(lines: &Lines) -> Result<Given> {
    let mut given = Given::default();
    let mut seen = Vec::new();
    for word in kernel_words(&lines.kernel) {
        if !take(&mut given, &mut seen, &word)? {
            given.module_parameters.extend(module_parameter(&word));
        }
    }
    for word in words(&lines.initramfs) {
        if !take(&mut given, &mut seen, &word)? {
            return Err(Error::new(format!("{word:?} in the initramfs: nobody reads it there")));
        }
    }
    Ok(given)
}

/// Takes a word, or says that it is none of ours.
fn take(given: &mut Given, seen: &mut Vec<String>, word: &str) -> Result<bool> {
    let mut once = |what: &str, shown: &str| {
        if seen.iter().any(|other| other == what) && !REPEATABLE.contains(&what) {
            return Err(Error::new(format!("{shown} is given twice")));
        }
        seen.push(what.to_owned());
        Ok(())
    };
    if let Some((mark, take)) = MARKS.iter().find(|(mark, _)| *mark == word) {
        once(mark, mark)?;
        take(given);
        return Ok(true);
    }
    let (name, value) = match word.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (word, None),
    };
    let keys = || KEYS.iter().chain(LAYER_KEYS).chain(HANDOFF_KEYS);
    let Some((name, take)) = keys().find(|(key, _)| *key == name) else {
        if name.starts_with("cvm.") {
            return Err(Error::new(format!("unknown key {name}=")));
        }
        if name.starts_with(ENGINES) {
            once(name, &format!("{name}="))?;
            log::info!("{name}= is passed over: nobody knows it");
        }
        return Ok(false);
    };
    if value.is_none() && SHARED.contains(name) {
        return Ok(false);
    }
    once(name, &format!("{name}="))?;
    let value = value.ok_or_else(|| Error::new(format!("{name}= has no value")))?;
    take(given, value).map_err(|cause| Error::new(format!("{name}={value}: {cause}")))?;
    Ok(true)
}

/// A word as modprobe takes it: what stands before the first dot of its name is a module, if there is
/// one of that name. The kernel reads the words for what is built in, and leaves the others.
///
/// Source: `kernel-parameters` in the kernel's admin guide, modprobe(8).
fn module_parameter(word: &str) -> Option<(String, String)> {
    let name = word.split('=').next()?;
    let (name, _) = name.split_once('.')?;
    let (_, parameter) = word.split_once('.')?;
    let parameter = match parameter.split_once('=') {
        // The quotes around it are gone.
        Some((name, value)) if value.contains(char::is_whitespace) => format!("{name}=\"{value}\""),
        _ => parameter.to_owned(),
    };
    Some((module::as_kernel_has_it(name), parameter))
}

/// The words up to `--`, behind which they are arguments of init.
fn kernel_words(cmdline: &str) -> impl Iterator<Item = String> {
    words(cmdline).take_while(|word| word != "--")
}

/// Splits as the kernel does: at blanks outside double quotes.
///
/// Source: `next_arg` in the kernel's `lib/cmdline.c`.
fn words(cmdline: &str) -> impl Iterator<Item = String> {
    let mut quoted = false;
    cmdline
        .split(move |c: char| {
            quoted ^= c == '"';
            !quoted && c.is_ascii_whitespace()
        })
        .filter(|word| !word.is_empty())
        .map(|word| word.replace('"', ""))
}

#[cfg(test)]
mod tests;
