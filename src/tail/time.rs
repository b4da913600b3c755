//! Source time: the one clock that marks follow, a function of the stream alone.

use serde::{Deserialize, Serialize};

use super::source::ClusterTime;
use crate::clock::{DAY_MS, HOUR_MS};
use crate::config::ClockMode;

/// How many of the largest completion times the tickets clock keeps: it shows the smallest of them, so 19 wrong ones move nothing.
const LARGEST: usize = 20;
/// How many tickets of the stream decide which clock it is.
const DECIDING: u32 = 20;
/// A ticket this far behind its commit is an old one that was written now.
const OLD_MS: i64 = DAY_MS;
/// A jump beyond this is believed only when [`FOLLOWING`] tickets follow it.
const JUMP_MS: i64 = DAY_MS;
/// See [`JUMP_MS`].
const FOLLOWING: u32 = 100;
/// A completion later than the clock by more than this is from the future.
const AHEAD_MS: i64 = HOUR_MS;

/// Returns the last ms of the second that a cluster time names: what committed then completed no later.
#[must_use]
pub fn commit_ms((seconds, _): ClusterTime) -> i64 {
    i64::from(seconds) * 1_000 + 999
}

/// The largest completion times so far, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Largest(Vec<i64>);

impl Largest {
    fn add(&mut self, time: i64) {
        if self.0.len() == LARGEST {
            if time <= self.0[0] {
                return;
            }
            self.0.remove(0);
        }
        let at = self.0.partition_point(|&kept| kept <= time);
        self.0.insert(at, time);
    }

    /// The 20th largest, once there are 20.
    fn shown(&self) -> Option<i64> {
        (self.0.len() == LARGEST).then(|| self.0[0])
    }

    /// What [`Largest::shown`] would be after `time`.
    fn shown_with(&self, time: i64) -> Option<i64> {
        match self.0.len() {
            LARGEST => Some(self.0[0].max(time.min(self.0[1]))),
            length if length + 1 == LARGEST => Some(self.0.first().map_or(time, |&smallest| smallest.min(time))),
            _ => None,
        }
    }
}

/// The clock and its state, as it stands in the position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceClock {
    mode: ClockMode,
    /// Tickets of the stream seen while the mode is open, and how many of them were old.
    #[serde(default)]
    seen: u32,
    #[serde(default)]
    old: u32,
    /// The commit clock's time: the largest cluster time, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    committed_ms: Option<i64>,
    /// The first of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first_ms: Option<i64>,
    #[serde(default)]
    largest: Largest,
    /// Tickets that lie beyond a jump: one more for each, one less for each that does not.
    #[serde(default)]
    beyond: u32,
    #[serde(default)]
    largest_beyond: Largest,
}

impl SourceClock {
    /// Begins in `mode`.
    #[must_use]
    pub fn new(mode: ClockMode) -> Self {
        Self {
            mode,
            seen: 0,
            old: 0,
            committed_ms: None,
            first_ms: None,
            largest: Largest::default(),
            beyond: 0,
            largest_beyond: Largest::default(),
        }
    }

    /// Returns the mode in force; `Auto` while it is not decided.
    #[must_use]
    pub fn mode(&self) -> ClockMode {
        self.mode
    }

    /// Returns source time, ms since 1970; `None` before it is known.
    #[must_use]
    pub fn now(&self) -> Option<i64> {
        match self.mode {
            ClockMode::Auto => None,
            ClockMode::Commit => self.committed_ms,
            ClockMode::Tickets => self.largest.shown(),
        }
    }

    /// Returns where marks begin when time has just become known: where the stream began, or, under the tickets clock, with the
    /// median of the first 20, so that one old ticket among them does not bring a year of marks.
    #[must_use]
    pub fn beginning(&self) -> Option<i64> {
        match self.mode {
            ClockMode::Tickets => self.largest.shown().map(|_| self.largest.0[LARGEST / 2]),
            ClockMode::Commit => self.first_ms,
            ClockMode::Auto => None,
        }
    }

