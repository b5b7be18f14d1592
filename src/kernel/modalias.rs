//! The names by which devices are known to their drivers. Which devices there are is the host's choice.
//!
//! Source: `modalias` in `Documentation/ABI/testing/sysfs-bus-pci` and its like of other buses.

use std::io;
use std::path::Path;

use crate::kernel::{attribute, file};

/// Buses by what their names begin with, where that is not the bus itself.
const BUSES: &[(&str, &str)] = &[("acpi", "platform"), ("of", "platform")];

/// The bus of the devices that an alias is of.
#[must_use]
pub fn bus(alias: &str) -> &str {
    let kind = alias.split([':', '*']).next().unwrap_or_default();
    BUSES.iter().find(|(known, _)| *known == kind).map_or(kind, |(_, bus)| bus)
}

/// The names of all devices on a bus; none where there is no such bus.
///
/// # Errors
/// When sysfs cannot be read.
pub fn on_bus(bus: &str) -> io::Result<Vec<String>> {
    let dir = Path::new("/sys/bus").join(bus).join("devices");
    let devices = match file::names(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        devices => devices?,
    };
    let mut names = Vec::new();
    for device in devices {
        // A device may go meanwhile, and some have no name.
        if let Ok(name) = attribute::text(&dir.join(device).join("modalias")) {
            names.push(name.trim_end().to_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_tells_its_bus() {
        for (alias, name) in [
            ("pci:v*d*sv*sd*bc01sc08i02*", "pci"),
            ("virtio:d00000002v*", "virtio"),
            ("of:N*T*Cvirtio,mmio", "platform"),
            ("acpi*:LNRO0005:*", "platform"),
        ] {
            assert_eq!(bus(alias), name);
        }
    }

    #[test]
    fn a_bus_that_is_not_there_has_no_devices() {
        assert_eq!(on_bus("none-of-this-name").unwrap(), Vec::<String>::new());
    }
}
