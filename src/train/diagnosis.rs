//! What a person can do about a model that does not meet its criterion: the original's troubleshooting, answered from the rows.

use super::anomaly::{AnomalyTrial, LabelledBy};
use super::candidate::fit;
use super::frame::Frame;
use super::trial::{Trial, Tried};
use crate::baseline::Cell;
use crate::features::Category;
use crate::spec::{Encoder, Spec};

/// Share of tickets without a value from which a feature is named.
const MISSING: f64 = 0.05;
/// Features and categories that are named, at most.
const NAMED: usize = 3;
/// Rows below which half of them says nothing about a longer window.
const HALVED: u64 = 400;

/// Says why a duration model's error may be high, and what to do: missing values, worst categories, importances, a longer window.
#[must_use]
pub fn duration(frame: &Frame, spec: &Spec, trial: &Trial, tried: &Tried) -> Vec<String> {
    let mut said: Vec<String> = missing(frame, spec, trial, tried).into_iter().chain(worst(frame, spec, trial, tried)).collect();
    let shares = strongest(spec, tried).into_iter().map(|(name, share)| format!("{name} {:.0} %", 100.0 * share));
    let shares: Vec<String> = shares.collect();
    if !shares.is_empty() {
        said.push(format!("the model leans on {}: check that these are right when a ticket is created", shares.join(", ")));
    }
    said.extend(longer_window(frame, spec, trial, tried));
    said
}

/// The most important features, with their shares.
fn strongest<'s>(spec: &'s Spec, tried: &Tried) -> Vec<(&'s str, f64)> {
    let names = spec.features.iter().map(|feature| feature.name.as_str());
    let mut all: Vec<(&str, f64)> = names.zip(tried.candidate.importances.iter().copied()).filter(|(_, share)| *share > 0.0).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    all.truncate(NAMED);
    all
}

fn missing(frame: &Frame, spec: &Spec, trial: &Trial, tried: &Tried) -> Vec<String> {
    let (encoder, learned) = (frame.encoder(), &tried.candidate.model.card().learned);
    let mut absent = vec![0_u64; spec.features.len()];
    frame.each(trial.holdout.clone(), |_, row| {
        for (feature, count) in absent.iter_mut().enumerate() {
            *count += u64::from(matches!(encoder.cell(feature, row, &learned[feature]), Cell::Missing | Cell::Unseen));
        }
    });
    let mut fields: Vec<(&str, f64)> = Vec::new();
    for (feature, count) in spec.features.iter().zip(absent) {
        let share = count as f64 / trial.holdout.len().max(1) as f64;
        if share >= MISSING && fields.iter().all(|(field, _)| *field != feature.field) {
            fields.push((&feature.field, share));
        }
    }
    fields.sort_by(|a, b| b.1.total_cmp(&a.1));
    fields.truncate(NAMED);
    let say = |(field, share): (&str, f64)| {
        format!(
            "{field} is missing or unknown in {:.0} % of the newest tickets: the model sees its default instead; fill it in",
            100.0 * share
        )
    };
    fields.into_iter().map(say).collect()
}

/// The categories that carry most of the error, of the field whose durations the model learns.
fn worst(frame: &Frame, spec: &Spec, trial: &Trial, tried: &Tried) -> Option<String> {
    let feature = spec.features.iter().position(|feature| feature.encoder == Encoder::TargetMean)?;
    let table = &spec.features[feature].table;
    let mut sums = vec![(0.0_f64, 0.0_f64, 0_u64); table.len() + 1];
    let (first, actual) = (trial.holdout.start, frame.actual());
    frame.each(trial.holdout.clone(), |at, row| {
        let place = match frame.encoder().category(feature, row) {
            Some(Category::Row(place)) => place,
            _ => table.len(),
        };
        let sum = &mut sums[place];
        sum.0 += (tried.candidate.predictions[at - first] - actual[at]).abs();
        sum.1 += actual[at];
        sum.2 += 1;
    });
    let all: f64 = sums.iter().map(|sum| sum.0).sum();
    let mut order: Vec<usize> = (0..sums.len()).filter(|place| sums[*place].2 > 0).collect();
    order.sort_by(|a, b| sums[*b].0.total_cmp(&sums[*a].0));
    let name = |place: usize| table.get(place).map_or("others", |entry| entry.text.as_str());
    let say = |place: &usize| {
        let (error, actual, rows) = sums[*place];
        format!("{} ({:.0} % of all error, {:.0} % of its mean, {rows} tickets)", name(*place), 100.0 * error / all, 100.0 * error / actual)
    };
    let named: Vec<String> = order.iter().take(NAMED).map(say).collect();
    (all > 0.0 && !named.is_empty()).then(|| format!("most of the error is in {} {}", spec.features[feature].field, named.join(", ")))
}

/// What half of the rows would have cost: about what twice as many would bring.
fn longer_window(frame: &Frame, spec: &Spec, trial: &Trial, tried: &Tried) -> Option<String> {
    let card = tried.candidate.model.card();
    if card.rows < HALVED {
        return Some(format!("it learned from {} tickets only: a longer window (train.window_days) or more time brings more", card.rows));
    }
    let train = frame.between(card.data_ms.0, card.data_ms.1);
    let half = train.start + train.len() / 2..train.end;
    let with_half = fit("half", frame, spec, (half, trial.holdout.clone()), 0).ok()?.metrics.mae;
    let gain = 100.0 * (1.0 - tried.candidate.metrics.mae / with_half);
    Some(if gain >= 1.0 {
        format!("twice the rows brought {gain:.0} % less error: a longer window (train.window_days) may bring about as much again")
    } else {
        "twice the rows brought nothing: a longer window will not help; better features or cleaner durations may".to_owned()
    })
}

/// Says why an anomaly model's precision may be low, and what to do.
#[must_use]
pub fn anomaly(spec: &Spec, trial: &AnomalyTrial) -> Vec<String> {
    let mut said = Vec::new();
    let metrics = &trial.metrics;
    let lacking = crate::model::rules::Rules::of(spec).lacking();
    if trial.labelled_by != LabelledBy::Field && !lacking.is_empty() {
        said.push(format!("the spec has no {}: rules that read them never hold, there only the forest answers", lacking.join(", ")));
    }
    if metrics.precision.is_none() {
        said.push(
            "anomalies need labels to be measured: name a field that says what turned out to be one (anomaly.label of the spec)".to_owned(),
        );
        return said;
    }
    let contamination = trial.model.card().contamination;
    let base = metrics.base_rate.unwrap_or_default();
    said.push(format!(
        "{} of {} labelled tickets are anomalies ({:.1} %), the forest flagged {} and hit {}; train.anomaly_contamination is {:.1} %",
        metrics.anomalies,
        metrics.rows,
        100.0 * base,
        metrics.flagged,
        metrics.hits,
        100.0 * contamination
    ));
    if trial.labelled_by == LabelledBy::Field && base > 0.0 && base < contamination {
        said.push(format!("it flags more than there are: set train.anomaly_contamination to about {base:.3}"));
    }
    said
}
