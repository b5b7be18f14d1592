//! The kernels that people meet: each boots as the running release's does (`scripts/test --kernels`).

use crate::good::boots_well;
use crate::kit::kernel::{Arch, Kernel};
use crate::shares::mounts_what_is_on_offer;

/// Debian's suites, the running release first.
const SUITES: [Option<&str>; 4] = [None, Some("bookworm-backports"), Some("trixie"), Some("sid")];

/// For all machines, for clouds' virtual machines, and for aarch64.
const KINDS: [(Arch, bool); 3] = [(Arch::X86, false), (Arch::X86, true), (Arch::Arm, false)];

#[test]
#[ignore = "scripts/test --kernels"]
fn every_kernel_boots() {
    let mut table = vec![
        "| Debian | x86_64 | x86_64, for clouds | aarch64 |".to_owned(),
        "|---|---|---|---|".to_owned(),
    ];
    for suite in SUITES {
        let releases = KINDS.map(|(arch, cloud)| {
            let kernel = Kernel { suite, arch, cloud };
            let release = boots_well(kernel);
            // Kernels for clouds have no 9P.
            if !cloud {
                mounts_what_is_on_offer(kernel);
            }
            release
        });
        table.push(format!("| {} | {} |", suite.unwrap_or("bookworm"), releases.join(" | ")));
    }
    println!("{}", table.join("\n"));
}
