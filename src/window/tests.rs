use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::baseline::{Baseline, Bins, Column, ErrorBaseline, RECORDED, TargetColumn};
use crate::clock::DAY_MS;
use crate::spec::{self, Spec};
use crate::summary::ErrorSums;
use crate::ticket::{FieldValue, TicketId};

pub(crate) fn spec() -> Spec {
    Spec::from_toml(include_str!("../../config/execution-tickets.toml")).unwrap()
}

/// A baseline whose bins are made up: 24 hours, the tables' numbers, three edges for the other numbers.
pub(crate) fn baseline(spec: &Spec, version: u64, to_ms: i64) -> Baseline {
    let shift = version as f64;
    let columns = spec.features.iter().map(|feature| {
        let learned: Vec<f64> =
            if feature.encoder.is_learned() { (0..feature.table.len()).map(|i| 100.0 * i as f64 + shift).collect() } else { vec![] };
        let mut values: Vec<f64> = match feature.encoder {
            spec::Encoder::Table => feature.table.iter().map(|entry| entry.value).collect(),
            spec::Encoder::Hour => (0..24).map(f64::from).collect(),
            _ => learned.clone(),
        };
        values.sort_by(f64::total_cmp);
        values.dedup();
        let bins = if values.is_empty() { Bins::Edges(vec![1.0 + shift, 1_000.0, 1_000_000.0]) } else { Bins::Values(values) };
        Column {
            name: feature.name.clone(),
            counts: vec![1; bins.len() + 3],
            bins,
            learned,
            mean: 0.0,
            std: 1.0,
            min: 0.0,
            max: 1.0,
            sample: vec![],
        }
    });
    let errors = ErrorBaseline { mae: 50_000.0, days: 59.0, sums: ErrorSums::default() };
    Baseline {
        spec: spec.name.clone(),
        fingerprint: spec.fingerprint(),
        model: spec.model.clone(),
        version,
        created_at_ms: 0,
        from_ms: 0,
        to_ms,
        rows: 1_000,
        columns: columns.collect(),
        target: TargetColumn {
            edges: (1..1024).map(|k| f64::from(k) * 10_000.0 * (1.0 + shift / 100.0)).collect(),
            counts: vec![1; 1024],
            mean: 0.0,
            std: 1.0,
            p50: 0.0,
            p95: 0.0,
            p99: 0.0,
            sample: vec![],
        },
        errors: BTreeMap::from([(RECORDED.to_owned(), errors)]),
        log_offset: 500.0 + shift,
        scored_by: None,
        answers: None,
        clusters: None,
        anchor: None,
        provisional: false,
        noise: vec![],
    }
}

pub(crate) fn counting(spec: &Spec, encoder: &Encoder, baseline: &Baseline) -> Arc<Counting> {
    let names: Vec<&str> = spec.features.iter().map(|feature| feature.name.as_str()).collect();
    Arc::new(Counting::new(encoder, &names, &spec.fingerprint(), baseline).unwrap())
}

pub(crate) const SHAPE: Shape = Shape { slice_ms: HOUR_MS, longest_ms: 7 * DAY_MS };

/// A ticket whose fields are functions of `seed`, some missing, unseen or not finite.
pub(crate) fn ticket(spec: &Spec, seed: u64, completed_at_ms: i64) -> Ticket {
    let pick = |salt: u64, n: u64| (seed ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23) % n;
    let fields = spec.fields.iter().zip(0..).map(|(field, at)| match (field.kind, pick(at, 9)) {
        (_, 0) => FieldValue::Missing,
        (spec::FieldKind::Text, n) => FieldValue::Text(
            ["build", "DEPLOY", "low", "critical", "at_least_once", "strong", "persistent", "Who knows"][usize::try_from(n).unwrap() - 1]
                .to_owned(),
        ),
        (spec::FieldKind::Time, _) => FieldValue::Number((completed_at_ms - 60_000) as f64),
        (_, 1) => FieldValue::Number(f64::NAN),
        (_, 2) => FieldValue::Number(f64::INFINITY),
        (_, n) => FieldValue::Number((n * n * n * pick(at + 77, 900)) as f64 / 2.0),
    });
    Ticket {
        id: TicketId::from_text(&format!("t{seed}")),
        completed_at_ms,
        event_at_ms: completed_at_ms,
        commit: None,
        transition: Transition::Replay,
        actual: 1_000.0 + pick(3, 5_000_000) as f64 / 3.0,
        predicted: (pick(4, 5) > 0).then(|| 900.0 + pick(5, 5_000_000) as f64 / 7.0),
        model_version: None,
        fields: fields.collect(),
    }
}

