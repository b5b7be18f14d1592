//! The program that is shipped becomes one other program, init, and starts none: asserted on its
//! machine code and on its source. It knows the path of no shell and of no tool.
//!
//! The agent of the VM tests does run a shell: the same look at it shows that the look sees.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const TREE: &str = env!("CARGO_MANIFEST_DIR");
const TARGET: &str = "x86_64-unknown-linux-musl";

/// Where programs are, and where libc looks for one that comes without its folder; what shells and
/// the tools of an initramfs are called, and how a shell is told what to do. The variable `PATH` is
/// not among them: std may know its name and not use it. The source must not.
const TOOLS: &[&str] = &[
    "/bin/",
    "/bin:",
    "busybox",
    "bash",
    "sh -c",
    "-c\0",
    "modprobe",
    "udevadm",
    "cryptsetup",
    "veritysetup",
    "switch_root",
];

/// What a source says to start a process or a program, to look for one, or to load code.
const STARTERS: &[&str] = &[
    "process::Command",
    "Command::new",
    "CommandExt",
    "posix_spawn",
    "fork",
    "::clone(",
    "SYS_clone",
    "exec(",
    "execv",
    "execl",
    "SYS_exec",
    "fexec",
    "dlopen",
    "popen",
    "::system(",
    "\"PATH",
    "split_paths",
];

/// The lines that may: `exec` itself, and its one caller.
const EXEC: &[(&str, &str)] = &[
    ("src/kernel/exec.rs", "pub fn exec("),
    (
        "src/kernel/exec.rs",
        "unsafe { libc::execve(path.as_ptr(), argv_list.as_ptr(), envp_list.as_ptr()) };",
    ),
    (
        "src/stage/handoff.rs",
        "effect(RUN.on(&[&init]), || Err(exec(init, env::args_os().skip(1), environment(credentials))))",
    ),
];

/// How a thread begins, blanks left out: all that may be spawned.
const THREADS: &[&str] = &["thread::builder().spawn("];

/// System calls that make a process or run a program, and how often each may stand in the program
/// (`arch/x86/entry/syscalls/syscall_64.tbl`). Threads are made by one clone.
const STARTING_CALLS: &[(&str, u64, usize)] = &[
    ("clone", 56, 1),
    ("fork", 57, 0),
    ("vfork", 58, 0),
    ("execve", 59, 1),
    ("execveat", 322, 0),
    ("clone3", 435, 0),
];

/// System calls that the source makes by number.
const BY_NUMBER: &[&str] = &["add_key", "kexec_file_load", "keyctl"];

/// Places of `syscall` whose number is not set before it in the same function: musl's functions
/// that take the number from their caller.
const NUMBER_OF_THE_CALLERS: usize = 3;

/// What the faults on demand of `src/fault.rs` are asked for with, and what they say.
const FAULT_MARKS: &[&str] = &["CVM_FAULT", "CVM_TEST_KEY", "fault build: "];

struct Binaries {
    init: PathBuf,
    agent: PathBuf,
}

/// Builds for release into a folder, and says where the programs are.
fn build(arguments: &[&str], folder: &Path) -> PathBuf {
    let status = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(TREE)
        .args(["build", "--locked", "--release", "--quiet", "--target", TARGET, "--bins"])
        .args(arguments)
        .arg("--target-dir")
        .arg(folder)
        .status()
        .expect("cargo runs");
    assert!(status.success(), "cargo build --release: {status}");
    folder.join(TARGET).join("release")
}

/// `CARGO_TARGET_TMPDIR` is `TARGET/tmp` in cargo's folder, because its configuration names a
/// target.
fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).ancestors().nth(2).unwrap()
}

/// The release binaries, built if they have to be.
fn binaries() -> &'static Binaries {
    static BINARIES: OnceLock<Binaries> = OnceLock::new();
    BINARIES.get_or_init(|| {
        let release = build(&["-p", "cvm-init", "-p", "agent"], target());
        Binaries { init: release.join("cvm-init"), agent: release.join("agent") }
    })
}

