//! What a boot of an image will have measured: `scripts/image` has it written beside the image, and
//! `scripts/measure` tells it, with what only the machine decides.

use std::env;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::panic;
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};

use clap::Parser;
use cvm_init::error::{Error, Result};
use cvm_tools::measure::document::{self, Boot, Document, Unknown};
use cvm_tools::measure::hash::Hash;
use cvm_tools::measure::machine::{self, Igvm, Machine, Shape};
use cvm_tools::measure::{gpt, igvm, image, table};
use serde::Serialize;

/// Tells what a boot of an image will have measured
#[derive(Parser)]
enum Command {
    /// Write measurements.json, and the values alone, beside the parts of an image, as
    /// scripts/image does
    Image {
        /// What the firmware starts: grub or uki
        #[arg(long, value_parser = boot)]
        boot: Boot,
        /// What the EFI partition holds
        #[arg(long)]
        efi: PathBuf,
        /// What the initramfs says in the command line's stead
        #[arg(long, default_value = "", hide_default_value = true)]
        initramfs_words: String,
        /// Where bzImage, rootfs.cpio.gz, cmdline, disk.img and, if there is one, boot.iso lie
        dir: PathBuf,
    },
    /// Tell it, with what the machine decides, as scripts/measure does
    Machine(Options),
    /// Print the launch digest of an SNP guest from an IGVM file
    Igvm {
        /// The file
        file: PathBuf,
    },
}

#[derive(clap::Args)]
struct Options {
    /// Firmware of an SNP or TDX guest that is booted directly; may be repeated
    #[arg(long)]
    ovmf: Vec<PathBuf>,
    /// Number of processors
    #[arg(long)]
    vcpus: u32,
    /// Model of the processors, by QEMU's name
    #[arg(long)]
    cpu: String,
    /// `SEV_FEATURES` of an SNP guest; may be repeated
    #[arg(long, value_parser = number)]
    guest_features: Vec<u64>,
    /// Memory, such as 2048M
    #[arg(long, value_parser = size)]
    memory: u64,
    /// IGVM file of an SNP guest
    #[arg(long)]
    igvm: Option<PathBuf>,
    /// COCONUT-SVSM's igvmmeasure, where it is
    #[arg(long)]
    igvmmeasure: Option<PathBuf>,
    /// All of it, for programs
    #[arg(long)]
    json: bool,
    /// Where the image and its measurements.json lie
    dir: PathBuf,
}

/// The document of the image with what the machine adds.
#[derive(Serialize)]
struct Whole<'a> {
    #[serde(flatten)]
    document: &'a Document,
    #[serde(flatten)]
    machine: &'a Machine,
}

fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Image { boot, efi, initramfs_words, dir } => {
            write(boot, &efi, &initramfs_words, &dir)
        }
        Command::Machine(options) => tell(&options),
        Command::Igvm { file } => print_igvm(&file),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Writes both files. What could not be predicted is said, and in the file.
fn write(boot: Boot, efi: &Path, initramfs_words: &str, dir: &Path) -> Result<()> {
    let grub_cfg = match boot {
        Boot::Grub => Some(text(&efi.join(image::GRUB_CFG))?),
        Boot::Uki => None,
    };
    let iso = dir.join(image::ISO);
    let iso = if iso.exists() { Some(head(&iso)?) } else { None };
    let document = image::Files {
        boot,
        kernel: &bytes(&dir.join(image::KERNEL))?,
        initramfs: &bytes(&dir.join(image::INITRAMFS))?,
        cmdline: &text(&dir.join(image::CMDLINE))?,
        initramfs_words,
        disk: &head(&dir.join(image::DISK))?,
        iso: iso.as_deref(),
        boot_loader: &bytes(&efi.join(image::BOOT_LOADER))?,
        grub_cfg: grub_cfg.as_deref(),
    }
    .measure()?;
    for Unknown { value, why } in document.missing() {
        eprintln!("no measurements of a {value}: {why}");
    }
    put(&dir.join(document::FILE), &document::to_text(&document))?;
    match document.pcr_values() {
        Some(values) => put(&dir.join(document::PCR_VALUES_FILE), &document::to_text(&values)),
        None => Ok(()),
    }
}

