//! The schemas against every kind of record that the code can write.

use std::sync::Arc;

use serde_json::Value;
use tidemark::alert::{Alert, Carrier, Change, Distribution, EpisodeAlert, Evidence, Level, Measure, MovedFeature};
use tidemark::baseline::builder::{Builder, Making};
use tidemark::log::{Delivered, Record};
use tidemark::model_event::{Beside, ModelEvent, MovedBy, Notice};
use tidemark::spec::Spec;
use tidemark::status::{CauseStatus, Episode, JudgeState, Status, WindowStatus};
use tidemark::summary::{ErrorSums, Slice, Summary};
use tidemark::tail::normalise::{DeadLetter, DeadReason};
use tidemark::ticket::{Chain, Control, FieldValue, Mark, Ticket, TicketId, Transition};
use tidemark::topics::Topics;
use tidemark::trigger::{ClosedBecause, Trigger, TriggerCause, TriggerChange, TriggerType};

use crate::support::schemas::{all, check, validate};

fn spec() -> Spec {
    Spec::from_toml(include_str!("../config/execution-tickets.toml")).unwrap()
}

fn delivered(record: Record) -> Delivered {
    Delivered { partition: 0, offset: 0, timestamp_ms: 0, key: record.key, value: record.value, headers: record.headers }
}

fn linked(kind: &'static str, key: Option<&[u8]>, value: Vec<u8>) -> Delivered {
    let headers = Chain::begin("c").link(kind, key, &value);
    delivered(Record { topic: Arc::from("tickets"), partition: 0, key: key.map(|k| k.to_vec().into()), value: Some(value.into()), headers })
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap()
}

fn keeps(topic: &str, value: &impl serde::Serialize) {
    check(topic, &json(value)).unwrap_or_else(|fault| panic!("{fault}"));
}

/// A record with the members that only some records have.
fn status(state: JudgeState, level: Option<Level>) -> Status {
    let episode = Episode {
        id: "e".to_owned(),
        level: Level::Warning,
        opened_mark: 1,
        opened_at_ms: 1,
        critical_at_ms: None,
        onset_ms: Some(1),
        told: None,
        silenced_alerts: 1,
        answered: true,
        recovering: true,
    };
    let cause = |episode| CauseStatus {
        evidence: vec![evidence(Measure::Psi)],
        critical_looks: 1,
        warning_looks: 2,
        close_looks: 3,
        accepted: true,
        episode,
    };
    Status {
        spec: "s".to_owned(),
        fingerprint: spec().fingerprint(),
        model: "m".to_owned(),
        mark: 3,
        at_ms: 4,
        baseline: Some(1),
        state,
        status: level,
        summary: "so it is".to_owned(),
        recommendations: vec![],
        windows: vec![WindowStatus {
            days: 7,
            rows: 1,
            late: 0,
            full: false,
            psi: [("hour_of_day".to_owned(), 0.3)].into(),
            anchor_psi: [("hour_of_day".to_owned(), 0.4)].into(),
            ks: Some(0.5),
            ks_p: None,
            mae: None,
            mae_ratio: Some(1.0),
            series: Some("recorded".to_owned()),
        }],
        causes: [("a".to_owned(), cause(None)), ("b".to_owned(), cause(Some(episode)))].into(),
        columns_over: vec!["hour_of_day".to_owned()],
        trigger: Some(trigger(TriggerChange::Raised, TriggerType::Drift, None)),
        silences: [("error".to_owned(), 9)].into(),
        caveats: vec!["uncalibrated".to_owned()],
        gaps: vec![(1, 2)],
        since_ms: 0,
    }
}

#[test]
fn a_status_keeps_to_the_schema_in_every_state() {
    for state in JudgeState::ALL {
        keeps("status", &status(state, None));
    }
    for level in [Level::Ok, Level::Warning, Level::Critical] {
        keeps("status", &status(JudgeState::Judging, Some(level)));
    }
    let bare = Status { trigger: None, causes: [].into(), windows: vec![], baseline: None, ..status(JudgeState::NoBaseline, None) };
    keeps("status", &bare);
}

