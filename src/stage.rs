//! What every stage is given, and how it says how it is.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::config::Config;
use crate::log::Log;
use crate::registry::Registry;
use crate::spec::Spec;
use crate::threads::Monitor;
use crate::topics::Topics;

/// What every stage is given.
#[derive(Clone)]
pub struct Context {
    /// The configuration.
    pub config: Arc<Config>,
    /// The watch spec.
    pub spec: Arc<Spec>,
    /// The names of the topics.
    pub topics: Arc<Topics>,
    /// The log.
    pub log: Arc<dyn Log>,
    /// Asks for the end.
    pub stop: Stop,
    /// How the stages are.
    pub health: Health,
    /// Where models are kept; without one nothing is trained, and no ticket is scored.
    pub registry: Option<Arc<dyn Registry>>,
}

impl Context {
    /// Returns the name of this process among its twins: as configured, else the host's.
    #[must_use]
    pub fn instance(&self) -> String {
        if !self.config.instance.is_empty() {
            return self.config.instance.clone();
        }
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = host.trim();
        if host.is_empty() { "this".to_owned() } else { host.to_owned() }
    }
}

/// Asks every stage to end. Cloned freely; once asked, it stays asked.
#[derive(Clone, Default)]
pub struct Stop(Arc<StopState>);

#[derive(Default)]
struct StopState {
    asked: AtomicBool,
    changed: Monitor<()>,
}

impl Stop {
    /// Asks.
    pub fn ask(&self) {
        let guard = self.0.changed.lock();
        self.0.asked.store(true, Ordering::SeqCst);
        drop(guard);
        self.0.changed.notify();
    }

    /// Whether it was asked.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.0.asked.load(Ordering::SeqCst)
    }

    /// Waits for `time`, or until asked; returns whether it was asked.
    #[must_use]
    pub fn wait(&self, time: Duration) -> bool {
        drop(self.0.changed.wait_for(time, |()| self.is_asked()));
        self.is_asked()
    }
}

/// How each part of the process is: `/readyz`, and the line in which `run` says what it waits for.
#[derive(Clone, Default)]
pub struct Health(Arc<Mutex<BTreeMap<&'static str, State>>>);

/// How one part is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Starting, restoring, or waiting for somebody: says for what. Not ready.
    Waiting(String),
    /// Doing its work, or standing by hot: says which. Ready.
    Ready(String),
    /// Cannot go on: says why and what to do. Not ready.
    Failed(String),
}

impl Health {
    /// Says how `part` is.
    pub fn set(&self, part: &'static str, state: State) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(part, state);
    }

    /// Returns how every part is.
    #[must_use]
    pub fn all(&self) -> BTreeMap<&'static str, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether every part that has spoken is ready, and at least one has.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let parts = self.all();
        !parts.is_empty() && parts.values().all(|state| matches!(state, State::Ready(_)))
    }
}
