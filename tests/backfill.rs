//! Backfill on real servers: killed and started again, read by a client that is not ours; tickets of every form of time; the
//! change stream while predictions are written back.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::time::Duration;

use bson::{Bson, DateTime, Document, doc};
use mongodb::options::IndexOptions;
use mongodb::{Client, Collection, IndexModel};
use serde_json::Value;
use tidemark::backfill::{Around, Predictions, Report, Request, Span, run};
use tidemark::config::Config;
use tidemark::history::Place;
use tidemark::log::Log;
use tidemark::log::kafka::KafkaLog;
use tidemark::log::memory::MemoryLog;
use tidemark::spec::Spec;
use tidemark::stage::Stop;
use tidemark::tail::normalise::{Normalised, Normaliser, Unreadable};
use tidemark::ticket::Ticket;
use tokio::runtime::Runtime;

use crate::support::schemas::{check, validate};
use crate::support::{Deployment, Seen, kafka, models, mongo, wait_until};

const DAY_MS: i64 = 86_400_000;
/// 2013-01-01, UTC.
const JANUARY: i64 = 1_356_998_400_000;
const LIMIT: Duration = Duration::from_secs(60);

fn spec() -> Spec {
    Spec::from_toml(include_str!("../config/execution-tickets.toml")).unwrap()
}

/// Ticket `n`, 500 a day, with a prediction unless `n` ends in 9, and an answer unless it ends in 98.
fn ticket(n: i64) -> Document {
    let task = ["BUILD", "DEPLOY", "TEST"][usize::try_from(n.rem_euclid(3)).unwrap()];
    let mut ticket = doc! {
        "_id": n, "ticket_id": format!("T-{n}"), "status": "COMPLETED", "task_type": task, "risk_band": "low",
        "completed_at": JANUARY + n * DAY_MS / 500, "estimated_duration_ms": Bson::Null,
        "predictions": { "duration_ms": predicted(n), "model_version": "0" },
        "actual_duration_ms": actual(n),
    };
    if n % 20 == 9 {
        ticket.insert("predictions", Bson::Null);
    }
    if n % 20 == 19 {
        ticket.remove("predictions");
    }
    if n % 100 == 98 {
        ticket.insert("actual_duration_ms", -1);
    }
    ticket
}

fn predicted(n: i64) -> i64 {
    if n % 1_000 == 1 { 500 } else { 20_000 + n * 7 % 1_000 }
}

fn actual(n: i64) -> i64 {
    18_000 + n * 13 % 5_000
}

fn has_error(n: i64) -> bool {
    n % 10 != 9 && n % 100 != 98
}

struct World {
    runtime: Runtime,
    tickets: Collection<Document>,
    config: Config,
}

impl World {
    fn new(name: &str) -> Self {
        let runtime = Runtime::new().unwrap();
        let client = runtime.block_on(Client::with_uri_str(&mongo().uri)).unwrap();
        let tickets = client.database(name).collection("execution_tickets");
        let mut config = Config::default();
        config.mongodb.uri = Some(mongo().uri.clone().into());
        config.mongodb.database = Some(name.to_owned());
        Self { runtime, tickets, config }
    }

    fn insert(&self, documents: impl IntoIterator<Item = Document>) {
        let documents: Vec<Document> = documents.into_iter().collect();
        for chunk in documents.chunks(1_000) {
            self.runtime.block_on(async { self.tickets.insert_many(chunk).await }).unwrap();
        }
    }

    fn index(&self) {
        let model = IndexModel::builder().keys(doc! { "completed_at": 1 }).options(IndexOptions::default()).build();
        self.runtime.block_on(async { self.tickets.create_index(model).await }).unwrap();
    }

    fn history(&self) -> (Vec<Document>, Vec<IndexModel>) {
        use futures_util::TryStreamExt;
        let collection: Collection<Document> =
            self.tickets.client().database(&self.tickets.namespace().db).collection("ml_backfill_history");
        self.runtime.block_on(async {
            let documents = collection.find(doc! {}).await.unwrap().try_collect().await.unwrap();
            (documents, collection.list_indexes().await.unwrap().try_collect().await.unwrap())
        })
    }

    fn stored(&self, id: i64) -> Document {
        self.runtime.block_on(async { self.tickets.find_one(doc! { "_id": id }).await }).unwrap().unwrap()
    }

    fn backfill(&self, place: Place, span: Span) -> Report {
        let log = MemoryLog::new();
        let request = Request { place, span, predictions: Predictions::Recorded, write_back: false, dry_run: false };
        let around = Around { config: &self.config, spec: &spec(), log: Some(&log), stop: Stop::default() };
        run(&request, &around, &mut |_| {}).unwrap()
    }
}

