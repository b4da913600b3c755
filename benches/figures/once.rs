//! What exactly once costs: the same tail, on the same backlog, over a producer without transactions.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use tidemark::config::Config;
use tidemark::log::kafka::KafkaLog;
use tidemark::log::{
    Follower, Log, LogError, MAX_RECORD_BYTES, Member, Producer, Reader, Record, TopicSettings, TransactError, Transaction,
};
use tidemark::stage::{Context, Health, Stop};
use tidemark::tail::mongo::MongoSource;
use tidemark::topics::Topics;

use super::backlog::{BACKLOG, Bench, COLLECTION, commit_positions, drained, flights, insert};
use super::{Figure, median};

const DATABASE: &str = "once";

/// A log whose producers send the same records in the same batches and wait for the same acknowledgements, in no transaction.
struct AtLeastOnce {
    log: KafkaLog,
    servers: String,
}

impl Log for AtLeastOnce {
    fn create_topics(&self, topics: &[TopicSettings]) -> Result<(), LogError> {
        self.log.create_topics(topics)
    }

    fn partitions(&self, topic: &str) -> Result<u32, LogError> {
        self.log.partitions(topic)
    }

    fn producer(&self, _: &str) -> Result<Box<dyn Producer>, LogError> {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", &self.servers)
            .set("acks", "all")
            // Without transactions nothing holds records back until there are many: the client's own default does.
            .set("linger.ms", "5")
            .set("message.max.bytes", MAX_RECORD_BYTES.to_string())
            .create()
            .expect("a valid client configuration");
        Ok(Box::new(Plain(producer)))
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

struct Plain(BaseProducer);

impl Plain {
    fn send(&self, records: &[Record]) {
        for Record { topic, partition, key, value, headers } in records {
            let mut owned = OwnedHeaders::new_with_capacity(headers.len());
            for (key, value) in headers {
                owned = owned.insert(Header { key, value: Some(value.as_ref()) });
            }
            let mut record = BaseRecord::<[u8], [u8]>::to(topic).partition((*partition).cast_signed()).headers(owned);
            record.key = key.as_deref();
            record.payload = value.as_deref();
            while let Err((_, refused)) = self.0.send(record) {
                self.0.poll(Duration::from_millis(1));
                record = refused;
            }
        }
        while self.0.in_flight_count() > 0 {
            self.0.poll(Duration::from_millis(1));
        }
    }
}

impl Producer for Plain {
    fn transact(&mut self, transaction: Transaction) -> Result<(), TransactError> {
        self.send(&transaction.records);
        self.send(&transaction.last);
        Ok(())
    }
}

/// A tail in this process; it stops when dropped.
struct Tail {
    stop: Stop,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Tail {
    fn start(bench: &Bench, prefix: &str, log: Arc<dyn Log>) -> Self {
        let mut config = Config::default();
        config.mongodb.uri = Some(bench.mongo.uri.clone().into());
        config.mongodb.database = Some(DATABASE.to_owned());
        prefix.clone_into(&mut config.kafka.topic_prefix);
        prefix.clone_into(&mut config.instance);
        let (stop, spec) = (Stop::default(), Arc::new(super::flights::spec()));
        let context = Context {
            topics: Arc::new(Topics::new(prefix)),
            config: Arc::new(config),
            spec,
            log,
            stop: stop.clone(),
            health: Health::default(),
            registry: None,
        };
        let work = move || {
            let source = MongoSource::new(&context.config, &context.spec).expect("a valid configuration");
            tidemark::tail::run(&context, Box::new(source)).expect("the servers are up");
        };
        Self { stop, thread: Some(std::thread::spawn(work)) }
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.stop.ask();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("tail ends when it is asked to");
        }
    }
}

pub(crate) fn exactly_once(runs: usize) -> Vec<Figure> {
    let bench = Bench::start();
    let client = bench.client();
    bench.runtime.block_on(async { client.database(DATABASE).create_collection(COLLECTION).await }).expect("a new database");
    let prefixes: Vec<[String; 2]> = (0..runs).map(|run| [format!("once{run}"), format!("least{run}")]).collect();
    commit_positions(&bench, DATABASE, prefixes.iter().flatten());
    let documents = flights(usize::try_from(BACKLOG).expect("it fits"));
    bench.runtime.block_on(insert(&client, DATABASE, &documents));
    drop(documents);
    let (mut once, mut least) = (Vec::new(), Vec::new());
    for [exactly, at_least] in &prefixes {
        once.push(drained(&bench, exactly, || Tail::start(&bench, exactly, Arc::new(bench.log()))).0);
        let plain = AtLeastOnce { log: bench.log(), servers: bench.kafka.bootstrap_servers.clone() };
        least.push(drained(&bench, at_least, || Tail::start(&bench, at_least, Arc::new(plain))).0);
        eprintln!("  {:.0}/s exactly once, {:.0}/s at least once", once[once.len() - 1], least[least.len() - 1]);
    }
    let (value, baseline) = (median(&once), median(&least));
    vec![Figure {
        name: "tail, a backlog of inserts, exactly once".to_owned(),
        value,
        unit: "tickets/s",
        baseline: Some(baseline),
        against: "the same at least once: a plain producer, the same batches",
        goal: ">= 0.9",
        holds: value >= 0.9 * baseline,
    }]
}
