//! Transactions that fail, in all ways: no output is repeated or lost.

use super::*;
use crate::log::memory::Fault;

#[test]
fn no_fault_of_a_transaction_repeats_or_loses_an_output() {
    let story = story();
    let expected = told(2, &story).written();
    for fault in [
        Fault::Abort,
        Fault::UnknownVisible,
        Fault::UnknownLost,
        Fault::Torn { visible: 1 },
        Fault::Torn { visible: 9 },
        Fault::Torn { visible: 40 },
        Fault::Hang,
    ] {
        let mut world = World::new(2);
        for (n, some) in story.chunks(25).enumerate() {
            world.feed_all(some);
            if n % 2 == 0 {
                world.log.inject("t.watch.a", 0, fault);
            }
            let mut watch = world.watch();
            world.catch_up(&mut watch);
        }
        assert_eq!(world.written(), expected, "{fault:?}");
    }
}

#[test]
fn torn_again_while_the_torn_outputs_are_met_nothing_is_written_twice() {
    let story = story();
    let expected = told(1, &story).written();
    let mut world = World::new(1);
    world.feed_all(&story);
    for visible in [5, 3, 60, 1] {
        world.log.inject("t.watch.a", 0, Fault::Torn { visible });
        let mut watch = world.watch();
        watch.room = Room::new(20);
        for _ in 0..200 {
            if let Err(trouble) = watch.turn() {
                watch.survive(trouble).unwrap();
                break;
            }
        }
    }
    let mut watch = world.watch();
    world.catch_up(&mut watch);
    drop(watch);
    assert_eq!(world.written(), expected);
}

#[test]
fn fenced_by_a_passing_twin_it_joins_again() {
    let story = story();
    let expected = told(1, &story).written();
    let mut world = World::new(1);
    world.feed_all(&story);
    world.log.inject("t.watch.a", 0, Fault::Fence);
    let mut watch = world.watch();
    world.catch_up(&mut watch);
    drop(watch);
    assert_eq!(world.written(), expected);
}
