//! Stage 7: what the boot has come to is recorded where nobody can take it back: in a register of a
//! TPM, or of a TD. A verifier sees the register, and knows what it must be: nothing of one boot is
//! recorded ([`Config::events`]).
//!
//! Who makes the TPM is not asked: one that QEMU emulates for the host proves nothing to anybody else.
//! Here it can do no harm but to end the boot.

mod pcr;
mod rtmr;

use std::fmt::Debug;
use std::fs;
use std::io::Write;
use std::path::Path;

use rustix::fs::Mode;

use self::pcr::Pcr;
use self::rtmr::Rtmr3;
use super::runtime::make_run_dirs;
use crate::config::{Config, Measure};
use crate::effect::{Effect, effect};
use crate::error::{Error, Result};
use crate::format::bank::{self, Values};
use crate::format::event::Event;
use crate::format::{hex, verity};
use crate::kernel::file;
use crate::kernel::rtmr::{RTMR3, Rtmr};
use crate::kernel::tpm::{DEVICES, Tpm};
use crate::report::{BankFacts, MeasuredFacts, Report};

const LOOK_FOR: Effect<1> = Effect::new("look-for", "look for {}");
const OPEN: Effect<1> = Effect::new("open", "open {}");
const READ_REGISTER: Effect<1> = Effect::new("read-register", "read register {}");
const MEASURE: Effect<2> = Effect::new("measure", "measure {} into {}");
const READ: Effect<1> = Effect::new("read", "read {}");
const WRITE: Effect<1> = Effect::new("write", "write {}");

/// Which boot of the kernel this is (random(4)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A register, and the log that explains what is in it.
pub trait Register: Debug {
    /// What verifiers call it.
    fn name(&self) -> &'static str;

    /// What it holds, in each bank.
    ///
    /// # Errors
    /// When whoever keeps it does not say.
    fn read(&mut self) -> Result<Values>;

    /// What of an event is hashed.
    fn measured(&self, event: &Event) -> Vec<u8>;

    /// Extends it by the digests of an event.
    ///
    /// # Errors
    /// When whoever keeps it does not, or says that it was extended by others.
    fn extend(&mut self, event: &Event) -> Result<()>;

    /// Where its log lies: directories that may not be there yet, and the file.
    fn log_place(&self) -> (&'static [&'static str], &'static str);

    /// The log of what it was extended by. `boot_id`: 32 hexadecimal digits.
    ///
    /// # Errors
    /// When it cannot be put into its form.
    fn log(&self, boot_id: &str) -> Result<Vec<u8>>;
}

/// Finds the register that the boot is to be recorded in; none where it is not to be recorded. It is
/// asked for before anything is made, and used when all is.
///
/// # Errors
/// When there is none, and there has to be one.
pub fn find(asked: Measure) -> Result<Option<Box<dyn Register>>> {
    let places = match asked {
        Measure::No => return Ok(None),
        Measure::Auto | Measure::Required => DEVICES,
        Measure::Rtmr3 => &[RTMR3],
    };
    for place in places {
        if effect(LOOK_FOR.on(&[place]), || fs::exists(place))? {
            return effect(OPEN.on(&[place]), || open(Path::new(place), asked)).map(Some);
        }
    }
    match asked {
        Measure::Rtmr3 => Err(Error::new(format!(
            "cvm.measure=rtmr3: there is no {RTMR3} (Linux 6.16, kernel option TDX_GUEST_DRIVER; \
             scripts/initramfs --with rtmr3 packs it where it is a module)"
        ))),
        Measure::Required => Err(Error::new(
            "cvm.measure=required: there is no TPM (kernel options TCG_TPM and TCG_TIS, TCG_CRB or \
             TCG_SVSM)",
        )),
        Measure::Auto | Measure::No => {
            log::info!("there is no TPM: nothing will be recorded of this boot");
            Ok(None)
        }
    }
}

fn open(place: &Path, asked: Measure) -> std::io::Result<Box<dyn Register>> {
    if asked == Measure::Rtmr3 {
        return Ok(Box::new(Rtmr3::new(Rtmr::open(place)?)));
    }
    let mut tpm = Tpm::open(place)?;
    Ok(Box::new(Pcr::new(move |command: &[u8]| tpm.ask(command))))
}

/// Records the boot in `register`, and leaves the log that explains the register. A root on a
/// partition was verified with the parameters `root`.
///
/// # Errors
/// When the register does not come to hold what it must, or the log cannot be written.
pub fn record(
    config: &Config,
    root: Option<&verity::Params>,
    register: Option<Box<dyn Register>>,
    report: &mut Report,
) -> Result<()> {
    let Some(mut register) = register else { return Ok(()) };
    let (name, events) = (register.name(), config.events(root)?);
    let mut wanted = effect(READ_REGISTER.on(&[&name]), || register.read())?;
    if wanted.iter().any(|(_, value)| value.iter().any(|byte| *byte != 0)) {
        log::warn!(
            "{name} is not zero before this boot is recorded: somebody else has extended it"
        );
    }
    for event in &events {
        effect(MEASURE.on(&[&event.operation, &name]), || register.extend(event))?;
        wanted = bank::extended(&wanted, &register.measured(event));
    }
    let values = effect(READ_REGISTER.on(&[&name]), || register.read())?;
    bank::require(name, &values, &wanted)?;
    let log = leave_log(&*register)?;
    let banks: Vec<_> = values.iter().map(|(bank, _)| bank.name()).collect();
    log::info!("{} events measured into {name} ({})", events.len(), banks.join(", "));
    report.measured = Some(MeasuredFacts {
        register: name,
        events: events.iter().map(|event| event.line().to_owned()).collect(),
        values: values
            .iter()
            .map(|(bank, value)| BankFacts { bank: bank.name(), value: hex::encode(value) })
            .collect(),
        log,
    });
    Ok(())
}

/// Writes the log of a register to where others go on with it.
fn leave_log(register: &dyn Register) -> Result<&'static str> {
    let boot_id = effect(READ.on(&[&BOOT_ID]), || file::text(BOOT_ID))?;
    let (dirs, file) = register.log_place();
    make_run_dirs(dirs)?;
    effect(WRITE.on(&[&file]), || {
        let log =
            register.log(&boot_id.trim_end().replace('-', "")).map_err(std::io::Error::other)?;
        file::create(file, Mode::RUSR | Mode::WUSR)?.write_all(&log)
    })?;
    Ok(file)
}