/// Tells the measurements of the image and of the machine.
fn tell(options: &Options) -> Result<()> {
    let dir = &options.dir;
    let mut document = Document::read(&text(&dir.join(document::FILE))?)?;
    let (kernel, initramfs) =
        (bytes(&dir.join(image::KERNEL))?, bytes(&dir.join(image::INITRAMFS))?);
    let cmdline = text(&dir.join(image::CMDLINE))?;
    let files = machine::Files {
        kernel: &kernel,
        initramfs: &initramfs,
        cmdline: &cmdline,
        initramfs_words: &document.inputs.initramfs_words.clone(),
    };
    files.require(&document)?;
    let ovmf = options.ovmf.iter().map(|path| Ok((path.display().to_string(), bytes(path)?)));
    let ovmf = ovmf.collect::<Result<Vec<_>>>()?;
    let shape = Shape {
        vcpus: options.vcpus,
        cpu: &options.cpu,
        features: &options.guest_features,
        memory: options.memory,
    };
    let ovmf: Vec<_> = ovmf.iter().map(|(name, data)| (name.as_str(), data.as_slice())).collect();
    let (mut machine, unknown) = files.measure(&ovmf, &shape)?;
    document.not_predicted.extend(unknown);
    match &options.igvm {
        Some(file) => machine.igvm.push(of_igvm(file, options.igvmmeasure.as_deref())?),
        None => document.not_predicted.push(Unknown::of(
            "launch digest of an IGVM file",
            &"there is none: name one with --igvm",
        )),
    }
    let whole = Whole { document: &document, machine: &machine };
    let told =
        if options.json { document::to_text(&whole) } else { table::table(&document, &machine) };
    std::io::stdout()
        .write_all(told.as_bytes())
        .map_err(|error| Error::cannot(&"write to standard output", &error))
}

/// The launch digest of an IGVM file, by whoever can tell.
fn of_igvm(file: &Path, igvmmeasure: Option<&Path>) -> Result<Igvm> {
    let cannot =
        |cause: &dyn Display| Error::cannot(&format_args!("measure {}", file.display()), cause);
    let (mut command, by) = if let Some(program) = igvmmeasure {
        let mut command = process::Command::new(program);
        command.arg("--check-kvm").arg(file).args(["measure", "--bare"]);
        (command, "igvmmeasure --check-kvm")
    } else {
        let program = env::current_exe().map_err(|error| cannot(&error))?;
        let mut command = process::Command::new(program);
        command.arg("igvm").arg(file);
        (command, igvm::BY)
    };
    let output = command.output().map_err(|error| cannot(&error))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(cannot(&said.lines().last().unwrap_or("it is refused without a word")));
    }
    let launch_digest = igvm::printed(&String::from_utf8_lossy(&output.stdout));
    Ok(Igvm {
        file: file.display().to_string(),
        sha256: Hash::<32>::of(&[&bytes(file)?]),
        launch_digest: launch_digest.map_err(|error| cannot(&error))?,
        by: by.to_owned(),
    })
}

/// Prints the digest that crate `igvm` computes, which panics at some files that are broken.
fn print_igvm(file: &Path) -> Result<()> {
    let name = file.display().to_string();
    let refusal = format!("cannot read {name}: crate igvm cannot make anything of it");
    panic::set_hook(Box::new(move |_| {
        eprintln!("{refusal}");
        process::exit(1);
    }));
    let digest = igvm::launch_digest(&name, &bytes(file)?)?;
    println!("{digest}");
    Ok(())
}

fn bytes(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| Error::cannot(&format_args!("read {}", path.display()), &error))
}

fn text(path: &Path) -> Result<String> {
    let cannot =
        |cause: &dyn Display| Error::cannot(&format_args!("read {}", path.display()), cause);
    String::from_utf8(bytes(path)?).map_err(|_| cannot(&"it is not UTF-8"))
}

/// The start of a disk, in which the partition table lies.
fn head(path: &Path) -> Result<Vec<u8>> {
    let cannot = |error| Error::cannot(&format_args!("read {}", path.display()), &error);
    let mut head = Vec::new();
    let disk = File::open(path).map_err(cannot)?;
    disk.take(gpt::HEAD_SIZE).read_to_end(&mut head).map_err(cannot)?;
    Ok(head)
}

fn put(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)
        .map_err(|error| Error::cannot(&format_args!("write {}", path.display()), &error))
}

fn boot(word: &str) -> std::result::Result<Boot, String> {
    match word {
        "grub" => Ok(Boot::Grub),
        "uki" => Ok(Boot::Uki),
        _ => Err("neither grub nor uki".to_owned()),
    }
}

/// A number, in hexadecimal digits behind `0x`.
fn number(word: &str) -> std::result::Result<u64, String> {
    let digits = word.strip_prefix("0x").ok_or("no 0x in front")?;
    u64::from_str_radix(digits, 16).map_err(|error| error.to_string())
}

/// Bytes, with one of QEMU's suffixes or without.
fn size(word: &str) -> std::result::Result<u64, String> {
    let digits = word.trim_end_matches(['k', 'K', 'M', 'G', 'T']);
    let shift = match word.get(digits.len()..) {
        Some("") => 0,
        Some("k" | "K") => 10,
        Some("M") => 20,
        Some("G") => 30,
        Some("T") => 40,
        _ => return Err("no size such as 2048M".to_owned()),
    };
    let number: u64 = digits.parse().map_err(|_| "no size such as 2048M")?;
    number.checked_mul(1 << shift).ok_or_else(|| "more than there can be".to_owned())
}
