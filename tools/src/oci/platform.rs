//! The machine that an image is for.

use std::env::consts::ARCH;
use std::fmt;
use std::str::FromStr;

use cvm_init::error::{Error, Result};
use serde::Deserialize;

/// Operating system and architecture, by Go's names: `linux/amd64`, `linux/arm64/v8`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

impl Platform {
    /// That of this machine.
    #[must_use]
    pub fn host() -> Self {
        let architecture = match ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: None }
    }

    /// Whether an image for this one is what was asked for. Any variant is, where none was.
    #[must_use]
    pub fn is(&self, wanted: &Self) -> bool {
        self.os == wanted.os
            && self.architecture == wanted.architecture
            && (wanted.variant.is_none() || self.variant == wanted.variant)
    }

    /// With a variant that is said elsewhere, where none is said here.
    #[must_use]
    pub(super) fn or_variant_of(mut self, other: Option<&Self>) -> Self {
        self.variant = self.variant.or_else(|| other?.variant.clone());
        self
    }

    /// Whether it is one: what buildkit adds about the making of an image is for none.
    pub(super) fn is_known(&self) -> bool {
        self.os != "unknown"
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os.escape_debug(), self.architecture.escape_debug())?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{}", variant.escape_debug()))
    }
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<_> = text.split('/').collect();
        let (architecture, variant) = match parts[..] {
            ["linux", architecture] => (architecture, None),
            ["linux", architecture, variant] => (architecture, Some(variant)),
            _ => ("", None),
        };
        let is_word =
            |word: &str| !word.is_empty() && word.bytes().all(|c| c.is_ascii_alphanumeric());
        if !is_word(architecture) || !variant.is_none_or(is_word) {
            return Err(Error::new(format!("{text:?} is no platform such as linux/amd64")));
        }
        Ok(Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_platform_is_linux_and_an_architecture() {
        for good in ["linux/amd64", "linux/arm64/v8"] {
            assert_eq!(good.parse::<Platform>().unwrap().to_string(), good);
        }
        for wrong in
            ["", "amd64", "windows/amd64", "linux/", "linux/arm/", "linux/arm/v7/x", "linux/a b"]
        {
            let refusal = wrong.parse::<Platform>().unwrap_err();
            assert_eq!(
                refusal.to_string(),
                format!("{wrong:?} is no platform such as linux/amd64")
            );
        }
    }

    #[test]
    fn a_variant_counts_where_it_is_asked_for() {
        let [any, seventh, eighth]: [Platform; 3] =
            ["linux/arm", "linux/arm/v7", "linux/arm/v8"].map(|text| text.parse().unwrap());
        assert!(seventh.is(&any) && eighth.is(&any));
        assert!(seventh.is(&seventh) && !eighth.is(&seventh) && !any.is(&seventh));
        assert!(!Platform::host().is(&any));
    }
}
