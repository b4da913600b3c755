//! A replica set of three real members, which may be killed, frozen and started again.

use std::process::Command;
use std::time::Duration;

use bson::{Document, doc};
use mongodb::Client;
use tempfile::TempDir;

use super::mongo::runtime;
use super::process::{Server, free_ports, tools, wait_until};

const LIMIT: Duration = Duration::from_secs(60);
/// How long a new primary waits for what the others do not have yet. MongoDB's default is for ever: as long as the one before is frozen.
const CATCH_UP_MS: i64 = 1_000;

struct Member {
    port: u16,
    data: TempDir,
    server: Option<Server>,
}

/// Three members; two are a majority.
pub(crate) struct ReplicaSet {
    /// Connection string.
    pub(crate) uri: String,
    members: Vec<Member>,
}

impl ReplicaSet {
    /// Starts it. A primary that is silent for `election_timeout` is replaced.
    pub(crate) fn start(election_timeout: Duration) -> Self {
        let ports: [u16; 3] = free_ports();
        let member = |port| Member { port, data: tempfile::tempdir().expect("a temporary directory"), server: None };
        let hosts = ports.map(|port| format!("127.0.0.1:{port}"));
        let uri = format!("mongodb://{}/?replicaSet=rs3", hosts.join(","));
        let mut set = Self { uri, members: ports.map(member).into() };
        set.start_all();
        let members: Vec<Document> = (0_i32..).zip(&hosts).map(|(id, host)| doc! { "_id": id, "host": host }).collect();
        let timeout = i64::try_from(election_timeout.as_millis()).expect("not so long");
        let settings = doc! { "electionTimeoutMillis": timeout, "catchUpTimeoutMillis": CATCH_UP_MS };
        let config = doc! { "_id": "rs3", "members": members, "settings": settings };
        wait_until("mongod takes replSetInitiate", LIMIT, || set.ask(0, doc! { "replSetInitiate": config.clone() }));
        set.wait_for_primary();
        set
    }

    fn ask(&self, member: usize, command: Document) -> Option<Document> {
        let port = self.members[member].port;
        let uri = format!("mongodb://127.0.0.1:{port}/?directConnection=true&serverSelectionTimeoutMS=500&connectTimeoutMS=500");
        runtime().block_on(async {
            let client = Client::with_uri_str(uri).await.ok()?;
            let database = client.database("admin");
            let asked = tokio::time::timeout(Duration::from_secs(2), async { database.run_command(command).await });
            asked.await.ok()?.ok()
        })
    }

    fn primary(&self) -> Option<usize> {
        let leads = |hello: Document| hello.get_bool("isWritablePrimary").unwrap_or(false);
        (0..self.members.len()).find(|member| self.ask(*member, doc! { "hello": 1 }).is_some_and(leads))
    }

    /// Returns the connection string of one member alone.
    pub(crate) fn member_uri(&self, member: usize) -> String {
        format!("mongodb://127.0.0.1:{}/?directConnection=true", self.members[member].port)
    }

    /// Whether every member is primary or secondary.
    pub(crate) fn has_all(&self) -> bool {
        let is_well = |hello: Document| ["isWritablePrimary", "secondary"].iter().any(|is| hello.get_bool(is).unwrap_or(false));
        (0..self.members.len()).all(|member| self.ask(member, doc! { "hello": 1 }).is_some_and(is_well))
    }

    /// Waits until there is a primary; returns which.
    pub(crate) fn wait_for_primary(&self) -> usize {
        wait_until("a primary", LIMIT, || self.primary())
    }

    /// Starts those members that do not run.
    pub(crate) fn start_all(&mut self) {
        self.start_some(|_| true);
    }

    fn start_some(&mut self, which: impl Fn(usize) -> bool) {
        let stopped = self.members.iter_mut().enumerate().filter(|(number, member)| which(*number) && member.server.is_none());
        for (_, member) in stopped {
            let mut mongod = Command::new(tools().join("mongod"));
            mongod
                .args([
                    "--replSet",
                    "rs3",
                    "--bind_ip",
                    "127.0.0.1",
                    "--nounixsocket",
                    "--wiredTigerCacheSizeGB",
                    "0.25",
                    "--oplogSize",
                    "990",
                ])
                .args(["--setParameter", "enableTestCommands=1", "--setParameter", "diagnosticDataCollectionEnabled=false"])
                .args(["--port", &member.port.to_string()])
                .arg("--dbpath")
                .arg(member.data.path());
            member.server = Some(Server::start(tempfile::tempdir().expect("a temporary directory"), &mut mongod));
        }
    }

    /// Asks the primary to step down.
    pub(crate) fn step_down(&self) {
        let primary = self.wait_for_primary();
        drop(self.ask(primary, doc! { "replSetStepDown": 10, "secondaryCatchUpPeriodSecs": 5 }));
    }

    /// Kills the primary.
    pub(crate) fn kill_primary(&mut self) {
        let primary = self.wait_for_primary();
        self.members[primary].server = None;
    }

    /// Freezes the primary; returns which it was.
    pub(crate) fn freeze_primary(&self) -> usize {
        let primary = self.wait_for_primary();
        self.signal(primary, "STOP");
        primary
    }

    /// Kills all members but the primary, so that there is no majority; returns which is the primary.
    pub(crate) fn kill_majority(&mut self) -> usize {
        let primary = self.wait_for_primary();
        self.members.iter_mut().enumerate().filter(|(member, _)| *member != primary).for_each(|(_, member)| member.server = None);
        primary
    }

    /// Kills a member, and starts the others without it.
    pub(crate) fn kill_and_start_others(&mut self, member: usize) {
        self.members[member].server = None;
        self.start_some(|other| other != member);
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self, member: usize) {
        self.signal(member, "CONT");
    }

    /// Kills all members.
    pub(crate) fn kill_all(&mut self) {
        self.members.iter_mut().for_each(|member| member.server = None);
    }

    fn signal(&self, member: usize, name: &str) {
        self.members[member].server.as_ref().expect("it runs").signal(name);
    }
}
