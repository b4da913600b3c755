use std::sync::Arc;

use bytes::Bytes;

use super::place::Metadata;
use super::*;
use crate::clock::HOUR_MS;
use crate::config::Config;
use crate::log::memory::{Fault, Limits, MemoryLog};
use crate::log::{Follower, Log, Producer, Reader, Record, Room, TopicSettings};
use crate::spec::Spec;
use crate::stage::{Health, Stop};
use crate::summary::{Slice, Summary};
use crate::ticket::{Chain, Control, Mark, TICKET, Ticket, Transition};
use crate::topics::Topics;
use crate::window::tests::{baseline, spec, ticket};

const T0: i64 = 400_000 * HOUR_MS;
/// Derived records of one run: `prediction-errors` and `summaries` by partition of `tickets`, then our alerts.
type Written = Vec<Vec<(Option<Bytes>, Option<Bytes>, Vec<(String, Bytes)>)>>;

/// A log with topics, and tail's pen.
struct World {
    log: MemoryLog,
    context: Context,
    chains: Vec<Chain>,
    number: u64,
    version: Option<u64>,
}

#[derive(Clone, Debug)]
enum Event {
    Ticket(Ticket),
    Control(Control),
    Mark(i64),
    Baseline(u64, i64),
}

impl World {
    fn new(partitions: u32) -> Self {
        Self::with(partitions, MemoryLog::new(), 1_000_000)
    }

    fn with(partitions: u32, log: MemoryLog, max_rows: usize) -> Self {
        let mut config = Config { instance: "a".to_owned(), ..Config::default() };
        config.kafka.partitions = partitions;
        config.kafka.topic_prefix = "t".to_owned();
        config.window.days = vec![1];
        config.window.max_rows = max_rows;
        let topics = Arc::new(Topics::new("t"));
        let settings: Vec<TopicSettings> = topics.settings(&config.topic_plan());
        log.create_topics(&settings).unwrap();
        let context = Context {
            config: Arc::new(config),
            spec: Arc::new(spec()),
            topics,
            log: Arc::new(log.clone()),
            stop: Stop::default(),
            health: Health::default(),
            registry: None,
        };
        let mut world =
            Self { log, context, chains: (0..partitions).map(|p| Chain::begin(&format!("chain-{p}"))).collect(), number: 0, version: None };
        world.begin();
        world
    }

    fn begin(&mut self) {
        let (spec, fingerprint) = (self.spec().name.clone(), self.spec().fingerprint());
        let partitions = self.partitions();
        self.control(&Control::ChainStart { id: "start".to_owned(), spec, fingerprint, partitions });
    }

    fn spec(&self) -> &Spec {
        &self.context.spec
    }

    fn partitions(&self) -> u32 {
        u32::try_from(self.chains.len()).unwrap()
    }

    fn send(&self, records: Vec<Record>) {
        let mut producer = self.log.producer("tail").unwrap();
        producer.transact(Transaction { records, ..Transaction::default() }).unwrap();
    }

    fn link(&mut self, partition: usize, kind: &'static str, key: Option<&[u8]>, value: Vec<u8>) -> Record {
        let headers = self.chains[partition].link(kind, key, &value);
        Record {
            topic: self.context.topics.tickets.clone(),
            partition: u32::try_from(partition).unwrap(),
            key: key.map(Bytes::copy_from_slice),
            value: Some(value.into()),
            headers,
        }
    }

    fn control(&mut self, control: &Control) {
        let value = serde_json::to_vec(control).unwrap();
        let records = (0..self.chains.len()).map(|p| self.link(p, control.kind(), None, value.clone())).collect();
        self.send(records);
    }

    fn ticket_record(&mut self, ticket: &Ticket) -> Record {
        let mut value = Vec::new();
        ticket.encode(&self.context.spec, &mut value);
        let key = ticket.id.key().into_owned();
        let partition = key.iter().fold(7usize, |sum, byte| sum * 31 % 1_000_003 + usize::from(*byte)) % self.chains.len();
        self.link(partition, TICKET, Some(&key), value)
    }

    fn feed(&mut self, event: &Event) {
        match event {
            Event::Ticket(ticket) => {
                let record = self.ticket_record(ticket);
                self.send(vec![record]);
            }
            Event::Control(control) => self.control(control),
            Event::Mark(end_ms) => {
                self.number += 1;
                let (number, partitions, baseline) = (self.number, self.partitions(), self.version);
                self.control(&Control::Mark(Mark { number, end_ms: *end_ms, partitions, baseline }));
            }
            Event::Baseline(version, to_ms) => {
                self.publish(*version, *to_ms);
                self.version = Some(*version);
                self.control(&Control::Baseline { id: format!("b{version}"), version: *version });
            }
        }
    }

    fn publish(&self, version: u64, to_ms: i64) {
        let value = serde_json::to_vec(&baseline(self.spec(), version, to_ms)).unwrap();
        let key = Bytes::from(format!("{}@{version}", self.spec().name));
        let topic = self.context.topics.baselines.clone();
        self.send(vec![Record { topic, partition: 0, key: Some(key), value: Some(value.into()), headers: vec![] }]);
    }

