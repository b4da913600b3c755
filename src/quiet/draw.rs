//! How days follow each other in a drawn year, from one seed.

use super::pool::Pool;

/// Autocorrelation from day to day of [`Draw::Persistent`].
const RHO: f64 = 0.8;

/// How days follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draw {
    /// Each day is any day of the pool.
    Days,
    /// Each week is any seven days in a row.
    Weeks,
    /// Days ordered by their error follow an AR(1) process with ρ = 0.8: bad days come together.
    Persistent,
    /// As they were.
    Real,
}

impl Draw {
    /// Every way, in order.
    pub const ALL: [Self; 4] = [Self::Days, Self::Weeks, Self::Persistent, Self::Real];

    /// Returns the name on the terminal.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Days => "days",
            Self::Weeks => "weeks",
            Self::Persistent => "ar1",
            Self::Real => "real",
        }
    }

    /// Returns which days of the pool make up a year.
    pub(super) fn days(self, pool: &Pool, count: usize, random: &mut Random) -> Vec<usize> {
        let known = pool.days.len();
        match self {
            Self::Days => (0..count).map(|_| random.below(known)).collect(),
            Self::Weeks => {
                let mut days = Vec::with_capacity(count + 7);
                while days.len() < count {
                    let first = random.below(known.saturating_sub(6).max(1));
                    days.extend((first..first + 7).map(|day| day.min(known - 1)));
                }
                days.truncate(count);
                days
            }
            Self::Persistent => {
                let mut state = random.normal();
                let day = |_| {
                    let rank = phi(state);
                    state = RHO * state + (1.0 - RHO * RHO).sqrt() * random.normal();
                    pool.by_error[index(rank, known)]
                };
                (0..count).map(day).collect()
            }
            Self::Real => (0..known.min(count)).collect(),
        }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a small length")]
fn index(share: f64, length: usize) -> usize {
    ((share * length as f64) as usize).min(length - 1)
}

/// The normal distribution function.
fn phi(z: f64) -> f64 {
    0.5 * libm::erfc(-z / std::f64::consts::SQRT_2)
}

/// Random numbers from a seed, the same on every machine (Steele, Lea and Flood 2014, "SplitMix").
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Begins the sequence of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5851_F42D_4C95_7F2D)
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Returns a number of `[0, 1)`.
    pub fn share(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Returns a number below `count`.
    pub(super) fn below(&mut self, count: usize) -> usize {
        index(self.share(), count)
    }

    /// Returns a standard normal number (Box and Muller 1958).
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * libm::log(1.0 - self.share())).sqrt();
        radius * libm::cos(2.0 * std::f64::consts::PI * self.share())
    }
}
