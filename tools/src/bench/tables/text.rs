//! How figures are spelled, and tables laid out.

use textwrap::{Options, WordSplitter};

use crate::bench::spread::Spread;

/// Where there is no figure.
pub(super) const NONE: &str = "-";
/// Columns of a line.
const WIDTH: usize = 100;

/// With commas between thousands, and so many digits behind the point.
pub(super) fn grouped(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let (sign, whole) = whole.split_at(usize::from(whole.starts_with('-')));
    let mut out = sign.to_owned();
    for (at, digit) in whole.char_indices() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out + rest
}

/// Three digits at least.
pub(super) fn number(value: f64) -> String {
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    grouped(value, digits)
}

/// Six digits at most, without zeros at the end; of a value below a million with no more than five
/// digits behind the point where it is below one.
pub(super) fn general(value: f64) -> String {
    let scientific = format!("{value:.5e}");
    let exponent = scientific.split_once('e').and_then(|(_, exponent)| exponent.parse().ok());
    let text = format!("{value:.*}", 5_usize.saturating_sub(exponent.unwrap_or_default()));
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// Of a partition.
pub(super) fn size(mib: u64) -> String {
    let mib = u32::try_from(mib).unwrap_or(u32::MAX);
    for (unit, name) in [(1 << 20, "TiB"), (1 << 10, "GiB")] {
        if mib >= unit {
            return format!("{} {name}", general(f64::from(mib) / f64::from(unit)));
        }
    }
    format!("{mib} MiB")
}

/// The median, in so large a unit.
pub(super) fn middle(spread: Spread, unit: f64) -> String {
    number(spread.median.value() / unit)
}

/// The median, without anything behind the point.
pub(super) fn whole(spread: Option<Spread>, unit: f64) -> String {
    spread.map_or(NONE.to_owned(), |spread| grouped(spread.median.value() / unit, 0))
}

/// The median, with the lowest and highest where they differ.
pub(super) fn figure(spread: Option<Spread>, unit: f64) -> String {
    let Some(spread) = spread else { return NONE.to_owned() };
    let text = middle(spread, unit);
    if spread.is_flat() {
        return text;
    }
    let [min, max] = [spread.min, spread.max].map(|end| number(end.value() / unit));
    format!("{text} ({min}-{max})")
}

/// Lines of text, and an empty one.
pub(super) fn paragraph(text: &str) -> String {
    let options = Options::new(WIDTH).break_words(false).word_splitter(WordSplitter::NoHyphenation);
    textwrap::fill(text, options) + "\n\n"
}

/// What a table shows of each row, and what stands above that.
pub(super) type Columns<R> = &'static [(&'static str, fn(&R) -> String)];

/// A table with a line for each row.
pub(super) fn table<'a, R: 'a>(
    columns: Columns<R>,
    rows: impl IntoIterator<Item = &'a R>,
) -> String {
    let head = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
    let lines = rows.into_iter().map(|row| columns.iter().map(|(_, cell)| cell(row)).collect());
    grid(head, lines)
}

/// A table of cells.
pub(super) fn grid(head: Vec<String>, rows: impl Iterator<Item = Vec<String>>) -> String {
    let rule = format!("|{}\n", "---|".repeat(head.len()));
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut out = line(head) + &rule;
    out.extend(rows.map(line));
    out + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_at_least() {
        for (value, text) in [
            (0.0, "0.00"),
            (9.994, "9.99"),
            (9.996, "10.00"),
            (10.0, "10.0"),
            (99.96, "100.0"),
            (100.4, "100"),
            (1_000.0, "1,000"),
            (84_357_778.2, "84,357,778"),
            (-1_234.0, "-1,234.00"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    /// As most programs round: what lies halfway goes to the even digit.
    #[test]
    fn halves_go_to_the_even_digit() {
        let halves =
            [(100.5, "100"), (101.5, "102"), (10.25, "10.2"), (10.75, "10.8"), (0.125, "0.12")];
        for (value, text) in halves {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn sizes_have_the_largest_unit() {
        for (mib, text) in [
            (64, "64 MiB"),
            (1024, "1 GiB"),
            (1025, "1.00098 GiB"),
            (1536, "1.5 GiB"),
            (20_480, "20 GiB"),
            (1_023_781, "999.786 GiB"),
            (1_048_575, "1024 GiB"),
            (2_097_152, "2 TiB"),
        ] {
            assert_eq!(size(mib), text);
        }
        assert_eq!([0.0, 1.02, 12.5].map(general), ["0", "1.02", "12.5"]);
    }

    #[test]
    fn a_spread_is_told_where_there_is_one() {
        assert_eq!(figure(Spread::of_all([1_000_i64, 2_000, 4_000]), 1_000.0), "2.00 (1.00-4.00)");
        assert_eq!(figure(Spread::of_all([2_000_i64]), 1_000.0), "2.00");
        assert_eq!(figure(None, 1.0), "-");
    }
}
