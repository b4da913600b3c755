//! Predictions over HTTP: one ticket at 1,000 requests/s beside scikit-learn, and a worker's load against 1,000,000 tickets.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::{DateTime, Document, doc};
use serde_json::json;
use tidemark::features::Encoder;
use tidemark::model::duration::{DurationModel, MODEL_FILE};
use tidemark::registry::{Lineage, LocalRegistry, Publication, Registry};
use tidemark::train::candidate::fit;
use tidemark::train::frame::{Collecting, Frame};

use super::process::Tidemark;
use super::{Figure, flights, median, quantile};
use crate::support::process::{free_ports, tools, wait_until};
use crate::support::{Mongo, mongo::runtime};

/// Rows that both models are trained on; tickets that are asked for; connections that ask.
const TRAINED: usize = 50_000;
const ASKED: usize = 2_000;
const CONNECTIONS: usize = 8;

/// A client's connection, kept.
struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("the server listens");
        stream.set_nodelay(true).expect("a socket");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket");
        Self(BufReader::new(stream))
    }

    /// Sends a request and returns the answer's body; panics unless its status is 200.
    fn ask(&mut self, request: &[u8]) -> Vec<u8> {
        self.0.get_mut().write_all(request).expect("the server reads");
        let (mut line, mut length) = (String::new(), 0);
        self.0.read_line(&mut line).expect("the server answers");
        assert!(line.starts_with("HTTP/1.1 200"), "{line}");
        loop {
            line.clear();
            self.0.read_line(&mut line).expect("the server answers");
            let (name, value) = line.trim().split_once(':').unwrap_or_default();
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().expect("a length");
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).expect("the server answers");
        body
    }
}

fn post(endpoint: &str, body: &str) -> Vec<u8> {
    let head = format!("POST /v1/predictions/{endpoint} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json");
    format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// Asks at `rate` requests/s for `time`, over [`CONNECTIONS`] connections, and returns each latency in ms: from when the request
/// was due when its connection was still busy then, so that a slow answer counts for all who wait behind it.
fn paced(port: u16, requests: &Arc<Vec<Vec<u8>>>, rate: u32, time: Duration) -> Vec<f64> {
    let begun = Instant::now() + Duration::from_millis(50);
    let asking = |connection: usize| {
        let requests = Arc::clone(requests);
        let every = Duration::from_secs(CONNECTIONS as u64) / rate;
        let first = begun + every * u32::try_from(connection).expect("few") / u32::try_from(CONNECTIONS).expect("few");
        std::thread::spawn(move || {
            let mut client = Client::connect(port);
            let (mut due, mut latencies) = (first, Vec::new());
            while due < begun + time {
                let wait = due.saturating_duration_since(Instant::now());
                std::thread::sleep(wait);
                let from = if wait.is_zero() { due } else { Instant::now() };
                client.ask(&requests[(latencies.len() * CONNECTIONS + connection) % requests.len()]);
                latencies.push(from.elapsed().as_secs_f64() * 1e3);
                due += every;
                // A server that cannot keep up is measured for as long as it was to be asked, and no longer.
                if Instant::now() > begun + time * 2 {
                    break;
                }
            }
            latencies
        })
    };
    let threads: Vec<_> = (0..CONNECTIONS).map(asking).collect();
    threads.into_iter().flat_map(|thread| thread.join().expect("the server answers")).collect()
}

struct Prepared {
    folder: tempfile::TempDir,
    requests: Arc<Vec<Vec<u8>>>,
}

/// Trains the forest, puts it into Production of a registry in a folder, and writes the same rows for scikit-learn.
fn prepare() -> Prepared {
    let spec = flights::spec();
    let mut collecting = Collecting::new(Arc::new(Encoder::new(&spec).expect("the spec's features")));
    flights::tickets().iter().take(TRAINED + 10_000).for_each(|ticket| collecting.push(ticket));
    let frame = collecting.frame();
    let candidate = fit("bench", &frame, &spec, (0..TRAINED, TRAINED..TRAINED + 10_000), 1).expect("the flights train a model");
    let folder = tempfile::tempdir().expect("a folder");
    let registry = LocalRegistry::new(folder.path().join("registry"));
    let file = candidate.model.to_bytes(&spec.target.name).expect("a forest can be written");
    let publication = Publication {
        model: spec.model.clone(),
        model_description: String::new(),
        key: "bench".to_owned(),
        run_name: "bench".to_owned(),
        start_ms: 0,
        end_ms: 1,
        params: [].into(),
        metrics: [].into(),
        tags: [].into(),
        description: String::new(),
        lineage: Lineage::default(),
        artifacts: [(MODEL_FILE.to_owned(), file)].into(),
    };
    let version = registry.publish(&publication).expect("a folder takes a model").version;
    registry.promote(&spec.model, version, "bench").expect("it is there");
    write_for_python(&folder, &frame, &candidate.model);
    let lines = flights::lines().filter(|line| line.contains("\"COMPLETED\"")).skip(TRAINED).take(ASKED);
    let requests = lines.map(|line| post("duration", &format!("{{\"ticket\":{line}}}"))).collect();
    Prepared { folder, requests: Arc::new(requests) }
}

fn write_for_python(folder: &tempfile::TempDir, frame: &Frame, model: &DurationModel) {
    let (spec, card) = (flights::spec(), model.card());
    let inputs: Vec<u8> = frame.inputs(0..TRAINED, &card.learned).iter().flat_map(|value| value.to_le_bytes()).collect();
    let actual: Vec<u8> = frame.actual()[..TRAINED].iter().flat_map(|value| value.to_le_bytes()).collect();
    let features = spec.features.iter().zip(&card.learned).map(|(feature, learned)| {
        let values = if learned.is_empty() { feature.table.iter().map(|entry| entry.value).collect() } else { learned.clone() };
        let table = feature.table.iter().map(|entry| entry.text.to_lowercase()).zip(values).collect::<std::collections::BTreeMap<_, _>>();
        json!({ "name": feature.name, "default": feature.default, "table": table })
    });
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).expect("the bench's folder takes a file");
    write("inputs.f32", &inputs);
    write("actual.f64", &actual);
    write("features.json", json!(features.collect::<Vec<_>>()).to_string().as_bytes());
}

