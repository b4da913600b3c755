//! Evidence against the baseline's own noise: p-values that know how much quiet windows of that length differ.
//!
//! Textbook p-values are of no use on real streams: hours, days and weather hang together, so at a few thousand rows they
//! are below 1e-15 in quiet weeks. Each function below is the textbook test with the baseline's own spread put in.

use super::ks::Ks;
use super::psi::Psi;
use super::special::{ln_f_upper, ln_kolmogorov_upper, ln_t_upper};

/// Windows of the baseline from which a spread can be learned at all.
pub const MIN_WINDOWS: u32 = 2;

/// Smallest s that is believed: keeps the evidence finite when the baseline's windows are all alike.
const MIN_LOG_MAE_STD: f64 = 1e-6;

/// Returns ln p of a feature: upper tail of F(df, df·(K−1)) at statistic / (φ·df).
///
/// The design effect φ scales the statistic, and the second degrees of freedom say that φ itself is known from K windows
/// only. Source: Rao and Scott (1981), J. Am. Stat. Assoc. 76; `windows` is K, at least [`MIN_WINDOWS`].
#[must_use]
pub fn feature_ln_p(psi: &Psi, phi: f64, windows: u32) -> f64 {
    let degrees = psi.degrees();
    if degrees < 1.0 {
        return 0.0;
    }
    ln_f_upper(degrees, degrees * f64::from(windows - 1), psi.statistic / (phi * degrees))
}

/// Returns ln p of the target: Q_KS(D·√(n_e/φ)).
#[must_use]
pub fn target_ln_p(ks: &Ks, phi: f64) -> f64 {
    ln_kolmogorov_upper(ks.distance * (ks.effective_rows / phi).sqrt())
}

/// Returns ln p of the error: upper tail of t(K−1) at ln(ratio) / (s·√(1 + L/D)).
///
/// `log_mae_std` is s, `days` is L, `baseline_days` is D; `windows` is K, at least [`MIN_WINDOWS`].
#[must_use]
pub fn error_ln_p(ratio: f64, log_mae_std: f64, days: u32, baseline_days: f64, windows: u32) -> f64 {
    if ratio <= 0.0 {
        return 0.0;
    }
    let spread = log_mae_std.max(MIN_LOG_MAE_STD) * (1.0 + f64::from(days) / baseline_days).sqrt();
    ln_t_upper(f64::from(windows - 1), libm::log(ratio) / spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_weakens_the_evidence() {
        let psi = Psi { psi: 0.3, statistic: 200.0, bins: 5 };
        assert!(feature_ln_p(&psi, 10.0, 8) > feature_ln_p(&psi, 1.0, 8));
        assert!(feature_ln_p(&psi, 1.0, 8) > psi.ln_p(), "φ known from eight windows is worth less than φ known for certain");
        let ks = Ks { distance: 0.1, effective_rows: 5_000.0 };
        assert!(target_ln_p(&ks, 8.0) > target_ln_p(&ks, 1.0));
        assert!(error_ln_p(1.5, 0.2, 7, 59.0, 8) > error_ln_p(1.5, 0.1, 7, 59.0, 8));
    }

    #[test]
    fn a_better_model_is_no_evidence_of_drift() {
        assert!(libm::exp(error_ln_p(0.8, 0.1, 7, 59.0, 8)) > 0.9);
        assert!(libm::exp(error_ln_p(0.0, 0.1, 7, 59.0, 8)) > 0.9);
    }

    #[test]
    fn a_baseline_whose_windows_are_all_alike_gives_finite_evidence() {
        assert!(error_ln_p(1.5, 0.0, 7, 59.0, 8).is_finite());
    }
}
