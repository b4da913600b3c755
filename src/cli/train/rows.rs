//! The rows of a training by command, and what it is called: a function of them.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::clock::{DAY_MS, HOUR_MS, now_ms};
use crate::features::Encoder;
use crate::train::frame::{Collecting, Frame};

use super::Surroundings;
use crate::cli::exit::{Exit, Failure};
use crate::cli::progress::Progress;
use crate::cli::tickets::{self, Found, Place, Tally};

/// How far ahead of the present a completion may lie: the contract's.
const AHEAD_MS: i64 = HOUR_MS;
/// How far ahead tickets are looked for, so that they are counted and not passed over.
const LOOKED_AHEAD_MS: i64 = 3_650 * DAY_MS;
/// Rows in memory for one that is trained on: the others are held out, or older than what one model sees.
const KEPT: usize = 2;

/// What is trained on.
pub(super) struct Rows {
    /// The rows.
    pub(super) frame: Frame,
    /// End of the window, exclusive, ms since 1970.
    pub(super) at_ms: i64,
    /// Id of the training.
    pub(super) id: String,
    /// What was read.
    pub(super) tally: Tally,
    /// Tickets that completed more than an hour ahead of the present; left out.
    pub(super) from_the_future: u64,
    /// Whether nothing completed in the window before the present.
    pub(super) is_at_rest: bool,
}

/// How far back MongoDB is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// The window before the present.
    Window,
    /// Since 1970.
    Everything,
}

/// Reads the rows that completed before `at`, else those that have completed.
///
/// MongoDB is asked for the window before the present. When nothing completed in it, for everything: the window of a collection that
/// has come to rest ends with its newest ticket, as a file's does.
pub(super) fn read(around: &Surroundings, place: &Place, at: Option<i64>, progress: &mut Progress) -> Result<Rows, Failure> {
    let rows = read_from(around, place, at, Reach::Window, progress)?;
    if at.is_none() && matches!(place, Place::Mongodb) && rows.tally.completed == 0 {
        return read_from(around, place, at, Reach::Everything, progress);
    }
    Ok(rows)
}

fn read_from(around: &Surroundings, place: &Place, at: Option<i64>, reach: Reach, progress: &mut Progress) -> Result<Rows, Failure> {
    let (config, spec) = (&around.config, &around.spec);
    let encoder = Encoder::new(spec).map_err(|error| Failure::new(Exit::Usage, format!("cannot compute the spec's features: {error}")))?;
    let limit = config.train.max_rows.saturating_mul(KEPT);
    let mut collecting = Collecting::new(Arc::new(encoder)).with_label(spec).with_limit(limit);
    let latest_ms = now_ms() + AHEAD_MS;
    let until_ms = at.unwrap_or(latest_ms);
    let from_ms = match reach {
        Reach::Window => until_ms - AHEAD_MS - i64::from(config.train.window_days) * DAY_MS,
        Reach::Everything => 0,
    };
    let asked_until_ms = at.unwrap_or(latest_ms + LOOKED_AHEAD_MS);
    let (mut from_the_future, mut newest_ms) = (0, None::<i64>);
    let tally = tickets::each(place, config, spec, (from_ms, asked_until_ms), progress, &mut |found| {
        let (Found::Completed(ticket) | Found::Other(ticket)) = found;
        if ticket.completed_at_ms >= until_ms {
            from_the_future += u64::from(ticket.completed_at_ms >= latest_ms);
            return;
        }
        match found {
            Found::Completed(ticket) => {
                newest_ms = newest_ms.max(Some(ticket.completed_at_ms));
                collecting.push(ticket);
            }
            Found::Other(ticket) => collecting.push_other(ticket),
        }
    })?;
    let frame = collecting.frame();
    let at_ms = at.or(newest_ms.map(|newest_ms| newest_ms + 1)).unwrap_or(until_ms);
    let id = super::name(at_ms, &digest(around, &frame));
    Ok(Rows { frame, at_ms, id, tally, from_the_future, is_at_rest: reach == Reach::Everything })
}

/// Identifies rows and settings: a training of the same is the same training.
fn digest(around: &Surroundings, frame: &Frame) -> Vec<u8> {
    let (spec, train) = (&around.spec, &around.config.train);
    let mut sha = Sha256::new();
    sha.update(format!("{} {} {} {} {}", spec.name, spec.fingerprint(), train.window_days, train.min_samples, train.max_rows));
    sha.update(format!(" {} {}", train.duration_error_threshold, train.anomaly_contamination));
    for (at_ms, actual) in frame.completed_at_ms().iter().zip(frame.actual()) {
        sha.update(at_ms.to_le_bytes());
        sha.update(actual.to_le_bytes());
    }
    sha.finalize().to_vec()
}