fn errors(seen: &[Seen]) -> Vec<Value> {
    let errors = seen.iter().filter(|record| record.topic == "prediction-errors");
    errors.filter(|record| record.headers["kind"] == "backfilled-error").map(Seen::json).collect()
}

fn identities(errors: &[Value]) -> Vec<String> {
    let identity =
        |error: &Value| format!("{} {} {} {}", error["ticket"], error["completed_at"], error["version"], error["source"]["backfill"]);
    errors.iter().map(identity).collect()
}

#[test]
fn killed_at_many_places_and_started_again_each_error_is_read_once_by_a_foreign_client() {
    const TICKETS: i64 = 40_000;
    let number_of = |is: fn(i64) -> bool| (0..TICKETS).map(|n| i64::from(is(n))).sum::<i64>();
    let name = "backfill-kills";
    let (world, deployment) = (World::new(name), Deployment::new(name, 3));
    world.insert((0..TICKETS).map(ticket));
    world.index();
    let mut kafka_config = world.config.kafka.clone();
    kafka_config.bootstrap_servers = Some(kafka().bootstrap_servers.clone());
    let log = KafkaLog::connect(&kafka_config).unwrap();
    let topic = format!("{name}.prediction-errors");
    let written = || {
        let partitions = log.partitions(&topic).unwrap_or(0);
        let mut reader = log.reader().unwrap();
        (0..partitions).map(|partition| reader.bounds(&topic, partition).map_or(0, |bounds| bounds.end)).sum::<i64>()
    };
    // Uncommitted records count here: it is killed within transactions, too.
    for (kill, records) in [1, 4_000, 5_600, 9_000, 15_500, 24_000].into_iter().enumerate() {
        let process = deployment.start(&format!("kill{kill}"), &["backfill"]);
        wait_until("the backfill writes", LIMIT, || (written() >= records).then_some(()));
        process.kill();
    }
    let report: Value = serde_json::from_str(&deployment.command(&["backfill", "--output", "json"])).unwrap();
    let again: Value = serde_json::from_str(&deployment.command(&["backfill", "--output", "json"])).unwrap();

    let expected = (0..TICKETS).filter(|n| has_error(*n)).count();
    let seen = deployment.read(None);
    let errors = errors(&seen);
    let found = identities(&errors);
    let distinct: BTreeSet<&String> = found.iter().collect();
    assert_eq!((found.len(), distinct.len()), (expected, expected), "nothing twice, nothing missing");
    assert!(report["already_there"].as_u64().unwrap() > 0, "the kills came after something was written: {report}");
    assert_eq!((&again["written"], again["already_there"].as_u64()), (&Value::from(0), Some(expected as u64)));
    assert!(errors.iter().all(|error| error["backfilled"] == true && error.get("in_sample").is_none()));

    // The statistics, computed here in integers.
    let mut theirs: Vec<i64> = (0..TICKETS).filter(|n| has_error(*n)).map(|n| (predicted(n) - actual(n)).abs()).collect();
    theirs.sort_unstable();
    let (documents, indexes) = world.history();
    assert_eq!(documents.len(), 1, "one document a job, however often it runs");
    let stats = documents[0].get_document("stats").unwrap();
    let count = |name: &str| stats.get(name).map(|count| count.to_string().parse::<i64>().unwrap()).unwrap();
    let (no_actual, no_predicted) = (number_of(|n| n % 100 == 98), TICKETS / 10);
    assert_eq!((count("processed"), count("skipped_no_actual")), (number_of(has_error), no_actual));
    assert_eq!((count("skipped_no_predicted"), count("skipped_invalid"), count("total_tickets")), (no_predicted, 0, TICKETS));
    let near = |name: &str, value: f64| assert!((stats.get_f64(name).unwrap() - value).abs() < 1e-6 * value, "{name}: {value} {stats}");
    near("mean_error_ms", theirs.iter().sum::<i64>() as f64 / theirs.len() as f64);
    let at = |q: f64| {
        let place = (theirs.len() - 1) as f64 * q;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in the list")]
        let (low, high) = (theirs[place as usize] as f64, theirs[place.ceil() as usize] as f64);
        low + (high - low) * place.fract()
    };
    near("median_error_ms", at(0.5));
    near("p50_error_ms", at(0.5));
    near("p95_error_ms", at(0.95));
    near("p99_error_ms", at(0.99));
    let extreme = number_of(|n| has_error(n) && (predicted(n) - actual(n)).abs() > 3 * predicted(n));
    assert!(extreme > 10);
    assert_eq!((count("extreme_errors_count"), stats.get_array("extreme_errors").unwrap().len()), (extreme, 10));
    let ttl = indexes.iter().find(|index| index.keys.contains_key("retention_until")).unwrap();
    assert_eq!(ttl.options.as_ref().unwrap().expire_after, Some(Duration::ZERO));
    let days = documents[0].get_datetime("retention_until").unwrap().timestamp_millis()
        - documents[0].get_datetime("timestamp").unwrap().timestamp_millis();
    assert_eq!(days, 90 * DAY_MS);
}

