//! `tidemark check`: the verdict of one window, without running anything.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::alert::Level;
use crate::baseline::Baseline;
use crate::baseline::builder::{Builder, Making};
use crate::check::{CauseReport, Counter, FromLog, Question, Report, check, page, window};
use crate::clock::{DAY_MS, now_ms, rfc3339};
use crate::config::Config;
use crate::log::Log;
use crate::spec::Spec;
use crate::summary::{Slice, Summary};
use crate::tail::replay::is_stdin;
use crate::topics::Topics;

use super::baseline::{newest_document, refused, versions};
use super::exit::{Exit, Failure};
use super::out::{Format, Out, Tone, plain};
use super::progress::Progress;
use super::session::Session;
use super::tickets::{self, Found, Place};
use super::topic::records;
use super::{status, time};

/// A level that ends the command with 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum FailOn {
    /// Warning or critical.
    Warning,
    /// Critical.
    Critical,
}

/// Flags of `check`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidemark check --window-days 7 --fail-on critical
  tidemark check --at 2013-03-22 --output html > check.html
  tidemark check --tickets tickets.ndjson.zst --baseline-from 2013-01-01 --baseline-to 2013-03-01 \\
      --at 2013-03-22 --window 7d --output json
  tidemark check --from-log

The window is [at − window, at), UTC. Without --tickets and --from-log the tickets are read from MongoDB. Without
--baseline-from the baseline is the version in force, from Kafka, or from ml_feature_baselines when no Kafka is configured.
--from-log judges what a running tidemark counted, and gives its figures bit by bit.")]
pub struct Check {
    /// Read tickets from this file instead of MongoDB: NDJSON (plain, gzip, zstd) or Parquet; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "from_log")]
    tickets: Option<PathBuf>,
    /// Make the baseline of the tickets that completed from this time on
    #[arg(long, value_name = "TIME", value_parser = time::instant, requires = "baseline_to", conflicts_with_all = ["baseline", "from_log"])]
    baseline_from: Option<i64>,
    /// … until this time, exclusive
    #[arg(long, value_name = "TIME", value_parser = time::instant, requires = "baseline_from")]
    baseline_to: Option<i64>,
    /// Version of the baseline, instead of the one in force
    #[arg(long, value_name = "VERSION")]
    baseline: Option<u64>,
    /// End of the window, exclusive, at the end of a slice [default: the last one that has ended]
    #[arg(long, value_name = "TIME", value_parser = time::instant)]
    at: Option<i64>,
    /// Length of the window in whole days: 7d, 1w [key: check.window_days]
    #[arg(long, value_name = "LENGTH", value_parser = time::duration, conflicts_with = "window_days")]
    window: Option<i64>,
    /// The same as a number of days
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=366))]
    window_days: Option<u32>,
    /// Judge what a running tidemark counted, as its topic `summaries` has it
    #[arg(long)]
    from_log: bool,
    /// End with 3 when the status is at this level or above
    #[arg(long, value_enum, value_name = "LEVEL")]
    fail_on: Option<FailOn>,
}

pub(super) fn run(flags: &Check, session: &mut Session) -> Result<Exit, Failure> {
    let spec = session.spec()?;
    let config = session.config()?.clone();
    let days = window_days(flags, &config)?;
    let mut progress = Progress::new();
    let report = if flags.from_log {
        from_log(flags, session, &config, &spec, days)?
    } else {
        let baseline = baseline(flags, session, &config, &spec, &mut progress)?;
        let at_ms = flags.at.unwrap_or_else(|| now_ms().div_euclid(config.window.slice_ms) * config.window.slice_ms);
        from_tickets(flags, &config, &spec, &baseline, (at_ms, days), &mut progress)?
    };
    drop(progress);
    match session.out.format {
        Format::Json => session.out.json(&report)?,
        Format::Html => session.out.raw(page(&report).as_bytes())?,
        Format::Text => print(&report, &spec, &mut session.out)?,
    }
    Ok(exit(flags.fail_on, report.status))
}

fn exit(fail_on: Option<FailOn>, status: Option<Level>) -> Exit {
    let reached = match fail_on {
        None => false,
        Some(FailOn::Warning) => status >= Some(Level::Warning),
        Some(FailOn::Critical) => status >= Some(Level::Critical),
    };
    if reached { Exit::LevelReached } else { Exit::Ok }
}

fn window_days(flags: &Check, config: &Config) -> Result<u32, Failure> {
    let Some(length_ms) = flags.window else { return Ok(flags.window_days.unwrap_or(config.check.window_days)) };
    let days = u32::try_from(length_ms / DAY_MS).ok().filter(|days| length_ms % DAY_MS == 0 && (1..=366).contains(days));
    days.ok_or_else(|| {
        Failure::new(Exit::Usage, format!("--window: {} is not a whole number of days from 1 to 366", time::span(length_ms)))
    })
}

