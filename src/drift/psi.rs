//! The population stability index: how far the shares of a window's bins are from the baseline's.

use super::special::ln_chi2_upper;

/// Added to every count, so that an empty bin has a share (the Krichevsky–Trofimov estimator).
const SMOOTHING: f64 = 0.5;

/// A window's distance from the baseline in one column.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Psi {
    /// The index, in nats.
    pub psi: f64,
    /// `psi / (1/N + 1/M)`: χ² with `bins - 1` degrees of freedom when all tickets are independent.
    pub statistic: f64,
    /// Bins that are not empty in both.
    pub bins: u32,
}

impl Psi {
    /// No distance: what an empty window says.
    pub const NONE: Self = Self { psi: 0.0, statistic: 0.0, bins: 0 };

    /// Returns the degrees of freedom, `bins - 1`.
    #[must_use]
    pub fn degrees(&self) -> f64 {
        f64::from(self.bins.saturating_sub(1))
    }

    /// Returns the natural logarithm of the textbook p-value; 0 where there is no degree of freedom.
    #[must_use]
    pub fn ln_p(&self) -> f64 {
        if self.bins < 2 { 0.0 } else { ln_chi2_upper(self.degrees(), self.statistic) }
    }
}

/// Returns the population stability index of `window` against `baseline`; `None` when either counts no row.
///
/// `sum over bins of (c - b) * ln(c / b)`, with `b` and `c` each bin's share of its own histogram, smoothed by half a row
/// over the bins that are not empty in both, summed in bin order.
///
/// - Shapes: row counts over the same bins.
/// - Unit: nats, in `[0, inf)`. 0 means identical; 0.1 and 0.25 are the customary marks.
/// - Law: symmetric in its arguments; a function of the counts alone.
/// - Source: Yurdakul (2018), "Statistical Properties of Population Stability Index".
#[must_use]
pub fn psi(baseline: &[u64], window: &[u64]) -> Option<Psi> {
    assert_eq!(baseline.len(), window.len(), "a window is counted over its baseline's bins");
    let (mut n, mut m, mut bins) = (0_u64, 0_u64, 0_u32);
    for (&b, &c) in baseline.iter().zip(window) {
        n += b;
        m += c;
        bins += u32::from(b + c > 0);
    }
    if n == 0 || m == 0 {
        return None;
    }
    let (total_b, total_c) = (n as f64 + SMOOTHING * f64::from(bins), m as f64 + SMOOTHING * f64::from(bins));
    let mut sum = 0.0;
    for (&b, &c) in baseline.iter().zip(window) {
        sum += part(b, c, total_b, total_c);
    }
    Some(Psi { psi: sum, statistic: sum / (1.0 / n as f64 + 1.0 / m as f64), bins })
}

/// Returns what each bin adds to the index: the categories that carry a change have most of it.
#[must_use]
pub fn parts(baseline: &[u64], window: &[u64]) -> Vec<f64> {
    let bins = baseline.iter().zip(window).filter(|(b, c)| **b + **c > 0).count();
    let total = |counts: &[u64]| counts.iter().sum::<u64>() as f64 + SMOOTHING * bins as f64;
    let (total_b, total_c) = (total(baseline), total(window));
    baseline.iter().zip(window).map(|(&b, &c)| part(b, c, total_b, total_c)).collect()
}

fn part(b: u64, c: u64, total_b: f64, total_c: f64) -> f64 {
    if b + c == 0 {
        return 0.0;
    }
    let share_b = (b as f64 + SMOOTHING) / total_b;
    let share_c = (c as f64 + SMOOTHING) / total_c;
    (share_c - share_b) * libm::log(share_c / share_b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identical_shares_have_no_distance() {
        let found = psi(&[10, 20, 0, 30], &[10, 20, 0, 30]).expect("both have rows");
        assert_eq!(found, Psi { psi: 0.0, statistic: 0.0, bins: 3 });
        assert!(found.ln_p().abs() < 1e-15);
    }

    #[test]
    fn an_empty_side_has_no_index() {
        assert_eq!(psi(&[1, 2], &[0, 0]), None);
        assert_eq!(psi(&[0, 0], &[1, 2]), None);
    }

    #[test]
    fn a_column_with_one_bin_gives_no_evidence() {
        let found = psi(&[500, 0], &[70, 0]).expect("both have rows");
        assert_eq!((found.bins, found.degrees()), (1, 0.0));
        assert!(found.ln_p().abs() < 1e-15);
    }

    #[test]
    fn a_bin_that_is_new_counts() {
        let found = psi(&[500, 0], &[0, 70]).expect("both have rows");
        assert!(found.psi > 10.0 && found.ln_p() < -300.0, "{found:?}");
    }

    #[test]
    fn the_parts_add_up_to_the_index() {
        let (baseline, window) = ([7, 0, 100, 3, 0], [1, 0, 50, 30, 2]);
        let whole = psi(&baseline, &window).expect("both have rows").psi;
        assert!((parts(&baseline, &window).iter().sum::<f64>() - whole).abs() < 1e-15);
    }
}
