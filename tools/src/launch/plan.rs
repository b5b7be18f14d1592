//! Which VM it is, what it boots and by which firmware: what a request and the variables come to.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::Path;

use cvm_init::error::{Error, Result};

use crate::launch::firmware::{self, Firmware};
use crate::launch::request::Request;
use crate::launch::variables::{self as of, Variables, is_size, port};

/// What keeps a VM from its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tee {
    /// Nothing: a plain VM.
    None,
    /// AMD SEV-SNP.
    Snp,
    /// Intel TDX.
    Tdx,
}

impl fmt::Display for Tee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Snp => "snp",
            Self::Tdx => "tdx",
        })
    }
}

/// What is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boot {
    /// Firmware and boot loader from the disk.
    Disk,
    /// Kernel and initramfs.
    Kernel,
}

impl fmt::Display for Boot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disk => "disk",
            Self::Kernel => "kernel",
        })
    }
}

/// One more disk: what it is made of, and its serial number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The size of a blank one, with QEMU's suffixes, or a file.
    pub of: String,
    /// By which the guest knows it.
    pub serial: String,
}

/// TCP port of the host, and that of the guest to which it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The host's.
    pub host: u16,
    /// The guest's.
    pub guest: u16,
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.guest)
    }
}

/// What a plan depends on of the host.
pub struct Host<'a> {
    /// What it lacks for such a VM; nothing when it has all.
    pub missing_for: &'a dyn Fn(Tee) -> Option<String>,
    /// Whether there is such a file.
    pub exists: &'a dyn Fn(&str) -> bool,
}

/// A launch, before anything of it is looked at or made.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What the variables hold, and flags instead of them.
    pub variables: Variables,
    /// What keeps it from the host.
    pub tee: Tee,
    /// What is started.
    pub boot: Boot,
    /// How QEMU is given a firmware.
    pub firmware: Firmware,
    /// Which; empty for [`Firmware::Own`].
    pub firmware_file: String,
    /// Whether there is the disk of an image. Without, the image is all initramfs, or [`layers`](Self::layers).
    pub disk: bool,
    /// The folder of the disks that an image's layers are.
    pub layers: Option<String>,
    /// A blank disk.
    pub volume: Option<Disk>,
    /// Verified data.
    pub data: Vec<Disk>,
    /// Words for the kernel's command line.
    pub append: Vec<String>,
    /// Where the state of its TPM is.
    pub tpm: Option<String>,
    /// As asked for; the agent's port where there are none.
    pub forward: Vec<Forward>,
    /// Whose ports those are; all that the host has where it is none.
    pub listen: Option<Ipv4Addr>,
    /// QEMU's arguments.
    pub more: Vec<String>,
    /// Where the parts of the image lie.
    pub beside: String,
    /// Whether it is only to be printed.
    pub dry_run: bool,
}

/// A flag that has a value.
fn given(flag: Option<&String>) -> Option<&str> {
    flag.map(String::as_str).filter(|value| !value.is_empty())
}

fn refuse<T>(reason: impl Into<String>) -> Result<T> {
    Err(Error::new(reason))
}

