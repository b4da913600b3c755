//! How much of MongoDB's memory tail has left: a warning while there is still time, when half of the oplog has passed the position.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bson::{Bson, Document, doc};
use crossbeam_channel::{RecvTimeoutError, Sender};
use mongodb::Client;
use mongodb::error::ErrorKind;
use secrecy::SecretString;
use tokio::runtime::Runtime;

use super::words::said;
use crate::metrics;

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(30);
/// How long one look may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of the oplog's window, used up: from here on somebody is told.
const TOLD_FROM: f64 = 0.5;
/// After so many looks a warning is repeated.
const TOLD_EVERY: u32 = 20;

/// What the oplog holds, in seconds since 1970 and bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Oplog {
    oldest: u32,
    newest: u32,
    bytes: f64,
    most_bytes: f64,
}

impl Oplog {
    /// Returns how much of the window lies behind `position`: 0 at the newest entry, 1 where MongoDB forgets. Where the oplog is not full
    /// yet, it is taken to fill as it has so far.
    fn used(&self, position: u32) -> f64 {
        let span = f64::from(self.newest.saturating_sub(self.oldest));
        let window = span * (self.most_bytes / self.bytes.max(1.0)).max(1.0);
        let behind = f64::from(self.newest.saturating_sub(position));
        if window > 0.0 { (behind / window).min(1.0) } else { 0.0 }
    }
}

/// The thread that looks; it ends when this is dropped.
pub(super) struct Watcher {
    position: Arc<AtomicU32>,
    _stop: Sender<()>,
}

impl Watcher {
    /// Begins to look.
    ///
    /// # Errors
    /// No thread can be had.
    pub(super) fn start(runtime: Arc<Runtime>, uri: SecretString, position: u32) -> std::io::Result<Self> {
        let (stop, stopped) = crossbeam_channel::bounded(0);
        let shared = Arc::new(AtomicU32::new(position));
        let its = Arc::clone(&shared);
        std::thread::Builder::new().name("tail-oplog".to_owned()).spawn(move || {
            let mut teller = Teller::default();
            let mut client = None;
            loop {
                match runtime.block_on(async { tokio::time::timeout(PATIENCE, look(&mut client, &uri)).await }) {
                    Ok(Ok(oplog)) => teller.tell(oplog.used(its.load(Ordering::Relaxed)), &oplog),
                    Ok(Err(Unseen::ForGood(reason))) => {
                        tracing::info!("how much of the oplog is used up is not watched: {reason}");
                        return;
                    }
                    Ok(Err(Unseen::Now(reason))) => tracing::debug!("looking at the oplog: {reason}"),
                    Err(_) => {
                        // What was waited for must not be used again.
                        client = None;
                        tracing::debug!("looking at the oplog: no answer within {} s", PATIENCE.as_secs());
                    }
                }
                if !matches!(stopped.recv_timeout(EVERY), Err(RecvTimeoutError::Timeout)) {
                    // Another process leads: what was told is not true of this one any more.
                    metrics::tail_oplog_used(0.0);
                    return;
                }
            }
        })?;
        Ok(Self { position: shared, _stop: stop })
    }

    /// The stream has been read up to here, s since 1970.
    pub(super) fn has_read(&self, seconds: u32) {
        self.position.store(seconds, Ordering::Relaxed);
    }
}

/// Says it once, and again after a while.
#[derive(Default)]
struct Teller {
    looks_since: Option<u32>,
}

impl Teller {
    fn tell(&mut self, used: f64, oplog: &Oplog) {
        metrics::tail_oplog_used(used);
        if used < TOLD_FROM {
            self.looks_since = None;
            return;
        }
        let is_due = self.looks_since.is_none_or(|looks| looks >= TOLD_EVERY);
        self.looks_since = Some(if is_due { 0 } else { self.looks_since.unwrap_or(0) + 1 });
        if is_due {
            tracing::warn!(
                used_percent = (used * 100.0).round(),
                window_s = oplog.newest.saturating_sub(oplog.oldest),
                "tail is so far behind that MongoDB will soon have forgotten what comes next: enlarge the oplog (replSetResizeOplog), and find \
                 what holds tail up"
            );
        }
    }
}

