//! Holds the words that a boot is told against the parser that PID 1 has.

use std::env;
use std::ffi::OsString;
use std::io::{self, Read};
use std::process::ExitCode;

use cvm_init::config::{Config, Lines};

const USAGE: &str = "usage: cvm-cmdline [--initramfs WORDS] [LINE]

Reads a kernel command line, LINE or standard input, as cvm-init does at boot. Exit status 0 when it
takes the line; 1, with the reason on standard error, when it would end the boot.

  --initramfs WORDS  joined by WORDS in the initramfs; without LINE, whether WORDS can stand there";

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    if let [flag] = &arguments[..]
        && (flag == "--help" || flag == "-h")
    {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let outcome = match &arguments[..] {
        [flag, words] if flag == "--initramfs" => check_words(words),
        [flag, words, line] if flag == "--initramfs" => {
            text(words).and_then(|words| check(text(line)?, words))
        }
        [line] if line != "--initramfs" => text(line).and_then(|line| check(line, String::new())),
        [] => read_line().and_then(|line| check(line, String::new())),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}

fn check(kernel: String, initramfs: String) -> Result<(), String> {
    Config::from_lines(&Lines { kernel, initramfs }).map(drop).map_err(|error| error.to_string())
}

fn check_words(words: &OsString) -> Result<(), String> {
    Config::check_initramfs_words(&text(words)?).map_err(|error| error.to_string())
}

fn text(argument: &OsString) -> Result<String, String> {
    argument.clone().into_string().map_err(|_| "the line is not UTF-8".to_owned())
}

fn read_line() -> Result<String, String> {
    let mut line = String::new();
    io::stdin()
        .read_to_string(&mut line)
        .map_err(|error| format!("cannot read standard input: {error}"))?;
    Ok(line)
}
