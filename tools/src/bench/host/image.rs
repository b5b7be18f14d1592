//! The disks that guests boot from. One image is kept at a time: they take room.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use cvm_init::error::Result;
use serde_json::json;

use super::folder;
use super::guest::{Booted, Disks, Loader, Report, WORDS};
use super::initramfs::Archives;
use super::program::{Site, cannot};
use crate::bench::plan::{Guest, Job};
use crate::bench::way::{Initramfs, LayerWay, Start, Way};
use crate::files;
use crate::oci::Digest;
use crate::vm::process;

/// For what is written above layers.
const UPPER_BYTES: u64 = 512 << 20;
/// Of Debian's package ovmf.
const OVMF: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const OVMF_VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";
/// Of the kernel command line of the demo's Debian; what an emulated machine needs is said at [`WORDS`]. Its
/// clock is systemd's.
const DEMO_WORDS: &[&str] = &[
    "console=ttyS0",
    "quiet",
    "no_timer_check",
    "tsc=unstable",
    "trace_event=sched:sched_process_exec",
    "trace_clock=mono",
];
/// Files that each layer adds; of them it replaces one of the layer below.
const FILES: u32 = 50;

/// Makes them, in a folder.
pub(super) struct Images<'a> {
    site: Site<'a>,
    archives: &'a Archives<'a>,
    kept: Option<Kind>,
}

/// Which image.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Of a root with the tools for a job or without, and so much of partition 4.
    Partitions { tools: bool, mib: u64 },
    /// Of so many layers.
    Layers(u32),
    /// The demo's Debian, which boots this way.
    Demo { is_uki: bool, way: Way },
}

impl<'a> Images<'a> {
    /// Makes the roots that they are of.
    pub(super) fn new(site: Site<'a>, archives: &'a Archives<'a>) -> Result<Self> {
        folder::root(&root(site.scratch, false), &[], site)?;
        folder::root(&root(site.scratch, true), folder::TOOLS, site)?;
        let image = root(site.scratch, true).join("lib/bench/layer.tar");
        fs::copy(site.places.dracut("layer.tar"), &image)
            .map_err(|cause| cannot("make", &image, &cause))?;
        Ok(Self { site, archives, kept: None })
    }

    /// A fresh disk for a guest, a plain file: nothing of the boot before, nothing between. And the
    /// kernel command line.
    pub(super) fn of_guest(&mut self, guest: &Guest) -> Result<(Disks, String)> {
        let tools = matches!(guest.job, Job::Data | Job::Unpack | Job::Choices);
        let image = self.image(Kind::Partitions { tools, mib: guest.mib })?;
        let line = format!("{} {}", words(&image.join("cmdline"))?, guest.words());
        Ok((Disks::Partitions(self.fresh(&image)?), line))
    }

    /// The disks of an image in layers, with a fresh one for what is written, and the kernel command
    /// line.
    pub(super) fn of_layers(&mut self, way: LayerWay, count: u32) -> Result<(Disks, String)> {
        let image = self.image(Kind::Layers(count))?;
        let upper = self.site.scratch.join("cow");
        let cannot_make = |cause| cannot("make", &upper, &cause);
        File::create(&upper).and_then(|file| file.set_len(UPPER_BYTES)).map_err(cannot_make)?;
        let stock = words(&image.join("cmdline.stock"))?;
        let mut line = format!("{} {stock} bench.job=provisioning", WORDS.join(" "));
        match way {
            LayerWay::Layers => line = format!("{line} {}", words(&image.join("cmdline"))?),
            LayerWay::Engine => {
                let mut make = process::command("mkfs.ext4")?;
                make.args(["-F", "-m", "0", "-q", "-E"]);
                make.arg("lazy_itable_init=1,lazy_journal_init=1,discard").arg(&upper);
                self.site.runner.run(&"make the disk to write to", &mut make)?;
            }
        }
        let layers = (0..count).map(|number| image.join(format!("layer{number}.img"))).collect();
        Ok((Disks::Layers { layers, upper }, line))
    }

    /// A fresh disk with the demo's Debian, and what starts its kernel.
    pub(super) fn of_machine(&mut self, start: Start, way: Way) -> Result<Booted> {
        let image = self.image(Kind::Demo { is_uki: start == Start::Uki, way })?;
        let loader = if start == Start::Direct {
            let words = words(&image.join("cmdline"))?;
            Loader::Kernel { initramfs: self.archives.of(way.initramfs(), true), words }
        } else {
            let variables = self.site.scratch.join("variables");
            fs::copy(OVMF_VARIABLES, &variables)
                .map_err(|cause| cannot("make", &variables, &cause))?;
            Loader::Firmware { code: Path::new(OVMF), variables }
        };
        Ok(Booted { loader, disk: Disks::Partitions(self.fresh(&image)?), report: Report::Demo })
    }

    /// The disk of an image, for one guest.
    fn fresh(&self, image: &Path) -> Result<PathBuf> {
        let disk = self.site.scratch.join("disk.img");
        let mut copy = process::command("cp")?;
        copy.arg("--sparse=always").arg(image.join("disk.img")).arg(&disk);
        self.site.runner.run(&"copy a disk", &mut copy)?;
        Ok(disk)
    }

