//! The list of kernel modules that an initramfs brings: what each needs, and when it is wanted.
//!
//! One module a line, behind all that it needs: the name of its file, and words behind it.
//!
//! | word | meaning |
//! |---|---|
//! | `stage=NAME` | it is loaded before this stage begins; without, when another one needs it |
//! | `needs=FILE,...` | these are loaded before it, in any case |
//! | `after=FILE,...` | it is loaded when those of them have started that are loaded at all |
//! | `device=ALIAS` | only where there is a device of this alias (depmod's `modules.alias`); may be repeated |
//! | `cipher=NAME` | only for this cipher; may be repeated |

use crate::error::{Error, Result};

/// A module, by what its line says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Module<'a> {
    /// The name of its file.
    pub file: &'a str,
    /// The stage that it is loaded for.
    pub stage: Option<&'a str>,
    /// Places in the list of those that it needs, all before its own.
    pub needs: Vec<usize>,
    /// The same of those that it waits for where they are loaded.
    pub after: Vec<usize>,
    /// Aliases of the devices that it drives; none when it is wanted without.
    pub devices: Vec<&'a str>,
    /// Ciphers that it is for; none when it is for all.
    pub ciphers: Vec<&'a str>,
}

/// Reads a list.
///
/// # Errors
/// A word that is unknown, and a module that stands before what it needs, with the line.
pub fn parse(text: &str) -> Result<Vec<Module<'_>>> {
    let mut modules: Vec<Module<'_>> = Vec::new();
    for (line, number) in text.lines().zip(1_u32..) {
        let module = module(line, &modules)
            .map_err(|cause| Error::new(format!("line {number} of the modules' list: {cause}")))?;
        modules.push(module);
    }
    Ok(modules)
}

