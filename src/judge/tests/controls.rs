//! What controls do: silence, acceptance, the outcome of a training, a gap.

use super::*;

fn silence(cause: &str, until_hour: i64) -> Control {
    Control::Silence { id: format!("silence-{cause}-{until_hour}"), cause: cause.to_owned(), until_ms: until_hour * HOUR_MS }
}

#[test]
fn a_silenced_cause_goes_on_unheard_and_is_told_when_the_silence_ends() {
    let play = |until_hour: i64| {
        let mut stream = Stream::new(2, Some(1));
        let mut summaries = stream.hours(World::Usual, 24 * 10);
        stream.controls = vec![silence("error", until_hour)];
        summaries.extend(stream.hours(World::Wrong, 24 * 4));
        judge(&mut core(None), &baseline(1, 0), summaries)
    };
    let heard = told(&play(0));
    let (mark, _, change, level) = heard[0].clone();
    assert_eq!((change, level), (Change::Opened, Level::Critical));
    let until = i64::try_from(mark).unwrap() + 20;
    let verdicts = play(until);
    assert_eq!(told(&verdicts), [(mark + 20, "error".to_owned(), Change::Opened, Level::Critical)]);
    assert_eq!(last(&verdicts).causes["error"].episode.as_ref().unwrap().silenced_alerts, 1);
    assert_eq!(asked(&verdicts).len(), 1, "a silence holds no training back");
}

#[test]
fn an_accepted_cause_closes_and_stays_closed_while_it_is_as_it_is() {
    let mut stream = Stream::new(2, Some(1));
    let mut summaries = stream.hours(World::Usual, 24 * 10);
    summaries.extend(stream.hours(World::Wrong, 24 * 4));
    stream.controls = vec![Control::Accept { id: "a".to_owned(), cause: "error".to_owned() }];
    summaries.extend(stream.hours(World::Wrong, 24 * 10));
    let verdicts = judge(&mut core(None), &baseline(1, 0), summaries);
    let changes: Vec<Change> = told(&verdicts).into_iter().filter(|told| told.1 == "error").map(|told| told.2).collect();
    assert_eq!(changes, [Change::Opened, Change::Accepted]);
    assert_eq!(asked(&verdicts).last().unwrap().3, Some(ClosedBecause::Resolved));
    assert!(last(&verdicts).causes["error"].accepted);
    assert_eq!(last(&verdicts).status, Some(Level::Ok));
}

#[test]
fn a_promotion_closes_the_trigger_and_asks_again_only_when_it_is_over_again() {
    let mut stream = Stream::new(1, Some(1));
    let mut summaries = stream.hours(World::Usual, 24 * 10);
    summaries.extend(stream.hours(World::Wrong, 24 * 4));
    let mut core = core(None);
    let verdicts = judge(&mut core, &baseline(1, 0), summaries);
    let trigger = last(&verdicts).trigger.clone().unwrap();
    stream.controls = vec![Control::Outcome {
        id: "o".to_owned(),
        trigger: trigger.id.clone(),
        outcome: "promoted".to_owned(),
        reason: String::new(),
        mark: None,
        baseline: None,
    }];
    let verdicts = judge(&mut core, &baseline(1, 0), stream.hours(World::Wrong, 24));
    let marks: Vec<(TriggerChange, Option<ClosedBecause>)> = asked(&verdicts).into_iter().map(|told| (told.1, told.3)).collect();
    assert_eq!(marks, [(TriggerChange::Closed, Some(ClosedBecause::Promoted)), (TriggerChange::Raised, None)]);
    let raised = last(&verdicts).trigger.clone().unwrap();
    assert_ne!(raised.id, trigger.id);
    assert_eq!(verdicts.iter().position(|verdict| verdict.triggers.iter().any(|t| t.id == raised.id)), Some(5));
}

#[test]
fn a_gap_is_mentioned_while_a_window_reaches_over_it() {
    let mut stream = Stream::new(2, Some(1));
    stream.hours(World::Usual, 24 * 8);
    stream.controls = vec![Control::Gap {
        id: "g".to_owned(),
        from_ms: 24 * 8 * HOUR_MS,
        to_ms: (24 * 8 + 1) * HOUR_MS,
        reason: "rolled over".to_owned(),
    }];
    let verdicts = judge(&mut core(None), &baseline(1, 0), stream.hours(World::Usual, 24 * 9));
    assert_eq!(verdicts[0].status.gaps.len(), 1);
    assert!(verdicts[0].status.caveats[0].starts_with("gap: MongoDB has forgotten"));
    assert_eq!(last(&verdicts).gaps, []);
}
