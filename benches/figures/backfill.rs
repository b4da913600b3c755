//! Prediction errors of 300,000 tickets in MongoDB, into Kafka, against a bare cursor with the same projection.

use std::time::{Duration, Instant};

use bson::{Document, RawDocumentBuf, doc};
use mongodb::{Client, Cursor, IndexModel};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use tidemark::backfill::{Around, Predictions, Request, Span, run};
use tidemark::config::Config;
use tidemark::history::Place;
use tidemark::log::Log;
use tidemark::model::shelf::ModelRef;
use tidemark::spec::Spec;
use tidemark::stage::Stop;
use tidemark::tail::normalise::{Normalised, Normaliser, Unreadable};
use tidemark::topics::Topics;

use super::backlog::{BACKLOG, Bench, flights};
use super::{Figure, median};
use crate::support::{flights::spec, models};

const DATABASE: &str = "backfill";
/// Rows that the model is fitted to: how long a prediction takes is decided by its trees, not by these.
const ROWS: usize = 20_000;
/// Bytes of a usual record of `prediction-errors`, without its key and headers.
const ERROR_BYTES: usize = 300;

/// All tickets, with the projection that a backfill reads them with.
async fn cursor(client: &Client, spec: &Spec) -> Cursor<RawDocumentBuf> {
    let normaliser = Normaliser::new(spec);
    let mut projection: Document = normaliser.paths().iter().map(|path| (path.to_string(), 1.into())).collect();
    projection.insert("_id", 0);
    let collection = client.database(DATABASE).collection::<RawDocumentBuf>(&spec.source.collection);
    collection.find(doc! {}).projection(projection).batch_size(1_000).await.expect("mongod is up")
}

/// Reads all tickets; returns tickets per second.
async fn bare(client: &Client, spec: &Spec) -> f64 {
    let begun = Instant::now();
    let (mut cursor, mut read) = (cursor(client, spec).await, 0);
    while cursor.advance().await.expect("mongod is up") {
        read += 1;
    }
    assert_eq!(read, BACKLOG);
    BACKLOG as f64 / begun.elapsed().as_secs_f64()
}

/// The same cursor, and a record of a usual error's size for each ticket, through an idempotent producer without transactions: what
/// two cores have room for, servers included, when nothing is computed. Returns tickets per second.
async fn read_and_write(bench: &Bench, client: &Client, spec: &Spec, topic: &str) -> f64 {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &bench.kafka.bootstrap_servers)
        .set("enable.idempotence", "true")
        .create()
        .expect("a valid client configuration");
    let value = [b'x'; ERROR_BYTES];
    let begun = Instant::now();
    let (mut cursor, mut read) = (cursor(client, spec).await, 0);
    while cursor.advance().await.expect("mongod is up") {
        let key = u64::to_le_bytes(read);
        let mut record = BaseRecord::to(topic).key(&key).payload(&value);
        while let Err((_, refused)) = producer.send(record) {
            producer.poll(Duration::from_millis(1));
            record = refused;
        }
        read += 1;
    }
    producer.flush(Duration::from_secs(60)).expect("the broker is up");
    assert_eq!(read, BACKLOG);
    BACKLOG as f64 / begun.elapsed().as_secs_f64()
}

pub(crate) fn backfill(runs: usize) -> Vec<Figure> {
    let (bench, spec) = (Bench::start(), spec());
    let client = bench.client();
    let documents = flights(usize::try_from(BACKLOG).expect("it fits"));
    let normaliser = Normaliser::new(&spec);
    let tickets: Vec<_> = documents[..ROWS]
        .iter()
        .filter_map(|document| {
            let raw = RawDocumentBuf::try_from(document).expect("a flight is BSON");
            match normaliser.from_bson(&raw, &mut Unreadable::default()) {
                Normalised::Completed(ticket) => Some(ticket),
                _ => None,
            }
        })
        .collect();
    let (version, model) = models::publish(bench.folder.path(), &spec, &tickets);
    let named = ModelRef { name: spec.model.clone(), version, sha256: String::new() };
    let rescored = Predictions::Rescored(named, std::sync::Arc::new(model));
    bench.runtime.block_on(async {
        let collection = client.database(DATABASE).collection::<Document>(&spec.source.collection);
        for chunk in documents.chunks(1_000) {
            collection.insert_many(chunk).ordered(false).await.expect("mongod takes the flights");
        }
        let index = IndexModel::builder().keys(doc! { "completed_at": 1 }).build();
        collection.create_index(index).await.expect("mongod makes an index");
    });
    drop(documents);
    let ours = |prefix: String, predictions: Predictions| {
        let mut config = Config::default();
        config.mongodb.uri = Some(bench.mongo.uri.clone().into());
        config.mongodb.database = Some(DATABASE.to_owned());
        config.kafka.topic_prefix = prefix;
        let log = bench.log();
        let request = Request { place: Place::Mongodb, span: Span::default(), predictions, write_back: false, dry_run: false };
        let begun = Instant::now();
        let around = Around { config: &config, spec: &spec, log: Some(&log), stop: Stop::default() };
        let report = run(&request, &around, &mut |_| {}).expect("the servers are up");
        assert!(report.written == report.stats.processed && report.stats.total_tickets == BACKLOG, "{report:?}");
        BACKLOG as f64 / begun.elapsed().as_secs_f64()
    };
    let (mut cursor, mut plain, mut recorded, mut by_model) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let topics = Topics::new("plain");
    let mut settings = topics.settings(&Config::default().topic_plan());
    settings.retain(|topic| topic.name == *topics.prediction_errors);
    bench.log().create_topics(&settings).expect("the broker is up");
    for n in 0..runs {
        plain.push(bench.runtime.block_on(read_and_write(&bench, &client, &spec, &topics.prediction_errors)));
        cursor.push(bench.runtime.block_on(bare(&client, &spec)));
        recorded.push(ours(format!("recorded{n}"), Predictions::Recorded));
        by_model.push(ours(format!("rescored{n}"), rescored.clone()));
        eprintln!(
            "  {:.0}/s recorded, {:.0}/s rescored, against {:.0}/s, and {:.0}/s read and written by a plain producer",
            recorded[n], by_model[n], cursor[n], plain[n]
        );
    }
    let beside = |name: &str, values: &[f64]| Figure {
        name: format!("{name}, against reading and writing"),
        value: median(values),
        unit: "tickets/s",
        baseline: Some(median(&plain)),
        against: "the same cursor and a plain producer, nothing computed",
        goal: "none (what two cores have room for, servers included)",
        holds: true,
    };
    let figure = |name: &str, values: &[f64]| {
        let (value, baseline) = (median(values), median(&cursor));
        Figure {
            name: name.to_owned(),
            value,
            unit: "tickets/s",
            baseline: Some(baseline),
            against: "bare find cursor, same projection",
            goal: ">= 0.6 of the cursor",
            holds: value >= 0.6 * baseline,
        }
    };
    let (name, by_model_name) = ("backfill: recorded predictions", "backfill: rescored by a model");
    vec![figure(name, &recorded), beside(name, &recorded), figure(by_model_name, &by_model), beside(by_model_name, &by_model)]
}
