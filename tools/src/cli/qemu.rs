//! `cvm-tools qemu`, which is `scripts/qemu`.

use std::ffi::OsStr;
use std::io::{self, IsTerminal as _};
use std::path::Path;

use clap::Command;
use cvm_tools::launch::command::{Launch, compose};
use cvm_tools::launch::host::{Found, missing_for};
use cvm_tools::launch::own::Own;
use cvm_tools::launch::plan::{Host, Plan};
use cvm_tools::launch::request::{INTRODUCTION, MORE_HELP, Request};
use cvm_tools::launch::run::{Ending, run as run_vm, signals};
use cvm_tools::launch::variables::{self, Variables};
use cvm_tools::launch::{note, shell};

use crate::cli::Failure;

/// What clap cannot be told by [`Request`].
pub(crate) fn finish(command: Command) -> Command {
    command
        .override_usage("scripts/qemu [OPTION]... [-- QEMU ARGUMENT...]")
        .help_template(format!("usage: {{usage}}\n\n{INTRODUCTION}\n\n{{options}}{{after-help}}"))
        .after_help(format!("{MORE_HELP}\n{}", variables::told()))
}

/// Launches, and waits until the VM ends.
pub(crate) fn run(request: &Request) -> Result<(), Failure> {
    let wrong = |error| Failure::usage(&error);
    let exists = |file: &str| Path::new(file).exists();
    let variables = Variables::of_environment().map_err(wrong)?;
    let host = Host { missing_for: &missing_for, exists: &exists };
    let plan = Plan::of(request, variables, &host).map_err(wrong)?;

    let mut signals = signals()?;
    let found = Found::of(&plan)?;
    let own = Own::make(&plan)?;
    let launch = compose(&plan, &found, &own, io::stdin().is_terminal())?;
    note(&format_args!("measured: {}", plan.chain()));
    if plan.dry_run {
        println!("{}", printed(&launch));
        return Ok(());
    }
    let forward: Vec<_> = found.forward.iter().map(ToString::to_string).collect();
    let (tee, boot) = (plan.tee, plan.boot);
    note(&format_args!(
        "launching with --tee {tee} --boot {boot}; host:guest ports {}",
        forward.join(" ")
    ));
    match run_vm(&launch, &mut signals)? {
        Ending::ShutDown => Ok(()),
        Ending::Refused(reason) => {
            Err(Failure::of(3, &format!("the guest refused to boot: {reason}")))
        }
        Ending::Failed(status) => {
            let newer = plan.firmware.newer_qemu().map(|what| format!("; --tee {tee} {what}"));
            let newer = newer.unwrap_or_default();
            let message = format!("cannot run the VM: QEMU ended with status {status}{newer}");
            Err(Failure::of(status, &message))
        }
        // As the shell that typed it has them.
        Ending::Interrupted => Err(Failure::silent(130)),
        Ending::Terminated => Err(Failure::silent(143)),
    }
}

/// The command, for a shell.
fn printed(launch: &Launch) -> String {
    let sudo = launch.as_root.then_some(OsStr::new("sudo"));
    let words = sudo.into_iter().chain([OsStr::new(&launch.program)]);
    shell::lines(words.chain(launch.qemu.arguments().iter().map(|word| &**word)))
}
