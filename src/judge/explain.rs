//! An alert explains itself: counts before and now, the categories that carry the change, what to do.

use crate::alert::{Carrier, Distribution};
use crate::baseline::{Baseline, Bins};
use crate::drift::look::{CLUSTERS, ERROR, TARGET};
use crate::spec::{Encoder, Feature, Spec};
use crate::summary::Slice;

/// Categories that an alert names at most.
const CARRIERS: usize = 5;
/// Part of the effect below which a category is not worth a name.
const LEAST_PART: f64 = 0.05;
/// How many times its share of the rows a category's part of the rise has to be.
const LEAST_LIFT: f64 = 1.5;
/// Groups in which the target's fine histogram is shown.
const TARGET_GROUPS: usize = 20;

/// Everything that explanations are made from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case<'a> {
    /// The spec.
    pub(crate) spec: &'a Spec,
    /// The baseline.
    pub(crate) baseline: &'a Baseline,
    /// The window that shows the change most clearly.
    pub(crate) now: &'a Slice,
    /// The slices before the onset, of the last days.
    pub(crate) before_onset: &'a Slice,
    /// The slices since the onset.
    pub(crate) since_onset: &'a Slice,
}

impl Case<'_> {
    /// Returns the distributions of a cause's columns, or of the target.
    pub(crate) fn distributions(&self, cause: &str, psi: impl Fn(usize) -> Option<f64>) -> Vec<Distribution> {
        if cause == TARGET || cause == ERROR {
            return vec![self.target()];
        }
        if cause == CLUSTERS {
            return self.distribution_of_clusters().into_iter().collect();
        }
        let members = self.spec.causes().remove(cause).unwrap_or_default();
        let shown = members.into_iter().filter_map(|column| {
            let (feature, known) = (self.spec.features.get(column)?, self.baseline.columns.get(column)?);
            Some(Distribution {
                column: known.name.clone(),
                psi: psi(column),
                bins: bin_names(feature, &known.bins),
                before: known.counts.clone(),
                now: self.now.columns.get(column).cloned().unwrap_or_else(|| vec![0; known.counts.len()]),
            })
        });
        shown.collect()
    }

    fn target(&self) -> Distribution {
        let known = &self.baseline.target;
        let rows: u64 = known.counts.iter().sum();
        let step = (rows / TARGET_GROUPS as u64).max(1);
        let mut shown = Distribution { column: self.spec.target.name.clone(), psi: None, bins: vec![], before: vec![], now: vec![] };
        let (mut lower, mut before, mut now) = (None, 0, 0);
        for (bin, count) in known.counts.iter().enumerate() {
            before += count;
            now += self.now.target.get(bin).copied().unwrap_or(0);
            let upper = known.edges.get(bin).copied();
            if before >= step || upper.is_none() {
                shown.bins.push(span(lower, upper));
                shown.before.push(before);
                shown.now.push(now);
                (lower, before, now) = (upper, 0, 0);
            }
        }
        shown
    }

    /// Returns the categories that carry the change, the heaviest first. `column` speaks for the cause.
    pub(crate) fn carriers(&self, cause: &str, column: Option<usize>) -> Vec<Carrier> {
        let mut carriers = match (cause, column) {
            (ERROR, _) => self.carriers_of_error(),
            (CLUSTERS, _) => self.carriers_of_clusters(),
            (TARGET, _) | (_, None) => carriers_of(&self.target()),
            (_, Some(column)) => self.carriers_of_column(column),
        };
        carriers.retain(|carrier| carrier.part >= LEAST_PART);
        carriers.truncate(CARRIERS);
        carriers
    }

    fn carriers_of_column(&self, column: usize) -> Vec<Carrier> {
        let (Some(feature), Some(known)) = (self.spec.features.get(column), self.baseline.columns.get(column)) else {
            return vec![];
        };
        let empty = vec![0; known.counts.len()];
        let shown = Distribution {
            column: known.name.clone(),
            psi: None,
            bins: bin_names(feature, &known.bins),
            before: known.counts.clone(),
            now: self.now.columns.get(column).unwrap_or(&empty).clone(),
        };
        let mut carriers = carriers_of(&shown);
        for carrier in &mut carriers {
            let bin = shown.bins.iter().position(|name| *name == carrier.category);
            self.put_errors(carrier, column, bin);
        }
        carriers
    }

    pub(super) fn put_errors(&self, carrier: &mut Carrier, column: usize, bin: Option<usize>) {
        carrier.mean_abs_error_before = bin.and_then(|bin| mean_error(self.before_onset, column, bin));
        carrier.mean_abs_error_now = bin.and_then(|bin| mean_error(self.now, column, bin));
    }

    /// The categories whose errors grew: each one's part of the rise of the MAE since the onset, where that is more than
    /// its share of the rows.
    fn carriers_of_error(&self) -> Vec<Carrier> {
        let (before, now) = (self.before_onset, self.since_onset);
        let mut carriers = Vec::new();
        for members in self.spec.causes().values() {
            let column = members[0];
            let (Some(errors_now), Some(known)) =
                (now.error_by.get(column).filter(|row| !row.is_empty()), self.baseline.columns.get(column))
            else {
                continue;
            };
            let (mae_before, mae_now) = (overall(before, column), overall(now, column));
            let rise = mae_now - mae_before;
            if rise <= 0.0 {
                continue;
            }
            let names = bin_names(&self.spec.features[column], &known.bins);
            for bin in 0..errors_now.len() {
                let (share_before, share_now) = (share(before, column, bin), share(now, column, bin));
                let (mean_before, mean_now) = (mean_error(before, column, bin), mean_error(now, column, bin));
                let grew = share_now * mean_now.unwrap_or(0.0) - share_before * mean_before.unwrap_or(0.0);
                let part = grew / rise;
                if part - share_now >= LEAST_PART && part >= LEAST_LIFT * share_now {
                    carriers.push(Carrier {
                        column: known.name.clone(),
                        category: names.get(bin).cloned().unwrap_or_default(),
                        share_before,
                        share_now,
                        mean_abs_error_before: mean_before,
                        mean_abs_error_now: mean_now,
                        part,
                    });
                }
            }
        }
        carriers.sort_by(|a, b| (b.part - b.share_now).total_cmp(&(a.part - a.share_now)));
        carriers
    }

    /// Returns what to do about a cause, in words.
    pub(crate) fn recommendations(&self, cause: &str, column: Option<usize>, carriers: &[Carrier]) -> Vec<String> {
        let retrain = "if it stays, retrain: a trigger is raised by itself when the status is critical";
        let accept = format!("if it is meant to be so, accept it: tidemark baseline accept --cause {cause}");
        match cause {
            ERROR => {
                let mut advice = vec!["the model's predictions have become worse: compare with what changed at the onset".to_owned()];
                advice.extend(named(carriers, "most of the rise comes from"));
                advice.push(retrain.to_owned());
                return advice;
            }
            TARGET => {
                return vec![
                    format!(
                        "{} itself has another distribution than in the baseline: look for what made tickets slower or faster",
                        self.spec.target.name
                    ),
                    retrain.to_owned(),
                    accept,
                ];
            }
            CLUSTERS => {
                let mut advice = self.advice_on_clusters(carriers);
                advice.extend([retrain.to_owned(), accept]);
                return advice;
            }
            _ => {}
        }
        let mut advice = Vec::new();
        if let Some((feature, known)) = column.and_then(|c| Some((self.spec.features.get(c)?, self.baseline.columns.get(c)?))) {
            let now = column.and_then(|c| self.now.columns.get(c)).map(Vec::as_slice).unwrap_or_default();
            let regular = known.bins.len();
            if feature.encoder == Encoder::Hour {
                advice.push(clock_advice(&known.counts[..regular], now.get(..regular).unwrap_or_default()));
            }
            for carrier in carriers {
                match carrier.category.as_str() {
                    MISSING => advice.push(format!("{} is missing more often: ask who writes field {}", feature.name, feature.field)),
                    NON_FINITE => {
                        advice.push(format!("{} is not a finite number more often: ask who writes field {}", feature.name, feature.field))
                    }
                    UNSEEN => {
                        advice.push(format!(
                            "field {} has values that the baseline does not know: extend the spec, or correct them",
                            feature.field
                        ));
                    }
                    _ => {}
                }
            }
        }
        advice.extend(named(carriers, "the change is carried by"));
        advice.push(retrain.to_owned());
        advice.push(accept);
        advice
    }
}

