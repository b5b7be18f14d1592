//! A root of layers: each one is mounted read-only, and an overlay joins them with a directory that
//! is written to.
//!
//! Their mount points are numbers of ours: no text of the host's is in a path, or in the options of
//! the overlay. They lie below one mount that goes when the root is handed over, so that nobody comes
//! by the upper directory but through the overlay.

use std::io;
use std::path::Path;

use rustix::io::Errno;

use super::init::Init;
use super::{Form, MAKE_DIR, Root, places, require_overlay};
use crate::config::{Config, Layers, Upper};
use crate::effect::{Effect, effect};
use crate::error::{Error, Result};
use crate::format::rootfs::Kind;
use crate::kernel::block::Device;
use crate::kernel::file;
use crate::kernel::mount::{self, Flags};
use crate::report::{LayerFacts, LayersFacts, Report};
use crate::stage::disk::LayerDisk;
use crate::stage::verity::Verity;
use crate::stage::{MOVED, NEW_ROOT, NewRoot, filesystem, mapping, node};

const MOUNT_LAYERS: Effect<0> = Effect::new("mount-layers", "mount tmpfs on /layers");
const MOUNT_UPPER: Effect<1> = Effect::new("mount-upper", "mount {} for what is written");
const MOUNT_VIEW: Effect<0> = Effect::new("mount-view", "mount the layers as the root, read-only");
const DETACH_VIEW: Effect<0> = Effect::new("detach-view", "let go of the layers alone");
const JOIN: Effect<0> = Effect::new("join-layers", "mount the layers as the root");

/// Where all of them are mounted.
pub const LAYERS: &str = "/layers";

/// What is above them: the volume, memory, or a disk of the host's.
pub const UPPER: &str = "/layers/upper";

/// On that: what is written, and the directory that overlayfs works in.
const DIRS: &[&str] = &["/layers/upper/upper", "/layers/upper/work"];

/// What the overlay does, the same whoever writes to the upper: with these its programs have been
/// tried. A directory can be renamed, a file whose owner changes is not copied, and what has several
/// names, or a number, keeps them (`Documentation/filesystems/overlayfs.rst`).
const OPTIONS: &str = "index=on,redirect_dir=on,metacopy=on,xino=on";

/// The most that mount(2) takes of options, in bytes: a page less a NUL.
const OPTIONS_MAX: usize = 4095;

pub(super) fn open<'a>(
    config: &Config,
    wanted: &'a Layers,
    layers: &[LayerDisk],
    plain: Option<&Device>,
    report: &mut Report,
) -> Result<Root<'a>> {
    require_overlay("layers")?;
    for dir in [LAYERS, NEW_ROOT] {
        make_dir(dir)?;
    }
    effect(MOUNT_LAYERS, || {
        mount::mount(Path::new("tmpfs"), Path::new(LAYERS), "tmpfs", Flags::empty(), "mode=700")
    })?;
    let mut facts = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        facts.push(mount_layer(number, layer)?);
    }
    make_dir(UPPER)?;
    let upper = match (&wanted.upper, plain) {
        (Upper::Plain(_), Some(device)) => {
            mount_plain(device)?;
            join(wanted)?;
            "plain"
        }
        (Upper::Memory, _) => {
            effect(MOUNT_UPPER.on(&[&"tmpfs"]), || {
                let (kind, options) = ("tmpfs", "mode=700");
                mount::mount(Path::new(kind), Path::new(UPPER), kind, Flags::empty(), options)
            })?;
            join(wanted)?;
            "memory"
        }
        // What can be wrong with the layers is told while nothing is written yet.
        _ => {
            view(wanted)?;
            "volume"
        }
    };
    // What is not there is made: the root is writable.
    let root = &NewRoot::default();
    let places: Vec<_> = MOVED.iter().map(|name| places::of(root, name)).collect::<Result<_>>()?;
    let init = Init::find(root, &config.init, &places)?;
    log::info!("root of {} layers, what is written: {upper}", layers.len());
    report.layers = Some(LayersFacts { layers: facts, upper });
    Ok(Root { init, form: Form::Layers(wanted) })
}

