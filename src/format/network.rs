//! A network device's settings: as the kernel command line has them, and as systemd-networkd does.
//!
//! Sources: `Documentation/admin-guide/nfs/nfsroot.rst` of the kernel (`ip=`); systemd.network(5).

use std::fmt::Write;
use std::net::Ipv4Addr;

/// What a device is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Its name: `eth0`.
    pub device: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Bits of that which are the network's, 0 to 32.
    pub prefix: u32,
    /// Where packets for other networks go, if anywhere.
    pub gateway: Option<Ipv4Addr>,
    /// Name servers, no more than two.
    pub dns: Vec<Ipv4Addr>,
}

/// The address of a device on its wire, by which it is known whatever it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mac([u8; 6]);

/// Fields of `ip=`, with colons between them: client, server, gateway, mask, host name, device, way of
/// configuration, and two name servers.
const FIELDS: usize = 9;

/// The fewest that say how a device is configured.
const FIELDS_MIN: usize = 6;

/// `IFNAMSIZ` less the NUL.
const DEVICE_MAX: usize = 15;

impl Network {
    /// Reads the value of `ip=`. `None` when it is one of its other forms, which name no device:
    /// `dhcp`, `off`.
    ///
    /// # Errors
    /// The field that is not as it must be.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        let fields: Vec<_> = text.split(':').collect();
        if fields.len() < FIELDS_MIN {
            return Ok(None);
        }
        if fields.len() > FIELDS {
            return Err(format!("{} fields, there are {FIELDS} at most", fields.len()));
        }
        let field = |number: usize| fields.get(number).copied().unwrap_or_default();
        let device = field(5);
        if !is_device(device) {
            return Err(format!("{device:?} is no name of a network device"));
        }
        match field(6) {
            "" | "off" | "none" => {}
            way => return Err(format!("{way:?} is neither off nor none")),
        }
        let address = |what: &str, text: &str| match text {
            "" | "0.0.0.0" => Ok(None),
            _ => text.parse().map(Some).map_err(|_| format!("{what} {text:?} is no IPv4 address")),
        };
        let dns = [address("the name server", field(7))?, address("the name server", field(8))?];
        Ok(Some(Self {
            device: device.to_owned(),
            address: address("the address", field(0))?.ok_or("it has no address")?,
            prefix: prefix(field(3))?,
            gateway: address("the gateway", field(2))?,
            dns: dns.into_iter().flatten().collect(),
        }))
    }

    /// A `.network` file that gives this to the device with that address.
    #[must_use]
    pub fn file(&self, mac: Mac) -> String {
        let Self { address, prefix, gateway, dns, .. } = self;
        let mut text = format!("{}\n[Network]\nAddress={address}/{prefix}\n", mac.section());
        if let Some(gateway) = gateway {
            let _ = writeln!(text, "Gateway={gateway}");
        }
        for server in dns {
            let _ = writeln!(text, "DNS={server}");
        }
        text
    }
}

/// A `.network` file that has the device with that address ask for its settings.
#[must_use]
pub fn dhcp_file(mac: Mac) -> String {
    format!("{}\n[Network]\nDHCP=ipv4\n\n[DHCPv4]\nClientIdentifier=mac\n", mac.section())
}

/// `resolv.conf` with these name servers.
#[must_use]
pub fn resolv_conf(servers: &[Ipv4Addr]) -> String {
    servers.iter().fold(String::new(), |mut text, server| {
        let _ = writeln!(text, "nameserver {server}");
        text
    })
}

impl Mac {
    /// Reads it as sysfs shows it: six bytes in hexadecimal with colons between them. `None` for
    /// anything else, and for zeros, which no device has that packets could reach.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 6];
        let mut fields = text.trim_end().split(':');
        for byte in &mut bytes {
            let field = fields.next()?;
            if field.len() != 2 || !field.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return None;
            }
            *byte = u8::from_str_radix(field, 16).ok()?;
        }
        (fields.next().is_none() && bytes != [0; 6]).then_some(Self(bytes))
    }

    /// The digits alone, as names of files have them.
    #[must_use]
    pub fn digits(self) -> String {
        super::hex::encode(&self.0)
    }

    fn section(self) -> String {
        let bytes: Vec<_> = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("[Match]\nMACAddress={}\n", bytes.join(":"))
    }
}

/// What the kernel takes for a name (`dev_valid_name` in its `net/core/dev.c`), of letters that need
/// no thought.
fn is_device(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=DEVICE_MAX).contains(&name.len())
        && name.bytes().all(is_plain)
        && ![".", ".."].contains(&name)
}

