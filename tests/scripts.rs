//! The scripts: what they make, that they make the same again, and how they refuse bad input.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod script;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use script::{first_in_path, refuses, run, scratch, script, tool_in};

const SCRIPTS: &[&str] = &[
    "setup",
    "kernel",
    "initramfs",
    "image",
    "layers",
    "boot",
    "bench",
    "build-host",
    "debian-root",
    "demo-image",
    "dracut-initramfs",
    "engine-initramfs",
    "formats",
    "fuzz",
    "measure",
    "mkosi-image",
    "qemu",
    "release",
    "sizes",
    "soak",
    "test",
];

#[test]
fn every_script_explains_itself_and_refuses_what_it_does_not_know() {
    for name in SCRIPTS {
        let help = run(script(name).arg("--help"));
        assert!(help.starts_with(&format!("usage: scripts/{name}")), "{help}");
        refuses(script(name).arg("--colour"), 2, "unknown argument --colour");
    }
}

#[test]
fn a_flag_without_its_value_is_a_usage_error() {
    refuses(script("initramfs").arg("-o"), 2, "-o needs a value");
    refuses(script("initramfs").args(["-o", "x"]), 2, "--kernel-modules is missing");
    refuses(script("image").args(["--rootfs", "x"]), 2, "--kernel is missing");
    refuses(
        script("boot").args(["--timeout", "soon"]),
        2,
        "--timeout soon is not a number of seconds",
    );
    for name in ["kernel", "debian-root", "build-host"] {
        refuses(script(name).args(["--suite", "../x"]), 2, "--suite ../x is not a suite");
    }
    refuses(
        script("debian-root").args(["--exclude", "docker"]),
        2,
        "--exclude docker is not among the packages",
    );
    refuses(script("release").args(["-o", "/"]), 1, "cannot make /: it is there already");
    refuses(script("fuzz").args(["--time", "0"]), 2, "--time 0 is not a number of seconds");
    refuses(script("fuzz").arg("everything"), 2, "no target everything");
    refuses(script("soak").args(["--boots", "some"]), 2, "--boots some is not a number of boots");
}

#[test]
fn an_architecture_that_is_not_known_is_a_usage_error() {
    for (name, why) in [
        ("kernel", "--arch mips is neither amd64 nor arm64"),
        ("debian-root", "--arch mips is not arm64"),
        ("boot", "--arch mips is neither x86_64 nor aarch64"),
    ] {
        refuses(script(name).args(["--arch", "mips"]), 2, why);
    }
    let of_both = ["--arch", "aarch64", "--oci", "demo", "--check"];
    refuses(script("boot").args(of_both), 2, "--arch aarch64 goes with neither --oci nor --tpm");
    refuses(script("test").args(["--kernels", "--fast"]), 2, "--kernels goes with neither");
}

#[test]
fn without_a_nightly_toolchain_nothing_is_fuzzed_and_it_is_said_how_to_get_one() {
    let dir = scratch("stable");
    // Stands for a rustup that has no such toolchain.
    symlink("/bin/false", dir.join("rustup")).unwrap();
    let how = "no nightly toolchain: cargo-fuzz builds with its sanitizers; \
               install it with 'rustup toolchain install nightly'";
    refuses(script("fuzz").env("PATH", first_in_path(&dir)), 1, how);
}

/// A machine on which backports have brought `qemu-utils` and are no package source any more. Who
/// asks apt for `qemu-system-x86` without a word of `qemu-utils` loses that one; who asks for both
/// is told that they do not fit, unless `qemu-utils` may go back. Never there is what `LOST` names.
const HELD: &[(&str, &str)] = &[
    (
        "apt-get",
        r#"echo "$*" >>"$0.log"
        cd "${0%/*}" && case "$* " in
            *" -s "*"qemu-utils="*) ;;
            *" -s "*) exit 100 ;;
            *" install "*)
                for word; do
                    echo "${word%%=*} ${word%%=*} ${word#*=}"
                done | grep -v "^$LOST " >installed ;;
        esac"#,
    ),
    (
        "apt-cache",
        r#"case "$*" in
            "show "*) printf 'Package: fio\n\nPackage: qemu-system-x86\nSource: qemu (1:7)\n' ;;
            *" policy"*) printf 'qemu-utils:\n  Candidate: 1:7.2\n' ;;
            "madison "*) echo "qemu-utils | 1:7.2 | http://a.mirror bookworm/main amd64 Packages" ;;
        esac"#,
    ),
    (
        "dpkg-query",
        r#"while read -r name source version; do
            printf "$(printf %s "$3" | sed "s/[$]{db:Status-Status}/installed/
                s/[$]{source:Package}/$source/; s/[$]{Package}/$name/; s/[$]{Version}/$version/")"
        done <"${0%/*}/installed""#,
    ),
    ("sudo", r#"exec "$@""#),
    ("rustup", "exit 1"),
];

/// `scripts/setup` on that machine.
fn setup_where_qemu_is_held(dir: &Path) -> Command {
    fs::write(dir.join("installed"), "qemu-utils qemu 1:10.0~bpo12\n").unwrap();
    for (name, text) in HELD {
        tool_in(dir, name, text);
    }
    let mut command = script("setup");
    command.env("PATH", first_in_path(dir)).env("LOST", "none");
    command
}

