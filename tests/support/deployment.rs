//! The built program as its users run it: processes, their environment, and what a foreign client reads of their topics.

use std::collections::BTreeMap;
use std::process::{Command, Output};
use std::time::Duration;

use bson::{Document, RawDocumentBuf};
use mongodb::{Client, Collection};
use serde::Deserialize;
use serde_json::Value;
use tokio::runtime::Runtime;

use super::mongo::runtime;
use super::process::{PLANTED, Server, free_ports, holds_no_secret, tools, wait_until};
use super::{kafka, mongo};

/// One deployment: a prefix and a database of its own, on the shared servers.
pub(crate) struct Deployment {
    /// Prefix of its topics.
    pub(crate) prefix: String,
    /// Connection string of those who complete tickets, whatever the processes use.
    pub(crate) written_at: String,
    environment: BTreeMap<String, String>,
}

/// A running process of a deployment.
pub(crate) struct Process {
    server: Server,
    http: u16,
}

/// A record as the foreign client saw it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Seen {
    /// Topic, without the prefix.
    pub(crate) topic: String,
    /// Partition of the topic.
    pub(crate) partition: u32,
    /// Key as text.
    pub(crate) key: Option<String>,
    /// Headers.
    pub(crate) headers: BTreeMap<String, String>,
    /// Value as it was written.
    pub(crate) value: Option<String>,
}

impl Seen {
    /// Returns the value as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(self.value.as_deref().expect("it has a value")).expect("it is JSON")
    }
}

impl Deployment {
    /// Begins a deployment; `name` is nobody else's.
    pub(crate) fn new(name: &str, partitions: u32) -> Self {
        let set = |key: &str, value: String| (key.to_owned(), value);
        let environment = [
            set("MONGODB_URI", mongo().uri.clone()),
            set("MONGODB_DATABASE", name.to_owned()),
            set("KAFKA_BOOTSTRAP_SERVERS", kafka().bootstrap_servers.clone()),
            set("TIDEMARK_KAFKA_TOPIC_PREFIX", name.to_owned()),
            set("TIDEMARK_KAFKA_PARTITIONS", partitions.to_string()),
            set("TIDEMARK_SPEC", concat!(env!("CARGO_MANIFEST_DIR"), "/config/execution-tickets.toml").to_owned()),
            set("TIDEMARK_HTTP_LISTEN", String::new()),
        ];
        Self { prefix: name.to_owned(), written_at: mongo().uri.clone(), environment: environment.into() }
    }

    /// Sets a variable of the environment of every process that is started later.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.environment.insert(name.to_owned(), value.to_owned());
    }

    fn program(&self, arguments: &[&str]) -> Command {
        let mut program = Command::new(env!("CARGO_BIN_EXE_tidemark"));
        program.args(arguments).envs(&self.environment).current_dir(std::env::temp_dir());
        program
    }

    /// Runs a command to its end, however that is.
    pub(crate) fn output(&self, arguments: &[&str]) -> Output {
        let output = self.program(arguments).output().expect("the program is built");
        [&output.stdout, &output.stderr].into_iter().for_each(|said| holds_no_secret(&String::from_utf8_lossy(said)));
        output
    }

    /// Runs a command that has to end by itself; returns its exit code and all that it said. It is killed after two minutes.
    pub(crate) fn ended(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let program = self.program(arguments);
        let mut limited = Command::new("timeout");
        limited.args(["--signal=KILL", "120"]).arg(program.get_program()).args(program.get_args());
        limited.envs(&self.environment).current_dir(std::env::temp_dir());
        let Output { status, stdout, stderr } = limited.output().expect("timeout is there: it is in coreutils");
        let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        holds_no_secret(&said);
        (status.code(), said)
    }

    /// Runs a command to its end and returns what it said; panics when it fails.
    pub(crate) fn command(&self, arguments: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.output(arguments);
        assert!(status.success(), "tidemark {}: {status}\n{}", arguments.join(" "), String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).expect("it speaks UTF-8")
    }

    /// Starts a process that goes on until it is stopped.
    pub(crate) fn start(&self, instance: &str, arguments: &[&str]) -> Process {
        self.start_with(instance, arguments, &[])
    }

    /// The same with more in its environment.
    pub(crate) fn start_with(&self, instance: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Process {
        start_as(instance, self.program(arguments), environment)
    }

    /// The same where all that the process says finds a full disk.
    pub(crate) fn start_on_full_disk(&self, instance: &str, arguments: &[&str]) -> Process {
        let program = self.program(arguments);
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec \"$@\" >/dev/full 2>&1", "sh"]).arg(program.get_program()).args(program.get_args());
        shell.envs(&self.environment).current_dir(std::env::temp_dir());
        start_as(instance, shell, &[])
    }

    /// Returns the collection of the tickets, its documents as they are.
    pub(crate) fn collection(&self, runtime: &Runtime) -> Collection<RawDocumentBuf> {
        let client = runtime.block_on(Client::with_uri_str(&self.written_at)).expect("a valid connection string");
        client.database(&self.prefix).collection("execution_tickets")
    }

    /// Inserts documents into the collection, in order, by majority; each gets a secret that no spec names.
    pub(crate) fn insert(&self, documents: &[Document]) {
        let runtime = runtime();
        let client = runtime.block_on(Client::with_uri_str(&self.written_at)).expect("a valid connection string");
        let collection = client.database(&self.prefix).collection::<Document>("execution_tickets");
        for batch in documents.chunks(1_000) {
            let batch = batch.iter().cloned().map(|mut document| {
                document.insert("card", PLANTED);
                document
            });
            runtime.block_on(async { collection.insert_many(batch).await }).expect("the documents are inserted");
        }
    }

    /// Reads every topic with a client that is not ours, once a verdict at or after `until_ms` is there. Panics when a record
    /// breaks its schema or its chain.
    pub(crate) fn read(&self, until_ms: Option<i64>) -> Vec<Seen> {
        let mut python = Command::new(tools().join("venv/bin/python"));
        python.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/client/read.py")).arg(&kafka().bootstrap_servers).arg(&self.prefix);
        if let Some(until_ms) = until_ms {
            python.args(["--until", &until_ms.to_string()]);
        }
        let Output { status, stdout, stderr } = python.output().expect("the client is installed: run script/bootstrap test");
        assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
        let lines = String::from_utf8(stdout).expect("it speaks UTF-8");
        holds_no_secret(&lines);
        lines.lines().map(|line| serde_json::from_str(line).expect("a record a line")).collect()
    }
}

