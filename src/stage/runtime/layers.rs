//! A root of layers: it is made writable, and gets the files that an engine's guests expect.
//!
//! The upper may be a disk that an earlier boot, or the host, has written to. So a name is looked up as
//! the new root will see it, and a file is put in the place of what has its name: no link leads
//! anywhere.

use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::Mode;
use rustix::system::sethostname;

use super::{BIND, IMAGES, MAKE_DIR, WRITE, is_there, make_dirs, parted};
use crate::config::{Layers, Upper};
use crate::effect::{Effect, effect};
use crate::error::Result;
use crate::format::network::{self, Mac};
use crate::kernel::mount::{self, Flags};
use crate::kernel::{file, net};
use crate::stage::root::{LAYERS, UPPER, join};
use crate::stage::{MOVED, NewRoot};

const LOOK_FOR: Effect<1> = Effect::new("look-for", "look for {}");
const LOOK_UP_NETWORK: Effect<1> =
    Effect::new("look-up-network-device", "look up the network device {}");
const LIST_NETWORK: Effect<0> = Effect::new("list-network-devices", "list the network devices");
const SET_HOSTNAME: Effect<1> = Effect::new("set-hostname", "call the machine {}");
const DETACH_LAYERS: Effect<0> = Effect::new("detach-layers", "take the layers out of sight");

/// Directories of the files below, each in one before it.
const FILE_DIRS: &[&str] = &["/etc", "/etc/systemd", NETWORKS];

/// Where systemd-networkd looks.
const NETWORKS: &str = "/etc/systemd/network";

const MACHINE_ID: &str = "/etc/machine-id";
const HOSTNAME: &str = "/etc/hostname";
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// What a file is called until it is whole.
const UNFINISHED: &str = ".cvm-init.new";

/// Directories that hold the stores of containers.
const STORE_DIRS: &[&str] = &["/var", "/var/lib", "/var/lib/docker", "/var/lib/containerd"];

/// The name servers of a guest that was told none, where nothing is verified: those that the engine's
/// own script has.
const PUBLIC_SERVERS: [Ipv4Addr; 2] = [Ipv4Addr::new(8, 8, 8, 8), Ipv4Addr::new(8, 8, 4, 4)];

/// Mounts and fills what such a root needs.
pub(super) fn prepare(layers: &Layers) -> Result<()> {
    if let Upper::Volume(_) = layers.upper {
        join(layers)?;
    }
    let root = &NewRoot::default();
    make_missing(root, MOVED)?;
    if let Upper::Volume(_) = layers.upper {
        bind_stores(root)?;
    }
    make_missing(root, FILE_DIRS)?;
    // One is made for each boot: what two guests of one image share is no identity.
    replace(root, MACHINE_ID, "")?;
    if let Some(name) = &layers.hostname {
        replace(root, HOSTNAME, &format!("{name}\n"))?;
        effect(SET_HOSTNAME.on(&[name]), || sethostname(name.as_bytes()))?;
    }
    write_networks(root, layers)?;
    write_resolv_conf(root, layers)?;
    effect(DETACH_LAYERS, || mount::detach(Path::new(LAYERS)))
}

/// Images of containers lie on the volume itself: an overlay takes no other one for its upper. What
/// the image brings along stays in sight.
fn bind_stores(root: &NewRoot) -> Result<()> {
    make_missing(root, STORE_DIRS)?;
    for (name, target) in IMAGES {
        let is_empty = effect(LOOK_FOR.on(&[target]), || {
            let directory = root.directory(target)?;
            file::is_empty(mount::path_of(&directory))
        })?;
        if !is_empty {
            log::info!("{target} of the image is not empty: it stays where it is");
            continue;
        }
        let source = format!("{UPPER}/{name}");
        effect(MAKE_DIR.on(&[&source]), || mount::ensure_dir(Path::new(&source), 0o711))?;
        effect(BIND.on(&[&source, target]), || {
            let (source, target) = (file::open(&source, file::PLACE)?, root.directory(target)?);
            Ok::<_, io::Error>(mount::bind(&source, &target, Flags::empty())?)
        })?;
    }
    Ok(())
}

/// A file for each device that the command line names; where it names none, and an engine's guest
/// would ask for its settings, one for each that there is.
fn write_networks(root: &NewRoot, layers: &Layers) -> Result<()> {
    let mut any = false;
    for network in &layers.networks {
        let device = &network.device;
        match effect(LOOK_UP_NETWORK.on(&[device]), || net::mac(device))? {
            Some(mac) => {
                any = true;
                replace(root, &file_of(mac), &network.file(mac))?;
            }
            None => log::warn!("ip= is for {device}, which is not there (going on without)"),
        }
    }
    if any || !layers.by_engine {
        return Ok(());
    }
    for mac in effect(LIST_NETWORK, net::macs)? {
        replace(root, &file_of(mac), &network::dhcp_file(mac))?;
    }
    Ok(())
}

fn file_of(mac: Mac) -> String {
    format!("{NETWORKS}/10-{}.network", mac.digits())
}

/// Names the servers that the command line does. A link is the root's own way to have the file
/// written by somebody else.
fn write_resolv_conf(root: &NewRoot, layers: &Layers) -> Result<()> {
    let mut servers: Vec<_> =
        layers.networks.iter().flat_map(|network| network.dns.iter().copied()).collect();
    if servers.is_empty() && !layers.are_verified() {
        servers.extend(PUBLIC_SERVERS);
    }
    if servers.is_empty() || effect(LOOK_FOR.on(&[&RESOLV_CONF]), || is_link(root, RESOLV_CONF))? {
        return Ok(());
    }
    replace(root, RESOLV_CONF, &network::resolv_conf(&servers))
}

/// Directories that the root does not have, in the order given.
fn make_missing(root: &NewRoot, dirs: &[&str]) -> Result<()> {
    for dir in dirs {
        if !effect(LOOK_FOR.on(&[dir]), || is_there(root, dir))? {
            make_dirs(root, &[*dir])?;
        }
    }
    Ok(())
}

/// Puts a file in the place of whatever has its name, which is not followed where it is a link.
fn replace(root: &NewRoot, path: &str, content: &str) -> Result<()> {
    effect(WRITE.on(&[&path]), || {
        let (parent, name) = parted(path);
        let parent = root.directory(parent)?;
        let folder = mount::path_of(&parent);
        let unfinished = folder.join(UNFINISHED);
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = file::create(&unfinished, Mode::RUSR | Mode::WUSR)?;
        file.write_all(content.as_bytes())?;
        file.set_permissions(Permissions::from_mode(0o644))?;
        fs::rename(unfinished, folder.join(name))
    })
}

/// Whether what has this name is a link.
fn is_link(root: &NewRoot, path: &str) -> io::Result<bool> {
    let (parent, name) = parted(path);
    let parent = root.directory(parent)?;
    match fs::symlink_metadata(mount::path_of(&parent).join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        metadata => Ok(metadata?.is_symlink()),
    }
}
