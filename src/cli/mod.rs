//! The command line: one subcommand a file, the same flags everywhere, one table of exit codes.

pub mod exit;
pub mod logging;
pub mod out;
pub mod session;
pub mod time;

mod alerts;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod allocator;
mod audit;
mod backfill;
mod baseline;
mod check;
mod completions;
mod config;
mod connect;
mod demo;
mod documents;
mod heard;
mod models;
mod moved;
mod mongo;
mod progress;
mod quiet;
mod run;
mod serve;
mod status;
mod suggest;
mod tickets;
mod topic;
mod train;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::config::load::{Flag, FlagValue};
use crate::config::secrets::Secrets;
use exit::{Exit, Failure};
use out::Format;
use session::Session;

/// Watches models whose right answers arrive later: completed tickets from MongoDB to Kafka exactly once, drift alerts,
/// retraining triggers.
#[derive(Debug, Parser)]
#[command(name = "tidemark", version, max_term_width = 120, after_help = exit::TABLE)]
pub struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Replay a real year of flights through the real stages, without any server
    Demo(demo::Demo),
    /// Run the stages: completed tickets to Kafka, their windows, the verdicts
    Run(run::Run),
    /// Answer predictions over HTTP: durations, anomalies, the load of workers
    Serve(serve::ServeArgs),
    /// Judge one window without running anything: from MongoDB, a file, or the log
    Check(check::Check),
    /// Make, list, show baselines; accept how a cause is now
    #[command(subcommand)]
    Baseline(baseline::BaselineCommand),
    /// Train the models once: compare, register, promote what is better, and write its baseline
    Train(train::Train),
    /// List, show, promote, roll back the versions of a model
    #[command(subcommand)]
    Models(models::ModelsCommand),
    /// Write the prediction errors of history, exactly once, and their statistics
    Backfill(backfill::BackfillArgs),
    /// Hold the log against MongoDB: missing, duplicated, out of order, broken chains, gaps, lag
    Audit(audit::AuditArgs),
    /// Show the last verdict: status, windows, open episodes, what it waits for
    Status(status::StatusArgs),
    /// List alerts, follow them, or silence a cause
    Alerts(alerts::Alerts),
    /// Write a test alert and see that a consumer gets it
    TestAlert(alerts::TestAlert),
    /// Check the configuration, or show what is in force
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Measure false alarms and delays on years drawn anew from a file's days
    #[command(hide = true)]
    QuietYears(quiet::QuietYears),
    /// Draft a watch spec from what documents look like
    #[command(subcommand)]
    Spec(suggest::SpecCommand),
    /// Print a completion script for a shell
    Completions(completions::Completions),
}

impl Command {
    /// Whether it goes on until it is stopped: then its log is what a person sees of it.
    fn is_service(&self) -> bool {
        matches!(self, Self::Run(_) | Self::Serve(_))
    }
}

/// Flags of every command. They are stronger than the environment, which is stronger than the file.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Configuration file [default: TIDEMARK_CONFIG, tidemark.toml, config/tidemark.toml: the first that is there]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Watch spec [key: spec]
    #[arg(long, global = true, value_name = "FILE")]
    pub spec: Option<PathBuf>,
    /// Form of the answer on standard output; html for `check` only [default: text]
    #[arg(long, short, global = true, value_enum, value_name = "FORM")]
    pub output: Option<Format>,
    /// Form of the log on standard error: text or json [key: log.format]
    #[arg(long, global = true, value_name = "FORM")]
    pub log_format: Option<String>,
    /// MongoDB connection string without a password; with one, use MONGODB_URI or the flag below [key: mongodb.uri]
    #[arg(long, global = true, value_name = "URI")]
    pub mongodb_uri: Option<String>,
    /// File that holds the MongoDB connection string [key: mongodb.uri]
    #[arg(long, global = true, value_name = "FILE")]
    pub mongodb_uri_file: Option<PathBuf>,
    /// Database, instead of the spec's [key: mongodb.database]
    #[arg(long, global = true, value_name = "NAME")]
    pub mongodb_database: Option<String>,
    /// Kafka: host:port,… [key: kafka.bootstrap_servers]
    #[arg(long, global = true, value_name = "SERVERS")]
    pub kafka_bootstrap_servers: Option<String>,
    /// Prefix of topics, groups and transactional ids [key: kafka.topic_prefix]
    #[arg(long, global = true, value_name = "PREFIX")]
    pub topic_prefix: Option<String>,
    /// MLflow: http(s)://host:port [key: mlflow.tracking_uri]
    #[arg(long, global = true, value_name = "URL")]
    pub mlflow_tracking_uri: Option<String>,
    /// Name of this process among its twins [key: instance]
    #[arg(long, global = true, value_name = "NAME")]
    pub instance: Option<String>,
    /// Sets any key: --set window.slice_ms=60000; may be given often
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl Global {
    /// Returns the keys that the flags set.
    ///
    /// # Errors
    /// A `--set` without `=`.
    pub fn flags(&self) -> Result<Vec<Flag>, Failure> {
        let mut flags = Vec::new();
        for text in &self.set {
            let Some((key, value)) = text.split_once('=') else {
                return Err(Failure::new(Exit::Usage, "--set takes KEY=VALUE, for example --set window.slice_ms=60000"));
            };
            flags.push(Flag { key: key.trim().to_owned(), name: "--set".to_owned(), value: FlagValue::Text(value.to_owned()) });
        }
        let mut text = |key: &str, name: &str, value: Option<String>| {
            if let Some(value) = value {
                flags.push(Flag { key: key.to_owned(), name: name.to_owned(), value: FlagValue::Text(value) });
            }
        };
        text("spec", "--spec", self.spec.as_ref().map(|path| path.to_string_lossy().into_owned()));
        text("log.format", "--log-format", self.log_format.clone());
        text("mongodb.uri", "--mongodb-uri", self.mongodb_uri.clone());
        text("mongodb.database", "--mongodb-database", self.mongodb_database.clone());
        text("kafka.bootstrap_servers", "--kafka-bootstrap-servers", self.kafka_bootstrap_servers.clone());
        text("kafka.topic_prefix", "--topic-prefix", self.topic_prefix.clone());
        text("mlflow.tracking_uri", "--mlflow-tracking-uri", self.mlflow_tracking_uri.clone());
        text("instance", "--instance", self.instance.clone());
        if let Some(path) = &self.mongodb_uri_file {
            flags.push(Flag { key: "mongodb.uri".to_owned(), name: "--mongodb-uri-file".to_owned(), value: FlagValue::File(path.clone()) });
        }
        Ok(flags)
    }
}

