//! Apache Kafka: one broker, with transactions and groups as in production; its controller in the same process, or apart.

use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use tempfile::TempDir;

use super::process::{Server, free_ports, tools, wait_until};

/// After how long the controller takes a silent broker for dead.
pub(crate) const DEAD_AFTER: Duration = Duration::from_secs(9);

/// A broker.
pub(crate) struct Kafka {
    /// `host:port`.
    pub(crate) bootstrap_servers: String,
    server: Server,
    /// Where it is a process of its own; ends after the broker.
    _controller: Option<Server>,
}

/// Returns the broker that all tests share: use topic names of your own.
pub(crate) fn kafka() -> &'static Kafka {
    static SHARED: OnceLock<Kafka> = OnceLock::new();
    SHARED.get_or_init(Kafka::start)
}

impl Kafka {
    /// Starts a broker for one test, which may freeze it.
    pub(crate) fn start() -> Self {
        let ports: [u16; 2] = free_ports();
        Self::both(ports, ports[0])
    }

    /// Starts a broker that clients reach at the port `proxy` only. `forward` is told where the broker itself listens.
    pub(crate) fn behind(proxy: u16, forward: impl FnOnce(u16)) -> Self {
        let ports: [u16; 2] = free_ports();
        forward(ports[0]);
        Self::both(ports, proxy)
    }

    /// The same with a controller that is a process of its own, so that the broker may be killed and started again.
    ///
    /// Start it again only after [`DEAD_AFTER`]. A broker that knows from its own disk that it led all partitions rolls transactions back
    /// before it is registered, finds no leader to send the markers to, and leaves them out for good (4.3.1: "Couldn't find leader endpoint
    /// for partitions … likely deleted already"): nobody can read past such a transaction. One that leads nothing when it starts waits.
    pub(crate) fn apart(proxy: u16, forward: impl FnOnce(u16)) -> Self {
        let [port, controller] = free_ports();
        forward(port);
        let roles = format!(
            "process.roles=controller\nnode.id=2\ncontroller.quorum.voters=2@127.0.0.1:{controller}\n\
             listeners=CONTROLLER://127.0.0.1:{controller}\nbroker.session.timeout.ms={}\n",
            DEAD_AFTER.as_millis()
        );
        let its = server(&roles, "128m");
        let roles = format!(
            "process.roles=broker\nnode.id=1\ncontroller.quorum.voters=2@127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://127.0.0.1:{port}\nadvertised.listeners=PLAINTEXT://127.0.0.1:{proxy}\n"
        );
        Self::up(server(&roles, "512m"), Some(its), proxy)
    }

    /// Broker and controller in one process.
    fn both([port, controller]: [u16; 2], advertised: u16) -> Self {
        let roles = format!(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{advertised}\n"
        );
        Self::up(server(&roles, "512m"), None, advertised)
    }

    fn up(server: Server, controller: Option<Server>, advertised: u16) -> Self {
        let kafka = Self { bootstrap_servers: format!("127.0.0.1:{advertised}"), server, _controller: controller };
        wait_until_up(&kafka.bootstrap_servers, &kafka.server);
        kafka
    }

    /// Waits until the broker, which was asked to end, has done so.
    pub(crate) fn wait_until_ended(&self) {
        wait_until("Kafka ends", Duration::from_mins(1), || (!self.server.is_alive()).then_some(()));
    }

    /// Starts the broker again once it has ended, on what it has written and at the same ports. Have it end first: `TERM`, `KILL`.
    pub(crate) fn start_again(&mut self) {
        self.server.start_again();
        wait_until_up(&self.bootstrap_servers, &self.server);
    }

    /// Sends a signal to the broker (`STOP`, `CONT`, `TERM`, `KILL`).
    pub(crate) fn signal(&self, name: &str) {
        self.server.signal(name);
    }

    /// Lets the broker's files of `topic` grow no further: its disk is full until it is started again.
    pub(crate) fn fill_disk(&self, topic: &str) {
        fill_disk(&self.server, topic);
    }

