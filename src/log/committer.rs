//! Commits one transaction while the next is being filled.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Producer, TransactError, Transaction};
use crate::threads::{self, Monitor};

/// A producer in a thread of its own. At most one transaction is under way; [`Committer::submit`] waits for it.
///
/// After an error everything that was submitted since is dropped, as the producer is spent: the caller reads back what became
/// visible and begins anew. Dropping it waits for what is under way.
pub struct Committer<T> {
    desk: Arc<Monitor<Desk<T>>>,
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

/// What passes between the two threads.
struct Desk<T> {
    order: Option<(Transaction, T)>,
    done: Option<Done<T>>,
    /// No more orders will come.
    is_closed: bool,
    /// The thread has ended.
    is_left: bool,
}

/// Says that the thread has ended, however it ends.
struct Leaves<T>(Arc<Monitor<Desk<T>>>);

impl<T> Drop for Leaves<T> {
    fn drop(&mut self) {
        self.0.lock().is_left = true;
        self.0.notify();
    }
}

impl<T: Send + 'static> Committer<T> {
    /// Gives `producer` a thread called `name`.
    ///
    /// # Errors
    /// The operating system's, when there is no thread to be had.
    pub fn new(name: &str, mut producer: Box<dyn Producer>) -> std::io::Result<Self> {
        let desk = Arc::new(Monitor::new(Desk { order: None, done: None, is_closed: false, is_left: false }));
        let leaves = Leaves(Arc::clone(&desk));
        let body = move || {
            let desk = &leaves.0;
            loop {
                let order = desk.wait_for(Duration::MAX, |desk| desk.order.is_some() || desk.is_closed).order.take();
                let Some((transaction, note)) = order else { return };
                let begun = threads::now();
                let result = producer.transact(transaction);
                desk.lock().done = Some(Done { note, result, took: threads::since(begun) });
                desk.notify();
            }
        };
        let thread = threads::spawn(name, body)?;
        Ok(Self { desk, is_busy: false, thread: Some(thread) })
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
        let mut desk = self.desk.wait_for(time, |desk| desk.done.is_some() || desk.is_left);
        let done = desk.done.take();
        assert!(done.is_some() || !desk.is_left, "the committing thread ends only when it is told to");
        self.is_busy = done.is_none();
        done
    }

    /// Waits for the transaction under way, however long it takes (a producer's own time-outs bound it).
    pub fn finish(&mut self) -> Option<Done<T>> {
        self.wait(Duration::MAX)
    }

    /// Hands a transaction over. Call it when none is under way.
    pub fn submit(&mut self, transaction: Transaction, note: T) {
        debug_assert!(!self.is_busy, "the outcome of the last transaction decides about the next");
        self.desk.lock().order = Some((transaction, note));
        self.desk.notify();
        self.is_busy = true;
    }
}

impl<T> Drop for Committer<T> {
    fn drop(&mut self) {
        self.desk.lock().is_closed = true;
        self.desk.notify();
        drop(self.desk.wait_for(Duration::MAX, |desk| desk.is_left));
        if let Some(thread) = self.thread.take() {
            // A panic of the producer has been reported by the thread itself.
            drop(thread.join());
        }
    }
}
