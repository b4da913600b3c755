//! The whole judge over the log in memory, with summaries made by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::alert::{Alert, Change, EpisodeAlert, Level};
use crate::baseline::{Baseline, Bins, Column, ErrorBaseline, Noise, TargetColumn};
use crate::clock::{DAY_MS, HOUR_MS};
use crate::cloudevent::CloudEvent;
use crate::config::{Config, Decision};
use crate::log::memory::slow::SlowLog;
use crate::log::memory::{Fault, MemoryLog};
use crate::log::{Delivered, Log, Record, Transaction};
use crate::spec::Spec;
use crate::stage::{Context, Health, Stop};
use crate::status::{JudgeState, Status};
use crate::summary::{ErrorSums, Slice, Summary};
use crate::ticket::{Control, Mark};
use crate::topics::Topics;
use crate::trigger::{ClosedBecause, Trigger, TriggerChange, TriggerType};

use super::core::{Core, Verdict};
use super::queue::Queue;

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

#[test]
fn a_quiet_stream_fills_then_is_judged_ok() {
    let verdicts = judge(&mut core(None), &baseline(1, 0), Stream::new(1, Some(1)).hours(World::Usual, 24 * 9));
    assert_eq!(verdicts[0].status.state, JudgeState::Filling);
    assert_eq!(verdicts[0].status.status, None);
    assert_eq!(verdicts[24].status.state, JudgeState::Settling);
    assert_eq!(verdicts[24].status.status, Some(Level::Ok));
    assert_eq!(last(&verdicts).state, JudgeState::Judging);
    assert_eq!(told(&verdicts), []);
    assert_eq!(last(&verdicts).recommendations, ["nothing to do"]);
}

#[test]
fn without_a_baseline_there_is_no_verdict_and_it_says_how_to_get_one() {
    let mut stream = Stream::new(1, None);
    let summaries = stream.hours(World::Usual, 30).into_iter().map(|mut summary| {
        summary.slices[0] = Slice { start_ms: summary.slices[0].start_ms, rows: 40, ..Slice::default() };
        summary
    });
    let verdicts = judge(&mut core(None), &baseline(1, 0), summaries.collect());
    assert_eq!(last(&verdicts).state, JudgeState::NoBaseline);
    assert_eq!(last(&verdicts).status, None);
    assert!(last(&verdicts).summary.contains("tidemark baseline create"));
    assert_eq!(last(&verdicts).windows[0].rows, 24 * 40);
}

#[test]
fn a_slow_down_is_one_episode_of_error_and_one_of_target_and_one_trigger_and_all_close() {
    let mut stream = Stream::new(1, Some(1));
    let mut summaries = stream.hours(World::Usual, 24 * 10);
    summaries.extend(stream.hours(World::Slow, 24 * 5));
    summaries.extend(stream.hours(World::Usual, 24 * 12));
    let verdicts = judge(&mut core(None), &baseline(1, 0), summaries);
    let changes: Vec<(String, Change, Level)> =
        told(&verdicts).into_iter().map(|(_, cause, change, level)| (cause, change, level)).collect();
    let critical = |cause: &str, change| (cause.to_owned(), change, Level::Critical);
    assert_eq!(
        changes,
        [
            critical("error", Change::Opened),
            critical("target", Change::Opened),
            critical("error", Change::Resolved),
            critical("target", Change::Resolved),
        ],
        "{:?}",
        told(&verdicts)
    );
    let asked: Vec<(TriggerChange, TriggerType)> = asked(&verdicts).into_iter().map(|(_, change, kind, _)| (change, kind)).collect();
    use TriggerChange::{Closed, Joined, Raised};
    let performance = |change| (change, TriggerType::Performance);
    assert_eq!(asked, [performance(Raised), performance(Joined), performance(Closed)]);
    assert_eq!(last(&verdicts).status, Some(Level::Ok));
    assert_eq!(last(&verdicts).trigger, None);

    let opened = verdicts.iter().flat_map(|verdict| &verdict.alerts).map(|(_, event)| alert(event)).next().unwrap();
    assert_eq!(opened.onset_ms, Some((24 * 10 + 8) * HOUR_MS), "{}", opened.summary);
    assert_eq!(opened.status, Level::Critical);
    assert!(!opened.evidence.is_empty() && !opened.distributions.is_empty() && !opened.recommendations.is_empty());
    assert!(opened.evidence.iter().any(|look| look.calibrated_p.is_some() && look.p.is_some()));
    let largest = verdicts.iter().flat_map(|verdict| &verdict.alerts).map(|(_, event)| event.data.len()).max().unwrap();
    assert!(largest < 20_000, "an alert of {largest} bytes");
}