impl Plan {
    /// Chooses.
    ///
    /// # Errors
    /// What is asked for does not go together.
    pub fn of(request: &Request, mut variables: Variables, host: &Host<'_>) -> Result<Self> {
        for (variable, flag) in [
            (of::SRC_DISK_FILE, &request.disk),
            (of::ENV_MOUNT, &request.env),
            (of::CERTS_MOUNT, &request.certs),
        ] {
            variables.set(&variable, flag.as_deref());
        }
        let layers = given(request.layers.as_ref());
        // scripts/image and scripts/layers put them there.
        let beside =
            layers.map_or_else(|| folder_of(variables.get(&of::SRC_DISK_FILE)), str::to_owned);
        variables.set_default(&of::DISK_IMG_KERNEL_FILE, &format!("{beside}/bzImage"));
        variables.set_default(&of::DISK_IMG_ROOTFS_FILE, &format!("{beside}/rootfs.cpio.gz"));

        let tee = choose_tee(given(request.tee.as_ref()), &variables, host)?;
        let boot = choose_boot(given(request.boot.as_ref()), layers, &variables)?;
        let firmware = choose_firmware(request, tee, boot, &variables)?;
        variables.set(&of::IGVM_FILE, given(request.igvm.as_ref()));
        let ovmf = given(request.ovmf.as_ref());
        let firmware_file = match firmware {
            Firmware::Own => "",
            Firmware::Flash => ovmf.unwrap_or(variables.get(&of::OVMF_CODE_FILE)),
            Firmware::Igvm => variables.get(&of::IGVM_FILE),
            Firmware::Tdvf => ovmf.unwrap_or(variables.get(&of::OVMF_FILE)),
            Firmware::Hashes => ovmf.unwrap_or_else(|| firmware::hashing(host.exists)),
        }
        .to_owned();

        let append: Vec<_> = request.append.clone();
        if boot == Boot::Disk && append.iter().any(|words| !words.is_empty()) {
            return refuse("--append is for --boot kernel: the disk has its own command line");
        }
        if variables.says(&of::ENABLE_HOST_DATA) == Some(true)
            && variables.some(&of::HOST_DATA).is_none()
        {
            return refuse(
                "MANAGER_QEMU_ENABLE_HOST_DATA is true and MANAGER_QEMU_HOST_DATA is missing",
            );
        }
        let disk = layers.is_none()
            && (boot == Boot::Disk || variables.says(&of::ENABLE_DISK) != Some(false));
        let default_volume = layers.map(|_| "10G:cocoon-cow");
        let volume = given(request.volume.as_ref()).or(default_volume).map(|pair| {
            pair_of(pair, is_size).ok_or_else(|| {
                Error::new(format!("--volume {pair} is not SIZE:SERIAL, such as 10G:SCRATCH"))
            })
        });
        let data = request.data.iter().map(|pair| {
            pair_of(pair, |file| !file.is_empty())
                .ok_or_else(|| Error::new(format!("--data {pair} is not FILE:SERIAL")))
        });
        let (volume, data) = (volume.transpose()?, data.collect::<Result<Vec<_>>>()?);
        if !disk && layers.is_none() && (volume.is_some() || !data.is_empty()) {
            return refuse("--volume and --data are for a VM with a disk");
        }
        let tpm = given(request.tpm.as_ref());
        if let Some(tpm) = tpm.filter(|tpm| tpm.contains(',')) {
            return refuse(format!("--tpm {tpm} holds a comma, at which swtpm would end it"));
        }
        Ok(Self {
            tee,
            boot,
            firmware,
            firmware_file,
            disk,
            layers: layers.map(str::to_owned),
            volume,
            data,
            append,
            tpm: tpm.map(str::to_owned),
            forward: forwards(&request.forward)?,
            listen: listen(given(request.listen.as_ref()))?,
            more: request.more.clone(),
            beside,
            dry_run: request.dry_run,
            variables,
        })
    }

    /// Whether QEMU is the one for that architecture.
    #[must_use]
    pub fn is_aarch64(&self) -> bool {
        let program = Path::new(self.variables.get(&of::BIN_PATH)).file_name().unwrap_or_default();
        program.to_string_lossy().contains("aarch64")
    }

    /// The pair that is forwarded when none is asked for.
    #[must_use]
    pub fn agents_forward(&self) -> Option<Forward> {
        let port = |variable| port(self.variables.get(variable));
        Some(Forward { host: port(&of::HOST_FWD_AGENT)?, guest: port(&of::GUEST_FWD_AGENT)? })
    }

