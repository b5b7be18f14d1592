//! What an image is measured as, by its parts.

use super::*;
use crate::measure::pe;
use crate::measure::record::tests::words;

const CONFIG: &str = "linux /bzImage 'a'\ninitrd /rootfs.cpio.gz\nboot\nhalt\n";

fn disk() -> Vec<u8> {
    let mut disk = vec![0; 4096];
    disk[512..520].copy_from_slice(b"EFI PART");
    disk[512 + 72] = 2;
    disk[512 + 80] = 4;
    disk[512 + 84] = 128;
    disk[1024..1040].fill(1);
    disk
}

fn grub(version: &str) -> Vec<u8> {
    let greeting = format!("GNU GRUB  version %s\0{version}\0");
    pe::tests::sample(&[(".text", greeting.as_bytes())])
}

fn uki(version: &str, kernel: &[u8]) -> Vec<u8> {
    let magic = format!("#### LoaderInfo: systemd-stub {version} ####");
    pe::tests::sample(&[
        (".sdmagic", magic.as_bytes()),
        (".cmdline", b"a"),
        (".initrd", b"i"),
        (".linux", kernel),
    ])
}

fn measure(boot: Boot, boot_loader: &[u8], kernel: &[u8]) -> Result<Document> {
    measure_by(&words(""), boot, boot_loader, kernel)
}

fn measure_by(words: &str, boot: Boot, boot_loader: &[u8], kernel: &[u8]) -> Result<Document> {
    Files {
        boot,
        kernel,
        initramfs: b"i",
        cmdline: &format!("{words}\n"),
        initramfs_words: "",
        disk: &disk(),
        iso: None,
        boot_loader,
        grub_cfg: (boot == Boot::Grub).then_some(CONFIG),
    }
    .measure()
}

/// All but PCR 5 is as from the disk, and that one is of the medium.
#[test]
fn a_medium_beside_the_disk_is_predicted_as_cd_and_as_disk() {
    let linux = kernel::tests::sample("6.1.0-x");
    let (disk, mut iso) = (disk(), disk());
    iso[1024..1040].fill(2);
    let cmdline = words("");
    let [known, unknown] = ["252.1", "260"].map(|version| uki(version, &linux));
    let files = |boot_loader| Files {
        boot: Boot::Uki,
        kernel: &linux,
        initramfs: b"i",
        cmdline: &cmdline,
        initramfs_words: "",
        disk: &disk,
        iso: Some(&iso),
        boot_loader,
        grub_cfg: None,
    };
    let document = files(&known).measure().unwrap();
    let [disk, cd, iso, _] = document.chains().map(|(_, chain)| chain.unwrap().clone());
    for chain in [&cd, &iso] {
        let differ = disk.sha384.iter().filter(|(pcr, value)| chain.sha384[*pcr] != **value);
        assert!(differ.map(|(pcr, _)| *pcr).eq([5]));
        assert_eq!(chain.holds_for, disk.holds_for);
    }
    assert_ne!(cd.sha256[&5], iso.sha256[&5]);
    // Without a partition table, as of a direct boot.
    assert!(cd.sha256[&5].to_string().starts_with("a5ceb755"));
    let text = crate::measure::document::to_text(&document);
    assert_eq!(Document::read(&text).unwrap(), document);

    let document = files(&unknown).measure().unwrap();
    let missing: Vec<_> = document.missing().map(|unknown| unknown.value.as_str()).collect();
    assert_eq!(missing, [DISK_CHAIN, CD_CHAIN, ISO_CHAIN]);
}

#[test]
fn a_known_boot_loader_and_kernel_are_predicted_whole() {
    let linux = kernel::tests::sample("6.1.0-x");
    for (boot, boot_loader, release) in [
        (Boot::Grub, grub("2.06-1"), "GRUB 2.06-1"),
        (Boot::Grub, grub("2.12-9+deb13u4"), "GRUB 2.12-9+deb13u4"),
        (Boot::Uki, uki("257.8-1", &linux), "systemd-stub 257.8-1"),
        (Boot::Uki, uki("252.1", &linux), "systemd-stub 252.1"),
    ] {
        let document = measure(boot, &boot_loader, &linux).unwrap();
        assert_eq!(document.missing().count(), 0);
        let inputs = &document.inputs;
        assert_eq!(inputs.boot_loader.release.as_deref(), Some(release));
        assert_eq!(inputs.kernel.release.as_deref(), Some("6.1.0-x"));
        assert_eq!(inputs.cmdline.text, words(""));
        assert_eq!((inputs.roothash, inputs.layers.len()), (Some(Hash([0x0f; 32])), 0));
        assert_eq!(inputs.grub_cfg.is_some(), boot == Boot::Grub);
        let disk = document.tpm.disk.as_ref().unwrap();
        assert_eq!(disk.holds_for[0], release);
        // Of the two programs in a unified image, firmware that verifies measures the one it verifies.
        let secure = disk.pcr_4_under_secure_boot.map(|held| held.sha256);
        let mut events = disk.events.clone();
        let last = events.iter().rposition(|event| event.pcr == 4).unwrap();
        events.remove(last);
        let without_last = Chain::of(Vec::new(), events).sha256[&4];
        assert_eq!(secure, (boot == Boot::Uki).then_some(without_last));
        assert_eq!(disk.events.iter().filter(|event| event.pcr == 15).count(), 3);
        let values = document.pcr_values().unwrap();
        assert_eq!(values["pcr_values"]["sha256"]["4"], disk.sha256[&4].to_string());
        assert_eq!(values["pcr_values"]["sha384"].as_object().unwrap().len(), 8);
        let text = crate::measure::document::to_text(&document);
        assert_eq!(Document::read(&text).unwrap(), document);
    }
}