/// Runs the command line and returns how it ended. `environment` holds what is readable as UTF-8.
pub fn main(arguments: impl IntoIterator<Item = OsString>, environment: BTreeMap<String, String>) -> Exit {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help is an answer, everything else a fault of the command line. A closed pipe is nobody's fault.
            let printed = error.print().map_err(Failure::from);
            if error.use_stderr() {
                return Exit::Usage;
            }
            return printed.err().map_or(Exit::Ok, |failure| end_with(&failure, &Secrets::default()));
        }
    };
    let mut secrets = Secrets::default();
    match dispatch(cli, environment, &mut secrets) {
        Ok(exit) => exit,
        Err(failure) => end_with(&failure, &secrets),
    }
}

fn end_with(failure: &Failure, secrets: &Secrets) -> Exit {
    if !matches!(failure, Failure::BrokenPipe) {
        complain(failure, secrets);
    }
    failure.exit()
}

fn dispatch(cli: Cli, environment: BTreeMap<String, String>, secrets: &mut Secrets) -> Result<Exit, Failure> {
    let fault = environment.get(crate::fault::VARIABLE).cloned();
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    let gives_back = cli.command.is_service() && allocator::set(&environment);
    let mut session = Session::begin(cli.global, environment)?;
    *secrets = session.secrets.clone();
    session.start_logging(&cli.command);
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    if gives_back {
        allocator::give_back();
    }
    if let Some(fault) = fault {
        crate::fault::arm(&fault);
    }
    if session.out.format == Format::Html && !matches!(cli.command, Command::Check(_)) {
        return Err(Failure::new(Exit::Usage, "--output html is for `tidemark check` only; take text or json"));
    }
    match cli.command {
        Command::Demo(arguments) => demo::run(&arguments, &mut session),
        Command::Run(arguments) => run::run(&arguments, &mut session),
        Command::Serve(arguments) => serve::run(&arguments, &mut session),
        Command::Check(flags) => check::run(&flags, &mut session),
        Command::Baseline(command) => baseline::run(command, &mut session),
        Command::Train(flags) => train::run(&flags, &mut session),
        Command::Models(command) => models::run(command, &mut session),
        Command::Backfill(flags) => backfill::run(&flags, &mut session),
        Command::Audit(flags) => audit::run(&flags, &mut session),
        Command::Status(flags) => status::run(&flags, &mut session),
        Command::Alerts(flags) => alerts::run(&flags, &mut session),
        Command::TestAlert(flags) => alerts::test(&flags, &mut session),
        Command::Config(command) => config::run(command, &mut session),
        Command::QuietYears(args) => quiet::run(&args, &mut session),
        Command::Spec(command) => suggest::run(command, &mut session),
        Command::Completions(which) => completions::run(which, &mut Cli::command(), &mut session.out),
    }
}

fn complain(failure: &Failure, secrets: &Secrets) {
    use std::io::Write;
    // Nobody is left to be told when standard error is closed.
    drop(writeln!(std::io::stderr(), "tidemark: {}", secrets.scrub(&failure.to_string())));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_tree_holds_together() {
        Cli::command().debug_assert();
    }
}
