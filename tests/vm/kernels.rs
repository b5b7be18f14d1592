//! The kernels that people meet: each boots as the running release's does (`scripts/test --kernels`).

use crate::good::boots_well;
use crate::kernel::{Arch, Kernel};
use crate::shares::mounts_what_is_on_offer;
use std::fmt::Write;

const SUITES: [Option<&str>; 4] = [None, Some("bookworm-backports"), Some("trixie"), Some("sid")];

/// Of every suite the one for all machines and the one for clouds', and for aarch64 the first of these.
fn all() -> Vec<Kernel> {
    let of = |arch, cloud| SUITES.map(|suite| Kernel { suite, arch, cloud });
    [of(Arch::X86, false), of(Arch::X86, true), of(Arch::Arm, false)].concat()
}

#[test]
#[ignore = "scripts/test --kernels"]
fn every_kernel_boots() {
    let mut rows = String::new();
    for kernel in all() {
        let release = boots_well(kernel);
        // Kernels for clouds have no 9P.
        let shares = if kernel.cloud { "none: no 9P" } else { "9P" };
        if !kernel.cloud {
            mounts_what_is_on_offer(kernel);
        }
        let suite = kernel.suite.unwrap_or("the running release");
        writeln!(rows, "| {release} | {} | {suite} | {shares} |", kernel.arch.name()).unwrap();
    }
    println!("| kernel | architecture | suite | shares of the host |\n|---|---|---|---|\n{rows}");
}