struct Given {
    spec: Spec,
    encoder: Arc<Encoder>,
}

fn given() -> Given {
    let spec = spec();
    let encoder = Arc::new(Encoder::new(&spec).unwrap());
    Given { spec, encoder }
}

impl Given {
    fn counting(&self, version: u64, to_ms: i64) -> Arc<Counting> {
        counting(&self.spec, &self.encoder, &baseline(&self.spec, version, to_ms))
    }
    fn window(&self, counting: Option<Arc<Counting>>) -> Window {
        Window::new(Arc::clone(&self.encoder), SHAPE, counting)
    }
    fn ticket(&self, seed: u64, at_ms: i64) -> Ticket {
        ticket(&self.spec, seed, at_ms)
    }
}

const T0: i64 = 400_000 * HOUR_MS;

fn mark(number: u64, end_ms: i64) -> Mark {
    Mark { number, end_ms, partitions: 1, baseline: None }
}

fn counts(window: &Window) -> Vec<Slice> {
    window.counts().cloned().collect()
}

fn merged(windows: &[Window]) -> BTreeMap<i64, Slice> {
    let mut merged: BTreeMap<i64, Slice> = BTreeMap::new();
    for slice in windows.iter().flat_map(Window::counts) {
        merged.entry(slice.start_ms).or_insert_with(|| Slice { start_ms: slice.start_ms, ..Slice::default() }).add(slice);
    }
    merged
}

#[test]
fn a_ticket_is_counted_once_in_every_column() {
    let given = given();
    let mut window = given.window(Some(given.counting(1, 0)));
    for seed in 0..500 {
        assert_eq!(window.push(&given.ticket(seed, T0 + 5)), Pushed::New { late: false, opened: seed == 0, scored: None });
    }
    let slice = &counts(&window)[0];
    assert_eq!(slice.rows, 500);
    for (column, feature) in slice.columns.iter().zip(&given.spec.features) {
        assert_eq!(column.iter().sum::<u64>(), 500, "{}", feature.name);
    }
    assert_eq!(slice.target.iter().sum::<u64>(), 500);
    let predicted = (0..500).filter(|seed| given.ticket(*seed, T0).predicted.is_some()).count() as u64;
    assert_eq!(slice.series[RECORDED].rows, predicted);
    for (errors, feature) in slice.error_by.iter().zip(&given.spec.features) {
        let sum: i128 = errors.iter().sum();
        assert!(errors.is_empty() || sum == slice.series[RECORDED].abs_us, "{}", feature.name);
    }
}

#[test]
fn a_repeat_is_counted_and_not_used_twice() {
    let given = given();
    let mut window = given.window(Some(given.counting(1, 0)));
    let ticket = given.ticket(1, T0);
    window.push(&ticket);
    let before = counts(&window);
    assert_eq!(window.push(&ticket), Pushed::Repeat);
    let after = counts(&window);
    assert_eq!(after[0].repeats, 1);
    assert_eq!(Slice { repeats: 0, ..after[0].clone() }, before[0]);
    assert_eq!(window.rows(), 1);
    // The same id with another completion is another completion.
    assert!(matches!(window.push(&given.ticket(1, T0 + 1)), Pushed::New { .. }));
}

#[test]
fn an_assumed_completion_folds_into_an_earlier_one_of_another_slice() {
    let given = given();
    let mut window = given.window(None);
    let mut first = given.ticket(1, T0 + HOUR_MS + 10);
    first.event_at_ms = T0 + HOUR_MS - 10; // held back to its commit
    window.push(&first);
    let mut again = first.clone();
    again.event_at_ms = again.completed_at_ms;
    again.transition = Transition::Assumed;
    assert_eq!(window.push(&again), Pushed::Repeat);
    again.transition = Transition::Update;
    assert!(matches!(window.push(&again), Pushed::New { .. }));
}

#[test]
fn a_late_ticket_joins_its_slice_while_a_window_has_it() {
    let given = given();
    let mut window = given.window(Some(given.counting(1, 0)));
    window.push(&given.ticket(1, T0));
    window.mark(&mark(1, T0 + HOUR_MS));
    assert_eq!(window.changed().len(), 1);
    assert_eq!(window.push(&given.ticket(2, T0 + 1)), Pushed::New { late: true, opened: false, scored: None });
    window.mark(&mark(2, T0 + 2 * HOUR_MS));
    let changed = window.changed();
    assert_eq!((changed.len(), changed[0].rows, changed[0].late), (1, 2, 1));
    window.mark(&mark(3, T0 + SHAPE.longest_ms + HOUR_MS));
    assert_eq!(window.counts().count(), 0);
    assert_eq!(window.push(&given.ticket(3, T0 + 2)), Pushed::Outside);
    assert_eq!(window.rows(), 0);
}

