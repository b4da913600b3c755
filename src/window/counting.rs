//! Rows to counts: the bins of one baseline, compiled so that a row costs a look-up a column.

use std::sync::Arc;

use crate::baseline::clusters::Nearest;
use crate::baseline::{Baseline, Bins, RECORDED};
use crate::features::{Encoder, Place, Row, number};
use crate::model::duration::DurationModel;
use crate::summary::{Slice, micros};

/// What is counted of one ticket beside its row.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// When it completed, ms since 1970.
    pub completed_at_ms: i64,
    /// The right answer.
    pub actual: f64,
    /// The ticket's own prediction.
    pub predicted: Option<f64>,
    /// Version of the model that made that prediction; 0 where the ticket does not say.
    pub predicted_by: u32,
    /// Whether it came after its slice's mark.
    pub late: bool,
}

/// The baseline in force, as functions from a row to its bins.
#[derive(Clone, Debug)]
pub struct Counting {
    version: u64,
    to_ms: i64,
    log_offset: f64,
    columns: Vec<Column>,
    /// The last column of a slice: its bins are the clusters. `None` where the baseline has none.
    nearest: Option<Nearest>,
    /// Columns of the first baseline whose bins are not this one's, in the order of a slice's last columns.
    anchored: Vec<Column>,
    target: Vec<f64>,
    production: Option<Production>,
}

/// The model in Production, and what its predictions are called.
#[derive(Clone, Debug)]
struct Production {
    version: u32,
    series: String,
    model: Arc<DurationModel>,
}

#[derive(Clone, Debug)]
struct Column {
    from: From,
    bins: usize,
    /// Whether |error| is summed by bin: the bins are categories, not ranges.
    by_category: bool,
}

#[derive(Clone, Debug)]
enum From {
    Code { at: usize, bin_of: Box<[u16]> },
    Number { at: usize, feature: usize, bins: Bins },
}

/// A baseline that does not fit the spec.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CountingError {
    /// Made for another spec.
    #[error("baseline {version} of {spec} was made for spec {theirs}, ours is {ours}: create a baseline for this spec")]
    OtherSpec {
        /// Name of the spec it names.
        spec: String,
        /// Its version.
        version: u64,
        /// Fingerprint that it was made for.
        theirs: String,
        /// Fingerprint of the spec in use.
        ours: String,
    },
    /// Its columns are not the spec's features.
    #[error("baseline {version} of {spec} has columns {columns:?}, which are not the spec's features: create a baseline anew")]
    OtherColumns {
        /// Name of the spec.
        spec: String,
        /// Its version.
        version: u64,
        /// Names of its columns.
        columns: Vec<String>,
    },
    /// Its clusters are not clusters of those columns.
    #[error("the clusters of baseline {version} of {spec} do not fit its columns: it is damaged; create a baseline anew")]
    OtherClusters {
        /// Name of the spec.
        spec: String,
        /// Its version.
        version: u64,
    },
}

impl Counting {
    /// Compiles a baseline. `fingerprint` and `features` (names, in order) are those of the spec that `encoder` was made from.
    ///
    /// # Errors
    /// [`CountingError`] when the baseline is another spec's.
    pub fn new(encoder: &Encoder, features: &[&str], fingerprint: &str, baseline: &Baseline) -> Result<Self, CountingError> {
        let (spec, version) = (baseline.spec.clone(), baseline.version);
        if baseline.fingerprint != fingerprint {
            return Err(CountingError::OtherSpec { spec, version, theirs: baseline.fingerprint.clone(), ours: fingerprint.to_owned() });
        }
        let names: Vec<&str> = baseline.columns.iter().map(|column| column.name.as_str()).collect();
        if names != features {
            return Err(CountingError::OtherColumns { spec, version, columns: names.into_iter().map(str::to_owned).collect() });
        }
        let columns = baseline.columns.iter().enumerate();
        let columns = columns.map(|(feature, column)| Column::new(encoder, feature, &column.bins, &column.learned));
        let first = baseline.columns.len();
        let anchored = baseline.anchored().into_iter().filter(|(_, counted)| counted.at >= first);
        let anchored = anchored.map(|(column, counted)| Column::new(encoder, counted.feature, &column.bins, &column.learned));
        let known: Vec<&crate::baseline::Column> = baseline.columns.iter().collect();
        let nearest = match &baseline.clusters {
            Some(clusters) => {
                let nearest = Nearest::new(encoder, &known, clusters).ok_or(CountingError::OtherClusters { spec, version })?;
                Some(nearest).filter(|nearest| nearest.bins() > 0)
            }
            None => None,
        };
        Ok(Self {
            version,
            to_ms: baseline.to_ms,
            log_offset: baseline.log_offset,
            columns: columns.collect(),
            nearest,
            anchored: anchored.collect(),
            target: baseline.target.edges.clone(),
            production: None,
        })
    }

    /// Scores tickets with the model that the baseline names as the one in Production.
    #[must_use]
    pub fn with_model(mut self, version: u64, series: String, model: Arc<DurationModel>) -> Self {
        let version = u32::try_from(version).unwrap_or(u32::MAX);
        self.production = Some(Production { version, series, model });
        self
    }

