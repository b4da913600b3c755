//! What is written, exactly once: one transactional producer a series, and the position that is each transaction's last record.
//!
//! A position (in `model-events`, kind `backfill`) names the days its transaction wrote to, and for each how many errors are visible
//! now and the sum of their keys. So a day is complete exactly when number and sum are those of its tickets: no reading of
//! errors is needed to know it. What differs — a day cut in two by a crash, tickets that came late — is read back from
//! `prediction-errors`, between the offsets that its positions tell, and what is missing is written.
//!
//! - `from` of a position: ends of `prediction-errors` before its transaction began. All it counts stands at or behind them.
//! - A torn transaction can make errors visible without their position; they stand behind the `from` of the last position,
//!   and are looked for there after every init. What they are they say in their headers.
//! - A first position without days comes before any error, so that no position means no error.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::ControlFlow;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::item::Item;
use super::record::Form;
use super::{BackfillError, Request};
use crate::config::Config;
use crate::log::{Log, LogError, Producer, Reader, Record, TransactError, Transaction};
use crate::spec::Spec;
use crate::ticket::KIND;
use crate::topics::Topics;

/// `kind` of a position.
const BACKFILL: &str = "backfill";
/// Attempts in a row that commit nothing before it is given up.
const ATTEMPTS: usize = 8;
/// Pause before the second attempt; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(50);

/// What is visible of one day: how many errors, and the sum of their keys modulo 2^128.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    errors: u64,
    sum: u128,
}

impl Seen {
    fn of(keys: impl Iterator<Item = u128>) -> Self {
        keys.fold(Self::default(), |seen, key| Self { errors: seen.errors + 1, sum: seen.sum.wrapping_add(key) })
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Position {
    kind: String,
    /// Name of the series.
    id: String,
    spec: String,
    model: String,
    version: Option<u64>,
    source: String,
    from: Vec<i64>,
    days: Vec<DayLine>,
}

#[derive(Debug, Serialize, Deserialize)]
struct DayLine {
    day: i64,
    errors: u64,
    sum: String,
}

/// Where the errors of some days stand: at or behind `from`.
struct Noted {
    from: Vec<i64>,
    days: Vec<i64>,
}

/// The writer of one series.
pub(super) struct Ledger<'l> {
    log: &'l dyn Log,
    topics: &'l Topics,
    transactional_id: String,
    head: Head,
    form: Form,
    producer: Box<dyn Producer>,
    reader: Box<dyn Reader>,
    days: BTreeMap<i64, Seen>,
    noted: Vec<Noted>,
    /// Keys by day that are visible behind the `from` of the last position.
    beyond: HashMap<i64, HashSet<u128>>,
    /// Ends of `prediction-errors` before anything that no position counts.
    from: Vec<i64>,
    transaction_rows: usize,
}

/// What is the same in every position of a series.
struct Head {
    id: String,
    spec: String,
    version: Option<u64>,
}

impl<'l> Ledger<'l> {
    /// Fences whoever writes the same series, and reads what is there. `transaction_rows` errors at most go into one transaction.
    pub(super) fn open(
        log: &'l dyn Log,
        topics: &'l Topics,
        config: &Config,
        spec: &Spec,
        request: &Request,
        transaction_rows: usize,
    ) -> Result<Self, BackfillError> {
        let mut settings = topics.settings(&config.topic_plan());
        settings.retain(|topic| topic.name == *topics.prediction_errors || topic.name == *topics.model_events);
        log.create_topics(&settings)?;
        let partitions = log.partitions(&topics.prediction_errors)?;
        let id = request.series_id(spec);
        let transactional_id = format!("{}.backfill.{id}", config.kafka.topic_prefix);
        let form = Form::new(&topics.prediction_errors, partitions, &spec.model, &request.predictions, &id);
        let head = Head { id, spec: spec.name.clone(), version: request.predictions.version() };
        let (producer, reader) = (log.producer(&transactional_id)?, log.reader()?);
        let mut ledger = Self {
            log,
            topics,
            transactional_id,
            head,
            form,
            producer,
            reader,
            days: BTreeMap::new(),
            noted: Vec::new(),
            beyond: HashMap::new(),
            from: Vec::new(),
            transaction_rows,
        };
        ledger.read_back()?;
        ledger.begin()?;
        Ok(ledger)
    }

