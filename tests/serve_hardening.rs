//! The HTTP servers against requests that nobody should send: every one is answered or cut off, soon, and the process goes on.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::json;

use crate::support::predictor::Predictor;
use crate::support::wait_until;

/// Sends bytes and returns what comes back until the connection ends.
fn raw(port: u16, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    // A request that is refused in the middle is not read to its end.
    drop(stream.write_all(request));
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer));
    String::from_utf8_lossy(&answer).into_owned()
}

/// The status of the first answer; 0 when the connection just ended.
fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
}

const POST: &str = "POST /v1/predictions/duration HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n";

#[test]
fn what_nobody_should_send_is_refused_and_the_process_goes_on() {
    let predictor = Predictor::start(&[]);
    let long = "x".repeat(64 << 10);
    let large = "a".repeat(1 << 20);
    let many: String = (0..1_000).map(|number| format!("h{number}: x\r\n")).collect();
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let chunked = format!("{POST}transfer-encoding: chunked\r\n\r\n{:x}\r\n{large}\r\n1\r\nx\r\n0\r\n\r\n", large.len());
    let both = format!("{POST}content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /metrics HTTP/1.1\r\nhost: x\r\n\r\n");
    let cases: [(&str, String, &[u16]); 15] = [
        ("a body larger than it is allowed, by its length", format!("{POST}content-length: 9999999999\r\n\r\n{{"), &[408, 413]),
        ("the same in chunks", chunked, &[413]),
        ("a length that is none", format!("{POST}content-length: -1\r\n\r\n"), &[400]),
        ("two lengths", format!("{POST}content-length: 2\r\ncontent-length: 3\r\n\r\n{{}}x"), &[400]),
        ("a length and chunks: one request, never two", both, &[400]),
        ("a path out of the tree", get("/../../etc/passwd"), &[404]),
        ("the same, escaped", get("/v1/%2e%2e/%2e%2e/etc/passwd"), &[404]),
        ("an end of line in the path, escaped", get("/x%0d%0aset-cookie:%20a=b"), &[404]),
        (
            "an end of line in a header",
            "GET /none HTTP/1.1\r\nhost: x\r\nx: a\nset-cookie: b\r\nconnection: close\r\n\r\n".to_owned(),
            &[400, 404],
        ),
        ("a header without end", format!("GET / HTTP/1.1\r\nhost: x\r\nx: {long}\r\n\r\n"), &[400, 431]),
        ("a path without end", get(&format!("/{long}")), &[400, 414, 431]),
        ("a thousand headers", format!("GET / HTTP/1.1\r\nhost: x\r\n{many}\r\n"), &[400, 431]),
        ("another protocol", "SSH-2.0-OpenSSH_9.2\r\n\r\n".to_owned(), &[400]),
        ("a method of nobody", "BREW /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_owned(), &[405]),
        ("a proxy's request", "CONNECT example.org:443 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_owned(), &[400, 404, 405]),
    ];
    for (case, request, allowed) in &cases {
        let answer = raw(predictor.port, request.as_bytes());
        assert!(allowed.contains(&status(&answer)), "{case}: {}", answer.lines().next().unwrap_or_default());
        let head = answer.split("\r\n\r\n").next().unwrap_or_default();
        assert!(!head.to_ascii_lowercase().contains("set-cookie"), "{case}: {head}");
        assert!(!answer.contains("root:"), "{case}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{case}: {answer}");
    }
    let (status, _) = predictor.ask("duration", &json!({ "ticket": {} }));
    assert_eq!(status, 200);
    predictor.stop();
}

#[test]
fn bodies_that_come_byte_by_byte_hold_no_place_for_long() {
    let predictor = Predictor::start(&[("TIDEMARK_SERVE_MAX_CONCURRENT", "4"), ("TIDEMARK_SERVE_TIMEOUT_MS", "500")]);
    let slow: Vec<TcpStream> = (0..8)
        .map(|_| {
            let mut stream = TcpStream::connect(("127.0.0.1", predictor.port)).unwrap();
            stream.write_all(format!("{POST}content-length: 1000\r\n\r\n{{").as_bytes()).unwrap();
            stream
        })
        .collect();
    // Four have a place until their time is over, four are turned away at once.
    let mut found: Vec<u16> = slow
        .into_iter()
        .map(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            let mut answer = String::new();
            drop(stream.read_to_string(&mut answer));
            status(&answer)
        })
        .collect();
    found.sort_unstable();
    assert!(found.iter().all(|status| matches!(status, 408 | 503)) && found.contains(&408), "{found:?}");
    let (status, _) = predictor.ask("duration", &json!({ "ticket": {} }));
    assert_eq!(status, 200);
    predictor.stop();
}

#[test]
fn a_client_that_asks_too_often_is_turned_away_and_answered_again_later() {
    let predictor = Predictor::start(&[("TIDEMARK_SERVE_MAX_REQUESTS_PER_SECOND", "1")]);
    let often = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n".repeat(99);
    let answer = raw(predictor.port, format!("{often}GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes());
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 100, "{answer}");
    let refused = answer.matches("HTTP/1.1 429").count();
    assert!(refused > 0 && answer.matches("retry-after: 1").count() == refused, "{answer}");
    assert!(answer.contains("serve.max_requests_per_second is the limit"), "{answer}");
    wait_until("it is answered again", Duration::from_mins(1), || {
        let (status, _) = predictor.ask("duration", &json!({ "ticket": {} }));
        (status == 200).then_some(())
    });
    predictor.stop();
}
