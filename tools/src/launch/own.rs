//! What a VM has for itself alone: a folder, its firmware's variables, its disks, its TPM. Of a launch that
//! is only printed each step is printed, and nothing is made.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cvm_init::error::{Error, Result};
use rustix::fs::{Access, FlockOperation, access, flock};
use rustix::io::Errno;
use tempfile::TempDir;

use crate::launch::firmware::Firmware;
use crate::launch::host::temporary;
use crate::launch::plan::Plan;
use crate::launch::shell;
use crate::launch::variables as of;
use crate::vm::channel::Socket;
use crate::vm::properties::pair;
use crate::vm::tpm::{self, Tpm};
use crate::vm::{process, qemu_img};

/// Bytes of the path of a socket, at most: what `struct sockaddr_un` has room for, less the NUL.
const SOCKET_MAX: usize = 107;

/// What is gone when this is dropped.
#[derive(Debug)]
pub struct Own {
    /// The folder.
    pub folder: PathBuf,
    /// The firmware's variables, which the guest may write.
    pub variables: PathBuf,
    /// The image's disk as the guest may write it.
    pub overlay: PathBuf,
    /// The blank disk.
    pub volume: PathBuf,
    /// Where QEMU finds the TPM.
    pub tpm: PathBuf,
    /// What is to end or to be removed, the last first.
    ends: Vec<Box<dyn fmt::Debug>>,
}

impl Drop for Own {
    fn drop(&mut self) {
        while self.ends.pop().is_some() {}
    }
}

/// A file that goes with this.
#[derive(Debug)]
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A file as QEMU's block layer takes it: it would look for a relative one beside the overlay, and for a
/// protocol before a colon.
///
/// # Errors
/// There is no current folder.
pub fn absolute(file: &str) -> Result<PathBuf> {
    let folder = std::env::current_dir();
    // Not std::path::absolute, which takes parts of it away.
    folder
        .map(|folder| folder.join(file))
        .map_err(|cause| Error::cannot(&"find this folder", &cause))
}

/// Prepares something for QEMU, or says how.
fn step(plan: &Plan, doing: &str, command: &mut Command) -> Result<()> {
    if plan.dry_run {
        tell(command);
        return Ok(());
    }
    process::attempt(&doing, command)
}

fn tell(command: &Command) {
    println!("{}", shell::line(command));
}

impl Own {
    /// Makes all of it.
    ///
    /// # Errors
    /// What cannot be made.
    pub fn make(plan: &Plan) -> Result<Self> {
        let (folder, removed) = make_folder(plan)?;
        let mut own = Self {
            variables: folder.join("OVMF_VARS.fd"),
            overlay: folder.join("disk.qcow2"),
            volume: folder.join("volume.qcow2"),
            tpm: folder.join("tpm"),
            folder,
            ends: removed.into_iter().map(|folder| Box::new(folder) as _).collect(),
        };
        if plan.firmware == Firmware::Flash {
            let from = plan.variables.get(&of::OVMF_VARS_FILE);
            let mut copy = Command::new("cp");
            copy.arg("--no-preserve=mode").arg(from).arg(&own.variables);
            step(plan, &format!("copy {from}"), &mut copy)?;
        }
        if plan.disk {
            own.make_overlay(plan)?;
        }
        if let Some(volume) = &plan.volume {
            step(
                plan,
                "make the disk for the volume",
                &mut qemu_img::blank(&own.volume, &volume.of),
            )?;
        }
        if let Some(tpm) = &plan.tpm {
            own.start_tpm(plan, tpm)?;
        }
        Ok(own)
    }

    fn make_overlay(&mut self, plan: &Plan) -> Result<()> {
        let source = absolute(plan.variables.get(&of::SRC_DISK_FILE))?;
        if let Some(file) = plan.variables.some(&of::DST_DISK_FILE) {
            self.overlay = absolute(file)?;
            if !plan.dry_run {
                // Fails when it exists: it may be the disk of another VM.
                File::create_new(&self.overlay).map_err(|_| {
                    let why = "it exists, or its folder cannot be written";
                    Error::cannot(&format_args!("make {}", self.overlay.display()), &why)
                })?;
                self.ends.push(Box::new(Removed(self.overlay.clone())));
            }
        }
        let format = format_of(&source);
        if !plan.dry_run {
            need_partitions(&source, format, &self.folder.join("head"))?;
        }
        let mut make = qemu_img::overlay(&source, format, &self.overlay);
        step(plan, &format!("make an overlay of {}", source.display()), &mut make)?;
        // Room for /cocos to grow into.
        let mut grow = qemu_img::grow(&self.overlay, "+1G");
        step(plan, &format!("grow {}", self.overlay.display()), &mut grow)
    }