    /// What of this boot is measured, by what.
    #[must_use]
    pub fn chain(&self) -> String {
        /// What Debian 12's does not.
        const EXTENDED: &str =
            "both by a firmware that has TdTcg2Dxe: Debian 13's OVMF.fd, not Debian 12's";
        let Self { firmware_file, beside, .. } = self;
        if let Some(tpm) = &self.tpm {
            return format!(
                "into the TPM in {tpm}, which is this host's and proves nothing to others; \
                 'scripts/measure {beside}' tells its registers"
            );
        }
        match (self.firmware, self.boot) {
            (Firmware::Own | Firmware::Flash, _) => {
                "by nothing that proves it to others: a plain VM".to_owned()
            }
            (Firmware::Hashes, _) => format!(
                "firmware, kernel, initramfs and command line in the launch digest; \
                 'scripts/measure --ovmf {firmware_file} {beside}' tells it"
            ),
            (Firmware::Igvm, _) => format!(
                "{firmware_file} in the launch digest, and nothing else; all that it boots in the TPM \
                 that it offers, if it does: docs/svsm.md"
            ),
            (Firmware::Tdvf, Boot::Kernel) => format!(
                "firmware in MRTD, kernel in RTMR1, initramfs and command line in RTMR2, {EXTENDED}"
            ),
            (Firmware::Tdvf, Boot::Disk) => format!(
                "firmware in MRTD, boot loader in RTMR1, what that boots in RTMR2, {EXTENDED}"
            ),
        }
    }
}

/// The folder in which a file lies, as dirname(1) has it.
fn folder_of(file: &str) -> String {
    let parent = Path::new(file).parent().filter(|parent| *parent != Path::new(""));
    parent.unwrap_or(Path::new(".")).display().to_string()
}

/// What flag, variables or host say.
fn choose_tee(flag: Option<&str>, variables: &Variables, host: &Host<'_>) -> Result<Tee> {
    let (snp, tdx) = (variables.says(&of::ENABLE_SEV_SNP), variables.says(&of::ENABLE_TDX));
    let host_has = |tee| (host.missing_for)(tee).is_none();
    let tee = match (flag, snp, tdx) {
        (Some("none"), ..) => Tee::None,
        (Some("snp"), ..) => Tee::Snp,
        (Some("tdx"), ..) => Tee::Tdx,
        (Some(other), ..) => return refuse(format!("--tee {other} is none of none, snp, tdx")),
        (None, Some(true), Some(true)) => {
            return refuse(
                "a VM is either SNP or TDX: MANAGER_QEMU_ENABLE_SEV_SNP and MANAGER_QEMU_ENABLE_TDX are both true",
            );
        }
        (None, Some(true), _) => Tee::Snp,
        (None, _, Some(true)) => Tee::Tdx,
        (None, None, _) if host_has(Tee::Snp) => Tee::Snp,
        (None, _, None) if host_has(Tee::Tdx) => Tee::Tdx,
        (None, ..) => Tee::None,
    };
    if tee != Tee::None && variables.says(&of::ENABLE_KVM) == Some(false) {
        return refuse(format!("--tee {tee} needs KVM, and MANAGER_QEMU_ENABLE_KVM is false"));
    }
    Ok(tee)
}

/// What is started.
fn choose_boot(flag: Option<&str>, layers: Option<&str>, variables: &Variables) -> Result<Boot> {
    match flag {
        Some("kernel") => Ok(Boot::Kernel),
        Some(_) if layers.is_some() => {
            refuse("--layers is for --boot kernel: no firmware starts anything from a layer")
        }
        Some("disk") => Ok(Boot::Disk),
        Some(other) => refuse(format!("--boot {other} is neither disk nor kernel")),
        None if layers.is_some() || variables.says(&of::ENABLE_DISK) == Some(false) => {
            Ok(Boot::Kernel)
        }
        None => Ok(Boot::Disk),
    }
}

