//! RTMR3 of a TD, which a verifier takes only with the log that explains it.

use super::Register;
use crate::error::{Error, Result};
use crate::format::aael;
use crate::format::bank::{Bank, Values};
use crate::format::event::Event;
use crate::kernel::rtmr::Rtmr;

const NAME: &str = "RTMR3";

/// For whoever hands logs to verifiers; it lies beside the report.
const LOG: &str = "/run/cvm-init/aael";

/// The register, and what it was extended by.
#[derive(Debug)]
pub(super) struct Rtmr3 {
    rtmr: Rtmr,
    measured: Vec<Event>,
}

impl Rtmr3 {
    pub(super) fn new(rtmr: Rtmr) -> Self {
        Self { rtmr, measured: Vec::new() }
    }
}

impl Register for Rtmr3 {
    fn name(&self) -> &'static str {
        NAME
    }

    fn read(&mut self) -> Result<Values> {
        let value = self.rtmr.read().map_err(|cause| Error::new(cause.to_string()))?;
        Ok(vec![(Bank::Sha384, value)])
    }

    fn measured(&self, event: &Event) -> Vec<u8> {
        aael::tagged(event)
    }

    fn extend(&mut self, event: &Event) -> Result<()> {
        let digest = Bank::Sha384.digest(&[&aael::tagged(event)]);
        self.rtmr.extend(&digest).map_err(|cause| Error::new(cause.to_string()))?;
        self.measured.push(event.clone());
        Ok(())
    }

    fn log_place(&self) -> (&'static [&'static str], &'static str) {
        (&[], LOG)
    }

    fn log(&self, _: &str) -> Result<Vec<u8>> {
        Ok(self.measured.iter().flat_map(aael::entry).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{env, fs, process};

    /// A file holds what was written last, and a register that does so is found out.
    #[test]
    fn an_event_is_extended_by_what_its_entry_has() {
        let place = env::temp_dir().join(format!("cvm-init-rtmr3-{}", process::id()));
        fs::write(&place, [0; 48]).unwrap();
        let mut register = Rtmr3::new(Rtmr::open(&place).unwrap());
        assert_eq!(register.read().unwrap(), [(Bank::Sha384, vec![0; 48])]);
        let event = Event::new("handoff", "init=/init").unwrap();
        register.extend(&event).unwrap();
        let log = register.log("").unwrap();
        assert_eq!(log, aael::entry(&event));
        assert_eq!(fs::read(&place).unwrap(), log[14..62]);
        let digest = Bank::Sha384.digest(&[&register.measured(&event)]);
        assert_eq!(digest, log[14..62]);
        fs::remove_file(place).unwrap();
    }
}