/// Each of `texts` that the program holds. An address within it, a word whose upper bytes are zeros,
/// may read as a short text and is none.
fn held<'a>(program: &Path, texts: &[&'a str]) -> Vec<&'a str> {
    let bytes = fs::read(program).unwrap();
    let is_address = |at: usize, text: &str| {
        let word = bytes.get(at..at + 8).filter(|_| at.is_multiple_of(8));
        text.len() < 4 && word.is_some_and(|word| word[text.len()..].iter().all(|&byte| byte == 0))
    };
    let holds = |text: &&&str| {
        let mut windows = bytes.windows(text.len()).enumerate();
        windows.any(|(at, window)| window == text.as_bytes() && !is_address(at, text))
    };
    texts.iter().filter(holds).copied().collect()
}

#[test]
fn the_program_names_no_shell_and_no_tool() {
    assert_eq!(held(&binaries().init, TOOLS), [""; 0]);
    assert_eq!(held(&binaries().init, &["/sbin/init"]), ["/sbin/init"]);
    let of_the_agent = held(&binaries().agent, TOOLS);
    assert!(of_the_agent.contains(&"/bin/"), "{of_the_agent:?}");
    assert!(of_the_agent.contains(&"/bin:"), "{of_the_agent:?}");
}

#[test]
fn outside_of_a_boot_the_program_tells_its_version_and_nothing_else() {
    let run = |arguments: &[&str]| {
        let output = Command::new(&binaries().init).args(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let version = concat!("cvm-init ", env!("CARGO_PKG_VERSION"), "\n").to_owned();
    assert_eq!(run(&["--version"]), (Some(0), version, String::new()));
    let why = "cvm-init: this is PID 1 of an initramfs and does nothing anywhere else\n";
    for arguments in [&[][..], &["--help"], &["--version", "x"], &["x", "--version"]] {
        assert_eq!(run(arguments), (Some(1), String::new(), why.to_owned()), "{arguments:?}");
    }
}

/// The fault build holds them, which shows that they would be seen.
#[test]
fn a_release_has_no_faults_on_demand() {
    let fault_build = build(&["-p", "cvm-init", "--features", "fault"], &target().join("fault"));
    assert_eq!(held(&fault_build.join("cvm-init"), FAULT_MARKS), FAULT_MARKS);
    assert_eq!(held(&binaries().init, FAULT_MARKS), [""; 0]);
}

/// How often each system call stands in a program; `None` counts those whose number is unknown.
fn system_calls(program: &Path) -> BTreeMap<Option<u64>, usize> {
    let output = Command::new("objdump")
        .args(["-d", "--no-show-raw-insn", "-M", "intel"])
        .arg(program)
        .output()
        .expect("objdump runs; scripts/setup installs it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let code: Vec<_> = text
        .lines()
        .map(|line| line.split_once('\t').map_or("", |(_, instruction)| instruction.trim()))
        .collect();
    let mut calls = BTreeMap::new();
    for (at, _) in code.iter().enumerate().filter(|(_, instruction)| **instruction == "syscall") {
        *calls.entry(value_before(&code[..at], "rax")).or_default() += 1;
    }
    calls
}

/// The constant that a register holds after these instructions, if the last that sets it, or what
/// it is copied from, is one.
fn value_before(code: &[&str], register: &str) -> Option<u64> {
    let (at, instruction) = code
        .iter()
        .enumerate()
        .rev()
        .take_while(|(_, instruction)| !instruction.is_empty())
        .find(|(_, instruction)| sets(instruction, register))?;
    let (name, operands) = instruction.split_once(' ')?;
    let mut operands = operands.trim().split(',').map(str::trim);
    let (target, source) = (operands.next()?, operands.next());
    match (name, source) {
        ("pop", None) => number(code[..at].last()?.strip_prefix("push")?.trim()),
        ("xor", Some(source)) if source == target => Some(0),
        ("mov" | "movabs", Some(source)) => {
            number(source).or_else(|| value_before(&code[..at], whole(source)?))
        }
        _ => None,
    }
}

/// Whether an instruction sets a register, or a part of it.
fn sets(instruction: &str, register: &str) -> bool {
    let Some((name, operands)) = instruction.split_once(' ') else { return false };
    let target = operands.trim().split(',').next().unwrap_or_default();
    let reads_only = ["cmp", "test", "push", "bt", "call"].contains(&name) || name.starts_with('j');
    !reads_only && whole(target) == Some(register)
}

fn number(operand: &str) -> Option<u64> {
    u64::from_str_radix(operand.strip_prefix("0x")?, 16).ok()
}

/// The 64-bit register that a name belongs to.
fn whole(name: &str) -> Option<&'static str> {
    const OLD: [(&str, &[&str]); 7] = [
        ("rax", &["rax", "eax", "ax", "al"]),
        ("rbx", &["rbx", "ebx", "bx", "bl"]),
        ("rcx", &["rcx", "ecx", "cx", "cl"]),
        ("rdx", &["rdx", "edx", "dx", "dl"]),
        ("rsi", &["rsi", "esi", "si", "sil"]),
        ("rdi", &["rdi", "edi", "di", "dil"]),
        ("rbp", &["rbp", "ebp", "bp", "bpl"]),
    ];
    const NEW: [&str; 8] = ["r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];
    let old = OLD.iter().find(|(_, names)| names.contains(&name)).map(|(whole, _)| *whole);
    old.or_else(|| NEW.into_iter().find(|new| *new == name.trim_end_matches(['d', 'w', 'b'])))
}

#[test]
fn the_program_can_run_another_in_one_place_and_start_no_process() {
    let count = |calls: &BTreeMap<Option<u64>, usize>, number: Option<u64>| {
        calls.get(&number).copied().unwrap_or_default()
    };
    let calls = system_calls(&binaries().init);
    for (name, number, wanted) in STARTING_CALLS {
        assert_eq!(count(&calls, Some(*number)), *wanted, "places of {name}");
    }
    assert!(count(&calls, None) <= NUMBER_OF_THE_CALLERS, "{calls:?}");
    // Others are seen: mount and reboot.
    assert!(count(&calls, Some(165)) > 0 && count(&calls, Some(169)) > 0, "{calls:?}");

    let of_the_agent = system_calls(&binaries().agent);
    assert!(count(&of_the_agent, Some(57)) > 0, "it forks: {of_the_agent:?}");
}

/// Each source of the program: its path and its text without comments and tests.
fn sources(folder: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let program = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        let lines: Vec<_> = program
            .lines()
            .map(str::trim)
            .filter(|line| !line.starts_with("//") && !line.starts_with("reason = "))
            .collect();
        let name = path.strip_prefix(TREE).unwrap().display().to_string();
        found.push((name, lines.join("\n")));
    }
    found.sort();
    found
}

#[test]
fn the_source_has_one_exec_and_starts_threads_only() {
    let sources = sources(&Path::new(TREE).join("src"));
    let starting: Vec<_> = sources
        .iter()
        .flat_map(|(name, text)| text.lines().map(move |line| (name.as_str(), line)))
        .filter(|(_, line)| !line.starts_with("use "))
        .filter(|(_, line)| STARTERS.iter().any(|starter| line.contains(starter)))
        .collect();
    assert_eq!(starting, EXEC);
    let mut by_number: Vec<_> = sources
        .iter()
        .flat_map(|(_, text)| text.split("SYS_").skip(1))
        .filter_map(|rest| rest.split(|c: char| c != '_' && !c.is_ascii_alphanumeric()).next())
        .collect();
    by_number.sort_unstable();
    by_number.dedup();
    assert_eq!(by_number, BY_NUMBER);
    let mut seen = [0; THREADS.len()];
    for (name, text) in &sources {
        let mut rest: String = text.split_whitespace().collect();
        for (seen, thread) in seen.iter_mut().zip(THREADS) {
            *seen += rest.matches(thread).count();
            rest = rest.replace(thread, "");
        }
        assert!(!rest.contains("spawn"), "{name} spawns another thing");
    }
    assert!(!seen.contains(&0), "each form stands somewhere: {seen:?}");
}
