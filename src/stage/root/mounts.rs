//! What of a boot's mounts the command line and the root's fstab have a say in.
//!
//! The fstab is the image's own word, so its options count: an option that nobody knows would be one
//! that was asked for and is not in force, so it ends the boot.

use std::io;
use std::path::PathBuf;

use rustix::fs::OFlags;

use super::places;
use crate::config::{Config, Medium};
use crate::effect::{Effect, effect};
use crate::error::{Error, Result};
use crate::format::fstab::{Mount, Share};
use crate::format::tmpfs;
use crate::kernel::file;
use crate::kernel::mount::{self, Flags};
use crate::kernel::share;
use crate::stage::NewRoot;

const READ: Effect<1> = Effect::new("read", "read {}");

/// Where tools read what is mounted.
pub const FSTAB: &str = "/etc/fstab";

/// Scripts of the root that write beside themselves.
pub const SCRIPTS: &str = "/cocos_init";

/// Memory that is mounted as the platform stage has made it, and moves on into the root.
pub const RUN: &str = "/run";

/// What holds for every place that is writable in memory or on the volume.
pub const PLACE_FLAGS: Flags = Flags::NOSUID.union(Flags::NODEV);

/// The same, as an fstab says it.
const PLACE_HARDENING: &str = "nosuid,nodev";

/// A place that must be writable although the root is not, and may be lost.
#[derive(Debug)]
pub struct Place {
    /// Where it is.
    pub target: &'static str,
    /// Its permissions.
    pub mode: u32,
    /// The most memory that it may come to take where nobody says otherwise. A quarter each, and a fifth
    /// for /run: with the quarter that the volume may come to take (`volume::plan`), no more than there
    /// is can be asked for.
    size: tmpfs::Size,
}

/// Whose programs keep there what they like.
const TMP: Place = Place { target: "/tmp", mode: 0o1777, size: tmpfs::Size::Percent(25) };

const VAR: Place = Place { target: "/var", mode: 0o755, size: tmpfs::Size::Percent(25) };

/// A tmpfs, ready to be mounted.
#[derive(Debug, PartialEq, Eq)]
pub struct Tmpfs {
    /// Of the mount.
    pub flags: Flags,
    /// Its own options.
    pub data: String,
}

/// A share, ready to be mounted when it is on offer.
#[derive(Debug, PartialEq, Eq)]
pub struct ShareMount {
    /// Its tag and its place.
    pub share: Share,
    /// Of the mount.
    pub flags: Flags,
    /// Its own options.
    pub data: String,
    /// The fstab has it cover whatever is in its place.
    pub covers: bool,
    /// Its options in the new fstab.
    pub options: String,
}

/// All of them.
#[derive(Debug)]
pub struct Mounts {
    /// /tmp and /var; on the volume where there is no tmpfs.
    pub places: Vec<(&'static Place, Option<Tmpfs>)>,
    /// What /run becomes, where the fstab says anything of it.
    pub run: Option<Tmpfs>,
    /// Those that are asked for.
    pub shares: Vec<ShareMount>,
    /// The root's fstab, if it has one.
    pub fstab: Option<String>,
    /// Lines of tmpfs that stay in it, with their options.
    pub kept: Vec<(Mount, String)>,
}

impl Mounts {
    /// Reads the root's fstab, and makes sure that what is mounted over in the root where it is there can
    /// be: `places` are the other mount points.
    ///
    /// # Errors
    /// When a link leads to nothing or out of the root, something is of the wrong kind, or the fstab has an
    /// option that nobody knows.
    pub(super) fn find(root: &NewRoot, config: &Config, places: &[PathBuf]) -> Result<Self> {
        places::require_directory(root, SCRIPTS, places)?;
        for share in &config.shares {
            places::require_directory(root, share.target, places)?;
        }
        let fstab = places::require_way(FSTAB, places)?.then(|| read_fstab(root)).transpose()?;
        Self::new(config, fstab)
    }

