//! The command line: a subcommand a file, and how all of them say what is wrong.

mod bench;
mod cmdline;
mod disk;
mod layers;
mod measure;
mod qemu;
mod rootfs;

use std::error::Error as _;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, Command, CommandFactory as _, FromArgMatches as _, Parser};
use cvm_init::error::Error;
use cvm_tools::bench::options::Options;
use cvm_tools::launch::request::Request;

/// What an image build, a launch and a verifier ask of the build host
#[derive(Parser)]
#[command(name = "cvm-tools")]
enum Tool {
    /// Measure boots of cvm-init and of what it takes the place of: scripts/bench
    Bench(Options),
    /// Hold a kernel command line against what PID 1 takes
    Cmdline(cmdline::Arguments),
    /// Put the parts of an image behind a partition table
    Disk(disk::Arguments),
    /// Make of the layers of an OCI image what disks are made of, as scripts/layers does
    #[command(subcommand)]
    Layers(layers::Command),
    /// Tell what a verifier has to expect of a guest: scripts/measure
    Measure(measure::OfMachine),
    /// Print the launch digest of an SNP guest from an IGVM file
    MeasureIgvm(measure::OfIgvm),
    /// Write measurements.json, and the values alone, beside the parts of an image, as scripts/image does
    MeasureImage(measure::OfImage),
    /// Launch an image as the Cocos Manager does: scripts/qemu
    Qemu(Box<Request>),
    /// Hold a file system against what PID 1 takes as a root
    Rootfs(rootfs::Arguments),
}

impl Tool {
    fn run(&self) -> Result<(), Failure> {
        match self {
            Self::Bench(options) => bench::run(options),
            Self::Cmdline(arguments) => cmdline::run(arguments),
            Self::Disk(arguments) => disk::run(arguments),
            Self::Layers(command) => Ok(layers::run(command)?),
            Self::Measure(asked) => measure::of_machine(asked),
            Self::MeasureIgvm(asked) => Ok(measure::of_igvm(asked)?),
            Self::MeasureImage(asked) => Ok(measure::of_image(asked)?),
            Self::Qemu(request) => qemu::run(request),
            Self::Rootfs(arguments) => rootfs::run(arguments),
        }
    }
}

/// The subcommands that people have as a script of the same name.
const SCRIPTS: &[&str] = &["bench", "measure", "qemu"];

/// How a subcommand went wrong: the one line to be said, if there is anything to say, and the exit
/// status.
pub(crate) struct Failure {
    message: Option<String>,
    status: u8,
    /// Whether it is the command line that is wrong.
    usage: bool,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::of(1, &error)
    }
}

impl Failure {
    pub(crate) fn of(status: u8, message: &dyn ToString) -> Self {
        Self { message: Some(message.to_string()), status, usage: false }
    }

    /// Somebody has ended it, who knows.
    pub(crate) fn silent(status: u8) -> Self {
        Self { message: None, status, usage: false }
    }

    /// The command line is wrong.
    pub(crate) fn usage(reason: &dyn ToString) -> Self {
        Self { usage: true, ..Self::of(2, reason) }
    }
}

/// All that it takes, as clap has it.
fn command() -> Command {
    Tool::command()
        .mut_subcommand("bench", bench::finish)
        .mut_subcommand("measure", measure::finish)
        .mut_subcommand("qemu", qemu::finish)
        .mut_subcommands(as_scripts_do)
}

/// Any word can be a value, and of a flag that is given twice the last one counts.
fn as_scripts_do(command: Command) -> Command {
    command.mut_args(|arg| {
        let arg = match arg.get_action() {
            ArgAction::Set | ArgAction::SetTrue => {
                let id = arg.get_id().clone();
                arg.overrides_with(id)
            }
            _ => arg,
        };
        let has_value = arg.get_action().takes_values() && !arg.is_positional();
        arg.allow_hyphen_values(has_value)
    })
}

/// Does what the command line asks for.
pub(crate) fn run() -> ExitCode {
    let command = command();
    let name = std::env::args_os().nth(1).unwrap_or_default().to_string_lossy().into_owned();
    let script = SCRIPTS.contains(&&*name).then(|| format!("scripts/{name}"));
    let known = command.find_subcommand(&name).map(|_| format!("cvm-tools {name}"));
    let me = script.clone().or(known).unwrap_or_else(|| "cvm-tools".to_owned());
    let done = match command.try_get_matches().and_then(|found| Tool::from_arg_matches(&found)) {
        Ok(tool) => tool.run(),
        Err(error) if !error.use_stderr() => {
            print!("{error}");
            return ExitCode::SUCCESS;
        }
        Err(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            eprint!("{error}");
            return ExitCode::from(2);
        }
        Err(error) => Err(Failure::usage(&reason(&error))),
    };
    let Err(Failure { message, status, usage }) = done else { return ExitCode::SUCCESS };
    if let Some(mut message) = message {
        if usage {
            message = format!("{message} (see {me} --help)");
        }
        match script {
            Some(script) => eprintln!("{script}: {message}"),
            None => eprintln!("{message}"),
        }
    }
    ExitCode::from(status)
}

/// What is wrong with a command line, in one line as those of scripts.
fn reason(error: &clap::Error) -> String {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(word)) => Some(word.as_str()),
        Some(ContextValue::Strings(words)) => words.first().map(String::as_str),
        _ => None,
    };
    // A flag is called by itself, without what stands for its value.
    let word = context(ContextKind::InvalidArg).unwrap_or_default();
    let flag = word.split(' ').next().unwrap_or_default();
    let value = context(ContextKind::InvalidValue).unwrap_or_default();
    match (error.kind(), error.source()) {
        (ErrorKind::UnknownArgument, _) => format!("unknown argument {word}"),
        (ErrorKind::InvalidValue, _) if value.is_empty() => format!("{flag} needs a value"),
        (ErrorKind::MissingRequiredArgument, _) => format!("{flag} is missing"),
        (ErrorKind::ValueValidation, Some(why)) if flag.starts_with('-') => {
            format!("{flag} {value} {why}")
        }
        (ErrorKind::ValueValidation, Some(why)) => format!("{value} {why}"),
        _ => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            line.strip_prefix("error: ").unwrap_or(line).to_owned()
        }
    }
}
