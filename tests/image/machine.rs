//! `scripts/measure`: what only the machine decides, beside what the image says.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::measure::document;
use crate::script::{first_in_path, refuses, run, scratch, script, tool_in};
use crate::{image, root};

fn measure(dir: &Path) -> Command {
    let mut command = script("measure");
    // What this machine has for scripts/qemu must not count.
    for name in ["OVMF_FILE", "IGVM_FILE", "SMP_COUNT", "CPU", "MEMORY_SIZE"] {
        command.env_remove(format!("MANAGER_QEMU_{name}"));
    }
    command.env("MANAGER_QEMU_IGVM_FILE", dir.join("no.igvm")).arg(dir.join("out"));
    command
}

#[test]
fn the_machines_measurements_come_beside_those_of_the_image() {
    let dir = scratch("machine");
    let root = root(&dir);
    run(&mut image(&dir, &root));
    // One for SNP may be installed, too.
    let of_debian = ["--json", "--ovmf", "/usr/share/ovmf/OVMF.fd"];
    let whole: Value = serde_json::from_str(&run(measure(&dir).args(of_debian))).unwrap();
    let tdx = &whole["tdx"][0];
    assert_eq!(tdx["ovmf"]["file"], "/usr/share/ovmf/OVMF.fd");
    let digits = |value: &Value| value.as_str().unwrap().len();
    for value in [&tdx["mrtd"], &tdx["rtmr1"]["qemu_10_2"], &tdx["rtmr1"]["older"]["value"]] {
        assert_eq!(digits(value), 96, "{value}");
    }
    assert_eq!(tdx["rtmr1"]["older"]["memory"], 2048_u64 << 20);
    assert_eq!(whole["pcr_4_of_older_qemu"]["memory"], 2048_u64 << 20);
    let more = run(measure(&dir).args(["--json", "--memory", "1G"]));
    let more: Value = serde_json::from_str(&more).unwrap();
    assert_eq!(more["tdx"][0]["rtmr1"]["qemu_10_2"], tdx["rtmr1"]["qemu_10_2"]);
    assert_ne!(more["tdx"][0]["rtmr1"]["older"], tdx["rtmr1"]["older"]);
    // Debian's firmware has no place for hashes: of SNP nothing is told, and why.
    assert_eq!(whole["snp"], json!([]));
    let unknown = &whole["not_predicted"];
    let why = |value: &str| {
        let of = unknown.as_array().unwrap().iter().find(|unknown| unknown["value"] == value);
        of.unwrap()["why"].as_str().unwrap().to_owned()
    };
    let no_place = "it has no place for hashes of kernel, initramfs and command line";
    assert!(why("launch digest of a direct boot on SNP").ends_with(no_place));
    for value in ["PCR 0", "PCR 7", "RTMR0", "launch digest of an IGVM file"] {
        assert!(!why(value).is_empty());
    }
    // The rest is the image's file.
    let image = document(&dir.join("out"));
    for part in ["version", "boot", "inputs", "tpm"] {
        assert_eq!(whole[part], image[part]);
    }

    let table = run(&mut measure(&dir));
    for value in [&image["tpm"]["disk"]["sha256"]["4"], &tdx["mrtd"], &tdx["rtmr2"]] {
        assert!(table.contains(value.as_str().unwrap()), "{table}");
    }
    assert!(table.contains("\nnot predicted\n  PCR 0: "), "{table}");
}

/// Debian's firmware, with a place for hashes: the last page that an SNP launch makes ready.
fn with_place_for_hashes() -> Vec<u8> {
    const HASH_TABLE: &[u8] = b"\x1f\x37\x55\x72\x3b\x3a\x04\x4b\x92\x7b\x1d\xa6\xef\xa8\xd4\x54";
    let mut firmware = fs::read("/usr/share/ovmf/OVMF.fd").unwrap();
    let last = |what: &[u8]| firmware.windows(what.len()).rposition(|bytes| bytes == what).unwrap();
    let (entry, metadata) = (last(HASH_TABLE) - 10, last(b"ASEV"));
    let sections = usize::from(firmware[metadata + 12]);
    let page = metadata + 16 + (sections - 1) * 12;
    let address = firmware[page..page + 4].to_vec();
    firmware[entry..entry + 4].copy_from_slice(&address);
    firmware[page + 4..page + 12].copy_from_slice(&[0, 0x10, 0, 0, 0x10, 0, 0, 0]);
    firmware
}

