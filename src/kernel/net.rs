//! Network devices as sysfs shows them. Which there are, and their addresses, is the host's choice.
//!
//! Source: `Documentation/ABI/testing/sysfs-class-net`.

use std::fs;
use std::io;
use std::path::Path;

use crate::format::network::Mac;

const DEVICES: &str = "/sys/class/net";

/// The address of a device on its wire. `None` when there is no such device, or it has none.
///
/// # Errors
/// When sysfs cannot be read.
pub fn mac(device: &str) -> io::Result<Option<Mac>> {
    match fs::read_to_string(Path::new(DEVICES).join(device).join("address")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        text => Ok(Mac::parse(&text?)),
    }
}

/// The addresses of all devices that have one.
///
/// # Errors
/// When sysfs cannot be read.
pub fn macs() -> io::Result<Vec<Mac>> {
    let mut macs = Vec::new();
    for entry in fs::read_dir(DEVICES)? {
        // The kernel's own names are ASCII.
        if let Ok(name) = entry?.file_name().into_string() {
            macs.extend(mac(&name)?);
        }
    }
    Ok(macs)
}
