//! What the log is told when a command moves Production: the version's own baseline comes back at once, and an event says so.

use bytes::Bytes;

use crate::baseline::Baseline;
use crate::clock::now_ms;
use crate::config::Config;
use crate::log::{Log, Record};
use crate::model_event::{MovedBy, Notice};
use crate::spec::Spec;
use crate::topics::Topics;
use crate::train::baselines::{brought_back, of_version};

use super::alerts::setting;
use super::baseline::publish::{Publisher, create_topic, versions};
use super::exit::Failure;
use super::progress::Progress;
use super::topic;

/// Where it is told.
pub(super) struct Moved<'m> {
    pub(super) log: &'m dyn Log,
    pub(super) topics: &'m Topics,
    pub(super) config: &'m Config,
    pub(super) spec: &'m Spec,
}

/// A move of Production by command.
pub(super) struct Move<'m> {
    /// Identity of the event.
    pub(super) id: &'m str,
    pub(super) model: &'m str,
    pub(super) action: MovedBy,
    pub(super) version: u64,
    pub(super) before: Option<u64>,
    pub(super) reason: &'m str,
    /// When, ms since 1970.
    pub(super) at_ms: i64,
}

impl Moved<'_> {
    /// Brings the version's baseline back where it is not in force already, and writes the event; returns the baseline's number.
    pub(super) fn tell(&self, moved: &Move<'_>) -> Result<Option<u64>, Failure> {
        create_topic(self.log, self.topics, self.config)?;
        let baseline = if *moved.model == *self.spec.model { self.baseline(moved.version)? } else { None };
        let event = Notice::Moved {
            id: moved.id.to_owned(),
            spec: self.spec.name.clone(),
            model: moved.model.to_owned(),
            action: moved.action,
            version: moved.version,
            before: moved.before,
            baseline,
            reason: moved.reason.to_owned(),
            at_ms: moved.at_ms,
        };
        let record = Record {
            topic: self.topics.model_events.clone(),
            partition: 0,
            key: Some(Bytes::from_static(b"moved")),
            value: Some(event.encode().into()),
            headers: vec![],
        };
        let settings = setting(self.topics, &self.config.topic_plan(), &self.topics.model_events);
        topic::write(self.log, &format!("{}.command", self.config.kafka.topic_prefix), settings, &[record])?;
        Ok(baseline)
    }

    fn baseline(&self, version: u64) -> Result<Option<u64>, Failure> {
        let fingerprint = self.spec.fingerprint();
        let mut all = versions(self.log, self.topics, &self.spec.name)?;
        all.retain(|baseline| baseline.fingerprint == fingerprint);
        let (own, newest) = of_version(&all, version);
        let Some((own, newest)) = own.zip(newest) else { return Ok(None) };
        if own.version == newest.version {
            return Ok(Some(newest.version));
        }
        let make = |number: u64, _: Option<&Baseline>| Ok(brought_back(own, number, now_ms()));
        let publisher = Publisher { log: self.log, topics: self.topics, config: self.config, spec: self.spec };
        Ok(Some(publisher.publish(&make, &mut Progress::new())?.baseline.version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Transaction;
    use crate::log::memory::MemoryLog;
    use crate::model::shelf::ModelRef;

    fn baseline(spec: &Spec, number: u64, version: u64) -> Baseline {
        use crate::baseline::builder::{Builder, Making};
        use crate::clock::{DAY_MS, HOUR_MS};
        use crate::train::frame::tests::{FIRST_MS, actual, ticket};
        let mut builder = Builder::new(spec, FIRST_MS, FIRST_MS + 30 * DAY_MS).unwrap();
        (0..500).for_each(|n| builder.push(&ticket(spec, n, actual(n))));
        let making = Making { version: number, created_at_ms: HOUR_MS, window_days: &[1], predecessor: None };
        let model = ModelRef::of(&spec.model, version, b"file");
        // Each has its own error, so that they are told apart.
        Baseline { scored_by: Some(model), log_offset: number as f64, ..builder.build(&making).unwrap() }
    }

    #[test]
    fn a_command_that_moves_production_brings_the_versions_own_baseline_back_and_says_so() {
        let spec = Spec::from_toml(include_str!("../../config/execution-tickets.toml")).unwrap();
        let (log, topics, mut config) = (MemoryLog::new(), Topics::new("t"), Config::default());
        config.kafka.topic_prefix = "t".to_owned();
        log.create_topics(&topics.settings(&config.topic_plan())).unwrap();
        let records = [(1, 1), (2, 2)].map(|(number, version)| {
            let baseline = baseline(&spec, number, version);
            let key = Some(Bytes::from(format!("{}@{number}", spec.name)));
            let value = Some(Bytes::from(serde_json::to_vec(&baseline).unwrap()));
            Record { topic: topics.baselines.clone(), partition: 0, key, value, headers: vec![] }
        });
        log.producer("p").unwrap().transact(Transaction { records: records.into(), ..Transaction::default() }).unwrap();
        let tell = |model: &str, version: u64| {
            let moved = Move { id: "i", model, action: MovedBy::RolledBack, version, before: Some(2), reason: "why", at_ms: 7 };
            Moved { log: &log, topics: &topics, config: &config, spec: &spec }.tell(&moved).unwrap()
        };
        assert_eq!(tell(&spec.model, 2), Some(2), "it is in force");
        assert_eq!(tell(&spec.model, 1), Some(3));
        assert_eq!(tell(&spec.model, 9), None, "no baseline knows it");
        assert_eq!(tell(spec.anomaly_model(), 1), None, "no verdict rests on it");
        let all = versions(&log, &topics, &spec.name).unwrap();
        assert_eq!(all.iter().map(|b| (b.version, b.scored_by.as_ref().unwrap().version)).collect::<Vec<_>>(), [(1, 1), (2, 2), (3, 1)]);
        assert_eq!(all[2].log_offset.to_bits(), all[0].log_offset.to_bits());
        let events = topic::records(&log, &topics.model_events, 0).unwrap();
        let told = events.iter().map(|record| match Notice::decode(record.value.as_ref().unwrap()).unwrap() {
            Notice::Moved { action, version, baseline, .. } => (action, version, baseline),
            other @ Notice::Applied { .. } => panic!("{other:?}"),
        });
        let by = MovedBy::RolledBack;
        assert_eq!(told.collect::<Vec<_>>(), [(by, 2, Some(2)), (by, 1, Some(3)), (by, 9, None), (by, 1, None)]);
    }
}
