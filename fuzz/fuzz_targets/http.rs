//! Any bytes as the body of a prediction: the server never fails, says JSON, and goes on.
#![no_main]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use tidemark::config::Config;
use tidemark::serve::Server;
use tidemark::serve::api::{Serving, start};
use tidemark::stage::{Health, Stop};
use tidemark_fuzz::SPEC;

/// Out of all proportion, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(100);

static SERVER: LazyLock<Server> = LazyLock::new(|| {
    let mut config = Config::default();
    "127.0.0.1:0".clone_into(&mut config.serve.listen);
    let spec = Arc::new(SPEC.clone());
    let handle = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder().handle();
    let serving = Serving { config: &config, spec: &spec, registry: None, stop: &Stop::default(), health: &Health::default() };
    start(&serving, handle).expect("a port is free")
});

fuzz_target!(|bytes: &[u8]| {
    // The first byte says to whom.
    let Some((&first, body)) = bytes.split_first() else { return };
    let endpoint = ["duration", "anomaly", "load"][usize::from(first) % 3];
    let mut stream = TcpStream::connect(SERVER.address().expect("it listens")).expect("it accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let head =
        format!("POST /v1/predictions/{endpoint} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    // A body that is too large is answered before it is read.
    drop(stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)));
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer));
    let answer = String::from_utf8(answer).expect("an answer is text");
    let (head, json) = answer.split_once("\r\n\r\n").expect("every request is answered");
    let status = head.split(' ').nth(1).expect("a status");
    assert!(["200", "400", "413", "422"].contains(&status), "{answer}");
    let json: serde_json::Value = serde_json::from_str(json).expect("an answer is JSON");
    assert_eq!(json["action"].is_string(), status != "200", "{answer}");
});
