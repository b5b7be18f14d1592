//! The program that the machine is handed to, looked at as exec will look at it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2};

use super::MOUNT_POINTS;
use crate::effect::{Effect, effect};
use crate::error::{Error, Result};
use crate::format::program::{Program, SCRIPTS_MAX};
use crate::stage::{NEW_ROOT, in_new_root};

const READ: Effect<1> = Effect::new("read", "read {}");
const FIND: Effect<1> = Effect::new("find", "find {} in the root");
const RECOGNIZE: Effect<1> = Effect::new("recognize", "recognize {} as a program");

/// Links that the kernel follows on the way to a file (`path_resolution(7)`).
const LINKS_MAX: usize = 40;

/// Bytes of a file that are read ahead of exec: far more than most programs have, and no more than a
/// small guest can hold.
const READ_MAX: u64 = 64 << 20;

/// The init of the new root.
#[derive(Debug)]
pub struct Init {
    path: String,
    /// All that exec reads, by the names that it uses: the program, what runs it, and the loader.
    files: Vec<PathBuf>,
}

impl Init {
    /// Makes sure that `path` names a program of the new root, and that what it is run by is there.
    ///
    /// # Errors
    /// What is missing, or what is wrong with it.
    pub fn find(path: &str) -> Result<Self> {
        let mut init = Self { path: path.to_owned(), files: Vec::new() };
        let (mut file, mut what) = (PathBuf::from(path), path.to_owned());
        for _ in 0..=SCRIPTS_MAX {
            let interpreter = match look_at(&file, &what)? {
                Program::Script { interpreter } => interpreter,
                Program::Code { loader } => {
                    let asked_by = shown(&file);
                    init.files.push(file);
                    if let Some(loader) = loader {
                        require_loader(&loader, &asked_by)?;
                        init.files.push(loader);
                    }
                    return Ok(init);
                }
            };
            what = named(&interpreter, &shown(&file));
            init.files.push(std::mem::replace(&mut file, interpreter));
        }
        Err(Error::new(format!(
            "{path} is run by a script, and so on more than {SCRIPTS_MAX} times"
        )))
    }

    /// Its name, as the command line has it.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Reads all that exec will read, so that exec finds it in memory: exec ends the thread that
    /// watches over time, and would wait for a disk as long as the host likes. To be called in the
    /// new root.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn read_ahead(&self) -> Result<()> {
        for file in &self.files {
            effect(READ.on(&[&shown(file)]), || {
                io::copy(&mut File::open(file)?.take(READ_MAX), &mut io::sink())
            })?;
        }
        Ok(())
    }
}

/// The kernel loads it as machine code, whatever else would run.
fn require_loader(loader: &Path, program: &str) -> Result<()> {
    let what = named(loader, program);
    match look_at(loader, &what)? {
        Program::Code { .. } => Ok(()),
        Program::Script { .. } => {
            Err(Error::new(format!("{what} is a script: a loader has to be machine code")))
        }
    }
}

fn named(interpreter: &Path, program: &str) -> String {
    format!("the interpreter {} of {program}", shown(interpreter))
}

/// A name, in quotes where it would not be seen as it is.
fn shown(path: &Path) -> String {
    match path.to_str() {
        Some(name) if name.bytes().all(|byte| byte.is_ascii_graphic()) => name.to_owned(),
        _ => format!("{:?}", path.to_string_lossy()),
    }
}

/// What `file` of the new root is, which messages call `what`.
fn look_at(file: &Path, what: &str) -> Result<Program> {
    let content = effect(FIND.on(&[&what]), || find(file))?;
    effect(RECOGNIZE.on(&[&what]), || {
        Program::from_content(|at, length| {
            let mut bytes = vec![0; length];
            let mut have = 0;
            while let Some(rest @ [_, ..]) = bytes.get_mut(have..) {
                match content.read_at(rest, at.saturating_add(have as u64))? {
                    0 => break,
                    more => have = have.saturating_add(more),
                }
            }
            bytes.truncate(have);
            Ok(bytes)
        })
    })
}

