//! Upper tails of the distributions that the tests need, as natural logarithms, so that no tail underflows.
//!
//! Everything rests on `libm`, so the same counts give the same bits on every machine.

use std::f64::consts::{LN_2, PI};

/// Smallest denominator of Lentz's method: replaces a zero without being felt.
const TINY: f64 = 1e-300;
/// Relative change at which a series or a continued fraction has converged.
const CONVERGED: f64 = 1e-16;
/// Terms after which it stops anyway; the slowest use (Welch with 10^7 degrees of freedom) needs about 5,000.
const TERMS: u32 = 100_000;

/// Returns ln Q(a, x), the regularised upper incomplete gamma function.
///
/// Below x = a + 1 from the series of P, above from Legendre's continued fraction by Lentz's method.
/// Source: DLMF 8.7.1 and 8.9.2; Press et al., Numerical Recipes, 6.2. `a > 0`, `x >= 0`.
#[must_use]
pub fn ln_gamma_upper(a: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    let ln_front = a * libm::log(x) - x - libm::lgamma(a);
    if x < a + 1.0 {
        let (mut term, mut sum, mut n) = (1.0 / a, 1.0 / a, a);
        for _ in 0..TERMS {
            n += 1.0;
            term *= x / n;
            sum += term;
            if term < sum * CONVERGED {
                break;
            }
        }
        return ln_complement(ln_front + libm::log(sum));
    }
    let mut b = x + 1.0 - a;
    let mut c = 1.0 / TINY;
    let mut d = 1.0 / b;
    let mut fraction = d;
    let mut i = 0.0;
    for _ in 0..TERMS {
        i += 1.0;
        let numerator = -i * (i - a);
        b += 2.0;
        d = 1.0 / away_from_zero(numerator * d + b);
        c = away_from_zero(b + numerator / c);
        let factor = d * c;
        fraction *= factor;
        if (factor - 1.0).abs() < CONVERGED {
            break;
        }
    }
    ln_front + libm::log(fraction)
}

/// Returns ln I_x(a, b), the regularised incomplete beta function, with `y = 1 - x` given apart so that neither loses digits.
///
/// Continued fraction by Lentz's method on the side where it converges, the complement on the other.
/// Source: DLMF 8.17.22; Press et al., Numerical Recipes, 6.4. `a, b > 0`, `0 <= x <= 1`.
#[must_use]
pub fn ln_beta_lower(a: f64, b: f64, x: f64, y: f64) -> f64 {
    if x <= 0.0 {
        return f64::NEG_INFINITY;
    }
    if y <= 0.0 {
        return 0.0;
    }
    if x > (a + 1.0) / (a + b + 2.0) {
        return ln_complement(ln_beta_fraction(b, a, y, x)).min(0.0);
    }
    ln_beta_fraction(a, b, x, y).min(0.0)
}

fn ln_beta_fraction(a: f64, b: f64, x: f64, y: f64) -> f64 {
    let ln_front = a * ln_share(x, y) + b * ln_share(y, x) - ln_beta(a, b) - libm::log(a);
    let mut c = 1.0;
    let mut d = 1.0 / away_from_zero(1.0 - (a + b) * x / (a + 1.0));
    let mut fraction = d;
    let mut m = 0.0;
    for _ in 0..TERMS {
        m += 1.0;
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        d = 1.0 / away_from_zero(1.0 + even * d);
        c = away_from_zero(1.0 + even / c);
        fraction *= d * c;
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        d = 1.0 / away_from_zero(1.0 + odd * d);
        c = away_from_zero(1.0 + odd / c);
        let factor = d * c;
        fraction *= factor;
        if (factor - 1.0).abs() < CONVERGED {
            break;
        }
    }
    ln_front + libm::log(fraction)
}