fn place(flags: &Check) -> Place {
    flags.tickets.clone().map_or(Place::Mongodb, Place::File)
}

fn baseline(flags: &Check, session: &Session, config: &Config, spec: &Spec, progress: &mut Progress) -> Result<Baseline, Failure> {
    if let (Some(from_ms), Some(to_ms)) = (flags.baseline_from, flags.baseline_to) {
        if flags.tickets.as_deref().is_some_and(is_stdin) {
            return Err(Failure::new(
                Exit::Usage,
                "with --baseline-from the tickets are read twice: give a file instead of standard input",
            ));
        }
        let doing = format!("make a baseline of {} to {}", time::shown(from_ms), time::shown(to_ms));
        let mut builder = Builder::new(spec, from_ms, to_ms).map_err(|why| refused(&doing, &why))?;
        tickets::each(&place(flags), config, spec, (from_ms, to_ms), progress, &mut |found| match found {
            Found::Completed(ticket) => builder.push(ticket),
            Found::Other(ticket) => builder.push_other(ticket),
        })?;
        // A window of any length asked for is held against the noise of that length.
        let mut lengths = config.window.days.clone();
        lengths.push(window_days(flags, config)?);
        lengths.sort_unstable();
        lengths.dedup();
        let making = Making { version: 0, created_at_ms: now_ms(), window_days: &lengths, predecessor: None };
        return builder.build(&making).map_err(|why| refused(&doing, &why));
    }
    if config.kafka.bootstrap_servers.is_some() {
        let log = session.log()?;
        let topics = Topics::new(&config.kafka.topic_prefix);
        return in_force(flags.baseline, log.as_ref(), &topics, spec);
    }
    newest_document(config, spec, flags.baseline)
}

/// Returns the version asked for, else that of the last verdict, else the newest.
fn in_force(asked: Option<u64>, log: &dyn Log, topics: &Topics, spec: &Spec) -> Result<Baseline, Failure> {
    let mut all = versions(log, topics, &spec.name)?;
    let wanted = match asked {
        Some(version) => Some(version),
        None => status::read(log, topics, &spec.name)?.and_then(|status| status.baseline),
    };
    let at = match wanted {
        Some(version) => all.iter().position(|baseline| baseline.version == version),
        None => all.len().checked_sub(1),
    };
    let Some(at) = at else {
        let which = wanted.map_or_else(|| "no baseline".to_owned(), |version| format!("no baseline {version}"));
        let ways = "make one with `tidemark baseline create`, or check against --baseline-from and --baseline-to";
        return Err(Failure::new(Exit::BadInput, format!("there is {which} of {} in topic {}: {ways}", spec.name, topics.baselines)));
    };
    Ok(all.swap_remove(at))
}

fn usage(error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Usage, format!("cannot check: {error}"))
}

fn from_tickets(
    flags: &Check,
    config: &Config,
    spec: &Spec,
    baseline: &Baseline,
    (at_ms, days): (i64, u32),
    progress: &mut Progress,
) -> Result<Report, Failure> {
    let slice_ms = config.window.slice_ms;
    let interval = window(at_ms, days, slice_ms, baseline).map_err(usage)?;
    let unfit =
        |error: crate::check::CountError| Failure::new(Exit::BadInput, format!("cannot count over baseline {}: {error}", baseline.version));
    let mut counter = Counter::new(spec, baseline, slice_ms, interval).map_err(unfit)?;
    tickets::each(&place(flags), config, spec, interval, progress, &mut |found| {
        if let Found::Completed(ticket) = found {
            counter.push(ticket);
        }
    })?;
    progress.step("judging");
    Ok(judged(spec, baseline, &counter.slices(), (at_ms, days), config, None))
}

fn judged(
    spec: &Spec,
    baseline: &Baseline,
    slices: &[Slice],
    (at_ms, days): (i64, u32),
    config: &Config,
    late_since: Option<u64>,
) -> Report {
    check(&Question { spec, baseline, slices, at_ms, days, judge: &config.judge, late_since })
}

