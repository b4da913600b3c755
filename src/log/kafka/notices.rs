//! What librdkafka says by itself: to `tracing`, and kept where somebody has to act on it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;
use rdkafka::statistics::Statistics;

/// librdkafka says the same failure of a connection only once within 30 s.
const UNSAID_FOR: Duration = Duration::from_secs(31);
/// A request that was lost is sent again after `retry.backoff.ms`, 100 ms less a fifth: what took less was sent once.
const SENT_ONCE: Duration = Duration::from_millis(50);
/// What takes this long went neither smoothly nor, for certain, wrong.
const TOO_LONG: Duration = Duration::from_secs(5);

/// Passes logs, errors and statistics of one client on.
pub(super) struct Notices {
    client: String,
    trouble: Mutex<Trouble>,
}

#[derive(Default)]
struct Trouble {
    /// The last error or warning since [`Notices::clear`].
    said: Option<String>,
    /// When the last one was said at all.
    at: Option<Instant>,
}

impl Notices {
    pub(super) fn new(client: &str) -> Self {
        Self { client: client.to_owned(), trouble: Mutex::default() }
    }

    /// Forgets what was said.
    pub(super) fn clear(&self) {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).said = None;
    }

    /// Returns the last time-out, lost connection or other trouble that was reported since [`Notices::clear`].
    pub(super) fn last_words(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).said.clone()
    }

    /// Says why a request that took `took` since [`Notices::clear`] may have been sent more than once, if it may.
    pub(super) fn doubt(&self, took: Duration) -> Option<String> {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let lately = trouble.at.is_some_and(|at| at.elapsed() < UNSAID_FOR);
        trouble.said.clone().or_else(|| (took > TOO_LONG || lately && took > SENT_ONCE).then(|| format!("it took {} ms", took.as_millis())))
    }

    fn keep(&self, words: String) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Trouble { said: Some(words), at: Some(Instant::now()) };
    }

    /// A line of librdkafka's own log.
    pub(super) fn line(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        let client = self.client.as_str();
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => tracing::error!(client, facility, "{message}"),
            RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => tracing::warn!(client, facility, "{message}"),
            RDKafkaLogLevel::Notice => tracing::info!(client, facility, "{message}"),
            RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => tracing::debug!(client, facility, "{message}"),
        }
        if is_trouble(level, facility) {
            self.keep(format!("{facility}: {message}"));
        }
    }

    /// An error that belongs to no call.
    pub(super) fn fault(&self, error: &KafkaError, reason: &str) {
        // A reader asks to be told of the end; that is no fault.
        if error.rdkafka_error_code() == Some(rdkafka::error::RDKafkaErrorCode::PartitionEOF) {
            return;
        }
        tracing::warn!(client = self.client, "{error}: {reason}");
        // That no broker is up is what was said before it, told again.
        let is_told = error.rdkafka_error_code() == Some(rdkafka::error::RDKafkaErrorCode::AllBrokersDown);
        self.keep(self.last_words().filter(|_| is_told).unwrap_or_else(|| reason.to_owned()));
    }
}

/// Whether a log line tells of a request that may have been lost on its way. `CONFWARN` and the like do not.
fn is_trouble(level: RDKafkaLogLevel, facility: &str) -> bool {
    let grave = matches!(level, RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error);
    facility != "CONFWARN" && (grave || matches!(facility, "REQTMOUT" | "FAIL" | "TIMEOUT"))
}

impl ClientContext for Notices {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.fault(&error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        tracing::debug!(client = self.client, ?statistics, "statistics");
    }
}

impl ConsumerContext for Notices {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_outs_and_lost_connections_are_trouble_and_configuration_hints_are_not() {
        let notices = Notices::new("test");
        notices.line(RDKafkaLogLevel::Warning, "CONFWARN", "a producer property on a consumer");
        assert_eq!(notices.last_words(), None);
        notices.line(RDKafkaLogLevel::Notice, "REQTMOUT", "timed out EndTxnRequest in flight");
        assert_eq!(notices.last_words().as_deref(), Some("REQTMOUT: timed out EndTxnRequest in flight"));
        notices.clear();
        notices.line(RDKafkaLogLevel::Info, "FAIL", "disconnected with one request in flight");
        assert!(notices.last_words().is_some());
    }

    #[test]
    fn the_reason_of_a_failure_is_not_lost_when_no_broker_is_left() {
        let notices = Notices::new("test");
        let down = KafkaError::Global(rdkafka::error::RDKafkaErrorCode::AllBrokersDown);
        notices.fault(&down, "1/1 brokers are down");
        assert_eq!(notices.last_words().as_deref(), Some("1/1 brokers are down"));
        notices.clear();
        notices.line(RDKafkaLogLevel::Error, "FAIL", "wrong password");
        notices.fault(&down, "1/1 brokers are down");
        assert_eq!(notices.last_words().as_deref(), Some("FAIL: wrong password"));
    }

    #[test]
    fn after_trouble_what_takes_long_enough_to_have_been_repeated_is_doubted_although_nothing_is_said() {
        let notices = Notices::new("test");
        let (short, middle, long) = (Duration::from_millis(20), Duration::from_millis(200), Duration::from_secs(6));
        assert_eq!((notices.doubt(middle), notices.doubt(long)), (None, Some("it took 6000 ms".to_owned())));
        notices.line(RDKafkaLogLevel::Info, "FAIL", "disconnected");
        assert!(notices.doubt(short).is_some());
        notices.clear();
        assert_eq!((notices.doubt(short), notices.doubt(middle)), (None, Some("it took 200 ms".to_owned())));
    }
}
