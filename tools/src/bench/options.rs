//! What is typed behind `scripts/bench`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use cvm_init::error::{Error, Result};
use textwrap::WordSplitter;

use super::plan::{LITTLE, PUBLISHED, Part, WHOLE, Wanted};
use super::publish::{FOLDER, PAGE};
use super::way::Way;

/// As the shell way needs it.
const SMALLEST_MIB: u64 = 64;
/// Columns of the help.
const WIDTH: usize = 100;
const QUICK_SIZES: &[u64] = &[SMALLEST_MIB];

/// What it does.
pub const INTRODUCTION: &str = "\
Boots guests with cvm-init and with what it takes the place of, and prints what that costs as
Markdown tables. The same as JSON, with every single run, goes to target/bench/figures.json, and
as pictures to target/bench/*.svg.";

/// A measurement, as it is asked for.
#[derive(Args, Debug)]
pub struct Options {
    /// of what is listed below, separated by commas (default: all but layers and machine)
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = part)]
    only: Vec<Part>,
    /// of the ways below (default: all)
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = way)]
    ways: Vec<Way>,
    /// of partition 4, for provisioning
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        value_parser = mib,
        default_value = "64M,1G,20G,2T"
    )]
    sizes: Vec<u64>,
    /// of each; the median is taken. The shell way is provisioned
    /// once a size, to 1G, and extrapolated above
    #[arg(long, value_name = "N", value_parser = runs, default_value = "3", verbatim_doc_comment)]
    runs: usize,
    /// to see that all works: --sizes 64M --runs 1, and little data
    #[arg(long)]
    pub(super) quick: bool,
    /// for one guest
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "1200")]
    pub(super) timeout: u64,
    /// no measurement: tables of a figures.json, and pictures beside it
    #[arg(long, value_name = "FILE")]
    pub(super) from: Option<PathBuf>,
    #[arg(
        long,
        help = format!("puts figures and pictures into {FOLDER} and the tables into\n{PAGE}, when all was measured")
    )]
    pub(super) publish: bool,
}

impl Options {
    /// What is to be measured.
    ///
    /// # Errors
    ///
    /// Where not all that is to be published would be measured: refused now, not after the
    /// measurement.
    pub fn wanted(&self) -> Result<Wanted> {
        let parts = if self.only.is_empty() { PUBLISHED } else { &self.only };
        let is_whole = !self.quick && self.ways.is_empty() && parts == PUBLISHED;
        if self.publish && self.from.is_none() && !is_whole {
            let why = "--publish is for a whole measurement, without --quick, --only and --ways";
            return Err(Error::new(why));
        }
        let ways = if self.ways.is_empty() { Way::value_variants() } else { &self.ways };
        let mut sizes_mib = if self.quick { QUICK_SIZES } else { &self.sizes }.to_vec();
        sizes_mib.sort_unstable();
        sizes_mib.dedup();
        Ok(Wanted {
            parts: parts.to_vec(),
            ways: ways.to_vec(),
            sizes_mib,
            runs: if self.quick { 1 } else { self.runs },
            work: if self.quick { LITTLE } else { WHOLE },
        })
    }
}

fn part(word: &str) -> Result<Part> {
    Part::from_str(word, false).map_err(|_| refused("nothing that is measured"))
}

fn way(word: &str) -> Result<Way> {
    Way::from_str(word, false).map_err(|_| refused("no way to boot"))
}

fn mib(word: &str) -> Result<u64> {
    let units = [("M", 1), ("G", 1 << 10), ("T", 1 << 20)];
    let read = units.iter().find_map(|(unit, mib)| {
        let digits = word.strip_suffix(unit).filter(|digits| digits.len() <= 6)?;
        Some(mib * number(digits)?)
    });
    let mib = read.ok_or_else(|| refused("not a size such as 64M, 20G or 2T"))?;
    let enough = (mib >= SMALLEST_MIB).then_some(mib);
    enough
        .ok_or_else(|| refused(&format!("too small: the shell way needs {SMALLEST_MIB}M at least")))
}

fn runs(word: &str) -> Result<usize> {
    let runs = number(word).filter(|&runs| runs < 1000).and_then(|runs| usize::try_from(runs).ok());
    runs.ok_or_else(|| refused("not a number from 1 to 999"))
}

fn seconds(word: &str) -> Result<u64> {
    number(word).ok_or_else(|| refused("not a number of seconds"))
}

/// What is said behind the flag and the word.
fn refused(why: &str) -> Error {
    Error::new(format!("is {why}"))
}

/// One that is not 0, and begins with no sign.
fn number(digits: &str) -> Option<u64> {
    digits.parse().ok().filter(|&number| number != 0 && !digits.starts_with('+'))
}

/// What can be asked for, and what that takes.
#[must_use]
pub fn more_help() -> String {
    format!(
        "What is measured:\n\n{}\nThe ways to boot:\n\n{}\n\
         Guests are emulated, also where KVM works: ratios tell more than seconds. Takes some 40 \
         minutes,\n--quick some 10; whatever else the machine does meanwhile shows in the figures.",
        list(Part::value_variants()),
        list(Way::value_variants()),
    )
}

/// A paragraph for each, as its documentation has it.
fn list<T: ValueEnum>(all: &[T]) -> String {
    let lines = all.iter().filter_map(|each| {
        let value = each.to_possible_value()?;
        let first = format!("  {:<13} ", value.get_name());
        let options = textwrap::Options::new(WIDTH)
            .initial_indent(&first)
            .subsequent_indent("                ")
            .word_splitter(WordSplitter::NoHyphenation);
        let help = value.get_help().map(ToString::to_string).unwrap_or_default();
        Some(textwrap::fill(&help.replace('`', ""), options) + "\n")
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        options: Options,
    }

    fn wanted(words: &[&str]) -> Result<Wanted> {
        let program = Program::try_parse_from(["bench"].iter().chain(words));
        program.map_err(|error| Error::new(error.to_string()))?.options.wanted()
    }

    #[test]
    fn without_options_all_that_is_published_is_measured() {
        let all = wanted(&[]).unwrap();
        assert_eq!((all.parts, all.ways), (PUBLISHED.to_vec(), Way::value_variants().to_vec()));
        assert_eq!(
            (all.sizes_mib, all.runs, all.work),
            (vec![64, 1024, 20_480, 2 << 20], 3, WHOLE)
        );
    }

    #[test]
    fn sizes_are_sorted_and_what_is_quick_has_its_own() {
        let sizes = |words: &[&str]| wanted(words).unwrap().sizes_mib;
        assert_eq!(sizes(&["--sizes", "2G,64M,2048M,1G"]), [64, 1024, 2048]);
        assert_eq!(sizes(&["--sizes", "2G", "--quick"]), [64]);
        let quick = wanted(&["--quick", "--runs", "7", "--only", "layers,data"]).unwrap();
        assert_eq!((quick.runs, quick.work), (1, LITTLE));
        assert_eq!(quick.parts, [Part::Layers, Part::Data]);
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for words in [
            ["--sizes", ""],
            ["--sizes", "+64M"],
            ["--sizes", "1000000M"],
            ["--sizes", "64M,"],
            ["--runs", "1000"],
            ["--timeout", "0"],
            ["--only", "data,"],
        ] {
            assert!(wanted(&words).is_err(), "{words:?}");
        }
    }
}
