//! A transaction on Kafka, from its begin to what became of it.

use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{DeliveryResult, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext, PurgeConfig};
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::Offset;

use super::errors::{patiently, unavailable};
use super::fetch::native;
use super::notices::Notices;
use super::outcome::{self, Failure};
use super::properties::Properties;
use crate::fault::{self, Place};
use crate::log::{LogError, Membership, MembershipOf, OffsetCommit, Producer, Record, TransactError, Transaction};

/// Longer than the broker needs to end what the last holder of the id left open.
const INIT_WITHIN: Duration = Duration::from_secs(30);
/// Longer than librdkafka keeps a record: `message.timeout.ms` follows `transaction.timeout.ms`.
const REPORTS_WITHIN: Duration = Duration::from_secs(15);
/// A little longer than the broker lets a transaction live.
const COMMIT_WITHIN: Duration = Duration::from_secs(12);
const ABORT_WITHIN: Duration = Duration::from_secs(5);

/// The broker still closes the last transaction when the next one begins at once: then librdkafka asks again after 20 ms.
const SHORTEST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(5);
/// First reports that come so much later than usual met such a repetition, unless the batch was large.
const STALL: Duration = Duration::from_millis(15);
const SMALL_BATCH: usize = 64;

/// While reports are awaited, the queue is looked at this often, and less often when it takes long.
const LOOK_EVERY: Duration = Duration::from_micros(100);
const LOOK_CLOSELY_FOR: Duration = Duration::from_millis(25);
const LOOK_AT_LENGTH: Duration = Duration::from_millis(1);

pub(super) struct KafkaProducer {
    id: String,
    client: BaseProducer<Reports>,
    spent: bool,
    ended: Option<Instant>,
    pause: Duration,
    /// How long small batches usually take until they are acknowledged.
    usual: Option<Duration>,
}

/// Notices and bad delivery reports of one producer. Good ones are not made: a record that is no longer in flight was acknowledged.
struct Reports {
    notices: Notices,
    refused: Mutex<Option<(Code, String)>>,
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.notices.line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.notices.fault(&error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        self.notices.stats(statistics);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, message)) = result {
            let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
            refused.get_or_insert_with(|| (error.rdkafka_error_code().unwrap_or(Code::Fail), message.topic().to_owned()));
        }
    }
}

impl KafkaProducer {
    pub(super) fn init(properties: &Properties, id: &str) -> Result<Self, LogError> {
        let reports = Reports { notices: Notices::new(id), refused: Mutex::default() };
        let client: BaseProducer<Reports> = properties.producer(id, reports)?;
        super::settle(client.client(), super::ANY)?;
        let doing = || format!("taking over transactional id {id} at {}", properties.servers());
        fault::pass(id, Place::InitBefore);
        patiently(INIT_WITHIN, |time| client.init_transactions(time)).map_err(|error| match error.rdkafka_error_code() {
            Some(code @ Code::TransactionalIdAuthorizationFailed) => LogError::Unavailable {
                doing: doing(),
                reason: format!("{code}; grant Write and Describe on transactional ids {}.*", properties.prefix()),
            },
            _ => unavailable(doing(), &error),
        })?;
        fault::pass(id, Place::InitAfter);
        Ok(Self { id: id.to_owned(), client, spent: false, ended: None, pause: SHORTEST_PAUSE, usual: None })
    }

    fn attempt(&mut self, transaction: &Transaction) -> Result<(), TransactError> {
        self.rest();
        fault::pass(&self.id, Place::BeginBefore);
        self.client.begin_transaction().map_err(|error| self.failure(&error).before_commit(&self.id))?;
        fault::pass(&self.id, Place::BeginAfter);
        if let Err(error) = self.fill(transaction) {
            self.abort();
            return Err(error);
        }
        self.commit()
    }

    /// Waits until the broker has closed the last transaction.
    fn rest(&self) {
        if let Some(ended) = self.ended {
            thread::sleep(self.pause.saturating_sub(ended.elapsed()));
        }
    }

    /// Sends everything, each part after the one before was acknowledged.
    fn fill(&mut self, transaction: &Transaction) -> Result<(), TransactError> {
        let begun = Instant::now();
        self.deliver(&transaction.records)?;
        fault::pass(&self.id, Place::RecordsAcknowledged);
        if transaction.records.len() < SMALL_BATCH {
            self.learn_pause(begun.elapsed());
        }
        self.deliver(&transaction.last)?;
        fault::pass(&self.id, Place::LastAcknowledged);
        if let Some((membership, commits)) = &transaction.offsets {
            self.offsets(membership, commits)?;
            fault::pass(&self.id, Place::OffsetsSent);
        }
        Ok(())
    }

    /// Rests longer after a repetition, and a little shorter after each transaction without one.
    fn learn_pause(&mut self, took: Duration) {
        let step = Duration::from_micros(500);
        let has_stalled = self.usual.is_some_and(|usual| took > usual + STALL);
        self.pause = if has_stalled { self.pause + step } else { self.pause.saturating_sub(step / 50) };
        self.pause = self.pause.clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        self.usual = Some(self.usual.map_or(took, |usual| (usual * 15 + took) / 16));
    }

