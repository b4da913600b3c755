//! What is written of a story: summaries, prediction errors and alerts, the same from any number of partitions.

use super::*;
use crate::summary::Slice;

/// What each mark's windows hold, all partitions together: slices replace what was said before.
fn by_mark(summaries: &[Summary]) -> Vec<BTreeMap<i64, Slice>> {
    let mut said: BTreeMap<(u32, i64), Slice> = BTreeMap::new();
    let mut marks: BTreeMap<u64, Vec<&Summary>> = BTreeMap::new();
    for summary in summaries {
        marks.entry(summary.mark.number).or_default().push(summary);
    }
    let mut result = Vec::new();
    for summaries in marks.values() {
        for summary in summaries {
            for slice in &summary.slices {
                said.insert((summary.partition, slice.start_ms), slice.clone());
            }
        }
        let mut merged: BTreeMap<i64, Slice> = BTreeMap::new();
        for ((_, start_ms), slice) in &said {
            merged.entry(*start_ms).or_insert_with(|| Slice { start_ms: *start_ms, ..Slice::default() }).add(slice);
        }
        result.push(merged);
    }
    result
}

#[test]
fn the_story_is_told_whole() {
    let world = told(2, &story());
    let summaries = world.summaries();
    assert_eq!(summaries.len(), 2 * 40, "one a mark and partition");
    let marks = by_mark(&summaries);
    assert_eq!(marks[0][&T0].rows, 6);
    assert_eq!(marks[0][&T0].repeats, 1);
    assert!(marks[0][&T0].columns.is_empty(), "no baseline yet");
    assert_eq!(marks[7][&(T0 + HOUR_MS)].late, 1);
    assert_eq!(marks[7][&(T0 + HOUR_MS)].columns.len(), 15);
    let controls: Vec<&str> = summaries.iter().filter(|s| s.partition == 1).flat_map(|s| &s.controls).map(Control::kind).collect();
    assert_eq!(controls, ["chain-start", "baseline", "gap", "silence", "baseline"]);
    assert!(summaries.iter().all(|summary| !summary.incomplete));
    let alerts = world.alerts();
    assert_eq!(alerts.len(), 1, "a gap has copies in all partitions and one alert");
    assert_eq!(alerts[0]["kind"], "gap");
}

#[test]
fn a_prediction_error_names_its_ticket_and_its_input() {
    let mut world = World::new(1);
    let mut given = ticket(world.spec(), 1, T0);
    (given.actual, given.predicted, given.model_version) = (2_000.0, Some(1_500.5), Some("7".to_owned()));
    world.feed(&Event::Ticket(given));
    let mut without = ticket(world.spec(), 2, T0);
    without.predicted = None;
    world.feed(&Event::Ticket(without));
    let mut watch = world.watch();
    world.catch_up(&mut watch);
    let errors = all(&mut *world.log.reader().unwrap(), &world.context.topics.prediction_errors, 0);
    assert_eq!(errors.len(), 1, "a ticket without a prediction has no error");
    let error: serde_json::Value = serde_json::from_slice(errors[0].value.as_deref().unwrap()).unwrap();
    let expected = serde_json::json!({
        "ticket": "t1", "completed_at": T0, "model": "ticket-duration-predictor", "version": "7", "series": "recorded",
        "predicted": 1500.5, "actual": 2000, "error": -499.5, "absolute_error": 499.5, "relative_error": 0.24975,
        "source": {"partition": 0, "sequence": 2},
    });
    assert_eq!(error, expected);
    assert_eq!(errors[0].key.as_deref(), Some(&b"t1"[..]));
    assert_eq!(errors[0].header("source"), Some(&b"0:2"[..]));
    assert_eq!(errors[0].header("kind"), Some(&b"prediction-error"[..]));
}

#[test]
fn counts_are_the_same_from_one_partition_and_from_seven() {
    let (one, seven) = (told(1, &story()), told(7, &story()));
    assert_eq!(by_mark(&one.summaries()), by_mark(&seven.summaries()));
}
