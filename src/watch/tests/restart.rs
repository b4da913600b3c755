//! Who begins again, takes over, or finds less in the log than there was; and who ends.

use super::*;
use crate::log::memory::Limits;
use crate::watch::place::Metadata;

#[test]
fn a_restart_at_every_commit_changes_no_byte() {
    let story = story();
    let expected = told(2, &story).written();
    let mut world = World::new(2);
    for few in story.chunks(3) {
        world.feed_all(few);
        let mut watch = world.watch();
        world.catch_up(&mut watch);
    }
    assert_eq!(world.written(), expected);
}

#[test]
fn a_second_watcher_takes_over_partitions_and_changes_no_byte() {
    let story = story();
    let expected = told(3, &story).written();
    let mut world = World::new(3);
    let (first, second) = story.split_at(120);
    world.feed_all(first);
    let context = world.context.clone();
    let mut one = Watch::new(&context).unwrap();
    world.catch_up(&mut one);
    let mut other = world.context.clone();
    other.config = Arc::new(Config { instance: "b".to_owned(), ..(*world.context.config).clone() });
    let mut two = Watch::new(&other).unwrap();
    world.catch_up_together(&mut [&mut one, &mut two]);
    world.feed_all(second);
    world.catch_up_together(&mut [&mut one, &mut two]);
    for _ in 0..3 {
        world.catch_up_together(&mut [&mut one, &mut two]);
    }
    assert!(!one.partitions.is_empty() && !two.partitions.is_empty());
    drop((one, two));
    assert_eq!(world.written(), expected);
}

#[test]
fn without_offsets_the_place_is_after_the_last_output() {
    let mut story = story();
    let mut last = ticket(&spec(), 77_777, T0 + 40 * HOUR_MS);
    last.predicted = Some(1.0);
    story.push(Event::Ticket(last));
    let world = told(1, &story);
    let committed = world.committed(0);
    let metadata = Metadata::from_text(&committed.metadata).unwrap();
    let plan = world.watch().plan.clone();
    let never = std::sync::atomic::AtomicBool::new(false);
    let resume = |committed| restore::restore(&world.log, &plan, Job::Resume { partition: 0, committed }, 1_000, &never).unwrap();
    let (with, without) = (resume(Some(committed)), resume(None));
    assert_eq!(with.place.chain, without.place.chain);
    assert_eq!(with.place.offset, metadata.place.offset);
    assert!(without.place.offset <= metadata.place.offset && without.place.chain == metadata.place.chain);
    let counts = |partition: &Partition| partition.window.counts().cloned().collect::<Vec<_>>();
    assert_eq!(counts(&with), counts(&without));
    let fresh = World::new(1);
    let first = restore::restore(&fresh.log, &plan, Job::Resume { partition: 0, committed: None }, 1_000, &never).unwrap();
    assert_eq!(first.place.offset, 0, "a first start begins at the beginning");
}

#[test]
fn a_log_that_no_longer_reaches_back_gives_an_incomplete_window_for_one_window() {
    let limits = Limits { topic_bytes: 15_000, ..Limits::default() };
    let mut world = World::with(1, MemoryLog::bounded(limits), 1_000_000);
    let mut incomplete: BTreeMap<u64, bool> = BTreeMap::new(); // the log keeps few summaries, too
    let story = story();
    let (first, second) = story.split_at(story.len() / 4);
    for some in first.chunks(10) {
        world.feed_all(some);
        let mut watch = world.watch();
        world.catch_up(&mut watch);
        incomplete.extend(world.summaries().iter().map(|summary| (summary.mark.number, summary.incomplete)));
    }
    let context = world.context.clone();
    let mut watch = Watch::new(&context).unwrap();
    for some in second.chunks(5) {
        world.feed_all(some);
        world.catch_up(&mut watch);
        incomplete.extend(world.summaries().iter().map(|summary| (summary.mark.number, summary.incomplete)));
    }
    drop(watch);
    let marks: Vec<u64> = incomplete.iter().filter(|(_, is)| **is).map(|(mark, _)| *mark).collect();
    assert!(!incomplete[&1], "at first nothing is lost");
    assert!(marks.len() > 20 && *marks.last().unwrap() < 39, "{marks:?}");
    assert!(
        world.alerts().iter().all(|alert| alert["kind"] == "gap"),
        "what a restore cannot read is no broken chain: {:?}",
        world.alerts()
    );
}

#[test]
fn asked_to_stop_it_ends() {
    let world = World::new(1);
    let context = world.context.clone();
    let thread = std::thread::spawn(move || run(&context));
    world.context.stop.ask();
    thread.join().unwrap().unwrap();
}