fn named(carriers: &[Carrier], lead: &str) -> Option<String> {
    let names: Vec<String> = carriers
        .iter()
        .take(3)
        .map(|c| {
            format!("{} {} ({:.1} % of tickets before, {:.1} % now)", c.column, c.category, 100.0 * c.share_before, 100.0 * c.share_now)
        })
        .collect();
    (!names.is_empty()).then(|| format!("{lead} {}", names.join(", ")))
}

/// Says whether the hours fit again when the clock is moved by one.
fn clock_advice(before: &[u64], now: &[u64]) -> String {
    let distance = |shift: usize| -> f64 {
        let hours = before.len();
        let moved = (0..hours).map(|hour| before[(hour + shift) % hours]);
        let (n, m) = (before.iter().sum::<u64>().max(1) as f64, now.iter().sum::<u64>().max(1) as f64);
        moved.zip(now).map(|(b, c)| (*c as f64 / m - b as f64 / n).powi(2)).sum()
    };
    if before.len() != now.len() || before.is_empty() {
        return "hours are UTC".to_owned();
    }
    let still = distance(0);
    let shifts = [(1, "earlier"), (before.len() - 1, "later")];
    let (best, direction) = shifts
        .map(|(shift, direction)| (distance(shift), direction))
        .into_iter()
        .fold((f64::INFINITY, ""), |least, next| if next.0 < least.0 { next } else { least });
    if best < still / 2.0 {
        format!("hours are UTC, and the same day now happens one hour {direction}: this looks like a clock change (daylight saving)")
    } else {
        "hours are UTC, and this is not a mere clock change: look for what moved to other hours of the day".to_owned()
    }
}

