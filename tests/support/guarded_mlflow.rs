//! MLflow behind a guard that speaks TLS only and lets nobody in without proof.

use std::process::Command;
use std::time::Duration;

use super::certificates::Certificates;
use super::mlflow;
use super::process::{Server, free_ports, tools, wait_until};

/// The token, and the password of `joe`. With `expired-` before it, a token of yesterday.
pub(crate) const SECRET: &str = "hunter2-planted";

/// A guard before the MLflow that all tests share.
pub(crate) struct GuardedMlflow {
    /// `host:port`.
    pub(crate) address: String,
    /// The same with a certificate of another host.
    pub(crate) elsewhere: String,
    /// The same with one that has expired.
    pub(crate) expired: String,
    /// For its clients.
    pub(crate) certificates: Certificates,
    server: Server,
}

impl GuardedMlflow {
    /// Starts it.
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let certificates = Certificates::make(&directory.path().join("certificates"));
        let ports: [u16; 3] = free_ports();
        let mut guard = Command::new(tools().join("venv/bin/python"));
        guard.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/client/guard.py")).args([&mlflow().uri, SECRET]);
        for (port, name) in ports.iter().zip(["server", "elsewhere", "expired"]) {
            guard.arg(format!("{port}:{}", certificates.path(&format!("{name}.pem"))));
        }
        let server = Server::start(directory, &mut guard);
        wait_until("the guard listens", Duration::from_secs(30), || server.last_words().contains("listens").then_some(()));
        let [address, elsewhere, expired] = ports.map(|port| format!("127.0.0.1:{port}"));
        Self { address, elsewhere, expired, certificates, server }
    }

    /// Returns how many requests and how many connections without one there were so far.
    pub(crate) fn asked(&self) -> (usize, usize) {
        let log = self.server.said();
        let count = |word: &str| log.lines().filter(|line| line.starts_with(word)).count();
        (count("request"), count("refused") + count("ended"))
    }
}
