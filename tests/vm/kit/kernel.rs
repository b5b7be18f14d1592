//! The kernels that are booted, stock ones of Debian's, and what goes with their architecture.

use crate::kit::artefacts::{script, target};
use crate::kit::tool::run;
pub(crate) use cvm_tools::vm::Arch;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// What every command line on x86 has: a console. On a busy machine an emulated timer can be so late that
/// the kernel takes it for broken. Mostly it finds emulated processors' clocks to differ; where it does
/// not, it patches code that all of them run (`sched_clock: Marking stable`), and QEMU lets one of them
/// run into the breakpoint of the patch. Their delays are then measured, for most of a second, unless
/// they are told (`lpj=`: 2.5 GHz by a jiffy of 4 ms). The kernel's tests of its own algorithms take a fourth
/// of an emulated boot; guests that come from disk or by `scripts/qemu` have them.
pub(crate) const WORDS: &str =
    "console=ttyS0 no_timer_check tsc=unstable lpj=10000000 cryptomgr.notests";

/// What every command line has: a console, and what an emulated machine needs.
pub(crate) fn words(arch: Arch) -> &'static str {
    match arch {
        Arch::X86 => WORDS,
        Arch::Arm => "console=ttyAMA0",
    }
}

/// A stock kernel of Debian's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// The suite, where it is not the running release.
    pub(crate) suite: Option<&'static str>,
    pub(crate) arch: Arch,
    /// Whether it is the one for clouds' virtual machines, with fewer drivers.
    pub(crate) cloud: bool,
}

impl Kernel {
    /// That of the running release.
    pub(crate) const RUNNING: Self = Self { suite: None, arch: Arch::X86, cloud: false };
    /// 6.12.
    pub(crate) const TRIXIE: Self = Self { suite: Some("trixie"), ..Self::RUNNING };
    pub(crate) const ARM: Self = Self { arch: Arch::Arm, ..Self::RUNNING };

    /// Where `scripts/kernel` has put it.
    pub(crate) fn folder(self) -> PathBuf {
        static THERE: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
        // Who wants the same one waits until it is there.
        let mut there = THERE.lock().unwrap_or_else(PoisonError::into_inner);
        let fetch = || {
            let mut kernel = script("kernel");
            kernel.args(self.suite.iter().flat_map(|suite| ["--suite", suite]));
            if self.arch == Arch::Arm {
                kernel.args(["--arch", "arm64"]);
            }
            if self.cloud {
                kernel.arg("--cloud");
            }
            run(&mut kernel);
            target().join(self.to_string())
        };
        there.entry(self.to_string()).or_insert_with(fetch).clone()
    }

    /// What is shipped, and what a firmware starts.
    pub(crate) fn image(self) -> PathBuf {
        self.folder().join("vmlinuz")
    }

    /// The same, unpacked: what QEMU starts by itself, three seconds sooner where it emulates.
    pub(crate) fn unpacked(self) -> PathBuf {
        self.folder().join("vmlinux")
    }
}

/// The name of its folder.
impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("kernel")?;
        if let Some(suite) = self.suite {
            write!(f, "-{suite}")?;
        }
        if self.arch == Arch::Arm {
            f.write_str("-arm64")?;
        }
        if self.cloud {
            f.write_str("-cloud")?;
        }
        Ok(())
    }
}
