//! What the launcher refuses: one line, the right exit status, and nothing left behind.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{entries, image, qemu};

const KERNEL: &[&str] = &["--tee", "none", "--boot", "kernel"];

/// A launch in a folder that has to fail with `status`; its last line says `why`, nothing but the
/// script itself speaks, and no temporary file is left.
fn refuses(dir: &Path, command: &mut Command, status: i32, why: &str) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{said}");
    let last = said.lines().last().unwrap();
    assert!(last.contains(why), "{why:?}: {said}");
    for line in said.lines() {
        assert!(line.starts_with("scripts/qemu: "), "{said}");
    }
    assert_eq!(entries(&dir.join("tmp")), [] as [PathBuf; 0]);
}

type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a str);

#[test]
fn a_wrong_command_line_is_a_usage_error() {
    let dir = image("usage");
    #[rustfmt::skip]
    let cases: &[Case] = &[
        (&["--colour"], &[], "unknown argument --colour"),
        (&["image"], &[], "unknown argument image"),
        (&["--tee"], &[], "--tee needs a value"),
        (&["--tee", "sgx"], &[], "--tee sgx is none of"),
        (&["--boot", "net"], &[], "--boot net is neither"),
        (&["--forward", "7020"], &[], "--forward 7020 is not HOST:GUEST"),
        (&["--forward", "0:1"], &[], "--forward 0:1 is not"),
        (&["--forward", "1:65536"], &[], "--forward 1:65536 is not"),
        (&["--forward", "1:2:3"], &[], "--forward 1:2:3 is not"),
        (&["--forward", "1:2,x"], &[], "--forward 1:2,x is not"),
        (&["--tee", "none", "--igvm", "igvm"], &[], "--igvm is for --tee snp"),
        (&["--tee", "snp", "--ovmf", "ovmf"], &[], "--ovmf is not for --tee snp"),
        (&["--tee", "snp", "--boot", "kernel", "--igvm", "igvm"], &[], "--igvm is not for --boot kernel: QEMU puts no hashes of kernel, initramfs and command line into an IGVM file"),
        (&["--tee", "snp", "--boot", "kernel", "--igvm", "igvm", "--ovmf", "ovmf"], &[], "--igvm is not for --boot kernel"),
        (&["--tee", "snp", "--layers", "layers"], &[("IGVM_FILE", "igvm")], "MANAGER_QEMU_IGVM_FILE is not for --boot kernel"),
        (&["--tee", "snp"], &[("ENABLE_DISK", "false"), ("IGVM_FILE", "igvm")], "or say --measured-by-vtpm when the file has COCONUT-SVSM"),
        (&["--tee", "snp", "--boot", "kernel", "--measured-by-vtpm", "--ovmf", "ovmf"], &[], "--ovmf is not for --tee snp --boot kernel --measured-by-vtpm"),
        (&["--tee", "snp", "--measured-by-vtpm"], &[], "--measured-by-vtpm is for --tee snp --boot kernel, not for --tee snp --boot disk"),
        (&[KERNEL, &["--measured-by-vtpm"]].concat(), &[], "not for --tee none --boot kernel"),
        (&["--tee", "snp", "--tpm", "tpm"], &[], "--tpm is for --tee none: a TPM of this host's proves nothing of an SNP or TDX VM"),
        (&["--tee", "none", "--tpm", "a,b"], &[], "--tpm a,b holds a comma"),
        (&["--listen", "localhost"], &[], "--listen localhost is not an IPv4 address"),
        (&["--listen", "1.2.3.256"], &[], "--listen 1.2.3.256 is not an IPv4 address"),
        (&["--volume", "10G"], &[], "--volume 10G is not SIZE:SERIAL"),
        (&["--volume", "much:S"], &[], "--volume much:S is not SIZE:SERIAL"),
        (&["--data", "models.img:"], &[], "--data models.img: is not FILE:SERIAL"),
        (&["--data", ":MODELS"], &[], "--data :MODELS is not FILE:SERIAL"),
        (&["--data", "models.img:a,b"], &[], "--data models.img:a,b is not FILE:SERIAL"),
        (&["--volume", "1G:S"], &[("ENABLE_DISK", "false")], "are for a VM with a disk"),
        (&["--append", "x"], &[], "--append is for --boot kernel"),
        (&["--layers", "layers", "--boot", "disk"], &[], "--layers is for --boot kernel"),
        (&[], &[("SMP_COUNT", "many")], "SMP_COUNT=many is not a count"),
        (&[], &[("SMP_COUNT", "0")], "SMP_COUNT=0 is not a count: processors"),
        (&[], &[("SMP_MAXCPUS", "0")], "SMP_MAXCPUS=0 is not a count"),
        (&[], &[("USE_SUDO", "yes")], "USE_SUDO=yes is not a bool"),
        (&[], &[("MEMORY_SIZE", "2 GB")], "MEMORY_SIZE=2 GB is not a size"),
        (&[], &[("HOST_FWD_AGENT", "70000")], "HOST_FWD_AGENT=70000 is not a port"),
        (&[], &[("HOST_FWD_RANGE", "9-8")], "HOST_FWD_RANGE=9-8 is not a range"),
        (&[], &[("MEM_ID", "a,b")], "MEM_ID=a,b is not a name"),
        (&[], &[("DISK_FORMAT", "raw")], "DISK_FORMAT=raw is not a qcow2"),
        (&[], &[("ENABLE_HOST_DATA", "true")], "MANAGER_QEMU_HOST_DATA is missing"),
        (&[], &[("HOST_DATA", "short")], "HOST_DATA=short is not a base64"),
        (&[], &[("ENABLE_SEV_SNP", "true"), ("ENABLE_TDX", "true")], "a VM is either SNP or TDX"),
        (&["--tee", "snp"], &[("ENABLE_KVM", "false")], "--tee snp needs KVM"),
    ];
    for (flags, variables, why) in cases {
        refuses(dir.path(), &mut qemu(dir.path(), flags, variables), 2, why);
    }
}

