//! The whole judge over the log in memory, with summaries made by hand.

mod controls;
mod episodes;
mod stage;
mod verdicts;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::alert::{Alert, Change, EpisodeAlert, Level};
use crate::baseline::{Baseline, Bins, Column, ErrorBaseline, Noise, TargetColumn};
use crate::clock::HOUR_MS;
use crate::cloudevent::CloudEvent;
use crate::config::Config;
use crate::spec::Spec;
use crate::status::Status;
use crate::summary::{ErrorSums, Slice, Summary};
use crate::ticket::{Control, Mark};
use crate::trigger::{ClosedBecause, TriggerChange, TriggerType};

use super::core::{Core, Verdict};
use super::queue::Queue;
use super::run;

const SPEC: &str = r#"
name = "parcels"
model = "eta"
[source]
database = "d"
collection = "c"
[ticket]
id = "id"
status = "status"
completed = ["DONE"]
completed_at = "at"
[target]
name = "minutes"
paths = ["minutes"]
max = 1e9
[prediction]
paths = ["eta"]
[[field]]
name = "size"
paths = ["size"]
kind = "text"
[[field]]
name = "made"
paths = ["made"]
kind = "time"
[[feature]]
name = "size_code"
field = "size"
encoder = "table"
default = 0.0
cause = "size"
table = [{ text = "S", value = 0.0 }, { text = "M", value = 1.0 }, { text = "L", value = 2.0 }]
[[feature]]
name = "hour"
field = "made"
encoder = "hour"
default = 12.0
"#;

/// How an hour's tickets are.
#[derive(Clone, Copy, Debug, PartialEq)]
enum World {
    /// As the baseline.
    Usual,
    /// Every hour of the day one earlier.
    Shifted,
    /// Errors twice as large, targets larger.
    Slow,
    /// Only errors one and a half times and a bit as large.
    Wrong,
    /// Nobody comes.
    Empty,
}

const ROWS_AN_HOUR: u64 = 40;
const SIZES: [u64; 6] = [20, 12, 8, 0, 0, 0];
const TARGET: [u64; 5] = [8, 8, 8, 8, 8];

fn hours_of_day(of_hour: usize) -> Vec<u64> {
    // Tickets of a UTC hour were made in the hours around it, so that windows of a day show all of them.
    let mut counts = vec![0; 27];
    counts[of_hour] = 30;
    counts[(of_hour + 23) % 24] = 10;
    counts
}

fn errors(scale: f64, rows: u64) -> ErrorSums {
    let mut sums = ErrorSums::default();
    for row in 0..rows {
        sums.push(scale * (5.0 + (row % 7) as f64), 0.08);
    }
    sums
}

/// Every second hour is idle, so that an hour's shift is a change.
fn slice(hour: i64, world: World) -> Slice {
    let of_day = usize::try_from(hour.rem_euclid(24)).unwrap();
    let idle = of_day < 8;
    if world == World::Empty || idle {
        return Slice { start_ms: hour * HOUR_MS, columns: vec![vec![0; 6], vec![0; 27]], target: vec![0; 5], ..Slice::default() };
    }
    let shown = if world == World::Shifted { (of_day + 12) % 24 } else { of_day };
    let target = if world == World::Slow { vec![2, 2, 4, 12, 20] } else { TARGET.to_vec() };
    let scale = match world {
        World::Slow => 2.0,
        World::Wrong => 1.6,
        _ => 1.0,
    };
    let sums = errors(scale, ROWS_AN_HOUR);
    let mut error_by = vec![0_i128; 6];
    error_by[0] = sums.abs_us;
    Slice {
        start_ms: hour * HOUR_MS,
        rows: ROWS_AN_HOUR,
        late: 0,
        repeats: 0,
        columns: vec![SIZES.to_vec(), hours_of_day(shown)],
        error_by: vec![error_by, vec![]],
        spread: vec![],
        target,
        series: BTreeMap::from([("recorded".to_owned(), sums)]),
    }
}

/// What one of `partitions` has of a slice; all parts add up to it.
fn part(whole: &Slice, partition: u32, partitions: u32) -> Slice {
    let count = |n: u64| if partition == 0 { n - n / u64::from(partitions) * u64::from(partitions - 1) } else { n / u64::from(partitions) };
    let sum =
        |n: i128| if partition == 0 { n - n / i128::from(partitions) * i128::from(partitions - 1) } else { n / i128::from(partitions) };
    let counts = |row: &Vec<u64>| row.iter().map(|n| count(*n)).collect::<Vec<u64>>();
    let errors =
        |sums: &ErrorSums| ErrorSums { rows: count(sums.rows), abs_us: sum(sums.abs_us), log: sum(sums.log), log_sq: sum(sums.log_sq) };
    Slice {
        start_ms: whole.start_ms,
        rows: count(whole.rows),
        late: count(whole.late),
        repeats: count(whole.repeats),
        columns: whole.columns.iter().map(counts).collect(),
        error_by: whole.error_by.iter().map(|row| row.iter().map(|n| sum(*n)).collect()).collect(),
        spread: vec![],
        target: counts(&whole.target),
        series: whole.series.iter().map(|(name, sums)| (name.clone(), errors(sums))).collect(),
    }
}

fn spec() -> Spec {
    Spec::from_toml(SPEC).unwrap()
}