    /// The folder of an image, in place of the one before.
    fn image(&mut self, kind: Kind) -> Result<PathBuf> {
        let folder = self.site.scratch.join("image");
        if self.kept == Some(kind) {
            return Ok(folder);
        }
        self.kept = None;
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(|cause| cannot("remove", &folder, &cause))?;
        }
        match kind {
            Kind::Partitions { tools, mib } => self.partitions(tools, mib, &folder)?,
            Kind::Layers(count) => self.layers(count, &folder)?,
            Kind::Demo { is_uki, way } => self.demo(is_uki, way, &folder)?,
        }
        self.kept = Some(kind);
        Ok(folder)
    }

    fn partitions(&self, tools: bool, mib: u64, folder: &Path) -> Result<()> {
        let Site { places, runner, scratch } = self.site;
        runner.note(&format_args!("making a disk with {mib} MiB of partition 4"));
        let mut script = places.script("image");
        script
            .arg("--rootfs")
            .arg(root(scratch, tools))
            .arg("--kernel")
            .arg(places.kernel("vmlinuz"))
            .arg("--initramfs")
            .arg(self.archives.of(Initramfs::CvmInit, true))
            .args(["--cocos-size", &format!("{mib}M"), "--append", &WORDS.join(" "), "-o"])
            .arg(folder);
        runner.run(&"make a disk", &mut script).map(drop)
    }

    /// The root is made once: it is the same for all.
    fn demo(&self, is_uki: bool, way: Way, folder: &Path) -> Result<()> {
        let Site { places, runner, scratch } = self.site;
        let boot = if is_uki { "uki" } else { "grub" };
        runner.note(&format_args!("making the demo's disk for {way}, {boot}"));
        let made = scratch.join("demo.ext4");
        let root =
            if made.exists() { made.clone() } else { places.target.join("debian/rootfs.tar") };
        let mut script = places.script("image");
        script
            .args(["--boot", boot, "--rootfs"])
            .arg(root)
            .arg("--kernel")
            .arg(places.kernel("vmlinuz"))
            .arg("--initramfs")
            .arg(self.archives.of(way.initramfs(), true))
            .args(["--cocos-size", "64M", "--append"])
            .arg(format!("{} {}", DEMO_WORDS.join(" "), way.words()))
            .arg("-o")
            .arg(folder);
        runner.run(&"make a disk", &mut script)?;
        if !made.exists() {
            fs::copy(folder.join("rootfs.ext4"), &made)
                .map_err(|cause| cannot("make", &made, &cause))?;
        }
        Ok(())
    }

    /// The measuring root, and above it some files more a layer.
    fn layers(&self, count: u32, folder: &Path) -> Result<()> {
        let Site { places, runner, scratch } = self.site;
        runner.note(&format_args!("making an image of {count} layer(s)"));
        let image = scratch.join("oci");
        let cannot_make = |cause| cannot("make", &image, &cause);
        fs::create_dir_all(&image).map_err(cannot_make)?;
        for number in 0..count {
            let tree = if number == 0 { root(scratch, false) } else { scratch.join("layer") };
            if number > 0 {
                fill(&tree, number).map_err(cannot_make)?;
            }
            self.pack(&tree, &image.join(format!("{number}.tar")))?;
        }
        let files = docker_save(&image, count).map_err(cannot_make)?;
        let tar = scratch.join("image.tar");
        let mut bsdtar = archive(&image, &tar)?;
        runner.run(&"pack the image", bsdtar.arg("--format=ustar").args(files))?;
        let mut script = places.script("layers");
        runner.run(&"make layers", script.arg("--oci").arg(&tar).arg("-o").arg(folder))?;
        fs::remove_dir_all(&image).and_then(|()| fs::remove_file(&tar)).map_err(cannot_make)
    }

    fn pack(&self, tree: &Path, tar: &Path) -> Result<()> {
        // The same times on each machine and day.
        let mut touch = process::command("find")?;
        touch.arg(tree).args(["-exec", "touch", "-hd", "@1", "{}", "+"]);
        self.site.runner.run(&"set times", &mut touch)?;
        self.site.runner.run(&"pack a layer", archive(tree, tar)?.arg(".")).map(drop)
    }
}

/// The folder of a root, with the tools for a job or without.
fn root(scratch: &Path, tools: bool) -> PathBuf {
    scratch.join(if tools { "full" } else { "small" })
}

/// Files of a layer: those of the highest number are in the next one, too.
fn fill(tree: &Path, number: u32) -> io::Result<()> {
    let _ = fs::remove_dir_all(tree);
    let dir = tree.join("usr/share/layers");
    fs::create_dir_all(&dir)?;
    for file in (number * (FILES - 1)..).take(FILES as usize) {
        let lines: Vec<_> =
            (file * 1000..=file * 1000 + 2000).map(|line| line.to_string()).collect();
        fs::write(dir.join(file.to_string()), lines.join("\n"))?;
    }
    Ok(())
}

/// Puts beside the layers what `docker save` does, and returns the names of all files.
fn docker_save(image: &Path, count: u32) -> io::Result<Vec<String>> {
    let layers: Vec<_> = (0..count).map(|number| format!("{number}.tar")).collect();
    let digest = |layer| Ok(Digest::of(&fs::read(image.join(layer))?));
    let diff_ids = layers.iter().map(digest).collect::<io::Result<Vec<_>>>()?;
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": { "Cmd": ["/sbin/init"] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    })
    .to_string();
    let name = format!("{}.json", Digest::of(config.as_bytes()).hex());
    let manifest = json!([{ "Config": name, "RepoTags": ["bench:latest"], "Layers": layers }]);
    fs::write(image.join(&name), config)?;
    fs::write(image.join("manifest.json"), manifest.to_string())?;
    Ok([vec!["manifest.json".to_owned(), name], layers].concat())
}

/// Packs files of a folder, which become root's.
fn archive(folder: &Path, tar: &Path) -> Result<Command> {
    let mut bsdtar = process::command("bsdtar")?;
    bsdtar.args(["--uid", "0", "--gid", "0", "-C"]).arg(folder).arg("-cf").arg(tar);
    Ok(bsdtar)
}

/// Words of a file, without the line break at its end.
fn words(file: &Path) -> Result<String> {
    Ok(files::text(file, "")?.trim_end().to_owned())
}
