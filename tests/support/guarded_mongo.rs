//! MongoDB that speaks TLS only and lets nobody in without proof.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use bson::{Document, doc};
use mongodb::Client;
use tokio::runtime::Runtime;

use super::certificates::Certificates;
use super::mongo::{initiate, mongod, runtime};
use super::process::{Server, free_ports, wait_until};

/// The password of every user.
pub(crate) const PASSWORD: &str = "hunter2-planted";
/// May do everything.
const OPERATOR: &str = "operator";

/// A replica set of one member.
pub(crate) struct GuardedMongo {
    /// `host:port`.
    pub(crate) address: String,
    /// For its clients.
    pub(crate) certificates: Certificates,
    runtime: Runtime,
    operator: Client,
    _server: Server,
}

/// A server that speaks TLS with a certificate that no client should accept. What is behind is never reached.
pub(crate) struct Impostor {
    /// `host:port`.
    pub(crate) address: String,
    _server: Server,
}

impl GuardedMongo {
    /// Starts it.
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let certificates = Certificates::make(&directory.path().join("certificates"));
        let key = directory.path().join("members.key");
        std::fs::write(&key, "bWVtYmVycyBrbm93IGVhY2ggb3RoZXI=\n").expect("the directory takes a file");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("the file is ours");
        let [port] = free_ports();
        let mut mongod = mongod(&directory, port, "990");
        mongod.arg("--keyFile").arg(&key).args(["--tlsMode", "requireTLS", "--tlsAllowConnectionsWithoutCertificates"]);
        mongod.args(["--tlsCertificateKeyFile", &certificates.path("server.pem"), "--tlsCAFile", &certificates.path("ca.crt")]);
        let server = Server::start(directory, &mut mongod);
        let address = format!("127.0.0.1:{port}");
        let tls = format!("tls=true&tlsCAFile={}", certificates.path("ca.crt"));
        initiate(&format!("mongodb://{address}/?{tls}&"), port, &server);
        let runtime = runtime();
        runtime.block_on(async {
            // The first user of all is made by whoever is on the same machine.
            let first = Client::with_uri_str(format!("mongodb://{address}/?directConnection=true&{tls}")).await.expect("a valid string");
            let operator = doc! { "createUser": OPERATOR, "pwd": PASSWORD, "roles": ["root"] };
            first.database("admin").run_command(operator).await.expect("the first user is made");
        });
        let uri = format!("mongodb://{OPERATOR}:{PASSWORD}@{address}/?replicaSet=rs0&{tls}");
        let operator = runtime.block_on(Client::with_uri_str(uri)).expect("a valid string");
        Self { address, certificates, runtime, operator, _server: server }
    }

    /// Returns the connection string of a user; without one, of nobody.
    pub(crate) fn uri(&self, user: Option<&str>) -> String {
        let user = user.map_or_else(String::new, |user| format!("{user}:{PASSWORD}@"));
        format!("mongodb://{user}{}/?replicaSet=rs0&tls=true&tlsCAFile={}", self.address, self.certificates.path("ca.crt"))
    }

    /// Does something with a database as the operator.
    pub(crate) fn ask(&self, database: &str, command: Document) -> Document {
        self.runtime.block_on(async { self.operator.database(database).run_command(command).await }).expect("the operator may do it")
    }

    /// Returns how many documents a collection has; nothing while the server is too busy to say.
    pub(crate) fn count(&self, database: &str, collection: &str) -> Option<u64> {
        let collection = self.operator.database(database).collection::<Document>(collection);
        self.runtime.block_on(async { collection.count_documents(doc! {}).await }).ok()
    }

    /// Makes a user that may do these things: collection (the database when empty, of another one with its name and a dot) and
    /// actions; and on the cluster.
    pub(crate) fn make_user(&self, name: &str, database: &str, privileges: &[(&str, &[&str])], cluster: &[&str]) {
        let on = |(place, actions): &(&str, &[&str])| {
            let (database, collection) = place.split_once('.').unwrap_or((database, place));
            doc! { "resource": { "db": database, "collection": collection }, "actions": *actions }
        };
        let mut all: Vec<Document> = privileges.iter().map(on).collect();
        if !cluster.is_empty() {
            all.push(doc! { "resource": { "cluster": true }, "actions": cluster });
        }
        self.ask("admin", doc! { "createRole": name, "privileges": all, "roles": [] });
        self.ask("admin", doc! { "createUser": name, "pwd": PASSWORD, "roles": [name] });
    }

    /// Inserts documents as the operator.
    pub(crate) fn insert(&self, database: &str, collection: &str, documents: &[Document]) {
        let collection = self.operator.database(database).collection::<Document>(collection);
        for batch in documents.chunks(1_000) {
            self.runtime.block_on(async { collection.insert_many(batch).await }).expect("the operator may do it");
        }
    }

    /// Returns how many connections were made so far.
    pub(crate) fn connections(&self) -> i64 {
        let status = self.ask("admin", doc! { "serverStatus": 1 });
        let created = status.get_document("connections").expect("it is told").get("totalCreated").cloned();
        created.and_then(|created| created.as_i64().or_else(|| created.as_i32().map(i64::from))).expect("a number")
    }
}

impl Impostor {
    /// Starts one with a certificate of `certificates`.
    pub(crate) fn start(certificates: &Certificates, name: &str) -> Self {
        let [port] = free_ports();
        let mut openssl = Command::new("openssl");
        openssl.args(["s_server", "-www", "-accept", &format!("127.0.0.1:{port}"), "-cert", &certificates.path(&format!("{name}.pem"))]);
        let server = Server::start(tempfile::tempdir().expect("a temporary directory"), &mut openssl);
        wait_until("openssl listens", std::time::Duration::from_secs(10), || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        Self { address: format!("127.0.0.1:{port}"), _server: server }
    }
}
