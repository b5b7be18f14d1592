//! Folders that become a root or an initramfs: this machine's programs, and what they need.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use cvm_init::error::Result;

use super::program::{Runner, Site, cannot};
use crate::vm::process;

/// What a guest's job is done with, besides busybox.
pub(super) const TOOLS: &[&str] = &["fio", "dmsetup", "mkfs.ext4", "dumpe2fs"];
/// What the script of the shell way calls.
const CALLED: &[&str] = &["bash", "cryptsetup", "veritysetup", "mkfs.ext4"];
/// Not linked but opened, when a thread of argon2 ends.
const OPENED: &str = "libgcc_s.so.1";

/// A folder that is being filled.
struct Folder<'a> {
    dir: &'a Path,
    runner: &'a Runner,
}

/// The root of a measured guest: busybox, the measuring init, what a boot mounts on, and programs.
pub(super) fn root(dir: &Path, programs: &[&str], site: Site) -> Result<()> {
    let (folder, places) = (Folder { dir, runner: site.runner }, site.places);
    folder.folders(&[
        "bin",
        "cocos",
        "dev",
        "etc/certs",
        "etc/cocos",
        "lib/bench",
        "proc",
        "run",
        "sbin",
        "sys",
        "tmp",
        "var",
    ])?;
    let demo = places.tree.join("scripts/demo-root");
    folder.copy(&demo.join("cocos_init"), "")?;
    folder.copy(&demo.join("etc/fstab"), "etc")?;
    // systemd takes no root without it.
    folder.write("etc/os-release", "ID=bench\n")?;
    for (part, place) in
        [("guest/report", "sbin"), ("guest/jobs.fio", "lib/bench"), ("guest/choices", "lib/bench")]
    {
        folder.copy(&places.part(part), place)?;
    }
    folder.build(&places.part("guest/measure.c"), "sbin/measure")?;
    folder.build(&places.part("guest/writers.c"), "lib/bench/writers")?;
    // What scripts/image asks of a root; the guests have init=/sbin/measure.
    folder.link("measure", "sbin/init")?;
    for module in ["drivers/char/virtio_console.ko", "fs/overlayfs/overlay.ko"] {
        folder.copy(&places.kernel("modules/kernel").join(module), "lib/bench")?;
    }
    folder.programs(programs)?;
    folder.busybox()?;
    folder.open_to_all()
}

/// The initramfs of the shell way without kernel modules.
pub(super) fn shell(dir: &Path, site: Site) -> Result<()> {
    let folder = Folder { dir, runner: site.runner };
    folder.folders(&["bin", "dev", "etc", "proc", "root", "run", "sys", "tmp"])?;
    folder.copy(&site.places.part("initramfs/shell"), "init")?;
    folder.copy(Path::new("/etc/mke2fs.conf"), "etc")?;
    folder.programs(CALLED)?;
    folder.busybox()?;
    folder.open_to_all()
}

/// What counts system calls, to be unpacked over an initramfs.
pub(super) fn counter(dir: &Path, site: Site) -> Result<()> {
    let folder = Folder { dir, runner: site.runner };
    folder.folders(&["bench/tracing", "dev"])?;
    folder.build(&site.places.part("initramfs/count.c"), "bench/measure")
}

impl Folder<'_> {
    fn folders(&self, names: &[&str]) -> Result<()> {
        names.iter().try_for_each(|name| made(&self.dir.join(name), |dir| fs::create_dir_all(dir)))
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        made(&self.dir.join(name), |file| fs::write(file, text))
    }

    fn link(&self, target: &str, name: &str) -> Result<()> {
        made(&self.dir.join(name), |link| symlink(target, link))
    }

    /// Files, folders and links as they are.
    fn copy(&self, from: &Path, place: &str) -> Result<()> {
        let mut copy = process::command("cp")?;
        copy.arg("-r").arg(from).arg(self.dir.join(place));
        self.runner.run(&format_args!("copy {}", from.display()), &mut copy).map(drop)
    }

    /// A program that needs nothing but the kernel.
    fn build(&self, source: &Path, name: &str) -> Result<()> {
        let mut gcc = process::command("gcc")?;
        gcc.args(["-O2", "-Wall", "-Wextra", "-static", "-o"]).arg(self.dir.join(name)).arg(source);
        self.runner.run(&format_args!("build {}", source.display()), &mut gcc).map(drop)
    }

    /// Programs of this machine, with the libraries that they need.
    fn programs(&self, names: &[&str]) -> Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        let mut files = Vec::new();
        for name in names {
            let (program, to) = (process::command(name)?, self.dir.join("bin").join(name));
            made(&to, |to| fs::copy(program.get_program(), to))?;
            files.push(to);
        }
        let mut libraries = self.needed(&files)?;
        libraries.extend(self.opened()?);
        for library in libraries {
            let to = self.dir.join(library.strip_prefix("/").unwrap_or(&library));
            made(&to, |to| {
                fs::create_dir_all(to.parent().unwrap_or(self.dir))?;
                fs::copy(&library, to)
            })?;
        }
        Ok(())
    }

    /// The libraries that programs are linked with.
    fn needed(&self, programs: &[PathBuf]) -> Result<BTreeSet<PathBuf>> {
        let said = self.runner.run(&"list libraries", process::command("ldd")?.args(programs))?;
        let words = said.lines().flat_map(str::split_whitespace);
        let paths = words.filter(|word| word.starts_with('/') && word.contains(".so"));
        Ok(paths.map(PathBuf::from).collect())
    }

    /// The library that none of them names.
    fn opened(&self) -> Result<Option<PathBuf>> {
        let known = self.runner.run(&"list libraries", process::command("ldconfig")?.arg("-p"))?;
        let mut lines = known.lines().map(str::trim);
        let line = lines.find(|line| line.starts_with(OPENED) && line.contains("x86-64"));
        Ok(line.and_then(|line| line.rsplit(' ').next()).map(PathBuf::from))
    }

    /// With a link for each of its applets that is not there already.
    fn busybox(&self) -> Result<()> {
        let mut busybox = process::command("busybox")?;
        made(&self.dir.join("bin/busybox"), |to| fs::copy(busybox.get_program(), to))?;
        let applets = self.runner.run(&"list applets", busybox.arg("--list"))?;
        for applet in applets.lines().map(|name| format!("bin/{name}")) {
            if !self.dir.join(&applet).exists() {
                self.link("busybox", &applet)?;
            }
        }
        Ok(())
    }

    /// Whatever the modes of this checkout are.
    fn open_to_all(&self) -> Result<()> {
        let mut chmod = process::command("chmod")?;
        chmod.args(["-R", "u=rwX,go=rX"]).arg(self.dir);
        self.runner.run(&format_args!("open {}", self.dir.display()), &mut chmod).map(drop)
    }
}

/// Makes something at `path`.
fn made<T>(path: &Path, make: impl FnOnce(&Path) -> io::Result<T>) -> Result<()> {
    make(path).map(drop).map_err(|cause| cannot("make", path, &cause))
}