    /// Returns what [`SourceClock::now`] would be after a ticket of the stream, without taking it.
    #[must_use]
    pub fn now_with(&self, completed_at_ms: i64, commit: Option<ClusterTime>) -> Option<i64> {
        match self.mode {
            ClockMode::Auto if self.seen + 1 < DECIDING => None,
            ClockMode::Auto | ClockMode::Tickets if self.decides_or_jumps(completed_at_ms) => {
                let mut after = self.clone();
                after.take(completed_at_ms, commit);
                after.now()
            }
            ClockMode::Tickets => self.largest.shown_with(completed_at_ms),
            ClockMode::Auto | ClockMode::Commit => self.now_at(commit),
        }
    }

    /// The rare cases, in which more changes than one number.
    fn decides_or_jumps(&self, completed_at_ms: i64) -> bool {
        self.mode == ClockMode::Auto || self.beyond > 0 || self.is_beyond(completed_at_ms)
    }

    /// Returns what [`SourceClock::now`] would be once the source has come to `time`.
    #[must_use]
    pub fn now_at(&self, time: Option<ClusterTime>) -> Option<i64> {
        match self.mode {
            ClockMode::Commit => self.committed_ms.max(time.map(Self::source_ms)),
            ClockMode::Auto | ClockMode::Tickets => self.now(),
        }
    }

    fn source_ms((seconds, _): ClusterTime) -> i64 {
        i64::from(seconds) * 1_000
    }

    fn is_beyond(&self, completed_at_ms: i64) -> bool {
        self.largest.shown().is_some_and(|now| completed_at_ms > now.saturating_add(JUMP_MS))
    }

    /// The source has come to `time` without a ticket.
    pub fn pass(&mut self, time: ClusterTime) {
        self.committed_ms = self.committed_ms.max(Some(Self::source_ms(time)));
        self.first_ms = self.first_ms.or(self.committed_ms);
    }

    /// Takes a ticket of the stream.
    pub fn take(&mut self, completed_at_ms: i64, commit: Option<ClusterTime>) {
        if let Some(time) = commit {
            self.pass(time);
        }
        if self.mode == ClockMode::Commit {
            return;
        }
        if self.mode == ClockMode::Tickets && self.is_beyond(completed_at_ms) {
            self.beyond += 1;
            self.largest_beyond.add(completed_at_ms);
            if self.beyond >= FOLLOWING {
                for time in std::mem::take(&mut self.largest_beyond).0 {
                    self.largest.add(time);
                }
                self.beyond = 0;
            }
            return;
        }
        if self.beyond > 0 {
            self.beyond -= 1;
            if self.beyond == 0 {
                self.largest_beyond = Largest::default();
            }
        }
        self.largest.add(completed_at_ms);
        if self.mode == ClockMode::Auto {
            self.decide(completed_at_ms, commit);
        }
    }

    fn decide(&mut self, completed_at_ms: i64, commit: Option<ClusterTime>) {
        self.seen += 1;
        if commit.is_none_or(|time| completed_at_ms < commit_ms(time).saturating_sub(OLD_MS)) {
            self.old += 1;
        }
        if self.seen == DECIDING {
            self.mode = if self.old * 2 > DECIDING { ClockMode::Tickets } else { ClockMode::Commit };
            if self.mode == ClockMode::Commit {
                self.largest = Largest::default();
            }
        }
    }

