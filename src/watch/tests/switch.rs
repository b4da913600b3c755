//! Baselines come into force: what is counted anew, what is waited for, and which is not ours.

use super::*;

#[test]
fn a_baseline_switch_publishes_every_held_slice_anew() {
    let world = told(1, &story());
    let summaries = world.summaries();
    let at = |number: u64| summaries.iter().find(|summary| summary.mark.number == number).unwrap();
    assert_eq!(at(33).version, Some(1));
    assert_eq!(at(33).slices.len(), 2, "its own and the one a late ticket joined");
    let switched = at(34);
    assert_eq!(switched.version, Some(2));
    assert_eq!(switched.slices.len(), 24, "all of the day that the window holds");
    let early: u64 = switched.slices.iter().filter(|slice| slice.start_ms < T0 + 20 * HOUR_MS).map(|slice| slice.rows).sum();
    assert_eq!(early, 0, "the baseline's own tickets are in no window");
    assert!(switched.slices.iter().filter(|slice| slice.start_ms > T0 + 20 * HOUR_MS).all(|slice| slice.rows >= 6));
}

#[test]
fn a_recount_without_rows_in_memory_reads_the_log_again_and_changes_no_byte() {
    let story = story();
    let expected = told(2, &story).written();
    for max_rows in [0, 7, 60] {
        let mut world = World::with(2, MemoryLog::new(), max_rows);
        for some in story.chunks(50) {
            world.feed_all(some);
            let mut watch = world.watch();
            world.catch_up(&mut watch);
            assert!(watch.partitions.values().map(|partition| partition.window.rows()).sum::<usize>() <= max_rows);
        }
        assert_eq!(world.written(), expected, "{max_rows} rows");
    }
}

#[test]
fn a_switch_waits_until_the_baseline_is_there_and_the_membership_lives() {
    let mut world = World::new(1);
    world.feed(&Event::Ticket(ticket(&spec(), 1, T0)));
    world.control(&Control::Baseline { id: "b".to_owned(), version: 4 });
    world.version = Some(4);
    world.feed(&Event::Mark(T0 + HOUR_MS));
    let mut watch = world.watch();
    work(&mut watch, |watch| watch.starved.contains_key(&0));
    assert_eq!(watch.starved.get(&0), Some(&4));
    assert_eq!(world.context.health.all()[PART], State::Waiting("waiting for baseline execution-tickets@4".to_owned()));
    assert!(world.summaries().is_empty());
    world.publish(4, 0);
    world.catch_up(&mut watch);
    assert_eq!(world.summaries()[0].version, Some(4));
}

#[test]
fn a_mark_that_names_another_baseline_is_an_alert_and_a_switch() {
    let mut world = World::new(1);
    world.publish(9, 0);
    world.feed(&Event::Ticket(ticket(&spec(), 1, T0)));
    world.feed(&Event::Mark(T0 + HOUR_MS));
    world.version = Some(9);
    world.feed(&Event::Mark(T0 + 2 * HOUR_MS));
    let mut watch = world.watch();
    world.catch_up(&mut watch);
    drop(watch);
    let alerts = world.alerts();
    assert_eq!(alerts.len(), 1);
    assert!(alerts[0]["reason"].as_str().unwrap().contains("names baseline Some(9), but None is in force"));
    let last = world.summaries().pop().unwrap();
    assert_eq!((last.version, last.slices.len(), last.slices[0].columns.len()), (Some(9), 1, 15));
}

#[test]
fn a_baseline_of_another_spec_leaves_rows_only() {
    let mut world = World::new(1);
    let mut other = baseline(world.spec(), 3, 0);
    other.fingerprint = "0".repeat(16);
    let (topic, value) = (world.context.topics.baselines.clone(), serde_json::to_vec(&other).unwrap());
    let key = Some(Bytes::from_static(b"execution-tickets@3"));
    world.send(vec![Record { topic, partition: 0, key, value: Some(value.into()), headers: vec![] }]);
    world.control(&Control::Baseline { id: "b".to_owned(), version: 3 });
    world.version = Some(3);
    world.feed(&Event::Ticket(ticket(&spec(), 1, T0)));
    world.feed(&Event::Mark(T0 + HOUR_MS));
    for _ in 0..2 {
        let mut watch = world.watch();
        world.catch_up(&mut watch);
    }
    let summary = world.summaries().pop().unwrap();
    assert_eq!((summary.version, summary.slices[0].rows, summary.slices[0].columns.len()), (None, 1, 0));
    assert!(world.alerts().is_empty());
}
