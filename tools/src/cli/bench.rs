//! `cvm-tools bench`, which is `scripts/bench`.

use std::env;
use std::path::PathBuf;

use clap::Command;
use cvm_tools::bench::host::{self, Places, Stop};
use cvm_tools::bench::options::{INTRODUCTION, Options, more_help};

use crate::cli::Failure;

/// What clap cannot be told by [`Options`].
pub(crate) fn finish(command: Command) -> Command {
    command
        .override_usage("scripts/bench [OPTION]...")
        .help_template(format!("usage: {{usage}}\n\n{INTRODUCTION}\n\n{{options}}{{after-help}}"))
        .after_help(more_help())
}

/// Measures, or shows what was measured.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let wanted = options.wanted().map_err(|error| Failure::usage(&error))?;
    let stop = Stop::listen()?;
    let done = host::run(options, &wanted, &typed(), &places(), stop.clone());
    done.map_err(|error| match stop.signal() {
        // As a shell has it.
        Some(signal) => Failure::silent(128 + signal),
        None => error.into(),
    })
}

/// What was typed.
fn typed() -> String {
    let words = env::args_os().skip(2).map(|word| word.to_string_lossy().into_owned());
    let words: Vec<_> = ["scripts/bench".to_owned()].into_iter().chain(words).collect();
    words.join(" ")
}

/// As the script says, or as they are below the folder that this runs in.
fn places() -> Places {
    let of = |name, or: &str| env::var_os(name).map_or_else(|| PathBuf::from(or), PathBuf::from);
    Places { tree: of("CVM_TREE", "."), target: of("CARGO_TARGET_DIR", "target") }
}