#[test]
fn a_baseline_keeps_to_the_schema() {
    let spec = spec();
    let day_ms = 86_400_000;
    let mut builder = Builder::new(&spec, 0, 8 * day_ms).unwrap();
    for hour in 0..8 * 24 {
        let mut fields = vec![FieldValue::Missing; spec.fields.len()];
        fields[spec.field("retry_count").unwrap()] = FieldValue::Number(f64::from(hour % 5));
        fields[spec.field("risk_band").unwrap()] = FieldValue::Text(if hour % 2 == 0 { "low" } else { "high" }.to_owned());
        builder.push(&Ticket {
            id: TicketId::from_text(&hour.to_string()),
            completed_at_ms: i64::from(hour) * 3_600_000,
            event_at_ms: i64::from(hour) * 3_600_000,
            commit: None,
            transition: Transition::Replay,
            actual: 100.0 + f64::from(hour % 7),
            predicted: Some(100.0),
            model_version: None,
            fields,
        });
    }
    let making = Making { version: 1, created_at_ms: 0, window_days: &[1, 3, 7], predecessor: None };
    let first = builder.build(&making).unwrap();
    keeps("baselines", &first);
    let next = builder.build(&Making { version: 2, predecessor: Some(&first), ..making }).unwrap();
    assert!(next.anchor.is_some());
    keeps("baselines", &next);
}

#[test]
fn a_dead_letter_keeps_to_the_schema_whatever_its_reason() {
    for reason in DeadReason::ALL {
        let letter = DeadLetter::bare(Some(TicketId::from_text("x")), reason, "why".to_owned());
        check("dead-letters", &letter.encode()).unwrap_or_else(|fault| panic!("{fault}"));
    }
    let nameless = DeadLetter::bare(None, DeadReason::BadId, String::new());
    check("dead-letters", &nameless.encode()).unwrap_or_else(|fault| panic!("{fault}"));
}

#[test]
fn every_topic_has_a_schema_and_every_schema_a_topic() {
    let names = Topics::new("t").settings(&tidemark::config::Config::default().topic_plan());
    let mut topics: Vec<String> = names.iter().map(|topic| topic.name["t.".len()..].to_owned()).collect();
    topics.sort();
    let schemas: Vec<String> = all().keys().cloned().collect();
    assert_eq!(schemas, topics);
}

#[test]
fn the_asyncapi_document_names_every_schema_and_topic() {
    let document = std::fs::read_to_string(crate::support::schemas::directory().join("asyncapi.yaml")).unwrap();
    for topic in all().keys() {
        assert!(document.contains(&format!("$ref: ./{topic}.v1.json\n")), "{topic}'s schema is not named");
        assert!(document.contains(&format!("address: tidemark.{topic}\n")), "{topic} is no channel");
    }
}

/// Calls `each` with every object schema inside `schema`.
fn objects<'v>(schema: &'v Value, each: &mut impl FnMut(&'v Value)) {
    match schema {
        Value::Object(members) => {
            if members.get("type").is_some_and(|t| t == "object" || t.as_array().is_some_and(|types| types == &["object"])) {
                each(schema);
            }
            members.values().for_each(|member| objects(member, each));
        }
        Value::Array(items) => items.iter().for_each(|item| objects(item, each)),
        _ => {}
    }
}

#[test]
fn schemas_are_closed_and_every_member_is_described() {
    for (topic, (schema, _)) in all() {
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema", "{topic}");
        assert_eq!(schema["$id"], format!("urn:tidemark:schema:{topic}.v1"));
        objects(schema, &mut |object| {
            assert!(object.get("additionalProperties").is_some_and(|more| more != true), "{topic}: {object} takes anything");
            for (name, member) in object["properties"].as_object().into_iter().flatten() {
                assert!(member.get("description").is_some() || member.get("$ref").is_some(), "{topic}: {name} is not described");
            }
        });
    }
}

