//! Holds a kernel command line against the parser that PID 1 has.

use std::env;
use std::io::{self, Read};
use std::process::ExitCode;

use cvm_init::config::Config;

const USAGE: &str = "usage: cvm-cmdline [LINE]

Reads a kernel command line, the argument or standard input, as cvm-init does at boot. Exit status 0
when it takes the line; 1, with the reason on standard error, when it would end the boot.";

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    let (line, more) = (arguments.next(), arguments.next());
    if more.is_some() {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    }
    if line.as_deref().is_some_and(|line| line == "--help" || line == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let line = match line {
        Some(line) => line.into_string().map_err(|_| "the line is not UTF-8".to_owned()),
        None => read_line().map_err(|error| format!("cannot read standard input: {error}")),
    };
    match line.and_then(|line| Config::from_cmdline(&line).map_err(|error| error.to_string())) {
        Ok(_) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}

fn read_line() -> io::Result<String> {
    let mut line = String::new();
    io::stdin().read_to_string(&mut line)?;
    Ok(line)
}
