//! Named places at which a test may have the process killed: `TIDEMARK_FAULT=STAGE:PLACE:NTH`, and nothing otherwise.
//!
//! The process ends as by SIGKILL: no destructor runs, nothing is flushed. With a fourth part, `:MICROS`, it lives on for so long,
//! so that what was just asked for may be under way, or done, or neither.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// The variable of the environment; not for people.
pub const VARIABLE: &str = "TIDEMARK_FAULT";

/// A place that is passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is told by its name in `Place::name`")]
pub enum Place {
    InitBefore,
    InitAfter,
    BeginBefore,
    BeginAfter,
    RecordsSent,
    RecordsAcknowledged,
    LastAcknowledged,
    OffsetsSent,
    CommitBefore,
    CommitAfter,
    PositionRead,
    Adopted,
    SourceOpened,
    EventsRead,
    Sealed,
    OffsetsRead,
    Restored,
    Taken,
    Judged,
    EpisodeChanged,
    Raised,
    Trained,
    Registered,
    Promoted,
}

impl Place {
    /// What every stage that writes passes, in this order.
    pub const OF_A_TRANSACTION: [Self; 10] = [
        Self::InitBefore,
        Self::InitAfter,
        Self::BeginBefore,
        Self::BeginAfter,
        Self::RecordsSent,
        Self::RecordsAcknowledged,
        Self::LastAcknowledged,
        Self::OffsetsSent,
        Self::CommitBefore,
        Self::CommitAfter,
    ];

    /// Returns the places of a stage (`tail`, `watch`, `judge`, `train`); none of another. What `train` writes, it writes as
    /// `baseline` ([`crate::baseline`]), which has the places of a transaction.
    #[must_use]
    pub fn of(stage: &str) -> Vec<Self> {
        let own: &[Self] = match stage {
            "tail" => &[Self::PositionRead, Self::Adopted, Self::SourceOpened, Self::EventsRead, Self::Sealed],
            "watch" => &[Self::OffsetsRead, Self::Restored, Self::Taken, Self::Sealed],
            "judge" => &[Self::OffsetsRead, Self::Restored, Self::Taken, Self::Judged, Self::EpisodeChanged, Self::Sealed],
            "baseline" => &[],
            "train" => {
                return vec![Self::Restored, Self::Raised, Self::Taken, Self::Trained, Self::Registered, Self::Sealed, Self::Promoted];
            }
            _ => return Vec::new(),
        };
        // tail commits its position as a record, and has no offsets.
        let passes = |place: &&Self| stage != "tail" || **place != Self::OffsetsSent;
        Self::OF_A_TRANSACTION.iter().filter(passes).chain(own).copied().collect()
    }

    /// Returns its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::InitBefore => "init-before",
            Self::InitAfter => "init-after",
            Self::BeginBefore => "begin-before",
            Self::BeginAfter => "begin-after",
            Self::RecordsSent => "records-sent",
            Self::RecordsAcknowledged => "records-acknowledged",
            Self::LastAcknowledged => "last-acknowledged",
            Self::OffsetsSent => "offsets-sent",
            Self::CommitBefore => "commit-before",
            Self::CommitAfter => "commit-after",
            Self::PositionRead => "position-read",
            Self::Adopted => "adopted",
            Self::SourceOpened => "source-opened",
            Self::EventsRead => "events-read",
            Self::Sealed => "sealed",
            Self::OffsetsRead => "offsets-read",
            Self::Restored => "restored",
            Self::Taken => "taken",
            Self::Judged => "judged",
            Self::EpisodeChanged => "episode-changed",
            Self::Raised => "raised",
            Self::Trained => "trained",
            Self::Registered => "registered",
            Self::Promoted => "promoted",
        }
    }
}

struct Plan {
    stage: String,
    place: String,
    left: AtomicU64,
    after: Duration,
}

static ARMED: AtomicBool = AtomicBool::new(false);
static PLAN: OnceLock<Plan> = OnceLock::new();

/// Arms one place of this process, once. What cannot be read arms nothing and is said.
pub(crate) fn arm(text: &str) {
    let mut parts = text.split(':');
    let (Some(stage), Some(place), Some(Ok(nth))) = (parts.next(), parts.next(), parts.next().map(str::parse)) else {
        return tracing::error!("{VARIABLE} is STAGE:PLACE:NTH or STAGE:PLACE:NTH:MICROS");
    };
    let after = Duration::from_micros(parts.next().and_then(|micros| micros.parse().ok()).unwrap_or(0));
    let plan = Plan { stage: stage.to_owned(), place: place.to_owned(), left: AtomicU64::new(nth), after };
    ARMED.store(PLAN.set(plan).is_ok(), Ordering::Release);
}

/// A place is passed. `stage` is a stage's name, or a transactional id that has it between dots. Costs one load when nothing is armed.
#[inline]
pub(crate) fn pass(stage: &str, place: Place) {
    if ARMED.load(Ordering::Relaxed) {
        passed(stage, place);
    }
}

#[cold]
fn passed(stage: &str, place: Place) {
    let Some(plan) = PLAN.get() else { return };
    if plan.place != place.name() || !stage.split('.').any(|part| part == plan.stage) || plan.left.fetch_sub(1, Ordering::AcqRel) != 1 {
        return;
    }
    if plan.after.is_zero() {
        std::process::abort();
    }
    let after = plan.after;
    std::thread::spawn(move || {
        std::thread::sleep(after);
        std::process::abort();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_more_than_25_named_places_and_no_two_of_a_stage_share_a_name() {
        let mut all = Vec::new();
        for stage in ["tail", "watch", "judge", "train", "baseline"] {
            all.extend(Place::of(stage).into_iter().map(|place| format!("{stage}:{}", place.name())));
        }
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
        assert!(count > 25, "{count}");
    }
}
