//! Stage 6: what the new root finds mounted.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::OFlags;

use super::{NEW_ROOT, in_new_root, mapping, metadata, node, open_in_new_root, path_of};
use crate::config::Config;
use crate::effect::{Effect, effect, optional};
use crate::error::{Error, Result};
use crate::format::fstab::{self, Share};
use crate::format::rootfs::Kind;
use crate::kernel::mount::{self, Flags};
use crate::kernel::{share, tree};
use crate::report::Report;

const MOUNT_TMPFS: Effect<1> = Effect::new("mount-tmpfs", "mount tmpfs on {}");
const LOOK_FOR: Effect<1> = Effect::new("look-for", "look for {}");
const COPY: Effect<2> = Effect::new("copy", "copy {} to {}");
const MAKE_DIR: Effect<1> = Effect::new("make-dir", "make {}");
const BIND: Effect<2> = Effect::new("bind", "bind {} to {}");
const READ: Effect<1> = Effect::new("read", "read {}");
const LIST_SHARES: Effect<0> = Effect::new("list-shares", "list the 9P shares");
const MOUNT_SHARE: Effect<2> = Effect::new("mount-share", "mount the share {} on {}");
const LOOK_INTO: Effect<1> = Effect::new("look-into", "look into {}");
const WRITE: Effect<1> = Effect::new("write", "write {}");

/// Directories on the volume.
const VOLUME_DIRS: &[&str] = &[
    "/cocos/.cache",
    "/cocos/.cache/oci",
    "/cocos/datasets",
    "/cocos/docker",
    "/cocos/containerd",
    "/cocos/cocos_init",
];

/// Places that must be writable although the root is not, and may be lost: mount point, options of
/// tmpfs(5). A quarter of the memory each, and a fifth for /run: with the quarter that the volume may
/// come to take (`volume::plan`), no more than there is can be asked for.
const TMPFS: &[(&str, &str)] = &[("/tmp", "mode=1777,size=25%"), ("/var", "mode=755,size=25%")];

/// Directories on the fresh tmpfs.
const TMPFS_DIRS: &[&str] = &["/var/lib", "/var/lib/docker", "/var/lib/containerd"];

/// Images are large and belong on the volume, not in memory: source, mount point. Docker keeps them
/// in its own directory or, from version 29 on, has containerd keep them.
const IMAGES: &[(&str, &str)] =
    &[("/cocos/docker", "/var/lib/docker"), ("/cocos/containerd", "/var/lib/containerd")];

/// Scripts of the root that write beside themselves: where a writable copy is put, and what it
/// then covers. A root without them is as good.
const COCOS_INIT: (&str, &str) = ("/cocos/cocos_init", "/cocos_init");

/// Where this boot leaves what the new root may read; moves on with /run.
pub const RUN_DIR: &str = "/run/cvm-init";

const FSTAB: &str = "/etc/fstab";
const NEW_FSTAB: &str = "/run/cvm-init/fstab";

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

/// Mounts and fills what the new root needs, whose own file system is `root`.
///
/// # Errors
/// When the root lacks a mount point, or a step fails that is not optional.
pub fn prepare(config: &Config, root: Kind, report: &mut Report) -> Result<()> {
    make_dirs(NEW_ROOT, VOLUME_DIRS)?;
    for (target, options) in TMPFS {
        effect(MOUNT_TMPFS.on(&[&target]), || {
            let flags = Flags::NOSUID | Flags::NODEV;
            mount::mount(Path::new("tmpfs"), &in_new_root(target), "tmpfs", flags, options)
        })?;
    }
    make_dirs(NEW_ROOT, TMPFS_DIRS)?;
    for &images in IMAGES {
        bind(images)?;
    }
    let (copy, original) = COCOS_INIT;
    if effect(LOOK_FOR.on(&[&original]), || metadata(&in_new_root(original)))?
        .is_some_and(|metadata| metadata.is_dir())
    {
        effect(COPY.on(&[&original, &copy]), || {
            tree::copy(&in_new_root(original), &in_new_root(copy))
        })?;
        bind(COCOS_INIT)?;
    }
    let fstab = read_fstab()?;
    let mounted = mount_shares(&config.shares, fstab.as_deref().unwrap_or_default())?;
    report.shares = mounted.iter().map(|(share, _)| share.tag).collect();
    make_dirs("/", &[RUN_DIR])?;
    // Where there is none, tools find none, as the image build decided.
    if let Some(fstab) = fstab {
        cover_fstab(&fstab, root, &mounted)?;
    }
    write_rules(config)?;
    make_dirs("/", SETTINGS_DIRS)?;
    effect(WRITE.on(&[&SETTINGS]), || fs::write(SETTINGS, SETTINGS_TEXT))
}