#[test]
fn a_shifted_day_is_a_warning_over_all_explained_as_what_it_is_and_asks_for_a_training_after_a_full_window() {
    let mut stream = Stream::new(1, Some(1));
    let mut summaries = stream.hours(World::Usual, 24 * 10);
    summaries.extend(stream.hours(World::Shifted, 24 * 20));
    let verdicts = judge(&mut core(None), &baseline(1, 0), summaries);
    let opened = told(&verdicts);
    assert_eq!(opened.last().unwrap().1, "hour");
    assert_eq!(opened.last().unwrap().3, Level::Critical);
    assert_eq!(last(&verdicts).status, Some(Level::Warning));
    let critical_at = opened.last().unwrap().0;
    let asked = asked(&verdicts);
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(asked[0], (critical_at + 24 * 7, TriggerChange::Raised, TriggerType::Drift, None));
    assert_eq!(last(&verdicts).trigger.as_ref().unwrap().priority, 2);
    let event = verdicts.iter().flat_map(|verdict| &verdict.alerts).next_back().unwrap();
    let alert = alert(&event.1);
    assert!(alert.recommendations[0].starts_with("hours are UTC"), "{:?}", alert.recommendations);
    assert!(alert.carriers[0].category.ends_with(":00 UTC"));
}

#[test]
fn no_tickets_are_no_verdict_and_end_no_episode() {
    let mut stream = Stream::new(1, Some(1));
    let mut summaries = stream.hours(World::Usual, 24 * 8);
    summaries.extend(stream.hours(World::Slow, 24 * 4));
    summaries.extend(stream.hours(World::Empty, 24 * 30));
    let verdicts = judge(&mut core(None), &baseline(1, 0), summaries);
    assert!(last(&verdicts).causes["error"].episode.is_some());
    assert_eq!(last(&verdicts).status, Some(Level::Critical));
    assert_eq!(last(&verdicts).state, JudgeState::Filling);
    assert!(last(&verdicts).summary.contains("at least 50 are needed"), "{}", last(&verdicts).summary);
}

#[test]
fn the_bare_rule_opens_at_the_first_look() {
    let config = Config::default();
    let rules = crate::config::Judge { decision: Decision::Thresholds, ..config.judge };
    let mut core = Core::new(Arc::new(spec()), rules, &config.window, None);
    let mut stream = Stream::new(1, Some(1));
    let mut summaries = stream.hours(World::Usual, 24 * 8);
    summaries.extend(stream.hours(World::Slow, 24 * 6));
    let verdicts = judge(&mut core, &baseline(1, 0), summaries);
    let first_critical = verdicts.iter().find(|verdict| verdict.status.status == Some(Level::Critical)).unwrap();
    assert!(!first_critical.alerts.is_empty() || first_critical.status.causes.values().any(|cause| cause.episode.is_some()));
    assert!(last(&verdicts).windows[2].mae_ratio.unwrap() > 1.5);
    assert_eq!(last(&verdicts).causes["error"].episode.as_ref().unwrap().level, Level::Critical);
    assert_eq!(last(&verdicts).causes["error"].evidence.iter().filter(|look| look.decides).count(), 1);
}

fn silence(cause: &str, until_hour: i64) -> Control {
    Control::Silence { id: format!("silence-{cause}-{until_hour}"), cause: cause.to_owned(), until_ms: until_hour * HOUR_MS }
}