/// Bits of a mask, which has all its ones in front.
fn prefix(mask: &str) -> Result<u32, String> {
    let none = || format!("{mask:?} is no mask of a network");
    let bits = mask.parse::<Ipv4Addr>().map_err(|_| none())?.to_bits();
    let ones = bits.leading_ones();
    if bits.count_ones() == ones { Ok(ones) } else { Err(none()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As an engine writes it.
    const LINE: &str = "10.88.0.5::10.88.0.1:255.255.0.0:my-vm:eth0:off:8.8.8.8:1.1.1.1";

    #[test]
    fn a_device_that_is_named_gets_what_the_line_says() {
        let network = Network::parse(LINE).unwrap().unwrap();
        let expected = Network {
            device: "eth0".into(),
            address: Ipv4Addr::new(10, 88, 0, 5),
            prefix: 16,
            gateway: Some(Ipv4Addr::new(10, 88, 0, 1)),
            dns: vec![Ipv4Addr::new(8, 8, 8, 8), Ipv4Addr::new(1, 1, 1, 1)],
        };
        assert_eq!(network, expected);
        let mac = Mac::parse("52:54:00:Ab:cd:EF\n").unwrap();
        assert_eq!(mac.digits(), "525400abcdef");
        assert_eq!(
            network.file(mac),
            "[Match]\nMACAddress=52:54:00:ab:cd:ef\n\n[Network]\nAddress=10.88.0.5/16\n\
             Gateway=10.88.0.1\nDNS=8.8.8.8\nDNS=1.1.1.1\n"
        );
        assert_eq!(
            dhcp_file(mac),
            "[Match]\nMACAddress=52:54:00:ab:cd:ef\n\n[Network]\nDHCP=ipv4\n\n[DHCPv4]\n\
             ClientIdentifier=mac\n"
        );
        assert_eq!(resolv_conf(&network.dns), "nameserver 8.8.8.8\nnameserver 1.1.1.1\n");
        let least = Network::parse("10.0.0.2:::255.255.255.255:vm:eth1").unwrap().unwrap();
        assert_eq!((least.prefix, least.gateway, least.dns), (32, None, vec![]));
        let zeros = Network::parse("10.0.0.2::0.0.0.0:0.0.0.0:vm:eth1:none:0.0.0.0").unwrap();
        assert_eq!(zeros.map(|it| (it.prefix, it.gateway, it.dns)), Some((0, None, vec![])));
    }

    #[test]
    fn other_forms_name_no_device() {
        for text in ["", "off", "dhcp", "on", "any", "10.0.0.2", "::::"] {
            assert_eq!(Network::parse(text), Ok(None), "{text}");
        }
    }

    #[test]
    fn a_field_that_is_wrong_is_named() {
        for (text, message) in [
            (":::255.0.0.0:h:eth0:off", "it has no address"),
            ("10.0.0:::255.0.0.0:h:eth0:off", "the address \"10.0.0\" is no IPv4 address"),
            ("010.0.0.1:::255.0.0.0:h:eth0:off", "the address \"010.0.0.1\" is no IPv4 address"),
            ("10.0.0.1::x:255.0.0.0:h:eth0:off", "the gateway \"x\" is no IPv4 address"),
            ("10.0.0.1:::255.0.255.0:h:eth0:off", "\"255.0.255.0\" is no mask of a network"),
            ("10.0.0.1:::24:h:eth0:off", "\"24\" is no mask of a network"),
            ("10.0.0.1:::255.0.0.0:h::off", "\"\" is no name of a network device"),
            ("10.0.0.1:::255.0.0.0:h:..:off", "\"..\" is no name of a network device"),
            ("10.0.0.1:::255.0.0.0:h:a/b:off", "\"a/b\" is no name of a network device"),
            ("10.0.0.1:::255.0.0.0:h:eth0:dhcp", "\"dhcp\" is neither off nor none"),
            ("10.0.0.1:::255.0.0.0:h:eth0:off:y", "the name server \"y\" is no IPv4 address"),
            ("10.0.0.1:::255.0.0.0:h:eth0:off:::", "10 fields, there are 9 at most"),
        ] {
            assert_eq!(Network::parse(text).unwrap_err(), message, "{text}");
        }
    }

    #[test]
    fn a_wire_address_is_six_bytes_that_are_not_zero() {
        for text in [
            "",
            "52:54:00:12:34",
            "52:54:00:12:34:56:78",
            "5254:00:12:34:56",
            "+2:54:00:12:34:56",
            "00:00:00:00:00:00",
            "gg:54:00:12:34:56",
        ] {
            assert_eq!(Mac::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*", fields in "([0-9.]{0,15}:){0,10}") {
            let _ = (Network::parse(&text), Network::parse(&fields), Mac::parse(&text));
        }

        #[test]
        fn a_mask_of_so_many_bits_is_that_prefix(bits in 0..=32_u32) {
            let mask = Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - bits).unwrap_or(0));
            prop_assert_eq!(prefix(&mask.to_string()), Ok(bits));
        }
    }
}
