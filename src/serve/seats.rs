//! Seats of connections: a bounded number, and whoever sits there without asking gives way to whoever comes.
//!
//! So clients that open connections and say nothing (or a head byte by byte) do not keep a probe, a scraper or a caller out.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time;

/// A connection that has asked nothing for less than this keeps its seat.
const AT_LEAST: Duration = Duration::from_secs(1);
/// How often it is looked again who may have to give way.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// All seats.
pub(super) struct Seats {
    free: Arc<Semaphore>,
    taken: Mutex<Vec<Weak<State>>>,
}

/// One connection's seat, free again when dropped.
pub(super) struct Seat {
    state: Arc<State>,
    _place: OwnedSemaphorePermit,
}

struct State {
    /// Since when nothing is asked; `None` while an answer is under way.
    quiet_since: Mutex<Option<Instant>>,
    wanted: Notify,
}

/// An answer is under way while this is there.
pub(super) struct Asked(Arc<State>);

impl Seats {
    pub(super) fn new(seats: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(seats)), taken: Mutex::default() }
    }

    /// Waits for a seat.
    pub(super) async fn take(&self) -> Seat {
        let place = loop {
            if let Ok(place) = Arc::clone(&self.free).try_acquire_owned() {
                break place;
            }
            self.ask_for_one();
            if let Ok(place) = time::timeout(LOOK_AGAIN, Arc::clone(&self.free).acquire_owned()).await {
                break place.expect("the seats are never closed");
            }
        };
        let quiet_since = Mutex::new(Some(Instant::now()));
        let state = Arc::new(State { quiet_since, wanted: Notify::new() });
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.retain(|seat| seat.strong_count() > 0);
        taken.push(Arc::downgrade(&state));
        Seat { state, _place: place }
    }

    /// Asks for the seat of the connection that has asked nothing for the longest.
    fn ask_for_one(&self) {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let quiet = taken.iter().filter_map(Weak::upgrade).filter_map(|state| Some((state.quiet_since()?, state)));
        if let Some((since, state)) = quiet.min_by_key(|(since, _)| *since)
            && since.elapsed() >= AT_LEAST
        {
            state.wanted.notify_one();
        }
    }
}

impl State {
    fn quiet_since(&self) -> Option<Instant> {
        *self.quiet_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_quiet_since(&self, since: Option<Instant>) {
        *self.quiet_since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }
}

impl Seat {
    /// Notes that something is asked, until what is returned is dropped.
    pub(super) fn is_asked(&self) -> Asked {
        self.state.set_quiet_since(None);
        Asked(Arc::clone(&self.state))
    }

    /// Ends when somebody else needs the seat and nothing is asked.
    pub(super) async fn has_to_be_given_up(&self) {
        loop {
            self.state.wanted.notified().await;
            // Answers are made by the task that waits here, so none can begin in between.
            if self.state.quiet_since().is_some() {
                return;
            }
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.0.set_quiet_since(Some(Instant::now()));
    }
}