#[test]
fn a_silenced_cause_goes_on_unheard_and_is_told_when_the_silence_ends() {
    let play = |until_hour: i64| {
        let mut stream = Stream::new(2, Some(1));
        let mut summaries = stream.hours(World::Usual, 24 * 10);
        stream.controls = vec![silence("error", until_hour)];
        summaries.extend(stream.hours(World::Wrong, 24 * 4));
        judge(&mut core(None), &baseline(1, 0), summaries)
    };
    let heard = told(&play(0));
    let (mark, _, change, level) = heard[0].clone();
    assert_eq!((change, level), (Change::Opened, Level::Critical));
    let until = i64::try_from(mark).unwrap() + 20;
    let verdicts = play(until);
    assert_eq!(told(&verdicts), [(mark + 20, "error".to_owned(), Change::Opened, Level::Critical)]);
    assert_eq!(last(&verdicts).causes["error"].episode.as_ref().unwrap().silenced_alerts, 1);
    assert_eq!(asked(&verdicts).len(), 1, "a silence holds no training back");
}

#[test]
fn an_accepted_cause_closes_and_stays_closed_while_it_is_as_it_is() {
    let mut stream = Stream::new(2, Some(1));
    let mut summaries = stream.hours(World::Usual, 24 * 10);
    summaries.extend(stream.hours(World::Wrong, 24 * 4));
    stream.controls = vec![Control::Accept { id: "a".to_owned(), cause: "error".to_owned() }];
    summaries.extend(stream.hours(World::Wrong, 24 * 10));
    let verdicts = judge(&mut core(None), &baseline(1, 0), summaries);
    let changes: Vec<Change> = told(&verdicts).into_iter().filter(|told| told.1 == "error").map(|told| told.2).collect();
    assert_eq!(changes, [Change::Opened, Change::Accepted]);
    assert_eq!(asked(&verdicts).last().unwrap().3, Some(ClosedBecause::Resolved));
    assert!(last(&verdicts).causes["error"].accepted);
    assert_eq!(last(&verdicts).status, Some(Level::Ok));
}

#[test]
fn a_promotion_closes_the_trigger_and_asks_again_only_when_it_is_over_again() {
    let mut stream = Stream::new(1, Some(1));
    let mut summaries = stream.hours(World::Usual, 24 * 10);
    summaries.extend(stream.hours(World::Wrong, 24 * 4));
    let mut core = core(None);
    let verdicts = judge(&mut core, &baseline(1, 0), summaries);
    let trigger = last(&verdicts).trigger.clone().unwrap();
    stream.controls = vec![Control::Outcome {
        id: "o".to_owned(),
        trigger: trigger.id.clone(),
        outcome: "promoted".to_owned(),
        reason: String::new(),
        mark: None,
        baseline: None,
    }];
    let verdicts = judge(&mut core, &baseline(1, 0), stream.hours(World::Wrong, 24));
    let marks: Vec<(TriggerChange, Option<ClosedBecause>)> = asked(&verdicts).into_iter().map(|told| (told.1, told.3)).collect();
    assert_eq!(marks, [(TriggerChange::Closed, Some(ClosedBecause::Promoted)), (TriggerChange::Raised, None)]);
    let raised = last(&verdicts).trigger.clone().unwrap();
    assert_ne!(raised.id, trigger.id);
    assert_eq!(verdicts.iter().position(|verdict| verdict.triggers.iter().any(|t| t.id == raised.id)), Some(5));
}

