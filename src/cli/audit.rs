//! `tidemark audit`: MongoDB against the log.

use std::sync::Arc;

use clap::Args;

use crate::audit::{Around, AuditError, Findings, Progress as Done, Report, Request, run as audit};
use crate::stage::Stop;

use super::exit::{Exit, Failure};
use super::out::{Format, Out, Tone, plain};
use super::progress::Progress;
use super::session::Session;
use super::time;

/// Flags of `audit`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidemark audit
  tidemark audit --from 2013-01-01 --to 2013-03-01 --output json
  tidemark audit --nothing-changed       where no ticket is changed after it has completed

It reads MongoDB and the topics only, may run beside `tidemark run`, and writes nothing. Exit code 7: the log differs.")]
pub struct AuditArgs {
    /// First completion, inclusive: a claim that the log has all from there on [default: since the log began]
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// End, exclusive [default: no end]
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Nobody changes, reopens or deletes tickets that have completed: what only the log has is wrong
    #[arg(long)]
    nothing_changed: bool,
}

pub(super) fn run(flags: &AuditArgs, session: &mut Session) -> Result<Exit, Failure> {
    let spec = Arc::new(session.spec()?);
    let bound = |text: &Option<String>, flag: &str| {
        let read = text.as_deref().map(time::instant).transpose();
        read.map_err(|why| Failure::new(Exit::Usage, format!("{flag}: {why}")))
    };
    let request =
        Request { from_ms: bound(&flags.from, "--from")?, to_ms: bound(&flags.to, "--to")?, nothing_changed: flags.nothing_changed };
    let log = session.log()?;
    let report = {
        let mut progress = Progress::new();
        let mut doing = "";
        let around = Around { config: session.config()?, spec: &spec, log: log.as_ref(), stop: &Stop::default() };
        audit(&request, &around, &mut |done: Done| {
            if done.doing != doing {
                doing = done.doing;
                progress.step(doing);
            }
            progress.rows(done.rows, done.total);
        })
        .map_err(failure)?
    };
    show(&report, &mut session.out)?;
    Ok(if report.clean { Exit::Ok } else { Exit::Differs })
}

fn failure(error: AuditError) -> Failure {
    let exit = match error {
        AuditError::Log(error) => return error.into(),
        AuditError::NotConfigured(_) => Exit::Usage,
        AuditError::Mongodb { .. } => Exit::Unreachable,
        AuditError::Refused(_) => Exit::Refused,
        AuditError::Stopped => Exit::Failed,
    };
    Failure::new(exit, error.to_string())
}

fn show(report: &Report, out: &mut Out) -> Result<(), Failure> {
    if out.format == Format::Json {
        return out.json(report);
    }
    let verdict =
        if report.clean { out.tone(Tone::Good, "the log keeps its promise") } else { out.tone(Tone::Critical, "THE LOG DIFFERS") };
    out.line(format!("{}: {verdict}", plain(&report.spec)))?;
    let how = if report.as_of_position { "as it was at tail's position" } else { "as it is now" };
    out.line(format!("MongoDB    {} completed ({how})", report.in_mongodb))?;
    out.line(format!("Log        {} tickets and dead letters", report.in_log))?;
    let behind = report.lag.tickets.map_or_else(|| "forgotten by MongoDB".to_owned(), |tickets| format!("{tickets} tickets"));
    out.line(format!("To come    {behind}, {} s", report.lag.seconds))?;
    for gap in &report.gaps {
        let bounds = format!("{} to {}", time::shown(gap.from_ms), time::shown(gap.to_ms));
        out.line(format!("Gap        {bounds}: {}", plain(&gap.reason)))?;
    }
    let dead: Vec<String> = report.dead_letters.iter().map(|(reason, count)| format!("{count} {}", plain(reason))).collect();
    if !dead.is_empty() {
        out.line(format!("Dead       {}", dead.join(", ")))?;
    }
    list(&report.wrong, Tone::Critical, out)?;
    list(&report.notes, Tone::Faint, out)
}

fn list(findings: &Findings, tone: Tone, out: &mut Out) -> Result<(), Failure> {
    for (kind, found) in findings.iter() {
        out.line("")?;
        let head = out.tone(tone, &format!("{} {}", found.count, kind.words()));
        out.line(head)?;
        for what in &found.first {
            out.line(format!("  {}", plain(what)))?;
        }
    }
    Ok(())
}
