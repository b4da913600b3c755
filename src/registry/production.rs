//! Which version is in Production, when stage, alias and what this program wrote last do not agree.
//!
//! A promotion writes three things: the stage, then the alias `Production`, then the tag `tidemark.production` of the
//! registered model. Whoever moves Production by hand moves the stage or the alias, not the tag. So what differs from
//! the tag is somebody's decision, and wins:
//! 1. The alias differs from the tag: the alias. (When both differ, and from each other, the alias too: MLflow has
//!    deprecated stages.)
//! 2. A version in the stage differs from the tag: that one; of several the one moved last. MLflow's client leaves the former
//!    version in the stage unless it is asked to archive it, so several are usual.
//! 3. Otherwise whichever of alias and stage is there. Taking away only one of them moves nothing; taking away both does.
//!
//! So a promotion reads as done from its first write on, and one that was cut off is completed by repeating it. Only when
//! somebody had moved the alias before does it read as done from the second write on.

/// A version in the stage Production.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Staged {
    /// Number of the version.
    pub(super) number: u64,
    /// When the version was last changed, ms since 1970.
    pub(super) updated_ms: i64,
}

/// Returns the version in Production by the module's rule.
pub(super) fn decide(written: Option<u64>, alias: Option<u64>, staged: &[Staged]) -> Option<u64> {
    if let Some(moved) = alias.filter(|&number| Some(number) != written) {
        return Some(moved);
    }
    let moved = staged.iter().filter(|version| Some(version.number) != written).max_by_key(|version| (version.updated_ms, version.number));
    moved.map(|version| version.number).or(alias).or_else(|| staged.first().map(|version| version.number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn staged<const N: usize>(numbers: [u64; N]) -> [Staged; N] {
        // Later in the list is moved later.
        let mut at = 0;
        numbers.map(|number| {
            at += 1;
            Staged { number, updated_ms: at }
        })
    }

    #[test]
    fn what_all_say_is_in_production() {
        assert_eq!(decide(Some(5), Some(5), &staged([5])), Some(5));
        assert_eq!(decide(None, None, &[]), None);
    }

    #[test]
    fn whoever_moves_the_stage_is_noticed() {
        assert_eq!(decide(Some(5), Some(5), &staged([3])), Some(3));
        assert_eq!(decide(Some(5), Some(5), &staged([5, 3])), Some(3), "MLflow's client leaves the former one in the stage");
        assert_eq!(decide(Some(5), Some(5), &staged([4, 3, 5])), Some(3), "of several the last");
    }

    #[test]
    fn whoever_moves_the_alias_is_noticed() {
        assert_eq!(decide(Some(5), Some(3), &staged([5])), Some(3));
        assert_eq!(decide(Some(5), Some(3), &staged([4])), Some(3), "both were moved: stages are deprecated");
        assert_eq!(decide(None, Some(3), &[]), Some(3), "the first promotion was by hand");
    }

    #[test]
    fn taking_away_one_of_the_two_moves_nothing() {
        assert_eq!(decide(Some(5), None, &staged([5])), Some(5));
        assert_eq!(decide(Some(5), Some(5), &[]), Some(5));
        assert_eq!(decide(Some(5), None, &[]), None);
    }

    #[test]
    fn a_promotion_reads_as_done_from_its_first_write_on() {
        let (before, after) = (5, 6);
        assert_eq!(decide(Some(before), Some(before), &staged([after])), Some(after), "the stage is written");
        assert_eq!(decide(Some(before), Some(after), &staged([after])), Some(after), "the alias too");
        assert_eq!(decide(Some(after), Some(after), &staged([after])), Some(after), "and the tag");
    }
}
