//! Stage 6: what the new root finds mounted, and which files.

mod fstab;
mod layers;
mod partition;
mod shares;
mod writable;

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;

use super::root::{Form, Root};
use super::{NewRoot, mapping};
use crate::config::{Config, Layout};
use crate::effect::{Effect, effect};
use crate::error::Result;
use crate::kernel::file;
use crate::kernel::mount::{self, Flags};
use crate::report::Report;

const MAKE_DIR: Effect<1> = Effect::new("make-dir", "make {}");
const BIND: Effect<2> = Effect::new("bind", "bind {} to {}");
const WRITE: Effect<1> = Effect::new("write", "write {}");

/// Images are large and belong on the volume, not in memory: directory of the volume, mount point.
/// Docker keeps them in its own directory or, from version 29 on, has containerd keep them.
const IMAGES: &[(&str, &str)] =
    &[("docker", "/var/lib/docker"), ("containerd", "/var/lib/containerd")];

/// Where this boot leaves what the new root may read; moves on with /run.
pub const RUN_DIR: &str = "/run/cvm-init";

/// Directories of udev's rules that lie in /run.
const RULES_DIRS: &[&str] = &["/run/udev", "/run/udev/rules.d"];

/// Before 55-dm.rules, which looks at the flag.
const RULES: &str = "/run/udev/rules.d/10-cvm-init.rules";

/// Directories of systemd's settings that lie in /run.
const SETTINGS_DIRS: &[&str] = &["/run/systemd", "/run/systemd/system.conf.d"];

const SETTINGS: &str = "/run/systemd/system.conf.d/10-cvm-init.conf";

/// systemd keeps its own environment to itself, so what stands there for an EFI variable
/// (`handoff::NO_EFI_OPTIONS`) does not reach its services. Left to themselves they take the host's
/// words from a copy in /run: journald to write the journal to the console, for one.
const SETTINGS_TEXT: &str = "\
# The firmware's variables are the host's: services take no words for the kernel's command line there.
[Manager]
DefaultEnvironment=SYSTEMD_EFI_OPTIONS=
";

/// Mounts and fills what the new root needs.
///
/// # Errors
/// When a step fails that is not optional.
pub fn prepare(config: &Config, root: &Root<'_>, report: &mut Report) -> Result<()> {
    make_run_dirs(&[RUN_DIR])?;
    match &root.form {
        Form::Partition { kind, mounts } => {
            partition::prepare(&NewRoot::default(), config, *kind, mounts, report)?;
        }
        Form::Layers(layers) => layers::prepare(layers)?,
    }
    write_rules(config)?;
    make_run_dirs(SETTINGS_DIRS)?;
    effect(WRITE.on(&[&SETTINGS]), || file::publish(SETTINGS, SETTINGS_TEXT.as_bytes()))
}

/// Makes directories of the new root, in the order given.
fn make_dirs(root: &NewRoot, dirs: &[&str]) -> Result<()> {
    for dir in dirs {
        effect(MAKE_DIR.on(&[&dir]), || make_dir(root, dir, 0o755))?;
    }
    Ok(())
}

/// Makes a directory where it is not there yet, in one that is. A link in its place is none.
fn make_dir(root: &NewRoot, path: &str, mode: u32) -> io::Result<()> {
    let (parent, name) = parted(path);
    let parent = root.directory(parent)?;
    match mkdirat(&parent, name, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = File::from(openat(&parent, name, flags, Mode::empty())?);
    // This process's mask takes bits of it away.
    directory.set_permissions(Permissions::from_mode(mode))
}

/// The directory that an absolute path lies in, and its name there.
fn parted(path: &str) -> (&str, &str) {
    match path.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        parts => parts.unwrap_or_default(),
    }
}

/// Makes directories in /run, which is still that of the initramfs.
pub(super) fn make_run_dirs(dirs: &[&str]) -> Result<()> {
    for dir in dirs {
        effect(MAKE_DIR.on(&[&dir]), || mount::ensure_dir(Path::new(dir), 0o755))?;
    }
    Ok(())
}

/// Has one directory of the new root show another.
fn bind(root: &NewRoot, source: &str, target: &str, flags: Flags) -> Result<()> {
    effect(BIND.on(&[&source, &target]), || {
        let (source, target) = (root.directory(source)?, root.directory(target)?);
        Ok::<_, io::Error>(mount::bind(&source, &target, flags)?)
    })
}

/// Whether the new root has this directory.
fn is_there(root: &NewRoot, directory: &str) -> io::Result<bool> {
    match root.directory(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        outcome => outcome.map(|_| true),
    }
}

/// A path that ends in the directory itself, where that of a descriptor is a link.
fn inside(directory: &File) -> PathBuf {
    mount::path_of(directory).join(".")
}

/// Our mappings were made without udev's cookies, so the new root's udev would take them for not
/// ready, and remove their nodes at the next trigger. Mappings of others have their own ways.
fn write_rules(config: &Config) -> Result<()> {
    make_run_dirs(RULES_DIRS)?;
    effect(WRITE.on(&[&RULES]), || {
        let data = config.data.iter().map(|data| mapping::data(&data.name));
        let layers = match &config.layout {
            Layout::Partitions(_) => 0,
            Layout::Layers(layers) => layers.layers.len(),
        };
        let verified = data.chain((0..layers).map(mapping::layer));
        let names: Vec<_> =
            mapping::ALL.iter().map(|name| (*name).to_owned()).chain(verified).collect();
        let names = names.join("|");
        let rules = format!(
            "# The mappings made by cvm-init are ready: it does not speak udev's cookie protocol.\n\
             SUBSYSTEM==\"block\", KERNEL==\"dm-[0-9]*\", ATTR{{dm/name}}==\"{names}\", \
             ACTION==\"add|change\", ENV{{DM_COOKIE}}!=\"?*\", \
             ENV{{DM_UDEV_PRIMARY_SOURCE_FLAG}}=\"1\"\n"
        );
        file::publish(RULES, rules.as_bytes())
    })
}