    fn feed_all(&mut self, events: &[Event]) {
        for event in events {
            self.feed(event);
        }
    }

    fn watch(&self) -> Watch<'_> {
        Watch::new(&self.context).unwrap()
    }

    /// Lets a watcher work until it has taken all that was sent.
    fn catch_up(&self, watch: &mut Watch<'_>) {
        self.catch_up_together(&mut [watch]);
    }

    fn catch_up_together(&self, watches: &mut [&mut Watch<'_>]) {
        let begun = threads::now();
        while threads::since(begun) < PATIENCE {
            for watch in &mut *watches {
                if let Err(trouble) = watch.turn() {
                    watch.survive(trouble).unwrap();
                }
            }
            let is_through = |(chain, number): (&Chain, u32)| {
                watches.iter().any(|watch| {
                    let at_work = watch.partitions.get(&number).filter(|_| !watch.starved.contains_key(&number));
                    at_work.is_some_and(|partition| partition.place.chain.as_ref().is_some_and(|mine| mine.seq == chain.seq))
                })
            };
            let is_committed = watches.iter().all(|watch| watch.is_settled());
            if is_committed && self.chains.iter().zip(0..).all(is_through) {
                return;
            }
        }
        panic!("the watchers never caught up: {:?}", self.context.health.all());
    }

    fn written(&self) -> Written {
        let mut reader = self.log.reader().unwrap();
        let topics = &self.context.topics;
        let mut written: Written = Vec::new();
        for partition in 0..self.partitions() {
            for topic in [&topics.prediction_errors, &topics.summaries] {
                let from = if topic == &topics.summaries { 0 } else { partition };
                let mut records = Vec::new();
                for record in all(&mut *reader, topic, from) {
                    let source = record.header("source").unwrap().to_vec();
                    if outputs::parse_source(&source).unwrap().0 == partition {
                        let headers = record.headers.iter().map(|(name, value)| (name.to_string(), value.clone())).collect();
                        records.push((record.key, record.value, headers));
                    }
                }
                written.push(records);
            }
        }
        let alerts = all(&mut *reader, &topics.alerts, 0);
        let mut alerts: Vec<_> = alerts.into_iter().map(|alert| (alert.key, alert.value, vec![])).collect();
        alerts.sort();
        written.push(alerts);
        written
    }

    fn summaries(&self) -> Vec<Summary> {
        let mut reader = self.log.reader().unwrap();
        let records = all(&mut *reader, &self.context.topics.summaries, 0);
        records.iter().map(|record| serde_json::from_slice(record.value.as_deref().unwrap()).unwrap()).collect()
    }

    fn alerts(&self) -> Vec<serde_json::Value> {
        let mut reader = self.log.reader().unwrap();
        let records = all(&mut *reader, &self.context.topics.alerts, 0);
        records.iter().map(|record| serde_json::from_slice(record.value.as_deref().unwrap()).unwrap()).collect()
    }

    fn committed(&self, partition: u32) -> Committed {
        let mut member = self.log.member("t.watch", &self.context.topics.tickets).unwrap();
        loop {
            if let Polled::Assigned(_) = member.poll(POLL).unwrap() {
                return member.committed(partition).unwrap().unwrap();
            }
        }
    }
}

use crate::log::Committed;
use crate::log::memory::slow::SlowLog;

/// How long is waited for what has to come; threads may get no turn for a while.
const PATIENCE: Duration = Duration::from_secs(100);

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

