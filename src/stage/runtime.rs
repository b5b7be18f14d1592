//! Stage 5: what the new root finds mounted.

use std::fs;
use std::path::Path;

use super::{NEW_ROOT, in_new_root, mapping, metadata, node};
use crate::effect::{effect, optional};
use crate::error::{Error, Result};
use crate::fstab::{self, Share};
use crate::mount::{self, Flags};
use crate::report::Report;
use crate::{share, tree};

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

/// 9P shares, mounted when the host offers them. Their content is the host's word.
const SHARES: &[Share] = &[
    Share { tag: "certs_share", target: "/etc/certs" },
    Share { tag: "env_share", target: "/etc/cocos" },
];

/// Where this boot leaves what the new root may read; moves on with /run.
pub const RUN_DIR: &str = "/run/cvm-init";

const FSTAB: &str = "/etc/fstab";
const NEW_FSTAB: &str = "/run/cvm-init/fstab";

/// Directories of udev's rules that lie in /run.
const RULES_DIRS: &[&str] = &["/run/udev", "/run/udev/rules.d"];

/// Before 55-dm.rules, which looks at the flag.
const RULES: &str = "/run/udev/rules.d/10-cvm-init.rules";

/// Our mappings were made without udev's cookies, so the new root's udev would take them for not
/// ready, and remove their nodes at the next trigger.
const RULES_TEXT: &str = "\
# The mappings made by cvm-init are ready: it does not speak udev's cookie protocol.
SUBSYSTEM==\"block\", KERNEL==\"dm-[0-9]*\", ACTION==\"add|change\", ENV{DM_COOKIE}!=\"?*\", \
ENV{DM_UDEV_PRIMARY_SOURCE_FLAG}=\"1\"
";

/// Mounts and fills what the new root needs.
///
/// # Errors
/// When the root lacks a mount point, or a step fails that is not optional.
pub fn furnish(report: &mut Report) -> Result<()> {
    make_dirs(NEW_ROOT, VOLUME_DIRS)?;
    for (target, options) in TMPFS {
        effect(format!("mount tmpfs on {target}"), || {
            let flags = Flags::NOSUID | Flags::NODEV;
            mount::mount(Path::new("tmpfs"), &in_new_root(target), "tmpfs", flags, options)
        })?;
    }
    make_dirs(NEW_ROOT, TMPFS_DIRS)?;
    for &images in IMAGES {
        bind(images)?;
    }
    let (copy, original) = COCOS_INIT;
    if effect(format!("look for {original}"), || metadata(&in_new_root(original)))?
        .is_some_and(|metadata| metadata.is_dir())
    {
        effect(format!("copy {original} to {copy}"), || {
            tree::copy(&in_new_root(original), &in_new_root(copy))
        })?;
        bind(COCOS_INIT)?;
    }
    let fstab = read_fstab()?;
    report.shares = mount_shares(fstab.as_deref().unwrap_or_default())?;
    make_dirs("/", &[RUN_DIR])?;
    // Where there is none, tools find none, as the image build decided.
    if let Some(fstab) = fstab {
        cover_fstab(&fstab, &report.shares)?;
    }
    make_dirs("/", RULES_DIRS)?;
    effect(format!("write {RULES}"), || fs::write(RULES, RULES_TEXT))
}

/// Makes directories below `root`, in the order given.
fn make_dirs(root: &str, dirs: &[&str]) -> Result<()> {
    for dir in dirs {
        let path = Path::new(root).join(dir.trim_start_matches('/'));
        effect(format!("make {dir}"), || mount::ensure_dir(&path, 0o755))?;
    }
    Ok(())
}

fn bind((source, target): (&str, &str)) -> Result<()> {
    effect(format!("bind {source} to {target}"), || {
        mount::bind(&in_new_root(source), &in_new_root(target))
    })
}

/// The root's fstab, if it has one.
fn read_fstab() -> Result<Option<String>> {
    let path = in_new_root(FSTAB);
    let Some(metadata) = effect(format!("look for {FSTAB}"), || metadata(&path))? else {
        return Ok(None);
    };
    if !metadata.is_file() {
        return Err(Error::new(format!("{FSTAB} is not a regular file")));
    }
    effect(format!("read {FSTAB}"), || {
        fs::read(&path).map(|bytes| Some(String::from_utf8_lossy(&bytes).into_owned()))
    })
}

/// Mounts the shares on offer, with the options of the root's fstab, and returns their tags. A
/// share that does not mount is the host's doing, and a guest that needs it will say so itself.
fn mount_shares(fstab: &str) -> Result<Vec<&'static str>> {
    let offered = effect("list the 9P shares", share::offered_tags)?;
    let mut mounted = Vec::new();
    for share in SHARES {
        let Share { tag, target } = share;
        if !offered.iter().any(|offer| offer == tag) {
            continue;
        }
        let options = share.options_of(fstab).unwrap_or(share::OPTIONS);
        let (flags, data) = mount::parse_options(options);
        let flags = flags | Flags::NOSUID | Flags::NODEV;
        let outcome = optional(format!("mount the share {tag} on {target}"), || {
            mount::mount(Path::new(tag), &in_new_root(target), "9p", flags, &data)
        });
        mounted.extend(outcome.map(|()| *tag));
    }
    Ok(mounted)
}

/// The root is read-only, so the new fstab covers the old one.
fn cover_fstab(old: &str, mounted: &[&str]) -> Result<()> {
    let root = node(mapping::ROOT);
    let new = fstab::generate(old, &root.to_string_lossy(), SHARES, mounted, share::OPTIONS);
    effect(format!("write {NEW_FSTAB}"), || fs::write(NEW_FSTAB, new))?;
    effect(format!("bind {NEW_FSTAB} to {FSTAB}"), || {
        mount::bind(Path::new(NEW_FSTAB), &in_new_root(FSTAB))
    })
}
