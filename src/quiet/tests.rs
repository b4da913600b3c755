use std::path::Path;

use crate::spec::Spec;

use super::*;

/// 11 March and 3 November 2013: between them New York's clocks did not move.
const SUMMER: (i64, i64) = (1_362_960_000_000, 1_383_436_800_000);
/// From its first hour of UTC on, 10 March 2013 has another clock; hours since the end of a baseline that begins on 2 January.
const CLOCK_CHANGE_HOURS: i64 = 8 * 24;

fn pool(interval: (i64, i64)) -> Pool {
    let spec = Spec::from_toml(include_str!("../../config/execution-tickets.toml")).unwrap();
    Pool::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("data/flights-demo.ndjson.zst"), &spec, interval).unwrap()
}

fn criticals(openings: &[Opening]) -> Vec<&str> {
    openings.iter().filter(|opening| opening.level == Level::Critical).map(|opening| opening.cause.as_str()).collect()
}

#[test]
fn quiet_years_raise_no_alarm() {
    let pool = pool(SUMMER);
    let judge = Judge::default();
    for (draw, rate) in [(Draw::Days, 0.1), (Draw::Days, 0.02), (Draw::Weeks, 0.1), (Draw::Weeks, 0.02)] {
        let openings = year(&pool, Plan { draw, rate, change: None }, &judge, 1).unwrap();
        assert_eq!(criticals(&openings), Vec::<&str>::new(), "{draw:?} {rate}");
    }
}

/// What is known to have happened in 2013: the clocks moved on 10 March, and the first week of July was another.
#[test]
fn the_real_year_raises_the_alarms_that_are_true() {
    let pool = pool((i64::MIN, i64::MAX));
    let openings = year(&pool, Plan { draw: Draw::Real, rate: 1.0, change: None }, &Judge::default(), 1).unwrap();
    assert_eq!(criticals(&openings), ["hour_of_day", "retry_count"]);
    let found = openings.iter().find(|opening| opening.level == Level::Critical).unwrap().hours - CLOCK_CHANGE_HOURS;
    assert!((24..=8 * 24).contains(&found), "{found} hours after the clocks moved");
}

#[test]
fn a_slow_down_is_found_within_days_and_a_clock_change_within_a_window() {
    let pool = pool(SUMMER);
    let judge = Judge::default();
    let find = |change, cause: &str| {
        let plan = Plan { draw: Draw::Weeks, rate: 1.0, change: Some(change) };
        let measured = measure(&pool, plan, &judge, 3, 1);
        (measured.median_delay_hours(cause).unwrap(), measured.false_alarms())
    };
    let (error_hours, false_alarms) = find(Change::Slowdown, "error");
    assert!(error_hours <= 72 && false_alarms == 0, "{error_hours} h, {false_alarms} false");
    let (shift_hours, false_alarms) = find(Change::HourShift, "hour_of_day");
    assert!(shift_hours <= 8 * 24 && false_alarms == 0, "{shift_hours} h, {false_alarms} false");
}

#[test]
fn the_same_seed_draws_the_same_year() {
    let numbers = |seed| {
        let mut random = Random::new(seed);
        (0..5).map(|_| random.share().to_bits()).collect::<Vec<_>>()
    };
    assert_eq!(numbers(7), numbers(7));
    assert_ne!(numbers(7), numbers(8));
}
