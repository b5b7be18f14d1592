//! Commands to a TPM 2.0 that measure and read a register, and what it answers.
//!
//! A TPM may be the host's, so an answer is read as strictly as what lies on the disk: it has the
//! size that it says, holds what was asked for and nothing else.
//!
//! Source: TCG, "Trusted Platform Module Library", Part 2 ("Structures") and Part 3 ("Commands"):
//! `TPM2_PCR_Event`, `TPM2_PCR_Read`, `TPM2_GetCapability`. Numbers are big-endian.

use crate::error::{Error, Result};
use crate::format::bank::{Bank, Values};
use crate::format::event::Event;

/// Most bytes of an answer that the kernel hands on (`TPM_BUFSIZE` in its `drivers/char/tpm/tpm.h`).
pub const ANSWER_MAX: usize = 4096;

/// Tags: without and with sessions, one of which has the authorization.
const NO_SESSIONS: u16 = 0x8001;
const SESSIONS: u16 = 0x8002;
/// That of every answer of a TPM 1.2.
const TPM_1_2: u16 = 0x00c4;

const PCR_EVENT: u32 = 0x0000_013c;
const GET_CAPABILITY: u32 = 0x0000_017a;
const PCR_READ: u32 = 0x0000_017e;

/// The capability that is the list of banks (`TPM_CAP_PCRS`), from its start on, one entry: there is
/// but one.
const CAP_PCRS: u32 = 5;

/// The area of an authorization by the empty password: its size, the handle `TPM_RS_PW`, no nonce, no
/// attribute, no password.
const EMPTY_PASSWORD: [u8; 13] = [0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0];

/// Bytes of tag, size and code.
const HEADER_SIZE: usize = 10;

/// A selection of registers: the 24 of a bank are a bit each.
type Selection = [u8; SELECTION_SIZE as usize];
const SELECTION_SIZE: u8 = 3;

/// Algorithms whose digests a TPM may name (`TPM_ALG_ID`, from TCG's "Algorithm Registry"): bytes of a
/// digest, and the bank that it is of where that can be computed.
const ALGORITHMS: &[(u16, usize, Option<Bank>)] = &[
    (0x0004, 20, None), // SHA-1
    (id(Bank::Sha256), Bank::Sha256.bytes(), Some(Bank::Sha256)),
    (id(Bank::Sha384), Bank::Sha384.bytes(), Some(Bank::Sha384)),
    (id(Bank::Sha512), Bank::Sha512.bytes(), Some(Bank::Sha512)),
    (0x0012, 32, None), // SM3-256
    (0x0027, 32, None), // SHA3-256
    (0x0028, 48, None), // SHA3-384
    (0x0029, 64, None), // SHA3-512
];

/// Codes of a TPM that wants the same command once more, later.
const BUSY: &[(u32, &str)] =
    &[(0x908, "TPM_RC_YIELDED"), (0x90a, "TPM_RC_TESTING"), (0x922, "TPM_RC_RETRY")];

/// Codes of others that a message is better for.
const CODES: &[(u32, &str)] = &[
    (0x100, "TPM_RC_INITIALIZE"),
    (0x101, "TPM_RC_FAILURE"),
    (0x143, "TPM_RC_COMMAND_CODE"),
    (0x907, "TPM_RC_LOCALITY"),
    (0x909, "TPM_RC_CANCELED"),
    (0x921, "TPM_RC_LOCKOUT"),
];

/// Asks in which banks registers are kept.
#[must_use]
pub fn ask_banks() -> Vec<u8> {
    let fields = [CAP_PCRS, 0, 1].map(u32::to_be_bytes);
    command(NO_SESSIONS, GET_CAPABILITY, &[&fields.concat()])
}

