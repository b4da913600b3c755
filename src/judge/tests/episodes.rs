//! Episodes and the training they ask for, from the first alert to the last, also under a new version.

use super::*;
use crate::status::JudgeState;

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