fn baseline(version: u64, to_hour: i64) -> Baseline {
    let spec = spec();
    let mut sum = Slice::default();
    for hour in 0..24 * 56 {
        sum.add(&slice(hour, World::Usual));
    }
    let column = |name: &str, values: Vec<f64>, counts: Vec<u64>| Column {
        name: name.to_owned(),
        bins: Bins::Values(values),
        counts,
        learned: vec![],
        mean: 0.0,
        std: 1.0,
        min: 0.0,
        max: 1.0,
        sample: vec![],
    };
    let sums = sum.series["recorded"];
    let phi: BTreeMap<String, f64> = ["size", "hour", "target"].map(|name| (name.to_owned(), 1.0)).into();
    let noise =
        |days: u32| Noise { days, windows: 56 / days, phi: phi.clone(), log_mae_std: BTreeMap::from([("recorded".to_owned(), 0.02)]) };
    Baseline {
        spec: spec.name.clone(),
        fingerprint: spec.fingerprint(),
        model: spec.model.clone(),
        version,
        created_at_ms: 0,
        from_ms: (to_hour - 24 * 56) * HOUR_MS,
        to_ms: to_hour * HOUR_MS,
        rows: sum.rows,
        columns: vec![
            column("size_code", vec![0.0, 1.0, 2.0], sum.columns[0].clone()),
            column("hour", (0..24_u8).map(f64::from).collect(), sum.columns[1].clone()),
        ],
        target: TargetColumn {
            edges: vec![10.0, 20.0, 30.0, 40.0],
            counts: sum.target.clone(),
            mean: 25.0,
            std: 10.0,
            p50: 25.0,
            p95: 45.0,
            p99: 49.0,
            sample: vec![],
        },
        errors: BTreeMap::from([(
            "recorded".to_owned(),
            ErrorBaseline { mae: sums.abs_us as f64 / 1000.0 / sums.rows as f64, days: 56.0, sums },
        )]),
        log_offset: 0.08,
        scored_by: None,
        answers: None,
        clusters: None,
        anchor: None,
        provisional: false,
        noise: vec![noise(1), noise(3), noise(7)],
    }
}

/// A stream of marks to come, from 1 and 2 partitions or more.
struct Stream {
    partitions: u32,
    version: Option<u64>,
    next: u64,
    controls: Vec<Control>,
}

impl Stream {
    fn new(partitions: u32, version: Option<u64>) -> Self {
        Self { partitions, version, next: 1, controls: vec![] }
    }

    fn mark(&self, number: u64) -> Mark {
        Mark { number, end_ms: i64::try_from(number).unwrap() * HOUR_MS, partitions: self.partitions, baseline: self.version }
    }

    /// The summaries of the next mark, in order of partition.
    fn hour(&mut self, world: World) -> Vec<Summary> {
        let number = self.next;
        self.next += 1;
        let whole = slice(i64::try_from(number - 1).unwrap(), world);
        let controls = std::mem::take(&mut self.controls);
        let slices = |partition| vec![part(&whole, partition, self.partitions)];
        (0..self.partitions).map(|partition| self.summary(partition, number, slices(partition), controls.clone())).collect()
    }

    fn summary(&self, partition: u32, number: u64, slices: Vec<Slice>, controls: Vec<Control>) -> Summary {
        Summary {
            spec: "parcels".to_owned(),
            fingerprint: spec().fingerprint(),
            version: self.version,
            partition,
            sequence: number * 100,
            mark: self.mark(number),
            slices,
            controls,
            incomplete: false,
            more: false,
        }
    }

    fn hours(&mut self, world: World, hours: usize) -> Vec<Summary> {
        (0..hours).flat_map(|_| self.hour(world)).collect()
    }
}

fn core(status: Option<Status>) -> Core {
    let config = Config::default();
    Core::new(Arc::new(spec()), config.judge, &config.window, status)
}

/// Judges summaries with the core alone.
fn judge(core: &mut Core, baseline: &Baseline, summaries: Vec<Summary>) -> Vec<Verdict> {
    let mut queue = Queue::default();
    summaries.into_iter().for_each(|summary| queue.offer(summary));
    let mut verdicts = vec![];
    while let Some(step) = queue.next() {
        let in_force = (step.mark.baseline == Some(baseline.version)).then_some(baseline);
        verdicts.extend(core.advance(&step, in_force));
    }
    verdicts
}

fn alert(event: &CloudEvent) -> EpisodeAlert {
    match serde_json::from_slice(&event.data).unwrap() {
        Alert::Episode(alert) => *alert,
        other => panic!("{other:?}"),
    }
}

/// Mark, cause, change, level of every alert.
fn told(verdicts: &[Verdict]) -> Vec<(u64, String, Change, Level)> {
    let events = verdicts.iter().flat_map(|verdict| &verdict.alerts);
    events.map(|(_, event)| alert(event)).map(|a| (a.mark, a.cause, a.change, a.level)).collect()
}

fn asked(verdicts: &[Verdict]) -> Vec<(u64, TriggerChange, TriggerType, Option<ClosedBecause>)> {
    let triggers = verdicts.iter().flat_map(|verdict| &verdict.triggers).filter(|t| t.change != TriggerChange::Due);
    triggers.map(|t| (t.mark.unwrap(), t.change, t.trigger_type, t.closed_because)).collect()
}

fn last(verdicts: &[Verdict]) -> &Status {
    &verdicts.last().unwrap().status
}
