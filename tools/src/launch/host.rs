//! What a launch wants of this host, looked at before anything is made.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use cvm_init::error::{Error, Result};
use rustix::fs::{Access, access};
use serde_json::Value;

use crate::files;
use crate::launch::firmware::{Firmware, has_place_for_hashes};
use crate::launch::note;
use crate::launch::plan::{Boot, Forward, Plan, Tee};
use crate::launch::variables as of;
use crate::vm::command::Accelerator;
use crate::vm::{kvm_works, process};

/// What is found of a launch.
#[derive(Clone, Debug)]
pub struct Found {
    /// Who carries out the guest's instructions.
    pub accelerator: Accelerator,
    /// Which ports lead to the guest.
    pub forward: Vec<Forward>,
    /// The disks of the layers.
    pub layers: Vec<PathBuf>,
    /// The command line of a kernel that is booted directly.
    pub words: Option<String>,
}

/// What this host lacks for such a VM; nothing when it has all.
#[must_use]
pub fn missing_for(tee: Tee) -> Option<String> {
    let (flag, parameter, devices) = match tee {
        Tee::None => return None,
        Tee::Snp => ("sev_snp", "kvm_amd/parameters/sev_snp", ["/dev/kvm", "/dev/sev"]),
        Tee::Tdx => {
            ("tdx_host_platform", "kvm_intel/parameters/tdx", ["/dev/kvm", "/dev/vhost-vsock"])
        }
    };
    let parameter = format!("/sys/module/{parameter}");
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    if !read("/proc/cpuinfo").split_whitespace().any(|word| word == flag) {
        return Some(format!("/proc/cpuinfo has no flag {flag}"));
    }
    if read(&parameter).trim_end() != "Y" {
        return Some(format!("{parameter} does not say Y"));
    }
    let device = devices.into_iter().find(|device| !Path::new(device).exists())?;
    Some(format!("there is no {device}"))
}

/// Where files of a VM's own are made, because /tmp is often in memory.
#[must_use]
pub fn temporary() -> PathBuf {
    let set = env::var_os("TMPDIR").filter(|folder| !folder.is_empty());
    set.map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from)
}

impl Found {
    /// Looks for all that a plan needs. What is only to be printed is looked for where the printed
    /// words depend on it.
    ///
    /// # Errors
    /// The first that is missing, and how to have it.
    pub fn of(plan: &Plan) -> Result<Self> {
        let mut forward = plan.forward.clone();
        if !plan.dry_run {
            check(plan)?;
        }
        if forward.is_empty() {
            forward.extend(plan.agents_forward());
            if !plan.dry_run {
                for forward in &mut forward {
                    forward.host = choose_port(plan, forward.host)?;
                }
            }
        }
        Ok(Self {
            accelerator: choose_accelerator(plan)?,
            forward,
            layers: layers(plan)?,
            words: (plan.boot == Boot::Kernel).then(|| words(plan)).transpose()?,
        })
    }
}

fn check(plan: &Plan) -> Result<()> {
    let variables = &plan.variables;
    let folder = temporary();
    if !folder.is_dir() {
        return Err(Error::new(format!("cannot use TMPDIR={}: no such folder", folder.display())));
    }
    let package = if plan.is_aarch64() { "qemu-system-arm" } else { "qemu-system-x86" };
    for (needed, tool, package) in [
        (true, variables.get(&of::BIN_PATH), package),
        (plan.disk || plan.volume.is_some(), "qemu-img", "qemu-utils"),
        (plan.tpm.is_some(), "swtpm", "swtpm"),
        (variables.says(&of::USE_SUDO) == Some(true), "sudo", "sudo"),
    ] {
        if needed && process::find(tool).is_none() {
            return Err(Error::new(format!(
                "cannot find {tool}: install it with 'apt-get install {package}' or scripts/setup"
            )));
        }
    }
    if plan.disk {
        let image = variables.get(&of::SRC_DISK_FILE);
        need_file(image, "make it with scripts/image and name it with --disk")?;
    }
    if let Some(layers) = &plan.layers {
        need_file(&format!("{layers}/layers.json"), "make it with scripts/layers")?;
    }
    for data in &plan.data {
        need_file(&data.of, "docs/disks.md says how to make it: 'Further verified data'")?;
    }
    if plan.boot == Boot::Kernel {
        for variable in [of::DISK_IMG_KERNEL_FILE, of::DISK_IMG_ROOTFS_FILE] {
            let hint = format!("name it with {}{}", of::PREFIX, variable.name);
            need_file(variables.get(&variable), &hint)?;
        }
    }
    need_firmware(plan)?;
    for share in [of::CERTS_MOUNT, of::ENV_MOUNT] {
        if let Some(folder) = variables.some(&share)
            && !(Path::new(folder).is_dir()
                && access(folder, Access::READ_OK | Access::EXEC_OK).is_ok())
        {
            return Err(Error::new(format!("cannot share {folder}: not a readable folder")));
        }
    }
    if let Some(missing) = missing_for(plan.tee) {
        return Err(Error::new(format!("cannot launch with --tee {}: {missing}", plan.tee)));
    }
    match plan.forward.iter().find(|forward| in_use(forward.host)) {
        Some(forward) => {
            Err(Error::new(format!("cannot forward port {}: it is in use", forward.host)))
        }
        None => Ok(()),
    }
}

