//! Network devices as sysfs shows them. Which there are, and their addresses, is the host's choice.
//!
//! Source: `Documentation/ABI/testing/sysfs-class-net`.

use std::io::{self, ErrorKind};
use std::path::Path;

use crate::format::network::Mac;
use crate::kernel::file;

const DEVICES: &str = "/sys/class/net";

/// The address of a device on its wire. `None` when there is no such device, or it has none.
///
/// # Errors
/// When sysfs cannot be read.
pub fn mac(device: &str) -> io::Result<Option<Mac>> {
    mac_in(Path::new(DEVICES), device)
}

/// The addresses of all devices that have one.
///
/// # Errors
/// When sysfs cannot be read.
pub fn macs() -> io::Result<Vec<Mac>> {
    macs_in(Path::new(DEVICES))
}

fn mac_in(devices: &Path, device: &str) -> io::Result<Option<Mac>> {
    match file::text(devices.join(device).join("address")) {
        // Some of what is beside the devices is a file: bonding_masters.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(None)
        }
        text => Ok(Mac::parse(&text?)),
    }
}

fn macs_in(devices: &Path) -> io::Result<Vec<Mac>> {
    let mut macs = Vec::new();
    for name in file::names(devices)? {
        // The kernel's own names are ASCII.
        if let Ok(name) = name.into_string() {
            macs.extend(mac_in(devices, &name)?);
        }
    }
    Ok(macs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{env, fs, process};

    #[test]
    fn a_device_is_what_has_an_address() {
        let devices = env::temp_dir().join(format!("cvm-init-net-{}", process::id()));
        for (device, address) in [("lo", "00:00:00:00:00:00\n"), ("eth0", "52:54:00:00:00:01\n")] {
            fs::create_dir_all(devices.join(device)).unwrap();
            fs::write(devices.join(device).join("address"), address).unwrap();
        }
        fs::write(devices.join("bonding_masters"), "bond0\n").unwrap();
        let address = Mac::parse("52:54:00:00:00:01").unwrap();
        assert_eq!(macs_in(&devices).unwrap(), [address]);
        for (device, found) in
            [("eth0", Some(address)), ("lo", None), ("eth1", None), ("bonding_masters", None)]
        {
            assert_eq!(mac_in(&devices, device).unwrap(), found, "{device}");
        }
        fs::remove_dir_all(devices).unwrap();
    }
}
