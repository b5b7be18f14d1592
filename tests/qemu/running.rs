//! Real VMs, plain ones: they boot, they share nothing, and a signal ends them with all they had.

use std::fs;
use std::io::Write as _;
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
pub(crate) fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).ancestors().nth(2).unwrap()
}

pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Emulated machines want a core or more: one test at a time has them.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks again and again, for half a minute at most.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
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
pub(crate) struct Halted {
    launcher: Child,
    qemu: u32,
}

impl Halted {
    pub(crate) fn launch(dir: &Path, name: &str, port: u16, range: &str, flags: &[&str]) -> Self {
        let pidfile = dir.join(format!("{name}.pid"));
        let variables = [
            ("ENABLE_KVM", "false"),
            ("HOST_FWD_AGENT", &port.to_string()),
            ("HOST_FWD_RANGE", range),
            ("DST_DISK_FILE", &format!("{name}.qcow2")),
        ];
        let flags = [&["--tee", "none"], flags, &["--", "-S", "-pidfile"]].concat();
        let launcher = qemu(dir, &flags, &variables)
            .arg(&pidfile)
            .stdout(Stdio::null())
            .stderr(fs::File::create(dir.join(format!("{name}.log"))).unwrap())
            .spawn()
            .unwrap();
        let qemu = until("QEMU runs", || fs::read_to_string(&pidfile).ok()?.trim().parse().ok());
        Self { launcher, qemu }
    }

    pub(crate) fn end(mut self, signal: Signal) -> Option<i32> {
        assert!(Path::new(&format!("/proc/{}", self.qemu)).exists());
        let launcher = Pid::from_raw(self.launcher.id().cast_signed()).unwrap();
        kill_process(launcher, signal).unwrap();
        let status = until("the launcher ends", || self.launcher.try_wait().unwrap()).code();
        assert!(!Path::new(&format!("/proc/{}", self.qemu)).exists());
        status
    }

    pub(crate) fn kill(&mut self) {
        self.launcher.kill().unwrap();
        self.launcher.wait().unwrap();
    }
}

