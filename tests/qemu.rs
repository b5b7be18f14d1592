//! The launcher: the command lines it makes, what it refuses, and that a VM leaves nothing behind.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod common;

use std::fs;
use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::Scratch;
use rustix::process::{Pid, Signal, kill_process};

const TREE: &str = env!("CARGO_MANIFEST_DIR");
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Where cargo builds: `CARGO_TARGET_TMPDIR` is `TARGET/tmp` in there.
fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
        .ancestors()
        .nth(2)
        .unwrap()
}

/// The launcher in a folder, with no variable of the caller's but `PATH`.
fn qemu(dir: &Path) -> Command {
    let mut command = Command::new(Path::new(TREE).join("scripts/qemu"));
    command
        .current_dir(dir)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("TMPDIR", dir.join("tmp"))
        .stdin(Stdio::null());
    command
}

/// A folder with what the launcher looks for by default: `img/` with the parts of an image.
fn image(test: &str) -> Scratch {
    let dir = Scratch::dir(&format!("qemu {test}"));
    fs::create_dir_all(dir.path().join("img")).unwrap();
    fs::create_dir(dir.path().join("tmp")).unwrap();
    for name in ["img/bzImage", "img/rootfs.cpio.gz", "igvm", "ovmf"] {
        fs::write(dir.path().join(name), name).unwrap();
    }
    fs::write(dir.path().join("img/cmdline"), "roothash=00 quiet\n").unwrap();
    let disk = fs::File::create(dir.path().join("img/disk.img")).unwrap();
    disk.set_len(64 * MIB).unwrap();
    dir
}

/// Exit status and standard error of a launch that has to fail; nothing is left in its folder for
/// temporary files.
fn refusal(dir: &Path, command: &mut Command) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = command.output().unwrap();
    assert_eq!(entries(&dir.join("tmp")), [] as [PathBuf; 0]);
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect()
}

