//! The state and the level of every mark, with and without a baseline, tickets and partitions.

use super::*;
use crate::config::Decision;
use crate::status::JudgeState;

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
