//! What the kernel needs in order to run a file, by the file's own bytes.
//!
//! Sources: `fs/binfmt_script.c`, `fs/binfmt_elf.c` and `exec_binprm` in `fs/exec.c` of the kernel;
//! elf(5).

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// Scripts that may run one another, the last of them run by a program of machine code.
pub const SCRIPTS_MAX: usize = 5;

/// Bytes that the kernel knows a file by (`BINPRM_BUF_SIZE`). What a shorter file lacks is zeros.
const HEAD: usize = 256;

/// Of this machine: `ELFCLASS64`, `ELFDATA2LSB`, and `e_machine`.
const CLASS: u8 = 2;
const DATA: u8 = 1;
const MACHINE: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };

/// Fields of the header of an ELF file of 64 bits.
const EI_CLASS: usize = 4;
const EI_DATA: usize = 5;
const E_TYPE: usize = 16;
const E_MACHINE: usize = 18;
const E_PHOFF: usize = 32;
const E_PHENTSIZE: usize = 54;
const E_PHNUM: usize = 56;

/// `e_type` of programs, and of programs that lie anywhere in memory.
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;

/// A program header, and its fields.
const PHDR_SIZE: u16 = 56;
const P_OFFSET: usize = 8;
const P_FILESZ: usize = 32;
const PT_INTERP: u32 = 3;

/// The most bytes of program headers that the kernel takes.
const PHDRS_MAX: usize = 65_536;

/// Lengths of a path with its NUL: a character, and `PATH_MAX`.
const INTERP_MIN: u64 = 2;
const INTERP_MAX: u64 = 4096;

/// A file that the kernel runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// Its first line names what it is run by.
    Script {
        /// By the name it has in that line.
        interpreter: PathBuf,
    },
    /// It is machine code of this machine.
    Code {
        /// What loads its libraries, if it has any.
        loader: Option<PathBuf>,
    },
}

impl Program {
    /// What the kernel takes a file for. `read` yields as many bytes from an offset on as are asked
    /// for, or fewer at the end of the file.
    ///
    /// # Errors
    /// When the kernel would not run it: what is wrong with it.
    pub fn from_content(read: impl Fn(u64, usize) -> io::Result<Vec<u8>>) -> io::Result<Self> {
        let mut head = read(0, HEAD)?;
        if head.is_empty() {
            return Err(io::Error::other("it is empty"));
        }
        head.resize(HEAD, 0);
        if let Some(line) = head.strip_prefix(b"#!") {
            return Ok(Self::Script { interpreter: interpreter(line)? });
        }
        if head.starts_with(b"\x7fELF") {
            return Ok(Self::Code { loader: loader(&head, read)? });
        }
        Err(io::Error::other("it begins neither with \"#!\" nor as an ELF file does"))
    }
}

/// The name in a first line, which is taken to be cut off where nothing ends the name.
fn interpreter(line: &[u8]) -> io::Result<PathBuf> {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let (line, is_whole) = match line.iter().position(|&byte| byte == b'\n') {
        Some(end) => (line.get(..end).unwrap_or_default(), true),
        None => (line, false),
    };
    let blanks = line.iter().take_while(|byte| is_blank(byte)).count();
    let name = line.get(blanks..).unwrap_or_default();
    let end = name.iter().position(|byte| is_blank(byte) || *byte == 0);
    if end.is_none() && !is_whole {
        let error = format!("its interpreter's name does not end within the first {HEAD} bytes");
        return Err(io::Error::other(error));
    }
    path(name.get(..end.unwrap_or(name.len())).unwrap_or_default())
        .ok_or_else(|| io::Error::other("its first line names no interpreter"))
}