#[test]
fn what_is_missing_is_named_before_anything_is_made() {
    let dir = image("missing");
    let create = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "blank.qcow2", "64M"])
        .current_dir(dir.path())
        .status();
    assert!(create.unwrap().success());
    fs::create_dir(dir.path().join("other")).unwrap();
    for disk in ["disk.img", "other/disk.img"] {
        fs::copy(dir.path().join("img/disk.img"), dir.path().join(disk)).unwrap();
    }
    #[rustfmt::skip]
    let cases: &[Case] = &[
        (KERNEL, &[("BIN_PATH", "qemu-none")], "cannot find qemu-none: install it with 'apt-get install qemu-system-x86'"),
        (KERNEL, &[("SRC_DISK_FILE", "none")], "cannot read none: no such file; make it with scripts/image"),
        (KERNEL, &[("SRC_DISK_FILE", "img")], "cannot read img: not a readable file"),
        (KERNEL, &[("SRC_DISK_FILE", "other/disk.img")], "cannot read other/bzImage: no such file"),
        (KERNEL, &[("SRC_DISK_FILE", "disk.img"), ("DISK_IMG_KERNEL_FILE", "igvm"), ("DISK_IMG_ROOTFS_FILE", "igvm")], "cannot read ./cmdline: no such file"),
        (&["--tee", "none", "--ovmf", "ovmf", "--disk", "igvm"], &[("OVMF_VARS_FILE", "ovmf")], "/igvm: it has no GPT; make an image with scripts/image"),
        (&["--tee", "none", "--ovmf", "ovmf", "--disk", "blank.qcow2"], &[("OVMF_VARS_FILE", "ovmf")], "/blank.qcow2: it has no GPT"),
        (KERNEL, &[("DISK_IMG_KERNEL_FILE", "none")], "cannot read none: no such file"),
        (KERNEL, &[("DISK_IMG_ROOTFS_FILE", "none")], "cannot read none: no such file"),
        (KERNEL, &[("CERTS_MOUNT", "igvm")], "cannot share igvm: not a readable folder"),
        (KERNEL, &[("ENV_MOUNT", "none")], "cannot share none: not a readable folder"),
        (KERNEL, &[("DST_DISK_FILE", "igvm")], "igvm: it exists"),
        (&["--tee", "none", "--layers", "none"], &[], "cannot read none/layers.json: no such file; make it with scripts/layers"),
        (&["--tee", "none", "--ovmf", "none"], &[], "cannot read none: no such file; name it with --ovmf"),
        (&["--tee", "none", "--ovmf", "ovmf"], &[("OVMF_VARS_FILE", "none")], "cannot read none: no such file; name it with MANAGER_QEMU_OVMF_VARS_FILE"),
        (&["--tee", "snp", "--igvm", "none"], &[], "cannot read none: no such file; name it with --igvm"),
        (&["--tee", "snp", "--boot", "kernel", "--ovmf", "none"], &[], "cannot read none: no such file; EDK2's AmdSev build is in Debian's package ovmf-amdsev"),
        (&["--tee", "snp", "--boot", "kernel", "--ovmf", "ovmf"], &[], "cannot use ovmf: it has no place for the hashes of kernel, initramfs and command line; EDK2's AmdSev build"),
        (&["--tee", "snp", "--boot", "kernel", "--ovmf", "/usr/share/ovmf/OVMF.fd"], &[], "cannot use /usr/share/ovmf/OVMF.fd: it has no place for the hashes"),
        (&[KERNEL, &["--ovmf", "none"]].concat(), &[], "cannot read none: no such file; name it with --ovmf"),
        (&[KERNEL, &["--tpm", "igvm"]].concat(), &[], "cannot make igvm: "),
        (&[KERNEL, &["--tpm", "tpm"]].concat(), &[("BIN_PATH", "false")], "cannot run the VM: QEMU ended with status 1"),
        (&["--tee", "tdx", "--ovmf", "none"], &[], "cannot read none: no such file; name it with --ovmf"),
        (KERNEL, &[("BIN_PATH", "false")], "cannot run the VM: QEMU ended with status 1"),
    ];
    for (flags, variables, why) in cases {
        refuses(dir.path(), &mut qemu(dir.path(), flags, variables), 1, why);
    }
    assert_eq!(fs::read(dir.path().join("igvm")).unwrap(), b"igvm");
    let nowhere = dir.path().join("nowhere");
    let mut command = qemu(dir.path(), KERNEL, &[]);
    refuses(dir.path(), command.env("TMPDIR", &nowhere), 1, "/nowhere: no such folder");
    assert!(!nowhere.exists());
}

