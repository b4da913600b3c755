//! A tidemark process under measurement: started, sampled from `/proc`, stopped.

use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A running `tidemark`, killed when dropped.
pub(crate) struct Tidemark(Child);

impl Tidemark {
    /// Starts the binary built with this bench.
    pub(crate) fn start(arguments: &[&str], environment: &[(&str, String)], log: &Path) -> Self {
        let log = std::fs::File::create(log).expect("the bench's folder takes a log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidemark"));
        command
            .args(arguments)
            .envs(environment.iter().map(|(k, v)| (*k, v.as_str())))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        Self(command.spawn().expect("the binary is built"))
    }

    /// Returns CPU seconds used so far, user and system.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).expect("the process is alive");
        let after = stat.rsplit(')').next().expect("stat has a name in brackets");
        let fields: Vec<&str> = after.split_whitespace().collect();
        let ticks = fields[11].parse::<f64>().expect("utime") + fields[12].parse::<f64>().expect("stime");
        ticks / 100.0
    }

    /// Returns a field of `/proc/PID/status` in MB: `VmRSS`, `VmHWM`.
    pub(crate) fn memory_mb(&self, field: &str) -> f64 {
        self.resident_mb(field).expect("the process is alive, and the kernel reports it")
    }

    /// The same of a process that may have ended by itself.
    pub(crate) fn resident_mb(&self, field: &str) -> Option<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).ok()?;
        let line = status.lines().find(|line| line.starts_with(field))?;
        Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) {
        self.0.kill().expect("it has not been waited for");
        drop(self.0.wait());
    }

    /// Asks it to stop and waits.
    pub(crate) fn stop(mut self) {
        drop(Command::new("kill").arg(self.0.id().to_string()).status());
        drop(self.0.wait());
    }
}

impl Drop for Tidemark {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
