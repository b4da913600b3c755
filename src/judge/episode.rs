//! From looks to episodes: one a cause, opened by looks over in a row, escalated at most once, closed by looks below in a row.

use crate::alert::Level;
use crate::status::Episode;

/// What the windows that decide about a cause say at one mark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sight {
    /// Over at the critical level in any of them.
    pub(crate) over_critical: bool,
    /// Over at the warning level in the longest of them.
    pub(crate) over_warning: bool,
    /// In none of them above the closing threshold of the warning level.
    pub(crate) clears_warning: bool,
    /// In none of them above the closing threshold of the critical level.
    pub(crate) clears_critical: bool,
}

/// How many looks in a row it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Patience {
    /// Over at the critical level, to open there.
    pub(crate) critical_looks: u32,
    /// Over at the warning level, to open a warning.
    pub(crate) warning_looks: u32,
    /// Below the closing threshold, to close.
    pub(crate) close_looks: u32,
}

/// What a look did to a cause's episode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    /// Nothing.
    No,
    /// One opens at that level.
    Opened(Level),
    /// From warning to critical.
    Escalated,
    /// It closes.
    Closed,
}

/// The state of one cause. A look without a verdict leaves it as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Track {
    /// Looks over at the critical level in a row.
    pub(crate) critical_looks: u32,
    /// Looks over at the warning level in a row.
    pub(crate) warning_looks: u32,
    /// Looks below the closing threshold in a row.
    pub(crate) close_looks: u32,
    /// How it is now was accepted: nothing opens before it has been quiet.
    pub(crate) accepted: bool,
    /// The open episode.
    pub(crate) episode: Option<Episode>,
}

impl Track {
    /// Takes one look, and says what has to be done about the episode. The caller opens, raises and closes it.
    pub(crate) fn look(&mut self, sight: Sight, patience: Patience) -> Moved {
        count(&mut self.critical_looks, sight.over_critical);
        count(&mut self.warning_looks, sight.over_warning);
        let Some(episode) = &self.episode else {
            return self.look_at_rest(sight, patience);
        };
        let is_critical = episode.level == Level::Critical;
        if !is_critical && self.critical_looks >= patience.critical_looks {
            self.close_looks = 0;
            return Moved::Escalated;
        }
        let clears = if is_critical { sight.clears_critical } else { sight.clears_warning };
        count(&mut self.close_looks, clears);
        if self.close_looks < patience.close_looks {
            return Moved::No;
        }
        // A warning after this needs looks of its own: what was just resolved is not announced again at once.
        self.restart_counts();
        Moved::Closed
    }

    fn look_at_rest(&mut self, sight: Sight, patience: Patience) -> Moved {
        if self.accepted {
            count(&mut self.close_looks, sight.clears_warning);
            if self.close_looks >= patience.close_looks {
                self.accepted = false;
                self.restart_counts();
            }
            return Moved::No;
        }
        self.close_looks = 0;
        if self.critical_looks >= patience.critical_looks {
            return Moved::Opened(Level::Critical);
        }
        if self.warning_looks >= patience.warning_looks {
            return Moved::Opened(Level::Warning);
        }
        Moved::No
    }

    /// Begins to count anew: what was counted belongs to another baseline, or to an episode that is over.
    pub(crate) fn restart_counts(&mut self) {
        self.critical_looks = 0;
        self.warning_looks = 0;
        self.close_looks = 0;
    }

    /// Returns the level of the open episode.
    pub(crate) fn level(&self) -> Level {
        self.episode.as_ref().map_or(Level::Ok, |episode| episode.level)
    }
}