#[test]
fn a_new_version_counts_from_the_mark_that_names_it_and_open_episodes_recover_under_it() {
    let mut stream = Stream::new(2, Some(1));
    let mut summaries = stream.hours(World::Usual, 24 * 10);
    summaries.extend(stream.hours(World::Slow, 24 * 4));
    let mut core = core(None);
    let verdicts = judge(&mut core, &baseline(1, 0), summaries);
    assert!(last(&verdicts).causes["error"].episode.is_some());

    // The new version's data ended a day ago: watch recounts and publishes only that day.
    stream.version = Some(2);
    let number = stream.next;
    stream.next += 1;
    let begin = i64::try_from(number).unwrap() - 25;
    let slices = |partition| (begin..begin + 25).map(|hour| part(&slice(hour, World::Usual), partition, 2)).collect();
    let switch = (0..2).map(|partition| stream.summary(partition, number, slices(partition), vec![])).collect();
    let second = baseline(2, begin);
    let verdicts = judge(&mut core, &second, switch);
    assert_eq!(last(&verdicts).windows.iter().map(|window| window.rows).collect::<Vec<_>>(), [640, 640, 640]);
    assert_eq!(last(&verdicts).state, JudgeState::Settling);
    assert!(last(&verdicts).causes["error"].episode.as_ref().unwrap().recovering);
    let verdicts = judge(&mut core, &second, stream.hours(World::Usual, 24 * 8));
    assert_eq!(last(&verdicts).status, Some(Level::Ok));
    assert!(told(&verdicts).iter().all(|told| told.2 == Change::Resolved));
}

#[test]
fn a_gap_is_mentioned_while_a_window_reaches_over_it() {
    let mut stream = Stream::new(2, Some(1));
    stream.hours(World::Usual, 24 * 8);
    stream.controls = vec![Control::Gap {
        id: "g".to_owned(),
        from_ms: 24 * 8 * HOUR_MS,
        to_ms: (24 * 8 + 1) * HOUR_MS,
        reason: "rolled over".to_owned(),
    }];
    let verdicts = judge(&mut core(None), &baseline(1, 0), stream.hours(World::Usual, 24 * 9));
    assert_eq!(verdicts[0].status.gaps.len(), 1);
    assert!(verdicts[0].status.caveats[0].starts_with("gap: MongoDB has forgotten"));
    assert_eq!(last(&verdicts).gaps, []);
}

#[test]
fn one_and_seven_partitions_give_the_same_bytes() {
    let play = |partitions: u32| {
        let mut stream = Stream::new(partitions, Some(1));
        let mut summaries = stream.hours(World::Usual, 24 * 9);
        summaries.extend(stream.hours(World::Slow, 24 * 3));
        let verdicts = judge(&mut core(None), &baseline(1, 0), summaries);
        let alerts: Vec<(String, CloudEvent)> = verdicts.iter().flat_map(|verdict| verdict.alerts.clone()).collect();
        assert!(!alerts.is_empty());
        (alerts, verdicts.into_iter().map(|verdict| serde_json::to_string(&verdict.status).unwrap()).collect::<Vec<_>>())
    };
    assert_eq!(play(1), play(7));
}

// --- over the log -------------------------------------------------------------------------------------------------

struct Run {
    log: MemoryLog,
    context: Context,
}

impl Run {
    fn new() -> Self {
        let log = MemoryLog::new();
        let mut config = Config::default();
        config.instance = "i".to_owned();
        let topics = Topics::new("tidemark");
        log.create_topics(&topics.settings(&config.topic_plan())).unwrap();
        let context = Context {
            config: Arc::new(config),
            spec: Arc::new(spec()),
            topics: Arc::new(topics),
            log: Arc::new(log.clone()),
            stop: Stop::default(),
            health: Health::default(),
            registry: None,
        };
        Self { log, context }
    }

    fn write(&self, records: Vec<Record>) {
        self.log.producer("test").unwrap().transact(Transaction { records, ..Transaction::default() }).unwrap();
    }

    fn publish_baseline(&self, baseline: &Baseline) {
        self.write(vec![Record {
            topic: self.context.topics.baselines.clone(),
            partition: 0,
            key: Some(Bytes::from(format!("parcels@{}", baseline.version))),
            value: Some(Bytes::from(serde_json::to_vec(baseline).unwrap())),
            headers: vec![],
        }]);
    }

    fn publish(&self, summaries: &[Summary]) {
        let record = |summary: &Summary| Record {
            topic: self.context.topics.summaries.clone(),
            partition: 0,
            key: Some(Bytes::from(summary.partition.to_string())),
            value: Some(Bytes::from(serde_json::to_vec(summary).unwrap())),
            headers: vec![],
        };
        self.write(summaries.iter().map(record).collect());
    }

