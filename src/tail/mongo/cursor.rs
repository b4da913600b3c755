//! The cursor of the change stream: one task owns it, because the driver's futures cannot be cancelled.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bson::{Document, RawDocument, RawDocumentBuf, Timestamp, doc};
use futures_util::StreamExt;
use mongodb::Collection;
use mongodb::raw_batch_cursor::RawBatch;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use super::super::source::{ClusterTime, SourceError};
use super::WAITING;
use super::words::failed;

/// A server that is there answers within a second or so; after so long without a word, everything is opened anew. Doubled with each
/// silence up to [`MOST_STALLS`] times, because a server that looks through a long oplog is silent, too.
pub(super) const STALLED: Duration = Duration::from_secs(15);
/// See [`STALLED`]: eight minutes.
const MOST_STALLS: u32 = 5;
/// Once it has answered, it answers within [`AWAIT`](super::AWAIT) whatever happens: so much longer and it is frozen, or was replaced.
/// Doubled like [`STALLED`], up to nine minutes.
const FROZEN: Duration = Duration::from_secs(4);
/// See [`FROZEN`].
const MOST_FREEZES: u32 = 7;
/// An answer that comes within this takes one doubling back.
const PROMPT: Duration = Duration::from_secs(2);

/// How long a server may be silent. It outlives cursors: a server that cannot be reached, and says so, costs no patience with the next.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// Silences that no prompt answer has made up for.
    silences: AtomicU32,
}

impl Patience {
    fn silences(&self) -> u32 {
        self.silences.load(Ordering::Relaxed)
    }

    /// With a server that has yet to find where to begin.
    pub(super) fn with_a_start(&self) -> Duration {
        STALLED * 2_u32.pow(self.silences().min(MOST_STALLS))
    }

    /// With one that has answered twice: the first answer only opens, and behind the second may be a long oplog.
    fn with_the_next(&self) -> Duration {
        FROZEN * 2_u32.pow(self.silences().min(MOST_FREEZES))
    }

    /// It has been silent too long.
    fn ran_out(&self) {
        self.silences.fetch_add(1, Ordering::Relaxed);
    }

    /// It has answered after `took`.
    fn heard(&self, took: Duration) {
        if took <= PROMPT {
            self.silences.store(self.silences().saturating_sub(1), Ordering::Relaxed);
        }
    }
}

fn silent(doing: &str, patience: Duration) -> SourceError {
    SourceError::Unavailable { doing: doing.to_owned(), reason: format!("the server has been silent for {} s", patience.as_secs()) }
}

/// Waits for the driver, but not for ever: it has no socket time-out. What was waited for must then be thrown away.
pub(super) fn within<T>(
    runtime: &Runtime,
    patience: Duration,
    doing: &str,
    future: impl Future<Output = mongodb::error::Result<T>>,
) -> Result<T, SourceError> {
    match runtime.block_on(async { tokio::time::timeout(patience, future).await }) {
        Ok(result) => result.map_err(|error| failed(doing, &error)),
        Err(_) => Err(silent(doing, patience)),
    }
}

/// Where a cursor begins.
#[derive(Clone)]
pub(super) enum From {
    Token(bytes::Bytes),
    Time(ClusterTime),
}

/// How much of each event a cursor brings.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    /// What the spec needs, in large batches.
    Whole,
    /// The same, each event in a reply of its own.
    OneByOne,
    /// No more than its place, its key and how large it is, each in a reply of its own.
    Sizes,
}

/// Why there is no reply.
pub(super) enum Unread {
    /// What comes next is more than the server can send.
    TooLarge(SourceError),
    /// Anything else.
    Failed(SourceError),
}

impl std::convert::From<Unread> for SourceError {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::TooLarge(error) | Unread::Failed(error) => error,
        }
    }
}

/// BSONObjectTooLarge: an event passes 16 MB.
const TOO_LARGE: i32 = 10_334;

fn is_too_large(error: &mongodb::error::Error) -> bool {
    matches!(error.kind.as_ref(), mongodb::error::ErrorKind::Command(command) if command.code == TOO_LARGE)
}

/// The cursor, and the task that owns it.
pub(super) struct Stream {
    pub(super) collection: Collection<RawDocumentBuf>,
    pub(super) stages: Vec<Document>,
    /// The stages of [`View::Sizes`].
    pub(super) sizes: Vec<Document>,
    pub(super) has_images: bool,
    pub(super) batch_rows: u32,
    pub(super) wait: Duration,
    pub(super) runtime: Arc<Runtime>,
    pub(super) patience: Arc<Patience>,
    pub(super) answers: u64,
    pub(super) doing: String,
    pub(super) replies: Option<Replies>,
    /// The first reply was too large already.
    pub(super) refused: Option<SourceError>,
}

/// What the task sends; the task ends when this is dropped.
pub(super) struct Replies {
    receiver: mpsc::Receiver<mongodb::error::Result<RawBatch>>,
    task: tokio::task::AbortHandle,
}