/// Each bin's part of the PSI, the heaviest first.
pub(super) fn carriers_of(shown: &Distribution) -> Vec<Carrier> {
    let used = shown.before.iter().zip(&shown.now).filter(|(b, c)| **b + **c > 0).count() as f64;
    let (n, m) = (shown.before.iter().sum::<u64>() as f64, shown.now.iter().sum::<u64>() as f64);
    let smoothed = |count: u64, rows: f64| (count as f64 + 0.5) / (rows + 0.5 * used);
    let plain = |count: u64, rows: f64| if rows > 0.0 { count as f64 / rows } else { 0.0 };
    let mut whole = 0.0;
    let mut carriers = Vec::new();
    for ((name, before), now) in shown.bins.iter().zip(&shown.before).zip(&shown.now) {
        if before + now == 0 {
            continue;
        }
        let (b, c) = (smoothed(*before, n), smoothed(*now, m));
        let weight = (c - b) * libm::log(c / b);
        whole += weight;
        carriers.push(Carrier {
            column: shown.column.clone(),
            category: name.clone(),
            share_before: plain(*before, n),
            share_now: plain(*now, m),
            mean_abs_error_before: None,
            mean_abs_error_now: None,
            part: weight,
        });
    }
    for carrier in &mut carriers {
        carrier.part = if whole > 0.0 { carrier.part / whole } else { 0.0 };
    }
    carriers.sort_by(|a, b| b.part.total_cmp(&a.part));
    carriers
}

fn rows_of(slice: &Slice, column: usize, bin: usize) -> u64 {
    slice.columns.get(column).and_then(|row| row.get(bin)).copied().unwrap_or(0)
}

fn share(slice: &Slice, column: usize, bin: usize) -> f64 {
    let rows: u64 = slice.columns.get(column).map_or(0, |row| row.iter().sum());
    if rows == 0 { 0.0 } else { rows_of(slice, column, bin) as f64 / rows as f64 }
}

/// Mean |error| of a category in the target's unit; `None` without rows.
fn mean_error(slice: &Slice, column: usize, bin: usize) -> Option<f64> {
    let rows = rows_of(slice, column, bin);
    let error = slice.error_by.get(column)?.get(bin)?;
    (rows > 0).then(|| *error as f64 / 1000.0 / rows as f64)
}

