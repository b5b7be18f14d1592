//! Has the linker leave out of the program what only unwinding reads, the standard library's part
//! included: where a panic ends the boot nobody unwinds, and it is a seventh of the file.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=link.ld");
    let is = |variable, value| env::var(variable).is_ok_and(|text| text == value);
    // Tests are of the other profile, and unwind; other targets have other linkers.
    if is("CARGO_CFG_TARGET_ENV", "musl") && is("PROFILE", "release") {
        println!("cargo::rustc-link-arg-bins=--no-eh-frame-hdr");
        println!("cargo::rustc-link-arg-bins=-T{}/link.ld", env!("CARGO_MANIFEST_DIR"));
    }
}
