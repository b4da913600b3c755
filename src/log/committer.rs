//! Commits one transaction while the next is being filled.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Producer, TransactError, Transaction};

/// A producer in a thread of its own. At most one transaction is under way; [`Committer::submit`] waits for it.
///
/// After an error everything that was submitted since is dropped, as the producer is spent: the caller reads back what became
/// visible and begins anew. Dropping it waits for what is under way.
pub struct Committer<T> {
    work: Option<SyncSender<(Transaction, T)>>,
    done: Receiver<Done<T>>,
    is_busy: bool,
    thread: Option<JoinHandle<()>>,
}

/// What became of a transaction.
#[derive(Debug)]
pub struct Done<T> {
    /// What was submitted with it.
    pub note: T,
    /// How it ended.
    pub result: Result<(), TransactError>,
    /// From begin to end.
    pub took: Duration,
}

impl<T: Send + 'static> Committer<T> {
    /// Gives `producer` a thread called `name`.
    ///
    /// # Errors
    /// The operating system's, when there is no thread to be had.
    pub fn new(name: &str, mut producer: Box<dyn Producer>) -> std::io::Result<Self> {
        let (work, orders) = sync_channel::<(Transaction, T)>(0);
        let (results, done) = sync_channel(1);
        let body = move || {
            while let Ok((transaction, note)) = orders.recv() {
                let begun = Instant::now();
                let result = producer.transact(transaction);
                if results.send(Done { note, result, took: begun.elapsed() }).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body)?;
        Ok(Self { work: Some(work), done, is_busy: false, thread: Some(thread) })
    }

    /// Whether a transaction is under way, as far as [`Committer::wait`] has told.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.is_busy
    }

    /// Waits for at most `time` for the transaction under way; returns what became of it.
    pub fn wait(&mut self, time: Duration) -> Option<Done<T>> {
        if !self.is_busy {
            return None;
        }
        match self.done.recv_timeout(time) {
            Ok(done) => {
                self.is_busy = false;
                Some(done)
            }
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => panic!("the committing thread ends only when it is told to"),
        }
    }

    /// Waits for the transaction under way, however long it takes (a producer's own time-outs bound it).
    pub fn finish(&mut self) -> Option<Done<T>> {
        self.wait(Duration::MAX)
    }

    /// Hands a transaction over. Call it when none is under way.
    pub fn submit(&mut self, transaction: Transaction, note: T) {
        debug_assert!(!self.is_busy, "the outcome of the last transaction decides about the next");
        let work = self.work.as_ref().expect("it is taken only by drop");
        work.send((transaction, note)).unwrap_or_else(|_| panic!("the committing thread ends only when it is told to"));
        self.is_busy = true;
    }
}

impl<T> Drop for Committer<T> {
    fn drop(&mut self) {
        self.work = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the producer has been reported by the thread itself.
            drop(thread.join());
        }
    }
}