/// scikit-learn behind uvicorn, killed when dropped.
struct Python(Child);

impl Python {
    fn start(prepared: &Prepared, port: u16) -> Self {
        let mut python = Command::new(tools().join("venv/bin/python"));
        python.arg("peers/predict_server.py").arg(prepared.folder.path()).arg(port.to_string()).stdin(Stdio::null());
        let mut child = python.spawn().expect("scikit-learn is installed: run script/bootstrap mlflow");
        wait_until("scikit-learn is trained and answers", Duration::from_mins(5), || {
            assert!(child.try_wait().expect("a child").is_none(), "peers/predict_server.py ended; run script/bootstrap mlflow");
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Self(child)
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn serve(port: u16, environment: &[(&str, String)], log: &std::path::Path, part: &str, says: &str) -> Tidemark {
    let listen = format!("127.0.0.1:{port}");
    let tidemark = Tidemark::start(&["serve", "--listen", &listen], environment, log);
    wait_until("tidemark serve is ready", Duration::from_mins(1), || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        let parts: serde_json::Value = serde_json::from_str(body).ok()?;
        parts["parts"][part]["says"].as_str().filter(|said| said.contains(says)).map(|_| ())
    });
    tidemark
}

/// One prediction over HTTP.
pub(crate) fn duration(runs: usize) -> Vec<Figure> {
    let prepared = prepare();
    let [ours, theirs] = free_ports();
    let registry = prepared.folder.path().join("registry").display().to_string();
    let environment = [("TIDEMARK_REGISTRY_DIRECTORY", registry), ("ENABLE_ML_ENHANCED_SCHEDULING", "true".to_owned())];
    let tidemark = serve(ours, &environment, &prepared.folder.path().join("serve.log"), "model", "version 1 answers");
    let answer = Client::connect(ours).ask(&prepared.requests[0]);
    assert!(String::from_utf8_lossy(&answer).contains("\"source\":\"model\""), "the model answers");
    let python = Python::start(&prepared, theirs);
    let mut latencies = [const { Vec::new() }; 4];
    for run in 0..runs {
        let [p50, p99, peer_p50, peer_p99] = &mut latencies;
        let own = paced(ours, &prepared.requests, 1_000, Duration::from_secs(10));
        let peer = paced(theirs, &prepared.requests, 1_000, Duration::from_secs(5));
        let calm = paced(theirs, &prepared.requests, 50, Duration::from_secs(5));
        let of = |values: &[f64]| (quantile(values, 0.5), quantile(values, 0.99));
        let ((own50, own99), (peer50, peer99), (calm50, calm99)) = (of(&own), of(&peer), of(&calm));
        eprintln!(
            "  run {run}: p50 {own50:.3} ms, p99 {own99:.3} ms of {}; scikit-learn {peer50:.1}, {peer99:.1} ms of {}; at 50/s {calm50:.1}, {calm99:.1} ms",
            own.len(),
            peer.len()
        );
        p50.push(own50);
        p99.push(own99);
        peer_p50.push(peer50);
        peer_p99.push(peer99);
    }
    drop(python);
    tidemark.stop();
    let [p50, p99, peer_p50, peer_p99] = &latencies;
    let figure = |what: &str, values: &[f64], peer: &[f64], limit: f64, goal| Figure {
        name: format!("one prediction over HTTP, 1,000/s, {what}"),
        value: median(values),
        unit: "ms",
        baseline: Some(median(peer)),
        against: "scikit-learn behind uvicorn",
        goal,
        holds: median(values) <= limit,
    };
    vec![figure("p50", p50, peer_p50, 0.5, "<= 0.5 ms"), figure("p99", p99, peer_p99, 3.0, "<= 3 ms")]
}

/// Tickets in MongoDB, and the workers that they belong to.
const TICKETS: i64 = 1_000_000;
const WORKERS: i64 = 2_000;

/// Fills the collection: of a worker's 500 tickets 5 wait or are at work, 100 completed in the last hour, the others before.
fn fill(mongo: &Mongo) {
    let runtime = runtime();
    runtime.block_on(async {
        let client = mongodb::Client::with_uri_str(&mongo.uri).await.expect("a valid connection string");
        let tickets = client.database("predict").collection::<Document>("execution_tickets");
        let now_ms = DateTime::now().timestamp_millis();
        let ticket = |number: i64| {
            let (worker, rank) = (number % WORKERS, number / WORKERS);
            let mut ticket = doc! { "ticket_id": format!("t{number}"), "task_type": "BUILD", "risk_band": "low", "retry_count": 0,
            "allocated_worker_id": format!("worker-{worker}"), "estimated_duration_ms": 60_000, "sla": { "timeout_ms": 300_000 } };
            match rank {
                0..5 => drop(ticket.insert("status", if rank < 4 { "PENDING" } else { "EXECUTING" })),
                _ => {
                    let minutes = if rank < 105 { rank % 50 + 1 } else { 120 + rank };
                    ticket.insert("status", "COMPLETED");
                    ticket.insert("completed_at", DateTime::from_millis(now_ms - minutes * 60_000 - number % 997));
                    ticket.insert("actual_duration_ms", 1_000 + number % 5_000);
                }
            }
            ticket
        };
        for first in (0..TICKETS).step_by(10_000) {
            let batch: Vec<Document> = (first..first + 10_000).map(ticket).collect();
            tickets.insert_many(batch).ordered(false).await.expect("mongod takes the tickets");
        }
        let keys = doc! { "allocated_worker_id": 1, "status": 1, "completed_at": -1 };
        let index = doc! { "createIndexes": "execution_tickets", "indexes": [{ "key": keys, "name": "worker" }] };
        client.database("predict").run_command(index).await.expect("mongod makes the index");
    });
}

/// A worker's load against 1,000,000 tickets, each worker asked for the first time.
pub(crate) fn load(runs: usize) -> Vec<Figure> {
    let mongo = Mongo::start();
    fill(&mongo);
    let folder = tempfile::tempdir().expect("a folder");
    let requests: Vec<Vec<u8>> = (0..WORKERS).map(|worker| post("load", &format!("{{\"worker_id\":\"worker-{worker}\"}}"))).collect();
    let mut p99 = Vec::new();
    let mut fell_back = Vec::new();
    for run in 0..runs {
        let [port] = free_ports();
        let environment = [("MONGODB_URI", mongo.uri.clone()), ("MONGODB_DATABASE", "predict".to_owned())];
        // A new process remembers no worker.
        let tidemark = serve(port, &environment, &folder.path().join(format!("serve{run}.log")), "load", "has the index");
        let mut client = Client::connect(port);
        let (mut latencies, mut fallbacks) = (Vec::new(), 0);
        for request in &requests {
            let begun = Instant::now();
            let answer = client.ask(request);
            latencies.push(begun.elapsed().as_secs_f64() * 1e3);
            fallbacks += u32::from(!String::from_utf8_lossy(&answer).contains("\"source\":\"rules\""));
        }
        tidemark.stop();
        p99.push(quantile(&latencies, 0.99));
        fell_back.push(100.0 * f64::from(fallbacks) / requests.len() as f64);
        eprintln!("  p50 {:.2} ms, p99 {:.2} ms, {fallbacks} of {} fell back", quantile(&latencies, 0.5), p99[run], requests.len());
    }
    let (value, share) = (median(&p99), median(&fell_back));
    let figure =
        |name: &str, value, unit, goal, holds| Figure { name: name.to_owned(), value, unit, baseline: None, against: "", goal, holds };
    vec![
        figure("a worker's load against 1,000,000 tickets, p99", value, "ms", "<= 50 ms", value <= 50.0),
        figure("the same, answers that fell back", share, "%", "<= 1 %", share <= 1.0),
    ]
}
