//! The thread that restores partitions, beside the one that polls: a long restore must not cost the membership.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::partition::{Partition, Plan};
use super::restore::{Job, RestoreError, restore};
use crate::log::Log;

/// Jobs that wait at once: one for each partition, with room.
const JOBS: usize = 4_096;

struct Asked {
    partition: u32,
    job: Job,
    cancelled: Arc<AtomicBool>,
}

struct Answered {
    partition: u32,
    cancelled: Arc<AtomicBool>,
    result: Result<Partition, RestoreError>,
}

/// Restores partitions one after the other; the latest request for a partition is the one that counts.
pub(super) struct Restorer {
    asked: Sender<Asked>,
    answered: Receiver<Answered>,
    pending: BTreeMap<u32, Arc<AtomicBool>>,
}

impl Restorer {
    /// Starts the thread. It ends when the restorer is dropped; a read under way is given up at its next record.
    pub(super) fn start(log: Arc<dyn Log>, plan: Plan, max_rows: usize) -> Self {
        let (asked, jobs) = bounded::<Asked>(JOBS);
        let (answers, answered) = bounded::<Answered>(JOBS);
        let work = move || {
            for Asked { partition, job, cancelled } in jobs {
                let result = if cancelled.load(Ordering::Relaxed) {
                    Err(RestoreError::Cancelled)
                } else {
                    restore(&*log, &plan, job, max_rows, &cancelled)
                };
                if answers.send(Answered { partition, cancelled, result }).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new().name("watch-restore".to_owned()).spawn(work).expect("the system gives the process one more thread");
        Self { asked, answered, pending: BTreeMap::new() }
    }

    /// Asks for a partition; an earlier request for it is cancelled.
    pub(super) fn request(&mut self, partition: u32, job: Job) {
        self.cancel(partition);
        let cancelled = Arc::new(AtomicBool::new(false));
        self.pending.insert(partition, Arc::clone(&cancelled));
        self.asked.send(Asked { partition, job, cancelled }).expect("the thread lives as long as this");
    }

    pub(super) fn cancel(&mut self, partition: u32) {
        if let Some(cancelled) = self.pending.remove(&partition) {
            cancelled.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn is_busy(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Returns the next partition that is restored, or could not be; what was cancelled is passed over.
    pub(super) fn finished(&mut self) -> Option<(u32, Result<Partition, RestoreError>)> {
        while let Ok(Answered { partition, cancelled, result }) = self.answered.try_recv() {
            if !cancelled.load(Ordering::Relaxed) {
                self.pending.remove(&partition);
                return Some((partition, result));
            }
        }
        None
    }
}

impl Drop for Restorer {
    fn drop(&mut self) {
        for cancelled in self.pending.values() {
            cancelled.store(true, Ordering::Relaxed);
        }
    }
}