    /// Returns what Production predicts for a ticket, and the name of that series: the ticket's own prediction where Production
    /// made it, else the model's. `None` without a model in Production.
    #[must_use]
    pub fn production(&self, encoder: &Encoder, row: &Row, outcome: Outcome) -> Option<(&str, f64)> {
        let production = self.production.as_ref()?;
        let own = outcome.predicted.filter(|_| outcome.predicted_by == production.version && production.version > 0);
        let predicted = own.unwrap_or_else(|| production.model.predict(encoder, row));
        Some((&production.series, predicted))
    }

    /// Returns the baseline's version.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Returns the name of the series of the model in Production, where there is one.
    #[must_use]
    pub fn series(&self) -> Option<&str> {
        self.production.as_ref().map(|production| production.series.as_str())
    }

    /// Whether a ticket enters verdicts: it completed after the baseline's data ended.
    #[must_use]
    pub fn covers(&self, completed_at_ms: i64) -> bool {
        completed_at_ms >= self.to_ms
    }

    /// Adds one ticket to a slice, if it is covered. Returns what Production predicts for it.
    pub fn add(&self, encoder: &Encoder, row: &Row, outcome: Outcome, slice: &mut Slice) -> Option<(&str, f64)> {
        if !self.covers(outcome.completed_at_ms) {
            return None;
        }
        if slice.columns.is_empty() {
            self.shape(slice);
        }
        slice.rows += 1;
        slice.late += u64::from(outcome.late);
        let error = outcome.predicted.map(|predicted| (predicted - outcome.actual).abs());
        let error_us = error.map_or(0, micros);
        for ((column, counts), errors) in self.columns.iter().zip(&mut slice.columns).zip(&mut slice.error_by) {
            let bin = column.bin(encoder, row);
            counts[bin] += 1;
            if column.by_category {
                errors[bin] += error_us;
            }
        }
        if let Some(nearest) = &self.nearest {
            let nearby = nearest.nearby(encoder, row);
            let bin = nearest.bin(nearby);
            slice.columns[self.columns.len()][bin] += 1;
            slice.error_by[self.columns.len()][bin] += error_us;
            nearest.spread(encoder, row, nearby, &mut slice.spread);
        }
        let first = slice.columns.len() - self.anchored.len();
        for (column, counts) in self.anchored.iter().zip(&mut slice.columns[first..]) {
            counts[column.bin(encoder, row)] += 1;
        }
        slice.target[self.target.partition_point(|edge| *edge < outcome.actual)] += 1;
        let mut push = |series: &str, error: f64| {
            if let Some(sums) = slice.series.get_mut(series) {
                sums.push(error, self.log_offset);
            } else {
                slice.series.entry(series.to_owned()).or_default().push(error, self.log_offset);
            }
        };
        if let Some(error) = error {
            push(RECORDED, error);
        }
        let production = self.production(encoder, row, outcome);
        if let Some((series, predicted)) = production {
            push(series, (predicted - outcome.actual).abs());
        }
        production
    }

    fn shape(&self, slice: &mut Slice) {
        slice.columns = self.columns.iter().map(|column| vec![0; column.bins]).collect();
        slice.error_by = self.columns.iter().map(|column| vec![0; if column.by_category { column.bins } else { 0 }]).collect();
        if let Some(nearest) = &self.nearest {
            slice.columns.push(vec![0; nearest.bins()]);
            slice.error_by.push(vec![0; nearest.bins()]);
            slice.spread = vec![0; nearest.axes()];
        }
        slice.columns.extend(self.anchored.iter().map(|column| vec![0; column.bins]));
        slice.error_by.resize(slice.columns.len(), Vec::new());
        slice.target = vec![0; self.target.len() + 1];
    }
}

impl Column {
    fn new(encoder: &Encoder, feature: usize, bins: &Bins, learned: &[f64]) -> Self {
        let from = match encoder.place(feature) {
            Place::Code(at) => From::Code { at, bin_of: bins_of_codes(encoder, feature, bins, learned) },
            Place::Number(at) => From::Number { at, feature, bins: bins.clone() },
        };
        Self { from, bins: bins.len() + 3, by_category: matches!(bins, Bins::Values(_)) }
    }

    fn bin(&self, encoder: &Encoder, row: &Row) -> usize {
        match &self.from {
            From::Code { at, bin_of } => usize::from(bin_of[usize::from(row.codes[*at])]),
            From::Number { at, feature, bins } => bins.bin(encoder.number_cell(*feature, number(row.numbers[*at]))),
        }
    }
}

fn bins_of_codes(encoder: &Encoder, feature: usize, bins: &Bins, learned: &[f64]) -> Box<[u16]> {
    (0..=u8::MAX)
        .map(|code| {
            let bin = bins.bin(encoder.code_cell(feature, code, learned));
            u16::try_from(bin).expect("a baseline that fits in a record has fewer than 65,536 bins a column")
        })
        .collect()
}
