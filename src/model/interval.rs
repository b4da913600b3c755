//! How far a prediction may be off: split-conformal intervals from the ratios that a hold-out showed.

/// A hold-out that bounds no ratio.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum IntervalError {
    /// Not a prediction for every actual.
    #[error("{predicted} predictions for {actual} actuals: each needs the other")]
    Mismatch {
        /// Predictions given.
        predicted: usize,
        /// Actuals given.
        actual: usize,
    },
    /// The share of a tail lies outside 1 and 49 %.
    #[error("a tail of {percent} %: it must lie between 1 and 49")]
    Tail {
        /// The tail given.
        percent: usize,
    },
    /// So few rows that the interval would have no end.
    #[error("{rows} rows cannot leave {percent} % in a tail: at least {needed} are needed")]
    TooFew {
        /// Rows given.
        rows: usize,
        /// The tail asked for.
        percent: usize,
        /// Rows that are enough.
        needed: usize,
    },
    /// A prediction or an actual that is not a finite number above 0.
    #[error("row {row} has the prediction {predicted} and the actual {actual}: both must be finite and above 0")]
    NotPositive {
        /// The row.
        row: usize,
        /// Its prediction.
        predicted: f64,
        /// Its actual.
        actual: f64,
    },
}

/// What to multiply a prediction by, for the two ends of its interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratios {
    /// For the lower end.
    pub low_ratio: f64,
    /// For the upper end.
    pub high_ratio: f64,
}

/// Returns the ratios that hold `actual / predicted` with probability `1 - 2 × tail_percent / 100` or more.
///
/// Of the n sorted ratios the k-th smallest and the k-th largest, with `k = ⌊tail × (n + 1)⌋`: the split-conformal quantiles with
/// the finite-sample correction, `⌈(1 - tail)(n + 1)⌉ = n + 1 - k`.
///
/// - Shapes: `predicted` and `actual` are `[rows]`, the older half of a hold-out, in one unit.
/// - Assumes: rows to come are exchangeable with these. Time breaks that, so [`coverage`] is measured on the younger half.
/// - Source: Vovk, Gammerman & Shafer (2005), "Algorithmic Learning in a Random World"; Lei, G'Sell, Rinaldo, Tibshirani &
///   Wasserman (2018), "Distribution-Free Predictive Inference for Regression", algorithm 2.
///
/// # Errors
/// [`IntervalError`]; 10 % tails need at least 9 rows.
pub fn conformal_ratios(predicted: &[f64], actual: &[f64], tail_percent: usize) -> Result<Ratios, IntervalError> {
    if !(1..=49).contains(&tail_percent) {
        return Err(IntervalError::Tail { percent: tail_percent });
    }
    let mut ratios = ratios(predicted, actual)?;
    let rows = ratios.len();
    let rank = (rows + 1) * tail_percent / 100;
    if rank == 0 {
        return Err(IntervalError::TooFew { rows, percent: tail_percent, needed: 100_usize.div_ceil(tail_percent) - 1 });
    }
    ratios.sort_unstable_by(f64::total_cmp);
    Ok(Ratios { low_ratio: ratios[rank - 1], high_ratio: ratios[rows - rank] })
}

/// Returns the share of rows whose actual lies within its interval, ends included; `None` without rows.
///
/// Shapes: `predicted` and `actual` are `[rows]`, the younger half of the hold-out. Unit: none, in `[0, 1]`.
///
/// # Errors
/// [`IntervalError::Mismatch`] and [`IntervalError::NotPositive`].
pub fn coverage(interval: Ratios, predicted: &[f64], actual: &[f64]) -> Result<Option<f64>, IntervalError> {
    let ratios = ratios(predicted, actual)?;
    let within = ratios.iter().filter(|ratio| (interval.low_ratio..=interval.high_ratio).contains(*ratio)).count();
    Ok((!ratios.is_empty()).then(|| within as f64 / ratios.len() as f64))
}