    /// Writes the errors of whole days that are not visible yet; returns how many that were. Items of a day are distinct.
    ///
    /// # Errors
    /// [`BackfillError`].
    pub(super) fn write(&mut self, days: &[(i64, Vec<Item>)]) -> Result<u64, BackfillError> {
        let wanted: Vec<(i64, Vec<u128>)> = days.iter().map(|(day, items)| (*day, items.iter().map(Item::key).collect())).collect();
        let mut visible: HashMap<i64, HashSet<u128>> = HashMap::new();
        let mut written = 0;
        let mut attempts = 0;
        loop {
            for (day, keys) in &wanted {
                if !visible.contains_key(day) {
                    let seen = self.visible(*day, keys)?;
                    visible.insert(*day, seen);
                }
            }
            let Step { records, added, lines } = self.next(days, &wanted, &visible);
            if lines.is_empty() {
                return Ok(written);
            }
            let sent = records.len() as u64;
            match self.commit(records, &lines) {
                Ok(()) => {
                    written += sent;
                    attempts = 0;
                    for (day, key) in added {
                        visible.entry(day).or_default().insert(key);
                    }
                }
                Err(error) => {
                    attempts += 1;
                    self.recover(error, attempts)?;
                    // What became visible of it counts as written.
                    let before: usize = visible.values().map(HashSet::len).sum();
                    visible.clear();
                    let mut after = 0;
                    for (day, keys) in &wanted {
                        let seen = self.visible(*day, keys)?;
                        after += seen.len();
                        visible.insert(*day, seen);
                    }
                    written += after.saturating_sub(before) as u64;
                }
            }
        }
    }

    /// Puts the next transaction together: the first errors that are not visible, and the days that it changes.
    fn next(&self, days: &[(i64, Vec<Item>)], wanted: &[(i64, Vec<u128>)], visible: &HashMap<i64, HashSet<u128>>) -> Step {
        let mut step = Step::default();
        for ((day, items), (_, keys)) in days.iter().zip(wanted) {
            let there = &visible[day];
            let range = Bytes::from(day.to_string());
            let first = step.added.len();
            for (item, key) in items.iter().zip(keys) {
                if step.records.len() == self.transaction_rows {
                    break;
                }
                if !there.contains(key) {
                    step.records.push(self.form.record(item, *day, &range));
                    step.added.push((*day, *key));
                }
            }
            let added = step.added[first..].iter().map(|(_, key)| *key);
            let seen = Seen::of(there.iter().copied().chain(added));
            if self.days.get(day).copied().unwrap_or_default() != seen {
                step.lines.push((*day, seen));
            }
        }
        step
    }

    fn commit(&mut self, records: Vec<Record>, lines: &[(i64, Seen)]) -> Result<(), TransactError> {
        let position = self.position(lines);
        self.producer.transact(Transaction { records, last: vec![position], offsets: None })?;
        self.noted.push(Noted { from: self.from.clone(), days: lines.iter().map(|(day, _)| *day).collect() });
        self.days.extend(lines.iter().copied());
        // All that this position counts stands before these ends, and all that comes behind them. Where they cannot be had, the old ones
        // hold as well: more is read than need be.
        if let Ok(ends) = self.ends() {
            self.from = ends;
            self.beyond.clear();
        }
        Ok(())
    }

    fn position(&self, lines: &[(i64, Seen)]) -> Record {
        let Head { id, spec, version } = &self.head;
        let value = Position {
            kind: BACKFILL.to_owned(),
            id: id.clone(),
            spec: spec.clone(),
            model: self.form.model.clone(),
            version: *version,
            source: self.form.source.to_owned(),
            from: self.from.clone(),
            days: lines.iter().map(|(day, seen)| DayLine { day: *day, errors: seen.errors, sum: format!("{:032x}", seen.sum) }).collect(),
        };
        Record {
            topic: self.topics.model_events.clone(),
            partition: 0,
            key: Some(key(id).into()),
            value: Some(serde_json::to_vec(&value).expect("texts and numbers have a JSON form").into()),
            headers: vec![(KIND.into(), Bytes::from_static(BACKFILL.as_bytes()))],
        }
    }

    /// Commits the first position of a series, the one that counts nothing.
    fn begin(&mut self) -> Result<(), BackfillError> {
        let mut attempts = 0;
        while self.noted.is_empty() {
            if let Err(error) = self.commit(Vec::new(), &[]) {
                attempts += 1;
                self.recover(error, attempts)?;
            }
        }
        Ok(())
    }

    /// After a transaction that did not certainly commit: a new producer, and what is visible now.
    fn recover(&mut self, error: TransactError, attempts: usize) -> Result<(), BackfillError> {
        let topic = self.topics.prediction_errors.to_string();
        match error {
            TransactError::Fenced { id } => {
                let series = format!("{} {} of {}", self.form.source, self.form.series, self.head.spec);
                return Err(BackfillError::Fenced { series, id });
            }
            TransactError::TooLarge { topic, bytes } => {
                let what = format!("a record of {bytes} bytes is more than topic {topic} takes: raise its max.message.bytes");
                return Err(BackfillError::Refused(what));
            }
            error if attempts >= ATTEMPTS => return Err(BackfillError::Unwritten { topic, attempts, reason: error.to_string() }),
            error => tracing::warn!(%error, "a transaction is read back"),
        }
        if attempts > 1 {
            std::thread::sleep(PAUSE * (1 << (attempts - 2)));
        }
        self.producer = self.log.producer(&self.transactional_id)?;
        self.read_back()
    }

