//! One anomaly model: fitted to the training split, measured on later tickets against labels, and whether it may be promoted.

pub mod publication;

use std::ops::Range;

use linfa::prelude::*;
use serde::{Deserialize, Serialize};

use super::candidate::aggregates;
use super::forest::TrainError;
use super::frame::Frame;
use super::isolation::IsolationParams;
use crate::model::anomaly::{AnomalyModel, Card};
use crate::model::rules::Rules;
use crate::spec::Spec;

/// Labels are rare when the base rate is at most so many times the contamination: judgement.md, 9. Above, a forest that flags the
/// contamination's share could not find most of them even if it were perfect.
const RARE: f64 = 2.0;

/// Who says which tickets are anomalous.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelledBy {
    /// The spec's label field.
    Field,
    /// The contract's rules.
    Rules,
    /// Nobody: no label field, and no feature that a rule reads.
    Nobody,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// Share of the training rows that the threshold calls anomalous.
    pub contamination: f64,
    /// Precision above which the model may be promoted.
    pub threshold: f64,
    /// Rows trained on, at most.
    pub max_rows: usize,
    /// Of all that is drawn.
    pub seed: u64,
}

/// How a model does on the hold-out; shares, in [0, 1]. `None` is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Labelled rows of the hold-out.
    pub rows: u64,
    /// Of these, anomalous by their label.
    pub anomalies: u64,
    /// Flagged by the model.
    pub flagged: u64,
    /// Both.
    pub hits: u64,
    /// Hits / flagged.
    pub precision: Option<f64>,
    /// Hits / anomalies.
    pub recall: Option<f64>,
    /// Harmonic mean of the two.
    pub f1: Option<f64>,
    /// Anomalies / rows: the precision of who flags at random.
    pub base_rate: Option<f64>,
    /// Precision / base rate.
    pub lift: Option<f64>,
}

/// A fitted model, and what is to become of it.
#[derive(Clone, Debug)]
pub struct AnomalyTrial {
    /// The model.
    pub model: AnomalyModel,
    /// How it does.
    pub metrics: Metrics,
    /// How the one in Production does on the same rows.
    pub production: Option<Metrics>,
    /// Who labelled them.
    pub labelled_by: LabelledBy,
    /// Begin and end of the hold-out, ms since 1970, half open.
    pub holdout_ms: (i64, i64),
    /// Whether it may be promoted.
    pub may_be_promoted: bool,
    /// Why, or why not, in words.
    pub reason: String,
}

impl Metrics {
    /// Counts flags against labels; rows without a label are left out.
    ///
    /// Without an anomaly among them nothing is known: precision 0 of a quiet week would say nothing about the model.
    #[must_use]
    pub fn of(flagged: impl Iterator<Item = bool>, labels: &[Option<bool>]) -> Self {
        let (mut rows, mut anomalies, mut flags, mut hits) = (0_u64, 0_u64, 0_u64, 0_u64);
        for (flagged, label) in flagged.zip(labels) {
            let Some(label) = *label else { continue };
            rows += 1;
            anomalies += u64::from(label);
            flags += u64::from(flagged);
            hits += u64::from(flagged && label);
        }
        let share = |part: u64, whole: u64| (anomalies > 0 && whole > 0).then(|| part as f64 / whole as f64);
        let (precision, recall, base_rate) = (share(hits, flags), share(hits, anomalies), share(anomalies, rows));
        let f1 = precision.zip(recall).map(|(p, r)| if hits > 0 { 2.0 * p * r / (p + r) } else { 0.0 });
        let lift = precision.zip(base_rate).map(|(precision, base)| precision / base);
        Self { rows, anomalies, flagged: flags, hits, precision, recall, f1, base_rate, lift }
    }
}