/// In place of a root hash each layer is told, and recorded.
#[test]
fn an_image_of_layers_is_predicted_by_what_proves_them() {
    let linux = kernel::tests::sample("6.1.0-x");
    let [top, base] = ["0a", "0b"].map(|byte| byte.repeat(32));
    let words = format!("cvm.layers={top}@2,{base}@70");
    let document = measure_by(&words, Boot::Grub, &grub("2.06"), &linux).unwrap();
    let layer = |byte, data_blocks| Layer { roothash: Hash([byte; 32]), data_blocks };
    assert_eq!(document.inputs.roothash, None);
    assert_eq!(document.inputs.layers, [layer(0x0a, 2), layer(0x0b, 70)]);
    let tpm = &document.tpm;
    let lines = |chain: &Option<Chain>| -> Vec<String> {
        let events = chain.as_ref().unwrap().events.iter().filter(|event| event.pcr == 15);
        events.map(|event| event.what.clone()).collect()
    };
    let [disk, direct] = [&tpm.disk, &tpm.kernel].map(lines);
    assert_eq!(disk, direct);
    assert_eq!(disk.len(), 4);
    for (number, start) in [(0, &top), (1, &base)] {
        let start = format!("cvm-init layer number={number} verity=sha256:{start} ");
        assert!(disk[number].starts_with(&start), "{disk:?}");
    }
    let text = crate::measure::document::to_text(&document);
    assert!(!text.contains("roothash\": null"), "{text}");
    assert_eq!(Document::read(&text).unwrap(), document);
    // A root that nothing says anything of, or that is both.
    let neither = text.replace("\"layers\"", "\"other\"");
    let both = text.replace("\"layers\"", &format!("\"roothash\": \"{top}\",\n\"layers\""));
    let without = {
        let mut document = document.clone();
        document.inputs.layers.clear();
        crate::measure::document::to_text(&document)
    };
    for (text, why) in [
        (neither, "unknown field `other`"),
        (both, "it has not one of a root hash and layers"),
        (without, "it has not one of a root hash and layers"),
    ] {
        let refusal = Document::read(&text).unwrap_err().to_string();
        assert!(refusal.contains(why), "{refusal}");
    }
}

#[test]
fn an_image_whose_root_is_not_verified_is_refused() {
    let linux = kernel::tests::sample("6.1.0-x");
    for (words, why) in [
        (
            "cocoon.layers=a cocoon.cow=b cvm.unverified=yes",
            "cannot use cmdline: not each layer is verified",
        ),
        ("quiet", "cannot use cmdline: roothash= is missing"),
    ] {
        let refusal = measure_by(words, Boot::Grub, &grub("2.06"), &linux).unwrap_err();
        assert_eq!(refusal.to_string(), why);
    }
}

/// A list of values that lacks some would let through what these would have shown.
#[test]
fn what_is_not_known_is_left_out_whole_and_said() {
    let linux = kernel::tests::sample("6.1.0-x");
    let old = kernel::tests::sample("5.10.0");
    let mut no_program = linux.clone();
    no_program[..2].fill(0);
    let of_disk = "boot from the disk";
    for (boot, boot_loader, kernel, missing) in [
        (
            Boot::Grub,
            grub("2.14-1"),
            &linux,
            &[(of_disk, "GRUB 2.14-1 is not known, 2.06 and 2.12 are")][..],
        ),
        (
            Boot::Uki,
            uki("260.1", &linux),
            &linux,
            &[(of_disk, "systemd-stub 260.1 is not known, 252 and 257 are")],
        ),
        (
            Boot::Uki,
            uki("252.1", &old),
            &old,
            &[
                (
                    of_disk,
                    "cannot read bzImage: Linux 5.10.0 measures no command line, 6.1 and newer do",
                ),
                (
                    "direct boot",
                    "cannot read bzImage: Linux 5.10.0 measures no command line, 6.1 and newer do",
                ),
            ],
        ),
        (
            Boot::Grub,
            grub("2.06"),
            &no_program,
            &[(
                "direct boot",
                "cannot read the kernel: it is no program for the firmware (a PE begins with MZ)",
            )],
        ),
    ] {
        let document = measure(boot, &boot_loader, kernel).unwrap();
        let told: Vec<_> =
            document.missing().map(|of| (of.value.as_str(), of.why.as_str())).collect();
        assert_eq!(told, missing);
        let of_disk = missing.iter().any(|(chain, _)| *chain == of_disk);
        assert_eq!(document.pcr_values().is_none(), of_disk);
    }
}

#[test]
fn a_record_that_depends_on_the_disk_leaves_out_both_chains() {
    let linux = kernel::tests::sample("6.1.0-x");
    let words = format!("roothash={}", "0f".repeat(32));
    let document = measure_by(&words, Boot::Grub, &grub("2.06"), &linux).unwrap();
    let start = "cannot tell what PID 1 records: the command line has neither cvm.verity_salt=";
    assert_eq!(document.missing().filter(|of| of.why.starts_with(start)).count(), 2);
}

#[test]
fn what_is_broken_is_an_error() {
    let linux = kernel::tests::sample("6.1.0-x");
    let why = |boot_loader: &[u8], kernel: &[u8]| {
        measure(Boot::Grub, boot_loader, kernel).unwrap_err().to_string()
    };
    let grub = grub("2.06");
    assert!(why(b"MZ", &linux).starts_with("cannot read EFI/BOOT/BOOTX64.EFI: "));
    assert!(
        why(&grub, &linux[..0x202]).starts_with("cannot read bzImage: it ends before its header")
    );
}
