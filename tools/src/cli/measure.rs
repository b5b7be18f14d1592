//! What a boot of an image will have measured: `scripts/image` has it written beside the image, and
//! `scripts/measure` tells it, with what only the machine decides.

use std::env;
use std::fmt::Display;
use std::io::Write as _;
use std::panic;
use std::path::{Path, PathBuf};
use std::process;

use clap::{Args, Command, ValueEnum};
use cvm_init::error::{Error, Result};
use cvm_tools::files::{bytes, head, text, write};
use cvm_tools::launch::firmware;
use cvm_tools::launch::variables::{
    self, CPU, IGVM_FILE, MEMORY_SIZE, OVMF_FILE, SMP_COUNT, Variable, Variables,
};
use cvm_tools::measure::document::{self, Boot, Document, Unknown};
use cvm_tools::measure::hash::Hash;
use cvm_tools::measure::machine::{self, Igvm, Machine, Shape};
use cvm_tools::measure::{gpt, igvm, image, table};
use cvm_tools::vm::process::find;
use serde::Serialize;

use crate::cli::Failure;

#[derive(Args)]
pub(crate) struct OfImage {
    /// What the firmware starts
    #[arg(long)]
    boot: Started,
    /// What the EFI partition holds
    #[arg(long, value_name = "DIR")]
    efi: PathBuf,
    /// What the initramfs says in the command line's stead
    #[arg(long, value_name = "WORDS", default_value = "", hide_default_value = true)]
    initramfs_words: String,
    /// Where bzImage, rootfs.cpio.gz, cmdline, disk.img and, if there is one, boot.iso lie
    dir: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Started {
    Grub,
    Uki,
}

#[derive(Args)]
pub(crate) struct OfIgvm {
    /// The file
    file: PathBuf,
}

/// What `--help` says before the options.
const INTRODUCTION: &str = "\
Prints what an attestation of a guest has to show when it boots the image that scripts/image made in
DIR: the registers of a TPM, for a boot from the disk and for a direct one (scripts/qemu --boot
kernel); and the launch measurements of SNP and TDX for the machine that the options describe. What
cannot be known here is named, with the reason. Refuses a kernel, an initramfs or a command line in
DIR that is not the one of DIR/measurements.json.";

#[derive(Args)]
pub(crate) struct OfMachine {
    /// firmware of a direct boot on SNP or TDX; may be repeated (default: for each what
    /// scripts/qemu has)
    #[arg(long, value_name = "FILE", verbatim_doc_comment)]
    ovmf: Vec<PathBuf>,
    /// processors of an SNP guest
    #[arg(long, value_name = "N", value_parser = processors)]
    vcpus: Option<u32>,
    /// their model by QEMU's name, such as EPYC-Milan
    #[arg(long, value_name = "MODEL")]
    cpu: Option<String>,
    /// SEV features of an SNP guest, which its host decides; may be repeated
    /// (default: 0x1 0x21, a digest for each)
    #[arg(long, value_name = "X", value_parser = number, verbatim_doc_comment)]
    guest_features: Vec<u64>,
    /// of a guest whose QEMU is older than 10.2
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<u64>,
    /// an IGVM file that an SNP guest is started from
    #[arg(long, value_name = "FILE")]
    igvm: Option<PathBuf>,
    /// all of it, as JSON: measurements.json with snp, igvm and tdx
    #[arg(long)]
    json: bool,
    /// The folder of an image
    #[arg(hide = true)]
    dirs: Vec<PathBuf>,
}

const MORE_HELP: &str = "\
The digest of an IGVM file is by COCONUT-SVSM's igvmmeasure, from the folder that
MANAGER_ATTESTATION_POLICY_BINARY_PATH names or from PATH, which refuses what KVM would measure in
another way; where there is none, by crate igvm, which does not look at that. The result says which.

Defaults are scripts/qemu's, of files where they are: MANAGER_QEMU_OVMF_FILE, MANAGER_QEMU_SMP_COUNT,
MANAGER_QEMU_CPU, MANAGER_QEMU_MEMORY_SIZE and MANAGER_QEMU_IGVM_FILE have a say where no flag has.";

/// What Linux gives an SNP guest: SNP alone, or `DebugSwap` too.
const KNOWN_FEATURES: [u64; 2] = [0x1, 0x21];

/// What clap cannot be told by [`OfMachine`]: defaults, which are those of this environment.
pub(crate) fn finish(command: Command) -> Command {
    let variables = Variables::of_environment().unwrap_or_default();
    let defaults =
        [("vcpus", SMP_COUNT), ("cpu", CPU), ("memory", MEMORY_SIZE), ("igvm", IGVM_FILE)];
    let tell = |command: Command, (flag, variable): (&'static str, _)| {
        command.mut_arg(flag, |arg| {
            let help = arg.get_help().cloned().unwrap_or_default();
            let default = variables.get(&variable);
            arg.help(format!("{help} (default: {default})"))
        })
    };
    defaults
        .into_iter()
        .fold(command, tell)
        .override_usage("scripts/measure [OPTION]... DIR")
        .help_template(format!("usage: {{usage}}\n\n{INTRODUCTION}\n\n{{options}}{{after-help}}"))
        .after_help(MORE_HELP)
}

/// The document of the image with what the machine adds.
#[derive(Serialize)]
struct Whole<'a> {
    #[serde(flatten)]
    document: &'a Document,
    #[serde(flatten)]
    machine: &'a Machine,
}

