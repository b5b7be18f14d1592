//! The program that the machine is handed to, looked at as exec will look at it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, fstat};

use super::way::{self, End};
use crate::effect::{Effect, effect};
use crate::error::{Error, Result};
use crate::format::program::{Program, SCRIPTS_MAX};
use crate::kernel::file;
use crate::stage::NewRoot;

const READ: Effect<1> = Effect::new("read", "read {}");
const FIND: Effect<1> = Effect::new("find", "find {} in the root");
const RECOGNIZE: Effect<1> = Effect::new("recognize", "recognize {} as a program");

/// Bytes of a file that are read ahead of exec: far more than most programs have, and no more than a
/// small guest can hold.
const READ_MAX: usize = 64 << 20;

/// Bytes that are read at once.
const PIECE: usize = 16 << 10;

/// The init of the new root.
#[derive(Debug)]
pub struct Init {
    path: String,
    /// All that exec reads, by the names that it uses: the program, what runs it, and the loader.
    files: Vec<PathBuf>,
}

impl Init {
    /// Makes sure that `path` names a program of the new root, and that what it is run by is there: not
    /// below one of `places`, which are mounted over.
    ///
    /// # Errors
    /// What is missing, or what is wrong with it.
    pub fn find(root: &NewRoot, path: &str, places: &[PathBuf]) -> Result<Self> {
        let mut init = Self { path: path.to_owned(), files: Vec::new() };
        let (mut file, mut what) = (PathBuf::from(path), path.to_owned());
        for _ in 0..=SCRIPTS_MAX {
            let interpreter = match look_at(root, &file, &what, places)? {
                Program::Script { interpreter } => interpreter,
                Program::Code { loader } => {
                    let asked_by = shown(&file);
                    init.files.push(file);
                    if let Some(loader) = loader {
                        require_loader(root, &loader, &asked_by, places)?;
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
            effect(READ.on(&[&shown(file)]), || read_ahead(file))?;
        }
        Ok(())
    }
}

fn read_ahead(program: &Path) -> io::Result<()> {
    let (program, mut piece) = (file::open(program, file::READ)?, [0; PIECE]);
    for _ in 0..READ_MAX / PIECE {
        if file::read_some(&program, &mut piece)?.is_empty() {
            break;
        }
    }
    Ok(())
}

/// The kernel loads it as machine code, whatever else would run.
fn require_loader(root: &NewRoot, loader: &Path, program: &str, places: &[PathBuf]) -> Result<()> {
    let what = named(loader, program);
    match look_at(root, loader, &what, places)? {
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
fn look_at(root: &NewRoot, file: &Path, what: &str, places: &[PathBuf]) -> Result<Program> {
    let content = effect(FIND.on(&[&what]), || find(root, file, places))?;
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
fn find(root: &NewRoot, file: &Path, places: &[PathBuf]) -> io::Result<File> {
    if let End::MountedOver(place, below) = way::follow(file, places, way::look) {
        let error = format!(
            "{} lies below {}, which is mounted over before init is run",
            shown(&below),
            shown(&place)
        );
        return Err(io::Error::other(error));
    }
    // Not to be read before it is known what it is: to open a FIFO would wait for ever.
    let found = root.open(file, file::PLACE).map_err(|error| match file.to_str() {
        Some(name) if name.ends_with('\r') => io::Error::other(format!(
            "{error} (the line that names it ends with a carriage return)"
        )),
        _ => error,
    })?;
    let mode = fstat(found)?.st_mode;
    if FileType::from_raw_mode(mode) != FileType::RegularFile {
        return Err(io::Error::other("it is no regular file"));
    }
    if mode & 0o111 == 0 {
        return Err(io::Error::other("it is not executable"));
    }
    root.open(file, file::READ)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_shown_so_that_it_is_seen() {
        assert_eq!(shown(Path::new("/bin/sh")), "/bin/sh");
        assert_eq!(shown(Path::new("/bin/sh\r")), "\"/bin/sh\\r\"");
        assert_eq!(shown(Path::new("/bin/my sh")), "\"/bin/my sh\"");
    }
}
