//! Threads, what they wait for, and the time that they see: the system's, or a simulation's.
//!
//! A stage meets others in three ways: it calls the log or its source, it waits for a [`Monitor`] to change, and it asks what
//! time it is. In a simulation ([`enter`]) one thread runs at a time, the simulation says which, and time passes when it says so;
//! a thread that is started with [`spawn`] belongs to the simulation of the one that starts it.

use std::cell::RefCell;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What takes the place of the system's threads and clocks.
pub trait Simulation: Send + Sync {
    /// Returns its present.
    fn now(&self) -> Instant;

    /// Returns its wall clock, ms since 1970.
    fn now_ms(&self) -> i64;

    /// Starts a thread that will get its turns.
    ///
    /// # Errors
    /// The operating system's.
    fn spawn(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>>;

    /// Ends this thread's turn until `monitor` changes, or `until`, or for no reason.
    fn wait(&self, monitor: usize, until: Option<Instant>);

    /// A monitor has changed.
    fn changed(&self, monitor: usize);
}

thread_local! {
    static SIMULATION: RefCell<Option<Arc<dyn Simulation>>> = const { RefCell::new(None) };
}

/// Makes this thread one of a simulation.
pub fn enter(simulation: Arc<dyn Simulation>) {
    SIMULATION.with_borrow_mut(|its| *its = Some(simulation));
}

/// Returns the simulation that this thread is in.
pub(crate) fn simulation() -> Option<Arc<dyn Simulation>> {
    SIMULATION.with_borrow(Clone::clone)
}

/// Returns the present.
#[must_use]
pub fn now() -> Instant {
    simulation().map_or_else(Instant::now, |simulation| simulation.now())
}

/// Returns the time that has passed since then.
#[must_use]
pub fn since(then: Instant) -> Duration {
    now().saturating_duration_since(then)
}

/// Starts a thread.
///
/// # Errors
/// The operating system's, when there is no thread to be had.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    match simulation() {
        Some(simulation) => simulation.spawn(name, Box::new(body)),
        None => std::thread::Builder::new().name(name.to_owned()).spawn(body),
    }
}

/// Does nothing for `time`.
pub fn sleep(time: Duration) {
    match simulation() {
        Some(_) => drop(Monitor::new(()).wait_for(time, |()| false)),
        None => std::thread::sleep(time),
    }
}

/// A value that several threads change, and that they can wait for.
#[derive(Debug, Default)]
pub struct Monitor<T> {
    value: Mutex<T>,
    changed: Condvar,
}

impl<T> Monitor<T> {
    /// Begins with a value.
    #[must_use]
    pub fn new(value: T) -> Self {
        Self { value: Mutex::new(value), changed: Condvar::new() }
    }

    /// Takes the value. A simulated thread must give it back before it waits for anything else.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes those who wait.
    pub fn notify(&self) {
        match simulation() {
            Some(simulation) => simulation.changed(self.place()),
            None => self.changed.notify_all(),
        }
    }

    /// Waits until it is notified, or `until`, or for no reason; `None` is for ever.
    pub fn wait<'a>(&'a self, guard: MutexGuard<'a, T>, until: Option<Instant>) -> MutexGuard<'a, T> {
        if let Some(simulation) = simulation() {
            drop(guard);
            simulation.wait(self.place(), until);
            return self.lock();
        }
        match until {
            None => self.changed.wait(guard).unwrap_or_else(PoisonError::into_inner),
            Some(until) => {
                let time = until.saturating_duration_since(Instant::now());
                self.changed.wait_timeout(guard, time).unwrap_or_else(PoisonError::into_inner).0
            }
        }
    }

    /// Waits for at most `time` until `is_so`; returns the value either way.
    pub fn wait_for(&self, time: Duration, mut is_so: impl FnMut(&mut T) -> bool) -> MutexGuard<'_, T> {
        let until = now().checked_add(time);
        let mut guard = self.lock();
        while !is_so(&mut guard) && until.is_none_or(|until| now() < until) {
            guard = self.wait(guard, until);
        }
        guard
    }

    /// Where it is: what tells it from every other that is there.
    fn place(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_is_woken_by_a_change_and_by_time() {
        let monitor = Arc::new(Monitor::new(0));
        let other = Arc::clone(&monitor);
        let thread = spawn("other", move || {
            *other.lock() = 1;
            other.notify();
        });
        assert_eq!(*monitor.wait_for(Duration::from_secs(30), |value| *value == 1), 1);
        thread.unwrap().join().unwrap();
        let begun = now();
        assert_eq!(*monitor.wait_for(Duration::from_millis(5), |value| *value == 2), 1);
        assert!(since(begun) >= Duration::from_millis(5));
    }
}
