//! The rules, one by one, on tickets as the contract has them.

use ::bson::{Bson, RawDocumentBuf, doc};
use serde_json::{Value, json};

use super::*;
use crate::ticket::{FieldValue, Transition};

fn spec() -> Spec {
    Spec::from_toml(include_str!("../../../config/execution-tickets.toml")).unwrap()
}

fn bson(document: &::bson::Document) -> (Normalised, Unreadable) {
    let raw = RawDocumentBuf::try_from(document).unwrap();
    let mut unreadable = Unreadable::default();
    (Normaliser::new(&spec()).from_bson(&raw, &mut unreadable), unreadable)
}

fn json(line: &str) -> (Normalised, Unreadable) {
    let mut unreadable = Unreadable::default();
    (Normaliser::new(&spec()).from_json(line.as_bytes(), 7, &mut unreadable), unreadable)
}

fn completed(normalised: Normalised) -> Ticket {
    match normalised {
        Normalised::Completed(ticket) => ticket,
        other => panic!("no completed ticket: {other:?}"),
    }
}

fn dead(normalised: Normalised) -> DeadLetter {
    match normalised {
        Normalised::Dead(dead) => *dead,
        other => panic!("no dead letter: {other:?}"),
    }
}

/// A ticket as the contract has it, with some members set, or removed where null.
fn ticket_json(changes: &Value) -> String {
    let mut ticket = json!({
        "ticket_id": "a", "status": "COMPLETED", "task_type": "BUILD", "risk_band": "high",
        "qos": {"delivery_mode": "exactly_once", "consistency": "strong", "durability": "persistent"},
        "sla": {"timeout_ms": 300_000}, "parameters": {"k": "v"}, "required_capabilities": ["x", "y"],
        "created_at": 1_362_898_800_000_i64, "started_at": 1_362_898_801_000_i64, "completed_at": 1_362_898_861_000_i64,
        "estimated_duration_ms": 50_000, "actual_duration_ms": 60_000, "retry_count": 0,
    });
    for (name, value) in changes.as_object().unwrap() {
        ticket[name] = value.clone();
    }
    ticket.to_string()
}

fn field(ticket: &Ticket, name: &str) -> FieldValue {
    ticket.fields[spec().field(name).unwrap()].clone()
}

fn with(changes: &Value) -> Ticket {
    completed(json(&ticket_json(changes)).0)
}

fn reason_with(changes: &Value) -> DeadReason {
    dead(json(&ticket_json(changes)).0).reason
}

#[test]
fn a_ticket_is_the_same_from_bson_and_from_json() {
    let document = doc! {
        "_id": ::bson::oid::ObjectId::new(), "ticket_id": "a", "status": "COMPLETED", "task_type": "BUILD", "risk_band": "high",
        "qos": { "delivery_mode": "exactly_once", "consistency": "strong", "durability": "persistent" },
        "sla": { "timeout_ms": 300_000_i64 }, "parameters": { "k": "v" }, "required_capabilities": ["x", "y"],
        "created_at": ::bson::DateTime::from_millis(1_362_898_800_000), "started_at": 1_362_898_801_000_i64,
        "completed_at": "2013-03-10T07:01:01Z", "estimated_duration_ms": 50_000.0,
        "actual_duration_ms": "6E+4".parse::<::bson::Decimal128>().unwrap(), "retry_count": 0,
    };
    let from_bson = completed(bson(&document).0);
    assert_eq!(from_bson, with(&json!({})));
    assert_eq!(from_bson.id.json(), "\"a\"");
    assert_eq!((from_bson.completed_at_ms, from_bson.actual, from_bson.predicted), (1_362_898_861_000, 60_000.0, Some(50_000.0)));
    assert_eq!((from_bson.event_at_ms, from_bson.commit, from_bson.transition), (1_362_898_861_000, None, Transition::Replay));
    assert_eq!(field(&from_bson, "parameters_size"), FieldValue::Number(9.0));
    assert_eq!(field(&from_bson, "capabilities"), FieldValue::Number(2.0));
    assert_eq!(field(&from_bson, "created_at"), FieldValue::Number(1_362_898_800_000.0));
}

#[test]
fn a_mongoexport_line_in_either_form_is_the_document_it_was() {
    let document = doc! {
        "ticket_id": { "plant": 5, "at": ::bson::DateTime::from_millis(1_362_898_800_000), "n": 5_000_000_000_i64 }, "status": "COMPLETED",
        "completed_at": ::bson::DateTime::from_millis(1_362_898_861_000), "actual_duration_ms": 60_000_i64,
        "parameters": { "when": ::bson::DateTime::from_millis(1_362_898_800_123), "half": 0.5, "id": ::bson::oid::ObjectId::from_bytes([7; 12]) },
        "retry_count": f64::NAN,
    };
    let expected = format!("{:?}", bson(&document));
    for form in [extjson::Form::Canonical, extjson::Form::Relaxed] {
        let raw = ::bson::RawBson::try_from(Bson::from(document.clone())).unwrap();
        let mut line = Vec::new();
        extjson::put_value(&mut line, raw.as_raw_bson_ref(), form).unwrap();
        let line = String::from_utf8(line).unwrap();
        assert_eq!(format!("{:?}", json(&line)), expected, "{line}");
    }
}

