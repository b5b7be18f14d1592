//! `--tpm`: what a boot records there, and that the emulator ends with its VM.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::running::{
    Halted, alone, build_cvm_init, free_port, launch, run, script, target, until,
};
use crate::{entries, image, qemu};

/// What the root's init does: it says what was measured, and powers off.
const INIT: &str = r#"#!/bin/busybox sh
busybox=/bin/busybox
for pcr in /sys/class/tpm/tpm0/pcr-sha*/*; do
    echo "FACT ${pcr#/sys/class/tpm/tpm0/} $($busybox cat $pcr)"
done
$busybox mount -t securityfs none /sys/kernel/security
echo "FACT firmware's log: $($busybox wc -c </sys/kernel/security/tpm0/binary_bios_measurements)"
echo "FACT report $($busybox tr -d '\n' </run/cvm-init/boot.json)"
echo "FACT log $($busybox tr -d '\036' </run/log/systemd/tpm2-measure.log | $busybox tr '\n' ' ')"
$busybox poweroff -f
"#;

/// An image of `scripts/image` in `img/`, whose root has that init, with the kernel of a Debian suite
/// or of the running release.
fn measured_image(dir: &Path, suite: Option<&str>) {
    let root = dir.join("root");
    for name in ["bin", "cocos", "dev", "etc", "proc", "run", "sbin", "sys", "tmp", "var"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    fs::write(root.join("etc/machine-id"), "").unwrap();
    fs::write(root.join("bin/init"), INIT).unwrap();
    symlink("/bin/init", root.join("sbin/init")).unwrap();
    run(Command::new("sh")
        .args(["-ec", "chmod +x bin/init; cp \"$(command -v busybox)\" bin"])
        .current_dir(&root));
    run(script("kernel").args(suite.iter().flat_map(|suite| ["--suite", suite])));
    build_cvm_init();
    let kernel =
        target().join(suite.map_or("kernel".to_owned(), |suite| format!("kernel-{suite}")));
    run(script("image")
        .arg("--rootfs")
        .arg(&root)
        .arg("--kernel")
        .arg(kernel.join("vmlinuz"))
        .arg("--modules")
        .arg(kernel.join("modules"))
        .args([
            "--cocos-size",
            "64M",
            "--append",
            "quiet console=ttyS0 no_timer_check tsc=unstable",
            "-o",
        ])
        .arg(dir.join("img")));
    for share in ["env", "certs"] {
        fs::create_dir(dir.join(share)).unwrap();
    }
}

/// What the machine of these tests measures of an image.
fn predicted(dir: &Path) -> Value {
    let output =
        script("measure").args(["--json", "--memory", "1G"]).arg(dir.join("img")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_direct_boot_records_in_a_tpm_what_was_predicted() {
    records_what_was_predicted(None);
}

#[test]
#[ignore = "scripts/test --all"]
fn a_direct_boot_of_a_newer_kernel_records_in_a_tpm_what_was_predicted() {
    records_what_was_predicted(Some("trixie"));
}

/// From the kernel file and the words to the register that PID 1 extends, through the launcher alone.
fn records_what_was_predicted(suite: Option<&str>) {
    let _alone = alone();
    let dir = image("measured");
    measured_image(dir.path(), suite);
    let predicted = predicted(dir.path());
    let flags = ["--boot", "kernel", "--tpm", "the tpm"];
    let Output { status, stdout, stderr } = launch(dir.path(), &flags);
    let console = String::from_utf8_lossy(&stdout);
    assert!(status.success(), "{status}: {}{console}", String::from_utf8_lossy(&stderr));
    let facts: Vec<_> = console
        .lines()
        .filter_map(|line| line.trim_end().split_once("FACT "))
        .map(|(_, fact)| fact)
        .collect();
    let fact = |start: &str| facts.iter().find_map(|fact| fact.strip_prefix(start));

    let predicted_in = |bank| {
        let registers = predicted["tpm"]["kernel"][bank].as_object().unwrap();
        assert_eq!(registers.len(), 8);
        registers
    };
    for bank in ["sha256", "sha384"] {
        // QEMU before 10.2 fills in the kernel's header.
        let older = &predicted["pcr_4_of_older_qemu"]["value"][bank];
        for (pcr, value) in predicted_in(bank) {
            let held = fact(&format!("pcr-{bank}/{pcr} ")).unwrap().to_ascii_lowercase();
            assert!(*value == held || (pcr == "4" && *older == held), "{bank}, PCR {pcr}: {held}");
        }
    }
    let bytes: usize = fact("firmware's log: ").unwrap().parse().unwrap();
    assert!(bytes > 1000, "the firmware's log has {bytes} bytes");
    let report: Value = serde_json::from_str(fact("report ").unwrap()).unwrap();
    let measured = &report["measured"];
    assert_eq!(measured["register"], "PCR 15");
    assert_eq!(
        measured["values"][0],
        json!({ "bank": "sha256", "value": predicted_in("sha256")["15"] })
    );
    let log = fact("log ").unwrap();
    let records = serde_json::Deserializer::from_str(log).into_iter::<Value>();
    let lines: Vec<_> =
        records.map(|record| record.unwrap()["content"]["string"].clone()).collect();
    assert_eq!(json!(lines), measured["events"]);

    // The emulator has ended, and its state is there for the next boot.
    assert_eq!(emulators(&dir.path().join("the tpm")), [] as [PathBuf; 0]);
    assert_eq!(entries(&dir.path().join("tmp")), [] as [PathBuf; 0]);
    assert!(dir.path().join("the tpm/tpm2-00.permall").exists());
}

/// The processes that keep the state of a TPM in a folder.
fn emulators(state: &Path) -> Vec<PathBuf> {
    let words = format!("dir={}", state.display());
    let mut processes = entries(Path::new("/proc"));
    processes.retain(|process| {
        let line = fs::read(process.join("cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == words.as_bytes())
    });
    processes
}

#[test]
fn a_tpm_ends_with_its_vm_however_that_ends() {
    let _alone = alone();
    let dir = image("tpm");
    let state = dir.path().join("tpm");
    let launched = |name| {
        let vm = Halted::launch(dir.path(), name, free_port(), "1-1", &["--tpm", "tpm"]);
        assert_eq!(emulators(&state).len(), 1, "{name}");
        vm
    };
    let gone = || until("the TPM is gone", || emulators(&state).is_empty().then_some(()));

    let vm = launched("signalled");
    // Its state is one VM's at a time.
    let flags = ["--tee", "none", "--boot", "kernel", "--tpm", "tpm"];
    let second = qemu(dir.path(), &flags, &[]).output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(
        said.contains("cannot use tpm: another VM has this TPM; name another folder"),
        "{said}"
    );
    assert_eq!(vm.end(Signal::TERM), Some(143));
    assert_eq!(emulators(&state), [] as [PathBuf; 0]);
    assert_eq!(entries(&dir.path().join("tmp")), [] as [PathBuf; 0]);

    let mut vm = launched("killed");
    vm.kill();
    gone();

    // A QEMU that ends without a word to it.
    let failing = qemu(dir.path(), &flags, &[("BIN_PATH", "false")]).output().unwrap();
    assert_eq!(failing.status.code(), Some(1));
    gone();
}

/// A launcher that is killed can do nothing for it any more.
#[test]
fn a_tpm_that_qemu_has_not_spoken_to_ends_with_a_launcher_that_is_killed() {
    let dir = image("silent");
    let state = dir.path().join("tpm");
    let silent = dir.path().join("silent");
    fs::write(&silent, "#!/bin/sh\nexec sleep 600\n").unwrap();
    fs::set_permissions(&silent, fs::Permissions::from_mode(0o755)).unwrap();
    let flags = ["--tee", "none", "--boot", "kernel", "--tpm", "tpm"];
    let bin_path = [("BIN_PATH", silent.to_str().unwrap())];
    let mut launcher = qemu(dir.path(), &flags, &bin_path).stderr(Stdio::null()).spawn().unwrap();
    until("the TPM runs", || (emulators(&state).len() == 1).then_some(()));
    launcher.kill().unwrap();
    launcher.wait().unwrap();
    until("the TPM is gone", || emulators(&state).is_empty().then_some(()));
}
