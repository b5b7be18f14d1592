//! The way that a path of the new root takes through its links, before and after a boot has mounted
//! on the places of [`super::places`].

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::stage::in_new_root;

/// Links that the kernel follows on the way to a file (`path_resolution(7)`).
const LINKS_MAX: usize = 40;

/// What a name stands for, itself not followed.
pub(super) enum Here {
    Nothing,
    Link(PathBuf),
    /// A file or a directory.
    Other,
}

/// Where a way ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// At this path, in which nothing is a link.
    At(PathBuf),
    /// At a name that is not there.
    Nowhere,
    /// At nothing: where this link leads, nothing is.
    Dangling(PathBuf),
    /// In another file system: below this place, at what is looked for there.
    MountedOver(PathBuf, PathBuf),
}

/// What `path` of the new root stands for; none of the directories in it is a link.
pub(super) fn look(path: &Path) -> Here {
    match fs::read_link(in_new_root(path)) {
        Ok(target) => Here::Link(target),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Here::Nothing,
        // Whatever is wrong shows again when it is opened.
        Err(_) => Here::Other,
    }
}

/// Follows `path` through all links. What lies below one of `places` is not looked at: it will be out
/// of sight.
pub(super) fn follow(path: &Path, places: &[PathBuf], look: impl Fn(&Path) -> Here) -> End {
    // The next one last, each with the link that has it, if one has.
    let mut ahead: Vec<(OsString, Option<PathBuf>)> = Vec::new();
    ahead.extend(components(path).map(|name| (name, None)));
    let mut here = PathBuf::from("/");
    let mut links = 0_usize;
    while let Some((name, by)) = ahead.pop() {
        if name == ".." {
            here.pop();
            continue;
        }
        here.push(name);
        if let Some(place) = places.iter().find(|place| here != **place && here.starts_with(place))
        {
            here.extend(ahead.iter().rev().map(|(name, _)| name));
            return End::MountedOver(place.clone(), here);
        }
        match look(&here) {
            Here::Other => {}
            Here::Nothing => return by.map_or(End::Nowhere, End::Dangling),
            Here::Link(_) if links == LINKS_MAX => return End::Dangling(here),
            Here::Link(target) => {
                links = links.saturating_add(1);
                let by = Some(here.clone());
                here.pop();
                if target.is_absolute() {
                    here = PathBuf::from("/");
                }
                ahead.extend(components(&target).map(|name| (name, by.clone())));
            }
        }
    }
    End::At(here)
}

/// The names in a path, the last one first.
fn components(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().rev().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLACES: &[&str] = &["/cocos", "/dev", "/run", "/private/tmp", "/var"];

    /// Where the way to `path` ends in a root that has these links and lacks these names.
    fn way(path: &str, links: &[(&str, &str)], missing: &[&str]) -> End {
        let places: Vec<_> = PLACES.iter().map(PathBuf::from).collect();
        follow(Path::new(path), &places, |path| {
            let link = links.iter().find(|(name, _)| Path::new(name) == path);
            match link {
                Some((_, target)) => Here::Link(target.into()),
                None if missing.iter().any(|name| Path::new(name) == path) => Here::Nothing,
                None => Here::Other,
            }
        })
    }

    fn at(path: &str) -> End {
        End::At(path.into())
    }

    fn below(place: &str, path: &str) -> End {
        End::MountedOver(place.into(), path.into())
    }

    #[test]
    fn a_way_below_a_mount_point_is_seen_through_all_links() {
        let usr = ("/sbin", "usr/sbin");
        assert_eq!(way("/sbin/init", &[usr], &[]), at("/usr/sbin/init"));
        assert_eq!(way("/var/lib/init", &[], &[]), below("/var", "/var/lib/init"));
        let links = [usr, ("/usr/sbin/init", "../../../var/x/init")];
        assert_eq!(way("/sbin/init", &links, &[]), below("/var", "/var/x/init"));
        // What it leads back to is not seen either.
        let links = [("/init", "/run/init"), ("/run/init", "/usr/init")];
        assert_eq!(way("/init", &links, &[]), below("/run", "/run/init"));
        // A mount point that is a link is where that leads.
        let tmp = [("/tmp", "private/tmp"), ("/bin", "/tmp/bin")];
        assert_eq!(way("bin/sh", &tmp, &[]), below("/private/tmp", "/private/tmp/bin/sh"));
    }

    #[test]
    fn a_way_past_a_mount_point_is_none_below_it() {
        assert_eq!(way("/var/../usr/init", &[], &[]), at("/usr/init"));
        assert_eq!(way("/variable/init", &[], &[]), at("/variable/init"));
        assert_eq!(way("/dev", &[], &[]), at("/dev"));
        assert_eq!(way("/../../usr/init", &[], &[]), at("/usr/init"));
    }

    #[test]
    fn what_is_not_there_is_told_from_a_link_to_nothing() {
        let etc = ("/etc", "/usr/etc");
        assert_eq!(way("/etc/fstab", &[], &["/etc/fstab"]), End::Nowhere);
        assert_eq!(way("/etc/fstab", &[etc], &["/usr/etc/fstab"]), End::Nowhere);
        for missing in ["/usr/etc", "/usr"] {
            let end = End::Dangling("/etc".into());
            assert_eq!(way("/etc/fstab", &[etc], &[missing]), end, "{missing}");
        }
        let fstab = ("/usr/etc/fstab", "static/fstab");
        assert_eq!(
            way("/etc/fstab", &[etc, fstab], &["/usr/etc/static"]),
            End::Dangling("/usr/etc/fstab".into())
        );
    }

    #[test]
    fn links_without_end_lead_to_nothing() {
        let loop_of_two = [("/a", "b"), ("/b", "a")];
        assert_eq!(way("/a", &loop_of_two, &[]), End::Dangling("/a".into()));
        // As many as the kernel follows, and one more.
        let names: Vec<_> = (0..=LINKS_MAX + 1).map(|number| format!("/{number}")).collect();
        let links: Vec<_> = names.windows(2).map(|pair| (&*pair[0], &*pair[1])).collect();
        assert_eq!(way("/1", &links, &[]), End::At(names[LINKS_MAX + 1].clone().into()));
        assert_eq!(way("/0", &links, &[]), End::Dangling(names[LINKS_MAX].clone().into()));
    }

    proptest! {
        #[test]
        fn no_link_and_nothing_that_is_missing_is_left_where_a_way_ends(
            path in "(/(a|b|c|\\.\\.)){1,4}",
            links in prop::collection::vec(("/[abc]", "/?((a|b|\\.\\.)/){0,2}[abc]"), 0..3),
            missing in prop::collection::vec("/[abc](/[abc])?", 0..3),
        ) {
            let links: Vec<_> = links.iter().map(|(name, to)| (&**name, &**to)).collect();
            let missing: Vec<_> = missing.iter().map(String::as_str).collect();
            if let End::At(end) = way(&path, &links, &missing) {
                prop_assert!(!links.iter().any(|(name, _)| end.starts_with(name)));
                prop_assert!(!missing.iter().any(|name| end.starts_with(name)));
                // A way without links is itself.
                let again = way(end.to_str().unwrap(), &links, &missing);
                prop_assert_eq!(again, End::At(end));
            }
        }
    }
}