/// Returns ln B(a, b) without the cancellation of three large logarithms.
///
/// Source: DiDonato and Morris (1992), ACM TOMS 708: where the larger argument is at least 10, its two gammas are taken
/// together by Stirling's series (DLMF 5.11.1).
#[must_use]
pub fn ln_beta(a: f64, b: f64) -> f64 {
    let (small, large) = if a < b { (a, b) } else { (b, a) };
    if large < 10.0 {
        return libm::lgamma(small) + libm::lgamma(large) - libm::lgamma(small + large);
    }
    // ln Γ(large) − ln Γ(large + small)
    let gammas =
        stirling_rest(large) - stirling_rest(large + small) - (large - 0.5) * libm::log1p(small / large) - small * libm::log(large + small)
            + small;
    libm::lgamma(small) + gammas
}

/// The rest of Stirling's formula, ln Γ(x) − (x − ½) ln x + x − ½ ln 2π, for x ≥ 10 (error below 1e-16).
fn stirling_rest(x: f64) -> f64 {
    let w = 1.0 / (x * x);
    (1.0 / 12.0 - w * (1.0 / 360.0 - w * (1.0 / 1260.0 - w * (1.0 / 1680.0 - w * (1.0 / 1188.0 - w * 691.0 / 360_360.0))))) / x
}

/// ln of a share, from its complement where that is the smaller one.
fn ln_share(share: f64, rest: f64) -> f64 {
    if share < 0.5 { libm::log(share) } else { libm::log1p(-rest) }
}

/// Returns ln(1 − e^l) for l ≤ 0 (Mächler 2012, "Accurately computing log(1 − exp(−|a|))").
#[must_use]
pub fn ln_complement(l: f64) -> f64 {
    if l > -LN_2 { libm::log(-libm::expm1(l.min(0.0))) } else { libm::log1p(-libm::exp(l)) }
}

fn away_from_zero(x: f64) -> f64 {
    if x.abs() < TINY { TINY } else { x }
}

/// Returns ln P(χ² with `df` degrees of freedom ≥ x).
#[must_use]
pub fn ln_chi2_upper(df: f64, x: f64) -> f64 {
    ln_gamma_upper(df / 2.0, x / 2.0)
}

/// Returns ln P(F(d1, d2) ≥ f).
#[must_use]
pub fn ln_f_upper(d1: f64, d2: f64, f: f64) -> f64 {
    if f <= 0.0 {
        return 0.0;
    }
    let sum = d2 + d1 * f;
    ln_beta_lower(d2 / 2.0, d1 / 2.0, d2 / sum, d1 * f / sum)
}

/// Returns ln P(|t(df)| ≥ |t|).
#[must_use]
pub fn ln_t_two_sided(df: f64, t: f64) -> f64 {
    ln_f_upper(1.0, df, t * t)
}

/// Returns ln P(t(df) ≥ t).
#[must_use]
pub fn ln_t_upper(df: f64, t: f64) -> f64 {
    let half = ln_t_two_sided(df, t) - LN_2;
    if t >= 0.0 { half } else { ln_complement(half) }
}

