//! Tickets as one-shot commands read them.

use std::path::PathBuf;

use crate::config::Config;
use crate::history::{self, HistoryError};
use crate::spec::Spec;

use super::exit::{Exit, Failure};
use super::progress::Progress;

pub(super) use crate::history::{Found, Tally};

/// Where tickets are read.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// NDJSON, plain or packed, or Parquet; `-` is standard input.
    File(PathBuf),
    /// The spec's collection.
    Mongodb,
}

/// Hands every ticket of `place` to `take`. From MongoDB only those that may have completed in `[from_ms, to_ms)` are read;
/// the taker looks again.
pub(super) fn each(
    place: &Place,
    config: &Config,
    spec: &Spec,
    interval: (i64, i64),
    progress: &mut Progress,
    take: &mut dyn FnMut(&Found<'_>),
) -> Result<Tally, Failure> {
    let (from, doing) = match place {
        Place::File(path) => (history::Place::File(path.clone(), None), format!("reading {}", path.display())),
        Place::Mongodb => {
            let database = config.mongodb.database.as_deref().unwrap_or(&spec.source.database);
            (history::Place::Mongodb, format!("reading {database}.{}", spec.source.collection))
        }
    };
    progress.step(&doing);
    history::each(&from, config, spec, interval, &mut || progress.row(), take).map_err(failure)
}

pub(super) fn failure(error: HistoryError) -> Failure {
    let exit = match &error {
        HistoryError::File(_) => Exit::BadInput,
        HistoryError::NotConfigured(_) => Exit::Usage,
        HistoryError::Mongodb { .. } => Exit::Unreachable,
    };
    Failure::new(exit, error.to_string())
}