#[test]
fn every_form_of_time_is_read_once_whether_through_an_index_or_not() {
    const TICKETS: i64 = 45_000;
    let world = World::new("backfill-times");
    let form = |n: i64| {
        let mut ticket = ticket(n);
        let ms = ticket.get_i64("completed_at").unwrap();
        let text = |ms: i64, zone: &str| DateTime::from_millis(ms).try_to_rfc3339_string().unwrap().replace('Z', zone);
        match n % 4 {
            0 => ticket.insert("completed_at", DateTime::from_millis(ms)),
            1 => ticket.insert("completed_at", text(ms, "Z")),
            2 => ticket.insert("completed_at", text(ms + 14 * 3_600_000, "+14:00")),
            _ => None,
        };
        ticket
    };
    let without = |n: i64, time: Option<&str>| {
        let mut ticket = ticket(n);
        match time {
            Some(time) => ticket.insert("completed_at", time),
            None => ticket.remove("completed_at"),
        };
        ticket
    };
    let pending = doc! { "_id": -1, "ticket_id": "pending", "status": "PENDING" };
    let odd = [without(-10, None), without(-20, Some("yesterday")), without(-30, Some("2013-02-30T00:00:00Z")), pending];
    world.insert((0..TICKETS).map(form).chain(odd));
    let (day, half) = (Span { from_ms: Some(JANUARY + 40 * DAY_MS), to_ms: Some(JANUARY + 41 * DAY_MS) }, JANUARY + 45 * DAY_MS + 7);
    let spans = [Span::default(), day, Span { from_ms: None, to_ms: Some(half) }, Span { from_ms: Some(half), to_ms: None }];
    let file = {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        for n in 0..TICKETS {
            writeln!(file, "{}", serde_json::to_string(&form(n)).unwrap()).unwrap();
        }
        file
    };
    let in_one_pass: Vec<Report> = spans.map(|span| world.backfill(Place::Mongodb, span)).into();
    world.index();
    let through_the_index: Vec<Report> = spans.map(|span| world.backfill(Place::Mongodb, span)).into();
    let from_file: Vec<Report> = spans.map(|span| world.backfill(Place::File(file.path().to_owned(), None), span)).into();
    for ((pass, index), file) in in_one_pass.iter().zip(&through_the_index).zip(&from_file) {
        assert_eq!(pass.stats, index.stats);
        assert_eq!((pass.written, index.written), (file.written, file.written));
        assert_eq!(pass.stats.total_tickets - pass.stats.skipped_invalid, file.stats.total_tickets);
    }
    let totals: Vec<u64> = in_one_pass.iter().map(|report| report.stats.total_tickets).collect();
    let before = u64::try_from((half - JANUARY) * 500 / DAY_MS + 1).unwrap();
    assert_eq!(totals, [45_003, 500, before, 45_000 - before]);
    assert_eq!(in_one_pass[0].stats.skipped_invalid, 3, "what does not say when it completed counts when all is asked for");
    assert!(in_one_pass[0].notes.iter().any(|note| note.contains("createIndex({\"completed_at\": 1})")), "{:?}", in_one_pass[0].notes);
    assert!(through_the_index[0].notes.is_empty(), "{:?}", through_the_index[0].notes);
}