fn from_log(flags: &Check, session: &Session, config: &Config, spec: &Spec, days: u32) -> Result<Report, Failure> {
    let log = session.log()?;
    let topics = Topics::new(&config.kafka.topic_prefix);
    let last = status::read(log.as_ref(), &topics, &spec.name)?;
    let Some(at_ms) = flags.at.or_else(|| last.as_ref().map(|status| status.at_ms)) else {
        let topic = &topics.status;
        return Err(Failure::new(
            Exit::BadInput,
            format!("topic {topic} has no verdict about {}: has `tidemark run` passed a mark?", spec.name),
        ));
    };
    let baseline = in_force(flags.baseline, log.as_ref(), &topics, spec)?;
    let interval = window(at_ms, days, config.window.slice_ms, &baseline).map_err(usage)?;
    let mut collected = FromLog::new(interval, &spec.fingerprint(), baseline.version);
    for record in records(log.as_ref(), &topics.summaries, 0)? {
        // A stranger's record is not a summary; the judge skips it too.
        let value = record.value.as_deref().unwrap_or_default();
        if let Ok(summary) = serde_json::from_slice::<Summary>(value) {
            collected.push(&summary);
        }
    }
    if !collected.is_ended() {
        let marked = last.map_or_else(|| "there is none".to_owned(), |status| format!("the last one is {}", rfc3339(status.at_ms)));
        return Err(Failure::new(
            Exit::BadInput,
            format!("topic {} has no mark at {} under baseline {}: {marked}", topics.summaries, rfc3339(at_ms), baseline.version),
        ));
    }
    if collected.is_incomplete() {
        tracing::warn!(at = rfc3339(at_ms), "the log did not reach back over the whole window at that mark");
    }
    let late_since = collected.late_since();
    Ok(judged(spec, &baseline, &collected.slices(), (at_ms, days), config, Some(late_since)))
}

fn print(report: &Report, spec: &Spec, out: &mut Out) -> Result<(), Failure> {
    let verdict = match report.status {
        None => out.tone(Tone::Faint, "no verdict"),
        Some(Level::Ok) => out.tone(Tone::Good, "ok"),
        Some(Level::Warning) => out.tone(Tone::Warning, "WARNING"),
        Some(Level::Critical) => out.tone(Tone::Critical, "CRITICAL"),
    };
    out.line(format!("{}: {verdict}", plain(&report.spec)))?;
    out.line(plain(&report.summary))?;
    out.line("")?;
    out.line(format!("Window     {} to {}, {} tickets", report.from, report.at, report.rows))?;
    let baseline = &report.baseline;
    let version = if baseline.version == 0 { String::new() } else { format!("{}: ", baseline.version) };
    out.line(format!("Baseline   {version}{} to {}, {} tickets", baseline.from, baseline.to, baseline.rows))?;
    if let Some(mae) = report.error.mae_ms {
        let ratio = report.error.mae_ratio.map_or_else(String::new, |ratio| format!(", {ratio:.3} of the baseline's"));
        out.line(format!("MAE        {mae:.0}{ratio} ({}, {} predictions)", plain(&report.error.series), report.error.rows))?;
    }
    if let Some(late) = report.late_since.filter(|late| *late > 0) {
        out.line(format!("Late       {late} tickets came after this verdict, which does not know them"))?;
    }
    out.line("")?;
    let rows: Vec<Vec<String>> = report.causes.iter().map(|(name, cause)| cause_row(name, cause)).collect();
    out.table(&["CAUSE", "LEVEL", "EFFECT", "WARNING", "CRITICAL", "P (CALIBRATED)"], &rows)?;
    out.line("")?;
    let rows: Vec<Vec<String>> = spec
        .features
        .iter()
        .filter_map(|feature| Some((feature, report.features.get(&feature.name)?)))
        .map(|(feature, found)| {
            vec![feature.name.clone(), format!("{:.4}", found.psi), format!("{:.2e}", found.psi_p), found.cause.clone()]
        })
        .collect();
    out.table(&["FEATURE", "PSI", "P (TEXTBOOK)", "CAUSE"], &rows)?;
    if !report.recommendations.is_empty() {
        out.line("")?;
    }
    report.recommendations.iter().try_for_each(|what| out.line(format!("- {}", plain(what))))
}

fn cause_row(name: &str, cause: &CauseReport) -> Vec<String> {
    let level = if cause.decides { cause.level.name() } else { "shown only" };
    let p = cause.calibrated_p.map_or_else(|| "-".to_owned(), |p| format!("{p:.2e}"));
    vec![plain(name), level.to_owned(), format!("{:.4}", cause.effect), cause.warning.to_string(), cause.critical.to_string(), p]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_that_is_reached_ends_with_three() {
        for (fail_on, status, ends) in [
            (None, Some(Level::Critical), Exit::Ok),
            (Some(FailOn::Warning), Some(Level::Warning), Exit::LevelReached),
            (Some(FailOn::Warning), Some(Level::Critical), Exit::LevelReached),
            (Some(FailOn::Critical), Some(Level::Warning), Exit::Ok),
            (Some(FailOn::Critical), Some(Level::Critical), Exit::LevelReached),
            (Some(FailOn::Warning), Some(Level::Ok), Exit::Ok),
            (Some(FailOn::Warning), None, Exit::Ok),
        ] {
            assert_eq!(exit(fail_on, status), ends, "{fail_on:?} {status:?}");
        }
    }
}
