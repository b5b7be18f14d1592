//! PCI devices as sysfs shows them. Which there are is the host's choice.
//!
//! Source: `Documentation/ABI/testing/sysfs-bus-pci`; class codes: PCI Code and ID Assignment
//! Specification, section 1.2 (base class 01h, mass storage).

use std::io;
use std::path::Path;

use crate::kernel::{attribute, file};

/// Most devices that are told: the host can have thousands.
const TOLD_MAX: usize = 8;

/// Those of class storage that no driver has taken, some of them where there are many, each as its
/// address, vendor and device: `0000:00:1f.2 8086:2922`.
///
/// # Errors
/// When sysfs cannot be read, as where there is no PCI.
pub fn storage_without_driver() -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    let devices = Path::new("/sys/bus/pci/devices");
    for address in file::names(devices)? {
        if found.len() == TOLD_MAX {
            break;
        }
        let device = devices.join(&address);
        let read = |name| attribute::text(&device.join(name)).unwrap_or_default();
        let has_driver = device.join("driver").exists();
        if is_storage(&read("class")) && !has_driver {
            let (vendor, device) = (read("vendor"), read("device"));
            let address = address.to_string_lossy();
            found.push(format!("{address} {}:{}", digits(&vendor), digits(&device)));
        }
    }
    Ok(found)
}

/// A class as sysfs has it: base class, subclass and programming interface, `0x010601`.
fn is_storage(class: &str) -> bool {
    class.starts_with("0x01")
}

fn digits(number: &str) -> &str {
    number.trim_start_matches("0x").trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storage_is_told_by_its_base_class() {
        for (class, storage) in [("0x010601\n", true), ("0x010000\n", true), ("0x020000\n", false)]
        {
            assert_eq!(is_storage(class), storage, "{class:?}");
        }
        assert_eq!(digits("0x8086\n"), "8086");
    }
}
