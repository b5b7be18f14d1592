//! What a boot of an image will have measured: that the files are there, that each value is what
//! other tools say, and that it changes with what it is of and with nothing else.

use std::fs;
use std::path::Path;

use cvm_init::format::hex;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::efi::from_efi;
use crate::script::{run, scratch, script, tool};
use crate::{image, key, root, stock_kernel};

/// The registers that are told.
const PCRS: [&str; 8] = ["11", "12", "13", "15", "4", "5", "8", "9"];

pub(crate) fn document(out: &Path) -> Value {
    let text = fs::read_to_string(out.join("measurements.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn sha256(parts: &[&[u8]]) -> String {
    let hasher = parts.iter().fold(Sha256::new(), Sha256::chain_update);
    hex::encode(&hasher.finalize())
}

/// The digests of the events of one register, in the SHA-256 bank.
fn digests(chain: &Value, pcr: u64) -> Vec<String> {
    let of = chain["events"].as_array().unwrap().iter().filter(|event| event["pcr"] == pcr);
    of.filter_map(|event| Some(event["digests"]["sha256"].as_str()?.to_owned())).collect()
}

/// What a register holds after events of these digests, as a TPM extends it.
fn replay(digests: &[String]) -> String {
    let extend = |value: String, digest: &String| {
        sha256(&[&hex::decode(&value).unwrap(), &hex::decode(digest).unwrap()])
    };
    digests.iter().fold("00".repeat(32), extend)
}

/// What another tool takes for the Authenticode hash of a file.
fn authenticode(file: &Path) -> String {
    let said = run(tool("hash-to-efi-sig-list").arg(file).arg(file.with_extension("esl")));
    said.lines().find_map(|line| line.strip_prefix("HASH IS ")).unwrap().to_owned()
}

/// ASCII as firmware has it.
fn utf16(text: &str) -> Vec<u8> {
    text.bytes().flat_map(|byte| [byte, 0]).collect()
}

/// PCR 11 by systemd's own tool, before any phase of the boot.
fn pcr_11(dir: &Path, cmdline: &str, bank: &str) -> String {
    fs::write(dir.join("words"), cmdline).unwrap();
    let argument = |name: &str, file: &str| format!("--{name}={}", dir.join(file).display());
    let mut measure = tool("/usr/lib/systemd/systemd-measure");
    let version = run(tool("/usr/lib/systemd/systemd-measure").arg("--version"));
    if !version.starts_with("systemd 252 ") {
        // Newer stubs measure what they have of that themselves.
        let stub = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";
        let only = ["-O", "binary", "--only-section=.sbat", stub];
        run(tool("objcopy").args(only).arg(dir.join("sbat")));
        measure.arg(argument("sbat", "sbat"));
    }
    let said = run(measure
        .arg("calculate")
        .arg(argument("linux", "kernel"))
        .arg(argument("initrd", "initramfs"))
        .arg(argument("cmdline", "words"))
        .args([&format!("--bank={bank}"), "--phase=", "--json=short"]));
    let values: Value = serde_json::from_str(&said).unwrap();
    values[bank][0]["hash"].as_str().unwrap().to_owned()
}

#[test]
fn every_register_is_told_and_explained_by_its_events() {
    let dir = scratch("registers");
    let root = root(&dir);
    let out = dir.join("out");
    for (boot, release, zeros) in [
        ("grub", "GRUB 2.", &["11", "12", "13"][..]),
        ("uki", "systemd-stub 25", &["12", "13", "8"]),
    ] {
        run(image(&dir, &root).args(["--boot", boot]));
        let document = document(&out);
        assert_eq!(document["version"], 1);
        assert_eq!(document["boot"], boot);
        let said = document["tpm"]["disk"]["holds_for"][0].as_str().unwrap();
        assert!(said.starts_with(release), "{said}");
        for (chain, zeros) in [("disk", zeros), ("kernel", &["11", "12", "13", "8"])] {
            let chain = &document["tpm"][chain];
            for (bank, bytes) in [("sha256", 32), ("sha384", 48)] {
                let values = chain[bank].as_object().unwrap();
                let names: Vec<_> = values.keys().map(String::as_str).collect();
                let mut expected = names.clone();
                expected.sort_unstable();
                assert_eq!(expected, PCRS);
                let zero = json!("00".repeat(bytes));
                let mut found: Vec<_> =
                    names.iter().filter(|name| values[**name] == zero).collect();
                found.sort_unstable();
                assert!(found.into_iter().eq(zeros), "{boot} {bank}: {values:?}");
            }
            for pcr in [4, 5, 8, 9, 11, 12, 13, 15] {
                let events = digests(chain, pcr);
                assert_eq!(chain["sha256"][pcr.to_string()], replay(&events), "{boot} PCR {pcr}");
                // Where there is none, that is said.
                let all = chain["events"].as_array().unwrap();
                assert!(all.iter().any(|event| event["pcr"] == pcr), "{boot} PCR {pcr}");
            }
        }
        let values = fs::read_to_string(out.join("pcr_values.json")).unwrap();
        let values: Value = serde_json::from_str(&values).unwrap();
        let disk = &document["tpm"]["disk"];
        let expected = json!({"sha256": disk["sha256"], "sha384": disk["sha384"]});
        assert_eq!(values, json!({ "pcr_values": expected }));
        // What is not told is named.
        let named = document["not_predicted"].as_array().unwrap();
        for value in ["PCR 0", "PCR 1", "PCR 7"] {
            assert!(named.iter().any(|unknown| unknown["value"] == value), "{value}");
        }
    }
}

#[test]
fn the_events_of_grub_are_of_what_is_on_the_disk() {
    let dir = scratch("events of grub");
    let root = root(&dir);
    run(&mut image(&dir, &root));
    let disk = dir.join("out/disk.img");
    let file = |name: &str| from_efi(&disk, name, &dir.join("from efi"));
    let (config, kernel) = (file("EFI/BOOT/grub.cfg"), file("bzImage"));
    let initramfs = file("rootfs.cpio.gz");
    let document = document(&dir.join("out"));
    let chain = &document["tpm"]["disk"];
    let words = fs::read_to_string(dir.join("out/cmdline")).unwrap();
    let words = words.trim();
    // GRUB 2.12 asks whether there is a grub.cfg before it reads it, and has the firmware start the
    // kernel, whose EFI stub measures what it gets.
    let by_firmware = has_firmware_start_the_kernel(&document);
    let options = utf16(&format!("BOOT_IMAGE=/bzImage {words}"));
    let files = if by_firmware {
        vec![&config, &config, &kernel, &initramfs, &options, &initramfs]
    } else {
        vec![&config, &kernel, &initramfs]
    };
    assert_eq!(
        digests(chain, 9),
        files.into_iter().map(|data| sha256(&[data])).collect::<Vec<_>>()
    );
    let commands = [
        format!("linux /bzImage {words}"),
        format!("/bzImage {words}"),
        "initrd /rootfs.cpio.gz".to_owned(),
        "boot".to_owned(),
    ];
    assert_eq!(digests(chain, 8), commands.map(|command| sha256(&[command.as_bytes()])));
    file("EFI/BOOT/BOOTX64.EFI");
    let mut programs = vec![authenticode(&dir.join("from efi"))];
    fs::write(dir.join("bzImage"), &kernel).unwrap();
    programs.extend(by_firmware.then(|| authenticode(&dir.join("bzImage"))));
    assert_eq!(digests(chain, 4)[2..], programs);
    // The header, and the four entries in use, which stand behind it.
    let mut head = vec![0; 4096];
    std::io::Read::read_exact(&mut fs::File::open(&disk).unwrap(), &mut head).unwrap();
    let table = sha256(&[&head[512..604], &4_u64.to_le_bytes(), &head[1024..1024 + 4 * 128]]);
    assert_eq!(digests(chain, 5)[1], table);
    assert_eq!(document["inputs"]["partition_table"]["sha256"], table);
}

#[test]
fn the_events_of_a_unified_image_are_those_that_systemd_tells() {
    let dir = scratch("events of a unified image");
    let root = root(&dir);
    stock_kernel(&dir);
    run(image(&dir, &root).args(["--boot", "uki", "--append", "a=\"b  c\""]));
    let cmdline = fs::read_to_string(dir.join("out/cmdline")).unwrap();
    let cmdline = cmdline.trim();
    let document = document(&dir.join("out"));
    let chain = &document["tpm"]["disk"];
    for bank in ["sha256", "sha384"] {
        assert_eq!(chain[bank]["11"], pcr_11(&dir, cmdline, bank), "{bank}");
    }
    let disk = dir.join("out/disk.img");
    let uki = dir.join("uki.efi");
    from_efi(&disk, "EFI/BOOT/BOOTX64.EFI", &uki);
    let kernel = authenticode(&dir.join("kernel"));
    assert_eq!(digests(chain, 4)[2..], [authenticode(&uki), kernel.clone()]);
    let utf16 = utf16(&format!("{cmdline}\0"));
    let initramfs = fs::read(dir.join("initramfs")).unwrap();
    assert_eq!(digests(chain, 9), [sha256(&[&utf16]), sha256(&[&initramfs])]);
    // Booted directly, the kernel is told where its initramfs is.
    let direct = &document["tpm"]["kernel"];
    let named = [&utf16[..utf16.len() - 2], b" \0i\0n\0i\0t\0r\0d\0=\0i\0n\0i\0t\0r\0d\0\0\0"];
    assert_eq!(digests(direct, 9), [sha256(&named), sha256(&[&initramfs])]);
    assert_eq!(digests(direct, 4)[0], kernel);
}

/// PID 1 reads both, and what it records is predicted of both.
#[test]
fn what_pid_1_records_is_told_by_the_words_of_line_and_initramfs() {
    let dir = scratch("words of both");
    let root = root(&dir);
    let lines = |document: &Value| -> Vec<String> {
        let events = document["tpm"]["disk"]["events"].as_array().unwrap().iter();
        let of = events.filter(|event| event["pcr"] == 15 && event["digests"].is_object());
        of.map(|event| event["what"].as_str().unwrap().to_owned()).collect()
    };
    run(image(&dir, &root).args(["--append", "init=/bin/a"]));
    let on_the_line = document(&dir.join("out"));
    let said = lines(&on_the_line);
    assert_eq!(said.len(), 3, "{said:?}");
    assert_eq!(said[2], "cvm-init handoff init=/bin/a, by PID 1");
    for (line, digest) in said.iter().zip(digests(&on_the_line["tpm"]["disk"], 15)) {
        let line = line.strip_suffix(", by PID 1").unwrap();
        assert_eq!(digest, sha256(&[line.as_bytes()]));
    }
    run(script("initramfs")
        .args(["--kernel-modules", "none", "--append", "init=/bin/a", "--init"])
        .arg(root.join("bin/a"))
        .arg("-o")
        .arg(dir.join("initramfs")));
    run(&mut image(&dir, &root));
    let in_the_initramfs = document(&dir.join("out"));
    assert_eq!(lines(&in_the_initramfs), said);
    assert_eq!(in_the_initramfs["inputs"]["initramfs_words"], "init=/bin/a");
    run(image(&dir, &root).args(["--append", "cvm.measure=no"]));
    let nowhere = document(&dir.join("out"));
    assert_eq!(lines(&nowhere), [""; 0]);
    assert_eq!(nowhere["tpm"]["disk"]["sha256"]["15"], "00".repeat(32));
}

/// Firmware hashes a program as it is, and tools one that is padded to 8 bytes.
#[test]
fn a_unified_image_of_odd_parts_has_one_hash_for_firmware_and_tools() {
    let dir = scratch("odd parts");
    let root = root(&dir);
    let uki = dir.join("uki.efi");
    for more in 0..3 {
        let kernel = [crate::kernel(), vec![7; more]].concat();
        fs::write(dir.join("kernel"), kernel).unwrap();
        run(image(&dir, &root).args(["--boot", "uki", "--cocos-size", "64M"]));
        let program = from_efi(&dir.join("out/disk.img"), "EFI/BOOT/BOOTX64.EFI", &uki);
        assert_eq!(program.len() % 8, 0, "{more}");
        let known = &document(&dir.join("out"))["inputs"]["boot_loader"];
        assert_eq!(known["authenticode"]["sha256"], authenticode(&uki), "{more}");
        assert_eq!(known["sha256"], sha256(&[&program]));
    }
}

#[test]
fn a_signature_is_not_measured_with_what_it_signs() {
    let dir = scratch("signature");
    let root = root(&dir);
    stock_kernel(&dir);
    let (sb_key, sb_cert) = key(&dir, "owner");
    for (boot, signed) in [("grub", &["boot_loader", "kernel"][..]), ("uki", &["boot_loader"])] {
        let inputs = |key: &Path, certificate: &Path| {
            run(image(&dir, &root)
                .args(["--boot", boot])
                .env("SB_KEY", key)
                .env("SB_CERT", certificate));
            document(&dir.join("out"))["inputs"].take()
        };
        let (with, without) = (inputs(&sb_key, &sb_cert), inputs(Path::new(""), Path::new("")));
        for program in signed {
            assert_ne!(with[program]["sha256"], without[program]["sha256"], "{boot} {program}");
            let measured = |inputs: &Value| inputs[program]["authenticode"].clone();
            assert_eq!(measured(&with), measured(&without), "{boot} {program}");
        }
    }
}

/// Whether the boot loader is a GRUB that does so.
fn has_firmware_start_the_kernel(document: &Value) -> bool {
    let release = document["inputs"]["boot_loader"]["release"].as_str().unwrap();
    release.starts_with("GRUB 2.12")
}

/// A change of one input, and where it then shows: with GRUB, in a unified image, in a direct boot.
struct Change {
    what: &'static str,
    file: fn(&Path),
    arguments: &'static [&'static str],
    shows: [&'static [&'static str]; 3],
}