    /// Sends records and waits until all of them are acknowledged.
    fn deliver(&self, records: &[Record]) -> Result<(), TransactError> {
        let give_up = Instant::now() + REPORTS_WITHIN;
        for record in records {
            while let Err(error) = self.send(record) {
                if error.rdkafka_error_code() != Some(Code::QueueFull) || Instant::now() >= give_up {
                    return Err(self.refusal(&error, &record.topic, records));
                }
                self.look(LOOK_EVERY);
            }
        }
        fault::pass(&self.id, Place::RecordsSent);
        let sent = Instant::now();
        while self.client.in_flight_count() > 0 {
            if Instant::now() >= give_up {
                let reason = format!("not all of {} records were acknowledged within {} s", records.len(), REPORTS_WITHIN.as_secs());
                return Err(TransactError::Aborted { reason });
            }
            self.look(if sent.elapsed() > LOOK_CLOSELY_FOR { LOOK_AT_LENGTH } else { LOOK_EVERY });
        }
        let refused = self.client.context().refused.lock().unwrap_or_else(PoisonError::into_inner).take();
        match refused {
            None => Ok(()),
            Some((code, topic)) => Err(self.refusal(&KafkaError::MessageProduction(code), &topic, records)),
        }
    }

    fn send(&self, record: &Record) -> Result<(), KafkaError> {
        let mut message = BaseRecord::<[u8], [u8]>::to(&record.topic).partition(native(record.partition));
        if let Some(key) = &record.key {
            message = message.key(key);
        }
        if let Some(value) = &record.value {
            message = message.payload(value);
        }
        if !record.headers.is_empty() {
            let headers = OwnedHeaders::new_with_capacity(record.headers.len());
            let insert = |headers: OwnedHeaders, (name, value): &crate::log::Header| {
                headers.insert(Header { key: name, value: Some(value.as_ref()) })
            };
            message = message.headers(record.headers.iter().fold(headers, insert));
        }
        self.client.send(message).map_err(|(error, _)| error)
    }

    fn refusal(&self, error: &KafkaError, topic: &str, records: &[Record]) -> TransactError {
        let failure = self.failure(error);
        if failure.code.is_some_and(outcome::is_too_large) {
            let bytes = records.iter().filter(|record| *record.topic == *topic).map(Record::bytes).max().unwrap_or(0);
            return TransactError::TooLarge { topic: topic.to_owned(), bytes };
        }
        let failure = Failure { reason: format!("writing to {topic}: {}", failure.reason), ..failure };
        failure.before_commit(&self.id)
    }

    fn offsets(&self, membership: &Membership, commits: &[OffsetCommit]) -> Result<(), TransactError> {
        let MembershipOf::Kafka { topic, metadata } = &membership.0 else {
            return Err(TransactError::Aborted { reason: "the membership is of another log".to_owned() });
        };
        let mut offsets = TopicPartitionList::with_capacity(commits.len());
        for commit in commits {
            let mut entry = offsets.add_partition(topic, native(commit.partition));
            entry.set_metadata(&commit.metadata);
            entry.set_offset(Offset::Offset(commit.offset)).map_err(|error| self.failure(&error).before_commit(&self.id))?;
        }
        let sent = self.client.send_offsets_to_transaction(&offsets, metadata, COMMIT_WITHIN);
        sent.map_err(|error| self.failure(&error).before_commit(&self.id))
    }

    fn commit(&mut self) -> Result<(), TransactError> {
        self.drain();
        self.client.context().notices.clear();
        let asked = Instant::now();
        fault::pass(&self.id, Place::CommitBefore);
        let result = self.client.commit_transaction(COMMIT_WITHIN).map_err(|error| self.failure(&error));
        fault::pass(&self.id, Place::CommitAfter);
        self.drain();
        let doubt = self.client.context().notices.doubt(asked.elapsed());
        self.ended = Some(Instant::now());
        let refused = result.as_ref().is_err_and(|failure| failure.abortable);
        let outcome = outcome::of_commit(result, doubt, &self.id);
        if refused {
            self.abort();
        }
        outcome
    }

    /// Ends the transaction without effect. When even that fails, the broker does it after the transaction's time-out.
    fn abort(&self) {
        self.client.purge(PurgeConfig::default().queue());
        // What is in flight must be answered first, or the sequence would have gaps; librdkafka gives up on it by itself.
        let give_up = Instant::now() + REPORTS_WITHIN;
        while self.client.in_flight_count() > 0 && Instant::now() < give_up {
            self.look(LOOK_EVERY);
        }
        if self.client.client().fatal_error().is_some() {
            return;
        }
        if let Err(error) = self.client.abort_transaction(ABORT_WITHIN) {
            tracing::warn!(id = self.id, %error, "a transaction could not be aborted; the broker will, after its time-out");
        }
    }

    /// Serves what waits in the event queue (bad reports, log lines, errors); sleeps when nothing has moved.
    ///
    /// Never by a timed `poll` of the client: that one spins on the clock for the last millisecond of its time.
    fn look(&self, again_after: Duration) {
        let before = self.client.in_flight_count();
        self.client.poll(Duration::ZERO);
        if self.client.in_flight_count() == before {
            thread::sleep(again_after);
        }
    }

    /// Serves the whole event queue, so that everything reported so far is known.
    fn drain(&self) {
        let give_up = Instant::now() + Duration::from_millis(100);
        while self.client.in_flight_count() > 0 && Instant::now() < give_up {
            self.client.poll(Duration::ZERO);
        }
    }

    fn failure(&self, error: &KafkaError) -> Failure {
        Failure::of(error, self.client.client().fatal_error())
    }
}

impl Producer for KafkaProducer {
    fn transact(&mut self, transaction: Transaction) -> Result<(), TransactError> {
        if self.spent {
            return Err(TransactError::Aborted { reason: "the producer is spent; make a new one".to_owned() });
        }
        if transaction.records.is_empty() && transaction.last.is_empty() && transaction.offsets.is_none() {
            return Ok(());
        }
        let result = self.attempt(&transaction);
        self.spent = result.is_err();
        result
    }
}

#[cfg(test)]
mod tests;