fn module<'a>(line: &'a str, before: &[Module<'a>]) -> Result<Module<'a>> {
    let places = |files: &str| -> Result<Vec<usize>> {
        files.split(',').map(|file| place(file, before)).collect()
    };
    let mut words = line.split_ascii_whitespace();
    let file = words.next().filter(|file| !file.contains('='));
    let file = file.ok_or_else(|| Error::new("no name of a file"))?;
    if before.iter().any(|other| other.file == file) {
        return Err(Error::new(format!("{file} has one already")));
    }
    let mut module = Module { file, ..Module::default() };
    for word in words {
        match word.split_once('=') {
            Some(("stage", stage)) => module.stage = Some(stage),
            Some(("needs", files)) => module.needs = places(files)?,
            Some(("after", files)) => module.after = places(files)?,
            Some(("device", alias)) => module.devices.push(alias),
            Some(("cipher", name)) => module.ciphers.push(name),
            _ => return Err(Error::new(format!("unknown word {word}"))),
        }
    }
    Ok(module)
}

fn place(file: &str, before: &[Module<'_>]) -> Result<usize> {
    let place = before.iter().position(|module| module.file == file);
    place.ok_or_else(|| Error::new(format!("{file} does not stand in a line before")))
}

/// Whether a device's `modalias` is one of an alias, a pattern of the shell: `*`, `?` and `[a-z]`.
///
/// Source: `modalias` in `Documentation/ABI/testing/sysfs-bus-*`; kmod matches with fnmatch(3).
#[must_use]
pub fn matches(alias: &str, modalias: &str) -> bool {
    let (mut pattern, mut text) = (alias.as_bytes(), modalias.as_bytes());
    // Where to go on when what follows the last `*` does not fit: the `*` takes one byte more. An
    // earlier one need not be tried again, since the last can take whatever that would.
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        if let [b'*', rest @ ..] = pattern {
            retry = Some((rest, text));
            pattern = rest;
            continue;
        }
        let fits = match (pattern, text) {
            ([], []) => return true,
            (_, [byte, behind @ ..]) => one(pattern, *byte).map(|rest| (rest, behind)),
            (_, []) => None,
        };
        match (fits, retry) {
            (Some(rest), _) => (pattern, text) = rest,
            (None, Some((star, [_, behind @ ..]))) => {
                retry = Some((star, behind));
                (pattern, text) = (star, behind);
            }
            (None, _) => return false,
        }
    }
}

/// What of the pattern is behind the part that takes this byte, if it does.
fn one(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    match pattern {
        [b'?', rest @ ..] => Some(rest),
        [b'[', set @ ..] => {
            let end = set.iter().position(|&end| end == b']')?;
            let (set, rest) = set.split_at_checked(end)?;
            is_in(set, byte).then(|| rest.get(1..)).flatten()
        }
        [first, rest @ ..] => (*first == byte).then_some(rest),
        [] => None,
    }
}

/// Whether a byte is in a set of bytes and ranges, `0-9a`.
fn is_in(mut set: &[u8], byte: u8) -> bool {
    loop {
        set = match set {
            [first, b'-', last, ..] if (*first..=*last).contains(&byte) => return true,
            [_, b'-', _, rest @ ..] => rest,
            [one, ..] if *one == byte => return true,
            [_, rest @ ..] => rest,
            [] => return false,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_says_what_a_module_needs_and_when_it_is_wanted() {
        let text = "000-virtio.ko\n001-ring.ko\n\
            002-blk.ko stage=disk needs=000-virtio.ko,001-ring.ko device=virtio:d00000002v*\n\
            003-xts.ko stage=volume after=002-blk.ko cipher=aes-xts-plain64 cipher=other\n";
        let blk = Module {
            file: "002-blk.ko",
            stage: Some("disk"),
            needs: vec![0, 1],
            devices: vec!["virtio:d00000002v*"],
            ..Module::default()
        };
        let xts = Module {
            file: "003-xts.ko",
            stage: Some("volume"),
            after: vec![2],
            ciphers: vec!["aes-xts-plain64", "other"],
            ..Module::default()
        };
        let modules = parse(text).unwrap();
        assert_eq!(modules.get(2..).unwrap(), [blk, xts]);
        assert_eq!(parse("").unwrap(), []);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, cause) in [
            (
                "a.ko\nb.ko needs=c.ko\nc.ko\n",
                "2 of the modules' list: c.ko does not stand in a line before",
            ),
            ("a.ko after=a.ko\n", "1 of the modules' list: a.ko does not stand in a line before"),
            ("a.ko needs=\n", "1 of the modules' list:  does not stand in a line before"),
            ("a.ko\n\n", "2 of the modules' list: no name of a file"),
            ("stage=disk\n", "1 of the modules' list: no name of a file"),
            ("a.ko\na.ko\n", "2 of the modules' list: a.ko has one already"),
            ("a.ko for=x\n", "1 of the modules' list: unknown word for=x"),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), format!("line {cause}"), "{text:?}");
        }
    }

    #[test]
    fn a_device_is_known_by_its_alias() {
        let nvme = "pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02";
        for (alias, modalias, fits) in [
            ("pci:v*d*sv*sd*bc01sc08i02*", nvme, true),
            ("pci:v*d*sv*sd*bc01sc06i01*", nvme, false),
            ("virtio:d00000002v*", "virtio:d00000002v00001AF4", true),
            ("virtio:d00000002v*", "virtio:d00000009v00001AF4", false),
            ("usb:v*p*d010[0-9]*", "usb:v1p2d0107dc00", true),
            ("usb:v*p*d010[0-9]*", "usb:v1p2d010Adc00", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*b", "aab", true),
            ("*b", "aba", false),
            ("a", "", false),
            ("", "", true),
            ("[a", "a", false),
        ] {
            assert_eq!(matches(alias, modalias), fits, "{alias} {modalias}");
        }
    }

    proptest! {
        #[test]
        fn no_list_panics(text in "(([a-c]\\.ko|needs=|after=|,| |=|stage=disk|device=\\*|\n){0,20})") {
            for (number, module) in parse(&text).unwrap_or_default().iter().enumerate() {
                prop_assert!(module.needs.iter().chain(&module.after).all(|place| *place < number));
            }
        }

        #[test]
        fn an_alias_takes_what_it_takes_when_everything_is_tried(
            parts in prop::collection::vec(
                prop::sample::select(vec!["*", "?", "a", "b", "[a-b]", "[bc]"]),
                0..8,
            ),
            text in "[a-c]{0,10}",
        ) {
            let alias = parts.concat();
            prop_assert_eq!(matches(&alias, &text), slowly(&parts, text.as_bytes()), "{}", alias);
        }
    }

    /// The same by trying everything.
    fn slowly(parts: &[&str], text: &[u8]) -> bool {
        match (parts, text) {
            (["*", rest @ ..], _) => {
                (0..=text.len()).any(|taken| slowly(rest, text.get(taken..).unwrap()))
            }
            ([], text) => text.is_empty(),
            ([part, rest @ ..], [byte, behind @ ..]) => {
                let fits = match *part {
                    "?" => true,
                    "[a-b]" => (b'a'..=b'b').contains(byte),
                    "[bc]" => b"bc".contains(byte),
                    letter => letter.as_bytes() == [*byte],
                };
                fits && slowly(rest, behind)
            }
            (_, []) => false,
        }
    }
}
