//! Servers that let nobody in without proof, on real ones: what works with the right proof and the least privileges, and what a
//! person is told without them.

mod kafka;
mod least;
mod mlflow;
mod mongo;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long a command may take until it has given up, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The command, with nothing in its environment but what a test gives it, and everything that it has to say on standard error.
fn tidemark(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemark"));
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR"))).env_clear().stdin(Stdio::null()).args(arguments);
    command.env("TIDEMARK_LOG_FILTER", "debug").env("TIDEMARK_HTTP_LISTEN", "");
    command
}

fn both(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Runs a command to its end, which is `code`, within bounds and without a word of `secret`; returns all that it said.
#[track_caller]
fn ends(command: &mut Command, code: i32, secret: &str) -> String {
    let begun = Instant::now();
    let output = command.output().unwrap();
    let said = both(&output);
    assert_eq!(output.status.code(), Some(code), "{command:?}: {said}");
    assert!(begun.elapsed() < PATIENCE, "{command:?} took {:?}: {said}", begun.elapsed());
    assert!(!said.contains(secret), "{command:?} tells the secret: {said}");
    said
}

/// Returns the lines of an answer that say what failed, not those of the log.
fn failures(said: &str) -> String {
    let is_one = |line: &&str| line.contains("FAILED") || line.starts_with("tidemark: ");
    said.lines().filter(is_one).collect::<Vec<_>>().join("\n")
}
