//! The cursor of the change stream: one task owns it, because the driver's futures cannot be cancelled.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bson::{Document, RawDocument, RawDocumentBuf, Timestamp, doc};
use futures_util::StreamExt;
use mongodb::Collection;
use mongodb::raw_batch_cursor::RawBatch;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use super::super::source::{ClusterTime, SourceError};
use super::WAITING;
use super::words::failed;

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
    pub(super) patience: Duration,
    /// How long it may be silent once it has answered twice: the first answer only opens, and behind the second may be a long oplog.
    pub(super) alive: Duration,
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
        let opened = self.runtime.block_on(async { tokio::time::timeout(self.patience, async move { aggregate.batch().await }).await });
        let mut cursor = match opened.map_err(|_| silent(&self.doing, self.patience))? {
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
        within(&self.runtime, self.patience, &self.doing, future)
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
        let patience = if self.answers > 1 { self.alive } else { self.patience };
        let next = self.runtime.block_on(async { tokio::time::timeout(patience, replies.receiver.recv()).await });
        match next {
            Ok(Some(Ok(batch))) => {
                self.answers += 1;
                Ok(batch)
            }
            Ok(Some(Err(error))) if is_too_large(&error) => Err(Unread::TooLarge(failed(&self.doing, &error))),
            Ok(Some(Err(error))) => Err(Unread::Failed(failed(&self.doing, &error))),
            Ok(None) => Err(Unread::Failed(self.unavailable("the server closed it"))),
            Err(_) => Err(Unread::Failed(silent(&self.doing, patience))),
        }
    }
}