    fn new(config: &Config, fstab: Option<String>) -> Result<Self> {
        let text = fstab.as_deref().unwrap_or_default();
        let mut kept = Vec::new();
        let mut places = Vec::new();
        for (place, medium) in [(&TMP, config.tmp), (&VAR, config.var)] {
            // What the command line says of a place is all that counts for it.
            let tmpfs = match medium {
                None => Some(Tmpfs::of_fstab(text, place.target, &place.options(), &mut kept)?.0),
                Some(Medium::Memory(size)) => {
                    let size = size.unwrap_or(place.size);
                    Some(Tmpfs { flags: PLACE_FLAGS, data: place.options_with(size) })
                }
                Some(Medium::Volume) => None,
            };
            places.push((place, tmpfs));
        }
        let (run, is_asked) = Tmpfs::of_fstab(text, RUN, "", &mut kept)?;
        if let Some(option) =
            run.data.split(',').find(|option| tmpfs::is_of_the_first_mount(option))
        {
            return Err(Error::new(format!(
                "{FSTAB}: the tmpfs on {RUN} is mounted already when its line is read, and the kernel \
                 takes {option} at the first mount only"
            )));
        }
        let shares = config.shares.iter().map(|share| ShareMount::new(*share, text));
        let shares = shares.collect::<Result<_>>()?;
        Ok(Self { places, run: is_asked.then_some(run), shares, fstab, kept })
    }
}

impl Place {
    fn options(&self) -> String {
        self.options_with(self.size)
    }

