//! The server, asked over a real socket on loopback.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use super::*;
use crate::config::Config;
use crate::log::memory::MemoryLog;
use crate::spec::Spec;
use crate::stage::{Health, State, Stop};
use crate::topics::Topics;

fn context(listen: &str) -> Context {
    let mut config = Config::default();
    listen.clone_into(&mut config.http.listen);
    Context {
        config: Arc::new(config),
        spec: Arc::new(Spec::from_toml(include_str!("../../config/execution-tickets.toml")).unwrap()),
        topics: Arc::new(Topics::new("tidemark")),
        log: Arc::new(MemoryLog::new()),
        stop: Stop::default(),
        health: Health::default(),
        registry: None,
    }
}

fn handle() -> PrometheusHandle {
    metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder().handle()
}

fn ask(server: &Server, request: &str) -> String {
    let mut stream = TcpStream::connect(server.address().unwrap()).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn get(server: &Server, path: &str) -> String {
    ask(server, &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"))
}

#[test]
fn readiness_names_what_each_part_waits_for() {
    let context = context("127.0.0.1:0");
    let server = start(&context, handle()).unwrap();
    assert!(get(&server, "/readyz").starts_with("HTTP/1.1 503"), "nobody has spoken yet");
    context.health.set("tail", State::Ready("leads".to_owned()));
    context.health.set("judge", State::Waiting("no baseline".to_owned()));
    let answer = get(&server, "/readyz");
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains(r#""judge":{"state":"waiting","says":"no baseline"}"#), "{answer}");
    context.health.set("judge", State::Ready("judges".to_owned()));
    assert!(get(&server, "/readyz").starts_with("HTTP/1.1 200"));
}

#[test]
fn health_is_bad_only_when_a_part_failed() {
    let context = context("127.0.0.1:0");
    let server = start(&context, handle()).unwrap();
    context.health.set("watch", State::Waiting("starts".to_owned()));
    assert!(get(&server, "/healthz").starts_with("HTTP/1.1 200"));
    context.health.set("watch", State::Failed("its thread is gone".to_owned()));
    assert!(get(&server, "/healthz").starts_with("HTTP/1.1 503"));
}

#[test]
fn pages_are_read_only_and_few() {
    let server = start(&context("127.0.0.1:0"), handle()).unwrap();
    assert!(get(&server, "/").contains("/readyz"));
    assert!(get(&server, "/nothing").starts_with("HTTP/1.1 404"));
    assert!(ask(&server, "POST /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").starts_with("HTTP/1.1 405"));
    assert!(get(&server, "/metrics").contains("text/plain; version=0.0.4"));
}

#[test]
fn clients_that_say_nothing_or_half_a_word_do_not_keep_others_out() {
    let server = start(&context("127.0.0.1:0"), handle()).unwrap();
    let connect = |number: usize| {
        let mut stream = TcpStream::connect(server.address().unwrap()).unwrap();
        stream.write_all(if number.is_multiple_of(2) { b"GET /healthz HTTP/1.1\r\nhost: " } else { b"" }).unwrap();
        stream
    };
    let _silent: Vec<TcpStream> = (0..2 * CONNECTIONS).map(connect).collect();
    let mut stream = TcpStream::connect(server.address().unwrap()).unwrap();
    // Patience, and less than the silent ones are waited for.
    stream.set_read_timeout(Some(HEAD_WAIT / 2)).unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn clients_that_say_nothing_do_not_hold_up_the_end() {
    let server = start(&context("127.0.0.1:0"), handle()).unwrap();
    let _silent: Vec<TcpStream> = (0..2 * CONNECTIONS).map(|_| TcpStream::connect(server.address().unwrap()).unwrap()).collect();
    server.stop();
}

#[test]
fn a_taken_port_is_refused_by_name() {
    let first = start(&context("127.0.0.1:0"), handle()).unwrap();
    let taken = first.address().unwrap().to_string();
    let error = start(&context(&taken), handle()).err().unwrap();
    assert!(error.to_string().contains(&taken), "{error}");
}

#[test]
fn without_an_address_nobody_listens() {
    let server = start(&context(""), handle()).unwrap();
    assert_eq!(server.address(), None);
}
