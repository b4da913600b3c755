//! MLflow: a tracking server with an empty store.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use super::process::{Server, free_ports, tools, wait_until};

/// A tracking server.
pub(crate) struct Mlflow {
    /// Where it is: `http://host:port`.
    pub(crate) uri: String,
    server: Server,
}

/// Returns the tracking server that all tests share: use names of your own.
pub(crate) fn mlflow() -> &'static Mlflow {
    static SHARED: OnceLock<Mlflow> = OnceLock::new();
    SHARED.get_or_init(Mlflow::start)
}

impl Mlflow {
    /// Starts a tracking server for one test.
    pub(crate) fn start() -> Self {
        let python = tools().join("venv/bin/python");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let [port] = free_ports();
        let mut program = Command::new(&python);
        program
            .args(["-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", &port.to_string()])
            .args(["--backend-store-uri", &format!("sqlite:///{}", directory.path().join("mlflow.db").display())])
            .arg("--artifacts-destination")
            .arg(directory.path().join("artifacts"))
            // Else it starts a dozen processes more, for jobs that nobody here gives it.
            .env("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
            .current_dir(directory.path());
        let mlflow = Self { uri: format!("http://127.0.0.1:{port}"), server: Server::start(directory, &mut program) };
        wait_until("MLflow answers", Duration::from_mins(3), || {
            assert!(mlflow.server.is_alive(), "MLflow did not start (run script/bootstrap test):\n{}", mlflow.server.last_words());
            is_healthy(port).then_some(())
        });
        mlflow
    }

    /// Returns the server's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.server.pid()
    }
}

fn is_healthy(port: u16) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 "))
}