#[test]
fn tickets_keep_to_the_schema_whole_and_bare() {
    let spec = spec();
    let value = |ticket: &Ticket| {
        let mut out = Vec::new();
        ticket.encode(&spec, &mut out);
        linked("ticket", Some(&ticket.id.key()), out)
    };
    let mut ticket = Ticket {
        id: TicketId::from_text("a \"b\""),
        completed_at_ms: 1_363_500_000_123,
        event_at_ms: 1_363_500_000_000,
        commit: Some((1_363_500_000, 7)),
        transition: Transition::Update,
        actual: 12.5,
        predicted: Some(3.0),
        model_version: Some("4".to_owned()),
        fields: vec![FieldValue::Number(f64::NAN); spec.fields.len()],
    };
    ticket.fields[0] = FieldValue::Text("low".to_owned());
    validate("tidemark.tickets", &value(&ticket));
    ticket.id = TicketId::from_json(r#"{"$oid":"5f1b2c3d4e5f6a7b8c9d0e1f"}"#.to_owned());
    (ticket.commit, ticket.predicted, ticket.model_version) = (None, None, None);
    ticket.fields.fill(FieldValue::Missing);
    for transition in
        [Transition::Insert, Transition::Update, Transition::Replace, Transition::Assumed, Transition::History, Transition::Replay]
    {
        ticket.transition = transition;
        validate("tidemark.tickets", &value(&ticket));
    }
    ticket.actual = 0.0;
    let zero = value(&ticket).value.unwrap();
    assert!(check("tickets", &zero).is_err(), "a target of 0 is no ticket");
}

fn mark() -> Mark {
    Mark { number: 3, end_ms: 3_600_000, partitions: 4, baseline: None }
}

fn controls() -> Vec<Control> {
    let id = || "i".to_owned();
    vec![
        Control::Gap { id: id(), from_ms: 1, to_ms: 2, reason: "the oplog rolled over".to_owned() },
        Control::Baseline { id: id(), version: 2 },
        Control::Outcome {
            id: id(),
            trigger: "t".to_owned(),
            outcome: "not_yet".to_owned(),
            reason: "too few rows".to_owned(),
            mark: Some(7),
            baseline: Some(2),
        },
        Control::Silence { id: id(), cause: "error".to_owned(), until_ms: 9 },
        Control::Accept { id: id(), cause: "error".to_owned() },
        Control::ChainStart { id: id(), spec: "s".to_owned(), fingerprint: spec().fingerprint(), partitions: 4 },
    ]
}

#[test]
fn every_control_record_keeps_to_the_schema() {
    let mut all = controls();
    all.push(Control::Mark(mark()));
    all.push(Control::Mark(Mark { baseline: Some(1), ..mark() }));
    for control in all {
        validate("tidemark.tickets", &linked(control.kind(), None, json(&control)));
    }
    assert!(check("tickets", br#"{"kind":"mark","number":1,"end_ms":1,"partitions":1,"baseline":null,"more":1}"#).is_err());
}

#[test]
fn summaries_keep_to_the_schema_with_and_without_a_baseline() {
    let mut sums = ErrorSums::default();
    sums.push(1e15, 0.5);
    let slice = Slice {
        start_ms: 0,
        rows: 2,
        late: 1,
        repeats: 1,
        columns: vec![vec![1, 1], vec![]],
        error_by: vec![vec![i128::MAX, -1], vec![]],
        spread: vec![0, 70_000],
        target: vec![0, 2],
        series: [("recorded".to_owned(), sums)].into(),
    };
    let mut summary = Summary {
        spec: "s".to_owned(),
        fingerprint: spec().fingerprint(),
        version: Some(1),
        partition: 0,
        sequence: 17,
        mark: mark(),
        slices: vec![slice, Slice::default()],
        controls: controls(),
        incomplete: false,
        more: false,
    };
    keeps("summaries", &summary);
    (summary.version, summary.incomplete, summary.more) = (None, true, true);
    summary.slices.clear();
    keeps("summaries", &summary);
}

fn evidence(measure: Measure) -> Evidence {
    Evidence {
        days: 7,
        rows: 6_400,
        measure,
        effect: Some(0.3),
        warning: 0.1,
        critical: 0.25,
        p: Some(0.0),
        log_p: Some(-800.0),
        calibrated_p: None,
        calibrated_log_p: None,
        alpha: Some(1e-4),
        decides: true,
    }
}

fn episode_alert(change: Change, level: Level) -> EpisodeAlert {
    EpisodeAlert {
        spec: "s".to_owned(),
        model: "m".to_owned(),
        cause: "hour_of_day".to_owned(),
        change,
        level,
        episode: "hour_of_day-3".to_owned(),
        mark: 3,
        at_ms: 3_600_000,
        baseline: Some(1),
        status: Level::Critical,
        summary: "it moved".to_owned(),
        onset_ms: None,
        evidence: vec![evidence(Measure::Psi), evidence(Measure::Ks), evidence(Measure::MaeRatio)],
        distributions: vec![Distribution {
            column: "hour_of_day".to_owned(),
            psi: None,
            bins: vec!["0".to_owned()],
            before: vec![1],
            now: vec![2],
        }],
        carriers: vec![Carrier {
            column: "hour_of_day".to_owned(),
            category: "0".to_owned(),
            share_before: 0.0,
            share_now: 1.0,
            mean_abs_error_before: None,
            mean_abs_error_now: Some(2.0),
            part: 1.2,
        }],
        features: vec![MovedFeature { feature: "hour_of_day".to_owned(), part: 0.7, psi: None }],
        recommendations: vec!["look".to_owned()],
        caveats: vec![],
    }
}

#[test]
fn every_alert_is_a_cloud_event_that_keeps_to_the_schema() {
    let mut alerts: Vec<Alert> = [Change::Opened, Change::Escalated, Change::Resolved, Change::Accepted]
        .map(|change| Alert::Episode(Box::new(episode_alert(change, Level::Warning))))
        .into();
    let (spec, recommendations) = ("s".to_owned(), vec!["look".to_owned()]);
    alerts.push(Alert::BrokenChain {
        spec: spec.clone(),
        partition: 0,
        sequence: 7,
        reason: "a repeat".to_owned(),
        recommendations: recommendations.clone(),
    });
    alerts.push(Alert::Gap {
        spec: spec.clone(),
        control: "g".to_owned(),
        from_ms: 1,
        to_ms: 2,
        reason: "oplog".to_owned(),
        recommendations,
    });
    alerts.push(Alert::Test { spec, message: "hello".to_owned() });
    for alert in alerts {
        let event = alert.event("s", "id".to_owned(), 1, "subject");
        validate("tidemark.alerts", &delivered(event.into_record(Arc::from("tidemark.alerts"), "subject", vec![])));
    }
}

fn trigger(change: TriggerChange, trigger_type: TriggerType, closed_because: Option<ClosedBecause>) -> Trigger {
    Trigger {
        id: "t".to_owned(),
        spec: "s".to_owned(),
        model: "m".to_owned(),
        change,
        trigger_type,
        priority: 4,
        reason: "critical".to_owned(),
        causes: vec![TriggerCause { cause: "error".to_owned(), episode: "e".to_owned(), level: Level::Critical, onset_ms: Some(1) }],
        raised_mark: None,
        raised_at_ms: 1,
        mark: Some(3),
        at_ms: 2,
        baseline: None,
        attempts: 0,
        closed_because,
        asked: (change == TriggerChange::Due).then_some(3),
        next_due_ms: (change == TriggerChange::Due).then_some(1),
        error_is_over: change == TriggerChange::Due,
        settles: (trigger_type == TriggerType::Scheduled).then_some(2),
    }
}

#[test]
fn every_trigger_is_a_cloud_event_that_keeps_to_the_schema() {
    use ClosedBecause::{Accepted, Answered, Promoted, Resolved, Settled, Superseded};
    use TriggerChange::{Closed, Due, Joined, Raised};
    use TriggerType::{DataVolume, Drift, Manual, Performance, Scheduled};
    let triggers = [
        trigger(Raised, Drift, None),
        trigger(Raised, Scheduled, None),
        trigger(Raised, DataVolume, None),
        trigger(Raised, Manual, None),
        trigger(Joined, Performance, None),
        trigger(Closed, Drift, Some(Promoted)),
        trigger(Closed, Drift, Some(Accepted)),
        trigger(Closed, Drift, Some(Resolved)),
        trigger(Closed, Drift, Some(Superseded)),
        trigger(Closed, Scheduled, Some(Settled)),
        trigger(Closed, Manual, Some(Answered)),
        trigger(Due, Drift, None),
    ];
    for trigger in triggers {
        let record = trigger.event().into_record(Arc::from("tidemark.retraining-triggers"), &trigger.model, vec![]);
        validate("tidemark.retraining-triggers", &delivered(record));
    }
}

#[test]
fn what_becomes_of_trainings_and_of_production_keeps_to_the_schema() {
    let beside = |outcome: &str, version| Beside { model: "a".to_owned(), outcome: outcome.to_owned(), reason: "so".to_owned(), version };
    for outcome in ["promoted", "refused", "failed", "not_yet", "held_back", "accepted", "settled"] {
        let event = |bare: bool| ModelEvent::Outcome {
            id: "i".to_owned(),
            spec: "s".to_owned(),
            trigger: "t".to_owned(),
            outcome: outcome.to_owned(),
            reason: "so".to_owned(),
            mark: (!bare).then_some(3),
            baseline: (!bare).then_some(2),
            version: (!bare).then_some(7),
            at_ms: (!bare).then_some(1),
            beside: if bare { vec![] } else { vec![beside("promoted", Some(1)), beside("failed", None)] },
        };
        for bare in [true, false] {
            check("model-events", &event(bare).encode()).unwrap_or_else(|fault| panic!("{fault}"));
        }
    }
    let moved = |action, known: Option<u64>| Notice::Moved {
        id: "i".to_owned(),
        spec: "s".to_owned(),
        model: "m".to_owned(),
        action,
        version: 1,
        before: known,
        baseline: known,
        reason: "so".to_owned(),
        at_ms: 1,
    };
    let mut notices = vec![Notice::Applied { id: "i".to_owned(), spec: "s".to_owned() }];
    for action in [MovedBy::Promoted, MovedBy::RolledBack, MovedBy::Moved] {
        notices.extend([moved(action, None), moved(action, Some(2))]);
    }
    for notice in notices {
        check("model-events", &notice.encode()).unwrap_or_else(|fault| panic!("{fault}"));
    }
}
