//! A server process that cannot outlive the tests.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Reads its standard input, which ends when the tests do, however they do. Then the server ends too. A line before that means that the
/// server has ended, and is to be started again.
const WATCHDOG: &str = r#"
trap '' INT TERM HUP
directory=$1; shift
start() {
    # The server hears what the watchdog is deaf to.
    (trap - INT TERM HUP; exec setsid "$@") >>"$directory/server.log" 2>&1 </dev/null &
    server=$!
    echo "$server"
}
start "$@"
while read -r _; do
    wait "$server" 2>/dev/null
    start "$@"
done
kill -s CONT -- "-$server" 2>/dev/null
kill -s KILL -- "-$server" 2>/dev/null
wait "$server" 2>/dev/null
rm -rf "$directory"
"#;

/// Returns the directory of the servers' programs: `TIDEMARK_SERVERS`, else `.servers` in the repository.
pub(crate) fn tools() -> PathBuf {
    std::env::var_os("TIDEMARK_SERVERS").map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.servers")), PathBuf::from)
}

/// Every secret that the tests plant has this in it: in credentials, in connection strings, in tickets.
pub(crate) const PLANTED: &str = "hunter2";

/// Holds that none of what our own program said has a planted secret in it, whatever the test is about.
pub(crate) fn holds_no_secret(said: &str) {
    // A test that has failed already says why itself.
    if let Some(line) = said.lines().find(|line| line.contains(PLANTED) && !std::thread::panicking()) {
        panic!("tidemark tells a secret: {}", line.chars().take(2_000).collect::<String>());
    }
}

/// A running server with a directory of its own. Killed when dropped, and when the tests end in any way. What our own program said is
/// searched for planted secrets then.
pub(crate) struct Server {
    watchdog: Child,
    /// What the watchdog says: the id of each process that it starts.
    says: BufReader<ChildStdout>,
    pid: u32,
    directory: PathBuf,
    is_ours: bool,
}

impl Server {
    /// Starts `program` in `directory`, which is removed when the server ends.
    pub(crate) fn start(directory: TempDir, program: &mut Command) -> Self {
        let directory = directory.keep();
        let mut command = Command::new("sh");
        command.args(["-c", WATCHDOG, "watchdog"]).arg(&directory).arg(program.get_program()).args(program.get_args());
        for (name, value) in program.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        if let Some(place) = program.get_current_dir() {
            command.current_dir(place);
        }
        // A group of its own: an interrupt from the terminal is for the tests, and they end the server.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut watchdog = command.spawn().expect("a shell is there");
        let mut says = BufReader::new(watchdog.stdout.take().expect("it was asked for"));
        let pid = started(&mut says);
        Self { watchdog, says, pid, directory, is_ours: program.get_program() == env!("CARGO_BIN_EXE_tidemark") }
    }

    /// Starts the same program in the same directory again, once the one before has ended. Stop or kill it first.
    pub(crate) fn start_again(&mut self) {
        // Here, and not in the watchdog: that one has to hear when the tests end.
        wait_until("the server ends", Duration::from_mins(1), || (!self.is_alive()).then_some(()));
        let watchdog = self.watchdog.stdin.as_mut().expect("it is piped");
        watchdog.write_all(b"\n").expect("the watchdog reads");
        self.pid = started(&mut self.says);
    }

    /// Sends a signal by name (`STOP`, `CONT`, `KILL`) to the server and its children. After `STOP` the server does nothing more: a
    /// signal alone is only on its way.
    pub(crate) fn signal(&self, name: &str) {
        let done = Command::new("kill").arg(format!("-{name}")).args(["--", &format!("-{}", self.pid)]).status().expect("kill is there");
        assert!(done.success(), "kill -{name} {}", self.pid);
        if name == "STOP" {
            wait_until("every thread of the server stands still", Duration::from_secs(30), || self.stands_still().then_some(()));
        }
    }

    fn stands_still(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid)).expect("the server runs");
        threads.flatten().all(|thread| {
            // A thread that is gone stands still, too.
            let state = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            state.rsplit(')').next().is_none_or(|rest| rest.is_empty() || rest.trim_start().starts_with(['T', 't', 'Z', 'X']))
        })
    }

    /// Has every write beyond so many bytes of a file fail from now on, in this process alone (`setrlimit(2)`, `RLIMIT_FSIZE`).
    pub(crate) fn let_no_file_pass(&self, bytes: u64) {
        let mut limit = Command::new("prlimit");
        limit.args(["--pid", &self.pid.to_string(), &format!("--fsize={bytes}:")]);
        let done = limit.status().expect("prlimit is there: it is in util-linux");
        assert!(done.success(), "prlimit --pid {} --fsize={bytes}:", self.pid);
    }

    /// Returns the server's directory.
    pub(crate) fn directory(&self) -> &std::path::Path {
        &self.directory
    }

    /// Returns the server's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether the server still runs.
    pub(crate) fn is_alive(&self) -> bool {
        // The watchdog collects it only at the end: until then a dead one is there as a zombie.
        let state = std::fs::read_to_string(format!("/proc/{}/stat", self.pid));
        state.is_ok_and(|state| state.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with(['Z', 'X'])))
    }

    /// Returns all that the server said.
    pub(crate) fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.directory.join("server.log")).unwrap_or_default()).into_owned()
    }

    /// Returns the last lines of what the server said.
    pub(crate) fn last_words(&self) -> String {
        let all = self.said();
        let lines: Vec<&str> = all.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let said = if self.is_ours { self.said() } else { String::new() };
        drop(self.watchdog.stdin.take());
        drop(self.watchdog.wait());
        holds_no_secret(&said);
    }
}

/// Returns the id of the process that the watchdog has just started.
fn started(says: &mut BufReader<ChildStdout>) -> u32 {
    let mut line = String::new();
    says.read_line(&mut line).expect("the watchdog says the server's id");
    line.trim().parse().expect("a process id")
}

/// Returns `N` ports that nobody listened on a moment ago.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    let listeners: [TcpListener; N] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").expect("a port is free"));
    listeners.map(|listener| listener.local_addr().expect("it is bound").port())
}

/// Asks again and again until `ready` returns a value; panics after `limit`, saying what was waited for.
pub(crate) fn wait_until<T>(what: &str, limit: Duration, mut ready: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(started.elapsed() < limit, "waited {limit:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