fn count(looks: &mut u32, holds: bool) {
    *looks = if holds { looks.saturating_add(1) } else { 0 };
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience { critical_looks: 3, warning_looks: 5, close_looks: 4 };
    const QUIET: Sight = Sight { over_critical: false, over_warning: false, clears_warning: true, clears_critical: true };
    const WARNING: Sight = Sight { over_critical: false, over_warning: true, clears_warning: false, clears_critical: true };
    const CRITICAL: Sight = Sight { over_critical: true, over_warning: true, clears_warning: false, clears_critical: false };
    /// Above 0.8 of both thresholds, over neither.
    const BETWEEN: Sight = Sight { over_critical: false, over_warning: false, clears_warning: false, clears_critical: false };

    fn episode(level: Level) -> Episode {
        Episode {
            id: "x-1".to_owned(),
            level,
            opened_mark: 1,
            opened_at_ms: 0,
            critical_at_ms: None,
            onset_ms: None,
            told: None,
            silenced_alerts: 0,
            answered: false,
            recovering: false,
        }
    }

    /// Plays looks as the core would, and returns what moved, with the number of the look from 1.
    fn play(track: &mut Track, looks: &[(Sight, usize)]) -> Vec<(usize, Moved)> {
        let mut moves = vec![];
        let each = looks.iter().flat_map(|(sight, times)| std::iter::repeat_n(*sight, *times));
        for (number, sight) in each.enumerate() {
            let moved = track.look(sight, PATIENCE);
            match moved {
                Moved::No => continue,
                Moved::Opened(level) => track.episode = Some(episode(level)),
                Moved::Escalated => track.episode = Some(episode(Level::Critical)),
                Moved::Closed => track.episode = None,
            }
            moves.push((number + 1, moved));
        }
        moves
    }

    #[test]
    fn looks_in_a_row_open_at_their_level() {
        let opened = |level, at| vec![(at, Moved::Opened(level))];
        for (looks, expected) in [
            (vec![(CRITICAL, 2), (QUIET, 1), (CRITICAL, 2)], vec![]),
            (vec![(CRITICAL, 3)], opened(Level::Critical, 3)),
            (vec![(WARNING, 4), (QUIET, 1), (WARNING, 4)], vec![]),
            (vec![(WARNING, 5)], opened(Level::Warning, 5)),
            // What is over critical is over warning too.
            (vec![(WARNING, 3), (CRITICAL, 2)], opened(Level::Warning, 5)),
            (vec![(BETWEEN, 50)], vec![]),
        ] {
            assert_eq!(play(&mut Track::default(), &looks), expected, "{looks:?}");
        }
    }

    #[test]
    fn an_episode_escalates_once_and_closes_once() {
        let looks = [(WARNING, 5), (CRITICAL, 3), (WARNING, 2), (CRITICAL, 9), (QUIET, 30)];
        let moves = play(&mut Track::default(), &looks);
        assert_eq!(moves, [(5, Moved::Opened(Level::Warning)), (8, Moved::Escalated), (23, Moved::Closed)]);
    }

    #[test]
    fn a_look_above_the_closing_threshold_begins_the_count_anew() {
        let looks = [(CRITICAL, 3), (QUIET, 3), (BETWEEN, 1), (QUIET, 4)];
        assert_eq!(play(&mut Track::default(), &looks), [(3, Moved::Opened(Level::Critical)), (11, Moved::Closed)]);
    }

    #[test]
    fn a_critical_episode_that_fades_to_a_warning_closes_and_may_open_again_after_looks_of_its_own() {
        let looks = [(CRITICAL, 3), (WARNING, 4 + 5)];
        let moves = play(&mut Track::default(), &looks);
        assert_eq!(moves, [(3, Moved::Opened(Level::Critical)), (7, Moved::Closed), (12, Moved::Opened(Level::Warning))]);
    }

    #[test]
    fn what_was_accepted_opens_nothing_before_it_was_quiet() {
        let mut track = Track { accepted: true, ..Track::default() };
        assert_eq!(play(&mut track, &[(CRITICAL, 40), (QUIET, 3), (CRITICAL, 9)]), []);
        assert_eq!(play(&mut track, &[(QUIET, 4), (CRITICAL, 3)]), [(7, Moved::Opened(Level::Critical))]);
    }
}
