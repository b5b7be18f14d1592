//! What `--dry-run` prints: the command lines of each kind of VM, pinned in `tests/golden/qemu`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{GIB, MIB, TREE, entries, image, qemu, virtual_size};

/// The folder of a VM's own files that is printed: one as a launch makes it, not there yet.
fn folder(printed: &str, dir: &Path) -> String {
    let start = format!("{}/.qemu.", dir.join("tmp").display());
    let at = printed.find(&start).unwrap();
    printed[at..at + start.len() + 6].to_owned()
}

/// Compares what `--dry-run` prints with a file of `tests/golden/qemu`, in which `DIR` stands for
/// the folder of the test, and `XXXXXX` for what is another each time.
fn golden(name: &str, flags: &[&str], variables: &[(&str, &str)]) {
    let dir = image(&format!("golden {name}"));
    let output = qemu(dir.path(), &[&["--dry-run"], flags].concat(), variables).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let printed = String::from_utf8(output.stdout).unwrap();
    let printed = printed
        .replace(&folder(&printed, dir.path()), "DIR/tmp/.qemu.XXXXXX")
        .replace(dir.utf8(), "DIR")
        // Of a host whose firmware is for larger flash only.
        .replace("_4M.fd", ".fd");
    let file = Path::new(TREE).join("tests/golden/qemu").join(name);
    let expected = fs::read_to_string(&file).unwrap_or_default();
    assert!(printed == expected, "{}:\n{printed}", file.display());
    assert_eq!(entries(&dir.path().join("tmp")), [] as [PathBuf; 0]);
}

#[test]
fn plain_from_disk() {
    golden("plain", &["--tee", "none"], &[("ENABLE_KVM", "true")]);
}

#[test]
fn plain_with_more_disks() {
    let disks =
        ["--volume", "10G:SCRATCH", "--data", "models.img:MODELS", "--data", "/a:b,c.img:D-2"];
    let flags = [&["--tee", "none"], &disks[..]].concat();
    golden("plain-disks", &flags, &[("ENABLE_KVM", "true")]);
}

/// As many as the list has, each with the serial that an engine gives it.
#[test]
fn plain_with_layers() {
    let flags = ["--tee", "none", "--layers", "layers", "--append", "console=ttyS0"];
    golden("plain-layers", &flags, &[("ENABLE_KVM", "true")]);
}

#[test]
fn plain_from_disk_with_everything_changed() {
    golden(
        "plain-changed",
        &[
            "--tee",
            "none",
            "--boot",
            "disk",
            "--disk",
            "my disk,1",
            "--env",
            "e,nv",
            "--certs",
            "/certs",
            "--ovmf",
            "code.fd",
            "--forward",
            "1:22",
            "--forward",
            "65535:2",
            "--listen",
            "127.0.0.1",
            "--",
            "-no-reboot",
        ],
        &[
            ("ENABLE_KVM", "0"),
            ("ENABLE_DISK", "false"),
            ("BIN_PATH", "/opt/qemu"),
            ("USE_SUDO", "T"),
            ("MACHINE", "pc"),
            ("SMP_COUNT", "2"),
            ("SMP_MAXCPUS", "8"),
            ("MEMORY_SIZE", "4G"),
            ("MEMORY_SLOTS", "1"),
            ("MAX_MEMORY", "8G"),
            ("SRC_DISK_FILE", "not this"),
            ("DST_DISK_FILE", "/vms/7.qcow2"),
            ("DISK_ID", "disk7"),
            ("DISK_SCSI_ID", "scsi7"),
            ("OVMF_CODE_FILE", "nor this"),
            ("OVMF_VARS_FILE", "/vars.fd"),
            ("NETDEV_ID", "nic7"),
            ("HOST_FWD_AGENT", "7"),
            ("VIRTIO_NET_PCI_DISABLE_LEGACY", "off"),
            ("VIRTIO_NET_PCI_IOMMU_PLATFORM", "false"),
            ("VIRTIO_NET_PCI_ADDR", "0x7"),
            ("VIRTIO_NET_PCI_ROMFILE", "/rom"),
            ("NO_GRAPHIC", "false"),
            ("MONITOR", "none"),
            ("CERTS_MOUNT", "nor that"),
        ],
    );
}

#[test]
fn plain_from_kernel() {
    golden(
        "plain-kernel",
        &["--tee", "none", "--boot", "kernel", "--append", "a 'b' $c"],
        &[
            ("ENABLE_KVM", "true"),
            ("CPU", "EPYC-v4,+foo"),
            ("HOST_FWD_AGENT", "6100"),
            ("GUEST_FWD_AGENT", "7003"),
            ("ENV_MOUNT", "/env"),
        ],
    );
}

