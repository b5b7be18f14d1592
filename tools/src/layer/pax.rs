//! What pax says of the entry behind it: `LENGTH KEY=VALUE` and a line break, again and again, where a
//! value may be any bytes.
//!
//! Sources: POSIX.1-2017, pax, "pax Extended Header"; star(5) for `SCHILY.`; tar(5) for `LIBARCHIVE.`;
//! GNU tar, "Storing Sparse Files".

use cvm_init::error::{Error, Result};

use super::path::quoted;

/// Attributes that a file may have, and that mkfs.erofs can keep (erofs-utils, `lib/xattr.c`).
const SPACES: &[&str] = &["user.", "trusted.", "security."];
/// Overlayfs goes by these: a layer must not say for itself what it hides or where it leads.
const OVERLAY: &str = "trusted.overlay.";
/// What fakeroot can hold of one attribute, name and value, and of all names of a file
/// (`MAX_IPC_BUFFER_SIZE` in its `communicate.h`), less the name of overlayfs' mark.
const XATTR_MAX: usize = 1000;
/// What Linux takes as a name.
const NAME_MAX: usize = 255;

/// What was said in place of the fields of a header.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Extended {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<u64>,
    pub(super) xattrs: Vec<(String, Vec<u8>)>,
    /// Whether there was anything.
    pub(super) any: bool,
    /// Attributes in libarchive's own spelling, which stands beside the other.
    again: Vec<String>,
}

impl Extended {
    /// GNU's header for a name too long for the other.
    pub(super) fn name(&mut self, text: Vec<u8>) -> Result<()> {
        self.any = true;
        once(&mut self.path, text, "name")
    }

    /// The same for the target of a link.
    pub(super) fn target(&mut self, text: Vec<u8>) -> Result<()> {
        self.any = true;
        once(&mut self.link, text, "target")
    }

    /// A pax header. It is taken apart here because the `tar` crate ends a value at a line break.
    pub(super) fn pax(&mut self, mut records: &[u8]) -> Result<()> {
        self.any = true;
        while !records.is_empty() {
            let (key, value, rest) =
                first(records).ok_or_else(|| Error::new("a pax header is malformed"))?;
            self.record(key, value)?;
            records = rest;
        }
        Ok(())
    }

    fn record(&mut self, key: &str, value: &[u8]) -> Result<()> {
        match key {
            "path" => once(&mut self.path, value.to_vec(), "name"),
            "linkpath" => once(&mut self.link, value.to_vec(), "target"),
            "size" => once(&mut self.size, number(key, value)?, "size"),
            "uid" => once(&mut self.uid, number(key, value)?, "owner"),
            "gid" => once(&mut self.gid, number(key, value)?, "group"),
            // Its fraction is of no use to anybody, and not every file system holds it.
            "mtime" => {
                let whole = value.split(|byte| *byte == b'.').next().unwrap_or_default();
                once(&mut self.mtime, number(key, whole)?, "time")
            }
            _ => {
                if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                    return self.xattr(name, value);
                }
                if let Some(name) = key.strip_prefix("LIBARCHIVE.xattr.") {
                    self.again.push(name.to_owned());
                    return Ok(());
                }
                if key.starts_with("SCHILY.acl.") {
                    return Err(Error::new("an access list (ACL) cannot be kept"));
                }
                if key.starts_with("GNU.sparse.") {
                    return Err(Error::new(
                        "a sparse file in GNU tar's spelling is not known here",
                    ));
                }
                // Times of access, names of owners, comments: nothing that a layer has.
                Ok(())
            }
        }
    }

    fn xattr(&mut self, name: &str, value: &[u8]) -> Result<()> {
        let refused =
            |why: &str| Err(Error::new(format!("the attribute {} {why}", quoted(name.as_bytes()))));
        let rest = SPACES.iter().find_map(|space| name.strip_prefix(space));
        if rest.is_none_or(|rest| rest.is_empty() || rest.contains('\0')) {
            return refused("cannot be kept: it is none of user, trusted and security");
        }
        if name.starts_with(OVERLAY) {
            return refused("is overlayfs' own");
        }
        let names: usize = self.xattrs.iter().map(|(name, _)| name.len().saturating_add(1)).sum();
        let one = name.len().saturating_add(value.len());
        let all = names.saturating_add(name.len());
        if name.len() > NAME_MAX || one > XATTR_MAX || all > XATTR_MAX {
            return refused(&format!(
                "is too long, or one of too many: {XATTR_MAX} bytes can be kept"
            ));
        }
        if self.xattrs.iter().any(|(other, _)| other == name) {
            return refused("is given twice");
        }
        self.xattrs.push((name.to_owned(), value.to_vec()));
        Ok(())
    }

    /// Whether nothing was said but comments.
    pub(super) fn says_nothing(&self) -> bool {
        *self == Self { any: self.any, ..Self::default() }
    }

    /// Stops at an attribute that only libarchive could read: it would be lost.
    pub(super) fn require_readable(&self) -> Result<()> {
        let known = |name: &String| self.xattrs.iter().any(|(other, _)| other == name);
        self.again.iter().find(|name| !known(name)).map_or(Ok(()), |name| {
            let name = quoted(name.as_bytes());
            Err(Error::new(format!("the attribute {name} is there in libarchive's spelling alone")))
        })
    }
}