/// The banks that `pcr` is kept in, of those that can be computed.
///
/// # Errors
/// It is no such answer, or an error of the TPM's.
pub fn banks(pcr: u8, answer: &[u8]) -> Result<Vec<Bank>> {
    let mut fields = content(answer, NO_SESSIONS)?;
    let more = fields.u8()?;
    let capability = fields.u32()?;
    if capability != CAP_PCRS {
        return Err(unfit(format!("has the capability {capability}, not {CAP_PCRS}")));
    }
    if more != 0 {
        return Err(unfit("has not all banks in it"));
    }
    let mut banks = Vec::new();
    for _ in 0..fields.u32()? {
        let (bank, selected) = fields.selection()?;
        let Some(bank) = bank.filter(|_| is_selected(pcr, selected)) else { continue };
        if banks.contains(&bank) {
            return Err(unfit(format!("has the bank {} twice", bank.name())));
        }
        banks.push(bank);
    }
    fields.end()?;
    Ok(banks)
}

/// Reads a register in these banks.
#[must_use]
pub fn read(pcr: u8, banks: &[Bank]) -> Vec<u8> {
    let mut selections = Vec::new();
    for bank in banks {
        selections.extend(id(*bank).to_be_bytes());
        selections.push(SELECTION_SIZE);
        selections.extend(selection(pcr));
    }
    command(NO_SESSIONS, PCR_READ, &[&number(banks.len()), &selections])
}

/// What a register holds, in each of the banks asked for.
///
/// # Errors
/// It is no such answer, or an error of the TPM's.
pub fn values(pcr: u8, banks: &[Bank], answer: &[u8]) -> Result<Values> {
    let mut fields = content(answer, NO_SESSIONS)?;
    let _counter = fields.u32()?;
    let mut told = Vec::new();
    for _ in 0..fields.u32()? {
        let (bank, selected) = fields.selection()?;
        let Some(bank) = bank.filter(|_| *selected == selection(pcr)) else {
            return Err(unfit(format!("is of other registers than {pcr}")));
        };
        told.push(bank);
    }
    if told != banks {
        return Err(unfit("is of other banks than were asked for"));
    }
    let count = fields.u32()?;
    if usize::try_from(count) != Ok(told.len()) {
        return Err(unfit(format!("has {count} values, not {}", told.len())));
    }
    let value = |bank: Bank| {
        let size = usize::from(fields.u16()?);
        if size != bank.bytes() {
            return Err(unfit(format!("has a {} value of {size} bytes", bank.name())));
        }
        Ok((bank, fields.bytes(size)?.to_vec()))
    };
    let values = told.into_iter().map(value).collect::<Result<_>>()?;
    fields.end()?;
    Ok(values)
}

/// Measures an event into a register, in all banks at once.
#[must_use]
pub fn measure(pcr: u8, event: &Event) -> Vec<u8> {
    let line = event.line().as_bytes();
    // A line is far shorter than 65,536 bytes.
    let size = u16::try_from(line.len()).unwrap_or(u16::MAX).to_be_bytes();
    command(SESSIONS, PCR_EVENT, &[&u32::from(pcr).to_be_bytes(), &EMPTY_PASSWORD, &size, line])
}

/// The digests of the event that was measured, in each bank that can be computed.
///
/// # Errors
/// It is no such answer, or an error of the TPM's.
pub fn digests(answer: &[u8]) -> Result<Values> {
    let mut fields = content(answer, SESSIONS)?;
    let size = fields.u32()?;
    let mut parameters = Fields(fields.bytes(usize::try_from(size).unwrap_or(usize::MAX))?);
    // No nonce, attributes, and nothing that would authenticate it.
    let [0, 0, _, 0, 0] = *fields.0 else {
        return Err(unfit("has another end than that of a session with a password"));
    };
    let mut digests = Values::new();
    for _ in 0..parameters.u32()? {
        let (Some(bank), digest) = parameters.digest()? else { continue };
        if digests.iter().any(|(other, _)| *other == bank) {
            return Err(unfit(format!("has the bank {} twice", bank.name())));
        }
        digests.push((bank, digest.to_vec()));
    }
    parameters.end()?;
    Ok(digests)
}

/// The code of an answer by which the TPM wants the same command once more.
#[must_use]
pub fn busy(answer: &[u8]) -> Option<&'static str> {
    let code = header(answer).ok()?.code;
    BUSY.iter().find(|(busy, _)| *busy == code).map(|(_, name)| *name)
}

