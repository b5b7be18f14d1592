//! Figures, and what several of one kind come to.

use serde::{Deserialize, Serialize};

/// A figure as JSON has it: what is counted stays whole.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(untagged)]
pub(super) enum Number {
    /// Bytes, requests, microseconds.
    Whole(i64),
    /// A rate, or a median between two figures.
    Real(f64),
}

impl Number {
    /// What it is in calculations.
    #[expect(clippy::cast_precision_loss, reason = "no count reaches 2^53")]
    pub(super) fn value(self) -> f64 {
        match self {
            Self::Whole(whole) => whole as f64,
            Self::Real(real) => real,
        }
    }

    /// So many.
    pub(super) fn count(count: u64) -> Self {
        Self::Whole(i64::try_from(count).unwrap_or(i64::MAX))
    }

    /// The whole number that is next.
    #[expect(clippy::cast_possible_truncation, reason = "no figure reaches 2^63")]
    pub(super) fn rounded(real: f64) -> Self {
        Self::Whole(real.round_ties_even() as i64)
    }
}

impl From<i64> for Number {
    fn from(whole: i64) -> Self {
        Self::Whole(whole)
    }
}

impl From<f64> for Number {
    fn from(real: f64) -> Self {
        Self::Real(real)
    }
}

/// What was measured several times.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Spread {
    /// The one in the middle; of an even count, halfway between the two in the middle.
    pub(super) median: Number,
    /// The lowest.
    pub(super) min: Number,
    /// The highest.
    pub(super) max: Number,
}

impl Spread {
    /// Of all values that are known; none where no value is.
    pub(super) fn of<T: Into<Number>>(values: impl IntoIterator<Item = Option<T>>) -> Option<Self> {
        let mut known: Vec<Number> = values.into_iter().flatten().map(Into::into).collect();
        known.sort_by(|a, b| a.value().total_cmp(&b.value()));
        let (min, max) = (*known.first()?, *known.last()?);
        let upper = *known.get(known.len() / 2)?;
        let median = if known.len() % 2 == 1 {
            upper
        } else {
            let lower = known.get(known.len() / 2 - 1)?;
            Number::Real(f64::midpoint(lower.value(), upper.value()))
        };
        Some(Self { median, min, max })
    }

    /// Of values that are all known; none where there is none.
    pub(super) fn of_all<T: Into<Number>>(values: impl IntoIterator<Item = T>) -> Option<Self> {
        Self::of(values.into_iter().map(Some))
    }

    /// Whether it has no width.
    pub(super) fn is_flat(self) -> bool {
        self.min.value().total_cmp(&self.max.value()).is_eq()
    }

    /// One figure that stands for all.
    pub(super) fn flat(figure: Number) -> Self {
        Self { median: figure, min: figure, max: figure }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_odd_count_has_its_middle_and_an_even_one_what_lies_between() {
        let of = |counts: &[i64]| Spread::of_all(counts.iter().copied()).unwrap();
        let [low, middle, high] = [10, 20, 30].map(Number::Whole);
        assert_eq!(of(&[30, 10, 20]), Spread { median: middle, min: low, max: high });
        assert_eq!(
            of(&[20, 10, 30, 20]),
            Spread { median: Number::Real(20.0), min: low, max: high }
        );
        assert_eq!(of(&[30, 20]).median, Number::Real(25.0));
        assert_eq!(of(&[10]), Spread::flat(low));
    }

    #[test]
    fn what_is_not_known_does_not_count() {
        let known = Spread::of([Some(1.5), None, Some(3.5), Some(2.5)]).unwrap();
        assert_eq!(known.median, Number::Real(2.5));
        assert_eq!(Spread::of([None::<f64>]), None);
        assert_eq!(Spread::of_all([0_f64; 0]), None);
    }

    #[test]
    fn json_tells_counts_from_rates() {
        let spread = Spread::of_all([1_i64, 2]).unwrap();
        let json = r#"{"median":1.5,"min":1,"max":2}"#;
        assert_eq!(serde_json::to_string(&spread).unwrap(), json);
        assert_eq!(serde_json::from_str::<Spread>(json).unwrap(), spread);
        assert_eq!(serde_json::to_string(&Number::Real(1500.0)).unwrap(), "1500.0");
    }
}
