//! What is measured, as a table for people.

use std::fmt::{Display, Write as _};

use crate::measure::document::{Document, Unknown};
use crate::measure::machine::Machine;
use crate::measure::tpm::Chain;

/// Lines that are grouped below a heading.
struct Table(String);

impl Table {
    fn heading(&mut self, text: impl Display) {
        let gap = if self.0.is_empty() { "" } else { "\n" };
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{gap}{text}");
    }

    fn row(&mut self, name: impl Display, value: impl Display) {
        let _ = writeln!(self.0, "  {:<15} {value}", name.to_string());
    }

    fn chain(&mut self, name: &str, chain: Option<&Chain>) {
        let Some(chain) = chain else { return };
        self.heading(format_args!(
            "{name}, a TPM's SHA-256 bank; holds for {}",
            chain.holds_for.join(", ")
        ));
        for (pcr, value) in &chain.sha256 {
            self.row(format_args!("PCR {pcr}"), value);
        }
        if let Some(held) = &chain.pcr_4_under_secure_boot {
            self.row("PCR 4", format_args!("{} (Secure Boot is on)", held.sha256));
        }
    }
}

/// All of it, but for the SHA-384 bank and the events.
#[must_use]
pub fn table(document: &Document, machine: &Machine) -> String {
    let mut table = Table(String::new());
    for (name, chain) in document.chains() {
        table.chain(name, chain);
    }
    if let Some(older) = &machine.pcr_4_of_older_qemu {
        table.heading(format_args!(
            "direct boot by QEMU before 10.2, no guest of SEV, {} MiB of memory",
            older.memory >> 20
        ));
        table.row("PCR 4", older.value.sha256);
    }
    for snp in &machine.snp {
        table.heading(format_args!(
            "direct boot on SNP with kernel-hashes=on: {}, {} of {}",
            snp.ovmf.file, snp.vcpus, snp.cpu
        ));
        table.row(format_args!("features {}", snp.guest_features), snp.launch_digest);
    }
    for igvm in &machine.igvm {
        table.heading(format_args!("SNP from {}, by {}", igvm.file, igvm.by));
        table.row("launch digest", igvm.launch_digest);
    }
    for tdx in &machine.tdx {
        table.heading(format_args!(
            "direct boot on TDX: {}; a firmware without TdTcg2Dxe leaves RTMR1 and RTMR2 zero",
            tdx.ovmf.file
        ));
        table.row("MRTD", tdx.mrtd);
        table
            .row("MRTD, Ubuntu", format_args!("{} (QEMU 8.2 of Ubuntu)", tdx.mrtd_all_added_first));
        table.row("RTMR1", format_args!("{} (QEMU 10.2 and newer)", tdx.rtmr1.qemu_10_2));
        if let Some(older) = &tdx.rtmr1.older {
            let memory = older.memory >> 20;
            table.row("RTMR1", format_args!("{} (older, {memory} MiB of memory)", older.value));
        }
        table.row("RTMR2", tdx.rtmr2);
        if let Some(rtmr3) = tdx.rtmr3 {
            table.row("RTMR3", rtmr3);
        }
    }
    table.heading("not predicted");
    for Unknown { value, why } in &document.not_predicted {
        let _ = writeln!(table.0, "  {value}: {why}");
    }
    table.0
}