fn start_as(instance: &str, mut program: Command, environment: &[(&str, &str)]) -> Process {
    let [http] = free_ports();
    program.envs(environment.iter().copied());
    program.env("TIDEMARK_INSTANCE", instance).env("TIDEMARK_HTTP_LISTEN", format!("127.0.0.1:{http}"));
    Process { server: Server::start(tempfile::tempdir().expect("a temporary directory"), &mut program), http }
}

impl Process {
    /// Asks the process a page over HTTP; returns its status and its body.
    pub(crate) fn get(&self, path: &str) -> Option<(u16, String)> {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", self.http)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        holds_no_secret(&answer);
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    /// Returns the sum of all series of a counter by now; 0 while the process does not answer.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let page = self.get("/metrics").map(|(_, page)| page).unwrap_or_default();
        let is_its = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
        page.lines().filter(is_its).map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().expect("a counter")).sum()
    }

    /// Returns the sum of all series of a gauge by now; `None` while none is there.
    pub(crate) fn gauge(&self, name: &str) -> Option<f64> {
        let (_, page) = self.get("/metrics")?;
        let is_its = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
        let values = page.lines().filter(is_its).map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().expect("a gauge"));
        values.reduce(|sum, value| sum + value)
    }

    /// Returns the last lines of what the process said.
    pub(crate) fn last_words(&self) -> String {
        self.server.last_words()
    }

    /// Returns all that the process said.
    pub(crate) fn log(&self) -> String {
        self.server.said()
    }

    /// Whether the process that was started is still there: nobody starts it again.
    pub(crate) fn is_alive(&self) -> bool {
        self.server.is_alive()
    }

    /// Waits until a part of the process says that it is ready, and not because another process does its work.
    pub(crate) fn wait_for(&self, part: &str) {
        wait_until("tidemark is ready", Duration::from_mins(1), || {
            assert!(self.server.is_alive(), "tidemark ended:\n{}", self.server.last_words());
            let (_, body) = self.get("/readyz")?;
            let parts: Value = serde_json::from_str(&body).ok()?;
            let part = &parts["parts"][part];
            let idle = part["says"].as_str().is_some_and(|says| says.starts_with("standing by"));
            (part["state"] == "ready" && !idle).then_some(())
        });
    }

    /// Returns what a part of the process says of itself; nothing while the process does not answer.
    pub(crate) fn says(&self, part: &str) -> String {
        let body = self.get("/readyz").map(|(_, body)| body).unwrap_or_default();
        let parts: Value = serde_json::from_str(&body).unwrap_or_default();
        parts["parts"][part]["says"].as_str().unwrap_or_default().to_owned()
    }

    /// Returns a field of `/proc/PID/status` in MB (`VmRSS`, `VmHWM`); nothing when the process has ended.
    pub(crate) fn memory_mb(&self, field: &str) -> Option<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.server.pid())).ok()?;
        let line = status.lines().find(|line| line.starts_with(field))?;
        Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
    }

    /// Has the process stand still where it is.
    pub(crate) fn freeze(&self) {
        self.server.signal("STOP");
    }

    /// Lets it go on as if no time had passed.
    pub(crate) fn thaw(&self) {
        self.server.signal("CONT");
    }

    /// Kills the process.
    pub(crate) fn kill(self) {
        self.server.signal("KILL");
    }

    /// Asks the process to stop, and waits until it is gone.
    pub(crate) fn stop(self) {
        self.server.signal("TERM");
        wait_until("tidemark ends gracefully", Duration::from_secs(10), || (!self.server.is_alive()).then_some(()));
    }
}
