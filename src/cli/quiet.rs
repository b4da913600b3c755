//! `tidemark quiet-years`: how often an alarm is false, and how long a true one takes, on years drawn anew from a file.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::quiet::{Change, Draw, Measured, Plan, Pool, PoolError, measure};

use super::exit::{Exit, Failure};
use super::out::Format;
use super::session::Session;
use super::time;

/// How days follow each other.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum DrawFlag {
    /// Each day is any day of the file
    Days,
    /// Each week is any seven days in a row
    Weeks,
    /// Bad days come together: AR(1), ρ = 0.8
    Ar1,
    /// As they were, once
    Real,
}

/// What changes.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum ChangeFlag {
    /// Nothing: every alarm is false
    None,
    /// Three task types take 1.6 times as long
    Slowdown,
    /// Tickets are created an hour later by the clock
    HourShift,
}

/// Flags of `quiet-years`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidemark quiet-years --from 2013-03-11 --until 2013-11-03 --years 20
  tidemark quiet-years --from 2013-03-11 --until 2013-11-03 --draw weeks --change slowdown --share 1 --years 40
  tidemark quiet-years --draw real --share 1")]
pub struct QuietYears {
    /// Draw days of this file: a year of execution tickets
    #[arg(long, value_name = "FILE", default_value = "data/flights-demo.ndjson.zst")]
    tickets: PathBuf,
    /// Draw from days that completed from this time on
    #[arg(long, value_name = "TIME", value_parser = time::instant)]
    from: Option<i64>,
    /// … until this time, exclusive
    #[arg(long, value_name = "TIME", value_parser = time::instant)]
    until: Option<i64>,
    /// Years of each kind
    #[arg(long, value_name = "NUMBER", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    years: u64,
    /// First seed; the same seeds give the same years
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// How days follow each other
    #[arg(long, value_enum, default_values_t = [DrawFlag::Days, DrawFlag::Weeks, DrawFlag::Ar1])]
    draw: Vec<DrawFlag>,
    /// Share of the tickets that is kept
    #[arg(long, value_name = "SHARE", default_values_t = [1.0, 0.1, 0.02])]
    share: Vec<f64>,
    /// What changes three weeks after the baseline
    #[arg(long, value_enum, default_value_t = ChangeFlag::None)]
    change: ChangeFlag,
}

#[derive(Serialize)]
struct Answer {
    draw: &'static str,
    share: f64,
    measured: Measured,
}

pub(super) fn run(args: &QuietYears, session: &mut Session) -> Result<Exit, Failure> {
    if args.share.iter().any(|share| !(*share > 0.0 && *share <= 1.0)) {
        return Err(Failure::new(Exit::Usage, "--share is above 0 and at most 1"));
    }
    let judge = session.config()?.judge.clone();
    let spec = session.spec()?;
    let interval = (args.from.unwrap_or(i64::MIN), args.until.unwrap_or(i64::MAX));
    let pool = Pool::read(&args.tickets, &spec, interval).map_err(|error| {
        let exit = if matches!(error, PoolError::Replay(_)) { Exit::BadInput } else { Exit::Usage };
        Failure::new(exit, error.to_string())
    })?;
    let change = match args.change {
        ChangeFlag::None => None,
        ChangeFlag::Slowdown => Some(Change::Slowdown),
        ChangeFlag::HourShift => Some(Change::HourShift),
    };
    for flag in &args.draw {
        let draw = match flag {
            DrawFlag::Days => Draw::Days,
            DrawFlag::Weeks => Draw::Weeks,
            DrawFlag::Ar1 => Draw::Persistent,
            DrawFlag::Real => Draw::Real,
        };
        for share in &args.share {
            let years = if draw == Draw::Real && *share >= 1.0 { 1 } else { args.years };
            let measured = measure(&pool, Plan { draw, rate: *share, change }, &judge, years, args.seed);
            let answer = Answer { draw: draw.name(), share: *share, measured };
            match session.out.format {
                Format::Json => session.out.json_line(&answer)?,
                Format::Text | Format::Html => session.out.line(words(&answer, change.is_some()))?,
            }
        }
    }
    Ok(Exit::Ok)
}

fn words(answer: &Answer, changes: bool) -> String {
    let Answer { draw, share, measured } = answer;
    let listed = |counts: &std::collections::BTreeMap<String, u64>| {
        let each: Vec<String> = counts.iter().map(|(cause, count)| format!("{cause} {count}")).collect();
        if each.is_empty() { "none".to_owned() } else { each.join(", ") }
    };
    let mut line = format!(
        "{draw:5} {:5.1} % of the tickets, {} years: false alarms {} ({}), false warnings {}",
        share * 100.0,
        measured.years,
        measured.false_alarms(),
        listed(&measured.false_critical),
        listed(&measured.false_warning),
    );
    if changes {
        let delay = |cause: &String| {
            let median = measured.median_delay_hours(cause).map_or_else(|| "not in half of them".to_owned(), |hours| format!("{hours} h"));
            format!("{cause} {median} (in {} of {})", measured.delays_hours[cause].len(), measured.years)
        };
        let delays: Vec<String> = measured.delays_hours.keys().map(delay).collect();
        line += &format!("; found after, median: {}", if delays.is_empty() { "never".to_owned() } else { delays.join(", ") });
    }
    if measured.refused > 0 {
        line += &format!("; {} baselines were of no use", measured.refused);
    }
    line
}