/// The loader that an ELF file asks for.
fn loader(
    head: &[u8],
    read: impl Fn(u64, usize) -> io::Result<Vec<u8>>,
) -> io::Result<Option<PathBuf>> {
    let (class, data, machine) = (head.get(EI_CLASS), head.get(EI_DATA), u16_at(head, E_MACHINE));
    if (class, data, machine) != (Some(&CLASS), Some(&DATA), Some(MACHINE)) {
        return Err(io::Error::other(format!(
            "it is for another machine: its ELF class, byte order and machine are {}, {} and {}, \
             not {CLASS}, {DATA} and {MACHINE}",
            class.unwrap_or(&0),
            data.unwrap_or(&0),
            machine.unwrap_or(0)
        )));
    }
    if !matches!(u16_at(head, E_TYPE), Some(ET_EXEC | ET_DYN)) {
        return Err(io::Error::other("it is an ELF file, but not an executable one"));
    }
    let damaged = || io::Error::other("its program headers are damaged");
    let count = u16_at(head, E_PHNUM).ok_or_else(damaged)?;
    let bytes = usize::from(count).saturating_mul(PHDR_SIZE.into());
    if u16_at(head, E_PHENTSIZE) != Some(PHDR_SIZE) || !(1..=PHDRS_MAX).contains(&bytes) {
        return Err(damaged());
    }
    let headers = read(u64_at(head, E_PHOFF).ok_or_else(damaged)?, bytes)?;
    if headers.len() != bytes {
        return Err(damaged());
    }
    let mut headers = headers.chunks_exact(PHDR_SIZE.into());
    let Some(header) = headers.find(|header| u32_at(header, 0) == Some(PT_INTERP)) else {
        return Ok(None);
    };
    let place = u64_at(header, P_OFFSET).zip(u64_at(header, P_FILESZ));
    let (offset, length) = place
        .filter(|(_, length)| (INTERP_MIN..=INTERP_MAX).contains(length))
        .ok_or_else(damaged)?;
    let length = usize::try_from(length).map_err(|_| damaged())?;
    let name = read(offset, length)?;
    let ended = name.len() == length && name.last() == Some(&0);
    let name = name.split(|&byte| byte == 0).next().filter(|_| ended);
    Ok(Some(name.and_then(path).ok_or_else(damaged)?))
}

