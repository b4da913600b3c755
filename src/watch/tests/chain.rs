//! Chains that are broken, repeat a mark, or are of another spec.

use super::*;

#[test]
fn a_broken_chain_is_an_alert_and_the_stream_goes_on() {
    let mut world = World::new(1);
    world.feed(&Event::Ticket(ticket(&spec(), 1, T0)));
    let lost = world.ticket_record(&ticket(&spec(), 2, T0));
    world.feed(&Event::Ticket(ticket(&spec(), 3, T0)));
    let mut stranger = lost.clone();
    stranger.headers.clear();
    world.send(vec![stranger]);
    world.feed(&Event::Ticket(ticket(&spec(), 6, T0)));
    world.send(vec![lost]); // comes after its successor: a repeat of what was passed
    let mut forged = world.ticket_record(&ticket(&spec(), 4, T0));
    forged.value = Some(Bytes::from_static(b"{}"));
    world.send(vec![forged]);
    world.feed(&Event::Ticket(ticket(&spec(), 5, T0)));
    world.feed(&Event::Mark(T0 + HOUR_MS));
    let mut watch = world.watch();
    world.catch_up(&mut watch);
    drop(watch);
    let alerts = world.alerts();
    let reasons: Vec<&str> = alerts.iter().map(|alert| alert["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    assert!(reasons[0].contains("records 3 to 3 are missing"), "{reasons:?}");
    assert!(reasons[1].contains("sequence 3 repeats"), "{reasons:?}");
    let summaries = world.summaries();
    assert_eq!(summaries[0].slices[0].rows, 4, "1, 3, 6 and 5");
    assert!(summaries[0].incomplete);
}

#[test]
fn a_mark_that_comes_again_is_an_alert_though_watch_has_begun_again_between() {
    let mut world = World::new(1);
    world.feed(&Event::Ticket(ticket(&spec(), 1, T0)));
    world.feed(&Event::Mark(T0 + HOUR_MS));
    let mut watch = world.watch();
    world.catch_up(&mut watch);
    drop(watch);
    world.number -= 1;
    world.feed(&Event::Mark(T0 + HOUR_MS));
    let mut watch = world.watch();
    world.catch_up(&mut watch);
    drop(watch);
    let alerts = world.alerts();
    assert_eq!(alerts.len(), 1);
    assert!(alerts[0]["reason"].as_str().unwrap().contains("follows mark"), "{}", alerts[0]["reason"]);
}

#[test]
fn a_chain_of_another_spec_is_passed_over_and_windows_begin_at_the_change() {
    let mut world = World::new(1);
    world.feed(&Event::Ticket(ticket(&spec(), 1, T0)));
    for (id, fingerprint) in [("theirs", "0".repeat(16)), ("ours", spec().fingerprint())] {
        world.chains[0] = Chain::begin(id);
        let spec = world.spec().name.clone();
        world.control(&Control::ChainStart { id: id.to_owned(), spec, fingerprint, partitions: 1 });
        world.feed(&Event::Ticket(ticket(&world.context.spec, 2, T0)));
    }
    world.number = 17; // another spec's marks were not seen
    world.feed(&Event::Mark(T0 + HOUR_MS));
    for _ in 0..2 {
        let mut watch = world.watch();
        world.catch_up(&mut watch);
    }
    assert!(world.alerts().is_empty(), "{:?}", world.alerts());
    let summaries = world.summaries();
    assert_eq!((summaries.len(), summaries[0].slices[0].rows), (1, 1));
}
