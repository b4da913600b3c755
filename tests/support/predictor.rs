//! `tidemark serve` as its users run it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::process::{Server, free_ports, wait_until};

/// A running `tidemark serve`.
pub(crate) struct Predictor {
    /// Its port on the loopback.
    pub(crate) port: u16,
    server: Server,
}

impl Predictor {
    /// Starts it with that environment, and waits until it answers.
    pub(crate) fn start(environment: &[(&str, &str)]) -> Self {
        let [port] = free_ports();
        let mut program = Command::new(env!("CARGO_BIN_EXE_tidemark"));
        program
            .args(["serve", "--listen", &format!("127.0.0.1:{port}")])
            .env("TIDEMARK_SPEC", concat!(env!("CARGO_MANIFEST_DIR"), "/config/execution-tickets.toml"))
            .envs(environment.iter().copied())
            .current_dir(std::env::temp_dir());
        let predictor = Self { port, server: Server::start(tempfile::tempdir().expect("a temporary directory"), &mut program) };
        wait_until("tidemark serve answers", Duration::from_mins(1), || {
            assert!(predictor.server.is_alive(), "tidemark serve ended:\n{}", predictor.server.last_words());
            predictor.page("/readyz").filter(|(status, _)| *status == 200)
        });
        predictor
    }

    /// Returns a page's status and its body.
    pub(crate) fn page(&self, path: &str) -> Option<(u16, String)> {
        self.request(&format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"))
    }

    /// Returns what a part of the process says in `/readyz`.
    pub(crate) fn says(&self, part: &str) -> String {
        let (_, body) = self.page("/readyz").expect("it answers");
        let parts: Value = serde_json::from_str(&body).expect("it is JSON");
        parts["parts"][part]["says"].as_str().unwrap_or_default().to_owned()
    }

    /// Asks for a prediction; returns the status and the answer.
    pub(crate) fn ask(&self, endpoint: &str, body: &Value) -> (u16, Value) {
        let body = body.to_string();
        let head =
            format!("POST /v1/predictions/{endpoint} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json");
        let answer = self.request(&format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()));
        let (status, body) = answer.expect("it answers");
        (status, serde_json::from_str(&body).expect("it is JSON"))
    }

    fn request(&self, request: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    /// Asks it to stop, and waits until it is gone.
    pub(crate) fn stop(self) {
        self.server.signal("TERM");
        wait_until("tidemark serve ends", Duration::from_secs(10), || (!self.server.is_alive()).then_some(()));
    }

    /// Returns the last lines of its log.
    pub(crate) fn last_words(&self) -> String {
        self.server.last_words()
    }
}
