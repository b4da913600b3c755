//! A broker that lets nobody in without proof: SCRAM over TLS, or a certificate, and access by access control lists.

use std::process::Command;

use super::certificates::Certificates;
use super::kafka::{start, wait_until_up};
use super::process::{Server, free_ports, tools};

/// The password of every user.
pub(crate) const PASSWORD: &str = "hunter2-planted";
/// May do everything.
pub(crate) const OPERATOR: &str = "operator";
/// May do what it is granted.
pub(crate) const LEAST: &str = "least";

/// The broker, with one listener for each way in.
pub(crate) struct GuardedKafka {
    /// No proof asked for; whoever comes this way may do everything.
    pub(crate) plain: String,
    /// `SASL_SSL` with SCRAM-SHA-512.
    pub(crate) scram: String,
    /// The same, with a certificate that has expired.
    pub(crate) expired: String,
    /// The same, with another host's certificate.
    pub(crate) elsewhere: String,
    /// A certificate is asked for.
    pub(crate) mutual: String,
    /// For its clients.
    pub(crate) certificates: Certificates,
    server: Server,
}

impl GuardedKafka {
    /// Starts it.
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let certificates = Certificates::make(&directory.path().join("certificates"));
        let [plain, scram, expired, elsewhere, mutual, controller] = free_ports::<6>();
        let all = [("PLAIN", plain), ("SCRAM", scram), ("EXPIRED", expired), ("ELSEWHERE", elsewhere), ("MUTUAL", mutual)];
        let places = all.map(|(name, port)| format!("{name}://127.0.0.1:{port}")).join(",");
        let mut settings = format!(
            "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
advertised.listeners={places}
listeners={places},CONTROLLER://127.0.0.1:{controller}
listener.security.protocol.map=PLAIN:PLAINTEXT,SCRAM:SASL_SSL,EXPIRED:SASL_SSL,ELSEWHERE:SASL_SSL,MUTUAL:SSL,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAIN
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:{OPERATOR};User:CN=tidemark
listener.name.mutual.ssl.client.auth=required
listener.name.mutual.ssl.truststore.type=PEM
listener.name.mutual.ssl.truststore.location={}
",
            certificates.path("ca.crt")
        );
        for (listener, certificate) in [("scram", "server"), ("expired", "expired"), ("elsewhere", "elsewhere"), ("mutual", "server")] {
            let store = certificates.path(&format!("{certificate}.pem"));
            let prefix = format!("listener.name.{listener}");
            settings.push_str(&format!("{prefix}.ssl.keystore.type=PEM\n{prefix}.ssl.keystore.location={store}\n"));
            if listener != "mutual" {
                let module = "org.apache.kafka.common.security.scram.ScramLoginModule";
                settings.push_str(&format!(
                    "{prefix}.sasl.enabled.mechanisms=SCRAM-SHA-512\n{prefix}.scram-sha-512.sasl.jaas.config={module} required;\n"
                ));
            }
        }
        let users = [OPERATOR, LEAST].map(|user| format!("SCRAM-SHA-512=[name={user},password={PASSWORD}]"));
        let server = start(directory, &settings, "512m", &["--add-scram", &users[0], "--add-scram", &users[1]]);
        let at = |port: u16| format!("127.0.0.1:{port}");
        let (plain, scram, expired) = (at(plain), at(scram), at(expired));
        let kafka = Self { plain, scram, expired, elsewhere: at(elsewhere), mutual: at(mutual), certificates, server };
        wait_until_up(&kafka.plain, &kafka.server);
        kafka
    }

    /// Grants operations to [`LEAST`]: type of resource, prefix of its name, operation.
    pub(crate) fn grant(&self, grants: &[(&str, &str, &str)]) {
        let mut python = Command::new(tools().join("venv/bin/python"));
        python.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/client/grant.py")).args([&self.plain, LEAST]);
        for (resource, prefix, operation) in grants {
            python.arg(format!("{resource}:{prefix}:{operation}"));
        }
        let output = python.output().expect("the client is installed: run script/bootstrap test");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Returns how many connections could not authenticate themselves so far.
    pub(crate) fn failed_authentications(&self) -> usize {
        let log = std::fs::read_to_string(self.server.directory().join("server.log")).unwrap_or_default();
        log.lines().filter(|line| line.contains("Failed authentication with")).count()
    }
}