/// Returns ln Q_KS(x), Q_KS(x) = 2 Σ (−1)^(k−1) e^(−2k²x²), the limit of Kolmogorov's distribution.
///
/// Below x = 1 from Jacobi's transformation of the series, which converges there; 0 (p = 1) below 0.2, where 1 − p < 1e-12.
/// Source: Kolmogorov (1933); Marsaglia, Tsang and Wang (2003), J. Stat. Softw. 8(18).
#[must_use]
pub fn ln_kolmogorov_upper(x: f64) -> f64 {
    if x < 0.2 {
        return 0.0;
    }
    if x < 1.0 {
        let w = -PI * PI / (8.0 * x * x);
        let sum: f64 = [1.0, 9.0, 25.0, 49.0].iter().map(|odd_squared| libm::exp(odd_squared * w)).sum();
        return libm::log1p(-(2.0 * PI).sqrt() / x * sum);
    }
    let w = -2.0 * x * x;
    // 1 − e^(3w) + e^(8w) − …: what is left of the sum once e^w is taken out.
    let rest = -libm::exp(3.0 * w) + libm::exp(8.0 * w) - libm::exp(15.0 * w) + libm::exp(24.0 * w);
    LN_2 + w + libm::log1p(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn near(found: f64, expected: f64, relative: f64) {
        assert!((found - expected).abs() <= relative * expected.abs(), "{found:e} is not {expected:e}");
    }

    /// Closed forms: χ² with 2 degrees of freedom is exponential, with 4 it has one more term; t with 1 is Cauchy.
    #[test]
    fn tails_agree_with_closed_forms() {
        for x in [1e-8, 0.1, 1.0, 3.0, 10.0, 100.0, 5_000.0] {
            near(ln_chi2_upper(2.0, x), -x / 2.0, 1e-12);
            near(ln_chi2_upper(4.0, x), -x / 2.0 + libm::log1p(x / 2.0), 1e-7);
            near(libm::exp(ln_t_upper(1.0, x)), 0.5 - x.atan() / PI, 1e-9 + 1e-13 * x);
            // F(2, d) ≥ f is (1 + 2f/d)^(−d/2).
            for d in [2.0, 7.0, 60.0, 1e5] {
                near(ln_f_upper(2.0, d, x), -d / 2.0 * libm::log1p(2.0 * x / d), 1e-11);
            }
        }
    }

    /// mpmath 1.3 with 40 digits: `log(betainc(a, b, 0, x, regularized=True))`, `log(gammainc(a, x, inf, regularized=True))`.
    #[test]
    fn tails_agree_with_mpmath() {
        for (a, b, x, expected) in [
            (25_000.0, 0.5, 0.99, -254.593_466_954_829_56),
            (150_000.0, 0.5, 0.9999, -16.958_065_981_363_67),
            (2.5, 30.0, 0.001, -9.926_918_575_677_942),
            (29.5, 2.5, 0.2, -42.946_796_120_841_82),
            (3.0, 1.5, 0.9, -0.130_496_707_061_632_78),
        ] {
            near(ln_beta_lower(a, b, x, 1.0 - x), expected, 1e-11);
        }
        for (a, x, expected) in [
            (0.5, 100.0, -102.879_889_024_844_89),
            (11.5, 30.0, -10.172_528_990_392_224),
            (11.5, 12.0, -0.906_814_660_841_110_4),
            (2.5, 2_000.0, -1_988.882_579_274_956_6),
        ] {
            near(ln_gamma_upper(a, x), expected, 1e-13);
        }
        near(libm::exp(ln_t_two_sided(10.0, 2.228_138_851_964_939)), 0.050_000_000_001_808_63, 1e-13);
        near(libm::exp(ln_t_upper(10.0, -2.228_138_851_964_939)), 1.0 - 0.025_000_000_000_904_315, 1e-14);
    }

    #[test]
    fn tails_that_underflow_keep_their_logarithm() {
        // ln erfc(z) = −z² − ln(z√π) + ln(1 − 1/2z² + 3/4z⁴ − …)
        for z in [30.0_f64, 100.0, 1_000.0] {
            let w = 1.0 / (2.0 * z * z);
            let expected = -z * z - libm::log(z * PI.sqrt()) + libm::log1p(-w + 3.0 * w * w - 15.0 * w.powi(3));
            near(ln_chi2_upper(1.0, 2.0 * z * z), expected, 1e-12);
        }
        near(ln_kolmogorov_upper(40.0), LN_2 - 3_200.0, 1e-15);
        assert!(ln_f_upper(5.0, 35.0, 1e300).is_finite());
    }

    #[test]
    fn both_forms_of_kolmogorov_meet() {
        near(ln_kolmogorov_upper(1.0 - 1e-15), ln_kolmogorov_upper(1.0), 1e-13);
        near(libm::exp(ln_kolmogorov_upper(1.358_098_8)), 0.05, 1e-6);
        near(libm::exp(ln_kolmogorov_upper(0.5)), 0.963_945_243_664_875_1, 1e-14);
    }

    #[test]
    fn ln_beta_agrees_with_its_gammas_where_they_do_not_cancel() {
        for (a, b) in [(0.5, 10.0), (3.0, 20.0), (15.0, 12.0), (0.5, 0.5), (9.9, 0.1)] {
            near(ln_beta(a, b), libm::lgamma(a) + libm::lgamma(b) - libm::lgamma(a + b), 1e-13);
        }
    }
}