    fn options_with(&self, size: tmpfs::Size) -> String {
        format!("mode={:o},size={size}", self.mode)
    }
}

impl Tmpfs {
    /// That of a place, and whether the fstab says anything of it: its options stand behind those that the
    /// place has in any case, so that they count.
    fn of_fstab(
        fstab: &str,
        target: &'static str,
        options: &str,
        kept: &mut Vec<(Mount, String)>,
    ) -> Result<(Self, bool)> {
        let mount = Mount::tmpfs(target);
        let line = mount.line_of(fstab);
        let own = line.and_then(|line| line.options).unwrap_or_default();
        let unknown = |option: &str| unknown(option, &format!("tmpfs on {target}"));
        let (flags, data) = mount::parse_options(own, tmpfs::is_own).map_err(unknown)?;
        if flags.contains(Flags::RDONLY) {
            return Err(Error::new(format!(
                "{FSTAB}: the tmpfs on {target} is read-only, which would be of no use"
            )));
        }
        if line.is_some() {
            kept.push((mount, joined(own, PLACE_HARDENING)));
        }
        Ok((Self { flags: flags | PLACE_FLAGS, data: joined(options, &data) }, line.is_some()))
    }
}

impl ShareMount {
    fn new(share: Share, fstab: &str) -> Result<Self> {
        let line = share.mount().line_of(fstab);
        let options = line.and_then(|line| line.options).unwrap_or(share::OPTIONS);
        // Whether the host offers it or not: what is wrong with the root is wrong at each boot.
        let unknown = |option: &str| unknown(option, &format!("share {}", share.tag));
        let (flags, data) = mount::parse_options(options, share::is_own).map_err(unknown)?;
        Ok(Self {
            share,
            flags: flags | share::FLAGS,
            data,
            covers: line.is_some_and(|line| !line.is_noauto()),
            options: joined(options, share::HARDENING),
        })
    }
}

fn unknown(option: &str, what: &str) -> Error {
    Error::new(format!("{FSTAB}: nobody knows the option {option:?} of the {what}"))
}

/// Options and those that count more.
fn joined(options: &str, more: &str) -> String {
    let parts = [options.trim_matches(','), more];
    let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join(",")
}

/// The root's fstab, wherever it lies in the root.
fn read_fstab(root: &NewRoot) -> Result<String> {
    effect(READ.on(&[&FSTAB]), || {
        // Does not wait for whoever writes to a fifo.
        let file = root.open(FSTAB, file::READ | OFlags::NONBLOCK)?;
        if !file::is_regular(&file)? {
            return Err(io::Error::other("it is not a regular file"));
        }
        Ok(String::from_utf8_lossy(&file::read_rest(file)?).into_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT_HASH: &str =
        "roothash=00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    fn mounts(words: &str, fstab: &str) -> Result<Mounts> {
        let config = Config::from_cmdline(&format!("{ROOT_HASH} {words}"))?;
        Mounts::new(&config, Some(fstab.to_owned()))
    }

    /// Flags and options of /tmp and /var.
    fn places(words: &str, fstab: &str) -> Vec<Option<(Flags, String)>> {
        let places = mounts(words, fstab).unwrap().places;
        let tmpfs = |tmpfs: Tmpfs| (tmpfs.flags, tmpfs.data);
        places.into_iter().map(|(_, place)| place.map(tmpfs)).collect()
    }

    fn memory(options: &str) -> (Flags, String) {
        (PLACE_FLAGS, options.to_owned())
    }

    #[test]
    fn without_a_word_places_are_a_quarter_of_the_memory() {
        let defaults = [Some(memory("mode=1777,size=25%")), Some(memory("mode=755,size=25%"))];
        assert_eq!(places("", ""), defaults);
        assert_eq!(places("cvm.tmp=memory cvm.var=memory", ""), defaults);
        assert_eq!(places("", "tmpfs /tmp/x tmpfs size=1M\ntmpfs /var tmpfs noauto\n"), defaults);
        let mounts = mounts("", "").unwrap();
        assert_eq!((mounts.run, mounts.kept), (None, Vec::new()));
    }

    #[test]
    fn the_fstab_says_how_large_and_what_for() {
        let fstab = "tmpfs /tmp tmpfs size=1G,noexec,suid 0 0\nnone /var tmpfs mode=700,nr_inodes=9k\n\
                     run /run tmpfs defaults,size=30%\n";
        let [tmp, var] = <[_; 2]>::try_from(places("", fstab)).unwrap();
        let flags = PLACE_FLAGS | Flags::NOEXEC;
        assert_eq!(tmp, Some((flags, "mode=1777,size=25%,size=1G".to_owned())));
        assert_eq!(var, Some(memory("mode=755,size=25%,mode=700,nr_inodes=9k")));
        let mounts = mounts("", fstab).unwrap();
        assert_eq!(mounts.run, Some(Tmpfs { flags: PLACE_FLAGS, data: "size=30%".to_owned() }));
        let kept: Vec<_> = mounts.kept.iter().map(|(_, options)| options.as_str()).collect();
        assert_eq!(
            kept,
            [
                "size=1G,noexec,suid,nosuid,nodev",
                "mode=700,nr_inodes=9k,nosuid,nodev",
                "defaults,size=30%,nosuid,nodev"
            ]
        );
    }

    #[test]
    fn the_command_line_counts_more_than_the_fstab() {
        let fstab = "tmpfs /tmp tmpfs size=1G,noexec\ntmpfs /var tmpfs\n";
        let words = "cvm.tmp=memory:64M cvm.var=volume";
        assert_eq!(places(words, fstab), [Some(memory("mode=1777,size=67108864")), None]);
        assert_eq!(mounts(words, fstab).unwrap().kept, []);
        assert_eq!(places("cvm.tmp=memory", fstab)[0], Some(memory("mode=1777,size=25%")));
    }

    #[test]
    fn an_option_that_nobody_knows_is_named() {
        let refusal = |fstab| mounts("", fstab).unwrap_err().to_string();
        for (fstab, option, what) in [
            ("tmpfs /tmp tmpfs size=1X", "size=1X", "tmpfs on /tmp"),
            ("tmpfs /var tmpfs noexec,remount", "remount", "tmpfs on /var"),
            ("tmpfs /run tmpfs mode=rwx", "mode=rwx", "tmpfs on /run"),
            ("env_share /etc/cocos 9p colour=red", "colour=red", "share env_share"),
        ] {
            let wanted = format!("/etc/fstab: nobody knows the option {option:?} of the {what}");
            assert_eq!(refusal(fstab), wanted);
        }
        assert_eq!(
            refusal("tmpfs /run tmpfs ro"),
            "/etc/fstab: the tmpfs on /run is read-only, which would be of no use"
        );
        assert_eq!(
            refusal("tmpfs /run tmpfs size=1G,noswap"),
            "/etc/fstab: the tmpfs on /run is mounted already when its line is read, and the kernel \
             takes noswap at the first mount only"
        );
        assert!(
            refusal("tmpfs /run tmpfs usrquota_inode_hardlimit=9").contains(" usrquota_inode_")
        );
        assert!(mounts("", "tmpfs /tmp tmpfs noswap\ntmpfs /var tmpfs quota").is_ok());
        // What is not in force need not be good.
        assert!(mounts("cvm.shares=no cvm.tmp=volume", "tmpfs /tmp tmpfs size=1X").is_ok());
    }

    #[test]
    fn a_share_covers_files_where_a_line_mounts_it() {
        let fstab =
            "certs_share /etc/certs 9p trans=virtio,ro\nenv_share /etc/cocos 9p noauto,suid\n";
        let shares = mounts("", fstab).unwrap().shares;
        let [certs, env] = &shares[..] else { panic!("two shares") };
        assert_eq!((certs.covers, env.covers), (true, false));
        assert_eq!(
            (certs.flags, certs.data.as_str()),
            (share::FLAGS | Flags::RDONLY, "trans=virtio")
        );
        assert_eq!(env.flags, share::FLAGS);
        assert_eq!(env.options, format!("noauto,suid,{}", share::HARDENING));
        let [certs, _] = &mounts("", "").unwrap().shares[..] else { panic!("two shares") };
        assert_eq!(certs.options, format!("{},{}", share::OPTIONS, share::HARDENING));
        assert!(!certs.covers);
    }
}
