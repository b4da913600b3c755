//! The webhook against a receiver that answers, fails, redirects and is slow.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use hmac::{Hmac, Mac};
use serde_json::Value;
use sha2::Sha256;

use tidemark::alert::Alert;
use tidemark::clock;
use tidemark::config::{Config, Webhook};
use tidemark::log::memory::MemoryLog;
use tidemark::log::{Log, LogError, Transaction};
use tidemark::pipeline::{Pipeline, Stage};
use tidemark::spec::Spec;
use tidemark::stage::{Context, Health, State, Stop};
use tidemark::topics::Topics;
use tidemark::webhook::{self, Feed};

use crate::support::disturbed::{Disturbed, Ways};
use crate::support::wait_until;

const PATIENCE: Duration = Duration::from_secs(30);

/// A request as it arrived.
struct Request {
    headers: Vec<(String, String)>,
    body: String,
}

impl Request {
    fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value.as_str())
    }

    fn message(&self) -> Value {
        let event: Value = serde_json::from_str(&self.body).unwrap();
        event["id"].clone()
    }
}

/// What the receiver does with one request.
#[derive(Clone, Copy)]
enum Answer {
    Status(&'static str),
    HangUp,
}

/// Answers requests one after the other, the last answer for ever.
fn receiver(answers: Vec<Answer>) -> (String, Receiver<Request>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let (sender, requests) = channel();
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let answer = answers[number.min(answers.len() - 1)];
            if serve(stream.unwrap(), answer, &sender).is_none() {
                return;
            }
        }
    });
    (url, requests)
}

fn serve(stream: TcpStream, answer: Answer, sender: &Sender<Request>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    assert!(line.starts_with("POST /hook "), "{line}");
    let mut headers = vec![];
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.push((name.to_lowercase(), value.to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length").map_or(0, |(_, value)| value.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    sender.send(Request { headers, body: String::from_utf8(body).unwrap() }).ok()?;
    if let Answer::Status(status) = answer {
        let reply = format!("HTTP/1.1 {status}\r\nlocation: /elsewhere\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        reader.get_mut().write_all(reply.as_bytes()).ok();
    }
    Some(())
}

fn context(log: &MemoryLog, url: &str) -> Context {
    let webhook = Webhook { url: Some(url.to_owned()), secret: Some("a secret of ours".into()) };
    let config = Config { instance: "one".to_owned(), webhook, ..Config::default() };
    let topics = Topics::new("tidemark");
    log.create_topics(&topics.settings(&config.topic_plan())).unwrap();
    Context {
        config: Arc::new(config),
        spec: Arc::new(Spec::from_toml(include_str!("../config/execution-tickets.toml")).unwrap()),
        topics: Arc::new(topics),
        log: Arc::new(log.clone()),
        stop: Stop::default(),
        health: Health::default(),
        registry: None,
    }
}

/// Writes a test alert and returns its id.
fn alert(context: &Context, number: i64) -> String {
    let id = format!("test-{number}");
    let alert = Alert::Test { spec: context.spec.name.clone(), message: "nothing happened".to_owned() };
    let event = alert.event(&context.spec.name, id.clone(), clock::now_ms(), "test");
    let record = event.into_record(context.topics.alerts.clone(), "test", vec![]);
    context.log.producer("writer").unwrap().transact(Transaction { records: vec![record], ..Transaction::default() }).unwrap();
    id
}

/// Runs the webhook while `act` looks on, and stops it after.
fn while_it_runs(context: &Context, act: impl FnOnce()) {
    let running = Context { stop: Stop::default(), ..context.clone() };
    let stop = running.stop.clone();
    let thread = thread::spawn(move || webhook::run(&running, Feed::Alerts));
    act();
    stop.ask();
    thread.join().unwrap().unwrap();
}

#[test]
fn an_alert_arrives_once_signed_and_as_a_cloud_event() {
    let (url, requests) = receiver(vec![Answer::Status("204 No Content")]);
    let log = MemoryLog::new();
    let context = context(&log, &url);
    let id = alert(&context, 0);
    while_it_runs(&context, || {
        let request = requests.recv_timeout(PATIENCE).unwrap();
        let event: Value = serde_json::from_str(&request.body).unwrap();
        assert_eq!(event["specversion"], "1.0");
        assert_eq!(event["id"], id);
        assert_eq!(event["type"], "tidemark.alert.test.v1");
        assert_eq!(event["data"]["kind"], "test");
        assert_eq!(request.header("tidemark-event-id"), id);
        assert_eq!(request.header("content-type"), "application/cloudevents+json");
        let mut mac = Hmac::<Sha256>::new_from_slice(b"a secret of ours").unwrap();
        mac.update(format!("{}.{}", request.header("tidemark-timestamp"), request.body).as_bytes());
        let signature = request.header("tidemark-signature").strip_prefix("v1=").unwrap();
        let bytes: Vec<u8> = (0..signature.len()).step_by(2).map(|at| u8::from_str_radix(&signature[at..at + 2], 16).unwrap()).collect();
        mac.verify_slice(&bytes).unwrap();
        assert!(!request.body.contains("a secret of ours"));
    });
    // What arrived does not come again after a restart.
    let second = alert(&context, 1);
    while_it_runs(&context, || assert_eq!(requests.recv_timeout(PATIENCE).unwrap().message(), second));
}

#[test]
fn what_fails_is_tried_again_in_order_and_what_is_refused_is_given_up() {
    let answers = vec![
        Answer::Status("503 Service Unavailable"),
        Answer::HangUp,
        Answer::Status("200 OK"),
        Answer::Status("301 Moved Permanently"),
        Answer::Status("200 OK"),
    ];
    let (url, requests) = receiver(answers);
    let log = MemoryLog::new();
    let context = context(&log, &url);
    let ids: Vec<String> = (0..3).map(|number| alert(&context, number)).collect();
    while_it_runs(&context, || {
        let arrived: Vec<Value> = (0..5).map(|_| requests.recv_timeout(PATIENCE).unwrap().message()).collect();
        let [first, second, third] = &ids[..] else { panic!("three alerts") };
        assert_eq!(arrived, [first.as_str(), first, first, second, third]);
    });
}

#[test]
fn a_receiver_that_is_away_holds_nothing_up_and_gets_its_events_when_it_is_back() {
    // A port at which nobody listens yet.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let log = MemoryLog::new();
    let context = context(&log, &format!("http://{address}/hook"));
    let id = alert(&context, 0);
    while_it_runs(&context, || {
        // It has tried and failed when it says so; others write all the while.
        let failed = |state: &State| matches!(state, State::Ready(what) if what.starts_with("not delivered yet"));
        while !context.health.all().get("webhook-alerts").is_some_and(failed) {
            thread::yield_now();
        }
        alert(&context, 1);
    });
    let listener = TcpListener::bind(address).unwrap();
    let (sender, requests) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            serve(stream.unwrap(), Answer::Status("200 OK"), &sender);
        }
    });
    while_it_runs(&context, || assert_eq!(requests.recv_timeout(PATIENCE).unwrap().message(), id));
}