    /// Returns event time of a ticket, or how far it is from the future, ms.
    ///
    /// Under the commit clock, event time is at most the commit time; of the past that is known to be over, `commit` is its end.
    ///
    /// # Errors
    /// The ms by which the completion is ahead of the clock, when that is more than an hour.
    pub fn event_at(&self, completed_at_ms: i64, commit: Option<ClusterTime>, present_ms: i64) -> Result<i64, i64> {
        let by_commit = commit.filter(|_| self.mode != ClockMode::Tickets).map(commit_ms);
        let ahead = completed_at_ms.saturating_sub(by_commit.unwrap_or(present_ms));
        if ahead > AHEAD_MS {
            return Err(ahead);
        }
        Ok(by_commit.map_or(completed_at_ms, |latest| completed_at_ms.min(latest)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tickets_clock(times: impl IntoIterator<Item = i64>) -> SourceClock {
        let mut clock = SourceClock::new(ClockMode::Tickets);
        for time in times {
            take(&mut clock, time, None);
        }
        clock
    }

    /// Takes a ticket, and checks that what was foreseen is what came.
    fn take(clock: &mut SourceClock, time: i64, commit: Option<ClusterTime>) {
        let foreseen = clock.now_with(time, commit);
        clock.take(time, commit);
        assert_eq!(clock.now(), foreseen, "after {time}");
    }

    #[test]
    fn the_tickets_clock_shows_the_twentieth_largest() {
        assert_eq!(tickets_clock(0..19).now(), None);
        assert_eq!(tickets_clock(0..20).now(), Some(0));
        assert_eq!(tickets_clock((0..100).rev()).now(), Some(80));
        assert_eq!(tickets_clock(std::iter::repeat_n(5, 30)).now(), Some(5));
    }

    #[test]
    fn one_ticket_from_another_year_moves_nothing() {
        let mut clock = tickets_clock(0..100);
        for time in 100..1_000 {
            take(&mut clock, time, None);
            if time % 10 == 0 {
                take(&mut clock, 400 * DAY_MS, None);
            }
        }
        assert_eq!(clock.now(), Some(980));
    }

    #[test]
    fn a_jump_is_taken_with_the_hundredth_ticket_that_follows_it() {
        let mut clock = tickets_clock(0..100);
        for n in 0..99 {
            take(&mut clock, 5 * DAY_MS + n, None);
        }
        assert_eq!(clock.now(), Some(80));
        take(&mut clock, 5 * DAY_MS + 99, None);
        assert_eq!(clock.now(), Some(5 * DAY_MS + 80));
    }

    #[test]
    fn late_tickets_between_do_not_stop_a_real_jump() {
        let mut clock = tickets_clock(0..100);
        for n in 0..400 {
            take(&mut clock, if n % 4 == 0 { n } else { 5 * DAY_MS + n }, None);
        }
        assert!(clock.now().unwrap() > 5 * DAY_MS);
    }

    #[test]
    fn auto_decides_by_the_first_twenty_and_never_again() {
        let now = 20_000 * DAY_MS;
        let commit = |ms: i64| Some((u32::try_from(ms / 1_000).unwrap(), 1));
        let mut clock = SourceClock::new(ClockMode::Auto);
        for n in 0..20 {
            assert_eq!(clock.now(), None);
            take(&mut clock, now + n - 400 * DAY_MS, commit(now + n));
        }
        assert_eq!(clock.mode(), ClockMode::Tickets);
        assert_eq!(clock.now(), Some(now - 400 * DAY_MS));

        let mut live = SourceClock::new(ClockMode::Auto);
        for n in 0..20 {
            take(&mut live, now + n * 1_000, commit(now + n * 1_000));
        }
        assert_eq!(live.mode(), ClockMode::Commit);
        for n in 0..50 {
            take(&mut live, n, commit(now + 30_000));
        }
        assert_eq!((live.mode(), live.now()), (ClockMode::Commit, Some(now + 30_000)));
    }

    #[test]
    fn event_time_is_at_most_the_commit_and_an_hour_ahead_is_the_future() {
        let clock = SourceClock::new(ClockMode::Commit);
        assert_eq!(clock.event_at(5_500, Some((5, 1)), 0), Ok(5_500));
        assert_eq!(clock.event_at(9_000, Some((5, 1)), 0), Ok(5_999));
        assert_eq!(clock.event_at(5_999 + HOUR_MS, Some((5, 1)), 0), Ok(5_999));
        assert_eq!(clock.event_at(6_000 + HOUR_MS, Some((5, 1)), 0), Err(HOUR_MS + 1));
        let replay = SourceClock::new(ClockMode::Tickets);
        assert_eq!(replay.event_at(9_000, Some((5, 1)), 9_000), Ok(9_000));
        assert_eq!(replay.event_at(9_001 + HOUR_MS, None, 9_000), Err(HOUR_MS + 1));
    }

    #[test]
    fn the_clock_survives_the_position() {
        let clock = tickets_clock((0..100).chain([9 * DAY_MS]));
        let json = serde_json::to_string(&clock).unwrap();
        assert_eq!(serde_json::from_str::<SourceClock>(&json).unwrap(), clock);
    }
}