fn command(tag: u16, code: u32, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let size = number(body.len().saturating_add(HEADER_SIZE));
    [&tag.to_be_bytes()[..], &size, &code.to_be_bytes(), &body].concat()
}

/// A count or size of what was made here.
fn number(count: usize) -> [u8; 4] {
    u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes()
}

/// One register, alone.
fn selection(pcr: u8) -> Selection {
    [0, 1, 2].map(|byte| if pcr / 8 == byte { 1 << (pcr % 8) } else { 0 })
}

fn is_selected(pcr: u8, selected: &[u8]) -> bool {
    selected.get(usize::from(pcr / 8)).is_some_and(|byte| byte >> (pcr % 8) & 1 == 1)
}

/// Bytes of a digest and the bank of an algorithm that is known.
fn algorithm(id: u16) -> Option<(usize, Option<Bank>)> {
    let known = ALGORITHMS.iter().find(|(known, ..)| *known == id);
    known.map(|(_, bytes, bank)| (*bytes, *bank))
}

/// The algorithm of a bank.
const fn id(bank: Bank) -> u16 {
    match bank {
        Bank::Sha256 => 0x000b,
        Bank::Sha384 => 0x000c,
        Bank::Sha512 => 0x000d,
    }
}

/// What an answer begins with.
struct Header {
    tag: u16,
    code: u32,
}

fn header(answer: &[u8]) -> Result<Header> {
    let mut fields = Fields(answer);
    let (tag, size, code) = (fields.u16()?, fields.u32()?, fields.u32()?);
    if usize::try_from(size) != Ok(answer.len()) {
        return Err(unfit(format!("has {} bytes and says {size}", answer.len())));
    }
    Ok(Header { tag, code })
}

/// What comes behind the header of an answer that is no error.
fn content(answer: &[u8], wanted: u16) -> Result<Fields<'_>> {
    let Header { tag, code } = header(answer)?;
    if tag == TPM_1_2 {
        // So does QEMU, in place of a TPM that is gone.
        return Err(Error::new(format!(
            "the TPM answers {code:#x} as a TPM 1.2 does, not as a 2.0"
        )));
    }
    if code != 0 {
        let name = BUSY.iter().chain(CODES).find(|(known, _)| *known == code);
        let name = name.map(|(_, name)| format!(" ({name})")).unwrap_or_default();
        return Err(Error::new(format!("the TPM answers {code:#x}{name}")));
    }
    if tag != wanted {
        return Err(unfit(format!("has the tag {tag:#06x}, not {wanted:#06x}")));
    }
    Ok(Fields(answer.get(HEADER_SIZE..).unwrap_or_default()))
}

fn unfit(what: impl std::fmt::Display) -> Error {
    Error::new(format!("the TPM's answer {what}"))
}

/// What is left of an answer.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8]> {
        let (bytes, rest) =
            self.0.split_at_checked(count).ok_or_else(|| unfit("ends before it should"))?;
        self.0 = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.bytes(N)?;
        bytes.try_into().map_err(|_| unfit("ends before it should"))
    }

    fn u8(&mut self) -> Result<u8> {
        self.array().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// A digest, and its bank if that can be computed (`TPMT_HA`). How long another's is has to be
    /// known to find the next one.
    fn digest(&mut self) -> Result<(Option<Bank>, &'a [u8])> {
        let id = self.u16()?;
        let (bytes, bank) =
            algorithm(id).ok_or_else(|| unfit(format!("has an unknown algorithm, {id:#06x}")))?;
        Ok((bank, self.bytes(bytes)?))
    }

    /// A bank, if it can be computed, and which of its registers (`TPMS_PCR_SELECTION`).
    fn selection(&mut self) -> Result<(Option<Bank>, &'a [u8])> {
        let bank = algorithm(self.u16()?).and_then(|(_, bank)| bank);
        let size = self.u8()?;
        Ok((bank, self.bytes(size.into())?))
    }

    fn end(&self) -> Result<()> {
        match self.0 {
            [] => Ok(()),
            rest => Err(unfit(format!("has {} bytes too many", rest.len()))),
        }
    }
}

#[cfg(test)]
mod tests;
