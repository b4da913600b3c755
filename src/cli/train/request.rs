//! `tidemark train --request`: a person asks the train stage for a training.

use clap::ValueEnum;

use crate::clock::{now_ms, rfc3339};
use crate::log::Log;
use crate::spec::Spec;
use crate::topics::{TopicPlan, Topics};
use crate::trigger::{Trigger, TriggerChange, TriggerType};

use crate::cli::alerts::setting;
use crate::cli::exit::{Exit, Failure};
use crate::cli::out::Format;
use crate::cli::session::Session;
use crate::cli::{status, topic};

/// How urgent a request is: the contract's four.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Priority {
    Low,
    Medium,
    High,
    Critical,
}

impl Priority {
    fn number(self) -> u8 {
        match self {
            Self::Low => 1,
            Self::Medium => 2,
            Self::High => 3,
            Self::Critical => 4,
        }
    }
}

/// Asks, and says how to follow what becomes of it.
pub(super) fn ask(reason: &str, priority: Priority, session: &mut Session) -> Result<Exit, Failure> {
    let spec = session.spec()?;
    let log = session.log()?;
    let config = session.config()?;
    let (prefix, plan) = (config.kafka.topic_prefix.clone(), config.topic_plan());
    let topics = Topics::new(&prefix);
    // Rows are trained on up to where event time is: of old tickets that is not the present.
    let at_ms = status::read(log.as_ref(), &topics, &spec.name)?.map_or_else(now_ms, |status| status.at_ms);
    let trigger = request(log.as_ref(), (&prefix, &topics, &plan), &spec, reason, priority, at_ms)?;
    if session.out.format == Format::Json {
        session.out.json(&trigger)?;
        return Ok(Exit::Ok);
    }
    session.out.line(format!("Training {} is asked for, on the tickets before {}.", trigger.id, rfc3339(trigger.at_ms)))?;
    session.out.line(format!("A train stage (`tidemark run`) answers it: topic {}, trigger {0}.", topics.model_events))?;
    Ok(Exit::Ok)
}

/// Writes the request; returns it as it is due.
fn request(
    log: &dyn Log,
    (prefix, topics, plan): (&str, &Topics, &TopicPlan),
    spec: &Spec,
    reason: &str,
    priority: Priority,
    at_ms: i64,
) -> Result<Trigger, Failure> {
    let id = format!("{}-manual-{}", spec.name, now_ms());
    let raised = Trigger::unprompted(id, spec, TriggerType::Manual, priority.number(), reason.to_owned(), at_ms);
    let due = Trigger { change: TriggerChange::Due, ..raised.clone() };
    let records = [raised, due.clone()].map(|trigger| trigger.into_record(topics.retraining_triggers.clone()));
    topic::write(log, &format!("{prefix}.command"), setting(topics, plan, &topics.retraining_triggers), &records)?;
    Ok(due)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::log::memory::{Fault, MemoryLog};

    #[test]
    fn a_person_asks_for_one_training_whatever_happens_to_the_transaction() {
        let spec = Spec::from_toml(include_str!("../../../config/execution-tickets.toml")).unwrap();
        let (topics, plan) = (Topics::new("t"), Config::default().topic_plan());
        for fault in [None, Some(Fault::Abort), Some(Fault::UnknownVisible), Some(Fault::UnknownLost)] {
            let log = MemoryLog::new();
            if let Some(fault) = fault {
                log.inject("t.command", 0, fault);
            }
            let asked = request(&log, ("t", &topics, &plan), &spec, "why not", Priority::Critical, 7).unwrap();
            assert_eq!((asked.trigger_type, asked.priority, asked.at_ms, asked.is_unprompted()), (TriggerType::Manual, 4, 7, true));
            let there = topic::records(&log, &topics.retraining_triggers, 0).unwrap();
            let triggers: Vec<Trigger> =
                there.iter().map(|record| serde_json::from_slice(record.value.as_ref().unwrap()).unwrap()).collect();
            assert!(triggers.iter().all(|trigger| trigger.answer_id() == asked.answer_id()), "twice in the topic, it has one answer");
            assert_eq!(triggers.last(), Some(&asked), "{fault:?}");
        }
    }
}
