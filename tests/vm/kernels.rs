//! The kernels that people meet: each boots as the running release's does (`scripts/test --kernels`).

use crate::good::boots_well;
use crate::kernel::{Arch, Kernel};

const SUITES: [Option<&str>; 4] = [None, Some("bookworm-backports"), Some("trixie"), Some("sid")];

/// Of every suite the one for all machines and the one for clouds', and for aarch64 the first of these.
fn all() -> Vec<Kernel> {
    let of = |arch, cloud| SUITES.map(|suite| Kernel { suite, arch, cloud });
    [of(Arch::X86, false), of(Arch::X86, true), of(Arch::Arm, false)].concat()
}

#[test]
#[ignore = "scripts/test --kernels"]
fn every_kernel_boots() {
    let rows: Vec<_> = all().into_iter().map(|kernel| (kernel, boots_well(kernel))).collect();
    println!("| kernel | suite | architecture |\n|---|---|---|");
    for (kernel, release) in rows {
        let suite = kernel.suite.unwrap_or("the running release");
        println!("| {release} | {suite} | {} |", kernel.arch.name());
    }
}