impl Drop for Replies {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stream {
    pub(super) fn open(&mut self, from: &From, view: View) -> Result<(), SourceError> {
        self.replies = None;
        self.refused = None;
        self.answers = 0;
        let mut change_stream = Document::new();
        match from {
            From::Token(token) => {
                let token = RawDocument::from_bytes(token).ok().and_then(|token| Document::try_from(token).ok());
                change_stream.insert("startAfter", token);
            }
            From::Time((time, increment)) => {
                change_stream.insert("startAtOperationTime", Timestamp { time: *time, increment: *increment });
            }
        }
        if self.has_images {
            change_stream.insert("fullDocument", "whenAvailable");
            change_stream.insert("fullDocumentBeforeChange", "whenAvailable");
        }
        let mut stages = vec![doc! { "$changeStream": change_stream }];
        stages.extend(if view == View::Sizes { &self.sizes } else { &self.stages }.iter().cloned());
        let rows = if view == View::Whole { self.batch_rows } else { 1 };
        let aggregate = self.collection.aggregate(stages).batch_size(rows).max_await_time(self.wait);
        let patience = self.patience.with_a_start();
        let opened = self.runtime.block_on(async { tokio::time::timeout(patience, async move { aggregate.batch().await }).await });
        let opened = opened.map_err(|_| {
            self.patience.ran_out();
            silent(&self.doing, patience)
        })?;
        let mut cursor = match opened {
            Ok(cursor) => cursor,
            Err(error) if is_too_large(&error) => {
                self.refused = Some(failed(&self.doing, &error));
                return Ok(());
            }
            Err(error) => return Err(failed(&self.doing, &error)),
        };
        let (sender, receiver) = mpsc::channel(WAITING);
        let task = self.runtime.spawn(async move {
            while let Some(reply) = cursor.next().await {
                let is_error = reply.is_err();
                if sender.send(reply).await.is_err() || is_error {
                    break;
                }
            }
        });
        self.replies = Some(Replies { receiver, task: task.abort_handle() });
        Ok(())
    }

    pub(super) fn block_on<T>(&self, future: impl Future<Output = mongodb::error::Result<T>>) -> Result<T, SourceError> {
        self.wait_for(self.patience.with_a_start(), future)
    }

    /// Waits for the driver; what takes longer than `patience` is a silence.
    pub(super) fn wait_for<T>(
        &self,
        patience: Duration,
        future: impl Future<Output = mongodb::error::Result<T>>,
    ) -> Result<T, SourceError> {
        let begun = Instant::now();
        let result = within(&self.runtime, patience, &self.doing, future);
        if result.is_err() && begun.elapsed() >= patience {
            self.patience.ran_out();
        }
        result
    }

    pub(super) fn unavailable(&self, reason: &str) -> SourceError {
        SourceError::Unavailable { doing: self.doing.clone(), reason: reason.to_owned() }
    }

    pub(super) fn next(&mut self) -> Result<RawBatch, Unread> {
        if let Some(error) = self.refused.take() {
            return Err(Unread::TooLarge(error));
        }
        let Some(replies) = &mut self.replies else {
            return Err(Unread::Failed(self.unavailable("it is not open")));
        };
        let patience = if self.answers > 1 { self.patience.with_the_next() } else { self.patience.with_a_start() };
        let begun = Instant::now();
        let next = self.runtime.block_on(async { tokio::time::timeout(patience, replies.receiver.recv()).await });
        match next {
            Ok(Some(Ok(batch))) => {
                if self.answers > 1 {
                    self.patience.heard(begun.elapsed());
                }
                self.answers += 1;
                Ok(batch)
            }
            Ok(Some(Err(error))) if is_too_large(&error) => Err(Unread::TooLarge(failed(&self.doing, &error))),
            Ok(Some(Err(error))) => Err(Unread::Failed(failed(&self.doing, &error))),
            Ok(None) => Err(Unread::Failed(self.unavailable("the server closed it"))),
            Err(_) => {
                self.patience.ran_out();
                Err(Unread::Failed(silent(&self.doing, patience)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_grows_with_silences_and_prompt_answers_take_it_back() {
        let patience = Patience::default();
        let both = |patience: &Patience| (patience.with_a_start().as_secs(), patience.with_the_next().as_secs());
        assert_eq!(both(&patience), (15, 4));
        (0..3).for_each(|_| patience.ran_out());
        assert_eq!(both(&patience), (120, 32));
        patience.heard(Duration::from_secs(20));
        assert_eq!(both(&patience), (120, 32), "it takes its time");
        (0..2).for_each(|_| patience.heard(Duration::from_secs(1)));
        assert_eq!(both(&patience), (30, 8));
        (0..2).for_each(|_| patience.heard(Duration::ZERO));
        assert_eq!(both(&patience), (15, 4));
        (0..20).for_each(|_| patience.ran_out());
        assert_eq!(both(&patience), (480, 512), "within bounds");
    }
}