#[test]
fn a_carrier_that_fails_is_started_again_and_the_stages_go_on_without_it() {
    let (url, requests) = receiver(vec![Answer::Status("200 OK")]);
    let log = MemoryLog::new();
    let context = context(&log, &url);
    let id = alert(&context, 0);
    // The topic is refused twice, the other feed's thread panics every time, and trigger documents have nowhere to go.
    let refusals = AtomicUsize::new(2);
    let join = move |group: &str| {
        assert!(group != "tidemark.webhook.triggers", "a promise is broken");
        let is_refused = group == "tidemark.webhook.alerts"
            && refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        if is_refused {
            Err(LogError::WrongTopic { topic: "tidemark.alerts".to_owned(), reason: "it is somebody else's".to_owned() })
        } else {
            Ok(())
        }
    };
    let mut config = (*context.config).clone();
    config.mongodb.uri = Some("mongodb://".into());
    let log = Arc::new(Disturbed::new(&log, Ways { join: Box::new(join), ..Ways::default() }));
    let context = Context { config: Arc::new(config), log, ..context };
    let mut pipeline = Pipeline::start(&context, &[Stage::Judge], None, &tidemark::history::Place::Mongodb).unwrap();
    let says = |part: &'static str, words: [&'static str; 2]| {
        wait_until("it says that it failed", PATIENCE, || match context.health.all().get(part) {
            Some(State::Waiting(what)) => words.iter().all(|word| what.contains(word)).then_some(()),
            _ => None,
        });
    };
    says("webhook-alerts", ["somebody else's", "started again after 1 s"]);
    says("webhook-triggers", ["panicked", "started again"]);
    says("trigger-documents", ["mongodb.uri", "started again"]);
    says("webhook-alerts", ["somebody else's", "started again after 2 s"]);
    assert_eq!(requests.recv_timeout(PATIENCE).unwrap().message(), id);
    assert!(pipeline.wait(Duration::ZERO).is_none_or(|(_, end)| end.is_ok()));
    assert!(pipeline.runs(Stage::Judge) && !context.stop.is_asked());
    assert!(context.health.all().values().all(|state| !matches!(state, State::Failed(_))), "{:?}", context.health.all());
    pipeline.stop(PATIENCE).unwrap();
}
