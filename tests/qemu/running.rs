//! Real VMs, plain ones: they boot, they share nothing, and a signal ends them with all they had.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::{GIB, MIB, TREE, entries, image, qemu, virtual_size};

/// Where cargo builds: `CARGO_TARGET_TMPDIR` is `TARGET/tmp` in there.
fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).ancestors().nth(2).unwrap()
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    listener.local_addr().unwrap().port()
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
        let variables = [
            ("ENABLE_KVM", "false"),
            ("HOST_FWD_AGENT", &port.to_string()),
            ("HOST_FWD_RANGE", range),
            ("DST_DISK_FILE", &format!("{name}.qcow2")),
        ];
        let launcher = qemu(dir, &["--tee", "none", "--", "-S", "-pidfile"], &variables)
            .arg(&pidfile)
            .stdout(Stdio::null())
            .stderr(fs::File::create(dir.join(format!("{name}.log"))).unwrap())
            .spawn()
            .unwrap();
        let qemu = until("QEMU runs", || fs::read_to_string(&pidfile).ok()?.trim().parse().ok());
        Self { launcher, qemu }
    }

    fn end(mut self, signal: Signal) -> Option<i32> {
        assert!(Path::new(&format!("/proc/{}", self.qemu)).exists());
        let launcher = Pid::from_raw(self.launcher.id().cast_signed()).unwrap();
        kill_process(launcher, signal).unwrap();
        let status = until("the launcher ends", || self.launcher.try_wait().unwrap()).code();
        assert!(!Path::new(&format!("/proc/{}", self.qemu)).exists());
        status
    }
}

#[test]
fn vms_of_one_image_share_nothing_and_a_signal_leaves_nothing() {
    let _alone = alone();
    let dir = image("signals");
    let [first_port, second_port] = [free_port(), free_port()];
    let range = format!("{second_port}-{second_port}");
    let first = Halted::launch(dir.path(), "first", first_port, &range);
    until("the first forwards", || TcpStream::connect(("127.0.0.1", first_port)).ok());
    // The port of the first is taken now.
    let second = Halted::launch(dir.path(), "second", first_port, &range);
    until("the second forwards", || TcpStream::connect(("127.0.0.1", second_port)).ok());
    for name in ["first.qcow2", "second.qcow2"] {
        assert_eq!(virtual_size(&dir.path().join(name)), 64 * MIB + GIB);
    }
    let private = entries(&dir.path().join("tmp"));
    assert_eq!(private.len(), 2, "{private:?}");
    for folder in private {
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
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
            "mkdir -p more/bin; cp \"$(command -v busybox)\" more/busybox; \
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
    let shares = ["--env", "env", "--certs", "certs"];
    let forward = ["--forward", &format!("{}:22", free_port())];
    // A firmware told of a boot order tries nothing that is not in it, such as the network,
    // before its shell.
    let more = ["--", "-no-reboot", "-global", "scsi-hd.bootindex=1"];
    let flags = [&["--tee", "none"], &shares[..], &forward, flags, &more].concat();
    let launch = qemu(dir, &flags, &[("SMP_COUNT", "2"), ("MEMORY_SIZE", "1G")]);
    let Output { status, stdout, .. } = Command::new("timeout")
        .arg("120")
        .arg(launch.get_program())
        .args(launch.get_args())
        .env_clear()
        .envs(launch.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let console = String::from_utf8_lossy(&stdout);
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
    let words = "console=ttyS0 panic=-1 no_timer_check";
    let facts = facts(dir.path(), &["--boot", "kernel", "--append", words]);
    assert_eq!(
        facts,
        [
            "env_share env".to_owned(),
            "certs_share certs".to_owned(),
            format!("sectors {}", (64 * MIB + GIB) / 512),
            "processors 2".to_owned(),
            format!("cmdline quiet from=cmdline {words}"),
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
    assert!(facts[4].ends_with("quiet console=ttyS0 panic=-1"), "{facts:?}");
    let after = fs::read(dir.path().join("img/disk.img")).unwrap();
    assert!(before == after, "the image was written");
    assert_eq!(entries(&dir.path().join("tmp")), [] as [PathBuf; 0]);
}
