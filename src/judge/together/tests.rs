//! Two features change partners, and neither moves by itself: tickets through counting, summaries and the judge's core.

use std::sync::Arc;

use crate::alert::{Alert, Change, EpisodeAlert, Level};
use crate::baseline::builder::{Builder, Making};
use crate::baseline::{Baseline, Clusters};
use crate::clock::{DAY_MS, HOUR_MS};
use crate::config::{Config, Decision};
use crate::drift::look;
use crate::drift::look::CLUSTERS;
use crate::features::{Encoder, Row};
use crate::judge::core::{Core, Verdict};
use crate::judge::queue::Queue;
use crate::spec::Spec;
use crate::summary::{Slice, Summary};
use crate::ticket::{FieldValue, Mark};
use crate::window::{Counting, Outcome};

const AN_HOUR: i64 = 30;
const BASELINE_DAYS: i64 = 42;
const DAYS: i64 = 16;
/// Day after the baseline on which the partners change.
const CHANGE: i64 = 8;

fn spec() -> Spec {
    Spec::from_toml(include_str!("../../../config/execution-tickets.toml")).unwrap()
}

/// Numbers that look drawn: a function of what is asked for.
fn share(of: i64, salt: i64) -> f64 {
    let mut x = (of * 64 + salt).cast_unsigned().wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x ^ (x >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

/// The fields of a ticket: larger parameters have a longer time allowed, or, changed, a shorter one.
fn fields(spec: &Spec, number: i64, is_changed: bool) -> Vec<FieldValue> {
    let mut fields = vec![FieldValue::Missing; spec.fields.len()];
    let mut set = |name: &str, value: FieldValue| fields[spec.field(name).unwrap()] = value;
    let size = share(number, 1);
    let partner = if is_changed { 1.0 - size } else { size };
    let tasks = ["BUILD", "DEPLOY", "TEST", "EXECUTE"];
    set("task_type", FieldValue::Text(tasks[usize::try_from(number % 4).unwrap()].to_owned()));
    set("retry_count", FieldValue::Number((share(number, 2) * 3.0).floor()));
    set("parameters_size", FieldValue::Number((size * 4_000.0).floor()));
    set("sla_timeout_ms", FieldValue::Number((600_000.0 * (0.9 * partner + 0.1 * share(number, 3))).floor()));
    set("created_at", FieldValue::Number((number / AN_HOUR * HOUR_MS) as f64));
    fields
}

fn outcome(number: i64) -> Outcome {
    let actual = 30_000.0 + 60_000.0 * share(number, 4);
    let completed_at_ms = number / AN_HOUR * HOUR_MS + 60_000;
    Outcome { completed_at_ms, actual, predicted: Some(60_000.0), predicted_by: 0, late: false }
}

fn row(spec: &Spec, encoder: &Encoder, number: i64, is_changed: bool) -> Row {
    let mut row = Row::default();
    encoder.encode(&fields(spec, number, is_changed), &mut row);
    row
}

fn baseline(spec: &Spec) -> Baseline {
    let encoder = Encoder::new(spec).unwrap();
    let mut builder = Builder::new(spec, 0, BASELINE_DAYS * DAY_MS).unwrap();
    for number in 0..BASELINE_DAYS * 24 * AN_HOUR {
        let outcome = outcome(number);
        builder.push_row(&row(spec, &encoder, number, false), outcome.completed_at_ms, outcome.actual, outcome.predicted);
    }
    builder.build(&Making { version: 1, created_at_ms: 0, window_days: &[1, 3, 7], predecessor: None }).unwrap()
}

/// The slices that follow the baseline, an hour each.
fn slices(spec: &Spec, baseline: &Baseline) -> Vec<Slice> {
    let encoder = Encoder::new(spec).unwrap();
    let names: Vec<&str> = spec.features.iter().map(|feature| feature.name.as_str()).collect();
    let counting = Counting::new(&encoder, &names, &spec.fingerprint(), baseline).unwrap();
    let of_hour = |hour: i64| {
        let mut slice = Slice { start_ms: hour * HOUR_MS, ..Slice::default() };
        for number in hour * AN_HOUR..(hour + 1) * AN_HOUR {
            let is_changed = hour >= (BASELINE_DAYS + CHANGE) * 24;
            counting.add(&encoder, &row(spec, &encoder, number, is_changed), outcome(number), &mut slice);
        }
        slice
    };
    (BASELINE_DAYS * 24..(BASELINE_DAYS + DAYS) * 24).map(of_hour).collect()
}

fn verdicts(spec: &Spec, baseline: &Baseline, slices: &[Slice], decision: Decision) -> Vec<Verdict> {
    let mut config = Config::default();
    config.judge.decision = decision;
    let mut core = Core::new(Arc::new(spec.clone()), config.judge, &config.window, None);
    let mut queue = Queue::default();
    let mut verdicts = Vec::new();
    for (slice, number) in slices.iter().zip(1..) {
        let end_ms = slice.start_ms + HOUR_MS;
        queue.offer(Summary {
            spec: spec.name.clone(),
            fingerprint: spec.fingerprint(),
            version: Some(1),
            partition: 0,
            sequence: number,
            mark: Mark { number, end_ms, partitions: 1, baseline: Some(1) },
            slices: vec![slice.clone()],
            controls: vec![],
            incomplete: false,
            more: false,
        });
        while let Some(step) = queue.next() {
            verdicts.extend(core.advance(&step, Some(baseline)));
        }
    }
    verdicts
}

fn alerts(verdicts: &[Verdict]) -> Vec<EpisodeAlert> {
    let events = verdicts.iter().flat_map(|verdict| &verdict.alerts);
    let alert = |event: &crate::cloudevent::CloudEvent| match serde_json::from_slice(&event.data).unwrap() {
        Alert::Episode(alert) => *alert,
        other => panic!("{other:?}"),
    };
    events.map(|(_, event)| alert(event)).collect()
}

#[test]
fn a_change_of_correlation_that_no_feature_shows_is_an_episode_that_names_the_features() {
    let spec = spec();
    let baseline = baseline(&spec);
    let slices = slices(&spec, &baseline);
    let verdicts = verdicts(&spec, &baseline, &slices, Decision::Calibrated);
    let window = &verdicts.last().unwrap().status.windows[2];
    assert_eq!((window.days, window.psi.len()), (7, 15));
    assert!(window.psi.values().all(|psi| *psi < 0.1), "no single feature shows it: {:?}", window.psi);

    let alerts = alerts(&verdicts);
    let told: Vec<(&str, Change, Level)> = alerts.iter().map(|alert| (alert.cause.as_str(), alert.change, alert.level)).collect();
    // The window fills with changed tickets: the warning comes first.
    assert_eq!(told, [(CLUSTERS, Change::Opened, Level::Warning), (CLUSTERS, Change::Escalated, Level::Critical)]);
    let alert = &alerts[1];
    assert_eq!(alert.status, Level::Warning, "one cause of the inputs alone is a warning over all");
    assert!(alert.evidence[0].effect.unwrap() > 0.25 && alert.evidence[0].calibrated_p.unwrap() < 1e-4, "{:?}", alert.evidence);
    assert_eq!(alert.onset_ms, Some((BASELINE_DAYS + CHANGE) * DAY_MS), "found to the hour");
    let mut features: Vec<&str> = alert.features.iter().take(2).map(|moved| moved.feature.as_str()).collect();
    features.sort_unstable();
    assert_eq!(features, ["parameters_size", "sla_timeout_ms"], "{:?}", alert.features);
    assert!(alert.features.iter().all(|moved| moved.psi.unwrap() < 0.1));
    assert!(alert.summary.contains("clusters drifts further: PSI 0.") && alert.summary.contains("taken together"), "{}", alert.summary);
    assert!(alert.recommendations[0].contains("go together in another way"), "{:?}", alert.recommendations);
    assert!(alert.recommendations.iter().any(|deed| deed.contains("rose from")), "{:?}", alert.recommendations);
    assert_eq!(alert.distributions[0].now.iter().sum::<u64>(), alert.evidence[0].rows);
    assert!(!alert.carriers.is_empty() && alert.carriers.iter().all(|carrier| carrier.mean_abs_error_now.is_some()));
    let after = &verdicts.last().unwrap().status;
    assert!(after.columns_over.is_empty(), "clusters are a cause, and no column");
}

#[test]
fn a_quiet_stream_stays_quiet_and_its_clusters_are_calibrated() {
    let spec = spec();
    let baseline = baseline(&spec);
    let all = slices(&spec, &baseline);
    let quiet = verdicts(&spec, &baseline, &all[..usize::try_from(CHANGE * 24).unwrap()], Decision::Calibrated);
    assert!(alerts(&quiet).is_empty());
    let status = &quiet.last().unwrap().status;
    let evidence = &status.causes[CLUSTERS].evidence;
    assert_eq!((evidence.len(), evidence[0].days, evidence[0].decides), (1, 7, true), "a cause like a feature's");
    assert!(evidence[0].calibrated_p.unwrap() > 1e-4 && evidence[0].effect.unwrap() < 0.1);
    assert!(status.caveats.is_empty());
}

#[test]
fn a_baseline_from_before_there_were_clusters_is_read_and_says_that_they_are_not_judged() {
    let spec = spec();
    let mut json = serde_json::to_value(baseline(&spec)).unwrap();
    assert!(json.as_object_mut().unwrap().remove("clusters").is_some());
    let old: Baseline = serde_json::from_value(json).unwrap();
    let slices = slices(&spec, &old);
    assert_eq!(slices[0].columns.len(), 15);
    let verdicts = verdicts(&spec, &old, &slices, Decision::Calibrated);
    assert!(alerts(&verdicts).is_empty());
    let status = &verdicts.last().unwrap().status;
    assert!(!status.causes.contains_key(CLUSTERS));
    assert_eq!(status.caveats.len(), 1);
    assert!(status.caveats[0].starts_with("clusters: not judged: baseline 1 was made before"), "{:?}", status.caveats);
}

#[test]
fn the_bare_rule_of_the_contract_does_not_know_clusters() {
    let spec = spec();
    let baseline = baseline(&spec);
    let verdicts = verdicts(&spec, &baseline, &slices(&spec, &baseline), Decision::Thresholds);
    assert!(verdicts.iter().all(|verdict| !verdict.status.causes.contains_key(CLUSTERS) && verdict.status.caveats.is_empty()));
}

#[test]
fn without_its_own_phi_clusters_are_uncalibrated_and_what_an_older_watcher_did_not_count_is_not_judged() {
    let spec = spec();
    let mut baseline = baseline(&spec);
    let mut window = Slice::default();
    let hours = usize::try_from(7 * 24).unwrap();
    slices(&spec, &baseline)[..hours].iter().for_each(|slice| window.add(slice));
    let judge = Config::default().judge;
    assert!(look(&baseline, &spec, &window, 7, &judge).cause(CLUSTERS).unwrap().calibrated);

    baseline.noise.iter_mut().for_each(|noise| assert!(noise.phi.remove(CLUSTERS).is_some()));
    let seen = look(&baseline, &spec, &window, 7, &judge);
    let calibrated = |name: &str| seen.cause(name).unwrap().calibrated;
    assert!(!calibrated(CLUSTERS) && calibrated("hour_of_day"), "a predecessor without clusters has no φ to give");

    window.columns.pop();
    let seen = look(&baseline, &spec, &window, 7, &judge);
    assert!(seen.clusters.is_none() && seen.cause(CLUSTERS).is_none());
}

#[test]
fn a_baseline_whose_features_do_not_vary_says_so() {
    let spec = spec();
    let mut baseline = baseline(&spec);
    baseline.clusters = Some(Clusters { axes: vec![], centroids: vec![], half_within: vec![], spread: vec![], counts: vec![] });
    let slices = slices(&spec, &baseline);
    assert_eq!(slices[0].columns.len(), 15);
    let verdicts = verdicts(&spec, &baseline, &slices[..30], Decision::Calibrated);
    let status = &verdicts.last().unwrap().status;
    assert!(!status.causes.contains_key(CLUSTERS));
    assert_eq!(status.caveats, ["clusters: not judged: no feature varies in baseline 1"]);
}