/// Why the oplog could not be looked at.
enum Unseen {
    Now(String),
    ForGood(String),
}

impl From<mongodb::error::Error> for Unseen {
    fn from(error: mongodb::error::Error) -> Self {
        match error.kind.as_ref() {
            // Unauthorized, or mongos, which has no oplog.
            ErrorKind::Command(command) if matches!(command.code, 13 | 26 | 59 | 166) => {
                Self::ForGood(format!("{}; it takes serverStatus on the cluster and collStats on local.oplog.rs", said(&error)))
            }
            _ => Self::Now(said(&error)),
        }
    }
}

async fn look(client: &mut Option<Client>, uri: &SecretString) -> Result<Oplog, Unseen> {
    let client = match client {
        Some(client) => client,
        None => client.insert(super::MongoSource::connect(uri).await?),
    };
    let status =
        client.database("admin").run_command(doc! { "serverStatus": 1, "oplog": 1, "metrics": 0, "wiredTiger": 0, "repl": 0 }).await?;
    let stats = client.database("local").run_command(doc! { "collStats": "oplog.rs" }).await?;
    seen(&status, &stats).ok_or_else(|| Unseen::ForGood("the server does not tell of its oplog".to_owned()))
}

fn seen(status: &Document, stats: &Document) -> Option<Oplog> {
    let times = status.get_document("oplog").ok()?;
    let seconds = |name: &str| match times.get(name)? {
        Bson::Timestamp(time) => Some(time.time),
        Bson::Document(optime) => optime.get_timestamp("ts").ok().map(|time| time.time),
        _ => None,
    };
    let bytes = |name: &str| match stats.get(name)? {
        Bson::Int32(bytes) => Some(f64::from(*bytes)),
        Bson::Int64(bytes) => Some(*bytes as f64),
        Bson::Double(bytes) => Some(*bytes),
        _ => None,
    };
    Some(Oplog {
        oldest: seconds("earliestOptime")?,
        newest: seconds("latestOptime")?,
        bytes: bytes("size")?,
        most_bytes: bytes("maxSize")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_oplog_that_is_not_full_yet_is_taken_to_fill_as_it_has_so_far() {
        let full = Oplog { oldest: 1_000, newest: 2_000, bytes: 100.0, most_bytes: 100.0 };
        let used = |oplog: &Oplog, position: u32| format!("{:.2}", oplog.used(position));
        assert_eq!([2_000, 1_500, 1_000, 500].map(|position| used(&full, position)), ["0.00", "0.50", "1.00", "1.00"]);
        let young = Oplog { bytes: 25.0, ..full };
        assert_eq!([2_000, 1_000].map(|position| used(&young, position)), ["0.00", "0.25"]);
        assert_eq!(used(&Oplog { oldest: 5, newest: 5, ..full }, 5), "0.00");
    }

    #[test]
    fn what_the_server_tells_is_read_in_either_form() {
        let time = |seconds| bson::Timestamp { time: seconds, increment: 1 };
        let stats = doc! { "size": 10, "maxSize": 20_i64 };
        let plain = doc! { "oplog": { "earliestOptime": time(1), "latestOptime": time(9) } };
        let nested = doc! { "oplog": { "earliestOptime": { "ts": time(1), "t": 1_i64 }, "latestOptime": { "ts": time(9), "t": 1_i64 } } };
        let wanted = Some(Oplog { oldest: 1, newest: 9, bytes: 10.0, most_bytes: 20.0 });
        assert_eq!((seen(&plain, &stats), seen(&nested, &stats)), (wanted, wanted));
        assert_eq!(seen(&doc! {}, &stats), None);
    }
}
