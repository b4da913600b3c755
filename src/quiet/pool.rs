//! The days that years are drawn from.

use std::path::Path;

use crate::clock::DAY_MS;
use crate::features::{Encoder, EncoderError, Row};
use crate::spec::Spec;
use crate::tail::normalise::Normalised;
use crate::tail::replay::{Replay, ReplayError};
use crate::ticket::FieldValue;

/// Task types that a slow-down slows.
const SLOWED: [&str; 3] = ["DEPLOY", "TRANSFORM", "EXECUTE"];

/// A completed ticket.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) row: Row,
    pub(super) into_day_ms: i32,
    pub(super) actual: f64,
    pub(super) predicted: Option<f64>,
    pub(super) is_slowed: bool,
}

/// Why there is no pool.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// The file cannot be read.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The spec's features cannot be computed.
    #[error(transparent)]
    Spec(#[from] EncoderError),
    /// The spec is not that of the execution tickets.
    #[error("the spec has no field {field}: years are drawn from execution tickets only")]
    OtherSpec {
        /// The field.
        field: &'static str,
    },
    /// Too little to draw from.
    #[error("{days} whole days are too few to draw years from: at least 100 are needed")]
    TooFew {
        /// Whole days in the file.
        days: usize,
    },
}

/// Real days, in order.
#[derive(Debug)]
pub struct Pool {
    pub(super) spec: Spec,
    pub(super) encoder: Encoder,
    pub(super) days: Vec<Vec<Kept>>,
    /// Days by their mean error, smallest first.
    pub(super) by_error: Vec<usize>,
    /// Place of `created_at` in a row's numbers.
    pub(super) created_at: usize,
}

impl Pool {
    /// Reads the tickets of a file that completed in `[from_ms, until_ms)`, without the first and the last day, which may
    /// not be whole.
    ///
    /// What changes within the interval (a clock, a season) is in some of the drawn years and not in others: choose one
    /// in which nothing did.
    ///
    /// # Errors
    /// [`PoolError`].
    pub fn read(file: &Path, spec: &Spec, (from_ms, until_ms): (i64, i64)) -> Result<Self, PoolError> {
        let encoder = Encoder::new(spec)?;
        let task_type = spec.field("task_type").ok_or(PoolError::OtherSpec { field: "task_type" })?;
        let created_at =
            encoder.number_fields().position(|name| name == "created_at").ok_or(PoolError::OtherSpec { field: "created_at" })?;
        let mut days: std::collections::BTreeMap<i64, Vec<Kept>> = std::collections::BTreeMap::new();
        for row in Replay::open(file, spec)? {
            let Normalised::Completed(ticket) = row?.normalised else { continue };
            if !(from_ms..until_ms).contains(&ticket.completed_at_ms) {
                continue;
            }
            let mut encoded = Row::default();
            encoder.encode(&ticket.fields, &mut encoded);
            let is_slowed = matches!(&ticket.fields[task_type], FieldValue::Text(text) if SLOWED.contains(&text.as_str()));
            days.entry(ticket.completed_at_ms.div_euclid(DAY_MS)).or_default().push(Kept {
                row: encoded,
                into_day_ms: i32::try_from(ticket.completed_at_ms.rem_euclid(DAY_MS)).expect("a day has fewer ms than 2^31"),
                actual: ticket.actual,
                predicted: ticket.predicted,
                is_slowed,
            });
        }
        days.pop_first();
        days.pop_last();
        if days.len() < 100 {
            return Err(PoolError::TooFew { days: days.len() });
        }
        let days: Vec<Vec<Kept>> = days.into_values().collect();
        let error = |day: usize| {
            let errors: Vec<f64> = days[day].iter().filter_map(|kept| Some((kept.predicted? - kept.actual).abs())).collect();
            errors.iter().sum::<f64>() / errors.len().max(1) as f64
        };
        let mut by_error: Vec<usize> = (0..days.len()).collect();
        by_error.sort_by(|a, b| error(*a).total_cmp(&error(*b)));
        Ok(Self { spec: spec.clone(), encoder, days, by_error, created_at })
    }
}
