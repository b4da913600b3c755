//! The loop closes by itself: a year of real flights with an injected slow-down, lived through by every stage.

use std::process::Command;

use serde_json::Value;

/// Runs the demo; returns its events and the totals at the end.
fn year(partitions: u32) -> (Vec<Value>, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_tidemark"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["demo", "--output", "json", "--partitions", &partitions.to_string()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut totals = events.pop().unwrap()["totals"].take();
    for measured in ["seconds", "tickets_per_second"] {
        totals.as_object_mut().unwrap().remove(measured);
    }
    (events, totals)
}

fn text<'v>(row: &'v Value, name: &str) -> &'v str {
    row[name].as_str().unwrap_or_default()
}

#[test]
fn the_slow_down_raises_an_alarm_a_model_is_trained_and_promoted_and_the_alarm_clears() {
    let (events, totals) = year(1);
    let episodes = totals["episodes"].as_array().unwrap();
    let slow = episodes.iter().find(|row| text(row, "cause") == "error" && text(row, "opened") >= "2013-07-01").unwrap();
    assert_eq!(text(slow, "onset"), "2013-07-01T00:00:00.000Z", "the onset is told to the hour");
    assert!(text(slow, "opened") < "2013-07-02", "the alarm comes within a day: {slow}");
    assert!(text(slow, "ended") < "2013-07-06" && !text(slow, "ended").is_empty(), "and clears by itself within days: {slow}");

    let trainings = totals["trainings"].as_array().unwrap();
    let answer = trainings.iter().find(|row| text(row, "asked") >= "2013-07-01").unwrap();
    assert_eq!(text(answer, "outcome"), "promoted", "{answer}");
    let (before, after) = (answer["mae_before"].as_f64().unwrap(), answer["mae_after"].as_f64().unwrap());
    assert!(after < 0.6 * before, "the new version is right where the old one was wrong: {before} ms, then {after} ms");
    assert!(trainings.iter().any(|row| text(row, "outcome") == "settled"), "a provisional baseline is frozen after a full window");
    for trigger in totals["triggers"].as_array().unwrap() {
        assert!(!trigger["closed"].is_null(), "every request is answered in the end: {trigger}");
    }
    let (again, same) = year(3);
    assert_eq!(totals, same, "three partitions come to the same year");
    assert_eq!(events, again);
}