    /// Reads every position of the series, and what is visible behind the last.
    fn read_back(&mut self) -> Result<(), BackfillError> {
        let topic = &self.topics.model_events;
        let bounds = self.reader.bounds(topic, 0)?;
        let wanted = key(&self.head.id);
        let (mut noted, mut days, mut wrong) = (Vec::new(), BTreeMap::new(), None);
        self.reader.read(topic, 0, bounds.low, bounds.end, &mut |record| {
            if record.key.as_deref() != Some(wanted.as_bytes()) || record.header(KIND) != Some(BACKFILL.as_bytes()) {
                return ControlFlow::Continue(());
            }
            match decode(record.value.as_deref().unwrap_or_default()) {
                Ok((from, lines)) => {
                    noted.push(Noted { from, days: lines.iter().map(|(day, _)| *day).collect() });
                    days.extend(lines);
                    ControlFlow::Continue(())
                }
                Err(reason) => {
                    wrong = Some((record.offset, reason));
                    ControlFlow::Break(())
                }
            }
        })?;
        if let Some((offset, reason)) = wrong {
            let what = format!("the position at offset {offset} of topic {topic} was not written by this version of tidemark: {reason}");
            return Err(BackfillError::Refused(what));
        }
        (self.noted, self.days) = (noted, days);
        self.from = match self.noted.last() {
            Some(last) => last.from.clone(),
            None => self.ends()?,
        };
        let ends = self.ends()?;
        self.beyond = self.errors(&self.from.clone(), &ends)?;
        Ok(())
    }

    /// Returns the keys of a day that are visible.
    fn visible(&mut self, day: i64, wanted: &[u128]) -> Result<HashSet<u128>, BackfillError> {
        let mut visible = self.beyond.get(&day).cloned().unwrap_or_default();
        let Some(known) = self.days.get(&day) else { return Ok(visible) };
        if *known == Seen::of(wanted.iter().copied()) {
            return Ok(wanted.iter().copied().collect());
        }
        for (from, to) in self.spans(day)? {
            visible.extend(self.errors(&from, &to)?.remove(&day).unwrap_or_default());
        }
        Ok(visible)
    }

    /// Returns between which offsets the errors of a day stand that positions count.
    fn spans(&mut self, day: i64) -> Result<Vec<Between>, BackfillError> {
        let ends = self.ends()?;
        let mut spans: Vec<Between> = Vec::new();
        for (place, noted) in self.noted.iter().enumerate().filter(|(_, noted)| noted.days.contains(&day)) {
            // The next ends that differ were taken after its transaction.
            let later = self.noted[place + 1..].iter().map(|later| &later.from).find(|from| **from != noted.from);
            let span = (noted.from.clone(), later.unwrap_or(&ends).clone());
            if spans.last() != Some(&span) {
                spans.push(span);
            }
        }
        Ok(spans)
    }

    /// Reads this series' errors between two lists of offsets, by day.
    fn errors(&mut self, from: &[i64], to: &[i64]) -> Result<HashMap<i64, HashSet<u128>>, BackfillError> {
        let mut found: HashMap<i64, HashSet<u128>> = HashMap::new();
        let form = &self.form;
        for partition in 0..form.partitions {
            let bounds = self.reader.bounds(&form.topic, partition)?;
            let place = |offsets: &[i64], otherwise: i64| offsets.get(partition as usize).copied().unwrap_or(otherwise);
            let (first, end) = (place(from, bounds.low).max(bounds.low), place(to, bounds.end).min(bounds.end));
            if first > bounds.end {
                let what = format!(
                    "topic {}[{partition}] ends at offset {}, but a backfill was there at offset {first}: it was deleted and made anew. \
                     Configure another kafka.topic_prefix, or delete topic {} too",
                    form.topic, bounds.end, self.topics.model_events
                );
                return Err(BackfillError::Refused(what));
            }
            if first >= end {
                continue;
            }
            self.reader.read(&form.topic, partition, first, end, &mut |record| {
                if let Some((day, key)) = form.read(&record) {
                    found.entry(day).or_default().insert(key);
                }
                ControlFlow::Continue(())
            })?;
        }
        Ok(found)
    }

    fn ends(&mut self) -> Result<Vec<i64>, LogError> {
        (0..self.form.partitions).map(|partition| Ok(self.reader.bounds(&self.form.topic, partition)?.end)).collect()
    }
}

/// Offsets by partition: the first, and those behind the last.
type Between = (Vec<i64>, Vec<i64>);

/// One transaction, before it is sent.
#[derive(Default)]
struct Step {
    records: Vec<Record>,
    added: Vec<(i64, u128)>,
    lines: Vec<(i64, Seen)>,
}

fn key(id: &str) -> String {
    format!("{BACKFILL}/{id}")
}

type Decoded = (Vec<i64>, Vec<(i64, Seen)>);

fn decode(value: &[u8]) -> Result<Decoded, String> {
    let position: Position = serde_json::from_slice(value).map_err(|error| error.to_string())?;
    let line = |line: &DayLine| {
        let sum = u128::from_str_radix(&line.sum, 16).map_err(|error| format!("sum {:?}: {error}", line.sum))?;
        Ok((line.day, Seen { errors: line.errors, sum }))
    };
    let days = position.days.iter().map(line).collect::<Result<_, String>>()?;
    Ok((position.from, days))
}
