//! Three Kafka brokers: each partition is on all of them, and what is acknowledged is on two at least. Their controller is a process apart.

use std::time::Duration;

use super::kafka::{fill_disk, server, wait_until_all_up};
use super::process::{Server, free_ports, wait_until};

/// How many brokers there are.
pub(crate) const BROKERS: usize = 3;
/// Copies of each partition.
pub(crate) const COPIES: u32 = 3;
/// After how long the controller gives a silent broker's partitions to others.
pub(crate) const FENCED_AFTER: Duration = Duration::from_secs(4);

/// What a broker of several has.
const SETTINGS: &str = "broker.heartbeat.interval.ms=500
offsets.topic.replication.factor=3
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
min.insync.replicas=2
replica.lag.time.max.ms=4000
";

/// The cluster.
pub(crate) struct Cluster {
    /// `host:port` of every broker, with commas between them.
    pub(crate) bootstrap_servers: String,
    brokers: Vec<Server>,
    /// Ends after the brokers.
    _controller: Server,
}

impl Cluster {
    /// Starts it; brokers are numbered from 0.
    pub(crate) fn start() -> Self {
        let ports: [u16; BROKERS + 1] = free_ports();
        let (ports, controller) = (&ports[..BROKERS], ports[BROKERS]);
        // Leaders go back to where they belong soon, so they move again.
        let roles = format!(
            "process.roles=controller\nnode.id=100\ncontroller.quorum.voters=100@127.0.0.1:{controller}\n\
             listeners=CONTROLLER://127.0.0.1:{controller}\nbroker.session.timeout.ms={}\nleader.imbalance.check.interval.seconds=5\n\
             min.insync.replicas=2\n",
            FENCED_AFTER.as_millis()
        );
        let its = server(&roles, "160m");
        let broker = |(number, port): (usize, &u16)| {
            let roles = format!(
                "process.roles=broker\nnode.id={}\ncontroller.quorum.voters=100@127.0.0.1:{controller}\n\
                 listeners=PLAINTEXT://127.0.0.1:{port}\n{SETTINGS}",
                number + 1
            );
            server(&roles, "320m")
        };
        let brokers = ports.iter().enumerate().map(broker).collect();
        let places: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let cluster = Self { bootstrap_servers: places.join(","), brokers, _controller: its };
        cluster.wait_until_all_up();
        cluster
    }

    /// Waits until every broker is there again.
    pub(crate) fn wait_until_all_up(&self) {
        wait_until_all_up(&self.bootstrap_servers, &self.brokers);
    }

    /// Sends a signal to a broker (`STOP`, `CONT`, `TERM`, `KILL`).
    pub(crate) fn signal(&self, broker: usize, name: &str) {
        self.brokers[broker].signal(name);
    }

    /// Lets a broker's files of `topic` grow no further: its disk is full until it is started again.
    pub(crate) fn fill_disk(&self, broker: usize, topic: &str) {
        fill_disk(&self.brokers[broker], topic);
    }

    /// Whether a broker runs.
    pub(crate) fn is_alive(&self, broker: usize) -> bool {
        self.brokers[broker].is_alive()
    }

    /// Waits until a broker, which was asked to end, has done so.
    pub(crate) fn wait_until_ended(&self, broker: usize) {
        wait_until("a broker ends", Duration::from_mins(2), || (!self.is_alive(broker)).then_some(()));
    }

    /// Starts a broker again once it has ended, on what it has written; does not wait until it is there.
    pub(crate) fn start_again(&mut self, broker: usize) {
        self.brokers[broker].start_again();
    }
}