#[test]
fn a_slice_is_published_when_it_has_ended_and_again_only_when_it_changes() {
    let given = given();
    let mut window = given.window(None);
    window.push(&given.ticket(1, T0));
    window.push(&given.ticket(2, T0 + HOUR_MS));
    assert!(window.changed().is_empty());
    window.mark(&mark(1, T0 + HOUR_MS));
    assert_eq!(window.changed().iter().map(|slice| slice.start_ms).collect::<Vec<_>>(), [T0]);
    assert!(window.changed().is_empty());
    window.mark(&mark(2, T0 + 2 * HOUR_MS));
    assert_eq!(window.changed().iter().map(|slice| slice.start_ms).collect::<Vec<_>>(), [T0 + HOUR_MS]);
    window.touch();
    assert_eq!(window.changed().len(), 2);
}

#[test]
fn what_lies_before_the_floor_mark_of_a_history_is_in_no_window() {
    let given = given();
    let mut window = given.window(None);
    window.mark(&mark(0, T0));
    assert_eq!(window.push(&given.ticket(1, T0 - 1)), Pushed::Outside);
    assert!(matches!(window.push(&given.ticket(1, T0)), Pushed::New { late: false, .. }));
}

#[test]
fn a_recount_uses_only_tickets_completed_after_the_baselines_data_ended() {
    let given = given();
    let mut window = given.window(Some(given.counting(1, 0)));
    for seed in 0..3_000 {
        window.push(&given.ticket(seed, T0 + seed.cast_signed()));
    }
    window.recount(Some(given.counting(2, T0 + 2_000))).unwrap();
    assert_eq!(counts(&window)[0].rows, 1_000);
    let mut fresh = given.window(Some(given.counting(2, T0 + 2_000)));
    for seed in 0..3_000 {
        fresh.push(&given.ticket(seed, T0 + seed.cast_signed()));
    }
    assert_eq!(counts(&window), counts(&fresh));
    window.recount(None).unwrap();
    assert_eq!(counts(&window)[0], Slice { start_ms: T0, rows: 3_000, ..Slice::default() });
}

#[test]
fn dropped_rows_keep_their_counts_and_refuse_a_recount() {
    let given = given();
    let mut window = given.window(Some(given.counting(1, 0)));
    for seed in 0..10 {
        window.push(&given.ticket(seed, T0));
        window.push(&given.ticket(seed, T0 + HOUR_MS));
    }
    let before = counts(&window);
    assert_eq!(window.oldest_rows(), Some(T0));
    window.drop_rows(T0);
    assert_eq!((window.rows(), window.oldest_rows()), (10, Some(T0 + HOUR_MS)));
    assert_eq!(window.push(&given.ticket(3, T0)), Pushed::Repeat, "identities outlive rows");
    assert_eq!(window.recount(None), Err(RowsDropped));
    assert_eq!(window.version(), Some(1));
    assert_eq!(counts(&window)[1], before[1]);
    assert_eq!(counts(&window)[0].columns, before[0].columns);
}

#[test]
fn rows_become_a_frame_of_typed_columns() {
    let given = given();
    let mut window = given.window(None);
    for seed in 0..2_500 {
        window.push(&given.ticket(seed, T0));
    }
    let missing = (0..2_500)
        .filter(|seed| matches!(given.ticket(*seed, T0).fields[given.spec.field("retry_count").unwrap()], FieldValue::Missing))
        .count();
    let frame = window.frame(T0).unwrap();
    assert_eq!(frame.height(), 2_500);
    assert_eq!(frame.column("field.retry_count").unwrap().null_count(), missing);
    assert_eq!(frame.column("field.task_type").unwrap().dtype(), &polars::prelude::DataType::UInt8);
    assert_eq!(frame.column(COMPLETED_AT).unwrap().null_count(), 0);
}

#[test]
fn scattered_times_cannot_take_all_memory() {
    let given = given();
    let mut window = given.window(None);
    window.push(&given.ticket(0, T0));
    window.mark(&mark(1, T0 + HOUR_MS));
    for seed in 1..5_000 {
        window.push(&given.ticket(seed, T0 + seed.cast_signed() * 30 * HOUR_MS));
    }
    assert!(window.counts().count() <= SHAPE.bound());
    assert_eq!(window.counts().next().unwrap().start_ms, T0, "the present outlives the far future");
}