fn ratios(predicted: &[f64], actual: &[f64]) -> Result<Vec<f64>, IntervalError> {
    if predicted.len() != actual.len() {
        return Err(IntervalError::Mismatch { predicted: predicted.len(), actual: actual.len() });
    }
    let usable = |value: f64| value.is_finite() && value > 0.0;
    let mut ratios = Vec::with_capacity(actual.len());
    for (row, (&predicted, &actual)) in predicted.iter().zip(actual).enumerate() {
        if !usable(predicted) || !usable(actual) {
            return Err(IntervalError::NotPositive { row, predicted, actual });
        }
        ratios.push(actual / predicted);
    }
    Ok(ratios)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(rows: u8) -> (Vec<f64>, Vec<f64>) {
        (vec![100.0; usize::from(rows)], (1..=rows).rev().map(|i| f64::from(i) * 100.0).collect())
    }

    #[test]
    fn nine_rows_give_the_smallest_and_the_largest_ratio() {
        let (predicted, actual) = ramp(9);
        assert_eq!(conformal_ratios(&predicted, &actual, 10), Ok(Ratios { low_ratio: 1.0, high_ratio: 9.0 }));
    }

    #[test]
    fn the_ranks_are_corrected_for_the_sample_size() {
        let (predicted, actual) = ramp(99);
        assert_eq!(conformal_ratios(&predicted, &actual, 10), Ok(Ratios { low_ratio: 10.0, high_ratio: 90.0 }));
        let (predicted, actual) = ramp(98); // ⌊9.9⌋ = 9 from either end
        assert_eq!(conformal_ratios(&predicted, &actual, 10), Ok(Ratios { low_ratio: 9.0, high_ratio: 90.0 }));
    }

    #[test]
    fn eight_rows_are_too_few_and_the_error_says_how_many_are_enough() {
        let (predicted, actual) = ramp(8);
        let refused = conformal_ratios(&predicted, &actual, 10);
        assert_eq!(refused, Err(IntervalError::TooFew { rows: 8, percent: 10, needed: 9 }));
        assert_eq!(conformal_ratios(&[], &[], 10), Err(IntervalError::TooFew { rows: 0, percent: 10, needed: 9 }));
    }

    #[test]
    fn rows_without_a_ratio_are_refused() {
        let nine = vec![1.0; 9];
        for hostile in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let mut actual = nine.clone();
            actual[4] = hostile;
            assert!(matches!(conformal_ratios(&nine, &actual, 10), Err(IntervalError::NotPositive { row: 4, .. })));
            assert!(matches!(conformal_ratios(&actual, &nine, 10), Err(IntervalError::NotPositive { row: 4, .. })));
        }
        assert_eq!(conformal_ratios(&nine, &nine[1..], 10), Err(IntervalError::Mismatch { predicted: 9, actual: 8 }));
        assert_eq!(conformal_ratios(&nine, &nine, 50), Err(IntervalError::Tail { percent: 50 }));
    }

    #[test]
    fn coverage_counts_the_ends_as_within() {
        let interval = Ratios { low_ratio: 0.5, high_ratio: 2.0 };
        assert_eq!(coverage(interval, &[10.0; 4], &[4.9, 5.0, 20.0, 20.1]), Ok(Some(0.5)));
        assert_eq!(coverage(interval, &[], &[]), Ok(None));
    }

    #[test]
    fn exchangeable_rows_are_covered_as_promised() {
        let ratio = |i: usize| 1.0 + ((i * 7919) % 1009) as f64 / 1009.0;
        let actual: Vec<f64> = (0..2000).map(|i| 60_000.0 * ratio(i)).collect();
        let predicted = vec![60_000.0; 2000];
        let interval = conformal_ratios(&predicted[..1000], &actual[..1000], 10).unwrap();
        let covered = coverage(interval, &predicted[1000..], &actual[1000..]).unwrap().unwrap();
        assert!((0.78..=0.82).contains(&covered), "{covered}");
    }
}
