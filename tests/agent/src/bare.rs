//! What a boot leaves behind, made here when there was no boot: the agent is `/init` itself.

use rustix::mount::{MountFlags, mount};
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::path::Path;

const PSEUDO: &[(&str, &str)] = &[("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys")];

/// Does nothing in a root that `cvm-init` switched to: it has a /proc/self and no /modules.
pub(crate) fn prepare() {
    if !Path::new("/proc/self").exists() {
        for (fstype, target) in PSEUDO {
            let mounted = fs::create_dir_all(target)
                .and_then(|()| Ok(mount(*fstype, *target, *fstype, MountFlags::empty(), None)?));
            report(fstype, mounted);
        }
    }
    let mut modules: Vec<_> = fs::read_dir("/modules")
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .collect();
    modules.sort();
    for path in modules {
        report(&path.to_string_lossy(), load(&path));
    }
}

fn load(path: &Path) -> io::Result<()> {
    match rustix::system::finit_module(File::open(path)?, &CString::default(), 0) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn report(object: &str, result: io::Result<()>) {
    if let Err(error) = result {
        crate::complain(&format!("cannot set up {object}: {error}"));
    }
}