    fn start_tpm(&mut self, plan: &Plan, name: &str) -> Result<()> {
        let state = absolute(name)?;
        let mut make = Command::new("mkdir");
        step(plan, &format!("make {name}"), make.args(["-m", "0700", "-p"]).arg(&state))?;
        if plan.dry_run {
            // A shell has nobody to end it but QEMU, and no socket to hand over.
            let mut swtpm = Command::new("swtpm");
            swtpm.args(tpm::arguments(&state, pair("path", &self.tpm)));
            swtpm.arg("--pid").arg(pair("file", self.folder.join("tpm.pid")));
            tell(swtpm.args(["--terminate", "--daemon"]));
            return Ok(());
        }
        if self.tpm.as_os_str().len() > SOCKET_MAX {
            return Err(Error::new(format!(
                "cannot use TMPDIR={}: the path of the TPM's socket in it would be longer than the \
                 {SOCKET_MAX} bytes that one can have; TMPDIR=/var/tmp is short",
                temporary().display()
            )));
        }
        self.ends.push(Box::new(lock(name, &state)?));
        let socket = Socket::Path(self.tpm.clone());
        self.ends.push(Box::new(Tpm::start(&socket, &state, Stdio::inherit())?));
        Ok(())
    }
}

/// The folder, and what removes it; of a launch that is only printed, one that is not there.
fn make_folder(plan: &Plan) -> Result<(PathBuf, Option<TempDir>)> {
    let place = temporary();
    let cannot = |_| Error::new(format!("cannot write in {}", place.display()));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".qemu.").permissions(fs::Permissions::from_mode(0o700));
    if plan.dry_run {
        let named = builder.make_in(&place, |_| Ok(())).map_err(cannot)?;
        let folder = named.into_temp_path().keep().map_err(|error| cannot(error.error))?;
        let mut make = Command::new("mkdir");
        tell(make.args(["-m", "0700", "-p"]).arg(&folder));
        return Ok((folder, None));
    }
    let place = fs::canonicalize(&place).map_err(cannot)?;
    let removed = builder.tempdir_in(&place).map_err(cannot)?;
    Ok((removed.path().to_owned(), Some(removed)))
}

/// Told by qcow2's magic number alone: QEMU's guess knows formats that name other files.
fn format_of(disk: &Path) -> &'static str {
    let mut magic = [0; 4];
    let read = File::open(disk).and_then(|mut disk| disk.read_exact(&mut magic));
    if read.is_ok() && magic == *b"QFI\xfb" { "qcow2" } else { "raw" }
}

/// A firmware looks for its loader for a minute where there can be none.
fn need_partitions(disk: &Path, format: &str, head: &Path) -> Result<()> {
    let mut read = Command::new("qemu-img");
    read.args(["dd", "-f", format, "-O", "raw", "bs=4096", "count=2"]);
    read.arg(pair("if", disk)).arg(pair("of", head));
    process::attempt(&format_args!("read {}", disk.display()), &mut read)?;
    let is_table = |sector: u64| -> io::Result<bool> {
        let mut magic = [0; 8];
        File::open(head)?.read_exact_at(&mut magic, sector)?;
        Ok(&magic == b"EFI PART")
    };
    if [512, 4096].into_iter().any(|sector| is_table(sector).unwrap_or(false)) {
        return Ok(());
    }
    Err(Error::new(format!(
        "cannot boot {}: it has no GPT; make an image with scripts/image",
        disk.display()
    )))
}

/// Has the state of a TPM for one VM alone.
fn lock(name: &str, state: &Path) -> Result<File> {
    let cannot = |why: &str| Error::new(format!("cannot use {name}: {why}"));
    let unusable = || cannot("the state of a TPM cannot be written there");
    access(state, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK).map_err(|_| unusable())?;
    let folder = File::open(state).map_err(|_| unusable())?;
    match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => {
            return Err(cannot("another VM has this TPM; name another folder with --tpm"));
        }
        locked => locked.map_err(|_| unusable())?,
    }
    Ok(folder)
}
