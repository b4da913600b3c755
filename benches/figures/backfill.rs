//! Prediction errors of 300,000 tickets in MongoDB, into Kafka, against a bare cursor with the same projection.

use std::time::Instant;

use bson::{Document, RawDocumentBuf, doc};
use mongodb::{Client, IndexModel};
use tidemark::backfill::{Around, Predictions, Request, Span, run};
use tidemark::config::Config;
use tidemark::history::Place;
use tidemark::model::shelf::ModelRef;
use tidemark::spec::Spec;
use tidemark::stage::Stop;
use tidemark::tail::normalise::{Normalised, Normaliser, Unreadable};

use super::backlog::{BACKLOG, Bench, flights};
use super::{Figure, median};
use crate::support::{flights::spec, models};

const DATABASE: &str = "backfill";
/// Rows that the model is fitted to: how long a prediction takes is decided by its trees, not by these.
const ROWS: usize = 20_000;

/// Reads all tickets with the projection that a backfill reads them with; returns tickets per second.
async fn bare(client: &Client, spec: &Spec) -> f64 {
    let normaliser = Normaliser::new(spec);
    let mut projection: Document = normaliser.paths().iter().map(|path| (path.to_string(), 1.into())).collect();
    projection.insert("_id", 0);
    let collection = client.database(DATABASE).collection::<RawDocumentBuf>(&spec.source.collection);
    let begun = Instant::now();
    let mut cursor = collection.find(doc! {}).projection(projection).batch_size(1_000).await.expect("mongod is up");
    let mut read = 0;
    while cursor.advance().await.expect("mongod is up") {
        read += 1;
    }
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
    let (mut cursor, mut recorded, mut by_model) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..runs {
        cursor.push(bench.runtime.block_on(bare(&client, &spec)));
        recorded.push(ours(format!("recorded{n}"), Predictions::Recorded));
        by_model.push(ours(format!("rescored{n}"), rescored.clone()));
        eprintln!("  {:.0}/s recorded, {:.0}/s rescored, against {:.0}/s", recorded[n], by_model[n], cursor[n]);
    }
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
    vec![figure("backfill: recorded predictions", &recorded), figure("backfill: rescored by a model", &by_model)]
}
