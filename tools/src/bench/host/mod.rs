//! What the benchmark does on this machine: it makes what guests boot from, boots them one after the
//! other, and writes down what becomes of it.

mod demo;
mod facts;
mod folder;
mod guest;
mod image;
mod initramfs;
mod program;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cvm_init::error::{Error, Result};
use serde_json::{Map, Value, json};

use self::guest::{Booted, Launcher, Loader, Report};
use self::image::Images;
use self::initramfs::Archives;
use self::program::{Runner, Site, cannot, scratch_in};
use super::figures::Figures;
use super::options::Options;
use super::plan::{self, Boot, Part, Wanted};
use super::{publish, summary, tables};
use crate::files;

pub use self::program::{Places, Stop};

/// Above this the figures are worse than they are: both processors of a guest are threads here.
const BUSY: f64 = 0.5;

/// Measures, or reads what was measured, and prints the tables; `command` is what was typed.
///
/// # Errors
///
/// What could not be done, with its cause.
pub fn run(
    options: &Options,
    wanted: &Wanted,
    command: &str,
    places: &Places,
    stop: Stop,
) -> Result<()> {
    let mut runner = Runner::new(stop);
    let file = match &options.from {
        Some(file) => file.clone(),
        None => measure(options, wanted, command, places, &mut runner)?,
    };
    let figures = read(&file)?;
    print!("{}", tables::document(&figures));
    let page = places.tree.join(publish::PAGE);
    let text = options.publish.then(|| published(&figures, &file, &page)).transpose()?;
    plot(&file, file.parent().unwrap_or(Path::new("")), places, &runner)?;
    if let Some(text) = text {
        publish_figures(figures, &file, places, &runner)?;
        files::write(&page, &text)?;
        let (folder, page) = (publish::FOLDER, publish::PAGE);
        let more = "commit them, with the three figures of README.md";
        runner.note(&format_args!("made {folder} and the figures in {page}; {more}"));
    }
    Ok(())
}

/// The page as it is to be.
fn published(figures: &Figures, file: &Path, page: &Path) -> Result<String> {
    publish::page(figures, &files::text(page, "")?)
        .map_err(|cause| Error::cannot(&format_args!("publish {}", file.display()), &cause))
}

fn read(file: &Path) -> Result<Figures> {
    serde_json::from_str(&files::text(file, "")?)
        .map_err(|cause| Error::cannot(&format_args!("make tables of {}", file.display()), &cause))
}

/// Makes `target/bench/figures.json`.
fn measure(
    options: &Options,
    wanted: &Wanted,
    command: &str,
    places: &Places,
    runner: &mut Runner,
) -> Result<PathBuf> {
    for script in ["setup", "kernel"] {
        runner.pass(&format_args!("run scripts/{script}"), &mut places.script(script))?;
    }
    runner.note(&"building cvm-init");
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--locked", "--release"]).current_dir(&places.tree);
    runner.pass(&"build cvm-init", &mut cargo)?;
    // Held to the end.
    let _lock = runner.alone(&places.target)?;
    let mut dracut = places.script("dracut-initramfs");
    runner.pass(&"make a distribution's initramfs", &mut dracut)?;
    if wanted.parts.contains(&Part::Machine) {
        runner.pass(&"make the demo's Debian", &mut places.script("debian-root"))?;
    }
    let load = facts::load();
    if load >= BUSY {
        let how = "the figures will be worse than they are";
        runner.note(&format_args!("the machine is busy (load {load}): {how}"));
    }

    let scratch = scratch_in(&places.out())?;
    let boots = plan::boots(wanted);
    runner.begin(boots.len());
    let site = Site { places, runner, scratch: scratch.path() };
    let archives = Archives::make(site)?;
    let mut images = Images::new(site, &archives)?;
    let launcher = Launcher { site, limit: Duration::from_secs(options.timeout) };
    let mut runs = Vec::new();
    for boot in &boots {
        let booted = booted(boot, &mut images, &archives)?;
        runner.step(boot);
        runs.push(launcher.run(&booted, facts_of(boot))?);
        runner.stepped(boot);
    }
    runner.end();
    let made = facts::facts(wanted, command, options.quick, load, places, runner)?;
    let figures = summary::figures(made, archives.footprints()?, runs)?;
    let file = places.out().join("figures.json");
    write(&file, &figures)?;
    runner.note(&format_args!("made {} in {} s", file.display(), runner.seconds()));
    Ok(file)
}

/// What a guest is booted with.
fn booted(boot: &Boot, images: &mut Images, archives: &Archives) -> Result<Booted> {
    let (initramfs, (disk, words)) = match boot {
        Boot::Partitions(guest) => (archives.of_guest(guest)?, images.of_guest(guest)?),
        Boot::Layers { way, count } => (archives.of_layers(*way)?, images.of_layers(*way, *count)?),
        Boot::Machine { start, way } => return images.of_machine(*start, *way),
    };
    Ok(Booted { loader: Loader::Kernel { initramfs, words }, disk, report: Report::Lines })
}

/// What a run says of itself.
fn facts_of(boot: &Boot) -> Map<String, Value> {
    let facts = match boot {
        Boot::Partitions(guest) => {
            json!({ "way": guest.way, "job": guest.job, "partition_mib": guest.mib })
        }
        Boot::Layers { way, count } => json!({ "way": way, "job": "layers", "layers": count }),
        Boot::Machine { start, way } => json!({ "way": way, "job": "machine", "start": start }),
    };
    facts.as_object().cloned().unwrap_or_default()
}

/// Into the tree, without the single runs.
fn publish_figures(
    mut figures: Figures,
    file: &Path,
    places: &Places,
    runner: &Runner,
) -> Result<()> {
    let folder = places.tree.join(publish::FOLDER);
    fs::create_dir_all(&folder).map_err(|cause| cannot("make", &folder, &cause))?;
    plot(file, &folder, places, runner)?;
    figures.all.clear();
    write(&folder.join("figures.json"), &figures)
}

/// Puts pictures of figures into a folder.
fn plot(figures: &Path, folder: &Path, places: &Places, runner: &Runner) -> Result<()> {
    let mut plot = Command::new(places.part("plot.py"));
    runner.run(&"make pictures", plot.arg(figures).arg(folder)).map(drop)
}

/// Whole, or not at all.
fn write(file: &Path, figures: &Figures) -> Result<()> {
    let cannot_write = |cause| files::unwritable(file, &cause);
    let folder = file.parent().unwrap_or(Path::new(""));
    // As others may read what is made by any other program.
    let mode = Permissions::from_mode(0o666);
    let new = tempfile::Builder::new().permissions(mode).tempfile_in(folder);
    let mut new = new.map_err(cannot_write)?;
    serde_json::to_writer_pretty(&mut new, figures).map_err(|cause| cannot_write(cause.into()))?;
    new.persist(file).map_err(|error| cannot_write(error.error))?;
    Ok(())
}
