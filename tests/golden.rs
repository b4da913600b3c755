//! Every week of the flights against the figures that numpy and scipy give.

use serde_json::Value;

use tidemark::baseline::Baseline;
use tidemark::baseline::Bins;
use tidemark::config::Judge;
use tidemark::drift::look;
use tidemark::summary::Slice;

use crate::support::flights::{Flight, MARCH, Year, slow_down};

const DAY_MS: i64 = 86_400_000;

/// Relative distance, for figures near 0 against `scale`.
#[track_caller]
fn near(what: &str, found: f64, expected: f64, relative: f64, scale: f64) {
    let allowed = relative * expected.abs().max(scale);
    assert!((found - expected).abs() <= allowed, "{what}: {found:e} is not {expected:e}");
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

fn integers(value: &Value) -> Vec<u64> {
    value.as_array().expect("a list").iter().map(|n| n.as_u64().expect("a count")).collect()
}

#[test]
fn every_week_of_the_real_year_agrees_with_scipy() {
    compare(include_str!("golden/flights_weekly.json"), |_, _| {});
}

#[test]
fn every_week_of_the_slow_summer_agrees_with_scipy() {
    compare(include_str!("golden/flights_slowdown.json"), slow_down);
}

fn compare(golden: &str, change: fn(&mut Flight, usize)) {
    let golden: Value = serde_json::from_str(golden).unwrap();
    let year = Year::read(change);
    compare_baseline(&year.baseline, &golden["baseline"]);

    let mut days: Vec<Slice> = Vec::new();
    year.count(|_, ticket, count| {
        let day = usize::try_from((ticket.completed_at_ms - MARCH) / DAY_MS).unwrap();
        if days.len() <= day {
            days.resize(day + 1, Slice::default());
        }
        count(&mut days[day]);
    });
    let looks = golden["looks"].as_array().unwrap();
    assert_eq!(looks.len(), 44);
    for (week, expected) in looks.iter().enumerate() {
        let mut window = Slice::default();
        days.iter().skip(week * 7).take(7).for_each(|day| window.add(day));
        compare_look(&year.baseline, &year.spec, &window, expected);
    }
}

fn compare_baseline(found: &Baseline, expected: &Value) {
    assert_eq!(found.rows, expected["rows"].as_u64().unwrap());
    near("mae", found.errors["recorded"].mae, number(&expected["mae_ms"]), 1e-12, 0.0);
    near("mean", found.target.mean, number(&expected["mean_ms"]), 1e-12, 0.0);
    for column in &found.columns {
        let expected = &expected["features"][&column.name];
        let at = match &column.bins {
            Bins::Values(values) => values,
            Bins::Edges(edges) => edges,
        };
        assert_eq!(matches!(column.bins, Bins::Edges(_)), expected["kind"] == "edges", "{}", column.name);
        let expected_at = expected["at"].as_array().unwrap();
        assert_eq!(at.len(), expected_at.len(), "{}", column.name);
        for (found, expected) in at.iter().zip(expected_at) {
            near(&column.name, *found, number(expected), 1e-12, 0.0);
        }
        assert_eq!(column.counts, integers(&expected["counts"]), "{}", column.name);
        near(&column.name, column.mean, number(&expected["mean"]), 1e-9, 0.0);
        near(&column.name, column.std, number(&expected["std"]), 1e-9, 1e-6);
    }
}

fn compare_look(baseline: &Baseline, spec: &tidemark::spec::Spec, window: &Slice, expected: &Value) {
    let found = look(baseline, spec, window, 7, &Judge::default());
    let at = expected["end"].as_str().unwrap();
    assert_eq!(found.rows, expected["rows"].as_u64().unwrap(), "{at}");
    for column in &found.columns {
        let expected = &expected["features"][&column.name];
        let what = format!("{at} {}", column.name);
        assert_eq!(column.counts, integers(&expected["counts"]), "{what}");
        assert_eq!(u64::from(column.bins), expected["bins_used"].as_u64().unwrap(), "{what}");
        near(&what, column.psi, number(&expected["psi"]), 1e-9, 0.0);
        near(&what, column.psi_p, number(&expected["psi_p"]), 1e-9, 0.0);
        near(&what, column.psi_log_p, number(&expected["psi_log_p"]), 1e-6, 1e-9);
    }
    let target = &expected["target"];
    near(at, found.target.ks_hist, number(&target["ks_hist"]), 1e-9, 0.0);
    near(at, found.target.ks_hist_p, number(&target["ks_hist_p"]), 1e-9, 0.0);
    near(at, found.target.ks_hist_log_p, number(&target["ks_hist_log_p"]), 1e-6, 1e-9);
    let error = &expected["error"];
    near(at, found.error.mae_ms.unwrap(), number(&error["mae_ms"]), 1e-9, 0.0);
    near(at, found.error.mae_ratio.unwrap(), number(&error["mae_ratio"]), 1e-9, 0.0);
    near(at, found.error.welch_p.unwrap(), number(&error["welch_p"]), 1e-9, 0.0);
    near(at, found.error.welch_log_p.unwrap(), number(&error["welch_log_p"]), 1e-6, 1e-9);
}