fn overall(slice: &Slice, column: usize) -> f64 {
    let rows: u64 = slice.columns.get(column).map_or(0, |row| row.iter().sum());
    let errors: i128 = slice.error_by.get(column).map_or(0, |row| row.iter().sum());
    if rows == 0 { 0.0 } else { errors as f64 / 1000.0 / rows as f64 }
}

const MISSING: &str = "missing";
const NON_FINITE: &str = "non-finite";
const UNSEEN: &str = "unseen";

/// Returns what each bin of a column holds, in words; the last three are missing, non-finite and unseen.
pub(crate) fn bin_names(feature: &Feature, bins: &Bins) -> Vec<String> {
    let mut names: Vec<String> = match bins {
        Bins::Values(values) => values.iter().map(|value| value_name(feature, *value)).collect(),
        Bins::Edges(edges) => {
            let bounds = |bin: usize| (bin.checked_sub(1).map(|lower| edges[lower]), edges.get(bin).copied());
            (0..=edges.len()).map(|bin| span(bounds(bin).0, bounds(bin).1)).collect()
        }
    };
    names.extend([MISSING, NON_FINITE, UNSEEN].map(str::to_owned));
    names
}

fn value_name(feature: &Feature, value: f64) -> String {
    match feature.encoder {
        Encoder::Hour => format!("{value:02}:00 UTC"),
        Encoder::Table => {
            let texts: Vec<&str> =
                feature.table.iter().filter(|entry| entry.value.total_cmp(&value).is_eq()).map(|entry| entry.text.as_str()).collect();
            if texts.is_empty() { value.to_string() } else { texts.join("/") }
        }
        _ => value.to_string(),
    }
}

fn span(lower: Option<f64>, upper: Option<f64>) -> String {
    match (lower, upper) {
        (None, None) => "any".to_owned(),
        (None, Some(upper)) => format!("up to {upper}"),
        (Some(lower), None) => format!("above {lower}"),
        (Some(lower), Some(upper)) => format!("{lower} to {upper}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(shift: usize) -> Vec<u64> {
        (0..24).map(|hour| if (6..22).contains(&((hour + shift) % 24)) { 100 + hour as u64 } else { 1 }).collect()
    }

    #[test]
    fn a_day_moved_by_one_hour_is_called_a_clock_change() {
        assert!(clock_advice(&hours(0), &hours(1)).contains("one hour earlier: this looks like a clock change"));
        assert!(clock_advice(&hours(0), &hours(23)).contains("one hour later"));
        assert!(clock_advice(&hours(0), &hours(9)).contains("not a mere clock change"));
    }

    #[test]
    fn bins_are_named_as_the_spec_names_them() {
        let spec = Spec::from_toml(include_str!("../../config/execution-tickets.toml")).unwrap();
        let feature = |name: &str| spec.features.iter().find(|f| f.name == name).unwrap();
        let risk = bin_names(feature("risk_weight"), &Bins::Values(vec![0.3, 0.5, 0.7, 1.0]));
        assert_eq!(risk, ["low", "medium", "high", "critical", "missing", "non-finite", "unseen"]);
        let hour = bin_names(feature("hour_of_day"), &Bins::Values(vec![7.0, 8.0]));
        assert_eq!(hour[..2], ["07:00 UTC", "08:00 UTC"]);
        let size = bin_names(feature("parameters_size"), &Bins::Edges(vec![116.0, 128.0]));
        assert_eq!(size[..3], ["up to 116", "116 to 128", "above 128"]);
    }

    #[test]
    fn the_bins_that_carry_the_change_come_first_and_their_parts_add_up() {
        let shown = Distribution {
            column: "x".to_owned(),
            psi: None,
            bins: ["a", "b", "c"].map(str::to_owned).to_vec(),
            before: vec![100, 100, 0],
            now: vec![100, 20, 80],
        };
        let carriers = carriers_of(&shown);
        assert_eq!(carriers[0].category, "c");
        assert!((carriers.iter().map(|c| c.part).sum::<f64>() - 1.0).abs() < 1e-12);
    }
}