/// Writes both files. What could not be predicted is said, and in the file.
pub(crate) fn of_image(asked: &OfImage) -> Result<()> {
    let OfImage { boot, efi, initramfs_words, dir } = asked;
    let (boot, grub_cfg) = match boot {
        Started::Grub => (Boot::Grub, Some(text(&efi.join(image::GRUB_CFG), "")?)),
        Started::Uki => (Boot::Uki, None),
    };
    let iso = dir.join(image::ISO);
    let iso = if iso.exists() { Some(head(&iso, gpt::HEAD_SIZE)?) } else { None };
    let document = image::Files {
        boot,
        kernel: &bytes(&dir.join(image::KERNEL), "")?,
        initramfs: &bytes(&dir.join(image::INITRAMFS), "")?,
        cmdline: &text(&dir.join(image::CMDLINE), "")?,
        initramfs_words,
        disk: &head(&dir.join(image::DISK), gpt::HEAD_SIZE)?,
        iso: iso.as_deref(),
        boot_loader: &bytes(&efi.join(image::BOOT_LOADER), "")?,
        grub_cfg: grub_cfg.as_deref(),
    }
    .measure()?;
    for Unknown { value, why } in document.missing() {
        eprintln!("no measurements of a {value}: {why}");
    }
    write(&dir.join(document::FILE), &document::to_text(&document))?;
    match document.pcr_values() {
        Some(values) => write(&dir.join(document::PCR_VALUES_FILE), &document::to_text(&values)),
        None => Ok(()),
    }
}

/// Tells the measurements of the image and of the machine.
pub(crate) fn of_machine(asked: &OfMachine) -> std::result::Result<(), Failure> {
    let wrong = |reason: String| Failure::usage(&reason);
    let dir = match &asked.dirs[..] {
        [] => return Err(wrong("the folder of an image is missing".to_owned())),
        [dir] => dir,
        [first, second, ..] => {
            let (first, second) = (first.display(), second.display());
            return Err(wrong(format!("more than one folder: {first} and {second}")));
        }
    };
    let variables = Variables::of_environment().map_err(|error| Failure::usage(&error))?;
    let refused = |variable: &Variable, what| {
        let value = variables.get(variable);
        wrong(format!("{}{}={value} {what}", variables::PREFIX, variable.name))
    };
    let vcpus = asked.vcpus.map_or_else(|| processors(variables.get(&SMP_COUNT)), Ok);
    let memory = asked.memory.map_or_else(|| size(variables.get(&MEMORY_SIZE)), Ok);
    let features =
        if asked.guest_features.is_empty() { &KNOWN_FEATURES[..] } else { &asked.guest_features };
    let shape = Shape {
        vcpus: vcpus.map_err(|what| refused(&SMP_COUNT, what))?,
        cpu: asked.cpu.as_deref().unwrap_or(variables.get(&CPU)),
        features,
        memory: memory.map_err(|what| refused(&MEMORY_SIZE, what))?,
    };
    let told = tell(asked, dir, &shape, &variables);
    let told =
        told.map_err(|cause| Error::cannot(&format_args!("measure {}", dir.display()), &cause))?;
    std::io::stdout()
        .write_all(told.as_bytes())
        .map_err(|cause| Error::cannot(&"write to standard output", &cause))?;
    Ok(())
}

/// The firmwares that are asked for, which have to be there; else those of the launcher that are.
fn firmwares(asked: &OfMachine, variables: &Variables) -> Vec<PathBuf> {
    if !asked.ovmf.is_empty() {
        return asked.ovmf.clone();
    }
    let hashing = firmware::hashing(|file| Path::new(file).exists());
    let mut files: Vec<_> = [variables.get(&OVMF_FILE), hashing].map(PathBuf::from).into();
    files.dedup();
    files.retain(|file| file.exists());
    files
}

