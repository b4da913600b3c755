use crate::baseline::document::DocumentError;
use crate::ticket::{FieldValue, TicketId, Transition};

use super::*;

pub(super) const MONDAY: i64 = 15_700 * DAY_MS;

pub(super) fn spec() -> Spec {
    Spec::from_toml(include_str!("../../../config/execution-tickets.toml")).unwrap()
}

pub(super) fn ticket(spec: &Spec, minute: i64, actual: f64, fields: &[(&str, FieldValue)]) -> Ticket {
    let mut all = vec![FieldValue::Missing; spec.fields.len()];
    for (name, value) in fields {
        all[spec.field(name).unwrap()] = value.clone();
    }
    let completed_at_ms = MONDAY + minute * 60_000;
    Ticket {
        id: TicketId::from_text(&minute.to_string()),
        completed_at_ms,
        event_at_ms: completed_at_ms,
        commit: None,
        transition: Transition::Replay,
        actual,
        predicted: Some(1_000.0),
        model_version: None,
        fields: all,
    }
}

pub(super) fn text(text: &str) -> FieldValue {
    FieldValue::Text(text.to_owned())
}

/// Two weeks, a ticket every ten minutes.
fn two_weeks(spec: &Spec) -> Builder {
    let mut builder = Builder::new(spec, MONDAY, MONDAY + 14 * DAY_MS).unwrap();
    for i in 0..14 * 144 {
        let task = ["build", "DEPLOY", "Test"][usize::try_from(i % 3).unwrap()];
        let fields = [
            ("task_type", text(task)),
            ("retry_count", FieldValue::Number((i % 2) as f64)),
            ("parameters_size", FieldValue::Number((i % 50) as f64)),
        ];
        builder.push(&ticket(spec, i * 10, 1_000.0 + (i * i % 977) as f64, &fields));
    }
    builder
}

pub(super) fn making() -> Making<'static> {
    Making { version: 3, created_at_ms: 1_700_000_000_000, window_days: &[1, 3, 7], predecessor: None }
}

fn column<'a>(baseline: &'a Baseline, name: &str) -> &'a Column {
    baseline.columns.iter().find(|column| column.name == name).unwrap()
}

#[test]
fn names_are_matched_in_either_case_and_categories_without_tickets_take_the_default() {
    let spec = spec();
    let mut builder = two_weeks(&spec);
    let failed = ticket(&spec, 5, 2_000.0, &[("task_type", text("BUILD"))]);
    (0..672).for_each(|_| builder.push_other(&failed));
    let baseline = builder.build(&making()).unwrap();
    let success = &column(&baseline, "success_rate_by_task").learned;
    assert_eq!(success[..4], [0.5, 1.0, 1.0, 0.95]);
    let mean = &column(&baseline, "avg_duration_by_task").learned;
    assert!(mean[0] > 1_000.0 && mean[0] < 2_000.0 && mean[3].to_bits() == 60_000.0_f64.to_bits());
    assert_eq!(column(&baseline, "task_type_encoded").counts[..3], [672, 672, 672]);
    assert_eq!(column(&baseline, "avg_duration_by_task").counts, [672, 672, 672, 0, 0, 0]);
    assert_eq!(column(&baseline, "risk_weight").counts, [0, 0, 0, 0, 2_016, 0, 0], "an absent field is missing, not its default");
}

#[test]
fn few_values_have_a_bin_each_and_many_have_deciles() {
    let baseline = two_weeks(&spec()).build(&making()).unwrap();
    assert_eq!(column(&baseline, "retry_count").bins, Bins::Values(vec![0.0, 1.0]));
    assert!(matches!(&column(&baseline, "parameters_size").bins, Bins::Edges(edges) if edges.len() == 9));
    assert_eq!(baseline.target.counts.iter().sum::<u64>(), 2_016);
}

#[test]
fn a_document_goes_there_and_back() {
    let baseline = two_weeks(&spec()).build(&making()).unwrap();
    let document = baseline.to_document();
    assert_eq!(document.get_str("_id").unwrap(), "execution-tickets@3");
    assert_eq!(document.get_i64("sample_count").unwrap(), 2_016);
    let retry = document.get_document("features").unwrap().get_document("retry_count").unwrap();
    assert_eq!(retry.get_f64("mean").unwrap().to_bits(), 0.5_f64.to_bits());
    assert_eq!(retry.get_array("values").unwrap().len(), 1_000);
    assert!(document.get_document("target_distribution").unwrap().get_document("percentiles").unwrap().get_f64("p95").is_ok());
    assert_eq!(Baseline::from_document(&document).unwrap(), baseline);
}