/// Has the root be writable: the layers below what [`UPPER`] has.
///
/// # Errors
/// The kernel's, and what a stale handle means.
pub fn join(layers: &Layers) -> Result<()> {
    if let Upper::Volume(_) = layers.upper {
        effect(DETACH_VIEW, || mount::detach(Path::new(NEW_ROOT)))?;
    }
    for dir in DIRS {
        make_dir(dir)?;
    }
    let [upper, work] = DIRS else { return Ok(()) };
    let options = format!("lowerdir={},upperdir={upper},workdir={work},{OPTIONS}", lower(layers));
    if options.len() > OPTIONS_MAX {
        return Err(Error::new(format!(
            "{} layers are too many for one overlay: make one of them with scripts/layers --flatten",
            layers.layers.len()
        )));
    }
    effect(JOIN, || overlay(&options, Flags::empty()))
}

/// The layers alone, as far as an overlay is needed for that.
fn view(layers: &Layers) -> Result<()> {
    effect(MOUNT_VIEW, || match layers.layers.len() {
        1 => {
            let (source, target) =
                (file::open(place(0), file::PLACE)?, file::open(NEW_ROOT, file::PLACE)?);
            Ok(mount::bind(&source, &target, Flags::empty())?)
        }
        _ => overlay(&format!("lowerdir={},{OPTIONS}", lower(layers)), Flags::RDONLY),
    })
}

fn overlay(options: &str, flags: Flags) -> io::Result<()> {
    let name = "overlay";
    mount::mount(Path::new(name), Path::new(NEW_ROOT), name, flags, options).map_err(|error| {
        match error {
            Errno::STALE => io::Error::other(
                "what is on the disk for what is written belongs to other layers: the image was \
                 changed since",
            ),
            other => other.into(),
        }
    })
}

fn lower(layers: &Layers) -> String {
    let places: Vec<_> = (0..layers.layers.len()).map(place).collect();
    places.join(":")
}

/// Where a layer is mounted; 0 is the topmost.
fn place(number: usize) -> String {
    format!("{LAYERS}/{number}")
}

fn mount_layer(number: usize, layer: &LayerDisk) -> Result<LayerFacts> {
    let (whose, target) = (format!("layer {number}"), place(number));
    let LayerDisk { device, verity, .. } = layer;
    make_dir(&target)?;
    let mapping = mapping::layer(number);
    let (node, file_system) = if let Some(verity) = verity {
        verity.open(&mapping)?;
        (node(&mapping), filesystem::look(&whose, &mapping, verity)?)
    } else {
        let file_system = filesystem::look_unverified(&whose, device)?;
        // The engine's layers are of this kind; the host gets no other parser to try.
        if file_system.kind != Kind::Erofs {
            return Err(Error::new(format!("{whose} is {}, not erofs", file_system.kind)));
        }
        (device.path(), file_system)
    };
    filesystem::mount(&whose, &node, &file_system, &target, Flags::empty())?;
    Ok(LayerFacts {
        disk: device.name.clone(),
        device: node,
        root_hash: verity.as_ref().map(Verity::root_hash),
        data_blocks: verity.as_ref().map(|verity| verity.params.data_blocks),
    })
}

/// The host's ext4, as it is: it may have been written by a boot before this one.
fn mount_plain(device: &Device) -> Result<()> {
    filesystem::require_ext4("the disk for what is written", device)?;
    effect(MOUNT_UPPER.on(&[&device.name]), || {
        mount::mount(&device.path(), Path::new(UPPER), "ext4", Flags::NOATIME, "")
    })
}

/// A directory of the initramfs.
fn make_dir(path: &str) -> Result<()> {
    effect(MAKE_DIR.on(&[&path]), || mount::ensure_dir(Path::new(path), 0o755))
}
