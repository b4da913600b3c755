//! Makes the stages' threads, watches over them, and stops them together. Carriers, which the stream does not depend on, are
//! started again instead.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::audit::{AuditError, audit_continuously};
use crate::history;
use crate::judge::{self, JudgeError};
use crate::stage::{Context, State};
use crate::tail::{self, Source, TailError};
use crate::train::stage::{self as train, TrainStageError};
use crate::trigger_documents::{self, TriggerDocumentsError};
use crate::watch::{self, WatchError};
use crate::webhook::{self, Feed, WebhookError};

/// Pause before a carrier that failed is started again; it doubles until [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// See [`FIRST_PAUSE`].
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A stage of the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Change stream to `tickets`.
    Tail,
    /// `tickets` to counts.
    Watch,
    /// Counts to verdicts.
    Judge,
    /// Requests to models.
    Train,
}

impl Stage {
    /// Every stage, in flow order.
    pub const ALL: [Self; 4] = [Self::Tail, Self::Watch, Self::Judge, Self::Train];

    /// Returns its name, as in `--stages`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tail => "tail",
            Self::Watch => "watch",
            Self::Judge => "judge",
            Self::Train => "train",
        }
    }
}

impl std::str::FromStr for Stage {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|stage| stage.name() == name).ok_or_else(|| format!("no stage {name:?}: tail, watch, judge or train"))
    }
}

/// What has a thread of its own: the stages, and what carries the judge's records on to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A stage.
    Stage(Stage),
    /// Posts a feed to the webhook.
    Webhook(Feed),
    /// Writes trigger documents to MongoDB.
    TriggerDocuments,
    /// Holds the log against MongoDB every so often.
    Audit,
}

impl Part {
    /// Carriers run beside the judge: where its records are made, they are carried on.
    const CARRIERS: [Self; 3] = [Self::Webhook(Feed::Alerts), Self::Webhook(Feed::Triggers), Self::TriggerDocuments];

    fn name(self) -> &'static str {
        match self {
            Self::Stage(stage) => stage.name(),
            Self::Webhook(Feed::Alerts) => "webhook-alerts",
            Self::Webhook(Feed::Triggers) => "webhook-triggers",
            Self::TriggerDocuments => "trigger-documents",
            Self::Audit => "audit",
        }
    }
}