#[test]
fn only_a_status_of_the_spec_completes_and_its_case_counts() {
    for status in [json!("PENDING"), json!("completed"), json!(null), json!(5), json!(["COMPLETED"]), json!("")] {
        assert!(matches!(json(&ticket_json(&json!({ "status": status }))).0, Normalised::Other(Some(_))), "{status}");
    }
    assert_eq!(json(r#"{"ticket_id":"a","status":"PENDING"}"#).0, Normalised::Other(None));
    let raw = RawDocumentBuf::try_from(&doc! { "status": "PENDING" }).unwrap();
    let normaliser = Normaliser::new(&spec());
    assert_eq!(normaliser.from_bson(&raw, &mut Unreadable::default()), Normalised::Other(None));
    assert_eq!(dead(normaliser.completed_from_bson(&raw, &mut Unreadable::default())).reason, DeadReason::BadId);
    assert!(!normaliser.is_completed(&raw));
    assert!(normaliser.is_completed(&RawDocumentBuf::try_from(&doc! { "status": "COMPLETED" }).unwrap()));
}

#[test]
fn an_actual_that_is_present_wins_even_when_it_is_of_no_use() {
    assert_eq!(Some(with(&json!({ "actual_duration_ms": 5.5 })).actual), Some(5.5));
    assert_eq!(Some(with(&json!({ "actual_duration_ms": null })).actual), Some(60_000.0));
    for useless in [json!(0), json!(-1), json!("60000"), json!(0.5), json!(1e12), json!([1]), json!({}), json!(true)] {
        assert_eq!(reason_with(&json!({ "actual_duration_ms": useless })), DeadReason::NoActual, "{useless}");
    }
    for between in [json!({ "started_at": null }), json!({ "started_at": 1_362_898_861_000_i64 }), json!({ "started_at": "yesterday" })] {
        let mut changes = between;
        changes["actual_duration_ms"] = Value::Null;
        assert_eq!(reason_with(&changes), DeadReason::NoActual, "{changes}");
    }
    for number in ["1e400", "-1e400", r#"{"$numberDouble":"NaN"}"#, r#"{"$numberDecimal":"Infinity"}"#] {
        let line = ticket_json(&json!({})).replace("\"actual_duration_ms\":60000", &format!("\"actual_duration_ms\":{number}"));
        assert_eq!(dead(json(&line).0).reason, DeadReason::NoActual, "{number}");
    }
}

#[test]
fn a_completion_time_that_cannot_be_meant_is_none() {
    for time in [
        json!(1_362_898_861),
        json!(1_362_898_861_000_000_i64),
        json!("10 March"),
        json!(0),
        json!(true),
        json!([]),
        json!(null),
        json!(1e300),
    ] {
        assert_eq!(reason_with(&json!({ "completed_at": time })), DeadReason::NoCompletedAt, "{time}");
    }
    let dead = dead(json(&ticket_json(&json!({ "completed_at": 1_362_898_861 }))).0);
    assert_eq!(dead.detail, "completed_at is the number 1362898861, not_a_time");
    assert_eq!(dead.position.as_deref(), Some("line 7"));
    assert_eq!(with(&json!({ "completed_at": 1_362_898_861_000.75 })).completed_at_ms, 1_362_898_861_000);
}

#[test]
fn the_prediction_is_the_first_above_zero_and_finite() {
    let predicted = |changes: &Value| with(changes).predicted;
    assert_eq!(predicted(&json!({ "predictions": { "duration_ms": 7 } })), Some(7.0));
    assert_eq!(
        predicted(&json!({ "allocation_metadata": { "predicted_duration_ms": 8.5 }, "predictions": { "duration_ms": 7 } })),
        Some(8.5)
    );
    assert_eq!(
        predicted(&json!({ "allocation_metadata": { "predicted_duration_ms": 0 }, "predictions": { "duration_ms": "7" } })),
        Some(50_000.0)
    );
    assert_eq!(predicted(&json!({ "allocation_metadata": 5, "predictions": [], "estimated_duration_ms": -3 })), None);
    assert_eq!(with(&json!({ "predictions": { "model_version": 3 } })).model_version.as_deref(), Some("3"));
    assert_eq!(with(&json!({ "predictions": { "model_version": null } })).model_version, None);
}

#[test]
fn an_unreadable_field_is_missing_and_counted_and_kills_nothing() {
    let changes = json!({
        "risk_band": ["high"], "sla": { "timeout_ms": "300" }, "created_at": "noon", "required_capabilities": {"x": 1}, "retry_count": true,
    });
    let (normalised, unreadable) = json(&ticket_json(&changes));
    let ticket = completed(normalised);
    for name in ["risk_band", "sla_timeout_ms", "created_at", "capabilities", "retry_count"] {
        assert_eq!(field(&ticket, name), FieldValue::Missing, "{name}");
    }
    let spec = spec();
    let counted: Vec<_> = unreadable.iter().map(|(at, why, count)| (spec.fields[at].name.as_str(), why.name(), count)).collect();
    assert_eq!(
        counted,
        [
            ("risk_band", "wrong_type", 1),
            ("capabilities", "wrong_type", 1),
            ("sla_timeout_ms", "wrong_type", 1),
            ("retry_count", "wrong_type", 1),
            ("created_at", "not_a_time", 1)
        ]
    );
    assert!(json(&ticket_json(&json!({ "risk_band": null, "sla": 5 }))).1.is_empty(), "absent is not unreadable");
}

#[test]
fn a_text_is_the_first_that_is_not_empty_and_the_last_one_stands() {
    let delivery = |qos: Value| field(&with(&json!({ "qos": qos })), "qos_delivery");
    assert_eq!(delivery(json!({ "delivery_mode": "", "delivery_guarantee": "g" })), FieldValue::Text("g".to_owned()));
    assert_eq!(delivery(json!({ "delivery_mode": null, "delivery_guarantee": "" })), FieldValue::Text(String::new()));
    assert_eq!(delivery(json!({ "delivery_mode": "" })), FieldValue::Missing);
    assert_eq!(field(&with(&json!({ "risk_band": "" })), "risk_band"), FieldValue::Text(String::new()));
    assert_eq!(field(&with(&json!({ "risk_band": 5.0 })), "risk_band"), FieldValue::Text("5".to_owned()));
    assert_eq!(field(&with(&json!({ "risk_band": false })), "risk_band"), FieldValue::Text("false".to_owned()));
    assert_eq!(field(&with(&json!({ "risk_band": "a\tb\u{1f600}" })), "risk_band"), FieldValue::Text("a\tb\u{1f600}".to_owned()));
}

#[test]
fn a_size_is_that_of_python_json_dumps() {
    // (as written in the line, what json.dumps(…, separators=(",", ":"), ensure_ascii=False) makes of it)
    for (written, python) in [
        ("{ }", "{}"),
        (r#"{ "a" : [ 1 , 2.50, -0, 1e5, 1E-7, 12345678901234567890123 ] }"#, r#"{"a":[1,2.5,0,100000.0,1e-07,12345678901234567890123]}"#),
        (r#"{"\u00e9\/":"\u0041\u0001\n\ud83d\ude00\""}"#, "{\"é/\":\"A\\u0001\\n\u{1f600}\\\"\"}"),
        ("[true,false,null]", "[true,false,null]"),
        ("\"text\"", "\"text\""),
        ("{\"$price\":5,\"b\":{\"$x\":[{\"$y\":1.0}]}}", "{\"$price\":5,\"b\":{\"$x\":[{\"$y\":1.0}]}}"),
    ] {
        let line = ticket_json(&json!({})).replace(r#"{"k":"v"}"#, written);
        assert_eq!(field(&completed(json(&line).0), "parameters_size"), FieldValue::Number(python.len() as f64), "{written}");
    }
    let deep = |levels: usize| ticket_json(&json!({})).replace(r#"{"k":"v"}"#, &format!("{}{}", "[".repeat(levels), "]".repeat(levels)));
    assert_eq!(field(&completed(json(&deep(MAX_DEPTH)).0), "parameters_size"), FieldValue::Number(2.0 * MAX_DEPTH as f64));
    let (too_deep, unreadable) = json(&deep(100_000));
    assert_eq!(field(&completed(too_deep), "parameters_size"), FieldValue::Missing);
    assert_eq!(unreadable.iter().map(|(_, why, _)| why).collect::<Vec<_>>(), [Why::TooDeep]);
}

#[test]
fn an_id_of_any_type_keeps_its_type_and_one_that_is_too_long_is_hashed() {
    let id = |id: Bson| {
        completed(bson(&doc! { "ticket_id": id, "status": "COMPLETED", "completed_at": 1_362_898_861_000_i64, "actual_duration_ms": 5 }).0)
            .id
    };
    assert_eq!(id(Bson::Int32(5)).json(), r#"{"$numberInt":"5"}"#);
    assert_eq!(id(Bson::Int64(5)).json(), r#"{"$numberLong":"5"}"#);
    assert_eq!(id(doc! { "a": 1.0 }.into()).json(), r#"{"a":{"$numberDouble":"1.0"}}"#);
    assert_eq!(id("é\u{1}".into()).json(), "\"é\\u0001\"");
    assert_eq!(with(&json!({ "ticket_id": 5 })).id.json(), r#"{"$numberInt":"5"}"#);
    assert_eq!(
        with(&json!({ "ticket_id": { "z": 5_000_000_000_i64, "a": [true, "x"] } })).id.json(),
        r#"{"a":[true,"x"],"z":{"$numberLong":"5000000000"}}"#
    );
    for none in [json!(null), json!("")] {
        assert_eq!(reason_with(&json!({ "ticket_id": none })), DeadReason::BadId);
    }
    assert_eq!(with(&json!({ "ticket_id": "x".repeat(MAX_ID_BYTES - 2) })).id.json().len(), MAX_ID_BYTES);
    let long = "x".repeat(100_000);
    let line = dead(json(&ticket_json(&json!({ "ticket_id": long }))).0);
    let document = dead(bson(&doc! { "ticket_id": &long, "status": "COMPLETED" }).0);
    assert_eq!(line.reason, DeadReason::IdTooLong);
    assert_eq!(line.id, document.id);
    assert!(line.id.is_some_and(|id| id.json().starts_with(r#"{"$sha256":""#) && id.json().ends_with(r#","$bytes":100002}"#)));
    assert!(line.fields.bytes > 100_000 && line.fields.text.len() == KEPT_BYTES);
}

#[test]
fn a_dead_letter_holds_what_the_spec_names_and_no_secret() {
    let document = doc! {
        "ticket_id": "a", "status": "COMPLETED", "password": "hunter2", "parameters": { "token": "hunter2" },
        "required_capabilities": ["hunter2"], "retry_count": 3, "actual_duration_ms": "é", "completed_at": 1_362_898_861_000_i64,
    };
    let dead = dead(bson(&document).0);
    assert_eq!(dead.detail, "actual_duration_ms is the text \"é\", wrong_type");
    assert!(!dead.fields.text.contains("hunter2"), "{}", dead.fields.text);
    assert_eq!(
        dead.fields.text,
        concat!(
            r#"{"status":"COMPLETED","completed_at":{"$numberLong":"1362898861000"},"actual_duration_ms":"é","#,
            r#""required_capabilities":{"$items":1,"$bytes":11},"parameters":{"$bytes":19},"retry_count":{"$numberInt":"3"},"ticket_id":"a"}"#
        )
    );
    let record: Value = serde_json::from_slice(&dead.encode()).unwrap();
    assert_eq!((&record["id"], &record["reason"], &record["fields_bytes"]), (&json!("a"), &json!("no_actual"), &json!(dead.fields.bytes)));
    assert_eq!(serde_json::from_str::<Value>(&dead.fields.text).unwrap()["retry_count"], json!({ "$numberInt": "3" }));
}

#[test]
fn what_is_no_document_is_undecodable_and_withheld() {
    for line in [
        &b"{"[..],
        b"[]",
        b"5",
        b"{\"a\":1}x",
        b"{\"ticket_id\":\"a\",\"ticket_id\":\"b\"}",
        b"{\"sla\":{\"timeout_ms\":1,\"timeout_ms\":2}}",
        b"{\"a\":\"\x01\"}",
        b"{\"a\":\"\xff\"}",
        b"{\"a\":NaN}",
        b"{'a':1}",
        b"",
    ] {
        let dead = dead(Normaliser::new(&spec()).from_json(line, 3, &mut Unreadable::default()));
        assert_eq!(
            (dead.reason, dead.fields.text.as_str(), dead.fields.bytes),
            (DeadReason::Undecodable, "", line.len() as u64),
            "{line:?}"
        );
    }
    let mut raw = RawDocumentBuf::try_from(&doc! { "status": "COMPLETED" }).unwrap().into_bytes();
    raw[4] = 0x6e;
    let broken = RawDocument::from_bytes(&raw).unwrap();
    assert_eq!(dead(Normaliser::new(&spec()).from_bson(broken, &mut Unreadable::default())).reason, DeadReason::Undecodable);
}

#[test]
fn the_projection_names_every_path_once_and_none_below_another() {
    let normaliser = Normaliser::new(&spec());
    let paths: Vec<String> = normaliser.paths().iter().map(ToString::to_string).collect();
    assert_eq!(paths.len(), 21, "{paths:?}");
    let nested = include_str!("../../../config/execution-tickets.toml").replace("paths = [\"retry_count\"]", "paths = [\"sla\"]");
    let normaliser = Normaliser::new(&Spec::from_toml(&nested).unwrap());
    let paths: Vec<String> = normaliser.paths().iter().map(ToString::to_string).collect();
    assert!(paths.contains(&"sla".to_owned()) && !paths.contains(&"sla.timeout_ms".to_owned()));
}
