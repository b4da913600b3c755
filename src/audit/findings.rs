//! What a check found: how often, and the first of each by name.

use std::collections::BTreeMap;

use serde::Serialize;

/// So many of each kind are told by name; the others are counted.
const NAMED: usize = 20;

/// What was found. Some of it breaks the promise, some is only worth knowing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Completed, and nowhere in the log.
    Missing,
    /// Unusable, and no dead letter says so.
    MissingDeadLetter,
    /// One completion is there more than once.
    Duplicated,
    /// One unusable document is there more than once.
    DuplicatedDeadLetter,
    /// Stands in its partition behind what MongoDB committed later.
    OutOfOrder,
    /// A record does not follow its predecessor in the chain.
    ChainBroken,
    /// A control record that some partitions have and others lack, or have elsewhere.
    ControlTorn,
    /// Two gap records for one loss.
    GapsOverlap,
    /// A record of ours that cannot be read, or whose key or partition is not its ticket's.
    Unreadable,
    /// Only in the log: deleted from MongoDB, or open again there.
    Gone,
    /// MongoDB has another completion time for it than the log: it was changed afterwards.
    Altered,
    /// Completed again at the very same time, by another commit.
    Again,
    /// A replaced document without a pre-image: folds into the completion before it.
    Folded,
    /// A dead letter says why its completion is no ticket, or it was repaired or spoilt afterwards.
    OtherwiseRecorded,
    /// Completed later than tail's position: still to come.
    Lagging,
    /// Lost, and within the bounds of a gap record.
    InGap,
    /// Completed before the log begins: before tail first ran, or older than the topic's retention.
    BeforeTheLog,
    /// A record without our chain header: readers skip it.
    Stranger,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 18] = [
        Self::Missing,
        Self::MissingDeadLetter,
        Self::Duplicated,
        Self::DuplicatedDeadLetter,
        Self::OutOfOrder,
        Self::ChainBroken,
        Self::ControlTorn,
        Self::GapsOverlap,
        Self::Unreadable,
        Self::Gone,
        Self::Altered,
        Self::Again,
        Self::Folded,
        Self::OtherwiseRecorded,
        Self::Lagging,
        Self::InGap,
        Self::BeforeTheLog,
        Self::Stranger,
    ];

    /// Whether it breaks the promise.
    #[must_use]
    pub fn is_wrong(self) -> bool {
        matches!(
            self,
            Self::Missing
                | Self::MissingDeadLetter
                | Self::Duplicated
                | Self::DuplicatedDeadLetter
                | Self::OutOfOrder
                | Self::ChainBroken
                | Self::ControlTorn
                | Self::GapsOverlap
                | Self::Unreadable
        )
    }

    /// Whether it is wrong where it is known that no ticket was changed, reopened or deleted after it had completed.
    #[must_use]
    pub fn is_wrong_if_nothing_changed(self) -> bool {
        self.is_wrong() || matches!(self, Self::Gone | Self::Altered | Self::Again)
    }

    /// Returns its name in reports and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::MissingDeadLetter => "missing_dead_letter",
            Self::Duplicated => "duplicated",
            Self::DuplicatedDeadLetter => "duplicated_dead_letter",
            Self::OutOfOrder => "out_of_order",
            Self::ChainBroken => "chain_broken",
            Self::ControlTorn => "control_torn",
            Self::GapsOverlap => "gaps_overlap",
            Self::Unreadable => "unreadable",
            Self::Gone => "gone",
            Self::Altered => "altered",
            Self::Again => "again",
            Self::Folded => "folded",
            Self::OtherwiseRecorded => "otherwise_recorded",
            Self::Lagging => "lagging",
            Self::InGap => "in_gap",
            Self::BeforeTheLog => "before_the_log",
            Self::Stranger => "stranger",
        }
    }

    /// Returns it in words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::MissingDeadLetter => "missing dead letters",
            Self::Duplicated => "duplicated",
            Self::DuplicatedDeadLetter => "duplicated dead letters",
            Self::OutOfOrder => "out of order",
            Self::ChainBroken => "broken chains",
            Self::ControlTorn => "torn control records",
            Self::GapsOverlap => "overlapping gaps",
            Self::Unreadable => "unreadable records",
            Self::Gone => "deleted or open again in MongoDB",
            Self::Altered => "changed in MongoDB afterwards",
            Self::Again => "completed again at the same time",
            Self::Folded => "folded (assumed transitions)",
            Self::OtherwiseRecorded => "recorded otherwise",
            Self::Lagging => "still to come",
            Self::InGap => "lost within a gap that is told",
            Self::BeforeTheLog => "before the log begins",
            Self::Stranger => "strangers' records",
        }
    }
}

/// How often each kind was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Findings(BTreeMap<Kind, Found>);

/// One kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Found {
    /// How often.
    pub count: u64,
    /// The first 20: ticket and completion, or partition and offset.
    pub first: Vec<String>,
}

impl Findings {
    /// Notes one. `what` is asked for only while there is room.
    pub fn note(&mut self, kind: Kind, what: impl FnOnce() -> String) {
        let found = self.0.entry(kind).or_default();
        found.count += 1;
        if found.first.len() < NAMED {
            found.first.push(what());
        }
    }

    /// Takes another's findings in.
    pub fn merge(&mut self, other: Self) {
        for (kind, theirs) in other.0 {
            let found = self.0.entry(kind).or_default();
            found.count += theirs.count;
            let room = NAMED - found.first.len();
            found.first.extend(theirs.first.into_iter().take(room));
        }
    }

    /// Whether nothing was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Parts what `is_wrong` says from the others.
    #[must_use]
    pub fn split(self, is_wrong: impl Fn(Kind) -> bool) -> (Self, Self) {
        let (wrong, notes) = self.0.into_iter().partition(|(kind, _)| is_wrong(*kind));
        (Self(wrong), Self(notes))
    }

    /// Returns how often it was found.
    #[must_use]
    pub fn count(&self, kind: Kind) -> u64 {
        self.0.get(&kind).map_or(0, |found| found.count)
    }

    /// Returns everything that was found.
    pub fn iter(&self) -> impl Iterator<Item = (Kind, &Found)> {
        self.0.iter().map(|(kind, found)| (*kind, found))
    }

    /// Returns what is wrong; with `nothing_changed` also what would be all right only if tickets had been changed afterwards.
    pub fn wrong(&self, nothing_changed: bool) -> impl Iterator<Item = (Kind, &Found)> {
        self.iter().filter(move |(kind, _)| if nothing_changed { kind.is_wrong_if_nothing_changed() } else { kind.is_wrong() })
    }
}

impl std::fmt::Display for Findings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (kind, found) in self.iter() {
            writeln!(f, "{}: {}", kind.words(), found.count)?;
            for what in &found.first {
                writeln!(f, "  {what}")?;
            }
        }
        Ok(())
    }
}
