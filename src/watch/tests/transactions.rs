//! One transaction is filled while another is under way; when the next is sealed, and how large it may be.

use super::*;
use crate::log::memory::Fault;
use crate::log::memory::slow::SlowLog;
use crate::log::{Follower, Producer};

/// A log whose transactions of one id wait at a gate, which lets none pass that has more than so many records.
#[derive(Clone)]
struct Gated {
    log: MemoryLog,
    id: &'static str,
    most: usize,
    gate: Arc<(std::sync::Mutex<bool>, std::sync::Condvar)>,
}

impl Gated {
    fn new(world: &World, id: &'static str) -> (Self, Context) {
        Self::narrow(world, id, usize::MAX)
    }

    fn narrow(world: &World, id: &'static str, most: usize) -> (Self, Context) {
        let gated = Self { log: world.log.clone(), id, most, gate: Arc::new((std::sync::Mutex::new(true), std::sync::Condvar::new())) };
        let context = Context { log: Arc::new(gated.clone()), ..world.context.clone() };
        (gated, context)
    }

    fn shut(&self) {
        *self.gate.0.lock().unwrap() = false;
    }

    fn open(&self) {
        *self.gate.0.lock().unwrap() = true;
        self.gate.1.notify_all();
    }
}

impl Log for Gated {
    fn create_topics(&self, topics: &[TopicSettings]) -> Result<(), LogError> {
        self.log.create_topics(topics)
    }
    fn partitions(&self, topic: &str) -> Result<u32, LogError> {
        self.log.partitions(topic)
    }
    fn producer(&self, id: &str) -> Result<Box<dyn Producer>, LogError> {
        let producer = self.log.producer(id)?;
        Ok(if id == self.id { Box::new(GatedProducer(producer, self.clone())) } else { producer })
    }
    fn member(&self, group: &str, topic: &str) -> Result<Box<dyn Member>, LogError> {
        self.log.member(group, topic)
    }
    fn reader(&self) -> Result<Box<dyn Reader>, LogError> {
        self.log.reader()
    }
    fn follow(&self, topic: &str, from: &[i64]) -> Result<Box<dyn Follower>, LogError> {
        self.log.follow(topic, from)
    }
}

struct GatedProducer(Box<dyn Producer>, Gated);

impl Producer for GatedProducer {
    fn transact(&mut self, transaction: Transaction) -> Result<(), TransactError> {
        let (open, changed) = &*self.1.gate;
        let (open, waited) = changed.wait_timeout_while(open.lock().unwrap(), Duration::from_secs(120), |open| !*open).unwrap();
        assert!(!waited.timed_out(), "whoever waits for this transaction is who was to open the gate");
        drop(open);
        if transaction.records.len() > self.1.most {
            return Err(TransactError::TooLarge { topic: "gate".to_owned(), bytes: transaction.records.len() });
        }
        self.0.transact(transaction)
    }
}

/// Lets a watcher work until one transaction waits at the gate and the next holds something; none of it is visible then.
#[expect(clippy::redundant_closure_for_method_calls, reason = "the method is of one lifetime, the closure of any")]
fn fill_both(world: &mut World, watch: &mut Watch<'_>, gate: &Gated, story: &[Event]) {
    // Whoever looks for a baseline, or at the ends, waits for the transaction under way: that is done before the gate is shut.
    world.feed_all(&story[..60]);
    world.catch_up(watch);
    assert!(!watch.known.is_empty(), "the first baseline has come");
    watch.ends_at = Some(threads::now() + Duration::from_secs(3_600));
    let before = world.written();
    gate.shut();
    world.feed_all(&story[60..120]);
    work(watch, |watch| watch.is_busy());
    world.feed_all(&story[120..]);
    work(watch, |watch| watch.filling.taken > 0);
    assert!(watch.is_busy(), "the first is still under way");
    assert_eq!(world.written(), before, "nothing is committed");
}

#[test]
fn the_next_transaction_is_filled_while_one_is_committed() {
    let story = story();
    let expected = told(2, &story).written();
    let mut world = World::new(2);
    let (gate, context) = Gated::new(&world, "t.watch.a");
    let mut watch = Watch::new(&context).unwrap();
    fill_both(&mut world, &mut watch, &gate, &story[..200]);
    gate.open();
    world.feed_all(&story[200..]);
    world.catch_up(&mut watch);
    drop(watch);
    assert_eq!(world.written(), expected);
}

#[test]
fn what_nobody_waits_for_is_paced_and_a_summary_is_not() {
    let mut world = World::new(1);
    let context = world.context.clone();
    let mut watch = Watch::new(&context).unwrap();
    let mut filling = Filling { taken: 1, ..Filling::default() };
    assert_eq!(filling.may_wait(Duration::ZERO), PACE);
    assert_eq!(filling.may_wait(PACE), Duration::ZERO);
    filling.taken = MANY_RECORDS;
    assert_eq!(filling.may_wait(Duration::ZERO), Duration::ZERO);
    world.feed(&Event::Ticket(ticket(&spec(), 1, T0)));
    world.catch_up(&mut watch);
    assert!(!watch.filling.batch.is_urgent);
    world.feed(&Event::Mark(T0 + HOUR_MS));
    work(&mut watch, |watch| watch.partitions[&0].place.mark.is_some());
    assert!(watch.may_wait().is_zero() || watch.is_busy(), "a verdict waits for it");
    world.catch_up(&mut watch);
    assert_eq!(world.summaries().len(), 1);
}

