//! Quantiles as numpy computes them, to the last bit: bins must fall where the reference implementation puts them.

/// Returns the `q` quantile of sorted values by linear interpolation (type 7 of Hyndman and Fan 1996).
///
/// The two forms of the interpolation are numpy's: from the nearer neighbour, so that it is monotonous.
/// `sorted` is not empty and has no NaN; `q` lies in `[0, 1]`.
#[must_use]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index between 0 and len - 1")]
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    let last = sorted.len() - 1;
    let at = last as f64 * q;
    let below = (at.floor() as usize).min(last);
    let (low, high) = (sorted[below], sorted[(below + 1).min(last)]);
    let (t, step) = (at - below as f64, high - low);
    if t >= 0.5 { high - step * (1.0 - t) } else { low + step * t }
}

/// Returns the `k / parts` quantiles for 0 < k < parts, equal ones merged.
#[must_use]
pub fn edges(sorted: &[f64], parts: u32) -> Vec<f64> {
    let mut edges: Vec<f64> = (1..parts).map(|k| quantile(sorted, f64::from(k) / f64::from(parts))).collect();
    edges.sort_unstable_by(f64::total_cmp);
    edges.dedup_by(|later, earlier| *later <= *earlier);
    edges
}

/// Returns at most `most` of the sorted values, evenly spaced in order of size, first and last included.
#[must_use]
pub fn sample(sorted: &[f64], most: usize) -> Vec<f64> {
    if sorted.len() <= most {
        return sorted.to_vec();
    }
    (0..most).map(|i| sorted[i * (sorted.len() - 1) / (most - 1)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// numpy.quantile([1, 2, 4, 8.5, 16.25], k / 10).
    #[test]
    fn quantiles_are_numpys() {
        let values = [1.0, 2.0, 4.0, 8.5, 16.25];
        let expected = [1.4, 1.8, 2.4, 3.2, 4.0, 5.800_000_000_000_001, 7.6, 10.05, 13.149_999_999_999_999];
        for (k, expected) in (1..10).zip(expected) {
            let found = quantile(&values, f64::from(k) / 10.0);
            assert!((found - expected).abs() < 1e-14, "{k}: {found} is not {expected}");
        }
        assert_eq!(quantile(&values, 1.0).to_bits(), 16.25_f64.to_bits());
        assert_eq!(quantile(&[3.0], 0.37).to_bits(), 3.0_f64.to_bits());
    }

    #[test]
    fn equal_edges_are_merged() {
        assert_eq!(edges(&[1.0, 1.0, 1.0, 1.0, 5.0], 4), [1.0]);
    }

    #[test]
    fn a_sample_keeps_both_ends() {
        let values: Vec<f64> = (0..5_000).map(f64::from).collect();
        let sample = sample(&values, 1_000);
        assert_eq!((sample.len(), sample[0], sample[999]), (1_000, 0.0, 4_999.0));
    }
}