fn need_file(file: &str, hint: &str) -> Result<()> {
    files::open(Path::new(file), hint).map(drop)
}

/// The text of a file, without the line breaks at its end.
fn need_text(file: &str, hint: &str) -> Result<String> {
    let text = files::text(Path::new(file), hint)?;
    Ok(text.trim_end_matches('\n').to_owned())
}

/// The firmware has to be there, and to be for what is booted.
fn need_firmware(plan: &Plan) -> Result<()> {
    let (file, hint) = (&*plan.firmware_file, plan.firmware.hint());
    match plan.firmware {
        Firmware::Own => Ok(()),
        Firmware::Igvm | Firmware::Tdvf => need_file(file, hint),
        Firmware::Flash => {
            need_file(file, hint)?;
            let variables = plan.variables.get(&of::OVMF_VARS_FILE);
            need_file(
                variables,
                "name it with MANAGER_QEMU_OVMF_VARS_FILE, or install it with 'apt-get install ovmf'",
            )
        }
        Firmware::Hashes => {
            let firmware = files::bytes(Path::new(file), hint)?;
            if has_place_for_hashes(file, &firmware) {
                return Ok(());
            }
            Err(Error::new(format!(
                "cannot use {file}: it has no place for the hashes of kernel, initramfs and command line; {hint}"
            )))
        }
    }
}

/// Whether a socket of this host listens there: proc(5), `/proc/net/tcp`.
fn in_use(port: u16) -> bool {
    const LISTEN: &str = "0A";
    let end = format!(":{port:04X}");
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().any(|table| {
        let table = fs::read_to_string(table).unwrap_or_default();
        table.lines().any(|line| {
            let mut fields = line.split_whitespace().skip(1);
            fields.next().is_some_and(|local| local.ends_with(&end))
                && fields.nth(1) == Some(LISTEN)
        })
    })
}

/// The agent's port, or one of the range when another VM has it.
fn choose_port(plan: &Plan, agents: u16) -> Result<u16> {
    let others = plan.variables.forward_range().into_iter().flatten();
    let none = || {
        let range = plan.variables.get(&of::HOST_FWD_RANGE);
        Error::new(format!("cannot forward a port: {agents} and {range} are all in use"))
    };
    std::iter::once(agents).chain(others).find(|port| !in_use(*port)).ok_or_else(none)
}

/// Whether the guest has the host's processors or is emulated.
fn choose_accelerator(plan: &Plan) -> Result<Accelerator> {
    let wanted = plan.variables.says(&of::ENABLE_KVM);
    if wanted == Some(false) {
        return Ok(Accelerator::Tcg);
    }
    if plan.tee != Tee::None || kvm_works() || (wanted == Some(true) && plan.dry_run) {
        return Ok(Accelerator::Kvm);
    }
    if wanted == Some(true) {
        return Err(Error::new(
            "cannot use KVM, which MANAGER_QEMU_ENABLE_KVM=true asks for: /proc/cpuinfo has neither svm \
             nor vmx, or /dev/kvm does not open",
        ));
    }
    note(&"no KVM here: the guest is emulated, which is slow");
    Ok(Accelerator::Tcg)
}

/// The disks of the layers: only as many as layers.json has, as a folder may hold those of an image before.
fn layers(plan: &Plan) -> Result<Vec<PathBuf>> {
    const HINT: &str = "make it with scripts/layers";
    let Some(folder) = &plan.layers else { return Ok(Vec::new()) };
    let list = format!("{folder}/layers.json");
    let count = |text: &str| {
        serde_json::from_str::<Value>(text).ok()?.get("layers")?.as_array().map(Vec::len)
    };
    let count = count(&need_text(&list, HINT)?)
        .ok_or_else(|| Error::new(format!("cannot read {list}: {HINT}")))?;
    let files = (0..count).map(|number| {
        let file = format!("{folder}/layer{number}.img");
        if !plan.dry_run {
            need_file(&file, HINT)?;
        }
        Ok(PathBuf::from(file))
    });
    files.collect()
}

/// The words that every command line has, which scripts/image puts into those of its images.
fn fixed_words() -> impl Iterator<Item = &'static str> {
    let lines = include_str!("../../../scripts/image.d/words").lines();
    lines.filter(|line| !line.starts_with('#'))
}

/// The command line of a kernel that is booted directly.
fn words(plan: &Plan) -> Result<String> {
    let mut words = Vec::new();
    if plan.disk {
        let beside = &plan.beside;
        words.push(need_text(&format!("{beside}/cmdline"), "scripts/image makes it")?);
    }
    if let Some(layers) = &plan.layers {
        words.extend(fixed_words().map(str::to_owned));
        words.push(need_text(&format!("{layers}/cmdline"), "scripts/layers makes it")?);
        words.extend(
            plan.volume.iter().map(|volume| format!("cvm.volume=serial:{}", volume.serial)),
        );
    }
    words.extend(plan.append.iter().cloned());
    Ok(words.join(" "))
}