/// Lets a watcher work until `so` holds.
fn work(watch: &mut Watch<'_>, so: impl Fn(&Watch<'_>) -> bool) {
    let begun = threads::now();
    while threads::since(begun) < PATIENCE {
        if so(watch) {
            return;
        }
        if let Err(trouble) = watch.turn() {
            watch.survive(trouble).unwrap();
        }
    }
    panic!("it never came to that: {:?}", watch.context.health.all());
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

fn all(reader: &mut dyn Reader, topic: &str, partition: u32) -> Vec<Delivered> {
    let bounds = reader.bounds(topic, partition).unwrap();
    let mut records = Vec::new();
    let mut each = |record| {
        records.push(record);
        std::ops::ControlFlow::Continue(())
    };
    reader.read(topic, partition, bounds.low, bounds.end, &mut each).unwrap();
    records
}

/// Forty hours: tickets, late ones, repeats, tickets that no window reaches, a gap, two baselines, a mark an hour.
fn story() -> Vec<Event> {
    let spec = spec();
    let mut events = Vec::new();
    for hour in 0..40 {
        for n in 0..6u64 {
            let seed = hour * 100 + n;
            let at = T0 + i64::try_from(hour).unwrap() * HOUR_MS + i64::try_from(n).unwrap() * 500_000;
            events.push(Event::Ticket(ticket(&spec, seed, at)));
            if n == 1 && hour > 3 {
                events.push(Event::Ticket(ticket(&spec, seed + 50, at - 3 * HOUR_MS)));
            }
            if n == 2 {
                let mut again = ticket(&spec, seed, at);
                again.transition = Transition::Assumed;
                events.push(Event::Ticket(again));
            }
        }
        if hour == 30 {
            events.push(Event::Ticket(ticket(&spec, 99_999, T0)));
        }
        let id = format!("c{hour}");
        match hour {
            5 => events.push(Event::Baseline(1, T0)),
            20 => events.push(Event::Control(Control::Gap { id, from_ms: 1, to_ms: 2, reason: "rolled over".to_owned() })),
            28 => events.push(Event::Control(Control::Silence { id, cause: "error".to_owned(), until_ms: 3 })),
            33 => events.push(Event::Baseline(2, T0 + 20 * HOUR_MS)),
            _ => {}
        }
        events.push(Event::Mark(T0 + i64::try_from(hour + 1).unwrap() * HOUR_MS));
    }
    events
}

fn told(partitions: u32, events: &[Event]) -> World {
    let mut world = World::new(partitions);
    world.feed_all(events);
    let mut watch = world.watch();
    world.catch_up(&mut watch);
    drop(watch);
    world
}

/// What each mark's windows hold, all partitions together: slices replace what was said before.
fn by_mark(summaries: &[Summary]) -> Vec<BTreeMap<i64, Slice>> {
    let mut said: BTreeMap<(u32, i64), Slice> = BTreeMap::new();
    let mut marks: BTreeMap<u64, Vec<&Summary>> = BTreeMap::new();
    for summary in summaries {
        marks.entry(summary.mark.number).or_default().push(summary);
    }
    let mut result = Vec::new();
    for summaries in marks.values() {
        for summary in summaries {
            for slice in &summary.slices {
                said.insert((summary.partition, slice.start_ms), slice.clone());
            }
        }
        let mut merged: BTreeMap<i64, Slice> = BTreeMap::new();
        for ((_, start_ms), slice) in &said {
            merged.entry(*start_ms).or_insert_with(|| Slice { start_ms: *start_ms, ..Slice::default() }).add(slice);
        }
        result.push(merged);
    }
    result
}

#[test]
fn the_story_is_told_whole() {
    let world = told(2, &story());
    let summaries = world.summaries();
    assert_eq!(summaries.len(), 2 * 40, "one a mark and partition");
    let marks = by_mark(&summaries);
    assert_eq!(marks[0][&T0].rows, 6);
    assert_eq!(marks[0][&T0].repeats, 1);
    assert!(marks[0][&T0].columns.is_empty(), "no baseline yet");
    assert_eq!(marks[7][&(T0 + HOUR_MS)].late, 1);
    assert_eq!(marks[7][&(T0 + HOUR_MS)].columns.len(), 15);
    let controls: Vec<&str> = summaries.iter().filter(|s| s.partition == 1).flat_map(|s| &s.controls).map(Control::kind).collect();
    assert_eq!(controls, ["chain-start", "baseline", "gap", "silence", "baseline"]);
    assert!(summaries.iter().all(|summary| !summary.incomplete));
    let alerts = world.alerts();
    assert_eq!(alerts.len(), 1, "a gap has copies in all partitions and one alert");
    assert_eq!(alerts[0]["kind"], "gap");
}

#[test]
fn a_prediction_error_names_its_ticket_and_its_input() {
    let mut world = World::new(1);
    let mut given = ticket(world.spec(), 1, T0);
    (given.actual, given.predicted, given.model_version) = (2_000.0, Some(1_500.5), Some("7".to_owned()));
    world.feed(&Event::Ticket(given));
    let mut without = ticket(world.spec(), 2, T0);
    without.predicted = None;
    world.feed(&Event::Ticket(without));
    let mut watch = world.watch();
    world.catch_up(&mut watch);
    let errors = all(&mut *world.log.reader().unwrap(), &world.context.topics.prediction_errors, 0);
    assert_eq!(errors.len(), 1, "a ticket without a prediction has no error");
    let error: serde_json::Value = serde_json::from_slice(errors[0].value.as_deref().unwrap()).unwrap();
    let expected = serde_json::json!({
        "ticket": "t1", "completed_at": T0, "model": "ticket-duration-predictor", "version": "7", "series": "recorded",
        "predicted": 1500.5, "actual": 2000, "error": -499.5, "absolute_error": 499.5, "relative_error": 0.24975,
        "source": {"partition": 0, "sequence": 2},
    });
    assert_eq!(error, expected);
    assert_eq!(errors[0].key.as_deref(), Some(&b"t1"[..]));
    assert_eq!(errors[0].header("source"), Some(&b"0:2"[..]));
    assert_eq!(errors[0].header("kind"), Some(&b"prediction-error"[..]));
}

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
fn counts_are_the_same_from_one_partition_and_from_seven() {
    let (one, seven) = (told(1, &story()), told(7, &story()));
    assert_eq!(by_mark(&one.summaries()), by_mark(&seven.summaries()));
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