    /// Lets all producers together, of any name, write so many bytes a second; `None`: as many as they like.
    pub(crate) fn set_producer_quota(&self, bytes_a_second: Option<u32>) {
        let mut tool = Command::new("java");
        tool.args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", &classes(), "kafka.admin.ConfigCommand"]).args([
            "--bootstrap-server",
            &self.bootstrap_servers,
            "--alter",
            "--entity-type",
            "clients",
            "--entity-default",
        ]);
        match bytes_a_second {
            Some(bytes) => tool.args(["--add-config", &format!("producer_byte_rate={bytes}")]),
            None => tool.args(["--delete-config", "producer_byte_rate"]),
        };
        let output = tool.output().expect("java is there: run script/bootstrap test");
        assert!(output.status.success(), "kafka.admin.ConfigCommand: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Returns the server's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.server.pid()
    }
}

/// Bytes that still find room on a full disk: the batch that meets its end is written in part.
const ROOM: u64 = 100;

/// Takes the room from a broker's process: no file may grow beyond the largest that it has of `topic`, and a little. What is written
/// there fails, as on a full disk; the broker takes its only directory for lost and ends. A process that is started later has room.
pub(super) fn fill_disk(broker: &Server, topic: &str) {
    let folders = std::fs::read_dir(broker.directory().join("data")).expect("the broker's data are there").flatten();
    let of_topic = folders.filter(|folder| folder.file_name().to_string_lossy().starts_with(&format!("{topic}-")));
    let files = of_topic.flat_map(|folder| std::fs::read_dir(folder.path()).expect("a partition's files are there").flatten());
    let logs = files.filter(|file| file.path().extension().is_some_and(|extension| extension == "log"));
    let largest = logs.map(|file| file.metadata().expect("a file has a length").len()).max().expect("the broker has the topic");
    broker.let_no_file_pass(largest + ROOM);
}

/// Listeners without any credentials.
const OPEN: &str = "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n";

/// Starts Kafka in the given roles, on a disk of its own.
pub(super) fn server(roles: &str, memory: &str) -> Server {
    start(tempfile::tempdir().expect("a temporary directory"), &format!("{roles}{OPEN}"), memory, &[])
}

/// The class path of Kafka's programs.
fn classes() -> String {
    let libraries = tools().join("kafka/libs");
    assert!(libraries.is_dir(), "no Kafka in {}: run script/bootstrap test", libraries.display());
    format!("{}/*", libraries.display())
}

/// Starts Kafka in `directory`, in these roles and with these listeners; `formatting` says what else its storage begins with.
pub(super) fn start(directory: TempDir, roles: &str, memory: &str, formatting: &[&str]) -> Server {
    let classes = classes();
    let properties = directory.path().join("server.properties");
    let data = directory.path().join("data");
    // The last of two values counts.
    std::fs::write(&properties, format!("{SETTINGS}{roles}log.dirs={}\n", data.display())).expect("the directory takes a file");

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
    java.args(["-Xms64m", &format!("-Xmx{memory}"), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
        .args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", SAY_WHO_FAILED, "-cp", &classes, "kafka.Kafka"])
        .arg(&properties);
    Server::start(directory, &mut java)
}

/// Waits until the broker answers a client without any credentials.
pub(super) fn wait_until_up(bootstrap_servers: &str, server: &Server) {
    wait_until_all_up(bootstrap_servers, std::slice::from_ref(server));
}

/// Waits until the brokers, each a process, know of each other.
pub(super) fn wait_until_all_up(bootstrap_servers: &str, servers: &[Server]) {
    let client: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap_servers)
        .set("log_level", "0")
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "100")
        .create()
        .expect("a valid client configuration");
    wait_until("Kafka answers", Duration::from_mins(3), || match client.fetch_metadata(None, Duration::from_secs(2)) {
        Ok(metadata) if metadata.brokers().len() >= servers.len() => Some(()),
        _ => {
            for server in servers {
                assert!(server.is_alive(), "Kafka did not start:\n{}", server.last_words());
            }
            None
        }
    });
}

/// A line in the server's log for each client that could not authenticate itself.
const SAY_WHO_FAILED: &str = "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.network.Selector=info";

/// What every broker of ours has, unless its roles say otherwise.
const SETTINGS: &str = "controller.listener.names=CONTROLLER
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
log.cleaner.dedupe.buffer.size=16777216
";
