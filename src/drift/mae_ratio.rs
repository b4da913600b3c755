//! How much worse the predictions are: the ratio of mean absolute errors, and Welch's test on the logarithm of the error.

use crate::summary::{ErrorSums, LOG_STEPS};

use super::special::ln_t_two_sided;

/// Mean absolute error in the target's unit; `None` without rows.
#[must_use]
pub fn mae(sums: &ErrorSums) -> Option<f64> {
    (sums.rows > 0).then(|| sums.abs_us as f64 / sums.rows as f64 / 1000.0)
}

/// Returns the window's MAE over the baseline's; `None` when that is 0 or unknown, or the window has no error.
#[must_use]
pub fn mae_ratio(baseline_mae: f64, window: &ErrorSums) -> Option<f64> {
    let window_mae = mae(window)?;
    (baseline_mae > 0.0 && baseline_mae.is_finite()).then(|| window_mae / baseline_mae)
}

/// Mean and unbiased variance of ln(|error| + c), from sums in fixed point.
///
/// The squares around a multiple of 1/256 near the mean are summed in integers, in steps of 2^-56, so nothing cancels;
/// they fit 128 bits for 10^14 tickets.
#[expect(clippy::cast_possible_truncation, reason = "a logarithm of a plausible error lies within ±710")]
fn log_moments(sums: &ErrorSums) -> Option<(f64, f64)> {
    const CENTRES: f64 = 256.0;
    /// 2^48 / 256.
    const STEPS_IN_CENTRE: i128 = 1 << 40;
    if sums.rows < 2 {
        return None;
    }
    let (rows, n) = (i128::from(sums.rows), sums.rows as f64);
    let centre = libm::round(sums.log as f64 / n / LOG_STEPS * CENTRES) as i128;
    let beyond = (sums.log - rows * centre * STEPS_IN_CENTRE) as f64 / n / LOG_STEPS;
    let squares = sums.log_sq * 256 - 2 * centre * sums.log + rows * centre * centre * STEPS_IN_CENTRE;
    let variance = (squares as f64 / (LOG_STEPS * CENTRES) - n * beyond * beyond) / (n - 1.0);
    Some((centre as f64 / CENTRES + beyond, variance.max(0.0)))
}

/// Returns the natural logarithm of the two-sided p-value of Welch's t test on ln(|error| + c).
///
/// `None` when a side has fewer than two rows, or neither side varies. Both sums must have been made with the same c.
///
/// - Law: symmetric in its arguments.
/// - Source: Welch (1947), Biometrika 34; degrees of freedom by Satterthwaite (1946).
#[must_use]
pub fn welch_ln_p(baseline: &ErrorSums, window: &ErrorSums) -> Option<f64> {
    let (mean_b, variance_b) = log_moments(baseline)?;
    let (mean_c, variance_c) = log_moments(window)?;
    let (n, m) = (baseline.rows as f64, window.rows as f64);
    let (part_b, part_c) = (variance_b / n, variance_c / m);
    let part = part_b + part_c;
    if part <= 0.0 {
        return None;
    }
    let degrees = part * part / (part_b * part_b / (n - 1.0) + part_c * part_c / (m - 1.0));
    Some(ln_t_two_sided(degrees, (mean_c - mean_b) / part.sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(errors: &[f64]) -> ErrorSums {
        let mut sums = ErrorSums::default();
        errors.iter().for_each(|error| sums.push(*error, 0.01));
        sums
    }

    #[test]
    fn moments_agree_with_the_two_pass_formula() {
        let errors = [12.5, 3.0, 900.0, 0.0, 77.7];
        let logs: Vec<f64> = errors.iter().map(|e| libm::log(e + 0.01)).collect();
        let mean = logs.iter().sum::<f64>() / 5.0;
        let variance = logs.iter().map(|l| (l - mean) * (l - mean)).sum::<f64>() / 4.0;
        let found = log_moments(&sums(&errors)).expect("five rows");
        assert!((found.0 - mean).abs() < 1e-12 && (found.1 - variance).abs() < 1e-10, "{found:?} {mean} {variance}");
    }

    /// scipy.stats.ttest_ind([1, 2, 3, 4], [2, 4, 6, 9, 11], equal_var=False) on the logarithms.
    #[test]
    fn welch_agrees_with_scipy() {
        let side = |logs: &[f64]| sums(&logs.iter().map(|l| libm::exp(*l) - 0.01).collect::<Vec<_>>());
        let p = libm::exp(welch_ln_p(&side(&[1.0, 2.0, 3.0, 4.0]), &side(&[2.0, 4.0, 6.0, 9.0, 11.0])).expect("both vary"));
        assert!((p - 0.074_912_745_056_592_41).abs() < 1e-10, "{p}");
    }

    #[test]
    fn errors_that_do_not_vary_give_no_p() {
        assert_eq!(welch_ln_p(&sums(&[5.0; 10]), &sums(&[5.0; 10])), None);
        assert_eq!(welch_ln_p(&sums(&[5.0]), &sums(&[5.0, 6.0])), None);
    }

    #[test]
    fn a_baseline_without_error_has_no_ratio() {
        assert_eq!(mae_ratio(0.0, &sums(&[1.0])), None);
        assert_eq!(mae_ratio(2.0, &ErrorSums::default()), None);
        assert_eq!(mae_ratio(2.0, &sums(&[1.0, 5.0])), Some(1.5));
    }
}
