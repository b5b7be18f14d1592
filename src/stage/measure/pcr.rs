//! PCR 15 of a TPM 2.0: what the system itself is, by the UAPI group's Linux TPM PCR registry.

use std::fmt;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::Register;
use crate::error::{Error, Result};
use crate::format::bank::{self, Bank, Values};
use crate::format::cel::{self, Measured};
use crate::format::event::Event;
use crate::format::tpm2;

const PCR: u8 = 15;
const NAME: &str = "PCR 15";

/// Where systemd keeps its own log, and goes on with this one.
const LOG_DIRS: &[&str] = &["/run/log", "/run/log/systemd"];
const LOG: &str = "/run/log/systemd/tpm2-measure.log";

/// How long a TPM may want the same command again. The kernel has tried for seconds itself when
/// it hands on that answer for the first time.
const BUSY_MAX: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);

/// The register. `A` has the TPM carry out a command and returns its answer.
pub(super) struct Pcr<A> {
    ask: A,
    busy_max: Duration,
    /// The banks that the TPM keeps it in, once it was asked.
    banks: Vec<Bank>,
    /// What it was extended by, and when, in microseconds since the boot.
    measured: Vec<(Event, u64)>,
}

impl<A> fmt::Debug for Pcr<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pcr").field("banks", &self.banks).finish_non_exhaustive()
    }
}

impl<A: FnMut(&[u8]) -> io::Result<Vec<u8>>> Pcr<A> {
    pub(super) fn new(ask: A) -> Self {
        Self { ask, busy_max: BUSY_MAX, banks: Vec::new(), measured: Vec::new() }
    }

    /// The TPM's answer to a command, as often as it wants to be asked.
    fn ask(&mut self, command: &[u8]) -> Result<Vec<u8>> {
        let begun = Instant::now();
        loop {
            let answer =
                (self.ask)(command).map_err(|cause| Error::cannot(&"ask the TPM", &cause))?;
            match tpm2::busy(&answer) {
                Some(_) if begun.elapsed() < self.busy_max => thread::sleep(PAUSE),
                // What is made of the answer then says that it is busy.
                _ => return Ok(answer),
            }
        }
    }
}

impl<A: FnMut(&[u8]) -> io::Result<Vec<u8>>> Register for Pcr<A> {
    fn name(&self) -> &'static str {
        NAME
    }

    fn read(&mut self) -> Result<Values> {
        if self.banks.is_empty() {
            self.banks = tpm2::banks(PCR, &self.ask(&tpm2::ask_banks())?)?;
            if self.banks.is_empty() {
                let known: Vec<_> = Bank::ALL.iter().map(|bank| bank.name()).collect();
                return Err(Error::new(format!(
                    "the TPM keeps it in none of {}",
                    known.join(", ")
                )));
            }
        }
        let answer = self.ask(&tpm2::read(PCR, &self.banks))?;
        tpm2::values(PCR, &self.banks, &answer)
    }

    fn measured(&self, event: &Event) -> Vec<u8> {
        event.line().into()
    }

    fn extend(&mut self, event: &Event) -> Result<()> {
        let answer = self.ask(&tpm2::measure(PCR, event))?;
        bank::require("the TPM's digest", &tpm2::digests(&answer)?, &digests(&self.banks, event))?;
        let now = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        let rest = u64::try_from(now.tv_nsec / 1000).unwrap_or(0);
        self.measured.push((event.clone(), seconds.saturating_mul(1_000_000).saturating_add(rest)));
        Ok(())
    }

    fn log_place(&self) -> (&'static [&'static str], &'static str) {
        (LOG_DIRS, LOG)
    }

    fn log(&self, boot_id: &str) -> Result<Vec<u8>> {
        let mut log = String::new();
        for (event, timestamp) in &self.measured {
            let digests = digests(&self.banks, event);
            let (string, timestamp) = (event.line(), *timestamp);
            let measured = Measured { pcr: PCR, string, digests: &digests, boot_id, timestamp };
            log += &cel::record(&measured).map_err(|cause| Error::new(cause.to_string()))?;
        }
        Ok(log.into_bytes())
    }
}

fn digests(banks: &[Bank], event: &Event) -> Values {
    banks.iter().map(|bank| (*bank, bank.digest(&[event.line().as_bytes()]))).collect()
}

#[cfg(test)]
mod tests;