const CHANGES: [Change; 6] = [
    Change {
        what: "command line",
        file: |_| {},
        arguments: &["--append", "x"],
        shows: [&["8", "9"], &["11", "4", "9"], &["9"]],
    },
    Change {
        what: "what PID 1 records",
        file: |_| {},
        arguments: &["--append", "cvm.tags=disk"],
        shows: [&["15", "8", "9"], &["11", "15", "4", "9"], &["15", "9"]],
    },
    Change {
        what: "initramfs",
        file: |dir| fs::write(dir.join("initramfs"), vec![3; 1024 * 1024]).unwrap(),
        arguments: &[],
        shows: [&["9"], &["11", "4", "9"], &["9"]],
    },
    Change {
        what: "kernel",
        file: |dir| {
            let mut kernel = crate::kernel();
            *kernel.last_mut().unwrap() ^= 1;
            fs::write(dir.join("kernel"), kernel).unwrap();
        },
        arguments: &[],
        shows: [&["9"], &["11", "4"], &["4"]],
    },
    Change {
        what: "root",
        file: |dir| fs::write(dir.join("root/bin/a"), "another init").unwrap(),
        arguments: &[],
        shows: [&["15", "5", "8", "9"], &["11", "15", "4", "5", "9"], &["15", "9"]],
    },
    Change {
        what: "partition",
        file: |_| {},
        arguments: &["--cocos-size", "65M"],
        shows: [&["5"], &["5"], &[]],
    },
];