/// Key and value of the first record, and what is behind it.
fn first(records: &[u8]) -> Option<(&str, &[u8], &[u8])> {
    let blank = records.iter().position(|byte| *byte == b' ')?;
    let digits = std::str::from_utf8(records.get(..blank)?).ok()?;
    let (record, rest) = records.split_at_checked(digits.parse().ok()?)?;
    let record = record.strip_suffix(b"\n")?.get(blank.checked_add(1)?..)?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    let (key, value) = record.split_at_checked(equals)?;
    Some((std::str::from_utf8(key).ok()?, value.get(1..)?, rest))
}

/// Two that differ would be read in one way here and in another elsewhere.
fn once<T>(field: &mut Option<T>, value: T, what: &str) -> Result<()> {
    match field.replace(value) {
        None => Ok(()),
        Some(_) => Err(Error::new(format!("its {what} is given twice"))),
    }
}

fn number(key: &str, value: &[u8]) -> Result<u64> {
    let text = std::str::from_utf8(value).ok();
    let digits = text.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| Error::new(format!("its {key}, {}, is no number from 0 on", quoted(value))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Records<'a> = &'a [(&'a str, &'a [u8])];

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_pax_extensions([(key, value)]).unwrap();
        let archive = builder.into_inner().unwrap();
        let length = archive[512..].iter().position(|byte| *byte == b' ').unwrap();
        let length: usize =
            std::str::from_utf8(&archive[512..][..length]).unwrap().parse().unwrap();
        archive[512..][..length].to_vec()
    }

    fn read(records: Records) -> std::result::Result<Extended, String> {
        let mut extended = Extended::default();
        for (key, value) in records {
            extended.pax(&record(key, value)).map_err(|refusal| refusal.to_string())?;
        }
        extended.require_readable().map_err(|refusal| refusal.to_string())?;
        Ok(extended)
    }

    #[test]
    fn values_are_any_bytes() {
        let value = b"\x01\n\0=12 path=/etc\n";
        let extended = read(&[
            ("path", b"a\nb"),
            ("size", b"12"),
            ("mtime", b"1700000000.999"),
            ("SCHILY.xattr.security.capability", value),
            ("LIBARCHIVE.xattr.security.capability", b"AQo"),
            ("comment", b"-1"),
        ])
        .unwrap();
        assert_eq!(extended.path.as_deref(), Some(&b"a\nb"[..]));
        assert_eq!((extended.size, extended.mtime), (Some(12), Some(1_700_000_000)));
        assert_eq!(extended.xattrs, [("security.capability".to_owned(), value.to_vec())]);
    }

    #[test]
    fn what_cannot_be_kept_or_is_said_twice_is_refused() {
        let long = vec![0; 1000];
        let named =
            |name: &str| -> &'static str { Box::leak(format!("SCHILY.xattr.user.{name}").into()) };
        let many: Vec<_> = (0..100).map(|i| (named(&format!("number-{i}")), &b""[..])).collect();
        let rows: &[(Records, &str)] = &[
            (&[("path", b"a"), ("path", b"b")], "its name is given twice"),
            (&[("size", b"-1")], r#"its size, "-1", is no number from 0 on"#),
            (&[("size", b"")], r#"its size, "", is no number from 0 on"#),
            (&[("mtime", b"-0.5")], r#"its mtime, "-0", is no number from 0 on"#),
            (&[("uid", b"99999999999999999999")], "is no number from 0 on"),
            (&[("SCHILY.xattr.trusted.overlay.opaque", b"y")], "is overlayfs' own"),
            (
                &[("SCHILY.xattr.system.posix_acl_access", b"")],
                "is none of user, trusted and security",
            ),
            (&[("SCHILY.xattr.user.", b"")], "is none of user, trusted and security"),
            (&[("SCHILY.xattr.user.x", b""), ("SCHILY.xattr.user.x", b"")], "is given twice"),
            (&[("SCHILY.xattr.user.x", &long)], "is too long"),
            (&many, "one of too many"),
            (&[("SCHILY.acl.access", b"user::rw-")], "an access list (ACL) cannot be kept"),
            (&[("LIBARCHIVE.xattr.user.x", b"")], "in libarchive's spelling alone"),
            (&[("GNU.sparse.major", b"1")], "a sparse file"),
        ];
        for (records, why) in rows {
            let refusal = read(records).unwrap_err();
            assert!(refusal.contains(why), "{refusal}, not {why}");
        }
    }

    #[test]
    fn a_malformed_header_is_refused() {
        for wrong in [
            &b"12"[..],
            b" a=b\n",
            b"0 a=b\n",
            b"3 a=b\n",
            b"7 a=b\n",
            b"6 a=b ",
            b"5 ab\n",
            b"-6 a=b\n",
            b"6 \xff=b\n",
            b"99999999999999999999 a=b\n",
            b"6 a=b\nx",
        ] {
            let refusal = Extended::default().pax(wrong).unwrap_err().to_string();
            assert_eq!(refusal, "a pax header is malformed", "{}", wrong.escape_ascii());
        }
        Extended::default().pax(b"6 a=b\n8 c=\n=\n\n").unwrap();
    }

    proptest! {
        #[test]
        fn no_header_panics(bytes: Vec<u8>) {
            let _ = Extended::default().pax(&bytes);
        }

        #[test]
        fn what_is_written_is_read(value: Vec<u8>) {
            let read = read(&[("SCHILY.xattr.user.x", &value)]).unwrap();
            prop_assert_eq!(read.xattrs, [("user.x".to_owned(), value)]);
        }
    }
}
