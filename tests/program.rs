//! What is taken for a program is what the kernel runs.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use cvm_init::format::program::{Program, SCRIPTS_MAX};
use rustix::io::Errno;

use common::Scratch;

/// What the kernel says when it is to run a file.
fn kernel_runs(file: &Path) -> Result<(), Errno> {
    match Command::new(file).stdout(Stdio::null()).spawn() {
        Ok(mut child) => {
            assert!(child.wait().unwrap().success(), "{}", file.display());
            Ok(())
        }
        Err(error) => Err(Errno::from_io_error(&error).unwrap()),
    }
}

fn write_program(file: &Path, content: &[u8]) {
    fs::write(file, content).unwrap();
    fs::set_permissions(file, Permissions::from_mode(0o755)).unwrap();
}

/// In one test, because a file that another thread's child still has open is not run.
#[test]
fn the_kernel_runs_what_is_taken_for_a_program() {
    let scratch = Scratch::dir("program");
    let file = scratch.path().join("file");
    let machine_code = fs::read("/bin/true").unwrap();
    let mut of_another_machine = machine_code.clone();
    of_another_machine.splice(18..20, [183, 0]);
    let long = |length: usize| format!("#!{}bin/true", "/".repeat(length - 8)).into_bytes();
    let mut contents = vec![machine_code, of_another_machine, b"no program".to_vec(), Vec::new()];
    contents.extend((250..258).map(|length| [b"#!", &*vec![b'x'; length]].concat()));
    for name in
        ["/bin/true", " \t/bin/true", "/bin/true -e\tx", "/bin/nothing", "", " ", "\0", "\0/x"]
    {
        for end in ["", "\n", "\r\n", " ", " \n", "\0", "\0\n", "\nmore\n"] {
            contents.push(format!("#!{name}{end}").into_bytes());
        }
    }
    for end in [&b""[..], b"\n", b" ", b"\0", b" behind\n"] {
        for blanks in 240..=256 {
            contents.push([b"#!", &*vec![b' '; blanks], b"/bin/true", end].concat());
        }
        contents.extend((250..258).map(|length| [&*long(length), end].concat()));
    }
    for content in contents {
        write_program(&file, &content);
        let told = || String::from_utf8_lossy(&content[..content.len().min(300)]).into_owned();
        let taken = Program::from_content(|at, length| {
            let rest = content.get(usize::try_from(at).unwrap()..).unwrap_or_default();
            Ok(rest[..length.min(rest.len())].to_vec())
        });
        let kernel = kernel_runs(&file);
        match taken {
            Ok(Program::Script { interpreter }) if !interpreter.exists() => {
                assert_eq!(kernel, Err(Errno::NOENT), "{:?}", told());
            }
            Ok(_) => assert_eq!(kernel, Ok(()), "{:?}", told()),
            // A name without a character is one to the kernel: that of the directory it is in.
            Err(_) => assert!(
                matches!(kernel, Err(Errno::NOEXEC | Errno::ACCESS)),
                "{kernel:?} {:?}",
                told()
            ),
        }
    }
    let mut interpreter = Path::new("/bin/true").to_owned();
    for script in 1..=SCRIPTS_MAX + 1 {
        let file = scratch.path().join(script.to_string());
        write_program(&file, format!("#!{}\n", interpreter.display()).as_bytes());
        let expected = if script <= SCRIPTS_MAX { Ok(()) } else { Err(Errno::LOOP) };
        assert_eq!(kernel_runs(&file), expected, "{script} scripts");
        interpreter = file;
    }
}