#[test]
fn predictions_are_written_back_without_completing_a_ticket_again() {
    const TICKETS: i64 = 600;
    let name = "backfill-write-back";
    let (world, deployment, spec) = (World::new(name), Deployment::new(name, 2), spec());
    let registry = tempfile::tempdir().unwrap();
    let normaliser = Normaliser::new(&spec);
    let normalised = |n: i64| {
        let raw = bson::RawDocumentBuf::try_from(&ticket(n)).unwrap();
        normaliser.from_bson(&raw, &mut Unreadable::default())
    };
    let completed = (0..TICKETS).filter_map(|n| if let Normalised::Completed(ticket) = normalised(n) { Some(ticket) } else { None });
    let tickets: Vec<Ticket> = completed.collect();
    let (version, model) = models::publish(registry.path(), &spec, &tickets);
    let directory = format!("registry.directory={}", registry.path().display());
    let tail = deployment.start("tail", &["run", "--stages", "tail"]);
    tail.wait_for("tail");
    let scalar = |n: i64| {
        let mut ticket = ticket(n);
        ticket.insert("predictions", "none of your business");
        ticket
    };
    world.insert((0..TICKETS).map(|n| if n == 7 { scalar(n) } else { ticket(n) }));
    let arguments = ["backfill", "--model", &version.to_string(), "--write-back", "--set", &directory, "--output", "json"];
    let first: Value = serde_json::from_str(&deployment.command(&arguments)).unwrap();
    let again: Value = serde_json::from_str(&deployment.command(&arguments)).unwrap();
    // Whatever the updates brought stands before this one.
    world.insert([ticket(TICKETS)]);
    let id = format!("T-{TICKETS}");
    let seen = wait_until("the last ticket arrives", LIMIT, || {
        let seen = deployment.read(None);
        seen.iter().any(|record| record.topic == "tickets" && record.key.as_deref() == Some(&id)).then_some(seen)
    });
    tail.stop();
    let usable = tickets.len() as u64;
    assert_eq!((first["written"].as_u64(), first["written_back"].as_u64()), (Some(usable), Some(usable - 1)));
    assert!(first["notes"][1].as_str().unwrap().starts_with("1 tickets did not get their prediction"), "{first}");
    assert_eq!(world.stored(7).get_str("predictions").unwrap(), "none of your business");
    assert_eq!((again["written"].as_u64(), again["written_back"].as_u64()), (Some(0), Some(0)), "a second run changes nothing");

    let mut completions: BTreeMap<String, usize> = BTreeMap::new();
    for record in seen.iter().filter(|record| record.topic == "tickets" && record.headers["kind"] == "ticket") {
        *completions.entry(record.key.clone().unwrap()).or_default() += 1;
    }
    assert_eq!(completions.len() as u64, usable + 1);
    assert!(completions.values().all(|times| *times == 1), "no ticket completes again");

    let encoder = tidemark::features::Encoder::new(&spec).unwrap();
    for record in errors(&seen) {
        let n: i64 = record["ticket"].as_str().unwrap().trim_start_matches("T-").parse().unwrap();
        if n == 7 {
            continue;
        }
        let stored = world.stored(n);
        let predictions = stored.get_document("predictions").unwrap();
        assert_eq!(predictions.get_str("model_version").unwrap(), version.to_string());
        let Normalised::Completed(ticket) = normalised(n) else { panic!("{record} is of a completed ticket") };
        let mut row = tidemark::features::Row::default();
        encoder.encode(&ticket.fields, &mut row);
        let expected = model.predict(&encoder, &row);
        assert!(
            (predictions.get_f64("duration_ms").unwrap() - expected).abs() < 1e-9
                && (record["predicted"].as_f64().unwrap() - expected).abs() < 1e-9
        );
        let (begin, end) = model.card().data_ms;
        assert_eq!(record["in_sample"], (begin..end).contains(&ticket.completed_at_ms));
        assert_eq!((&record["series"], &record["version"]), (&Value::from(format!("v{version}")), &Value::from(version.to_string())));
    }
    assert_eq!(
        world.stored(98).get_document("predictions").unwrap().get_str("model_version").unwrap(),
        "0",
        "no answer, no error, no change"
    );
}

#[test]
fn what_is_written_keeps_to_the_schemas() {
    let log = MemoryLog::new();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for n in 0..20 {
        writeln!(file, "{}", serde_json::to_string(&ticket(n)).unwrap()).unwrap();
    }
    let place = Place::File(file.path().to_owned(), None);
    let request = Request { place, span: Span::default(), predictions: Predictions::Recorded, write_back: false, dry_run: false };
    let config = Config::default();
    run(&request, &Around { config: &config, spec: &spec(), log: Some(&log), stop: Stop::default() }, &mut |_| {}).unwrap();
    let mut reader = log.reader().unwrap();
    for topic in ["prediction-errors", "model-events"] {
        let full = format!("tidemark.{topic}");
        let mut records = 0;
        for partition in 0..log.partitions(&full).unwrap() {
            let bounds = reader.bounds(&full, partition).unwrap();
            let mut each = |record| {
                validate(topic, &record);
                records += 1;
                std::ops::ControlFlow::Continue(())
            };
            reader.read(&full, partition, bounds.low, bounds.end, &mut each).unwrap();
        }
        assert_eq!(records, if topic == "model-events" { 2 } else { 18 }, "{topic}");
    }
    assert!(check("prediction-errors", br#"{"source":{"backfill":"guessed","range":0}}"#).is_err());
}
