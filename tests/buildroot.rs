//! The package for Buildroot, `docs/examples/buildroot`, in a stand-in for Buildroot's infrastructure, which
//! cannot be had without a network: make reads it, and its commands come to what a release is built by.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod script;

use std::fs;
use std::path::Path;

use script::{run, scratch, tool};

const PACKAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/examples/buildroot");

/// What Buildroot gives a package, as far as this one asks for it: variables, and the steps of a generic
/// package in their order.
const STAND_IN: &str = r#"
qstrip = $(strip $(subst ",,$(1)))
TAR = tar
INSTALL = install
TARGET_MAKE_ENV = PATH=HOST/bin
RUSTC_TARGET_NAME = x86_64-unknown-linux-musl
BINARIES_DIR = IMAGES
CVM_INIT_DL_DIR = DOWNLOADS
define generic-package
BUILD/all:
	@echo $$(CVM_INIT_SITE)/$$(CVM_INIT_SOURCE) $$(CVM_INIT_SITE)/$$(CVM_INIT_EXTRA_DOWNLOADS)
	$$($$(CVM_INIT_POST_EXTRACT_HOOKS))
	$$(CVM_INIT_BUILD_CMDS)
	$$(CVM_INIT_INSTALL_IMAGES_CMDS)
endef
include external.mk
"#;

#[test]
fn make_takes_the_package_and_builds_what_a_release_has() {
    let dir = scratch("buildroot");
    fs::write(dir.join("Makefile"), STAND_IN).unwrap();
    let commands = run(tool("make")
        .args(["--no-print-directory", "--warn-undefined-variables", "-n", "-f"])
        .arg(dir.join("Makefile"))
        .arg("-C")
        .arg(PACKAGE)
        .arg(format!("BR2_EXTERNAL_CVM_INIT_PATH={PACKAGE}"))
        .arg("BR2_PACKAGE_CVM_INIT_SITE=\"https://releases\"")
        .arg("BUILD/all"));
    let commands = commands.replace("\\\n", " ");
    let lines: Vec<_> = commands
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        lines,
        [
            format!("echo https://releases/cvm-init-{version}.tar.gz https://releases/cvm-init-{version}-vendor.tar.gz"),
            format!("tar -C BUILD -xzf DOWNLOADS/cvm-init-{version}-vendor.tar.gz"),
            "cd BUILD && PATH=HOST/bin CARGO_HOME=BUILD/cargo-home cargo --config docs/examples/vendor.toml \
             build --locked --offline --release --package cvm-init --target x86_64-unknown-linux-musl".to_owned(),
            "install -D -m 0755 BUILD/target/x86_64-unknown-linux-musl/release/cvm-init IMAGES/cvm-init".to_owned(),
        ]
    );
}

/// What Buildroot's `utils/check-package` asks of such files, as far as it is about their lines.
#[test]
fn its_files_are_written_as_buildroots_are() {
    let package = Path::new(PACKAGE).join("package/cvm-init");
    for file in ["Config.in", "cvm-init.mk"] {
        let text = fs::read_to_string(package.join(file)).unwrap();
        assert!(text.ends_with('\n') && !text.ends_with("\n\n"), "{file}");
        for line in text.lines() {
            assert_eq!(line.trim_end(), line, "{file}");
            assert!(!line.starts_with("    "), "{file}: {line}");
        }
        let help = text.lines().filter(|line| line.starts_with("\t  "));
        assert!(help.clone().all(|line| line.len() <= 71), "{file}");
    }
    let rules = fs::read_to_string(package.join("cvm-init.mk")).unwrap();
    let head: Vec<_> = rules.lines().take(5).collect();
    let bar = "#".repeat(80);
    assert_eq!(head, [&*bar, "#", "# cvm-init", "#", &*bar]);
}
