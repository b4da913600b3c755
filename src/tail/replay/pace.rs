//! How fast a replay goes: event time against wall time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::str::FromStr;
use std::time::Duration;

/// How fast.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Speed {
    /// As fast as it can be read.
    #[default]
    Max,
    /// So many times as fast as it was.
    Times(f64),
}

impl FromStr for Speed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "max" {
            return Ok(Self::Max);
        }
        let times: Option<f64> = text.strip_suffix('x').and_then(|number| number.parse().ok());
        match times {
            Some(times) if times > 0.0 && times.is_finite() => Ok(Self::Times(times)),
            _ => Err(format!("{text:?} is no speed: write `max`, or a number above 0 and an x, as in `3600x` (an hour a second)")),
        }
    }
}

impl std::fmt::Display for Speed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Max => f.write_str("max"),
            Self::Times(times) => write!(f, "{times}x"),
        }
    }
}

/// Tells when a ticket is due.
///
/// The clock is the 20th largest completion time so far, so that one ticket from the far future stops nothing.
#[derive(Clone, Debug)]
pub struct Pace {
    speed: Speed,
    start_ms: Option<i64>,
    largest: BinaryHeap<Reverse<i64>>,
}

/// Which of the largest completion times is the clock.
const RANK: usize = 20;

impl Pace {
    /// Begins a replay.
    #[must_use]
    pub fn new(speed: Speed) -> Self {
        Self { speed, start_ms: None, largest: BinaryHeap::with_capacity(RANK + 1) }
    }

    /// Returns how long after the start of the replay the next ticket, completed at `completed_at_ms`, is due.
    pub fn due(&mut self, completed_at_ms: i64) -> Duration {
        let Speed::Times(times) = self.speed else {
            return Duration::ZERO;
        };
        self.largest.push(Reverse(completed_at_ms));
        if self.largest.len() > RANK {
            self.largest.pop();
        }
        let Some(&Reverse(clock_ms)) = self.largest.peek() else {
            return Duration::ZERO;
        };
        if self.largest.len() < RANK {
            return Duration::ZERO;
        }
        let start_ms = *self.start_ms.get_or_insert(clock_ms);
        #[expect(clippy::cast_precision_loss, reason = "a wait needs no exact milliseconds")]
        let seconds = (clock_ms - start_ms) as f64 / 1000.0 / times;
        Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_speed_is_max_or_a_number_of_times() {
        assert_eq!("max".parse(), Ok(Speed::Max));
        assert_eq!("3600x".parse(), Ok(Speed::Times(3600.0)));
        assert_eq!("0.5x".parse::<Speed>().map(|speed| speed.to_string()), Ok("0.5x".to_owned()));
        for wrong in ["", "x", "3600", "0x", "-1x", "infx", "NaNx", "fast"] {
            assert!(wrong.parse::<Speed>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_hour_a_second_is_due_after_a_second() {
        let mut pace = Pace::new(Speed::Times(3600.0));
        for _ in 0..RANK {
            assert_eq!(pace.due(1_000), Duration::ZERO);
        }
        assert_eq!(pace.due(10_000_000_000), Duration::ZERO, "one ticket from the future moves nothing");
        let due: Vec<_> = (0..RANK).map(|_| pace.due(3_601_000)).collect();
        assert_eq!(due.last(), Some(&Duration::from_secs(1)));
        assert_eq!(pace.due(500), Duration::from_secs(1), "an older one is due with those before it");
        assert_eq!(Pace::new(Speed::Max).due(5), Duration::ZERO);
    }
}
