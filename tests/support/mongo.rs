//! MongoDB: a replica set of one, which is what change streams need.

use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use bson::{Document, doc};
use mongodb::Client;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::process::{Server, free_ports, tools, wait_until};

/// A replica set of one member.
pub(crate) struct Mongo {
    /// Connection string.
    pub(crate) uri: String,
    server: Server,
}

/// Returns the replica set that all tests share: use database names of your own.
pub(crate) fn mongo() -> &'static Mongo {
    static SHARED: OnceLock<Mongo> = OnceLock::new();
    SHARED.get_or_init(Mongo::start)
}

impl Mongo {
    /// Starts a replica set for one test, which may stop and freeze it. Fail points are on.
    pub(crate) fn start() -> Self {
        Self::with_oplog("990", "60")
    }

    /// The same with an oplog of 1 MB, which is cut every second: some 50 MB of writes, and MongoDB has forgotten what was before.
    pub(crate) fn forgetful() -> Self {
        Self::with_oplog("1", "1")
    }

    /// The same with an oplog of 100 MB.
    pub(crate) fn with_small_oplog() -> Self {
        Self::with_oplog("100", "60")
    }

    /// Starts one that says of itself that it is at the port `proxy`; `forward` is told where it listens. `uri` passes the proxy by.
    pub(crate) fn behind(proxy: u16, forward: impl FnOnce(u16)) -> Self {
        let [port] = free_ports();
        forward(port);
        let uri = format!("mongodb://127.0.0.1:{port}/?directConnection=true");
        Self::at(port, proxy, uri, "990", "60")
    }

    fn with_oplog(megabytes: &str, checkpoint_seconds: &str) -> Self {
        let [port] = free_ports();
        Self::at(port, port, format!("mongodb://127.0.0.1:{port}/?replicaSet=rs0"), megabytes, checkpoint_seconds)
    }

    fn at(port: u16, advertised: u16, uri: String, megabytes: &str, checkpoint_seconds: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut mongod = mongod(&directory, port, megabytes);
        mongod.args(["--syncdelay", checkpoint_seconds]);
        let mongo = Self { uri, server: Server::start(directory, &mut mongod) };
        initiate(&format!("mongodb://127.0.0.1:{port}/?"), advertised, &mongo.server);
        mongo
    }

    /// Sends a signal to the server (`STOP`, `CONT`, `KILL`).
    pub(crate) fn signal(&self, name: &str) {
        self.server.signal(name);
    }

    /// Returns the server's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.server.pid()
    }
}

/// Returns a member of a replica set, not yet started, with its data in `directory`.
pub(super) fn mongod(directory: &TempDir, port: u16, oplog_megabytes: &str) -> Command {
    let program = tools().join("mongod");
    assert!(program.is_file(), "no {}: run script/bootstrap test", program.display());
    let mut mongod = Command::new(program);
    mongod
        .args(["--replSet", "rs0", "--bind_ip", "127.0.0.1", "--nounixsocket", "--wiredTigerCacheSizeGB", "0.5"])
        .args(["--oplogSize", oplog_megabytes])
        .args(["--setParameter", "enableTestCommands=1", "--setParameter", "diagnosticDataCollectionEnabled=false"])
        .args(["--port", &port.to_string()])
        .arg("--dbpath")
        .arg(directory.path());
    mongod
}

/// Makes a replica set of one member, which is reached at `port`, of the server behind `uri`, which ends where options begin.
pub(super) fn initiate(uri: &str, port: u16, server: &Server) {
    let runtime = runtime();
    let uri = format!("{uri}directConnection=true&serverSelectionTimeoutMS=1000");
    let client = runtime.block_on(Client::with_uri_str(uri)).expect("a valid connection string");
    let ask = |command: Document| runtime.block_on(async { client.database("admin").run_command(command).await });
    let members = doc! { "_id": "rs0", "members": [{ "_id": 0, "host": format!("127.0.0.1:{port}") }] };
    wait_until("mongod takes replSetInitiate", Duration::from_mins(1), || {
        assert!(server.is_alive(), "mongod did not start:\n{}", server.last_words());
        ask(doc! { "replSetInitiate": members.clone() }).ok()
    });
    wait_until("mongod is primary", Duration::from_mins(1), || {
        ask(doc! { "hello": 1 }).ok().filter(|hello| hello.get_bool("isWritablePrimary").unwrap_or(false))
    });
}

/// Returns a runtime for the driver on the calling thread.
pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}