#[test]
fn a_launch_digest_is_of_the_machine_that_is_told() {
    let dir = scratch("launch digest");
    let root = root(&dir);
    run(&mut image(&dir, &root));
    fs::write(dir.join("a.fd"), with_place_for_hashes()).unwrap();
    let told = |arguments: &[&str]| -> Vec<Value> {
        let whole =
            run(measure(&dir).arg("--json").arg("--ovmf").arg(dir.join("a.fd")).args(arguments));
        serde_json::from_str::<Value>(&whole).unwrap()["snp"].as_array().unwrap().clone()
    };
    let of = |snp: &Value| json!([snp["vcpus"], snp["cpu"], snp["guest_features"]]);
    let default = told(&[]);
    let shapes: Vec<_> = default.iter().map(of).collect();
    assert_eq!(shapes, [json!([4, "EPYC", "0x1"]), json!([4, "EPYC", "0x21"])]);
    assert_eq!(default[0]["ovmf"]["file"], dir.join("a.fd").to_str().unwrap());
    let mut digests: Vec<_> = default.iter().map(|snp| snp["launch_digest"].clone()).collect();
    for (arguments, shape) in [
        (&["--vcpus", "1", "--guest-features", "0x1"][..], json!([1, "EPYC", "0x1"])),
        (&["--cpu", "EPYC-Milan", "--guest-features", "0x1"], json!([4, "EPYC-Milan", "0x1"])),
        (&["--guest-features", "0x5"], json!([4, "EPYC", "0x5"])),
    ] {
        let snp = told(arguments);
        assert_eq!(snp.iter().map(of).collect::<Vec<_>>(), [shape]);
        digests.push(snp[0]["launch_digest"].clone());
    }
    for (at, digest) in digests.iter().enumerate() {
        assert_eq!(digest.as_str().unwrap().len(), 96);
        assert!(!digests[..at].contains(digest), "{digests:?}");
    }
    // A firmware that is for TDX alone may stand beside it.
    let both = run(measure(&dir)
        .args(["--json", "--ovmf", "/usr/share/ovmf/OVMF.fd", "--ovmf"])
        .arg(dir.join("a.fd")));
    let both: Value = serde_json::from_str(&both).unwrap();
    assert_eq!(both["snp"], json!(default));
    assert_eq!(both["tdx"].as_array().unwrap().len(), 2);
    // Memory has no part in it, and the command line has.
    assert_eq!(told(&["--memory", "8G"])[0]["launch_digest"], digests[0]);
    run(image(&dir, &root).args(["--append", "x"]));
    assert_ne!(told(&[])[0]["launch_digest"], digests[0]);
}

