//! Whether a candidate is better than the model in Production, on the same later rows.

use serde::{Deserialize, Serialize};

use crate::drift::special::ln_t_upper;

/// Level of significance, divided by the number of candidates.
const LEVEL: f64 = 0.05;
/// Slices and rows that the test needs.
const MIN_SLICES: usize = 5;
const MIN_ROWS: usize = 50;
/// Gain that is worth a promotion, as a share of Production's MAE.
const MIN_GAIN: f64 = 0.02;
/// Gain that is believed without the test, when every slice agrees.
const SURE_GAIN: f64 = 0.30;

/// How a candidate compares with Production.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Production's mean absolute error on the hold-out.
    pub production_mae: f64,
    /// The candidate's.
    pub candidate_mae: f64,
    /// `1 − candidate / production`.
    pub gain: f64,
    /// One-sided p of the paired test over slices; `None` with too few slices.
    pub p: Option<f64>,
    /// Slices with rows.
    pub slices: u64,
    /// Rows.
    pub rows: u64,
    /// Whether it may take Production's place.
    pub is_better: bool,
    /// Why, or why not, in words.
    pub reason: String,
}

/// Compares on one hold-out.
///
/// `d = |e of Production| − |e of candidate|`, averaged by hourly slice; one-sided t over the slices' means against 0, level
/// 0.05 / candidates, at least 5 slices and 50 rows, gain at least 2 % of Production's MAE. With fewer slices: gain at least 30 %
/// and every slice agrees.
///
/// - Shapes: all `[rows]`; times in ms since 1970, any order; predictions and actuals in one unit.
/// - Source: Diebold & Mariano (1995), "Comparing Predictive Accuracy"; batch means against autocorrelation within a slice.
#[must_use]
pub fn compare(
    completed_at_ms: &[i64],
    actual: &[f64],
    production: &[f64],
    candidate: &[f64],
    slice_ms: i64,
    candidates: usize,
) -> Comparison {
    let mut slices = std::collections::BTreeMap::<i64, (f64, f64)>::new();
    let (mut sum_production, mut sum_candidate) = (0.0, 0.0);
    for (((at, actual), production), candidate) in completed_at_ms.iter().zip(actual).zip(production).zip(candidate) {
        let (p, c) = ((production - actual).abs(), (candidate - actual).abs());
        sum_production += p;
        sum_candidate += c;
        let (rows, sum) = slices.entry(at.div_euclid(slice_ms)).or_default();
        *rows += 1.0;
        *sum += p - c;
    }
    let rows = actual.len();
    let n = rows.max(1) as f64;
    let (production_mae, candidate_mae) = (sum_production / n, sum_candidate / n);
    let gain = if production_mae > 0.0 { 1.0 - candidate_mae / production_mae } else { 0.0 };
    let means: Vec<f64> = slices.values().map(|(rows, sum)| sum / rows).collect();
    let p = (means.len() >= MIN_SLICES && rows >= MIN_ROWS).then(|| one_sided_p(&means));
    let level = LEVEL / candidates.max(1) as f64;
    let percent = 100.0 * gain;
    let (is_better, reason) = match p {
        Some(p) if p < level && gain >= MIN_GAIN => (true, format!("{percent:.0} % less error than Production (p {p:.2e} < {level:.3})")),
        Some(p) if p >= level => {
            (false, format!("not significantly better than Production: {percent:.1} % less error, p {p:.2} (needed {level:.3})"))
        }
        Some(_) => (false, format!("only {percent:.1} % less error than Production; {:.0} % are needed", 100.0 * MIN_GAIN)),
        None if gain >= SURE_GAIN && !means.is_empty() && means.iter().all(|mean| *mean > 0.0) => {
            (true, format!("{percent:.0} % less error than Production in each of {} slices", means.len()))
        }
        None => (false, format!("{rows} rows in {} slices are too few to tell ({percent:.0} % less error)", means.len())),
    };
    Comparison { production_mae, candidate_mae, gain, p, slices: means.len() as u64, rows: rows as u64, is_better, reason }
}

/// Upper tail of t at the mean of `values` over its standard error.
fn one_sided_p(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|value| (value - mean) * (value - mean)).sum::<f64>() / (n - 1.0);
    if variance <= 0.0 {
        return if mean > 0.0 { 0.0 } else { 1.0 };
    }
    let t = mean / (variance / n).sqrt();
    libm::exp(ln_t_upper(n - 1.0, t))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    fn given(hours: i64, each: i64, better_by: impl Fn(i64) -> f64) -> Comparison {
        let rows: Vec<(i64, i64)> = (0..hours).flat_map(|hour| (0..each).map(move |nth| (hour, nth))).collect();
        let times: Vec<i64> = rows.iter().map(|(hour, nth)| hour * HOUR + nth).collect();
        let actual = vec![100.0; rows.len()];
        let production = vec![110.0; rows.len()];
        let candidate: Vec<f64> = rows.iter().map(|(hour, _)| 110.0 - better_by(*hour)).collect();
        compare(&times, &actual, &production, &candidate, HOUR, 3)
    }

    #[test]
    fn a_candidate_that_is_better_in_every_slice_wins_and_a_lucky_hour_does_not() {
        assert!(given(10, 10, |hour| 2.0 + 0.1 * (hour % 3) as f64).is_better);
        let lucky = given(10, 10, |hour| if hour == 3 { 9.0 } else { -0.5 });
        assert!(!lucky.is_better && lucky.p.unwrap() > 0.05, "{lucky:?}");
    }

    #[test]
    fn a_small_gain_is_not_worth_a_promotion_however_significant() {
        let small = given(50, 10, |hour| 0.1 + 0.001 * (hour % 2) as f64);
        assert!(!small.is_better && small.p.unwrap() < 1e-6, "{small:?}");
    }

    #[test]
    fn with_few_slices_only_a_large_gain_on_which_all_agree_counts() {
        assert!(given(3, 20, |_| 4.0).is_better);
        assert!(!given(3, 20, |_| 2.0).is_better);
        assert!(!given(3, 20, |hour| if hour == 0 { -0.1 } else { 9.0 }).is_better);
        assert_eq!(given(3, 20, |_| 4.0).p, None);
    }

    #[test]
    fn the_same_predictions_are_not_better() {
        let same = given(10, 10, |_| 0.0);
        assert!(!same.is_better);
        assert!(same.gain.abs() < 1e-12);
    }
}