/// Returns who labels, and each row's label.
///
/// `learned` has the task types' durations of the training split: the rules look at no answer of the rows they label.
#[must_use]
pub fn labels(frame: &Frame, spec: &Spec, rows: Range<usize>, learned: &[Vec<f64>]) -> (LabelledBy, Vec<Option<bool>>) {
    if !frame.labels().is_empty() {
        return (LabelledBy::Field, frame.labels()[rows].to_vec());
    }
    let rules = Rules::of(spec);
    if !rules.can_answer() {
        return (LabelledBy::Nobody, vec![None; rows.len()]);
    }
    let mut labels = Vec::with_capacity(rows.len());
    frame.each(rows, |_, row| labels.push(Some(rules.judge(frame.encoder(), row, learned).is_some())));
    (LabelledBy::Rules, labels)
}

/// Fits a model to the newest rows of `train`, and measures it, and the one in Production, on `holdout`, later rows.
///
/// # Errors
/// [`TrainError`].
pub fn trial(
    frame: &Frame,
    spec: &Spec,
    (train, holdout): (Range<usize>, Range<usize>),
    asked: &Asked,
    production: Option<&AnomalyModel>,
) -> Result<AnomalyTrial, TrainError> {
    let train = train.start.max(train.end.saturating_sub(asked.max_rows))..train.end;
    let learned = aggregates(frame, spec, train.clone());
    let params = IsolationParams::default().contamination(asked.contamination).seed(asked.seed);
    let forest = params.fit(&DatasetBase::from(frame.inputs(train.clone(), &learned)))?;
    let (labelled_by, labels) = labels(frame, spec, holdout.clone(), &learned);
    let times = frame.completed_at_ms();
    let span = |rows: &Range<usize>| match (times.get(rows.start), times[..rows.end].last()) {
        (Some(first), Some(last)) => (*first, last.saturating_add(1)),
        _ => (0, 0),
    };
    let card = Card {
        spec: spec.name.clone(),
        fingerprint: spec.fingerprint(),
        features: spec.features.iter().map(|feature| feature.name.clone()).collect(),
        learned,
        contamination: asked.contamination,
        precision: None,
        data_ms: span(&train),
        rows: train.len() as u64,
    };
    let model = AnomalyModel::new(forest, card);
    let metrics = measured(frame, &model, holdout.clone(), &labels);
    let card = Card { precision: metrics.precision, ..model.card().clone() };
    let production = production.map(|production| measured(frame, production, holdout.clone(), &labels));
    let (may_be_promoted, reason) = verdict(&metrics, production.as_ref(), labelled_by, asked);
    Ok(AnomalyTrial { model: model.with_card(card), metrics, production, labelled_by, holdout_ms: span(&holdout), may_be_promoted, reason })
}

fn measured(frame: &Frame, model: &AnomalyModel, rows: Range<usize>, labels: &[Option<bool>]) -> Metrics {
    let scores = model.scores(frame.inputs(rows, &model.card().learned).view());
    Metrics::of(scores.into_iter().map(|score| model.is_anomalous(score)), labels)
}