#[test]
fn an_igvm_file_is_measured_by_igvmmeasure_where_it_is() {
    let dir = scratch("igvm");
    let root = root(&dir);
    run(&mut image(&dir, &root));
    fs::write(dir.join("a.igvm"), "no such file").unwrap();
    let command = || {
        let mut command = measure(&dir);
        command.args(["--json", "--igvm"]).arg(dir.join("a.igvm"));
        command
    };
    // Without it, crate igvm reads the file, which is none.
    refuses(&mut command(), 1, "a.igvm: ");
    let said = format!(r#"echo "$@" >"{}/args"; echo {}"#, dir.display(), "0F".repeat(48));
    tool_in(&dir, "igvmmeasure", &said);
    for variable in [
        ("PATH", first_in_path(&dir)),
        ("MANAGER_ATTESTATION_POLICY_BINARY_PATH", dir.display().to_string()),
    ] {
        let whole = run(command().env(variable.0, variable.1));
        let whole: Value = serde_json::from_str(&whole).unwrap();
        assert_eq!(whole["igvm"][0]["launch_digest"], "0f".repeat(48));
        assert_eq!(whole["igvm"][0]["by"], "igvmmeasure --check-kvm");
        let arguments = fs::read_to_string(dir.join("args")).unwrap();
        assert_eq!(arguments, format!("--check-kvm {}/a.igvm measure --bare\n", dir.display()));
        fs::remove_file(dir.join("args")).unwrap();
    }
    tool_in(&dir, "igvmmeasure", "echo 'CR0 has 0x10' >&2; exit 1");
    refuses(command().env("PATH", first_in_path(&dir)), 1, "a.igvm: CR0 has 0x10");
    tool_in(&dir, "igvmmeasure", "echo Launch");
    refuses(
        command().env("PATH", first_in_path(&dir)),
        1,
        "a.igvm: no digest was printed but \"Launch\"",
    );
}

#[test]
fn what_is_not_of_the_image_or_of_no_machine_is_refused() {
    let dir = scratch("measure refused");
    let root = root(&dir);
    run(&mut image(&dir, &root));
    let out = dir.join("out");
    let missing = dir.join("missing");
    let cases: &[(&[&str], i32, &str)] = &[
        (&["--vcpus", "0"], 2, "--vcpus 0 is not a number of processors"),
        (&["--memory", "much"], 2, "--memory much is not a size such as 2048M"),
        (&["--guest-features", "33"], 2, "--guest-features 33 is not a number such as 0x21"),
        (&["elsewhere"], 2, "more than one folder: "),
        (&["--cpu", "EPIC"], 1, "CPU EPIC is none of EPYC, "),
        (&["--ovmf", missing.to_str().unwrap()], 1, "missing: no such file"),
        (&["--ovmf", "/etc/passwd"], 1, "cannot read /etc/passwd: it is no OVMF"),
        (&["--igvm", missing.to_str().unwrap()], 1, "missing: no such file"),
    ];
    for (arguments, status, why) in cases {
        refuses(measure(&dir).args(*arguments), *status, why);
    }
    for name in ["bzImage", "rootfs.cpio.gz", "cmdline"] {
        let before = fs::read(out.join(name)).unwrap();
        fs::write(out.join(name), [&before[..], b"x"].concat()).unwrap();
        let why = format!("cannot use {name}: it is not the one that measurements.json is of");
        refuses(&mut measure(&dir), 1, &why);
        fs::write(out.join(name), before).unwrap();
    }
    let text = fs::read_to_string(out.join("measurements.json")).unwrap();
    let newer = text.replacen("\"version\": 1", "\"version\": 2", 1);
    fs::write(out.join("measurements.json"), newer).unwrap();
    refuses(&mut measure(&dir), 1, "it is of version 2, and 1 is known");
    fs::remove_file(out.join("measurements.json")).unwrap();
    refuses(
        &mut measure(&dir),
        1,
        "measurements.json: no such file; make the image with scripts/image",
    );
}

/// The launch that is measured is the one that scripts/qemu makes.
#[test]
fn the_variables_of_the_launcher_say_what_is_measured() {
    let dir = scratch("variables");
    let root = root(&dir);
    run(&mut image(&dir, &root));
    fs::write(dir.join("a.fd"), with_place_for_hashes()).unwrap();
    let mut command = measure(&dir);
    let variables = [
        ("OVMF_FILE", dir.join("a.fd").to_str().unwrap().to_owned()),
        ("SMP_COUNT", "3".to_owned()),
        ("CPU", "EPYC-Milan".to_owned()),
        ("MEMORY_SIZE", "1G".to_owned()),
    ];
    for (name, value) in variables {
        command.env(format!("MANAGER_QEMU_{name}"), value);
    }
    let whole: Value = serde_json::from_str(&run(command.arg("--json"))).unwrap();
    let snp = &whole["snp"][0];
    assert_eq!(json!([snp["vcpus"], snp["cpu"]]), json!([3, "EPYC-Milan"]));
    assert_eq!(whole["pcr_4_of_older_qemu"]["memory"], 1_u64 << 30);
    refuses(
        measure(&dir).env("MANAGER_QEMU_SMP_COUNT", "many"),
        2,
        "MANAGER_QEMU_SMP_COUNT=many is not a count: processors",
    );
}
