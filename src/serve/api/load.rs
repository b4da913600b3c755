//! A worker's load: how long its queue takes. Asked once in half a minute a worker, answered within 50 ms whatever MongoDB does.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::{Semaphore, watch};
use tokio::time;

use super::source::{Fallback, Source};
use super::workers::Workers;
use crate::metrics;

/// The contract's numbers, "Load": the longest queue time; what stands there without history and without MongoDB; the depth at
/// which a worker is full, and its load without MongoDB; how long an answer is good for.
const LONGEST_MS: f64 = 60_000.0;
const NO_HISTORY_MS: f64 = 1_000.0;
const NO_MONGODB_MS: f64 = 2_000.0;
const FULL_DEPTH: f64 = 10.0;
const NO_MONGODB_LOAD: f64 = 0.5;
const GOOD_FOR: Duration = Duration::from_secs(30);
/// The contract's 50 ms, less what reading the request and writing the answer may take.
const DEADLINE: Duration = Duration::from_millis(40);
/// How long a failure is remembered: nobody waits for a server that was just away.
const FAILURE_GOOD_FOR: Duration = Duration::from_secs(1);
/// Workers that are remembered, some 100 bytes each.
const REMEMBERED: usize = 10_000;
/// Questions to MongoDB at a time: as many as its driver has connections by default would be 10; the server answers in parallel.
const AT_A_TIME: usize = 32;

/// What MongoDB says of a worker.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Seen {
    /// Tickets waiting or at work.
    pub(super) depth: u64,
    /// Mean of its last completions, ms.
    pub(super) mean_ms: Option<f64>,
}

/// A worker's answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct LoadAnswer {
    /// The worker.
    pub(super) worker_id: String,
    /// How long until a new ticket begins, ms.
    pub(super) queue_time_ms: f64,
    /// 0 (free) to 1 (full).
    pub(super) load: f64,
    /// Tickets waiting or at work; none when nobody knows.
    pub(super) depth: Option<u64>,
    /// Who answered.
    pub(super) source: Source,
    /// Why it is not the rules' full answer.
    pub(super) fallback: Option<Fallback>,
    /// How old the answer is, ms.
    pub(super) age_ms: u64,
}

/// Decides, by the contract's "Load".
pub(super) fn decide(worker: &str, seen: Result<Seen, Fallback>, age: Duration) -> LoadAnswer {
    let (queue_time_ms, load, depth, source, fallback) = match seen {
        Err(why) => (NO_MONGODB_MS, NO_MONGODB_LOAD, None, Source::Estimate, Some(why)),
        Ok(Seen { depth, mean_ms }) => {
            let load = (depth as f64 / FULL_DEPTH).min(1.0);
            let queue_time = mean_ms.map(|mean_ms| (depth as f64 * mean_ms).clamp(0.0, LONGEST_MS)).filter(|ms| ms.is_finite());
            match queue_time {
                Some(ms) => (ms, load, Some(depth), Source::Rules, None),
                None => (NO_HISTORY_MS, load, Some(depth), Source::Estimate, Some(Fallback::NoHistory)),
            }
        }
    };
    let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    LoadAnswer { worker_id: worker.to_owned(), queue_time_ms, load, depth, source, fallback, age_ms }
}

/// What MongoDB says, or why it says nothing.
type Heard = Result<Seen, Fallback>;

#[derive(Default)]
struct Memory {
    known: HashMap<String, (Heard, Instant)>,
    /// Workers in the order in which they were learned; one that was learned again stands here twice.
    order: VecDeque<(String, Instant)>,
    asking: HashMap<String, watch::Receiver<Option<Heard>>>,
}

impl Memory {
    fn good(&self, worker: &str, now: Instant) -> Option<(Heard, Duration)> {
        let (seen, at) = self.known.get(worker)?;
        let age = now.saturating_duration_since(*at);
        let good_for = if seen.is_ok() { GOOD_FOR } else { FAILURE_GOOD_FOR };
        (age < good_for).then_some((*seen, age))
    }

    fn learn(&mut self, worker: &str, seen: Heard, now: Instant) {
        while let Some((oldest, at)) = self.order.front() {
            let is_full = self.known.len() >= REMEMBERED || self.order.len() >= 2 * REMEMBERED;
            if !is_full && now.saturating_duration_since(*at) < GOOD_FOR {
                break;
            }
            if self.known.get(oldest).is_some_and(|(_, learned)| learned == at) {
                self.known.remove(oldest);
            }
            self.order.pop_front();
        }
        self.known.insert(worker.to_owned(), (seen, now));
        self.order.push_back((worker.to_owned(), now));
    }
}

/// The load predictor. Cloned freely.
#[derive(Clone)]
pub(super) struct Loads {
    workers: Option<Arc<Workers>>,
    memory: Arc<Mutex<Memory>>,
    places: Arc<Semaphore>,
}

impl Loads {
    /// Prepares to answer; without `workers` every answer is the fallback.
    pub(super) fn new(workers: Option<Arc<Workers>>) -> Self {
        Self { workers, memory: Arc::default(), places: Arc::new(Semaphore::new(AT_A_TIME)) }
    }