    fn read(&self, topic: &str) -> Vec<Delivered> {
        let mut reader = self.log.reader().unwrap();
        let bounds = reader.bounds(topic, 0).unwrap();
        let mut records = vec![];
        let mut keep = |record| {
            records.push(record);
            ControlFlow::Continue(())
        };
        reader.read(topic, 0, bounds.low, bounds.end, &mut keep).unwrap();
        records
    }

    fn last_mark(&self) -> Option<u64> {
        self.read(&self.context.topics.status).last().map(mark_of)
    }

    /// Runs a judge until the status of `mark` is visible.
    fn judge_until(&self, mark: u64) {
        let context = Context { stop: Stop::default(), ..self.context.clone() };
        let stop = context.stop.clone();
        let judge = thread::spawn(move || super::run(&context));
        let mut follower = self.log.follow(&self.context.topics.status, &[0]).unwrap();
        let patience = Instant::now() + Duration::from_secs(60);
        let mut reached = None;
        while reached < Some(mark) {
            assert!(Instant::now() < patience, "mark {mark} was not judged: {reached:?} {:?}", self.context.health.all());
            let newest = follower.poll(Duration::from_millis(50)).unwrap().pop();
            reached = newest.map(|record| mark_of(&record)).or(reached);
        }
        stop.ask();
        judge.join().unwrap().unwrap();
    }

    /// What consumers see: alerts, triggers, the last status; without offsets and times of the log.
    fn seen(&self) -> (Vec<Seen>, Vec<Seen>, Option<Bytes>) {
        let bare = |topic: &str| self.read(topic).into_iter().map(|r| (r.key, r.value, r.headers)).collect();
        let status = self.read(&self.context.topics.status).pop().and_then(|record| record.value);
        (bare(&self.context.topics.alerts), bare(&self.context.topics.retraining_triggers), status)
    }
}

fn mark_of(record: &Delivered) -> u64 {
    serde_json::from_slice::<Status>(record.value.as_ref().unwrap()).unwrap().mark
}

type Seen = (Option<Bytes>, Option<Bytes>, Vec<crate::log::Header>);

fn story(partitions: u32) -> Vec<Summary> {
    let mut stream = Stream::new(partitions, Some(1));
    let mut summaries = stream.hours(World::Usual, 24 * 9);
    summaries.extend(stream.hours(World::Slow, 24 * 4));
    summaries.extend(stream.hours(World::Usual, 24 * 9));
    summaries
}

const STORY_MARKS: u64 = 24 * 22;

#[test]
fn a_log_that_is_too_slow_for_large_transactions_gets_small_ones() {
    let [whole, mut run] = [Run::new(), Run::new()];
    let slow = SlowLog::new(&run.log, 20);
    run.context.log = Arc::new(slow.clone());
    for each in [&whole, &run] {
        each.publish_baseline(&baseline(1, 0));
        each.publish(&story(1));
        each.judge_until(STORY_MARKS);
    }
    assert!(slow.ended.load(Ordering::Relaxed) > 0, "nothing was too large");
    assert_eq!(run.seen(), whole.seen());
}

#[test]
fn the_stage_writes_alerts_triggers_and_status() {
    let run = Run::new();
    run.publish_baseline(&baseline(1, 0));
    run.publish(&story(2));
    run.judge_until(STORY_MARKS);
    let (alerts, triggers, status) = run.seen();
    assert_eq!(alerts.len(), 4);
    assert_eq!(triggers.len(), 4, "raised, due, joined, closed");
    let status: Status = serde_json::from_slice(&status.unwrap()).unwrap();
    assert_eq!((status.mark, status.status), (STORY_MARKS, Some(Level::Ok)));
    let trigger: Trigger = serde_json::from_slice(triggers[0].1.as_ref().unwrap()).unwrap();
    assert_eq!(trigger.trigger_type, TriggerType::Performance);
    let event = CloudEvent::from_record(&run.read(&run.context.topics.alerts)[0]).unwrap();
    assert_eq!(event.kind, "tidemark.alert.opened.v1");
    assert_eq!(event.time_ms, alert(&event).at_ms);
    let ids: BTreeSet<String> =
        run.read(&run.context.topics.alerts).iter().map(|record| CloudEvent::from_record(record).unwrap().id).collect();
    assert_eq!(ids.len(), 4, "every event has an id of its own");
}

