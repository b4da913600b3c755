//! `tidemark run`: the stages on real servers, until a signal asks for the end.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::cli::exit::{Exit, Failure};
use crate::cli::heard::Heard;
use crate::cli::session::Session;
use crate::history::Place;
use crate::pipeline::{Part, Pipeline, PipelineError, Stage};
use crate::stage::{Context, Health, State, Stop};
use crate::tail::Source;
use crate::tail::mongo::MongoSource;
use crate::tail::replay::{ReplayPlan, ReplaySource, Speed};
use crate::topics::Topics;
use crate::{metrics, serve};

/// Longest time from the signal to the end.
const GRACE: Duration = Duration::from_secs(10);

/// Runs the stages: MongoDB's completed tickets to Kafka, their windows, the verdicts
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tidemark run                             every stage in one process; train where a registry is configured
  tidemark run --stages watch,judge        some; start more processes to share the work
  tidemark run --replay tickets.ndjson.zst tickets from a file instead of MongoDB

Ends on SIGTERM or SIGINT within 10 s, with nothing lost.")]
pub struct Run {
    /// Stages of this process: tail, watch, judge, train [default: all; train only where a registry is configured]
    #[arg(long, value_name = "STAGES", value_delimiter = ',')]
    stages: Option<Vec<Stage>>,
    /// Read tickets from a file (NDJSON, also .gz and .zst; Parquet) instead of MongoDB
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Pace of the replay: max, or a multiple of real time such as 3600x
    #[arg(long, default_value = "max", requires = "replay")]
    speed: Speed,
}

/// Runs the stages.
///
/// # Errors
/// Exit 2 for a faulty configuration, 4 for a server that cannot be reached, 6 for a topic or position that is refused.
pub(super) fn run(arguments: &Run, session: &mut Session) -> Result<Exit, Failure> {
    let config = Arc::new(session.config()?.clone());
    let spec = Arc::new(session.spec()?);
    let registry = session.registry()?;
    let stages: Vec<Stage> = match &arguments.stages {
        Some(stages) => stages.iter().copied().collect::<BTreeSet<_>>().into_iter().collect(),
        None => Stage::ALL.into_iter().filter(|stage| *stage != Stage::Train || registry.is_some()).collect(),
    };
    let log = session.log()?;
    let topics = Arc::new(Topics::new(&config.kafka.topic_prefix));
    log.create_topics(&topics.settings(&config.topic_plan()))?;
    let context = Context { config, spec, topics, log, stop: Stop::default(), health: Health::default(), registry };
    let source = if stages.contains(&Stage::Tail) { Some(source(arguments, &context, stages.contains(&Stage::Train))?) } else { None };

    let recorder = metrics::install().map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    let server = serve::start(&context, recorder).map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    let signals = stop_on_signals(&context.stop)?;
    let history = arguments.replay.as_ref().map_or(Place::Mongodb, |file| Place::File(file.clone(), None));
    let mut pipeline = Pipeline::start(&context, &stages, source, &history).map_err(failed)?;
    tracing::info!(stages = %names(&stages), prefix = %context.config.kafka.topic_prefix, "started");
    let ended = watch_over(&context, &mut pipeline, arguments.replay.is_some());
    let stopped = pipeline.stop(GRACE).map_err(failed);
    drop(signals);
    server.stop();
    ended?;
    stopped?;
    tracing::info!("stopped; nothing is lost");
    Ok(Exit::Ok)
}

/// Where tickets come from: the file of `--replay`, else MongoDB.
fn source(arguments: &Run, context: &Context, lives_through: bool) -> Result<Box<dyn Source>, Failure> {
    if let Some(file) = &arguments.replay {
        let plan = ReplayPlan { file: file.clone(), speed: arguments.speed, slowdown: None, await_baseline: None, lives_through };
        return Ok(Box::new(ReplaySource::new(plan, &context.spec)));
    }
    let source = MongoSource::new(&context.config, &context.spec).map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    Ok(Box::new(source.watching_oplog()))
}

fn names(stages: &[Stage]) -> String {
    stages.iter().map(|stage| stage.name()).collect::<Vec<_>>().join(",")
}

