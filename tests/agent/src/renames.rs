//! Threads that rename files over each other. Who wins is open; whatever is there in the end is
//! whole: each file says who wrote it, and its content follows from that.

use crate::at_once::at_once;
use crate::pattern::{mix, pattern};
use crate::verbs::{Answer, Args, Error};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use serde_json::json;
use std::fs;

const DIRECTORIES: u64 = 4;
const NAMES: u64 = 50;

/// Bytes in front of the pattern, which say its seed.
const HEAD: usize = 8;

fn name(dir: &str, random: u64) -> String {
    format!("{dir}/{}/{}", random % DIRECTORIES, (random >> 8) % NAMES)
}

fn content(seed: u64) -> Vec<u8> {
    let length = usize::try_from(mix(seed) >> 50).unwrap_or_default(); // up to 16 KiB
    let mut bytes = vec![0; HEAD + length];
    let (head, rest) = bytes.split_at_mut(HEAD);
    head.copy_from_slice(&seed.to_le_bytes());
    pattern(seed, 0, rest);
    bytes
}

/// One step of a writer: a new file over one that may be there, or one name for another.
fn step(dir: &str, own: &str, seed: u64) -> Result<(), Error> {
    let (from, to) = (name(dir, mix(seed)), name(dir, mix(seed ^ 1)));
    let renamed = match seed % 4 {
        0 => renameat_with(CWD, &from, CWD, &to, RenameFlags::empty()),
        1 => renameat_with(CWD, &from, CWD, &to, RenameFlags::EXCHANGE),
        _ => {
            fs::write(own, content(seed)).map_err(Error::of(format!("write {own}")))?;
            fs::rename(own, &to).map_err(Error::of(format!("rename {own} to {to}")))?;
            Ok(())
        }
    };
    match renamed {
        // Another writer was there first.
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(Error::of(format!("rename {from} to {to}"))(error)),
    }
}

pub(crate) fn storm(args: &Args<'_>) -> Answer {
    let (dir, steps, seed) = (args.text("dir")?, args.number("steps")?, args.number("seed")?);
    for directory in 0..DIRECTORIES {
        let path = format!("{dir}/{directory}");
        fs::create_dir_all(&path).map_err(Error::of(format!("make {path}")))?;
    }
    at_once(args.number("writers")?, |writer| {
        let own = format!("{dir}/new-{writer}");
        (0..steps).try_for_each(|number| step(dir, &own, mix(seed ^ mix(mix(writer) ^ number))))
    })?;
    Ok(json!(null))
}

/// All that is there, which is most of the names.
pub(crate) fn check(args: &Args<'_>) -> Answer {
    let dir = args.text("dir")?;
    let mut found = 0;
    for directory in 0..DIRECTORIES {
        let path = format!("{dir}/{directory}");
        for file in fs::read_dir(&path).map_err(Error::of(format!("list {path}")))? {
            let path = file.map_err(Error::of(format!("list {path}")))?.path();
            let bytes = fs::read(&path).map_err(Error::of(format!("read {}", path.display())))?;
            let seed = bytes.first_chunk::<HEAD>().map(|head| u64::from_le_bytes(*head));
            if seed.is_none_or(|seed| bytes != content(seed)) {
                return Err(Error::from(format!("{} is nobody's file", path.display())));
            }
            found += 1;
        }
    }
    Ok(json!(found))
}
