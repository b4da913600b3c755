//! Watch over the log in memory: whoever watches, and whatever fails, the outputs are the same.

mod chain;
mod faults;
mod restart;
mod switch;
mod transactions;
mod written;

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::clock::HOUR_MS;
use crate::config::Config;
use crate::log::memory::MemoryLog;
use crate::log::{Committed, Log, Record, TopicSettings};
use crate::spec::Spec;
use crate::stage::{Health, Stop};
use crate::summary::Summary;
use crate::ticket::{Chain, Control, Mark, TICKET, Ticket, Transition};
use crate::topics::Topics;
use crate::window::tests::{baseline, spec, ticket};

const T0: i64 = 400_000 * HOUR_MS;
/// How long is waited for what has to come; threads may get no turn for a while.
const PATIENCE: Duration = Duration::from_secs(100);
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
