//! What to train on after a drift, and what to promote, on the year of flights: the figures that the rules were made for
//! (`cargo test --test main train_flights -- --nocapture` prints them).

use std::sync::{Arc, LazyLock};

use tidemark::clock::{DAY_MS, HOUR_MS, parse_rfc3339};
use tidemark::features::Encoder;
use tidemark::ticket::FieldValue;
use tidemark::train::frame::{Collecting, Frame};
use tidemark::train::trial::{Cause, Decision, Known, Request, Trial, predictions, trial};

use crate::support::flights::{Flight, flights, slow_down, spec};

/// The year with the demo's slow-down.
static SLOWED: LazyLock<Frame> = LazyLock::new(|| frame(slow_down));
/// The year with half of the tickets' durability turned round from 10 April on: it says nothing about how long a flight takes.
static TURNED: LazyLock<Frame> = LazyLock::new(|| {
    let durability = spec().field("qos_durability").unwrap();
    frame(move |flight, _| {
        let ticket = &mut flight.ticket;
        if ticket.completed_at_ms >= at("2013-04-10") && ticket.id.json().bytes().map(u32::from).sum::<u32>() % 2 == 0 {
            let is_persistent = matches!(&ticket.fields[durability], FieldValue::Text(text) if text.eq_ignore_ascii_case("PERSISTENT"));
            ticket.fields[durability] = FieldValue::Text(if is_persistent { "TRANSIENT" } else { "PERSISTENT" }.to_owned());
        }
    })
});

fn frame(change: impl Fn(&mut Flight, usize)) -> Frame {
    let spec = spec();
    let task_type = spec.field("task_type").unwrap();
    let mut rows = Collecting::new(Arc::new(Encoder::new(&spec).unwrap()));
    flights(|mut flight| {
        change(&mut flight, task_type);
        if flight.completed { rows.push(&flight.ticket) } else { rows.push_other(&flight.ticket) }
    });
    rows.frame()
}

fn at(day: &str) -> i64 {
    parse_rfc3339(&format!("{day}T00:00:00Z")).unwrap()
}

fn request(cause: Cause, now_ms: i64) -> Request<'static> {
    Request { id: "flights", cause, now_ms, window_days: 540, min_rows: 100, max_rows: 30_000, threshold: 0.15, slice_ms: HOUR_MS }
}

/// A model that was trained on a day.
fn trained(frame: &Frame, version: u64, now_ms: i64) -> Known {
    let trained = trial(frame, &spec(), &request(Cause::Unprompted, now_ms), None, &[]).unwrap();
    Known { version, model: Arc::new(trained.tried[0].candidate.model.clone()) }
}

/// Mean |error| of each candidate over the week after it was trained, in minutes, by name.
fn next_week(frame: &Frame, trial: &Trial, now_ms: i64) -> Vec<(String, f64)> {
    let week = frame.between(now_ms, now_ms + 7 * DAY_MS);
    let mae = |predicted: Vec<f64>| {
        let errors = predicted.iter().zip(&frame.actual()[week.clone()]).map(|(predicted, actual)| (predicted - actual).abs());
        errors.sum::<f64>() / week.len() as f64 / 60_000.0
    };
    trial.tried.iter().map(|tried| (tried.candidate.name.clone(), mae(predictions(frame, &tried.candidate.model, week.clone())))).collect()
}

#[expect(clippy::print_stdout, reason = "the figures are for whoever asks for them with --nocapture")]
fn told(trial: &Trial, next_week: &[(String, f64)]) {
    for (tried, (name, later)) in trial.tried.iter().zip(next_week) {
        let here = tried.candidate.metrics.mae / 60_000.0;
        println!("{name}: {here:.1} min on the hold-out of {}, {later:.1} min in the week after; {}", trial.holdout.len(), tried.reason);
    }
    println!("{:?}", trial.decision);
}

fn of<'m>(figures: &'m [(String, f64)], name: &str) -> &'m f64 {
    &figures.iter().find(|(known, _)| known == name).unwrap().1
}

fn chosen(trial: &Trial) -> &str {
    match &trial.decision {
        Decision::Promote(index) => &trial.tried[*index].candidate.name,
        other => panic!("{other:?}"),
    }
}

#[test]
fn fourteen_hours_after_an_onset_only_what_came_since_teaches() {
    let (frame, onset_ms) = (&*SLOWED, at("2013-07-01"));
    let now_ms = onset_ms + 14 * HOUR_MS;
    let production = trained(frame, 1, onset_ms);
    let trial = trial(frame, &spec(), &request(Cause::Drift { onset_ms, error_is_over: true }, now_ms), Some(&production), &[]).unwrap();
    let later = next_week(frame, &trial, now_ms);
    told(&trial, &later);
    assert_eq!(chosen(&trial), "since_onset");
    assert!(*of(&later, "since_onset") < 0.5 * of(&later, "window"), "{later:?}");
}

#[test]
fn an_archived_version_ends_the_story_when_the_old_world_returns() {
    let (frame, onset_ms) = (&*SLOWED, at("2013-08-15"));
    let now_ms = onset_ms + 24 * HOUR_MS;
    let (archived, production) = (trained(frame, 1, at("2013-06-30")), trained(frame, 2, onset_ms));
    let cause = Cause::Drift { onset_ms, error_is_over: true };
    let trial = trial(frame, &spec(), &request(cause, now_ms), Some(&production), &[archived]).unwrap();
    let later = next_week(frame, &trial, now_ms);
    told(&trial, &later);
    assert!(*of(&later, "version 1") < 0.5 * of(&later, "window"), "{later:?}");
    assert_eq!(chosen(&trial), "version 1");
}

#[test]
fn inputs_that_changed_without_the_error_are_accepted_and_nothing_is_promoted() {
    let (frame, onset_ms) = (&*TURNED, at("2013-04-10"));
    let now_ms = onset_ms + 3 * DAY_MS;
    // Its hold-out is the week after the onset: it was trained on all that came before.
    let production = trained(frame, 1, onset_ms + 7 * DAY_MS);
    let cause = Cause::Drift { onset_ms, error_is_over: false };
    let trial = trial(frame, &spec(), &request(cause, now_ms), Some(&production), &[]).unwrap();
    told(&trial, &next_week(frame, &trial, now_ms));
    assert!(matches!(trial.decision, Decision::Benign(_)), "{:?}", trial.decision);
}
