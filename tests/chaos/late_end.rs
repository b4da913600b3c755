//! A late EndTxn: the broker takes it for the end of the next transaction, and cuts that one in two.
//!
//! First a naive producer, which believes a commit that ends well: the attack breaks it, so the test has power. Then ours.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use tidemark::log::TopicSettings;

use super::campaign::{Dice, Seeds, Story, run};
use super::check::Checker;
use super::flow;
use crate::support::late_end::LateEnd;
use crate::support::{Kafka, mongo, wait_until};

/// Attacks in one run.
const ATTACKS: usize = 10;
/// Parts of the stream, of 12 tickets each, and how many complete at most while one attack is waited for.
const PARTS: usize = 225;
const MOST_PARTS: usize = 22;
/// How long it is waited after each of them.
const AFTER_PART: Duration = Duration::from_millis(300);
/// How long an attack waits for the two transactions that it needs.
const LIMIT: Duration = Duration::from_secs(60);

/// Sends numbers in transactions of two halves, each acknowledged before the next; what fails is sent again by a new producer.
fn naive(kafka: &str, topic: &str, transactions: u32, proxy: &LateEnd) -> Option<i16> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka).set("transactional.id", "naive").set("retry.backoff.ms", "100").set("log_level", "0");
    let begin = || {
        let producer: BaseProducer = config.create().unwrap();
        producer.init_transactions(LIMIT).unwrap();
        producer
    };
    let mut producer = begin();
    let mut code = None;
    for number in 0..transactions {
        if number == 1 {
            proxy.attack("naive", 1);
        }
        loop {
            producer.begin_transaction().unwrap();
            let halves = (0..2).try_for_each(|half| {
                let value = format!("{number}.{half}");
                producer.send(BaseRecord::<(), str>::to(topic).partition(0).payload(&value)).map_err(|(error, _)| error)?;
                producer.flush(LIMIT)
            });
            match halves.and_then(|()| producer.commit_transaction(LIMIT)) {
                Ok(()) => break,
                Err(_) => producer = begin(),
            }
        }
        code = code.or_else(|| if number >= 2 { proxy.carried_out(Duration::from_secs(1)) } else { None });
    }
    code
}

struct Attacked {
    kafka: Kafka,
    proxy: LateEnd,
}

fn attacked() -> Attacked {
    let mut proxy = LateEnd::bind();
    let kafka = Kafka::behind(proxy.port, |broker| proxy.forward_to(broker));
    Attacked { kafka, proxy }
}

#[test]
fn a_late_end_breaks_who_believes_a_commit_that_ends_well() {
    let Attacked { kafka, proxy } = attacked();
    let checker = Checker::new(&mongo().uri, &kafka.bootstrap_servers, "naive", 1);
    let topic =
        TopicSettings { name: "naive".to_owned(), partitions: 1, replication: 1, compacted: false, retention_ms: None, append_time: false };
    checker.log.create_topics(&[topic]).unwrap();
    let code = naive(&kafka.bootstrap_servers, "naive", 6, &proxy);
    assert_eq!(code, Some(0), "the broker took the late EndTxn");
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for record in checker.records("naive", 0) {
        *times.entry(String::from_utf8(record.value.unwrap().to_vec()).unwrap()).or_default() += 1;
    }
    let whole: Vec<String> = (0..6).flat_map(|number| [format!("{number}.0"), format!("{number}.1")]).collect();
    let is_whole = whole.iter().all(|value| times.get(value) == Some(&1));
    assert!(!is_whole, "the attack has no power: {times:?}");
}

fn attacks(seed: u64, story: &mut Story, Attacked { kafka, proxy }: &Attacked) {
    let name = format!("late-{seed}-{}", std::process::id());
    let (deployment, checker) = flow::deployment(&name, &kafka.bootstrap_servers);
    let mut dice = Dice::new(seed);
    let process = deployment.start("one", &["run"]);
    wait_until("tail streams", LIMIT, || checker.tail_streams().then_some(()));
    let mut parts = flow::parts(PARTS);
    let mut codes: BTreeMap<i16, usize> = BTreeMap::new();
    for _ in 0..ATTACKS {
        let stage = ["tail", "watch", "judge"][dice.roll(3)];
        let id = if stage == "tail" { format!("{name}.tail") } else { format!("{name}.{stage}.one") };
        let release_at = dice.roll(3);
        proxy.attack(&id, release_at);
        let mut code = None;
        // Tickets go on until the attacked stage has begun two transactions.
        for part in parts.by_ref().take(MOST_PARTS) {
            deployment.insert(part);
            code = proxy.carried_out(AFTER_PART);
            if code.is_some() {
                break;
            }
        }
        code = code.or_else(|| proxy.carried_out(Duration::from_secs(2)));
        story.tell(format!("EndTxn of {id} held, released before request {release_at} of the next; the broker says {code:?}"));
        if let Some(code) = code {
            story.fault(&format!("of {stage}"));
            *codes.entry(code).or_default() += 1;
        }
    }
    story.note(format!("the broker's codes: {codes:?}"));
    let carried_out: usize = codes.values().sum();
    if carried_out < ATTACKS / 2 {
        story.violation(format!("{carried_out} of {ATTACKS} attacks could be carried out"));
    }
    parts.for_each(|part| deployment.insert(part));
    if !flow::until(|| process.is_alive(), || flow::is_done(&checker)) {
        flow::is_missing(&checker, std::iter::once(&process), story);
    }
    process.kill();
    flow::check(&checker, story);
}

#[test]
fn late_ends_break_nothing_of_ours() {
    let attacked = attacked();
    run(Seeds::or(1), "attacks", |seed, story| attacks(seed, story, &attacked));
}