    /// Answers for each worker, in order, all by one deadline.
    pub(super) async fn answer(&self, workers: Vec<String>) -> Vec<LoadAnswer> {
        let deadline = time::Instant::now() + DEADLINE;
        // Every question is begun before the first is waited for.
        let begun: Vec<_> = workers.iter().map(|worker| self.begin(worker)).collect();
        let mut answers = Vec::with_capacity(workers.len());
        for (worker, begun) in workers.iter().zip(begun) {
            let (seen, age) = match begun {
                Begun::Known(seen, age) => (seen, age),
                Begun::Asking(mut answer) => {
                    let answered = time::timeout_at(deadline, answer.wait_for(Option::is_some)).await;
                    let seen = answered.ok().and_then(Result::ok).and_then(|seen| *seen);
                    (seen.unwrap_or(Err(Fallback::MongodbSlow)), Duration::ZERO)
                }
            };
            answers.push(decide(worker, seen, age));
        }
        answers
    }

    fn begin(&self, worker: &str) -> Begun {
        let Some(workers) = &self.workers else { return Begun::Known(Err(Fallback::NoMongodb), Duration::ZERO) };
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((seen, age)) = memory.good(worker, Instant::now()) {
            metrics::load_looked_up(true);
            return Begun::Known(seen, age);
        }
        metrics::load_looked_up(false);
        if let Some(asking) = memory.asking.get(worker) {
            return Begun::Asking(asking.clone());
        }
        if memory.asking.len() >= REMEMBERED {
            return Begun::Known(Err(Fallback::MongodbSlow), Duration::ZERO);
        }
        let (tell, answer) = watch::channel(None);
        memory.asking.insert(worker.to_owned(), answer.clone());
        drop(memory);
        let (loads, workers, worker) = (self.clone(), Arc::clone(workers), worker.to_owned());
        // The driver's futures must not be dropped half way, so the question outlives those who wait for it.
        tokio::spawn(async move {
            let place = loads.places.acquire().await;
            let seen = workers.ask(&worker).await.map_err(|why| {
                tracing::warn!(worker, "{why}");
                Fallback::MongodbFailed
            });
            drop(place);
            let mut memory = loads.memory.lock().unwrap_or_else(PoisonError::into_inner);
            memory.learn(&worker, seen, Instant::now());
            memory.asking.remove(&worker);
            drop(memory);
            // Those who asked may have gone.
            let _unheard = tell.send(Some(seen));
        });
        Begun::Asking(answer)
    }
}

enum Begun {
    Known(Heard, Duration),
    Asking(watch::Receiver<Option<Heard>>),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(seen: Heard) -> (f64, f64, Source, Option<Fallback>) {
        let answer = decide("w", seen, Duration::from_millis(7));
        assert_eq!(answer.age_ms, 7);
        (answer.queue_time_ms, answer.load, answer.source, answer.fallback)
    }

    #[test]
    fn a_queue_takes_its_depth_times_the_mean_within_the_contracts_bounds() {
        assert_eq!(answer(Ok(Seen { depth: 4, mean_ms: Some(2_500.0) })), (10_000.0, 0.4, Source::Rules, None));
        assert_eq!(answer(Ok(Seen { depth: 40, mean_ms: Some(2_500.0) })), (60_000.0, 1.0, Source::Rules, None));
        assert_eq!(answer(Ok(Seen { depth: 0, mean_ms: Some(2_500.0) })), (0.0, 0.0, Source::Rules, None));
    }

    #[test]
    fn a_fallback_says_which_it_is() {
        assert_eq!(answer(Ok(Seen { depth: 4, mean_ms: None })), (1_000.0, 0.4, Source::Estimate, Some(Fallback::NoHistory)));
        assert_eq!(answer(Err(Fallback::MongodbFailed)), (2_000.0, 0.5, Source::Estimate, Some(Fallback::MongodbFailed)));
    }

    #[test]
    fn an_answer_is_good_for_half_a_minute_and_a_failure_for_a_second() {
        let (mut memory, begun) = (Memory::default(), Instant::now());
        memory.learn("a", Ok(Seen { depth: 1, mean_ms: None }), begun);
        memory.learn("b", Err(Fallback::MongodbFailed), begun);
        assert!(memory.good("a", begun + Duration::from_millis(29_999)).is_some());
        assert!(memory.good("a", begun + Duration::from_secs(30)).is_none());
        assert!(memory.good("b", begun + Duration::from_millis(999)).is_some());
        assert!(memory.good("b", begun + Duration::from_secs(1)).is_none());
    }

    #[test]
    fn memory_is_bounded_and_forgets_the_oldest() {
        let (mut memory, begun) = (Memory::default(), Instant::now());
        for worker in 0..3 * REMEMBERED {
            memory.learn(&worker.to_string(), Err(Fallback::MongodbFailed), begun);
            memory.learn("often", Err(Fallback::MongodbFailed), begun + Duration::from_nanos(worker as u64));
        }
        assert!(memory.known.len() <= REMEMBERED && memory.order.len() <= 2 * REMEMBERED, "{}", memory.order.len());
        assert!(memory.known.contains_key("often") && !memory.known.contains_key("0"));
        memory.learn("late", Err(Fallback::MongodbFailed), begun + 2 * GOOD_FOR);
        assert_eq!(memory.known.len(), 1);
    }
}