#[test]
fn another_specs_baseline_is_refused_by_name() {
    let given = given();
    let names: Vec<&str> = given.spec.features.iter().map(|feature| feature.name.as_str()).collect();
    let made = |baseline: &Baseline| Counting::new(&given.encoder, &names, &given.spec.fingerprint(), baseline);
    let mut other = baseline(&given.spec, 3, 0);
    other.fingerprint = "0".repeat(16);
    assert!(matches!(made(&other), Err(CountingError::OtherSpec { version: 3, .. })));
    let mut other = baseline(&given.spec, 3, 0);
    other.columns.pop();
    assert!(matches!(made(&other), Err(CountingError::OtherColumns { .. })));
}

fn arrivals() -> impl Strategy<Value = Vec<(u64, i64)>> {
    prop::collection::vec((0u64..400, 0i64..48 * 60), 1..300)
        .prop_map(|pairs| pairs.into_iter().map(|(seed, minute)| (seed, T0 + minute * 60_000)).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn counts_are_additive_over_any_partitioning(arrivals in arrivals(), partitions in 1usize..8) {
        let given = given();
        let counting = given.counting(1, T0 + 60_000_000);
        let mut one = vec![given.window(Some(Arc::clone(&counting)))];
        let mut many: Vec<Window> = (0..partitions).map(|_| given.window(Some(Arc::clone(&counting)))).collect();
        for (seed, at) in arrivals {
            one[0].push(&given.ticket(seed, at));
            many[usize::try_from(seed).unwrap() % partitions].push(&given.ticket(seed, at)); // an id always falls into one partition
        }
        prop_assert_eq!(merged(&one), merged(&many));
    }

    #[test]
    fn counts_do_not_depend_on_the_order_within_a_slice(arrivals in arrivals(), by in 0usize..300) {
        let given = given();
        let counting = given.counting(1, 0);
        let (mut forth, mut back) = (given.window(Some(Arc::clone(&counting))), given.window(Some(counting)));
        let mut turned = arrivals.clone();
        turned.rotate_left(by % arrivals.len());
        turned.reverse();
        for (seed, at) in arrivals {
            forth.push(&given.ticket(seed, at));
        }
        for (seed, at) in turned {
            back.push(&given.ticket(seed, at));
        }
        prop_assert_eq!(counts(&forth), counts(&back));
    }

    #[test]
    fn eviction_equals_a_recount_from_scratch(arrivals in arrivals(), ends in 1i64..48) {
        let given = given();
        let shape = Shape { longest_ms: 12 * HOUR_MS, ..SHAPE };
        let counting = given.counting(1, 0);
        let mut ring = Window::new(Arc::clone(&given.encoder), shape, Some(Arc::clone(&counting)));
        let mut sorted = arrivals;
        sorted.sort_by_key(|(_, at)| *at);
        let mut total = Slice::default();
        let mut published: BTreeMap<i64, Slice> = BTreeMap::new();
        let mut next = 0;
        for number in 1..=ends {
            let end_ms = T0 + number * HOUR_MS;
            while next < sorted.len() && sorted[next].1 < end_ms {
                ring.push(&given.ticket(sorted[next].0, sorted[next].1));
                next += 1;
            }
            ring.mark(&mark(number.cast_unsigned(), end_ms));
            for slice in ring.changed() {
                total.add(&slice);
                published.insert(slice.start_ms, slice);
            }
            while let Some(entry) = published.first_entry() && *entry.key() < end_ms - shape.longest_ms {
                total.subtract(&entry.remove());
            }
        }
        let mut fresh = given.window(Some(counting));
        for (seed, at) in sorted[..next].iter().filter(|(_, at)| *at >= T0 + ends * HOUR_MS - shape.longest_ms) {
            fresh.push(&given.ticket(*seed, *at));
        }
        let mut expected = Slice::default();
        fresh.counts().for_each(|slice| expected.add(slice));
        prop_assert_eq!((total.rows, total.series.get(RECORDED)), (expected.rows, expected.series.get(RECORDED)));
        if expected.rows > 0 {
            prop_assert_eq!((total.columns, total.target, total.error_by), (expected.columns, expected.target, expected.error_by));
        }
        let held: usize = ring.counts().map(|slice| usize::try_from(slice.rows).unwrap()).sum();
        prop_assert_eq!(ring.rows(), held);
    }
}
