//! What the command line of a launch asks for.

#![expect(clippy::doc_markdown, reason = "what --help says is read as it is")]

use clap::Args;

/// What `--help` says before the options.
pub const INTRODUCTION: &str = "\
Launches an image that scripts/image made and waits until the VM ends. The image is not
written: the VM has an overlay of its own, one GiB larger, and its own copy of the firmware's
variables; both are removed at the end. The GiB lies behind the end that the partition table
knows, of which the guest's kernel warns in five lines (GPT: ...); nothing is wrong then.

On a terminal, all keys are the guest's, Ctrl-C too. Ctrl-A X ends the VM. Without a terminal,
SIGINT and SIGTERM end it.

Forwarded ports are open to all that reach this host, as the Manager's are: whoever uses the
agent is elsewhere. --listen 127.0.0.1 leaves them to this host.";

/// A launch, as it is asked for.
#[derive(Args, Clone, Debug, Default)]
pub struct Request {
    /// a plain VM, AMD SEV-SNP or Intel TDX (default: what the host has)
    #[arg(long, value_name = "none|snp|tdx", verbatim_doc_comment)]
    pub tee: Option<String>,
    /// firmware and boot loader from the disk (default), or the kernel and
    /// initramfs directly, with the words of the file cmdline beside the disk
    #[arg(long, value_name = "disk|kernel", verbatim_doc_comment)]
    pub boot: Option<String>,
    /// the image, raw or qcow2, with its kernel and initramfs beside it unless
    /// their variables say where else
    #[arg(long, value_name = "FILE", verbatim_doc_comment)]
    pub disk: Option<String>,
    /// one more disk, blank and gone when the VM ends: a place for the volume, with
    /// cvm.volume=serial:SERIAL on the guest's command line, which --layers puts
    /// there
    #[arg(long, value_name = "SIZE:SERIAL", verbatim_doc_comment)]
    pub volume: Option<String>,
    /// in place of a disk image, the disks that scripts/layers has put there, with the
    /// words of its file cmdline; goes with --boot kernel. What the guest
    /// writes goes to --volume (default: 10G:cocoon-cow). Kernel and initramfs
    /// are bzImage and rootfs.cpio.gz in DIR, unless their variables say where else
    #[arg(long, value_name = "DIR", verbatim_doc_comment)]
    pub layers: Option<String>,
    /// one more disk, raw and read-only: verified data for a cvm.data= with this
    /// serial; may be repeated
    #[arg(long, value_name = "FILE:SERIAL", verbatim_doc_comment)]
    pub data: Vec<String>,
    /// added to the kernel command line of --boot kernel; may be repeated
    #[arg(long, value_name = "WORDS", verbatim_doc_comment)]
    pub append: Vec<String>,
    /// shared with the guest as env_share, its /etc/cocos
    #[arg(long, value_name = "DIR", verbatim_doc_comment)]
    pub env: Option<String>,
    /// shared with the guest as certs_share, its /etc/certs
    #[arg(long, value_name = "DIR", verbatim_doc_comment)]
    pub certs: Option<String>,
    /// firmware: of --tee tdx; of --tee snp --boot kernel, where it has to check
    /// the hashes of what is booted (default: OVMF.amdsev.fd, where Debian and
    /// Fedora put it); of a plain VM, which otherwise has SeaBIOS for --boot
    /// kernel without --tpm
    #[arg(long, value_name = "FILE", verbatim_doc_comment)]
    pub ovmf: Option<String>,
    /// firmware of --tee snp that boots from disk; with --measured-by-vtpm of
    /// --boot kernel, too
    #[arg(long, value_name = "FILE", verbatim_doc_comment)]
    pub igvm: Option<String>,
    /// boot the kernel of --tee snp --boot kernel from an IGVM file, although the
    /// launch digest then says nothing of kernel, initramfs and command line: what
    /// counts is a TPM that the file offers, as COCONUT-SVSM does
    #[arg(long, verbatim_doc_comment)]
    pub measured_by_vtpm: bool,
    /// a TPM 2.0 for a plain VM, by swtpm, with its state in DIR, which is made if it
    /// is not there. It is this host's: for tests
    #[arg(long, value_name = "DIR", verbatim_doc_comment)]
    pub tpm: Option<String>,
    /// TCP port of the host that leads to the guest's; may be repeated
    #[arg(long, value_name = "HOST:GUEST", verbatim_doc_comment)]
    pub forward: Vec<String>,
    /// IPv4 address of the host whose ports those are (default: all it has)
    #[arg(long, value_name = "ADDRESS", verbatim_doc_comment)]
    pub listen: Option<String>,
    /// print what would be run, for a shell; whether the host has it all is
    /// not checked
    #[arg(long, verbatim_doc_comment)]
    pub dry_run: bool,
    /// QEMU's
    #[arg(last = true, hide = true)]
    pub more: Vec<String>,
}

/// What `--help` says behind the options.
pub const MORE_HELP: &str = "\
Exit status: 0 when the guest has shut down, 3 when the last that its console said has the line
'cvm-init: FATAL: ' of a boot that was refused, that of QEMU when QEMU failed, else 1, or 2 for
a wrong command line. It is the guest that writes the line: the status is for what goes wrong,
not proof of what the guest is. With a -serial of yours among QEMU's arguments, or without
NO_GRAPHIC, the console is not looked at.

Variables, which flags win over; each name goes on after MANAGER_QEMU_ :
";