#[test]
fn vms_of_one_image_share_nothing_and_a_signal_leaves_nothing() {
    let _alone = alone();
    let dir = image("signals");
    let [first_port, second_port] = [free_port(), free_port()];
    let range = format!("{second_port}-{second_port}");
    let first = Halted::launch(dir.path(), "first", first_port, &range, &[]);
    until("the first forwards", || TcpStream::connect(("127.0.0.1", first_port)).ok());
    // The port of the first is taken now.
    let second = Halted::launch(dir.path(), "second", first_port, &range, &[]);
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

#[test]
fn a_launcher_that_is_killed_takes_its_vm_with_it() {
    let _alone = alone();
    let dir = image("killed");
    let port = free_port();
    let mut vm = Halted::launch(dir.path(), "vm", port, "1-1", &[]);
    until("it forwards", || TcpStream::connect(("127.0.0.1", port)).ok());
    vm.kill();
    until("QEMU ends", || TcpStream::connect(("127.0.0.1", port)).err());
}

/// 127.0.0.2 is another address of every host.
#[test]
fn forwarded_ports_are_open_on_the_address_that_is_asked_for_only() {
    let _alone = alone();
    let dir = image("listen");
    for (name, flags, everywhere) in
        [("everywhere", &[][..], true), ("here", &["--listen", "127.0.0.1"], false)]
    {
        let port = free_port();
        let vm = Halted::launch(dir.path(), name, port, "1-1", flags);
        until("it forwards", || TcpStream::connect(("127.0.0.1", port)).ok());
        assert_eq!(TcpStream::connect(("127.0.0.2", port)).is_ok(), everywhere);
        vm.end(Signal::TERM);
    }
}

#[test]
fn on_a_terminal_ctrl_c_is_the_guests_and_ctrl_a_x_ends_the_vm() {
    let _alone = alone();
    let dir = image("terminal");
    let port = free_port();
    let flags = ["--tee", "none", "--forward", &format!("{port}:22"), "--", "-S"];
    let launch = qemu(dir.path(), &flags, &[("ENABLE_KVM", "false")]);
    let words: Vec<_> = [launch.get_program()].into_iter().chain(launch.get_args()).collect();
    let words: Vec<_> = words.iter().map(|word| format!("'{}'", word.display())).collect();
    let mut terminal = Command::new("script")
        .args(["-qec", &words.join(" "), "/dev/null"])
        .env_clear()
        .envs(launch.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .current_dir(dir.path())
        .stdin(Stdio::piped())
        .stdout(fs::File::create(dir.path().join("log")).unwrap())
        .spawn()
        .unwrap();
    let mut keys = terminal.stdin.take().unwrap();
    // The terminal is QEMU's before the network is there.
    until("it forwards", || TcpStream::connect(("127.0.0.1", port)).ok());
    keys.write_all(b"\x03").unwrap();
    sleep(Duration::from_secs(2));
    assert!(TcpStream::connect(("127.0.0.1", port)).is_ok(), "Ctrl-C has ended the VM");
    keys.write_all(b"\x01x").unwrap();
    let status = until("the launcher ends", || terminal.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
    assert_eq!(entries(&dir.path().join("tmp")), [] as [PathBuf; 0]);
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

pub(crate) fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

pub(crate) fn script(name: &str) -> Command {
    let mut command = Command::new(Path::new(TREE).join("scripts").join(name));
    command.env("CARGO_TARGET_DIR", target());
    command
}

/// Builds what `scripts/initramfs` packs.
pub(crate) fn build_cvm_init() {
    run(Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--locked", "--release", "--quiet", "--bin", "cvm-init", "--target-dir"])
        .arg(target())
        .current_dir(TREE));
}

/// Puts a stock kernel and an initramfs with that guest in place of the image's files.
fn with_guest(dir: &Path) {
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

/// Launches, and waits for the end.
pub(crate) fn launch(dir: &Path, flags: &[&str]) -> Output {
    let shares = ["--env", "env", "--certs", "certs"];
    let forward = ["--forward", &format!("{}:22", free_port())];
    // A firmware told of a boot order tries nothing that is not in it, such as the network,
    // before its shell.
    let more = ["--", "-no-reboot", "-global", "scsi-hd.bootindex=1"];
    let flags = [&["--tee", "none"], &shares[..], &forward, flags, &more].concat();
    let launch = qemu(dir, &flags, &[("SMP_COUNT", "2"), ("MEMORY_SIZE", "1G")]);
    Command::new("timeout")
        .arg("120")
        .arg(launch.get_program())
        .args(launch.get_args())
        .env_clear()
        .envs(launch.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Launches a guest that shuts down, and returns what it said.
fn facts(dir: &Path, flags: &[&str]) -> Vec<String> {
    let Output { status, stdout, .. } = launch(dir, flags);
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
    let words = "console=ttyS0 panic=-1 no_timer_check tsc=unstable";
    let before = fs::read(dir.path().join("img/disk.img")).unwrap();
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
    let after = fs::read(dir.path().join("img/disk.img")).unwrap();
    assert!(before == after, "the image was written");
    assert_eq!(entries(&dir.path().join("tmp")), [] as [PathBuf; 0]);
}

/// PID 1 is cvm-init, which takes no `roothash=00`: it powers off as a guest does that shuts down.
#[test]
fn a_guest_that_refuses_to_boot_is_told_from_one_that_shuts_down() {
    let _alone = alone();
    let dir = image("refusing");
    for share in ["env", "certs"] {
        fs::create_dir(dir.path().join(share)).unwrap();
    }
    run(&mut script("kernel"));
    fs::copy(target().join("kernel/vmlinuz"), dir.path().join("img/bzImage")).unwrap();
    build_cvm_init();
    run(script("initramfs")
        .args(["--kernel-modules", "none", "-o"])
        .arg(dir.path().join("img/rootfs.cpio.gz")));
    let words = "quiet console=ttyS0 panic=-1 no_timer_check tsc=unstable";
    let Output { status, stdout, stderr } =
        launch(dir.path(), &["--boot", "kernel", "--append", words]);
    let (console, said) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert_eq!(status.code(), Some(3), "{said}{console}");
    assert!(console.contains("cvm-init: FATAL: config: "), "{console}");
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("scripts/qemu: the guest refused to boot: config: "), "{said}");
    assert!(last.contains("roothash=00"), "{said}");
    assert_eq!(entries(&dir.path().join("tmp")), [] as [PathBuf; 0]);
}

#[test]
fn a_plain_vm_boots_from_the_disk_through_its_firmware() {
    let _alone = alone();
    let dir = image("firmware");
    with_guest(dir.path());
    // No boot loader: the firmware's shell starts the kernel.
    fs::write(
        dir.path().join("startup.nsh"),
        "fs0:\r\nlinux.efi initrd=\\initrd quiet console=ttyS0 panic=-1\r\n",
    )
    .unwrap();
    run(Command::new("sh")
        .args([
            "-ec",
            "PATH=$PATH:/usr/sbin:/sbin; \
               printf 'label: gpt\nstart=2048, size=60M, type=U\n' | sfdisk -q img/disk.img; \
               mkfs.fat -i 1 --offset 2048 img/disk.img 61440; \
               export MTOOLS_SKIP_CHECK=1; mcopy -i img/disk.img@@1M startup.nsh ::; \
               mcopy -i img/disk.img@@1M img/bzImage ::linux.efi; \
               mcopy -i img/disk.img@@1M img/rootfs.cpio.gz ::initrd",
        ])
        .current_dir(dir.path()));
    let before = fs::read(dir.path().join("img/disk.img")).unwrap();
    let facts = facts(dir.path(), &["--boot", "disk"]);
    assert_eq!(facts.len(), 5, "{facts:?}");
    assert!(facts[4].ends_with("quiet console=ttyS0 panic=-1"), "{facts:?}");
    let after = fs::read(dir.path().join("img/disk.img")).unwrap();
    assert!(before == after, "the image was written");
    assert_eq!(entries(&dir.path().join("tmp")), [] as [PathBuf; 0]);
}