#[expect(clippy::needless_pass_by_value, reason = "it is the argument of map_err")]
pub(super) fn failed(error: PipelineError) -> Failure {
    Failure::new(exit_of(&error), error.to_string())
}

fn exit_of(error: &PipelineError) -> Exit {
    use crate::tail::{SourceError, TailError};
    match error {
        PipelineError::Tail(TailError::Source(SourceError::Unavailable { .. } | SourceError::Denied { .. })) => Exit::Unreachable,
        PipelineError::Tail(_) => Exit::Refused,
        _ => of_log(error).unwrap_or(Exit::Failed),
    }
}

/// Returns the code of what the log said, where that is the reason.
fn of_log(error: &PipelineError) -> Option<Exit> {
    let mut reason = std::error::Error::source(error);
    while let Some(error) = reason {
        if let Some(error) = error.downcast_ref::<crate::log::LogError>() {
            return Some(Exit::of_log(error));
        }
        reason = error.source();
    }
    None
}

/// Waits until the stop is asked for, a stage fails, or a replay has been read and judged to its end. Says in the log what
/// the process waits for, whenever that changes.
fn watch_over(context: &Context, pipeline: &mut Pipeline, replays: bool) -> Result<(), Failure> {
    let judges = pipeline.runs(Stage::Judge) && pipeline.runs(Stage::Tail);
    let mut heard = if replays && judges { Some(Heard::follow(context)?) } else { None };
    let mut tail_ended = false;
    let mut told = std::collections::BTreeMap::new();
    while !context.stop.is_asked() {
        if let Some((part, end)) = pipeline.wait(Duration::from_millis(200)) {
            end.map_err(failed)?;
            if part == Part::Stage(Stage::Tail) {
                tail_ended = true;
                heard.as_mut().map_or(Ok(()), |heard| heard.tail_has_ended(context))?;
            }
        }
        let heard_all = match &mut heard {
            Some(heard) => {
                heard.poll(Duration::ZERO)?;
                heard.has_judged_all()
            }
            None => !pipeline.is_running(),
        };
        if tail_ended && heard_all {
            return Ok(());
        }
        let states = context.health.all();
        for (part, state) in states.iter().filter(|(part, state)| told.get(*part) != Some(*state)) {
            match state {
                State::Ready(what) => tracing::info!(part, "{what}"),
                State::Waiting(what) => tracing::info!(part, "waiting: {what}"),
                State::Failed(what) => tracing::error!(part, "{what}"),
            }
        }
        told = states;
    }
    Ok(())
}

/// Asks for the stop on SIGTERM and SIGINT. A second signal ends the process at once.
pub(super) fn stop_on_signals(stop: &Stop) -> Result<tokio::runtime::Runtime, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let cannot = |error: std::io::Error| Failure::new(Exit::Failed, format!("cannot listen for signals: {error}"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_io().build().map_err(cannot)?;
    let (mut terminate, mut interrupt) = {
        let _inside = runtime.enter();
        (signal(SignalKind::terminate()).map_err(cannot)?, signal(SignalKind::interrupt()).map_err(cannot)?)
    };
    let stop = stop.clone();
    runtime.spawn(async move {
        let code = tokio::select! { _ = terminate.recv() => 143, _ = interrupt.recv() => 130 };
        tracing::info!("stopping: committing what is begun; a second signal ends at once");
        stop.ask();
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        std::process::exit(code);
    });
    Ok(runtime)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::JudgeError;
    use crate::log::LogError;
    use crate::watch::WatchError;

    #[test]
    fn a_stage_that_the_log_refuses_ends_as_tail_does() {
        let wrong = || LogError::WrongTopic { topic: "t".to_owned(), reason: "made anew".to_owned() };
        let away = LogError::Unavailable { doing: "reading".to_owned(), reason: "no broker".to_owned() };
        assert_eq!(exit_of(&WatchError::Log { topic: "t".to_owned(), source: wrong() }.into()), Exit::Refused);
        assert_eq!(exit_of(&JudgeError::Log(wrong()).into()), Exit::Refused);
        assert_eq!(exit_of(&JudgeError::Log(away).into()), Exit::Unreachable);
        assert_eq!(exit_of(&WatchError::TooLarge { topic: "t".to_owned(), bytes: 1 }.into()), Exit::Failed);
    }
}
