//! Apache Kafka: one process, broker and controller, with transactions and groups as in production.

use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use tempfile::TempDir;

use super::late_end::LateEnd;
use super::process::{Server, free_ports, tools, wait_until};

/// A broker.
pub(crate) struct Kafka {
    /// `host:port`.
    pub(crate) bootstrap_servers: String,
    server: Server,
}

/// Returns the broker that all tests share: use topic names of your own.
pub(crate) fn kafka() -> &'static Kafka {
    static SHARED: OnceLock<Kafka> = OnceLock::new();
    SHARED.get_or_init(Kafka::start)
}

impl Kafka {
    /// Starts a broker for one test, which may stop and freeze it.
    pub(crate) fn start() -> Self {
        Self::advertised(None)
    }

    /// Starts a broker that clients reach through the proxy only.
    pub(crate) fn behind(proxy: &mut LateEnd) -> Self {
        Self::advertised(Some(proxy))
    }

    fn advertised(proxy: Option<&mut LateEnd>) -> Self {
        let [port, controller] = free_ports();
        let advertised = proxy.as_ref().map_or(port, |proxy| proxy.port);
        if let Some(proxy) = proxy {
            proxy.forward_to(port);
        }
        let directory = tempfile::tempdir().expect("a temporary directory");
        let server = start(directory, &listeners((port, advertised), controller), &[]);
        let bootstrap_servers = format!("127.0.0.1:{advertised}");
        wait_until_up(&bootstrap_servers, &server);
        Self { bootstrap_servers, server }
    }

    /// Sends a signal to the broker (`STOP`, `CONT`, `KILL`).
    pub(crate) fn signal(&self, name: &str) {
        self.server.signal(name);
    }

    /// Returns the server's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.server.pid()
    }
}

/// Starts a broker in `directory` with these listeners; `formatting` says what else its storage begins with.
pub(super) fn start(directory: TempDir, listeners: &str, formatting: &[&str]) -> Server {
    let libraries = tools().join("kafka/libs");
    assert!(libraries.is_dir(), "no Kafka in {}: run script/bootstrap test", libraries.display());
    let classes = format!("{}/*", libraries.display());
    let properties = directory.path().join("server.properties");
    let data = directory.path().join("data");
    std::fs::write(&properties, format!("{listeners}log.dirs={}\n{SETTINGS}", data.display())).expect("the directory takes a file");

    let formatted = Command::new("java")
        .args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", &classes])
        .args(["kafka.tools.StorageTool", "format", "--cluster-id", "5L6g3nShT-eMCtK--X86sw", "--config"])
        .arg(&properties)
        .args(formatting)
        .stdout(Stdio::null())
        .status()
        .expect("java is there: run script/bootstrap test");
    assert!(formatted.success(), "kafka.tools.StorageTool format");

    let mut java = Command::new("java");
    java.args(["-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
        .args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", SAY_WHO_FAILED, "-cp", &classes, "kafka.Kafka"])
        .arg(&properties);
    Server::start(directory, &mut java)
}

/// Waits until the broker answers a client without any credentials.
pub(super) fn wait_until_up(bootstrap_servers: &str, server: &Server) {
    let client: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap_servers)
        .set("log_level", "0")
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "100")
        .create()
        .expect("a valid client configuration");
    wait_until("Kafka answers", Duration::from_mins(1), || match client.fetch_metadata(None, Duration::from_secs(2)) {
        Ok(metadata) if !metadata.brokers().is_empty() => Some(()),
        _ => {
            assert!(server.is_alive(), "Kafka did not start:\n{}", server.last_words());
            None
        }
    });
}

/// A line in the server's log for each client that could not authenticate itself.
const SAY_WHO_FAILED: &str = "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.network.Selector=info";

/// What every broker of ours has.
const SETTINGS: &str = "process.roles=broker,controller
node.id=1
controller.listener.names=CONTROLLER
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
log.cleaner.dedupe.buffer.size=16777216
";

fn listeners((port, advertised): (u16, u16), controller: u16) -> String {
    format!(
        "controller.quorum.voters=1@127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{advertised}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
"
    )
}