/// Promoted: precision known, above the threshold, and F1 better than Production's on the same rows. F1, because a precision alone
/// is had by flagging next to nothing.
fn verdict(metrics: &Metrics, production: Option<&Metrics>, labelled_by: LabelledBy, asked: &Asked) -> (bool, String) {
    let no = |reason: String| (false, reason);
    if labelled_by == LabelledBy::Nobody {
        return no("precision is unknown: the spec names no label (anomaly.label), and has no feature that the rules read".to_owned());
    }
    let Some(precision) = metrics.precision else {
        return no(match (metrics.rows, metrics.anomalies) {
            (0, _) => "precision is unknown: no ticket of the hold-out has a label".to_owned(),
            (rows, 0) => format!("precision is unknown: none of the {rows} labelled tickets of the hold-out is an anomaly"),
            (_, anomalies) => format!("precision is unknown: nothing was flagged, of {anomalies} anomalies in the hold-out"),
        });
    };
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    if let Some(base) = metrics.base_rate.filter(|base| labelled_by == LabelledBy::Rules && *base > RARE * asked.contamination) {
        let (base, contamination) = (percent(base), percent(asked.contamination));
        return no(format!(
            "labels are not rare: the rules call {base} of the hold-out anomalous, the forest flags {contamination}; the rules go on answering"
        ));
    }
    let needed = format!("above {} is needed (train.validation_precision_threshold)", percent(asked.threshold));
    if precision <= asked.threshold {
        return no(format!("its precision is {}; {needed}", percent(precision)));
    }
    let known = production.and_then(|production| production.f1).zip(metrics.f1);
    if let Some((theirs, ours)) = known.filter(|(theirs, ours)| ours <= theirs) {
        return no(format!("its F1 is {ours:.3}, Production's {theirs:.3} on the same tickets"));
    }
    (
        true,
        format!(
            "its precision is {}, {} times the base rate",
            percent(precision),
            metrics.lift.map_or_else(|| "?".to_owned(), |lift| format!("{lift:.1}"))
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Asked = Asked { contamination: 0.05, threshold: 0.75, max_rows: 1_000, seed: 1 };

    fn metrics(rows: u64, anomalies: u64, flagged: u64, hits: u64) -> Metrics {
        let labels: Vec<Option<bool>> = (0..rows).map(|row| Some(row < anomalies)).collect();
        Metrics::of((0..rows).map(|row| row < hits || (anomalies..anomalies + flagged - hits).contains(&row)), &labels)
    }

    fn said(metrics: &Metrics, production: Option<&Metrics>, by: LabelledBy) -> (bool, String) {
        verdict(metrics, production, by, &ASKED)
    }

    #[test]
    fn precision_recall_and_lift_are_counted_over_labelled_rows() {
        let counted = metrics(1_000, 40, 50, 30);
        assert_eq!((counted.rows, counted.anomalies, counted.flagged, counted.hits), (1_000, 40, 50, 30));
        assert_eq!((counted.precision, counted.recall, counted.base_rate), (Some(0.6), Some(0.75), Some(0.04)));
        assert!((counted.f1.unwrap() - 2.0 / 3.0).abs() < 1e-12 && (counted.lift.unwrap() - 15.0).abs() < 1e-12);
        assert_eq!(Metrics::of([true, true].into_iter(), &[None, Some(true)]).rows, 1);
    }

    #[test]
    fn no_labelled_anomaly_means_unknown_and_not_promoted() {
        let quiet = metrics(500, 0, 20, 0);
        assert_eq!((quiet.precision, quiet.recall, quiet.lift), (None, None, None));
        let (promoted, reason) = said(&quiet, None, LabelledBy::Field);
        assert!(!promoted && reason.contains("unknown: none of the 500"), "{reason}");
        assert!(said(&metrics(0, 0, 0, 0), None, LabelledBy::Field).1.contains("no ticket of the hold-out has a label"));
        assert!(said(&metrics(500, 9, 0, 0), None, LabelledBy::Field).1.contains("nothing was flagged"));
        assert!(said(&quiet, None, LabelledBy::Nobody).1.contains("anomaly.label"));
    }

    #[test]
    fn rule_labels_that_are_not_rare_promote_nothing_and_field_labels_may_be_frequent() {
        let frequent = metrics(1_000, 101, 50, 45);
        let (promoted, reason) = said(&frequent, None, LabelledBy::Rules);
        assert!(!promoted && reason.starts_with("labels are not rare"), "{reason}");
        assert!(said(&frequent, None, LabelledBy::Field).0);
        assert!(said(&metrics(1_000, 100, 50, 45), None, LabelledBy::Rules).0, "twice the contamination is rare enough");
    }

    #[test]
    fn precision_must_be_above_the_threshold_and_f1_above_productions() {
        assert!(!said(&metrics(1_000, 60, 40, 30), None, LabelledBy::Field).0, "0.75 is not above 0.75");
        let good = metrics(1_000, 60, 40, 31);
        assert!(said(&good, None, LabelledBy::Field).0);
        assert!(!said(&good, Some(&good), LabelledBy::Field).0);
        assert!(said(&good, Some(&metrics(1_000, 60, 40, 20)), LabelledBy::Field).0);
        assert!(said(&good, Some(&metrics(0, 0, 0, 0)), LabelledBy::Field).0, "what cannot be measured bars nobody");
    }
}