#[test]
fn a_failure_drops_what_was_filled_meanwhile() {
    let story = story();
    let expected = told(2, &story).written();
    for fault in [Fault::Abort, Fault::UnknownVisible, Fault::UnknownLost, Fault::Torn { visible: 20 }, Fault::Hang, Fault::Fence] {
        let mut world = World::new(2);
        let (gate, context) = Gated::new(&world, "t.watch.a");
        let mut watch = Watch::new(&context).unwrap();
        fill_both(&mut world, &mut watch, &gate, &story[..200]);
        world.log.inject("t.watch.a", 0, fault);
        gate.open();
        world.feed_all(&story[200..]);
        world.catch_up(&mut watch);
        drop(watch);
        assert_eq!(world.written(), expected, "{fault:?}");
    }
}

#[test]
fn partitions_that_are_revoked_while_a_transaction_is_under_way_are_the_next_owners_alone() {
    let story = story();
    let expected = told(3, &story).written();
    let mut world = World::new(3);
    let (gate, context) = Gated::new(&world, "t.watch.a");
    let mut one = Watch::new(&context).unwrap();
    fill_both(&mut world, &mut one, &gate, &story[..200]);
    let mut other = world.context.clone();
    other.config = Arc::new(Config { instance: "b".to_owned(), ..(*world.context.config).clone() });
    let mut two = Watch::new(&other).unwrap();
    let begun = threads::now();
    while two.partitions.is_empty() && threads::since(begun) < PATIENCE {
        one.turn().ok().expect("nothing fails while the gate is shut");
        two.turn().ok().expect("nothing fails while the gate is shut");
    }
    assert!(one.is_busy() && one.filling.taken == 0, "what was filled went with the partitions");
    assert!(one.partitions.is_empty() && !one.restorer.is_busy(), "it restores nothing before the outcome is known");
    work(&mut two, |two| two.is_settled() && !two.partitions.is_empty());
    gate.open();
    world.feed_all(&story[200..]);
    world.catch_up_together(&mut [&mut one, &mut two]);
    assert!(one.fences.is_empty(), "a generation that is over is no twin");
    drop((one, two));
    assert_eq!(world.written(), expected);
}

#[test]
fn a_partition_is_restored_after_the_outcome_of_what_is_under_way() {
    let story = story();
    let expected = told(2, &story).written();
    let mut world = World::new(2);
    let (gate, context) = Gated::new(&world, "t.watch.a");
    let mut watch = Watch::new(&context).unwrap();
    fill_both(&mut world, &mut watch, &gate, &story[..200]);
    watch.drop_partition(0);
    watch.wanting.insert(0);
    assert_eq!(watch.filling.taken, 0);
    for _ in 0..50 {
        watch.turn().ok().expect("nothing fails while the gate is shut");
    }
    assert!(!watch.partitions.contains_key(&0) && !watch.restorer.is_busy());
    gate.open();
    world.feed_all(&story[200..]);
    world.catch_up(&mut watch);
    drop(watch);
    assert_eq!(world.written(), expected);
}

#[test]
fn a_transaction_that_is_too_large_is_halved_until_it_fits() {
    let story = story();
    let expected = told(1, &story).written();
    let mut world = World::new(1);
    let (_, context) = Gated::narrow(&world, "t.watch.a", 16);
    world.feed_all(&story);
    let mut watch = Watch::new(&context).unwrap();
    world.catch_up(&mut watch);
    assert!(watch.room.items() >= 8, "after each that fits twice as many are tried: {}", watch.room.items());
    drop(watch);
    assert_eq!(world.written(), expected);
    let mut world = World::new(1);
    let (_, context) = Gated::narrow(&world, "t.watch.a", 0);
    world.feed(&Event::Ticket(ticket(&spec(), 1, T0)));
    assert!(matches!(run(&context), Err(WatchError::TooLarge { .. })), "one record that does not fit is said");
}

#[test]
fn a_log_that_is_too_slow_for_large_transactions_gets_small_ones() {
    let story = story();
    let expected = told(1, &story).written();
    let mut world = World::new(1);
    let slow = SlowLog::new(&world.log, 16);
    let context = Context { log: Arc::new(slow.clone()), ..world.context.clone() };
    world.feed_all(&story);
    let mut watch = Watch::new(&context).unwrap();
    world.catch_up(&mut watch);
    drop(watch);
    assert!(slow.ended.load(std::sync::atomic::Ordering::Relaxed) > 0, "nothing was too large");
    assert_eq!(world.written(), expected);
}