/// The registers of a bank of a chain that two images do not have the same.
fn differences(one: &Value, other: &Value, chain: &str, bank: &str) -> Vec<String> {
    let values = one[chain][bank].as_object().unwrap();
    let differ = values.iter().filter(|(pcr, value)| other[chain][bank][pcr.as_str()] != **value);
    differ.map(|(pcr, _)| pcr.clone()).collect()
}

#[test]
fn a_changed_input_shows_where_it_should_and_nowhere_else() {
    let dir = scratch("changed input");
    let root = root(&dir);
    // As it was before any change; the times of its files are part of a root.
    let reset = || {
        fs::remove_dir_all(&root).unwrap();
        crate::root(&dir);
        let epoch = ["-exec", "touch", "-h", "-d", "@100", "{}", "+"];
        run(tool("find").arg(&root).args(epoch));
    };
    let measured = |boot: &str, arguments: &[&str]| {
        let size = ["--cocos-size", "64M"];
        run(image(&dir, &root).args(["--boot", boot]).args(size).args(arguments));
        document(&dir.join("out"))["tpm"].take()
    };
    for (which, boot) in ["grub", "uki"].into_iter().enumerate() {
        reset();
        let before = measured(boot, &[]);
        for Change { what, file, arguments, shows } in &CHANGES {
            file(&dir);
            let after = measured(boot, arguments);
            reset();
            let mut of_disk = shows[which].to_vec();
            // Then whatever a direct boot measures is measured of GRUB's, too.
            if has_firmware_start_the_kernel(&document(&dir.join("out"))) {
                of_disk.extend(shows[2]);
                of_disk.sort_unstable();
                of_disk.dedup();
            }
            for (chain, expected) in [("disk", &of_disk[..]), ("kernel", shows[2])] {
                for bank in ["sha256", "sha384"] {
                    let found = differences(&before, &after, chain, bank);
                    assert_eq!(found, expected, "{what}: {boot} {chain} {bank}");
                }
            }
        }
    }
}