#[test]
fn a_tool_that_is_not_installed_is_named_with_its_package() {
    let dir = image("tools");
    // Where no cargo is, the launcher is one that was built before.
    assert!(qemu(dir.path(), &["--help"], &[]).output().unwrap().status.success());
    // All that the script itself needs, and what stands for QEMU, but no qemu-img.
    let tools = dir.path().join("tools");
    fs::create_dir(&tools).unwrap();
    for name in ["bash", "dirname", "readlink", "true"] {
        symlink(Path::new("/usr/bin").join(name), tools.join(name)).unwrap();
    }
    let mut command = qemu(dir.path(), &["--tee", "none"], &[("BIN_PATH", "true")]);
    refuses(
        dir.path(),
        command.env("PATH", &tools),
        1,
        "cannot find qemu-img: install it with 'apt-get install qemu-utils'",
    );
    symlink("/usr/bin/true", tools.join("qemu-img")).unwrap();
    let flags = ["--tee", "none", "--tpm", "tpm"];
    let mut command = qemu(dir.path(), &flags, &[("BIN_PATH", "true")]);
    let why = "cannot find swtpm: install it with 'apt-get install swtpm'";
    refuses(dir.path(), command.env("PATH", &tools), 1, why);
}

/// The last pages of a firmware as EDK2's build for SNP has them: an entry, which is the address and size
/// of the place, the entry's length and its GUID; and behind it the length of the table and its GUID.
fn firmware_with_hashes(address: u32) -> Vec<u8> {
    let mut file = vec![0xff; 8192];
    let table = [
        &address.to_le_bytes()[..],
        &0x400_u32.to_le_bytes(),
        b"\x1a\0\x1f\x37\x55\x72\x3b\x3a\x04\x4b\x92\x7b\x1d\xa6\xef\xa8\xd4\x54",
        b"\x2c\0\xde\x82\xb5\x96\xb2\x1f\xf7\x45\xba\xea\xa3\x66\xc5\x5a\x08\x2d",
    ]
    .concat();
    let end = file.len() - 32;
    file[end - table.len()..end].copy_from_slice(&table);
    file
}

