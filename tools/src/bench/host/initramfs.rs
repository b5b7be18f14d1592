//! The initramfs of each way to boot.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use cvm_init::error::Result;
use flate2::read::MultiGzDecoder;

use super::folder;
use super::program::{Site, cannot};
use crate::bench::figures::Footprint;
use crate::bench::plan::{Guest, Job};
use crate::bench::spread::Number;
use crate::bench::way::{Initramfs, LayerWay};
use crate::files;
use crate::vm::process;

/// Modules that cryptsetup makes the kernel ask for: it asks for ciphers for programs, too.
const FOR_PROGRAMS: &[&str] = &["--extra-module", "algif_aead", "--extra-module", "algif_skcipher"];

/// The device nodes of an archive, as lines of mtree(5): a description needs no root.
const CONSOLE: &str = "./dev/console type=char mode=0600 device=native,5,1";
const LOG: &str = "./dev/kmsg type=char mode=0600 device=native,1,11";

/// All that were made, in a folder.
pub(super) struct Archives<'a> {
    dir: PathBuf,
    site: Site<'a>,
}

impl<'a> Archives<'a> {
    /// Makes those that all ways to boot from partitions need.
    pub(super) fn make(site: Site<'a>) -> Result<Self> {
        let archives = Self { dir: site.scratch.join("initramfs"), site };
        site.runner.note(&"packing the initramfs of each way");
        fs::create_dir(&archives.dir).map_err(|cause| cannot("make", &archives.dir, &cause))?;
        for modules in [false, true] {
            archives.ours(&archives.of(Initramfs::CvmInit, modules), modules, &[])?;
        }
        archives.shell()?;
        let dracut = archives.of(Initramfs::Dracut, true);
        fs::copy(site.places.dracut("initrd.gz"), &dracut)
            .map_err(|cause| cannot("make", &dracut, &cause))?;
        let counter = site.scratch.join("counter");
        folder::counter(&counter, site)?;
        archives.pack(&counter, LOG, &archives.dir.join("counter"))?;
        Ok(archives)
    }

    /// That of an image in layers.
    pub(super) fn of_layers(&self, way: LayerWay) -> Result<PathBuf> {
        let file = self.dir.join(way.to_string());
        if !file.exists() {
            match way {
                LayerWay::Layers => self.ours(&file, true, &["--with", "layers"])?,
                LayerWay::Engine => {
                    let kept = self.site.places.out().join("engine.gz");
                    let mut script = self.site.places.script("engine-initramfs");
                    self.site
                        .runner
                        .run(&"pack an engine's initramfs", script.arg("-o").arg(&kept))?;
                    fs::copy(&kept, &file).map_err(|cause| cannot("make", &file, &cause))?;
                }
            }
        }
        Ok(file)
    }

    /// Where that of a way is; there is not each without modules.
    pub(super) fn of(&self, initramfs: Initramfs, modules: bool) -> PathBuf {
        self.dir.join(format!("{initramfs}.{}", if modules { "modules" } else { "none" }))
    }

    /// The one to boot a guest with.
    pub(super) fn of_guest(&self, guest: &Guest) -> Result<PathBuf> {
        let mut file = self.of(guest.way.initramfs(), true);
        if let Some(cipher) = guest.cipher() {
            file = self.dir.join(cipher);
            if !file.exists() {
                self.ours(&file, true, &["--cipher", cipher])?;
            }
        }
        if guest.job == Job::Costs {
            return self
                .counted(&file)
                .map_err(|cause| cannot("add what counts to", &file, &cause));
        }
        Ok(file)
    }

    /// The same with what counts system calls: the kernel unpacks one archive over the other.
    fn counted(&self, file: &Path) -> io::Result<PathBuf> {
        let both = self.dir.join("counted");
        let parts = [fs::read(file)?, fs::read(self.dir.join("counter"))?];
        fs::write(&both, parts.concat())?;
        Ok(both)
    }

    /// How large each is, as it is measured at launch and as it lies in memory.
    pub(super) fn footprints(&self) -> Result<Vec<Footprint>> {
        let mut footprints = Vec::new();
        for initramfs in [Initramfs::CvmInit, Initramfs::Shell, Initramfs::Dracut] {
            for modules in [false, true] {
                let file = self.of(initramfs, modules);
                if file.exists() {
                    let (packed_bytes, unpacked_bytes) =
                        sizes(&file).map_err(|cause| files::unreadable(&file, &cause))?;
                    footprints.push(Footprint { initramfs, modules, packed_bytes, unpacked_bytes });
                }
            }
        }
        Ok(footprints)
    }

    /// Has scripts/initramfs make one.
    fn ours(&self, file: &Path, modules: bool, more: &[&str]) -> Result<()> {
        let Site { places, runner, .. } = self.site;
        let modules = if modules { places.kernel("modules") } else { "none".into() };
        let mut script = places.script("initramfs");
        script.arg("--init").arg(places.program()).arg("--kernel-modules").arg(modules);
        runner.run(&"pack an initramfs", script.args(more).arg("-o").arg(file)).map(drop)
    }

    /// The shell's, without modules and with the very same in the same order.
    fn shell(&self) -> Result<()> {
        let Site { runner, scratch, .. } = self.site;
        let (tree, modules) = (scratch.join("shell"), scratch.join("modules"));
        folder::shell(&tree, self.site)?;
        self.pack(&tree, CONSOLE, &self.of(Initramfs::Shell, false))?;
        self.ours(&modules, true, FOR_PROGRAMS)?;
        let mut unpack = process::command("bsdtar")?;
        unpack.arg("-C").arg(&tree).arg("-xf").arg(&modules).args(["--include", "./modules*"]);
        runner.run(&"unpack the modules", &mut unpack)?;
        self.pack(&tree, CONSOLE, &self.of(Initramfs::Shell, true))
    }

    /// An initramfs of a folder, compressed as scripts/initramfs does it. The kernel opens
    /// /dev/console as the standard streams.
    fn pack(&self, folder: &Path, node: &str, file: &Path) -> Result<()> {
        let (cpio, mtree) = (file.with_extension("cpio"), file.with_extension("mtree"));
        let doing = format!("pack {}", file.display());
        files::write(&mtree, &format!("#mtree\n{node}\n"))?;
        let mut described = OsString::from("@");
        described.push(&mtree);
        let mut bsdtar = process::command("bsdtar")?;
        bsdtar.arg("-C").arg(folder).args(["--uid", "0", "--gid", "0", "--format", "newc", "-cf"]);
        self.site.runner.run(&doing, bsdtar.arg(&cpio).arg(".").arg(described))?;
        let mut gzip = process::command("gzip")?;
        self.site.runner.run_into(file, &doing, gzip.args(["-n", "-9", "-c"]).arg(&cpio))
    }
}

/// Bytes of a compressed file, and of what is in it.
fn sizes(file: &Path) -> io::Result<(Number, Number)> {
    let packed = File::open(file)?;
    let bytes = packed.metadata()?.len();
    let unpacked = io::copy(&mut MultiGzDecoder::new(packed), &mut io::sink())?;
    Ok((Number::count(bytes), Number::count(unpacked)))
}