/// Compares what `--dry-run` prints with a file of `tests/golden/qemu`, in which `DIR` stands for
/// the folder of the test.
fn golden(name: &str, flags: &[&str], variables: &[(&str, &str)]) {
    let dir = image(&format!("golden {name}"));
    let output = qemu(dir.path())
        .arg("--dry-run")
        .args(flags)
        .envs(
            variables
                .iter()
                .map(|(name, value)| (format!("MANAGER_QEMU_{name}"), value)),
        )
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let printed = String::from_utf8(output.stdout)
        .unwrap()
        .replace(dir.utf8(), "DIR");
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
fn snp() {
    golden("snp", &["--tee", "snp"], &[]);
}

#[test]
fn snp_with_everything_changed() {
    golden(
        "snp-changed",
        &["--igvm", "/svsm,1.igvm", "--boot", "kernel"],
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
fn flags_win_over_variables() {
    let dir = image("flags");
    let output = qemu(dir.path())
        .args(["--dry-run", "--tee", "none"])
        .env("MANAGER_QEMU_ENABLE_SEV_SNP", "true")
        .output()
        .unwrap();
    assert!(!String::from_utf8_lossy(&output.stdout).contains("sev"));
}

#[test]
fn what_is_printed_is_a_shell_script() {
    let dir = image("paste");
    let output = qemu(dir.path())
        .args(["--dry-run", "--tee", "none", "--boot", "kernel"])
        .args(["--append", "a 'b' \"c\" $d \\ *"])
        .env("MANAGER_QEMU_BIN_PATH", "printf")
        .output()
        .unwrap();
    // printf would take the first option as its format.
    let script = String::from_utf8(output.stdout)
        .unwrap()
        .replace("\nprintf ", "\nprintf '%s\\n' ");
    let output = Command::new("bash")
        .arg("-ec")
        .arg(script)
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(
        words.contains("\nroothash=00 quiet a 'b' \"c\" $d \\ *\n"),
        "{words}"
    );
    assert!(words.contains("\nvirtio-net-pci,"), "{words}");
    // The overlay was made, one GiB larger than its source.
    let size = virtual_size(&dir.path().join("tmp/cvm/disk.qcow2"));
    assert_eq!(size, 64 * MIB + GIB);
}

/// The size that a guest sees, from the header of a qcow2 (docs/interop/qcow2.txt of QEMU).
fn virtual_size(file: &Path) -> u64 {
    let header = fs::read(file).unwrap();
    assert_eq!(&header[..4], b"QFI\xfb");
    u64::from_be_bytes(header[24..32].try_into().unwrap())
}

#[test]
fn a_wrong_command_line_is_a_usage_error() {
    let dir = image("usage");
    for (flags, variables, why) in [
        (&["--colour"][..], &[][..], "unknown argument --colour"),
        (&["image"], &[], "unknown argument image"),
        (&["--tee"], &[], "--tee needs a value"),
        (&["--tee", "sgx"], &[], "--tee sgx is none of"),
        (&["--boot", "net"], &[], "--boot net is neither"),
        (
            &["--forward", "7020"],
            &[],
            "--forward 7020 is not HOST:GUEST",
        ),
        (&["--forward", "0:1"], &[], "--forward 0:1 is not"),
        (&["--forward", "1:65536"], &[], "--forward 1:65536 is not"),
        (&["--forward", "1:2:3"], &[], "--forward 1:2:3 is not"),
        (&["--forward", "1:2,x"], &[], "--forward 1:2,x is not"),
        (
            &["--tee", "none", "--igvm", "igvm"],
            &[],
            "--igvm is for --tee snp",
        ),
        (
            &["--tee", "snp", "--ovmf", "ovmf"],
            &[],
            "--ovmf is not for --tee snp",
        ),
        (
            &["--tee", "none", "--boot", "kernel", "--ovmf", "ovmf"],
            &[],
            "--ovmf is not for --tee none --boot kernel",
        ),
        (&["--append", "x"], &[], "--append is for --boot kernel"),
        (
            &[],
            &[("SMP_COUNT", "many")],
            "SMP_COUNT=many is not a number",
        ),
        (&[], &[("USE_SUDO", "yes")], "USE_SUDO=yes is not a bool"),
        (
            &[],
            &[("MEMORY_SIZE", "2 GB")],
            "MEMORY_SIZE=2 GB is not a size",
        ),
        (
            &[],
            &[("HOST_FWD_AGENT", "70000")],
            "HOST_FWD_AGENT=70000 is not a port",
        ),
        (
            &[],
            &[("HOST_FWD_RANGE", "9-8")],
            "HOST_FWD_RANGE=9-8 is not a range",
        ),
        (&[], &[("MEM_ID", "a,b")], "MEM_ID=a,b is not a name"),
        (
            &[],
            &[("DISK_FORMAT", "raw")],
            "DISK_FORMAT=raw is not a qcow2",
        ),
        (
            &[],
            &[("ENABLE_HOST_DATA", "true")],
            "MANAGER_QEMU_HOST_DATA is missing",
        ),
        (
            &[],
            &[("HOST_DATA", "short")],
            "HOST_DATA=short is not a base64",
        ),
        (
            &[],
            &[("ENABLE_SEV_SNP", "true"), ("ENABLE_TDX", "true")],
            "a VM is either SNP or TDX",
        ),
        (
            &["--tee", "snp"],
            &[("ENABLE_KVM", "false")],
            "--tee snp needs KVM",
        ),
    ] {
        let mut command = qemu(dir.path());
        command.args(flags).envs(
            variables
                .iter()
                .map(|(name, value)| (format!("MANAGER_QEMU_{name}"), value)),
        );
        let (status, said) = refusal(dir.path(), &mut command);
        assert_eq!((status, said.lines().count()), (Some(2), 1), "{said}");
        assert!(said.contains(why), "{why:?}: {said}");
    }
}

#[test]
fn what_is_missing_is_named_before_anything_is_made() {
    let dir = image("missing");
    let plain = &["--tee", "none", "--boot", "kernel"][..];
    for (flags, variables, why) in [
        (
            plain,
            &[("BIN_PATH", "qemu-system-none")][..],
            "cannot find qemu-system-none: install it with 'apt-get install qemu-system-x86'",
        ),
        (
            plain,
            &[("SRC_DISK_FILE", "none")],
            "cannot read none: no such file",
        ),
        (
            plain,
            &[("SRC_DISK_FILE", "img")],
            "cannot read img: not a readable file",
        ),
        (
            plain,
            &[("SRC_DISK_FILE", "igvm")],
            "cannot read ./cmdline: no such file",
        ),
        (
            plain,
            &[("DISK_IMG_KERNEL_FILE", "none")],
            "cannot read none: no such file",
        ),
        (
            plain,
            &[("DISK_IMG_ROOTFS_FILE", "none")],
            "cannot read none: no such file",
        ),
        (
            plain,
            &[("CERTS_MOUNT", "igvm")],
            "cannot share igvm: not a readable folder",
        ),
        (
            plain,
            &[("ENV_MOUNT", "none")],
            "cannot share none: not a readable folder",
        ),
        (plain, &[("DST_DISK_FILE", "igvm")], "igvm: it exists"),
        (
            &["--tee", "none", "--ovmf", "none"],
            &[],
            "cannot read none: no such file; name it with --ovmf",
        ),
        (
            &["--tee", "none", "--ovmf", "ovmf"],
            &[("OVMF_VARS_FILE", "none")],
            "cannot read none: no such file; name it with MANAGER_QEMU_OVMF_VARS_FILE",
        ),
        (
            &["--tee", "snp", "--igvm", "none"],
            &[],
            "cannot read none: no such file",
        ),
        (
            &["--tee", "tdx", "--ovmf", "none"],
            &[],
            "cannot read none: no such file",
        ),
    ] {
        let mut command = qemu(dir.path());
        command.args(flags).envs(
            variables
                .iter()
                .map(|(name, value)| (format!("MANAGER_QEMU_{name}"), value)),
        );
        let (status, said) = refusal(dir.path(), &mut command);
        assert_eq!(status, Some(1), "{said}");
        let last = said.lines().last().unwrap();
        assert!(last.contains(why), "{why:?}: {said}");
        for line in said.lines() {
            assert!(line.starts_with("scripts/qemu: "), "{said}");
        }
    }
    assert_eq!(fs::read(dir.path().join("igvm")).unwrap(), b"igvm");
}

#[test]
fn a_tool_that_is_not_installed_is_named_with_its_package() {
    let dir = image("tools");
    // All that the script itself needs, and a QEMU, but no qemu-img.
    let tools = dir.path().join("tools");
    fs::create_dir(&tools).unwrap();
    for name in [
        "bash", "dirname", "cat", "awk", "seq", "grep", "env", "true",
    ] {
        let name_of = ["/bin", "/usr/bin"].map(|dir| Path::new(dir).join(name));
        let found = name_of.iter().find(|file| file.exists()).unwrap();
        std::os::unix::fs::symlink(found, tools.join(name)).unwrap();
    }
    let mut command = qemu(dir.path());
    command
        .args(["--tee", "none"])
        .env("PATH", &tools)
        .env("MANAGER_QEMU_BIN_PATH", "true");
    // lib.bash adds the folders of the system's own tools, which have no qemu-img.
    let (status, said) = refusal(dir.path(), &mut command);
    assert_eq!(status, Some(1));
    assert!(
        said.contains("cannot find qemu-img: install it with 'apt-get install qemu-utils'"),
        "{said}"
    );
}

#[test]
fn a_tee_or_kvm_that_the_host_lacks_is_named() {
    let dir = image("host");
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap();
    let has = |flag| cpu.split_whitespace().any(|word| word == flag);
    for (tee, flag, firmware) in [
        ("snp", "sev_snp", "--igvm"),
        ("tdx", "tdx_host_platform", "--ovmf"),
    ] {
        if !has(flag) {
            let mut command = qemu(dir.path());
            command.args(["--tee", tee, firmware, "igvm"]);
            let (status, said) = refusal(dir.path(), &mut command);
            assert_eq!(status, Some(1));
            assert_eq!(
                said,
                format!(
                    "scripts/qemu: cannot launch with --tee {tee}: /proc/cpuinfo has no flag {flag}\n"
                )
            );
        }
    }
    if !has("svm") && !has("vmx") {
        let mut command = qemu(dir.path());
        command
            .args(["--tee", "none", "--boot", "kernel"])
            .env("MANAGER_QEMU_ENABLE_KVM", "true");
        let (status, said) = refusal(dir.path(), &mut command);
        assert_eq!((status, said.lines().count()), (Some(1), 1), "{said}");
        assert!(said.contains("cannot use KVM, which MANAGER_QEMU_ENABLE_KVM=true asks for"));
    }
}

#[test]
fn a_port_in_use_is_named() {
    let dir = image("port");
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut command = qemu(dir.path());
    command
        .args(["--tee", "none", "--boot", "kernel", "--forward"])
        .arg(format!("{port}:22"));
    let (status, said) = refusal(dir.path(), &mut command);
    assert_eq!(status, Some(1));
    assert!(said.contains(&format!("cannot forward port {port}: it is in use")));
    let mut command = qemu(dir.path());
    command
        .args(["--tee", "none", "--boot", "kernel"])
        .env("MANAGER_QEMU_HOST_FWD_AGENT", port.to_string())
        .env("MANAGER_QEMU_HOST_FWD_RANGE", format!("{port}-{port}"));
    let (_, said) = refusal(dir.path(), &mut command);
    assert!(
        said.contains(&format!("{port} and {port}-{port} are all in use")),
        "{said}"
    );
}

#[test]
fn qemu_that_fails_is_one_line_more_and_leaves_nothing() {
    let dir = image("fails");
    let (status, said) = refusal(
        dir.path(),
        qemu(dir.path())
            .args(["--tee", "none", "--boot", "kernel"])
            .env("MANAGER_QEMU_BIN_PATH", "false"),
    );
    assert_eq!(status, Some(1));
    let last = said.lines().last().unwrap();
    assert_eq!(
        last,
        "scripts/qemu: cannot run the VM: QEMU ended with status 1"
    );
}

/// Emulated machines want a core or more: one test at a time has them.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks again and again, for half a minute at most.
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain until {what}");
        sleep(Duration::from_millis(50));
    }
}

/// A launched VM whose processors stand still: real, and it takes no time.
struct Halted {
    launcher: Child,
    qemu: u32,
}

impl Halted {
    fn launch(dir: &Path, name: &str, port: u16, range: &str) -> Self {
        let pidfile = dir.join(format!("{name}.pid"));
        let launcher = qemu(dir)
            .args(["--tee", "none", "--", "-S", "-pidfile"])
            .arg(&pidfile)
            .env("MANAGER_QEMU_ENABLE_KVM", "false")
            .env("MANAGER_QEMU_HOST_FWD_AGENT", port.to_string())
            .env("MANAGER_QEMU_HOST_FWD_RANGE", range)
            .env("MANAGER_QEMU_DST_DISK_FILE", format!("{name}.qcow2"))
            .stdout(Stdio::null())
            .stderr(fs::File::create(dir.join(format!("{name}.log"))).unwrap())
            .spawn()
            .unwrap();
        let qemu = until("QEMU runs", || {
            fs::read_to_string(&pidfile).ok()?.trim().parse().ok()
        });
        Self { launcher, qemu }
    }

    fn end(mut self, signal: Signal) -> Option<i32> {
        assert!(Path::new(&format!("/proc/{}", self.qemu)).exists());
        let launcher = Pid::from_raw(self.launcher.id().cast_signed()).unwrap();
        kill_process(launcher, signal).unwrap();
        let status = self.launcher.wait().unwrap().code();
        assert!(!Path::new(&format!("/proc/{}", self.qemu)).exists());
        status
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    listener.local_addr().unwrap().port()
}

#[test]
fn vms_of_one_image_share_nothing_and_a_signal_leaves_nothing() {
    let _alone = alone();
    let dir = image("signals");
    let [first_port, second_port] = [free_port(), free_port()];
    let range = format!("{second_port}-{second_port}");
    let first = Halted::launch(dir.path(), "first", first_port, &range);
    until("the first forwards", || {
        TcpStream::connect(("127.0.0.1", first_port)).ok()
    });
    // The port of the first is taken now.
    let second = Halted::launch(dir.path(), "second", first_port, &range);
    until("the second forwards", || {
        TcpStream::connect(("127.0.0.1", second_port)).ok()
    });
    for name in ["first.qcow2", "second.qcow2"] {
        assert_eq!(virtual_size(&dir.path().join(name)), 64 * MIB + GIB);
    }
    let private = entries(&dir.path().join("tmp"));
    assert_eq!(private.len(), 2, "{private:?}");
    for folder in private {
        assert_eq!(
            fs::metadata(&folder).unwrap().permissions().mode() & 0o777,
            0o700
        );
        assert!(folder.join("OVMF_VARS.fd").exists());
    }
    assert_eq!(first.end(Signal::TERM), Some(143));
    assert!(TcpStream::connect(("127.0.0.1", first_port)).is_err());
    assert!(TcpStream::connect(("127.0.0.1", second_port)).is_ok());
    assert_eq!(second.end(Signal::INT), Some(130));
    assert_eq!(entries(&dir.path().join("tmp")), [] as [PathBuf; 0]);
    for name in ["first.qcow2", "second.qcow2"] {
        assert!(!dir.path().join(name).exists());
    }
}

/// What the guest does: it says what it sees, scribbles on the disk, and powers off.
const GUEST: &str = r#"#!/busybox sh
/busybox --install -s /bin
export PATH=/bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev 2>/dev/null
for module in /modules/*; do insmod "$module"; done
for try in $(seq 100); do [ -b /dev/sda ] && break; sleep 0.1; done
echo scribble | dd of=/dev/sda bs=512 seek=1 conv=fsync 2>/dev/null
mkdir /share
for tag in env_share certs_share; do
    mount -t 9p -o trans=virtio,ro $tag /share && {
        echo "FACT $tag $(cat /share/word)"
        umount /share
    }
done
echo "FACT sectors $(cat /sys/block/sda/size)"
echo "FACT processors $(nproc)"
echo "FACT cmdline $(cat /proc/cmdline)"
poweroff -f
"#;

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// Puts a stock kernel and an initramfs with that guest in place of the image's files.
fn with_guest(dir: &Path) {
    let script = |name: &str| {
        let mut command = Command::new(Path::new(TREE).join("scripts").join(name));
        command.env("CARGO_TARGET_DIR", target());
        command
    };
    run(&mut script("kernel"));
    let kernel = target().join("kernel");
    fs::copy(kernel.join("vmlinuz"), dir.join("img/bzImage")).unwrap();
    fs::write(dir.join("init"), GUEST).unwrap();
    let archive = dir.join("img/rootfs.cpio.gz");
    run(script("initramfs")
        .arg("--kernel-modules")
        .arg(kernel.join("modules"))
        .arg("--init")
        .arg(dir.join("init"))
        .arg("-o")
        .arg(&archive));
    // The kernel unpacks archives one after the other.
    run(Command::new("sh")
        .args([
            "-ec",
            "mkdir more more/bin; cp \"$(command -v busybox)\" more/busybox; \
               bsdtar -C more -cf - --format newc . | gzip -n >>img/rootfs.cpio.gz",
        ])
        .current_dir(dir));
    for share in ["env", "certs"] {
        fs::create_dir(dir.join(share)).unwrap();
        fs::write(dir.join(share).join("word"), share).unwrap();
    }
}

/// Launches and returns what the guest said.
fn facts(dir: &Path, flags: &[&str]) -> Vec<String> {
    let port = free_port();
    let mut launcher = qemu(dir)
        .args([
            "--tee",
            "none",
            "--env",
            "env",
            "--certs",
            "certs",
            "--forward",
        ])
        .arg(format!("{port}:22"))
        .args(flags)
        // A firmware told of a boot order tries nothing that is not in it, such as the network,
        // before its shell.
        .args(["--", "-no-reboot", "-global", "scsi-hd.bootindex=1"])
        .env("MANAGER_QEMU_SMP_COUNT", "2")
        .env("MANAGER_QEMU_MEMORY_SIZE", "1G")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let end = Instant::now() + Duration::from_secs(120);
    let pid = Pid::from_raw(launcher.id().cast_signed()).unwrap();
    let watchdog = std::thread::spawn({
        let proc = PathBuf::from(format!("/proc/{}", launcher.id()));
        move || {
            while proc.exists() {
                if Instant::now() > end {
                    let _ = kill_process(pid, Signal::TERM);
                    return;
                }
                sleep(Duration::from_millis(200));
            }
        }
    });
    let mut console = Vec::new();
    launcher
        .stdout
        .take()
        .unwrap()
        .read_to_end(&mut console)
        .unwrap();
    let status = launcher.wait().unwrap();
    watchdog.join().unwrap();
    let console = String::from_utf8_lossy(&console).into_owned();
    assert!(status.success(), "{status}: {console}");
    console
        .lines()
        .filter_map(|line| line.trim_end().split_once("FACT "))
        .map(|(_, fact)| fact.to_owned())
        .collect()
}

#[test]
fn a_plain_vm_boots_from_the_kernel() {
    let _alone = alone();
    let dir = image("kernel");
    with_guest(dir.path());
    fs::write(dir.path().join("img/cmdline"), "quiet from=cmdline\n").unwrap();
    let facts = facts(
        dir.path(),
        &["--boot", "kernel", "--append", "console=ttyS0 panic=-1"],
    );
    assert_eq!(
        facts,
        [
            "env_share env".to_owned(),
            "certs_share certs".to_owned(),
            format!("sectors {}", (64 * MIB + GIB) / 512),
            "processors 2".to_owned(),
            "cmdline quiet from=cmdline console=ttyS0 panic=-1".to_owned(),
        ]
    );
    let disk = fs::read(dir.path().join("img/disk.img")).unwrap();
    assert!(disk.iter().all(|byte| *byte == 0), "the image was written");
    assert_eq!(entries(&dir.path().join("tmp")), [] as [PathBuf; 0]);
}

#[test]
fn a_plain_vm_boots_from_the_disk_through_its_firmware() {
    let _alone = alone();
    let dir = image("firmware");
    with_guest(dir.path());
    // No partitions and no boot loader: the firmware's shell starts the kernel.
    fs::write(
        dir.path().join("startup.nsh"),
        "fs0:\r\nlinux.efi initrd=\\initrd quiet console=ttyS0 panic=-1\r\n",
    )
    .unwrap();
    run(Command::new("sh")
        .args(["-ec", "PATH=$PATH:/usr/sbin:/sbin; mkfs.fat -i 1 img/disk.img; \
               mcopy -i img/disk.img startup.nsh ::; mcopy -i img/disk.img img/bzImage ::linux.efi; \
               mcopy -i img/disk.img img/rootfs.cpio.gz ::initrd"])
        .current_dir(dir.path()));
    let before = fs::read(dir.path().join("img/disk.img")).unwrap();
    let facts = facts(dir.path(), &["--boot", "disk"]);
    assert_eq!(facts.len(), 5, "{facts:?}");
    assert!(
        facts[4].ends_with("quiet console=ttyS0 panic=-1"),
        "{facts:?}"
    );
    let after = fs::read(dir.path().join("img/disk.img")).unwrap();
    assert!(before == after, "the image was written");
    assert_eq!(entries(&dir.path().join("tmp")), [] as [PathBuf; 0]);
}