/// What is told, as a table or as JSON.
fn tell(asked: &OfMachine, dir: &Path, shape: &Shape<'_>, variables: &Variables) -> Result<String> {
    let file = dir.join(document::FILE);
    let mut document = Document::read(&text(&file, "make the image with scripts/image")?)?;
    let (kernel, initramfs) =
        (bytes(&dir.join(image::KERNEL), "")?, bytes(&dir.join(image::INITRAMFS), "")?);
    let cmdline = text(&dir.join(image::CMDLINE), "")?;
    let files = machine::Files {
        kernel: &kernel,
        initramfs: &initramfs,
        cmdline: &cmdline,
        initramfs_words: &document.inputs.initramfs_words.clone(),
    };
    files.require(&document)?;
    let ovmf = firmwares(asked, variables);
    let ovmf = ovmf.iter().map(|path| Ok((path.display().to_string(), bytes(path, "")?)));
    let ovmf = ovmf.collect::<Result<Vec<_>>>()?;
    let ovmf: Vec<_> = ovmf.iter().map(|(name, data)| (name.as_str(), data.as_slice())).collect();
    let (mut machine, unknown) = files.measure(&ovmf, shape)?;
    document.not_predicted.extend(unknown);
    let default = Some(PathBuf::from(variables.get(&IGVM_FILE))).filter(|file| file.exists());
    match asked.igvm.as_ref().or(default.as_ref()) {
        Some(file) => machine.igvm.push(measured_igvm(file)?),
        None => document.not_predicted.push(Unknown::of(
            "launch digest of an IGVM file",
            &"there is none: name one with --igvm",
        )),
    }
    let whole = Whole { document: &document, machine: &machine };
    Ok(if asked.json { document::to_text(&whole) } else { table::table(&document, &machine) })
}

/// COCONUT-SVSM's igvmmeasure, where the Manager looks for it.
fn igvmmeasure() -> Option<PathBuf> {
    let folder = env::var_os("MANAGER_ATTESTATION_POLICY_BINARY_PATH");
    let folder = folder.filter(|folder| !folder.is_empty()).map(PathBuf::from);
    find(folder.unwrap_or_default().join("igvmmeasure"))
}

/// The launch digest of an IGVM file, by whoever can tell.
fn measured_igvm(file: &Path) -> Result<Igvm> {
    let sha256 = Hash::<32>::of(&[&bytes(file, "")?]);
    let cannot =
        |cause: &dyn Display| Error::cannot(&format_args!("measure {}", file.display()), cause);
    let (mut command, by) = if let Some(program) = igvmmeasure() {
        let mut command = process::Command::new(program);
        command.arg("--check-kvm").arg(file).args(["measure", "--bare"]);
        (command, "igvmmeasure --check-kvm")
    } else {
        let program = env::current_exe().map_err(|error| cannot(&error))?;
        let mut command = process::Command::new(program);
        command.arg("measure-igvm").arg(file);
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
        sha256,
        launch_digest: launch_digest.map_err(|error| cannot(&error))?,
        by: by.to_owned(),
    })
}

/// Prints the digest that crate `igvm` computes, which panics at some files that are broken.
pub(crate) fn of_igvm(asked: &OfIgvm) -> Result<()> {
    let file = &asked.file;
    let name = file.display().to_string();
    let refusal = format!("cannot read {name}: crate igvm cannot make anything of it");
    panic::set_hook(Box::new(move |_| {
        eprintln!("{refusal}");
        process::exit(1);
    }));
    let digest = igvm::launch_digest(&name, &bytes(file, "")?)?;
    println!("{digest}");
    Ok(())
}

fn processors(word: &str) -> std::result::Result<u32, &'static str> {
    let number = word.parse().ok().filter(|number| (1..=9999).contains(number));
    number.ok_or("is not a number of processors")
}

/// A number, in hexadecimal digits behind `0x`.
fn number(word: &str) -> std::result::Result<u64, &'static str> {
    let digits = word.strip_prefix("0x").filter(|digits| !digits.starts_with('+'));
    let number = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    number.ok_or("is not a number such as 0x21")
}

/// Bytes, with one of QEMU's suffixes or without.
fn size(word: &str) -> std::result::Result<u64, &'static str> {
    const WHY: &str = "is not a size such as 2048M";
    let digits = word.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match word.get(digits.len()..) {
        Some("") => 0,
        Some("k" | "K") => 10,
        Some("M") => 20,
        Some("G") => 30,
        Some("T") => 40,
        _ => return Err(WHY),
    };
    let number = digits.parse().ok().filter(|number: &u64| *number > 0);
    number.and_then(|number| number.checked_mul(1 << shift)).ok_or(WHY)
}
