//! The threads that restore partitions, beside the one that polls: a long restore must not cost the membership.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::partition::{Partition, Plan};
use super::restore::{Job, RestoreError, restore};
use crate::log::Log;
use crate::threads::{self, Monitor};

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

/// Partitions that are restored at a time: while one is decoded, the other comes from the broker.
const AT_A_TIME: usize = 2;

/// What passes between the threads: at most one job a partition that counts, and its answer.
#[derive(Default)]
struct Desk {
    asked: VecDeque<Asked>,
    answered: VecDeque<Answered>,
    is_closed: bool,
}

/// Restores partitions, [`AT_A_TIME`]; the latest request for a partition is the one that counts.
pub(super) struct Restorer {
    desk: Arc<Monitor<Desk>>,
    pending: BTreeMap<u32, Arc<AtomicBool>>,
}

impl Restorer {
    /// Starts the threads. They end when the restorer is dropped; a read under way is given up at its next record.
    pub(super) fn start(log: &Arc<dyn Log>, plan: &Plan, max_rows: usize) -> Self {
        let desk = Arc::new(Monitor::new(Desk::default()));
        for _ in 0..AT_A_TIME {
            let (desk, log, plan) = (Arc::clone(&desk), Arc::clone(log), plan.clone());
            let work = move || work(&desk, &*log, &plan, max_rows);
            drop(threads::spawn("watch-restore", work).expect("the system gives the process one more thread"));
        }
        Self { desk, pending: BTreeMap::new() }
    }

    /// Asks for a partition; an earlier request for it is cancelled.
    pub(super) fn request(&mut self, partition: u32, job: Job) {
        self.cancel(partition);
        let cancelled = Arc::new(AtomicBool::new(false));
        self.pending.insert(partition, Arc::clone(&cancelled));
        let mut desk = self.desk.lock();
        desk.asked.retain(|asked| !asked.cancelled.load(Ordering::Relaxed));
        desk.asked.push_back(Asked { partition, job, cancelled });
        drop(desk);
        self.desk.notify();
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
        while let Some(Answered { partition, cancelled, result }) = self.desk.lock().answered.pop_front() {
            if !cancelled.load(Ordering::Relaxed) {
                self.pending.remove(&partition);
                return Some((partition, result));
            }
        }
        None
    }
}

/// Does one job after the other.
fn work(desk: &Monitor<Desk>, log: &dyn Log, plan: &Plan, max_rows: usize) {
    loop {
        let mut open = desk.wait_for(Duration::MAX, |desk| !desk.asked.is_empty() || desk.is_closed);
        if open.is_closed {
            return;
        }
        let Some(Asked { partition, job, cancelled }) = open.asked.pop_front() else { continue };
        drop(open);
        let result =
            if cancelled.load(Ordering::Relaxed) { Err(RestoreError::Cancelled) } else { restore(log, plan, job, max_rows, &cancelled) };
        desk.lock().answered.push_back(Answered { partition, cancelled, result });
    }
}

impl Drop for Restorer {
    fn drop(&mut self) {
        for cancelled in self.pending.values() {
            cancelled.store(true, Ordering::Relaxed);
        }
        self.desk.lock().is_closed = true;
        self.desk.notify();
    }
}