#[test]
fn plain_from_kernel_without_a_disk() {
    golden(
        "plain-ram",
        &["--tee", "none", "--append", "quiet console=null"],
        &[
            ("ENABLE_KVM", "true"),
            ("ENABLE_DISK", "false"),
            ("DISK_IMG_KERNEL_FILE", "/k"),
            ("DISK_IMG_ROOTFS_FILE", "/i"),
        ],
    );
}

#[test]
fn plain_from_disk_with_a_tpm() {
    golden("plain-tpm", &["--tee", "none", "--tpm", "my tpm"], &[("ENABLE_KVM", "true")]);
}

/// By a firmware that measures what it boots.
#[test]
fn plain_from_kernel_with_a_tpm() {
    let flags = ["--tee", "none", "--boot", "kernel", "--tpm", "/tpm"];
    golden("plain-kernel-tpm", &flags, &[("ENABLE_KVM", "true")]);
}

#[test]
fn plain_from_kernel_by_a_firmware() {
    let flags = ["--tee", "none", "--boot", "kernel", "--ovmf", "code.fd"];
    golden("plain-kernel-ovmf", &flags, &[("ENABLE_KVM", "true")]);
}

#[test]
fn snp() {
    golden("snp", &["--tee", "snp"], &[]);
}

#[test]
fn snp_with_everything_changed() {
    golden(
        "snp-changed",
        &[
            "--igvm",
            "/svsm,1.igvm",
            "--boot",
            "kernel",
            "--measured-by-vtpm",
            "--disk",
            "./img/disk.img",
        ],
        &[
            ("ENABLE_SEV_SNP", "true"),
            ("CPU", "EPYC-v4"),
            ("MEM_ID", "ram7"),
            ("MEMORY_SIZE", "4G"),
            ("SEV_SNP_ID", "sev7"),
            ("SEV_SNP_CBITPOS", "47"),
            ("SEV_SNP_REDUCED_PHYS_BITS", "5"),
            ("ENABLE_HOST_DATA", "true"),
            ("HOST_DATA", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="),
            ("IGVM_ID", "igvm7"),
            ("IGVM_FILE", "not this"),
        ],
    );
}

/// By a firmware that checks hashes, and not from an IGVM file.
#[test]
fn snp_from_kernel() {
    golden("snp-kernel", &["--tee", "snp", "--boot", "kernel", "--append", "quiet"], &[]);
}

/// What `--ovmf` names wins over the IGVM file of a Manager's variables.
#[test]
fn snp_from_kernel_with_everything_changed() {
    let flags = ["--layers", "layers", "--ovmf", "/amd,sev.fd"];
    golden(
        "snp-kernel-changed",
        &flags,
        &[
            ("ENABLE_SEV_SNP", "true"),
            ("CPU", "EPYC-Genoa"),
            ("SEV_SNP_ID", "sev7"),
            ("ENABLE_HOST_DATA", "true"),
            ("HOST_DATA", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="),
            ("IGVM_FILE", "not this"),
            ("OVMF_FILE", "nor this"),
        ],
    );
}

#[test]
fn snp_from_kernel_that_a_vtpm_measures() {
    let flags = ["--tee", "snp", "--boot", "kernel", "--measured-by-vtpm"];
    golden("snp-kernel-vtpm", &flags, &[("ENABLE_DISK", "false")]);
}

#[test]
fn tdx() {
    golden("tdx", &["--tee", "tdx"], &[]);
}

#[test]
fn tdx_with_everything_changed() {
    golden(
        "tdx-changed",
        &["--ovmf", "/tdvf.fd", "--env", "/env"],
        &[
            ("ENABLE_TDX", "true"),
            ("CPU", "host,-avx512f"),
            ("MEM_ID", "mem0"),
            ("TDX_ID", "tdx"),
            ("QUOTE_GENERATION_PORT", "4051"),
            ("OVMF_FILE", "not this"),
            ("VSOCK_ID", "vsock7"),
            ("VSOCK_GUEST_CID", "7"),
            ("NO_GRAPHIC", "false"),
        ],
    );
}

#[test]
fn tdx_from_kernel() {
    golden("tdx-kernel", &["--tee", "tdx", "--boot", "kernel"], &[]);
}

/// No chain looks like one that is measured and is not.
#[test]
fn it_is_said_what_of_a_boot_is_measured_by_what() {
    let dir = image("chains");
    let kernel = ["--boot", "kernel"];
    let direct = |tee| [&["--tee", tee], &kernel[..]].concat();
    for (flags, says) in [
        (vec!["--tee", "none"], "measured: by nothing that proves it to others: a plain VM"),
        (direct("none"), "measured: by nothing that proves it to others: a plain VM"),
        (
            [&direct("none")[..], &["--tpm", "tpm"]].concat(),
            "measured: into the TPM in tpm, which is this host's and proves nothing to others; \
             'scripts/measure img' tells its registers",
        ),
        (
            [&direct("snp")[..], &["--ovmf", "a.fd"]].concat(),
            "measured: firmware, kernel, initramfs and command line in the launch digest; \
             'scripts/measure --ovmf a.fd img' tells it",
        ),
        (
            vec!["--tee", "snp", "--igvm", "a.igvm"],
            "measured: a.igvm in the launch digest, and nothing else; all that it boots in the TPM \
             that it offers, if it does: docs/svsm.md",
        ),
        (
            [&direct("snp")[..], &["--igvm", "a.igvm", "--measured-by-vtpm"]].concat(),
            "measured: a.igvm in the launch digest, and nothing else; all that it boots in the TPM \
             that it offers, if it does: docs/svsm.md",
        ),
        (
            direct("tdx"),
            "measured: firmware in MRTD, kernel in RTMR1, initramfs and command line in RTMR2, both \
             by a firmware that has TdTcg2Dxe: Debian 13's OVMF.fd, not Debian 12's",
        ),
        (
            vec!["--tee", "tdx"],
            "measured: firmware in MRTD, boot loader in RTMR1, what that boots in RTMR2, both by a \
             firmware that has TdTcg2Dxe: Debian 13's OVMF.fd, not Debian 12's",
        ),
    ] {
        let output =
            qemu(dir.path(), &[&["--dry-run"], &flags[..]].concat(), &[]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        let last = said.lines().last().unwrap();
        assert_eq!(last, format!("scripts/qemu: {says}"), "{flags:?}");
    }
}

#[test]
fn flags_win_over_variables() {
    let dir = image("flags");
    let output = qemu(dir.path(), &["--dry-run", "--tee", "none"], &[("ENABLE_SEV_SNP", "true")])
        .output()
        .unwrap();
    assert!(!String::from_utf8_lossy(&output.stdout).contains("sev"));
}

/// Kernel and initramfs of an image are those beside it, whichever way it is named.
#[test]
fn a_variable_names_the_disk_as_the_flag_does() {
    let dir = image("beside");
    let printed = |flags: &[&str], variables: &[(&str, &str)]| {
        let flags = [&["--dry-run", "--tee", "none", "--boot", "kernel"], flags].concat();
        let output = qemu(dir.path(), &flags, variables).output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        printed.replace(&folder(&printed, dir.path()), "")
    };
    std::os::unix::fs::symlink("img", dir.path().join("other")).unwrap();
    let by_flag = printed(&["--disk", "other/disk.img"], &[]);
    assert!(by_flag.contains("-kernel other/bzImage"), "{by_flag}");
    assert!(by_flag.contains("-initrd other/rootfs.cpio.gz"), "{by_flag}");
    assert_eq!(printed(&[], &[("SRC_DISK_FILE", "other/disk.img")]), by_flag);
    // What has its own variable is another matter.
    let own = printed(&["--disk", "other/disk.img"], &[("DISK_IMG_KERNEL_FILE", "/k")]);
    assert_eq!(own, by_flag.replace("other/bzImage", "/k"));
}

#[test]
fn what_is_printed_is_a_shell_script() {
    let dir = image("paste");
    let output = qemu(
        dir.path(),
        &["--dry-run", "--tee", "none", "--boot", "kernel", "--append", "a 'b' \"c\" $d \\ *"],
        &[("BIN_PATH", "printf")],
    )
    .output()
    .unwrap();
    // printf would take the first option as its format.
    let printed = String::from_utf8(output.stdout).unwrap();
    let folder = folder(&printed, dir.path());
    let script = printed.replace("\nprintf ", "\nprintf '%s\\n' ");
    let output = Command::new("bash").arg("-ec").arg(script).output().unwrap();
    let words = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(words.contains("\nroothash=00 quiet a 'b' \"c\" $d \\ *\n"), "{words}");
    assert!(words.contains("\nvirtio-net-pci,"), "{words}");
    // The overlay was made, one GiB larger than its source.
    let size = virtual_size(&Path::new(&folder).join("disk.qcow2"));
    assert_eq!(size, 64 * MIB + GIB);
}