#[test]
fn a_baseline_goes_through_json_bit_by_bit() {
    let baseline = two_weeks(&spec()).build(&making()).unwrap();
    let json = serde_json::to_vec(&baseline).unwrap();
    assert!(json.len() < MAX_BYTES / 4, "{}", json.len());
    assert_eq!(serde_json::from_slice::<Baseline>(&json).unwrap(), baseline);
}

#[test]
fn a_document_of_somebody_else_is_refused() {
    let foreign = bson::doc! { "_id": "x", "model_name": "y", "features": {} };
    assert!(matches!(Baseline::from_document(&foreign), Err(DocumentError::Foreign { .. })));
}

#[test]
fn a_baseline_of_no_use_is_refused_and_says_why() {
    let spec = spec();
    let new = || Builder::new(&spec, MONDAY, MONDAY + 14 * DAY_MS).unwrap();
    assert!(matches!(Builder::new(&spec, MONDAY, MONDAY - 1), Err(Refused::Interval { .. })));
    assert_eq!(new().build(&making()), Err(Refused::Empty { others: 0 }));

    let mut few = new();
    (0..99).for_each(|i| few.push(&ticket(&spec, i, i as f64 + 1.0, &[("retry_count", FieldValue::Number(0.0))])));
    few.push(&ticket(&spec, 14 * 1_440, 5.0, &[]));
    assert_eq!(few.build(&making()), Err(Refused::TooFew { rows: 99 }), "the end is exclusive");

    let mut constant = new();
    (0..100).for_each(|i| constant.push(&ticket(&spec, i, 7.0, &[("retry_count", FieldValue::Number(0.0))])));
    assert_eq!(constant.build(&making()), Err(Refused::ConstantTarget { target: "duration_ms".to_owned(), value: 7.0, rows: 100 }));

    let mut blind = new();
    (0..100).for_each(|i| blind.push(&ticket(&spec, i, i as f64 + 1.0, &[("retry_count", FieldValue::Number(f64::NAN))])));
    assert_eq!(blind.build(&making()), Err(Refused::NoFiniteColumn { rows: 100 }));
}

#[test]
fn noise_is_learned_where_there_are_windows_and_inherited_where_there_are_not() {
    let spec = spec();
    let long = two_weeks(&spec).build(&making()).unwrap();
    let windows: Vec<(u32, u32)> = long.noise.iter().map(|noise| (noise.days, noise.windows)).collect();
    assert_eq!(windows, [(1, 14), (3, 4), (7, 2)]);
    assert!(long.noise.iter().all(|noise| noise.phi.values().all(|phi| *phi >= 1.0)));
    assert!(long.noise.iter().all(|noise| noise.log_mae_std["recorded"] > 0.0));

    let mut short = Builder::new(&spec, MONDAY, MONDAY + 7 * DAY_MS).unwrap();
    (0..7 * 144).for_each(|i| short.push(&ticket(&spec, i * 10, 1_000.0 + (i % 7) as f64, &[("retry_count", FieldValue::Number(0.0))])));
    let short = short.build(&Making { predecessor: Some(&long), ..making() }).unwrap();
    let windows: Vec<(u32, u32)> = short.noise.iter().map(|noise| (noise.days, noise.windows)).collect();
    assert_eq!(windows, [(1, 7), (3, 4), (7, 2)], "a week knows its days, not its weeks");
    assert_eq!(short.noise[2], long.noise[2]);
}

/// Clustered tickets: every day has one value only, so that a day's window is far from the rest.
#[test]
fn days_that_hang_together_raise_the_design_effect() {
    let spec = spec();
    let mut builder = Builder::new(&spec, MONDAY, MONDAY + 14 * DAY_MS).unwrap();
    for i in 0..14 * 144 {
        let of_day = (i / 144 % 2) as f64;
        builder.push(&ticket(&spec, i * 10, 1_000.0 + (i % 17) as f64, &[("retry_count", FieldValue::Number(of_day))]));
    }
    let baseline = builder.build(&making()).unwrap();
    assert!(baseline.noise[0].phi["retry_count"] > 50.0, "{:?}", baseline.noise[0].phi);
    assert!(baseline.noise[0].phi["target"] < 2.0);
}

#[test]
fn a_baseline_without_error_has_no_offset_and_still_builds() {
    let spec = spec();
    let mut builder = Builder::new(&spec, MONDAY, MONDAY + 14 * DAY_MS).unwrap();
    for i in 0..200 {
        let mut exact = ticket(&spec, i, 1_000.0 + i as f64, &[("retry_count", FieldValue::Number(0.0))]);
        exact.predicted = Some(exact.actual);
        builder.push(&exact);
    }
    let baseline = builder.build(&making()).unwrap();
    assert_eq!((baseline.errors["recorded"].mae.to_bits(), baseline.log_offset.to_bits()), (0, 0));
}