/// A name that is one.
fn path(bytes: &[u8]) -> Option<PathBuf> {
    (!bytes.is_empty()).then(|| PathBuf::from(OsString::from_vec(bytes.to_vec())))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a file of these bytes is taken for, or what is wrong with it.
    fn taken_for(bytes: &[u8]) -> Result<Program, String> {
        Program::from_content(|at, length| {
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            let rest = bytes.get(at..).unwrap_or_default();
            Ok(rest[..length.min(rest.len())].to_vec())
        })
        .map_err(|error| error.to_string())
    }

    fn run_by(line: &[u8]) -> Option<String> {
        match taken_for(line) {
            Ok(Program::Script { interpreter }) => Some(interpreter.to_str().unwrap().to_owned()),
            _ => None,
        }
    }

    #[test]
    fn a_first_line_names_an_interpreter() {
        for line in
            ["#!/bin/sh", "#!/bin/sh\n", "#! \t/bin/sh\n", "#!/bin/sh -e x\n", "#!/bin/sh\0"]
        {
            assert_eq!(run_by(line.as_bytes()).as_deref(), Some("/bin/sh"), "{line:?}");
        }
        assert_eq!(run_by(b"#!/bin/sh\r\n").as_deref(), Some("/bin/sh\r"));
        for line in ["#!", "#!\n/bin/sh", "#!  \t \n", "#! \0/bin/sh\n"] {
            assert_eq!(run_by(line.as_bytes()), None, "{line:?}");
        }
    }

    #[test]
    fn a_name_that_may_be_cut_off_is_none() {
        let named = |length: usize, end: &str| {
            run_by(format!("#!{}{end}", "x".repeat(length)).as_bytes()).map(|name| name.len())
        };
        assert_eq!(named(253, "\n"), Some(253));
        assert_eq!(named(253, " behind"), Some(253));
        assert_eq!(named(254, "\n"), None);
        assert_eq!(named(300, "\n"), None);
        // A file that ends there is whole.
        assert_eq!(named(253, ""), Some(253));
        assert_eq!(named(254, ""), None);
    }

    /// A program with these program headers, each type, offset and size, and `rest` behind them.
    fn elf(headers: &[(u32, u64, u64)], rest: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[E_TYPE..][..2].copy_from_slice(&ET_DYN.to_le_bytes());
        bytes[E_MACHINE..][..2].copy_from_slice(&MACHINE.to_le_bytes());
        bytes[E_PHOFF..][..8].copy_from_slice(&64_u64.to_le_bytes());
        bytes[E_PHENTSIZE..][..2].copy_from_slice(&PHDR_SIZE.to_le_bytes());
        bytes[E_PHNUM..][..2].copy_from_slice(&u16::try_from(headers.len()).unwrap().to_le_bytes());
        for (kind, offset, size) in headers {
            let mut header = [0; PHDR_SIZE as usize];
            header[..4].copy_from_slice(&kind.to_le_bytes());
            header[P_OFFSET..][..8].copy_from_slice(&offset.to_le_bytes());
            header[P_FILESZ..][..8].copy_from_slice(&size.to_le_bytes());
            bytes.extend(header);
        }
        bytes.extend(rest);
        bytes
    }

    #[test]
    fn machine_code_may_ask_for_a_loader() {
        assert_eq!(taken_for(&elf(&[(1, 0, 0)], b"")), Ok(Program::Code { loader: None }));
        let asks = elf(&[(6, 0, 0), (PT_INTERP, 176, 7)], b"/ld.so\0");
        assert_eq!(taken_for(&asks), Ok(Program::Code { loader: Some("/ld.so".into()) }));
        let wrong = [
            elf(&[], b""),
            elf(&[(PT_INTERP, 120, 1)], b"\0"),
            elf(&[(PT_INTERP, 120, 2)], b"/l"),
            elf(&[(PT_INTERP, 120, 2)], b"\0\0"),
            elf(&[(PT_INTERP, 120, 3)], b"/\0"),
            elf(&[(PT_INTERP, 120, 4097)], &[0; 4097]),
            elf(&[(PT_INTERP, u64::MAX, 2)], b"/\0"),
        ];
        for bytes in wrong {
            assert_eq!(taken_for(&bytes), Err("its program headers are damaged".to_owned()));
        }
    }

    #[test]
    fn the_machine_is_this_one() {
        let mut bytes = elf(&[(1, 0, 0)], b"");
        bytes[EI_CLASS] = 1;
        bytes[E_MACHINE] = 3;
        let error = taken_for(&bytes).unwrap_err();
        assert!(error.contains("are 1, 1 and 3, not 2, 1 and"), "{error}");
    }

    #[test]
    fn what_is_neither_is_no_program() {
        assert_eq!(taken_for(b""), Err("it is empty".to_owned()));
        let error = taken_for(b"echo no program\n").unwrap_err();
        assert_eq!(error, "it begins neither with \"#!\" nor as an ELF file does");
        let mut object = elf(&[(1, 0, 0)], b"");
        object[E_TYPE] = 1;
        let error = taken_for(&object).unwrap_err();
        assert_eq!(error, "it is an ELF file, but not an executable one");
    }

    /// The program that runs this test is one.
    #[test]
    fn a_program_of_this_machine_is_taken_for_one() {
        let bytes = std::fs::read("/proc/self/exe").unwrap();
        assert!(matches!(taken_for(&bytes), Ok(Program::Code { .. })));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, as_elf: bool, as_script: bool) {
            let head = match (as_elf, as_script) {
                (true, _) => elf(&[(PT_INTERP, 120, 9)], &bytes),
                (_, true) => [b"#!".as_slice(), &bytes].concat(),
                _ => bytes,
            };
            let _ = taken_for(&head);
        }

        #[test]
        fn no_altered_header_panics(at in 0..176_usize, value: u8) {
            let mut bytes = elf(&[(1, 0, 0), (PT_INTERP, 176, 7)], b"/ld.so\0");
            bytes[at] = value;
            let _ = taken_for(&bytes);
        }
    }
}
