//! A root on a partition: one file system, read-only.

use std::path::Path;

use super::init::Init;
use super::mounts::Mounts;
use super::{Form, MAKE_DIR, Opened, Root, places, require_overlay};
use crate::config::{Config, Partitions};
use crate::effect::effect;
use crate::error::{Error, Result};
use crate::format::rootfs::Kind;
use crate::kernel::mount::{self, Flags};
use crate::report::{Report, RootFacts};
use crate::stage::verity::Verity;
use crate::stage::{NEW_ROOT, NewRoot, filesystem, mapping, node};

/// What messages call it.
const NAME: &str = "the root";

pub(super) fn open<'a>(
    config: &Config,
    partitions: &'a Partitions,
    verity: &Verity,
    report: &mut Report,
) -> Result<Opened<'a>> {
    verity.open(mapping::ROOT)?;
    let file_system = filesystem::look(NAME, mapping::ROOT, verity)?;
    let kind = file_system.kind;
    require_asked_for(kind, &partitions.kinds)?;
    effect(MAKE_DIR.on(&[&NEW_ROOT]), || mount::ensure_dir(Path::new(NEW_ROOT), 0o755))?;
    filesystem::mount(NAME, &node(mapping::ROOT), &file_system, NEW_ROOT, Flags::empty())?;
    log::info!("root verified and mounted read-only, {kind}");
    report.root = Some(RootFacts {
        device: node(mapping::ROOT),
        bytes: verity.bytes(),
        file_system: kind.name(),
    });
    if let Some(next) = &partitions.next_kernel {
        return Ok(Opened::ForKernel { next, words: partitions.words() });
    }
    let root = &NewRoot::default();
    // All that can be wrong with it is told while nothing else is made yet.
    let places = places::find(root, config)?;
    let init = Init::find(root, &config.init, &places)?;
    let mounts = Mounts::find(root, config, &places)?;
    if !config.overlay.is_empty() {
        require_overlay("cvm.overlay=")?;
    }
    Ok(Opened::ForInit(Root { init, form: Form::Partition { kind, mounts } }))
}

fn require_asked_for(kind: Kind, asked: &[Kind]) -> Result<()> {
    if asked.contains(&kind) {
        return Ok(());
    }
    let names: Vec<_> = asked.iter().map(|kind| kind.name()).collect();
    Err(Error::new(format!("the root is {kind}, but rootfstype= is {}", names.join(","))))
}
