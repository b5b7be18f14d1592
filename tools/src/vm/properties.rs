//! The lists that most of QEMU's options take: `virtio-net-pci,netdev=net,addr=0x2`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

/// `name=value`, as programs take it that know of no doubled commas.
pub fn pair(name: &str, value: impl AsRef<OsStr>) -> OsString {
    [OsStr::new(name), value.as_ref()].join(OsStr::new("="))
}

/// A list in the order in which it was put together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties(OsString);

impl Properties {
    /// One that begins with a word without a name, a model as a rule. The word may be such a list.
    pub fn of(word: impl Into<OsString>) -> Self {
        Self(word.into())
    }

    /// One more, `name=value`. A comma in the value is doubled, as QEMU wants it (qemu(1), `-drive`).
    #[must_use]
    pub fn with(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        if !self.0.is_empty() {
            self.0.push(",");
        }
        self.0.push(name);
        self.0.push("=");
        let value = value.as_ref().as_bytes();
        let doubled = value
            .iter()
            .flat_map(|&byte| std::iter::repeat_n(byte, if byte == b',' { 2 } else { 1 }));
        self.0.push(OsString::from_vec(doubled.collect()));
        self
    }

    /// One more, where there is a value.
    #[must_use]
    pub fn with_some(self, name: &str, value: Option<impl AsRef<OsStr>>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// More of them, as QEMU spells them.
    #[must_use]
    pub fn and(mut self, more: &str) -> Self {
        self.0.push(",");
        self.0.push(more);
        self
    }
}

impl From<Properties> for OsString {
    fn from(properties: Properties) -> Self {
        properties.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(properties: Properties) -> OsString {
        properties.into()
    }

    #[test]
    fn a_list_keeps_its_order_and_doubles_commas_of_values() {
        let list = Properties::of("virtio-net-pci").with("netdev", "a,b").with("romfile", "");
        assert_eq!(
            text(list.and("addr=0x2,mac=1")),
            "virtio-net-pci,netdev=a,,b,romfile=,addr=0x2,mac=1"
        );
        assert_eq!(text(Properties::default().with("file", "a")), "file=a");
        let list = Properties::of("a").with_some("b", None::<&str>).with_some("c", Some("d"));
        assert_eq!(text(list), "a,c=d");
    }
}