#[test]
fn a_restart_after_every_few_marks_writes_the_same_bytes() {
    let whole = Run::new();
    whole.publish_baseline(&baseline(1, 0));
    whole.publish(&story(2));
    whole.judge_until(STORY_MARKS);

    let pieces = Run::new();
    pieces.publish_baseline(&baseline(1, 0));
    for piece in story(2).chunks(2 * 24) {
        pieces.publish(piece);
        pieces.judge_until(piece.last().unwrap().mark.number);
    }
    assert_eq!(pieces.seen(), whole.seen());
}

#[test]
fn every_fault_of_a_transaction_leaves_the_same_bytes() {
    let whole = Run::new();
    whole.publish_baseline(&baseline(1, 0));
    whole.publish(&story(2));
    whole.judge_until(STORY_MARKS);
    for fault in [Fault::Abort, Fault::UnknownVisible, Fault::UnknownLost, Fault::Torn { visible: 1 }, Fault::Hang] {
        let run = Run::new();
        run.publish_baseline(&baseline(1, 0));
        for after in 0..5 {
            run.log.inject("tidemark.judge.i", after, fault);
        }
        run.publish(&story(2));
        run.judge_until(STORY_MARKS);
        assert_eq!(run.seen(), whole.seen(), "{fault:?}");
    }
}

#[test]
fn the_order_in_which_partitions_arrive_does_not_matter() {
    let whole = Run::new();
    whole.publish_baseline(&baseline(1, 0));
    whole.publish(&story(2));
    whole.judge_until(STORY_MARKS);

    let run = Run::new();
    run.publish_baseline(&baseline(1, 0));
    let (first, second): (Vec<Summary>, Vec<Summary>) = story(2).into_iter().partition(|summary| summary.partition == 1);
    run.publish(&first);
    run.publish(&second);
    run.judge_until(STORY_MARKS);
    assert_eq!(run.seen(), whole.seen());
}

#[test]
fn a_mark_waits_for_the_baseline_that_it_names() {
    let run = Run::new();
    run.publish(&Stream::new(1, Some(1)).hours(World::Usual, 30));
    let context = Context { stop: Stop::default(), ..run.context.clone() };
    let stop = context.stop.clone();
    let judge = thread::spawn(move || super::run(&context));
    let waits = |run: &Run| matches!(run.context.health.all().get("judge"), Some(crate::stage::State::Waiting(what)) if what.contains("waiting for baseline parcels@1"));
    let patience = Instant::now() + Duration::from_secs(10);
    while !waits(&run) {
        assert!(Instant::now() < patience, "{:?}", run.context.health.all());
        thread::yield_now();
    }
    assert_eq!(run.last_mark(), None);
    run.publish_baseline(&baseline(1, 0));
    let mut follower = run.log.follow(&run.context.topics.status, &[0]).unwrap();
    while run.last_mark() < Some(30) {
        assert!(Instant::now() < patience + Duration::from_secs(10));
        follower.poll(Duration::from_millis(50)).unwrap();
    }
    stop.ask();
    judge.join().unwrap().unwrap();
}

#[test]
fn a_partition_far_ahead_is_read_again_and_not_lost() {
    let marks = 24 * 70;
    let run = Run::new();
    run.publish_baseline(&baseline(1, 0));
    let mut stream = Stream::new(2, Some(1));
    let summaries = stream.hours(World::Usual, marks);
    let (first, second): (Vec<Summary>, Vec<Summary>) = summaries.into_iter().partition(|summary| summary.partition == 1);
    assert!(first.len() > 1_500, "far more than a partition may be ahead");
    run.publish(&first);
    run.publish(&second);
    run.judge_until(marks as u64);
    let status: Status = serde_json::from_slice(&run.seen().2.unwrap()).unwrap();
    assert_eq!(status.windows[0].rows, 16 * 40);
    assert_eq!(i64::from(status.windows[2].days) * DAY_MS, 7 * DAY_MS);
}