/// Opens an executable file, with links followed as in the new root.
fn find(file: &Path) -> io::Result<File> {
    if let Some((place, below)) = below_mount_point(file, link_of) {
        let error = format!(
            "{} lies below {place}, which is mounted over before init is run",
            shown(&below)
        );
        return Err(io::Error::other(error));
    }
    let root = File::open(NEW_ROOT)?;
    let open = |flags: OFlags| {
        openat2(&root, file, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT)
    };
    // Not to be read before it is known what it is: to open a FIFO would wait for ever.
    let found = open(OFlags::PATH).map_err(|error| match file.to_str() {
        Some(name) if name.ends_with('\r') => io::Error::other(format!(
            "{} (the line that names it ends with a carriage return)",
            io::Error::from(error)
        )),
        _ => error.into(),
    })?;
    let mode = fstat(found)?.st_mode;
    if FileType::from_raw_mode(mode) != FileType::RegularFile {
        return Err(io::Error::other("it is no regular file"));
    }
    if mode & 0o111 == 0 {
        return Err(io::Error::other("it is not executable"));
    }
    Ok(open(OFlags::RDONLY)?.into())
}

/// What `path` of the new root links to; none of the directories in it is a link.
fn link_of(path: &Path) -> Option<PathBuf> {
    fs::read_link(in_new_root(path.to_str()?)).ok()
}

/// Whether the way to `path`, through all links, leads below a mount point, where it will end in
/// another file system: that mount point, and what is looked for there.
fn below_mount_point(
    path: &Path,
    link_of: impl Fn(&Path) -> Option<PathBuf>,
) -> Option<(&'static str, PathBuf)> {
    // The next one last.
    let mut ahead = components(path);
    let mut here = PathBuf::from("/");
    let mut links = 0_usize;
    while let Some(next) = ahead.pop() {
        if next == ".." {
            here.pop();
            continue;
        }
        here.push(next);
        let is_above = |place: &&&str| here != Path::new(place) && here.starts_with(place);
        if let Some(place) = MOUNT_POINTS.iter().find(is_above) {
            here.extend(ahead.iter().rev());
            return Some((place, here));
        }
        if let Some(target) = link_of(&here) {
            links = links.saturating_add(1);
            if links > LINKS_MAX {
                return None; // nothing is found on this way
            }
            here.pop();
            if target.is_absolute() {
                here = PathBuf::from("/");
            }
            ahead.extend(components(&target));
        }
    }
    None
}

/// The names in a path, the last one first.
fn components(path: &Path) -> Vec<OsString> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    let mut names: Vec<_> = names.collect();
    names.reverse();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the way to `path` leads out of sight, with these links.
    fn way(path: &str, links: &[(&str, &str)]) -> Option<(&'static str, String)> {
        let link_of = |path: &Path| {
            let link = links.iter().find(|(name, _)| Path::new(name) == path);
            link.map(|(_, target)| PathBuf::from(target))
        };
        below_mount_point(Path::new(path), link_of)
            .map(|(place, below)| (place, below.display().to_string()))
    }

    #[test]
    fn a_way_below_a_mount_point_is_seen_through_all_links() {
        let below = |place, path: &str| Some((place, path.to_owned()));
        let usr = ("/sbin", "usr/sbin");
        assert_eq!(way("/sbin/init", &[usr]), None);
        assert_eq!(way("/var/lib/init", &[]), below("/var", "/var/lib/init"));
        let links = [usr, ("/usr/sbin/init", "../../../var/x/init")];
        assert_eq!(way("/sbin/init", &links), below("/var", "/var/x/init"));
        // What it leads back to is not seen either.
        let links = [("/init", "/run/init"), ("/run/init", "/usr/init")];
        assert_eq!(way("/init", &links), below("/run", "/run/init"));
        assert_eq!(way("bin/sh", &[("/bin", "/tmp/bin")]), below("/tmp", "/tmp/bin/sh"));
    }

    #[test]
    fn a_way_past_a_mount_point_is_none_below_it() {
        assert_eq!(way("/var/../usr/init", &[]), None);
        assert_eq!(way("/variable/init", &[]), None);
        assert_eq!(way("/dev", &[]), None);
        assert_eq!(way("/../../usr/init", &[]), None);
    }

    #[test]
    fn links_without_end_come_to_one() {
        assert_eq!(way("/a", &[("/a", "b"), ("/b", "a")]), None);
    }

    #[test]
    fn a_name_is_shown_so_that_it_is_seen() {
        assert_eq!(shown(Path::new("/bin/sh")), "/bin/sh");
        assert_eq!(shown(Path::new("/bin/sh\r")), "\"/bin/sh\\r\"");
        assert_eq!(shown(Path::new("/bin/my sh")), "\"/bin/my sh\"");
    }
}