#[test]
fn apt_is_asked_for_all_packages_at_once_and_a_held_one_goes_back() {
    let dir = scratch("held");
    let output = setup_where_qemu_is_held(&dir).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("held by another suite: qemu-utils 1:10.0~bpo12\n"), "{said}");
    assert!(said.contains("going back to qemu-utils=1:7.2\n"), "{said}");

    let log = fs::read_to_string(dir.join("apt-get.log")).unwrap();
    let installs: Vec<_> =
        log.lines().filter(|line| line.contains(" install ") && !line.contains(" -s ")).collect();
    let [install] = installs[..] else { panic!("not one: {installs:?}") };
    let words: Vec<_> = install.split(' ').collect();
    let help = run(script("setup").arg("--help"));
    let packages = help.split("\n\n").nth(2).unwrap();
    for package in packages.lines().filter_map(|line| line.split_whitespace().next()) {
        assert!(words.contains(&package), "no {package} in {install}");
    }
    assert!(words.contains(&"qemu-utils=1:7.2"), "{install}");
}

#[test]
fn a_package_that_is_not_there_after_all_is_named() {
    let dir = scratch("lost");
    let mut setup = setup_where_qemu_is_held(&dir);
    refuses(setup.env("LOST", "fio"), 1, "cannot install fio: apt-get ended well");
}

/// Runs it where `/etc/os-release` says something else.
fn on_release(text: &str, dir: &Path, command: &Command) -> String {
    let os_release = dir.join("os-release");
    fs::write(&os_release, text).unwrap();
    let mut elsewhere = Command::new("sh");
    elsewhere
        .args(["-euc", ELSEWHERE, "sh"])
        .arg(&os_release)
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        elsewhere.env(name, value.unwrap());
    }
    let output = elsewhere.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

/// In mounts of its own, which need root or a user namespace.
const ELSEWHERE: &str = r#"
    as_root=--map-root-user
    [ "$(id -u)" != 0 ] || as_root=
    exec unshare $as_root --mount sh -euc 'mount --bind "$1" /etc/os-release; shift; exec "$@"' sh "$@"
"#;

#[test]
fn a_release_that_was_not_tried_is_named_and_set_up_all_the_same() {
    let dir = scratch("release");
    let setup = setup_where_qemu_is_held(&dir);
    let warnings = |text: &str| -> Vec<String> {
        let said = on_release(text, &dir, &setup);
        assert!(said.contains("all is installed"), "{said}");
        said.lines().filter(|line| line.contains("warning")).map(str::to_owned).collect()
    };
    for tried in ["bookworm", "trixie"] {
        assert!(warnings(&format!("VERSION_CODENAME={tried}\n")).is_empty(), "{tried}");
    }
    for (text, name) in [("VERSION_CODENAME=forky\n", "forky"), ("ID=arch\n", "no release")] {
        let warnings = warnings(text);
        let [warning] = &warnings[..] else { panic!("not one: {warnings:?}") };
        assert!(
            warning.starts_with(&format!("scripts/setup: warning: this is {name}")),
            "{warning}"
        );
    }
}

#[test]
fn a_refusal_of_mmdebstrap_is_told_once() {
    let dir = scratch("refusal");
    run(&mut script("kernel"));
    let refusal = "cannot create /a/root: Permission denied";
    let joined = [refusal; 4].join("; ");
    tool_in(&dir, "mmdebstrap", &format!("echo 'E: {joined}' >&2; exit 1"));
    let mut debian_root = script("debian-root");
    debian_root.arg("-o").arg(dir.join("rootfs.tar")).env("PATH", first_in_path(&dir));
    let output = debian_root.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.matches(refusal).count(), 1, "{said}");
    assert!(said.ends_with(": mmdebstrap failed\n"), "{said}");
}

/// Without root it works as another user, who has to get into the folder that it is given.
#[test]
fn mmdebstrap_is_given_a_folder_that_other_users_can_enter() {
    let dir = scratch("entered");
    run(&mut script("kernel"));
    tool_in(&dir, "mmdebstrap", r#"stat -c %a "$TMPDIR" >"$0.mode"; exit 1"#);
    let mut debian_root = script("debian-root");
    debian_root.arg("-o").arg(dir.join("rootfs.tar")).env("PATH", first_in_path(&dir));
    refuses(&mut debian_root, 1, "cannot make a Debian root: mmdebstrap failed");
    assert_eq!(fs::read_to_string(dir.join("mmdebstrap.mode")).unwrap(), "711\n");
}

#[test]
fn a_folder_that_other_users_cannot_enter_is_found_above_one_that_they_can() {
    let dir = scratch("closed");
    let home = dir.join("home");
    let checkout = home.join("checkout");
    fs::create_dir_all(&checkout).unwrap();
    let allow = |dir: &Path, mode| fs::set_permissions(dir, fs::Permissions::from_mode(mode));
    allow(&checkout, 0o755).unwrap();
    let closed = |mode| {
        allow(&home, mode).unwrap();
        run(Command::new("bash")
            .args(["-c", r#"source scripts/lib.bash; closed_to_others "$1""#, "scripts/it"])
            .arg(&checkout))
    };
    assert_eq!(closed(0o700), format!("{}\n", home.display()));
    assert!(!closed(0o711).contains("home\n"));
}