/// Makes directories below `root`, in the order given.
fn make_dirs(root: &str, dirs: &[&str]) -> Result<()> {
    for dir in dirs {
        let path = Path::new(root).join(dir.trim_start_matches('/'));
        effect(MAKE_DIR.on(&[&dir]), || mount::ensure_dir(&path, 0o755))?;
    }
    Ok(())
}

fn bind((source, target): (&str, &str)) -> Result<()> {
    effect(BIND.on(&[&source, &target]), || mount::bind(&in_new_root(source), &in_new_root(target)))
}

/// The root's fstab, if it has one, wherever it lies in the root.
fn read_fstab() -> Result<Option<String>> {
    effect(READ.on(&[&FSTAB]), || {
        // Does not wait for whoever writes to a fifo.
        let mut file = match open_in_new_root(FSTAB, OFlags::RDONLY | OFlags::NONBLOCK) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    })
}

/// Mounts the shares that are on offer and asked for, with the options of the root's fstab, and
/// returns them with these. A share that does not mount is the host's doing, and a guest that needs
/// it will say so itself.
fn mount_shares(wanted: &[Share], fstab: &str) -> Result<Vec<(Share, String)>> {
    let offered = effect(LIST_SHARES, share::offered_tags)?;
    let mut mounted = Vec::new();
    for share in wanted {
        let Share { tag, target } = share;
        let line = share.line_of(fstab);
        let options = line.and_then(|line| line.options).unwrap_or(share::OPTIONS);
        // Whether the host offers it or not: what is wrong with the root is wrong at each boot.
        let (flags, data) =
            mount::parse_options(options, share::OWN_OPTIONS).map_err(|option| {
                Error::new(format!(
                    "{FSTAB}: nobody knows the option {option:?} of the share {tag}"
                ))
            })?;
        if !offered.iter().any(|offer| offer == tag) {
            continue;
        }
        if line.is_none_or(|line| line.is_noauto()) && !is_empty(target) {
            log::warn!(
                "the share {tag} is on offer, but {target} is not empty, and {FSTAB} does not say \
                 that the share is to cover it (going on without)"
            );
            continue;
        }
        let outcome = optional(MOUNT_SHARE.on(&[&tag, &target]), || {
            let place = open_in_new_root(target, OFlags::PATH | OFlags::DIRECTORY)?;
            mount::mount(Path::new(tag), &path_of(&place), "9p", flags | share::FLAGS, &data)?;
            Ok::<_, io::Error>(())
        });
        mounted.extend(outcome.map(|()| (*share, options.to_owned())));
    }
    Ok(mounted)
}

/// Whether a directory of the root holds nothing; one that is not there does. What cannot be read, as
/// the host may have it, is not empty.
fn is_empty(directory: &str) -> bool {
    let entries = optional(LOOK_INTO.on(&[&directory]), || {
        match open_in_new_root(directory, OFlags::PATH | OFlags::DIRECTORY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
            Ok(directory) => Ok(fs::read_dir(path_of(&directory))?.count()),
        }
    });
    entries == Some(0)
}

/// The root is read-only, so the new fstab covers the old one.
fn cover_fstab(old: &str, root: Kind, mounted: &[(Share, String)]) -> Result<()> {
    let device = node(mapping::ROOT);
    let root = fstab::Root { device: &device.to_string_lossy(), kind: root.name() };
    let fstab::New { text, dropped } = fstab::generate(old, root, mounted, share::HARDENING);
    for line in dropped {
        log::warn!("{FSTAB}: not in force: {line}");
    }
    effect(WRITE.on(&[&NEW_FSTAB]), || fs::write(NEW_FSTAB, text))?;
    effect(BIND.on(&[&NEW_FSTAB, &FSTAB]), || {
        let place = open_in_new_root(FSTAB, OFlags::PATH)?;
        mount::bind(Path::new(NEW_FSTAB), &path_of(&place))?;
        Ok::<_, io::Error>(())
    })
}

/// Our mappings were made without udev's cookies, so the new root's udev would take them for not
/// ready, and remove their nodes at the next trigger. Mappings of others have their own ways.
fn write_rules(config: &Config) -> Result<()> {
    make_dirs("/", RULES_DIRS)?;
    effect(WRITE.on(&[&RULES]), || {
        let data = config.data.iter().map(|data| mapping::data(&data.name));
        let names: Vec<_> =
            mapping::ALL.iter().map(|name| (*name).to_owned()).chain(data).collect();
        let names = names.join("|");
        fs::write(
            RULES,
            format!(
                "# The mappings made by cvm-init are ready: it does not speak udev's cookie protocol.\n\
                 SUBSYSTEM==\"block\", KERNEL==\"dm-[0-9]*\", ATTR{{dm/name}}==\"{names}\", \
                 ACTION==\"add|change\", ENV{{DM_COOKIE}}!=\"?*\", \
                 ENV{{DM_UDEV_PRIMARY_SOURCE_FLAG}}=\"1\"\n"
            ),
        )
    })
}