/// Why the pipeline ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The first stage failed.
    #[error("tail stopped: {0}")]
    Tail(#[from] TailError),
    /// The second stage failed.
    #[error("watch stopped: {0}")]
    Watch(#[from] WatchError),
    /// The third stage failed.
    #[error("judge stopped: {0}")]
    Judge(#[from] JudgeError),
    /// The fourth stage failed.
    #[error("train stopped: {0}")]
    Train(#[from] TrainStageError),
    /// The webhook failed, and is started again; a receiver that fails is no failure.
    #[error("the webhook stopped: {0}")]
    Webhook(#[from] WebhookError),
    /// Trigger documents failed, and are started again; a MongoDB that is away is no failure.
    #[error("trigger documents stopped: {0}")]
    TriggerDocuments(#[from] TriggerDocumentsError),
    /// The audit beside the tail failed, and is started again; a server that is away is no failure.
    #[error("the audit stopped: {0}")]
    Audit(#[from] AuditError),
    /// A stage broke a promise of its own.
    #[error(
        "{0} panicked; its message is in the log above. Nothing is lost: a restart replays from the committed position. Please report it"
    )]
    Panicked(&'static str),
    /// A stage did not end in time after it was asked to.
    #[error("{0} did not stop within {1:?}; a restart replays from the committed position")]
    Stuck(&'static str, Duration),
    /// A thread could not be started.
    #[error("starting the thread of {0}: {1}")]
    Spawn(&'static str, std::io::Error),
}

/// The stages that run in this process.
pub struct Pipeline {
    context: Context,
    running: Vec<(Part, JoinHandle<()>)>,
    ends: Receiver<(Part, Result<(), PipelineError>)>,
}

impl Pipeline {
    /// Starts `stages`. `source` is taken by tail; without tail it may be `None`. `history` is what train reads.
    ///
    /// # Errors
    /// [`PipelineError::Spawn`].
    pub fn start(
        context: &Context,
        stages: &[Stage],
        mut source: Option<Box<dyn Source>>,
        history: &history::Place,
    ) -> Result<Self, PipelineError> {
        let (sender, ends) = channel();
        let mut running = Vec::new();
        let carriers = if stages.contains(&Stage::Judge) { &Part::CARRIERS[..] } else { &[] };
        let is_live = source.as_ref().is_some_and(|source| !source.is_replay());
        let audit = (is_live && context.config.audit.every_seconds > 0).then_some(Part::Audit);
        for part in stages.iter().map(|stage| Part::Stage(*stage)).chain(carriers.iter().copied()).chain(audit) {
            let its_source = if part == Part::Stage(Stage::Tail) { source.take() } else { None };
            let handle = spawn(context.clone(), part, its_source, history.clone(), sender.clone())?;
            running.push((part, handle));
        }
        Ok(Self { context: context.clone(), running, ends })
    }

    /// Waits for at most `time` until a part ends, and returns which and how. A stage that ends in failure, or a panic, asks
    /// all others to stop; a carrier never does.
    pub fn wait(&mut self, time: Duration) -> Option<(Part, Result<(), PipelineError>)> {
        let (part, end) = self.ends.recv_timeout(time).ok()?;
        self.running.retain(|(running, _)| *running != part);
        if let Err(error) = &end {
            self.context.health.set(part.name(), State::Failed(error.to_string()));
            self.context.stop.ask();
        }
        Some((part, end))
    }

    /// Whether `stage` is still running.
    #[must_use]
    pub fn runs(&self, stage: Stage) -> bool {
        self.running.iter().any(|(running, _)| *running == Part::Stage(stage))
    }

    /// Whether any stage is still running.
    #[must_use]
    pub fn is_running(&self) -> bool {
        !self.running.is_empty()
    }

    /// Asks every stage to stop and waits until all have, for at most `time`.
    ///
    /// # Errors
    /// The first failure of a stage; [`PipelineError::Stuck`].
    pub fn stop(mut self, time: Duration) -> Result<(), PipelineError> {
        self.context.stop.ask();
        let deadline = Instant::now() + time;
        let mut first = Ok(());
        while let Some((part, _)) = self.running.first() {
            let name = part.name();
            match self.wait(deadline.saturating_duration_since(Instant::now())) {
                Some((_, end)) => first = first.and(end),
                None => return first.and(Err(PipelineError::Stuck(name, time))),
            }
        }
        first
    }
}

fn spawn(
    context: Context,
    part: Part,
    source: Option<Box<dyn Source>>,
    history: history::Place,
    ends: Sender<(Part, Result<(), PipelineError>)>,
) -> Result<JoinHandle<()>, PipelineError> {
    let body = move || {
        let end = match part {
            Part::Stage(_) => attempt(&context, part, source, &history),
            Part::Webhook(_) | Part::TriggerDocuments | Part::Audit => {
                carry(&context, part);
                Ok(())
            }
        };
        // The receiver is gone only when nobody waits for the stages any more.
        drop(ends.send((part, end)));
    };
    std::thread::Builder::new().name(part.name().to_owned()).spawn(body).map_err(|error| PipelineError::Spawn(part.name(), error))
}

/// Runs a carrier until the stop is asked for, again after each failure: the stages go on without it.
fn carry(context: &Context, part: Part) {
    let mut pause = FIRST_PAUSE;
    loop {
        let begun = Instant::now();
        let Err(error) = attempt(context, part, None, &history::Place::Mongodb) else { return };
        if begun.elapsed() > LONGEST_PAUSE {
            pause = FIRST_PAUSE;
        }
        let what = format!("{error}; it is started again after {} s", pause.as_secs());
        tracing::error!(part = part.name(), "{what}");
        context.health.set(part.name(), State::Waiting(what));
        if context.stop.wait(pause) {
            return;
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Runs a part once; a panic is its failure.
fn attempt(context: &Context, part: Part, source: Option<Box<dyn Source>>, history: &history::Place) -> Result<(), PipelineError> {
    let run = std::panic::AssertUnwindSafe(|| run(context, part, source, history));
    std::panic::catch_unwind(run).unwrap_or(Err(PipelineError::Panicked(part.name())))
}

fn run(context: &Context, part: Part, source: Option<Box<dyn Source>>, history: &history::Place) -> Result<(), PipelineError> {
    match part {
        Part::Stage(Stage::Tail) => tail::run(context, source.expect("tail is started with a source"))?,
        Part::Stage(Stage::Watch) => watch::run(context)?,
        Part::Stage(Stage::Judge) => judge::run(context)?,
        Part::Stage(Stage::Train) => train::run(context, history.clone())?,
        Part::Webhook(feed) => webhook::run(context, feed)?,
        Part::TriggerDocuments => trigger_documents::run(context)?,
        Part::Audit => audit_continuously(context)?,
    }
    Ok(())
}
