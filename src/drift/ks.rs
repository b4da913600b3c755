//! The Kolmogorov–Smirnov distance of the target, from a histogram at the baseline's k/1024 quantiles.

/// The target's distance from the baseline.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ks {
    /// Largest difference of the two cumulated shares, in `[0, 1]`.
    pub distance: f64,
    /// Effective rows `n·m / (n + m)`.
    pub effective_rows: f64,
}

impl Ks {
    /// No distance: what an empty window says.
    pub const NONE: Self = Self { distance: 0.0, effective_rows: 0.0 };

    /// Returns the natural logarithm of the textbook p-value.
    #[must_use]
    pub fn ln_p(&self) -> f64 {
        super::special::ln_kolmogorov_upper(self.distance * self.effective_rows.sqrt())
    }
}

/// Returns the distance of `window` from `baseline`; `None` when either counts no row.
///
/// `max over edges of |B - C|`, with `B` and `C` the cumulated shares up to the edge. Between two edges the exact distance
/// can be larger by at most the share that lies there, about 1/1024 of the baseline.
///
/// - Shapes: row counts over the same edges.
/// - Law: symmetric in its arguments; a function of the counts alone.
/// - Source: Smirnov (1948), "Table for Estimating the Goodness of Fit of Empirical Distributions".
#[must_use]
pub fn ks(baseline: &[u64], window: &[u64]) -> Option<Ks> {
    assert_eq!(baseline.len(), window.len(), "a window is counted over its baseline's bins");
    let (n, m) = (baseline.iter().sum::<u64>() as f64, window.iter().sum::<u64>() as f64);
    if n < 1.0 || m < 1.0 {
        return None;
    }
    let (mut cumulated_b, mut cumulated_c, mut distance) = (0_u64, 0_u64, 0.0_f64);
    for (&b, &c) in baseline.iter().zip(window) {
        cumulated_b += b;
        cumulated_c += c;
        distance = distance.max((cumulated_b as f64 / n - cumulated_c as f64 / m).abs());
    }
    Some(Ks { distance, effective_rows: n * m / (n + m) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disjoint_targets_are_one_apart() {
        let found = ks(&[100, 0], &[0, 100]).expect("both have rows");
        assert!((found.distance - 1.0).abs() < 1e-15);
        assert!((found.effective_rows - 50.0).abs() < 1e-12);
        assert!(found.ln_p() < -99.0);
    }

    #[test]
    fn equal_shares_are_not_apart() {
        let found = ks(&[10, 20, 30], &[1, 2, 3]).expect("both have rows");
        assert!(found.distance < 1e-15 && found.ln_p().abs() < 1e-15);
    }

    #[test]
    fn an_empty_side_has_no_distance() {
        assert_eq!(ks(&[1], &[0]), None);
    }
}