/// How QEMU is given one.
fn choose_firmware(
    request: &Request,
    tee: Tee,
    boot: Boot,
    variables: &Variables,
) -> Result<Firmware> {
    let (igvm, ovmf) = (given(request.igvm.as_ref()), given(request.ovmf.as_ref()));
    let (tpm, by_vtpm) = (given(request.tpm.as_ref()), request.measured_by_vtpm);
    let firmware = match (tee, boot) {
        (Tee::None, Boot::Disk) => Firmware::Flash,
        // SeaBIOS boots it faster, and measures none of it into a TPM.
        (Tee::None, Boot::Kernel) if ovmf.is_some() || tpm.is_some() => Firmware::Flash,
        (Tee::None, Boot::Kernel) => Firmware::Own,
        (Tee::Snp, Boot::Kernel) if !by_vtpm => Firmware::Hashes,
        (Tee::Snp, _) => Firmware::Igvm,
        (Tee::Tdx, _) => Firmware::Tdvf,
    };
    // A Manager's file of variables has it as a rule; --ovmf wins over it.
    let by_variable = variables.is_given(&of::IGVM_FILE) && ovmf.is_none();
    let named = igvm.map(|_| "--igvm").or(by_variable.then_some("MANAGER_QEMU_IGVM_FILE"));
    if let (Some(named), Firmware::Hashes) = (named, firmware) {
        return refuse(format!(
            "{named} is not for --boot kernel: QEMU puts no hashes of kernel, initramfs and command line into \
             an IGVM file, so that the launch digest covers none of them; leave it out for a firmware that \
             checks hashes (--ovmf), or say --measured-by-vtpm when the file has COCONUT-SVSM and its vTPM is \
             attested"
        ));
    }
    let refusals = [
        (
            by_vtpm && (tee, boot) != (Tee::Snp, Boot::Kernel),
            format!("--measured-by-vtpm is for --tee snp --boot kernel, not for --tee {tee} --boot {boot}"),
        ),
        (igvm.is_some() && tee != Tee::Snp, format!("--igvm is for --tee snp, not for --tee {tee}")),
        (
            ovmf.is_some() && firmware == Firmware::Igvm,
            format!(
                "--ovmf is not for --tee {tee} --boot {boot}{}, whose firmware is in an IGVM file: --igvm",
                if by_vtpm { " --measured-by-vtpm" } else { "" }
            ),
        ),
        (
            tpm.is_some() && tee != Tee::None,
            "--tpm is for --tee none: a TPM of this host's proves nothing of an SNP or TDX VM; SNP's is in \
             its IGVM file"
                .to_owned(),
        ),
    ];
    match refusals.into_iter().find(|(wrong, _)| *wrong) {
        Some((_, reason)) => refuse(reason),
        None => Ok(firmware),
    }
}

/// What is in front of the last colon, and a serial number behind it.
fn pair_of(pair: &str, is_good: impl Fn(&str) -> bool) -> Option<Disk> {
    let (of, serial) = pair.rsplit_once(':')?;
    let good = (1..=36).contains(&serial.len())
        && serial.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    (good && is_good(of)).then(|| Disk { of: of.to_owned(), serial: serial.to_owned() })
}

fn forwards(pairs: &[String]) -> Result<Vec<Forward>> {
    let forward = |pair: &String| {
        let (host, guest) = pair.split_once(':')?;
        Some(Forward { host: port(host)?, guest: port(guest)? })
    };
    let pairs = pairs.iter().map(|pair| {
        forward(pair)
            .ok_or_else(|| Error::new(format!("--forward {pair} is not HOST:GUEST, two ports")))
    });
    pairs.collect()
}

fn listen(address: Option<&str>) -> Result<Option<Ipv4Addr>> {
    let parse = |address: &str| {
        address
            .parse()
            .map_err(|_| Error::new(format!("--listen {address} is not an IPv4 address")))
    };
    address.map(parse).transpose()
}

#[cfg(test)]
mod tests;
