//! Holds the words that a boot is told against the parser that PID 1 has.

use std::ffi::OsString;

use clap::Args;
use cvm_init::config::{Config, Lines};
use cvm_init::error::{Error, Result};
use cvm_tools::files;

use crate::cli::Failure;

const MORE_HELP: &str = "\
Reads LINE, or standard input, as cvm-init does at boot. Exit status 0 when it takes the line; 1, with the
reason on standard error, when it would end the boot.";

#[derive(Args)]
#[command(after_help = MORE_HELP)]
pub(crate) struct Arguments {
    /// Joined by WORDS in the initramfs; without LINE, whether WORDS can stand there
    #[arg(long, value_name = "WORDS")]
    initramfs: Option<OsString>,
    /// The command line
    line: Option<OsString>,
}

pub(crate) fn run(arguments: &Arguments) -> std::result::Result<(), Failure> {
    let words = arguments.initramfs.as_ref().map(text).transpose()?;
    let line = arguments.line.as_ref().map(text).transpose()?;
    match (line, words) {
        (None, Some(words)) => Config::check_initramfs_words(&words)?,
        (Some(kernel), words) => check(kernel, words)?,
        (None, None) => check(files::standard_input()?, None)?,
    }
    Ok(())
}

fn check(kernel: String, words: Option<String>) -> Result<()> {
    Config::from_lines(&Lines { kernel, initramfs: words.unwrap_or_default() }).map(drop)
}

fn text(argument: &OsString) -> Result<String> {
    argument.clone().into_string().map_err(|_| Error::new("the line is not UTF-8"))
}
