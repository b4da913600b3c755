//! `tidemark config`: what is wrong, what is in force.

use clap::Subcommand;
use serde_json::json;

use crate::config::faults::Fault;
use crate::config::show::shown;

use super::connect;
use super::exit::{Exit, Failure};
use super::out::{Format, Tone, plain};
use super::session::Session;

/// Which of them.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// List every fault of the configuration and the watch spec at once
    #[command(after_help = "Examples:
  tidemark config check
  tidemark config check --config /etc/tidemark/tidemark.toml --spec my-spec.toml
  tidemark config check --connect --output json

Ends with 0 when all is well, 2 when there is a fault, 4 when a server does not answer.")]
    Check(Check),
    /// Show every key with its value in force and where that came from; secrets are masked
    #[command(after_help = "Examples:
  tidemark config show
  tidemark config show --output json | jq '.keys[] | select(.origin.kind != \"default\")'
  ML_DRIFT_PSI_THRESHOLD=0.3 tidemark config show")]
    Show(Show),
}

/// Flags of `config check`.
#[derive(Debug, clap::Args)]
pub struct Check {
    /// Try each configured server too: MongoDB, Kafka, MLflow
    #[arg(long)]
    connect: bool,
}

/// Flags of `config show`.
#[derive(Debug, clap::Args)]
pub struct Show {
    /// Only keys that somebody has set
    #[arg(long)]
    changed: bool,
}

pub(super) fn run(command: ConfigCommand, session: &mut Session) -> Result<Exit, Failure> {
    match command {
        ConfigCommand::Check(flags) => check(&flags, session),
        ConfigCommand::Show(flags) => show(&flags, session),
    }
}

fn check(flags: &Check, session: &mut Session) -> Result<Exit, Failure> {
    let mut faults = session.faults.clone();
    let spec = match session.spec_and_faults() {
        Ok((spec, more)) => {
            let is_fine = more.is_empty();
            faults.extend(more);
            is_fine.then_some(spec)
        }
        Err(failure) => {
            let origin = session.loaded.origin("spec").to_string();
            faults.push(Fault { key: "spec".to_owned(), origin, problem: failure.to_string(), allowed: None, nearest: None });
            None
        }
    };
    // What is in force beside a fault is not what was meant: no server is tried with it.
    let probes = if flags.connect && session.faults.is_empty() { connect::all(&session.loaded.config, spec.as_ref()) } else { Vec::new() };
    let is_reached = probes.iter().all(|probe| probe.ok != Some(false));
    let exit = match (faults.is_empty(), is_reached) {
        (false, _) => Exit::Usage,
        (true, false) => Exit::Unreachable,
        (true, true) => Exit::Ok,
    };
    let notes = session.loaded.notes.clone();
    if session.out.format == Format::Json {
        let mut answer = json!({ "ok": exit == Exit::Ok, "faults": faults, "notes": notes });
        if flags.connect {
            answer["servers"] = json!(probes);
        }
        let answer = session.secrets.scrub(&answer.to_string()).into_owned();
        session.out.json(&serde_json::from_str::<serde_json::Value>(&answer).unwrap_or(serde_json::Value::String(answer)))?;
        return Ok(exit);
    }
    let out = &mut session.out;
    for note in &notes {
        out.line(format!("note: {note}"))?;
    }
    for fault in &faults {
        let text = out.tone(Tone::Critical, &fault.to_string());
        out.line(text)?;
    }
    for probe in &probes {
        let Some(address) = &probe.address else {
            out.line(format!("{:<8} not configured", probe.server))?;
            continue;
        };
        out.line(format!("{:<8} {address}", probe.server))?;
        for step in &probe.steps {
            let mark = if step.ok { out.tone(Tone::Good, "ok") } else { out.tone(Tone::Critical, "FAILED") };
            out.line(format!("  {}: {mark}, {}", step.tried, plain(&session.secrets.scrub(&step.found))))?;
        }
    }
    if flags.connect && probes.is_empty() {
        out.line("No server was tried: the configuration has faults.")?;
    }
    let file = session.file.as_ref().map_or_else(|| "no file, defaults".to_owned(), |path| path.display().to_string());
    let spec = session.loaded.config.spec.display();
    match (faults.len(), is_reached) {
        (0, true) => out.line(format!("The configuration is fine ({file}; spec {spec})."))?,
        (0, false) => out.line(format!("The configuration is fine ({file}; spec {spec}), but not every server can be used."))?,
        (1, _) => out.line(format!("1 fault ({file}; spec {spec})."))?,
        (many, _) => out.line(format!("{many} faults ({file}; spec {spec})."))?,
    }
    Ok(exit)
}

fn show(flags: &Show, session: &mut Session) -> Result<Exit, Failure> {
    session.config()?;
    let mut lines = shown(&session.loaded);
    if flags.changed {
        lines.retain(|line| line.origin != crate::config::load::Origin::Default);
    }
    let out = &mut session.out;
    if out.format == Format::Json {
        out.json(&json!({ "file": session.file, "keys": lines, "notes": session.loaded.notes }))?;
        return Ok(Exit::Ok);
    }
    let rows: Vec<Vec<String>> = lines
        .iter()
        .map(|line| {
            let value = line.value.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
            vec![line.key.clone(), value, line.origin.to_string(), line.used_by.join(", ")]
        })
        .collect();
    out.table(&["KEY", "VALUE", "FROM", "READ BY"], &rows)?;
    for note in &session.loaded.notes {
        out.line(format!("note: {note}"))?;
    }
    Ok(Exit::Ok)
}