/// With one that does, nothing is wrong but that this host has no SNP.
#[test]
fn a_firmware_that_checks_no_hashes_is_told_from_one_that_does() {
    let dir = image("hashes");
    for (address, why) in [
        (0, "cannot use a.fd: it has no place for the hashes"),
        (0x81_0c00, "cannot launch with --tee snp: "),
    ] {
        fs::write(dir.path().join("a.fd"), firmware_with_hashes(address)).unwrap();
        let flags = ["--tee", "snp", "--boot", "kernel", "--ovmf", "a.fd"];
        if address == 0 || !fs::read_to_string("/proc/cpuinfo").unwrap().contains("sev_snp") {
            refuses(dir.path(), &mut qemu(dir.path(), &flags, &[]), 1, why);
        }
    }
}

#[test]
fn a_path_that_is_too_long_for_the_socket_of_a_tpm_is_named() {
    let dir = image("long");
    let long = dir.path().join("x".repeat(100));
    fs::create_dir(&long).unwrap();
    let mut command = qemu(dir.path(), KERNEL, &[]);
    refuses(
        dir.path(),
        command.args(["--tpm", "tpm"]).env("TMPDIR", &long),
        1,
        "longer than the 107 bytes that one can have; TMPDIR=/var/tmp is short",
    );
    assert_eq!(entries(&long), [] as [PathBuf; 0]);
}

#[test]
fn a_tee_or_kvm_that_the_host_lacks_is_named() {
    let dir = image("host");
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap();
    let has = |flag| cpu.split_whitespace().any(|word| word == flag);
    for (tee, flag, firmware) in
        [("snp", "sev_snp", "--igvm"), ("tdx", "tdx_host_platform", "--ovmf")]
    {
        if !has(flag) {
            refuses(
                dir.path(),
                &mut qemu(dir.path(), &["--tee", tee, firmware, "igvm"], &[]),
                1,
                &format!("cannot launch with --tee {tee}: /proc/cpuinfo has no flag {flag}"),
            );
        }
    }
    if !has("svm") && !has("vmx") {
        refuses(
            dir.path(),
            &mut qemu(dir.path(), KERNEL, &[("ENABLE_KVM", "true")]),
            1,
            "cannot use KVM, which MANAGER_QEMU_ENABLE_KVM=true asks for",
        );
    }
}

#[test]
fn a_port_in_use_is_named() {
    let dir = image("port");
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    refuses(
        dir.path(),
        qemu(dir.path(), KERNEL, &[]).args(["--forward", &format!("{port}:22")]),
        1,
        &format!("cannot forward port {port}: it is in use"),
    );
    let range = format!("{port}-{port}");
    let variables = [("HOST_FWD_AGENT", &*port), ("HOST_FWD_RANGE", &range)];
    refuses(
        dir.path(),
        &mut qemu(dir.path(), KERNEL, &variables),
        1,
        &format!("cannot forward a port: {port} and {range} are all in use"),
    );
}
