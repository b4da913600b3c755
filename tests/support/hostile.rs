//! Tickets that nobody should write and somebody will, each with what must become of it.

use bson::oid::ObjectId;
use bson::spec::{BinarySubtype, ElementType};
use bson::{Binary, Bson, DateTime, Decimal128, Document, JavaScriptCodeWithScope, RawDocumentBuf, Regex, Timestamp, doc};

/// A document, and what must become of it.
#[derive(Clone, Debug)]
pub(crate) struct Hostile {
    /// What is wrong with it, in words; unique.
    pub(crate) name: &'static str,
    /// The document.
    pub(crate) body: Body,
    /// What must become of it.
    pub(crate) expected: Expected,
}

/// A document, or bytes that claim to be one.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    /// A server takes it as it is (without `_id`).
    Document(Document),
    /// BSON that a driver would not write.
    Bson(Vec<u8>),
    /// A line of a file.
    Json(Vec<u8>),
}

/// What must become of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// A ticket; these fields cannot be read.
    Used(&'static [&'static str]),
    /// A dead letter, for this reason.
    Dead(&'static str),
    /// A ticket as far as the document goes; the tail, which knows the present, makes it a dead letter for this reason.
    DeadInTail(&'static str),
    /// Nothing: it has not completed.
    NotCompleted,
}

use Expected::{Dead, DeadInTail, NotCompleted, Used};

/// When the base ticket completed: 10 March 2013, 07:01:01 UTC.
pub(crate) const COMPLETED_MS: i64 = 1_362_898_861_000;

/// A ticket without fault.
pub(crate) fn plain(id: impl Into<Bson>) -> Document {
    doc! {
        "ticket_id": id, "status": "COMPLETED", "task_type": "BUILD", "risk_band": "high",
        "qos": { "delivery_mode": "exactly_once", "consistency": "strong", "durability": "persistent" },
        "sla": { "timeout_ms": 300_000 }, "parameters": { "k": "v" }, "required_capabilities": ["x", "y"],
        "created_at": DateTime::from_millis(COMPLETED_MS - 61_000), "started_at": COMPLETED_MS - 60_000, "completed_at": COMPLETED_MS,
        "estimated_duration_ms": 50_000, "actual_duration_ms": 60_000, "retry_count": 0,
    }
}

/// Returns all kinds.
pub(crate) fn hostile_documents() -> Vec<Hostile> {
    let mut all = Vec::new();
    completion_times(&mut all);
    targets(&mut all);
    ids(&mut all);
    statuses(&mut all);
    features(&mut all);
    broken_bson(&mut all);
    broken_json(&mut all);
    all
}

/// Adds the plain ticket with one member changed.
fn with(all: &mut Vec<Hostile>, name: &'static str, member: &str, value: impl Into<Bson>, expected: Expected) {
    let mut document = plain(name);
    document.insert(member, value);
    all.push(Hostile { name, body: Body::Document(document), expected });
}

fn without(all: &mut Vec<Hostile>, name: &'static str, members: &[&str], expected: Expected) {
    let mut document = plain(name);
    for member in members {
        document.remove(member);
    }
    all.push(Hostile { name, body: Body::Document(document), expected });
}

fn decimal(text: &str) -> Bson {
    Bson::Decimal128(text.parse::<Decimal128>().unwrap())
}

fn date(ms: i64) -> Bson {
    Bson::DateTime(DateTime::from_millis(ms))
}

fn completion_times(all: &mut Vec<Hostile>) {
    const AT: &str = "completed_at";
    let none = || Dead("no_completed_at");
    with(all, "completed_at is a date", AT, date(COMPLETED_MS), Used(&[]));
    #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
    with(all, "completed_at is a double", AT, COMPLETED_MS as f64, Used(&[]));
    with(all, "completed_at is a decimal", AT, decimal("1362898861000"), Used(&[]));
    with(all, "completed_at is text in UTC", AT, "2013-03-10T07:01:01Z", Used(&[]));
    with(all, "completed_at is text with an offset", AT, "2013-03-10T02:01:01.000-05:00", Used(&[]));
    with(all, "completed_at is text without a zone", AT, "2013-03-10 07:01:01.000000", Used(&[]));
    with(all, "completed_at is in seconds", AT, 1_362_898_861, none());
    with(all, "completed_at is in microseconds", AT, COMPLETED_MS * 1000, none());
    with(all, "completed_at is 0", AT, 0, none());
    with(all, "completed_at is negative", AT, -COMPLETED_MS, none());
    with(all, "completed_at is the year 1", AT, "0001-01-01T00:00:00Z", none());
    with(all, "completed_at is the year 9999", AT, date(253_402_300_799_999), none());
    with(all, "completed_at is the last date of BSON", AT, date(i64::MAX), none());
    with(all, "completed_at is the first date of BSON", AT, date(i64::MIN), none());
    with(all, "completed_at is NaN", AT, f64::NAN, none());
    with(all, "completed_at is infinite", AT, f64::INFINITY, none());
    with(all, "completed_at is decimal infinity", AT, decimal("Infinity"), none());
    with(all, "completed_at is words", AT, "yesterday", none());
    with(all, "completed_at is empty text", AT, "", none());
    with(all, "completed_at is a day that is not", AT, "2013-02-30T00:00:00Z", none());
    with(all, "completed_at is a boolean", AT, true, none());
    with(all, "completed_at is a list", AT, vec![date(COMPLETED_MS)], none());
    with(all, "completed_at is a document", AT, doc! { "$date": "2013-03-10" }, none());
    with(all, "completed_at is a replication timestamp", AT, Timestamp { time: 1_362_898_861, increment: 1 }, none());
    with(all, "completed_at is null", AT, Bson::Null, none());
    without(all, "completed_at is absent", &[AT], none());
    with(all, "completed_at is in 2150", AT, "2150-01-01T00:00:00Z", DeadInTail("from_the_future"));
}

fn targets(all: &mut Vec<Hostile>) {
    const ACTUAL: &str = "actual_duration_ms";
    let none = || Dead("no_actual");
    with(all, "actual is 0", ACTUAL, 0, none());
    with(all, "actual is -0.0", ACTUAL, -0.0, none());
    with(all, "actual is negative", ACTUAL, -5, none());
    with(all, "actual is NaN", ACTUAL, f64::NAN, none());
    with(all, "actual is infinite", ACTUAL, f64::INFINITY, none());
    with(all, "actual is minus infinity", ACTUAL, f64::NEG_INFINITY, none());
    with(all, "actual is decimal NaN", ACTUAL, decimal("NaN"), none());
    with(all, "actual is decimal infinity", ACTUAL, decimal("-Infinity"), none());
    with(all, "actual is the largest decimal", ACTUAL, decimal("9.999999999999999999999999999999999E+6144"), none());
    with(all, "actual is the smallest double", ACTUAL, f64::from_bits(1), none());
    with(all, "actual is below the plausible range", ACTUAL, 0.5, none());
    with(all, "actual is the largest integer", ACTUAL, i64::MAX, none());
    with(all, "actual is a text", ACTUAL, "60000", none());
    with(all, "actual is a boolean", ACTUAL, true, none());
    with(all, "actual is a list", ACTUAL, vec![60_000], none());
    with(all, "actual is a document", ACTUAL, doc! { "ms": 60_000 }, none());
    with(all, "actual is a date", ACTUAL, date(60_000), none());
    with(all, "actual is a decimal", ACTUAL, decimal("60000.00000000000000000000000000001"), Used(&[]));
    with(all, "actual is a fraction", ACTUAL, 60_000.25, Used(&[]));
    with(all, "actual is a long", ACTUAL, 60_000_i64, Used(&[]));
    with(all, "actual is null, so the times tell", ACTUAL, Bson::Null, Used(&[]));
    without(all, "actual is absent, so the times tell", &[ACTUAL], Used(&[]));
    without(all, "actual and start are absent", &[ACTUAL, "started_at"], none());
    let mut backwards = plain("started after it completed");
    backwards.insert(ACTUAL, Bson::Null);
    backwards.insert("started_at", COMPLETED_MS + 1);
    all.push(Hostile { name: "started after it completed", body: Body::Document(backwards), expected: none() });
    let mut ancient = plain("started in the year 1");
    ancient.insert(ACTUAL, Bson::Null);
    ancient.insert("started_at", "0001-01-01T00:00:00Z");
    all.push(Hostile { name: "started in the year 1", body: Body::Document(ancient), expected: none() });
}

fn ids(all: &mut Vec<Hostile>) {
    let mut id = |name: &'static str, id: Bson, expected: Expected| {
        all.push(Hostile { name, body: Body::Document(plain(id)), expected });
    };
    let binary = |subtype, bytes: &[u8]| Bson::Binary(Binary { subtype, bytes: bytes.to_vec() });
    id("id is an ObjectId", ObjectId::from_bytes([7; 12]).into(), Used(&[]));
    id("id is an int", Bson::Int32(5), Used(&[]));
    id("id is a long", Bson::Int64(5), Used(&[]));
    id("id is a double", Bson::Double(5.0), Used(&[]));
    id("id is NaN", Bson::Double(f64::NAN), Used(&[]));
    id("id is a decimal", decimal("5"), Used(&[]));
    id("id is the text 5", "5".into(), Used(&[]));
    id("id is a date", date(COMPLETED_MS), Used(&[]));
    id("id is binary", binary(BinarySubtype::Generic, &[0, 255]), Used(&[]));
    id("id is a UUID", binary(BinarySubtype::Uuid, &[9; 16]), Used(&[]));
    id("id is a document", doc! { "b": 1, "a": [2_i64, { "c": null }] }.into(), Used(&[]));
    id("id is a list", vec![Bson::Int32(1), Bson::Null].into(), Used(&[]));
    id("id is a boolean", true.into(), Used(&[]));
    id("id is a regular expression", Regex { pattern: "a/\"".try_into().unwrap(), options: "i".try_into().unwrap() }.into(), Used(&[]));
    id("id is a replication timestamp", Timestamp { time: 1, increment: 2 }.into(), Used(&[]));
    id("id is code", Bson::JavaScriptCode("1".into()), Used(&[]));
    id("id is code with scope", JavaScriptCodeWithScope { code: "x".into(), scope: doc! { "x": 1 } }.into(), Used(&[]));
    id("id is a symbol", Bson::Symbol("s".into()), Used(&[]));
    id("id is the smallest key", Bson::MinKey, Used(&[]));
    id("id is the largest key", Bson::MaxKey, Used(&[]));
    id("id has control characters", "a\u{1}\t\n\r\u{7f}\u{85}".into(), Used(&[]));
    id("id has a zero byte", "a\0b".into(), Used(&[]));
    id("id is of all planes and directions", "é\u{202e}\u{1f600}\u{10ffff}".into(), Used(&[]));
    id("id looks like extended JSON", "{\"$oid\":\"070707070707070707070707\"}".into(), Used(&[]));
    id("id is as long as it may be", "x".repeat(1022).into(), Used(&[]));
    id("id is a byte too long", "y".repeat(1023).into(), Dead("id_too_long"));
    id("id has 100 kB", "z".repeat(100_000).into(), Dead("id_too_long"));
    id("id is a document of 100 kB", doc! { "a": "z".repeat(100_000) }.into(), Dead("id_too_long"));
    id("id is nested 90 deep", nested(90), Used(&[]));
    id("id is null", Bson::Null, Dead("bad_id"));
    id("id is undefined", Bson::Undefined, Dead("bad_id"));
    id("id is empty", "".into(), Dead("bad_id"));
    without(all, "id is absent", &["ticket_id"], Dead("bad_id"));
    with(all, "id and everything else is of no use", "ticket_id", Bson::Null, Dead("bad_id"));
}

fn statuses(all: &mut Vec<Hostile>) {
    const STATUS: &str = "status";
    with(all, "status is in lower case", STATUS, "completed", NotCompleted);
    with(all, "status has a space behind it", STATUS, "COMPLETED ", NotCompleted);
    with(all, "status is a list", STATUS, vec!["COMPLETED"], NotCompleted);
    with(all, "status is a number", STATUS, 1, NotCompleted);
    with(all, "status is null", STATUS, Bson::Null, NotCompleted);
    without(all, "status is absent", &[STATUS], NotCompleted);
    all.push(Hostile { name: "an empty document", body: Body::Document(Document::new()), expected: NotCompleted });
    let mut failed = plain("failed, and of no use besides");
    failed.insert(STATUS, "FAILED");
    failed.insert("completed_at", Bson::Null);
    all.push(Hostile { name: "failed, and of no use besides", body: Body::Document(failed), expected: NotCompleted });
}

/// Returns a list in a list in a list.
fn nested(levels: usize) -> Bson {
    (0..levels).fold(Bson::Int32(1), |inner, _| Bson::Array(vec![inner]))
}

fn features(all: &mut Vec<Hostile>) {
    with(all, "parameters has 5 MB", "parameters", doc! { "blob": "x".repeat(5_000_000), "token": "hunter2" }, Used(&[]));
    with(all, "parameters is nested 90 deep", "parameters", doc! { "a": nested(90) }, Used(&[]));
    with(all, "parameters is a text", "parameters", "{\"a\":1}", Used(&[]));
    with(all, "parameters is a list", "parameters", vec![1, 2], Used(&[]));
    with(all, "parameters is empty", "parameters", Document::new(), Used(&[]));
    let names = doc! { "": 1, "a.b": 2, "$x": { "$y": 3 }, "\u{1}\u{1f600}\"\\": "\u{2028}" };
    with(all, "parameters has names of every kind", "parameters", names, Used(&[]));
    let types = doc! {
        "nan": f64::NAN, "dec": decimal("1E-6176"), "min": Bson::MinKey, "undefined": Bson::Undefined, "old": date(i64::MIN),
        "bin": Binary { subtype: BinarySubtype::UserDefined(0x90), bytes: vec![1] },
    };
    with(all, "parameters has values of every type", "parameters", types, Used(&[]));
    with(all, "capabilities is a document", "required_capabilities", doc! { "0": "x" }, Used(&["capabilities"]));
    with(all, "capabilities is a text", "required_capabilities", "x,y", Used(&["capabilities"]));
    with(all, "capabilities has 100,000 items", "required_capabilities", vec![Bson::Null; 100_000], Used(&[]));
    with(all, "risk_band is a list", "risk_band", vec!["high"], Used(&["risk_band"]));
    with(all, "risk_band is a document", "risk_band", doc! { "high": 1 }, Used(&["risk_band"]));
    with(all, "risk_band is an ObjectId", "risk_band", ObjectId::from_bytes([1; 12]), Used(&["risk_band"]));
    with(all, "risk_band is a number", "risk_band", 0.7, Used(&[]));
    with(all, "risk_band is a boolean", "risk_band", false, Used(&[]));
    with(all, "risk_band is empty", "risk_band", "", Used(&[]));
    with(all, "risk_band has 100 kB", "risk_band", "h".repeat(100_000), Used(&[]));
    with(all, "risk_band has control characters", "risk_band", "hi\u{0}gh\u{1b}[31m", Used(&[]));
    with(all, "task_type is nobody's", "task_type", "MINE_BITCOIN", Used(&[]));
    with(all, "qos is a text", "qos", "exactly_once", Used(&[]));
    with(all, "qos is a list of documents", "qos", vec![doc! { "durability": "persistent" }], Used(&[]));
    with(all, "qos has empty names first", "qos", doc! { "delivery_mode": "", "delivery_guarantee": "at_least_once" }, Used(&[]));
    with(all, "sla is null", "sla", Bson::Null, Used(&[]));
    with(all, "sla.timeout_ms is a text", "sla", doc! { "timeout_ms": "300 s" }, Used(&["sla_timeout_ms"]));
    with(all, "sla.timeout_ms is infinite", "sla", doc! { "timeout_ms": f64::INFINITY }, Used(&[]));
    with(all, "retry_count is a text", "retry_count", "0", Used(&["retry_count"]));
    with(all, "retry_count is NaN", "retry_count", f64::NAN, Used(&[]));
    with(all, "retry_count is a decimal", "retry_count", decimal("3"), Used(&[]));
    with(all, "retry_count is the smallest long", "retry_count", i64::MIN, Used(&[]));
    with(all, "created_at is words", "created_at", "noon", Used(&["created_at"]));
    with(all, "created_at is in seconds", "created_at", 1_362_898_800, Used(&["created_at"]));
    with(all, "created_at is in the year 9999", "created_at", date(253_402_300_799_999), Used(&["created_at"]));
    with(all, "created_at is an ObjectId", "created_at", ObjectId::from_bytes([1; 12]), Used(&["created_at"]));
    with(all, "the estimate is negative", "estimated_duration_ms", -1, Used(&[]));
    with(all, "the estimate is a text", "estimated_duration_ms", "50000", Used(&["estimated_duration_ms"]));
    with(all, "predictions is a list", "predictions", vec![1], Used(&[]));
    with(all, "the model version is a document", "predictions", doc! { "model_version": { "v": 1 } }, Used(&[]));
    without(all, "nothing but id, status, time and target", &FEATURES, Used(&[]));
    // The same ticket, of another type each time it is written.
    for (name, value) in [("changes its type: text", Bson::from("7")), ("changes its type: list", vec![7].into())] {
        let mut document = plain("changes its type");
        document.insert("retry_count", value);
        document.insert("actual_duration_ms", decimal("60000"));
        all.push(Hostile { name, body: Body::Document(document), expected: Used(&["retry_count"]) });
    }
}

/// Members that only features are made of.
const FEATURES: [&str; 10] = [
    "task_type",
    "risk_band",
    "qos",
    "sla",
    "parameters",
    "required_capabilities",
    "created_at",
    "started_at",
    "estimated_duration_ms",
    "retry_count",
];

/// The bytes of a ticket, with the first `find` in it replaced.
fn spoilt(name: &str, find: &[u8], replace: &[u8]) -> Vec<u8> {
    let mut bytes = RawDocumentBuf::try_from(&plain(name)).unwrap().into_bytes();
    let at = bytes.windows(find.len()).position(|window| window == find).unwrap();
    bytes[at..at + find.len()].copy_from_slice(replace);
    bytes
}

fn broken_bson(all: &mut Vec<Hostile>) {
    let mut raw = |name: &'static str, bytes: Vec<u8>, expected: Expected| all.push(Hostile { name, body: Body::Bson(bytes), expected });
    raw("risk_band is no UTF-8", spoilt("u", b"high", b"hi\xff\xfe"), Used(&["risk_band"]));
    raw("id is no UTF-8", spoilt("bad-id", b"bad-id", b"bad\xc3\x28d"), Dead("bad_id"));
    raw("a name is no UTF-8", spoilt("n", b"risk_band", b"risk\xffband"), Dead("undecodable"));
    raw("a name that is read is there twice", spoilt("t", b"task_type\0", b"risk_band\0"), Dead("undecodable"));
    raw("a type that is not", spoilt("y", b"\x02risk_band", b"\x6erisk_band"), Dead("undecodable"));
    raw("a text longer than its document", spoilt("l", b"risk_band\0\x05\0", b"risk_band\0\xff\x7f"), Dead("undecodable"));
    raw("a text of negative length", spoilt("m", b"risk_band\0\x05\0\0\0", b"risk_band\0\xff\xff\xff\xff"), Dead("undecodable"));
    raw("a boolean that is neither", spoilt("retry", b"\x10retry_count\0\0\0\0\0", b"\x10retry_count\0\x02\0\0\0"), Used(&[]));
    let broken_inside = spoilt("parameters", b"\x02k\0\x02\0\0\0v", b"\x02k\0\x7f\0\0\0v");
    raw("parameters is broken inside", broken_inside, Used(&["parameters_size"]));
    let dates = [&[ElementType::DateTime as u8][..], b"started_at"].concat();
    raw("a long that says it is a date", spoilt("d", b"\x12started_at", &dates), Used(&[]));
}

fn broken_json(all: &mut Vec<Hostile>) {
    let line = |replace: &str, by: &str| {
        let plain = r#"{"ticket_id":"j","status":"COMPLETED","risk_band":"high","completed_at":1362898861000,"actual_duration_ms":60000,"parameters":{"k":"v"},"note":"n"}"#;
        assert!(plain.contains(replace));
        plain.replacen(replace, by, 1).into_bytes()
    };
    let mut json = |name: &'static str, line: Vec<u8>, expected: Expected| all.push(Hostile { name, body: Body::Json(line), expected });
    json("a line of JSON", line("", ""), Used(&[]));
    json("an empty line", Vec::new(), Dead("undecodable"));
    json("a list", b"[{}]".to_vec(), Dead("undecodable"));
    json("a text", b"\"COMPLETED\"".to_vec(), Dead("undecodable"));
    json("half a line", line("", "")[..60].to_vec(), Dead("undecodable"));
    json("two objects on a line", line("\"n\"}", "\"n\"}{}"), Dead("undecodable"));
    json("a name twice", line("\"note\"", "\"status\""), Dead("undecodable"));
    json("a bare NaN", line("60000", "NaN"), Dead("undecodable"));
    json("single quotes", line("\"note\"", "'note'"), Dead("undecodable"));
    json("a control character as it is", line("\"n\"", "\"\u{1}\""), Dead("undecodable"));
    json("bytes that are no UTF-8", [&line("", "")[..140], b"\xff\"}"].concat(), Dead("undecodable"));
    json("half a surrogate pair in the id", line("\"j\"", r#""\ud83d""#), Dead("bad_id"));
    json("half a surrogate pair in a field", line("\"high\"", r#""\ud83d""#), Used(&["risk_band"]));
    json("half a surrogate pair that nobody reads", line("\"n\"", r#""\ud83d""#), Used(&[]));
    json("a number beyond doubles", line("60000", "1e400"), Dead("no_actual"));
    json("an integer of 40 digits", line("60000", &"9".repeat(40)), Dead("no_actual"));
    json("a target with 40 decimals", line("60000", &format!("60000.{}", "1".repeat(40))), Used(&[]));
    json("extended JSON of a date", line("1362898861000", r#"{"$date":{"$numberLong":"1362898861000"}}"#), Used(&[]));
    json("extended JSON that is not", line("1362898861000", r#"{"$date":"tomorrow"}"#), Dead("no_completed_at"));
    json(
        "parameters nested 100,000 deep",
        line("{\"k\":\"v\"}", &("[".repeat(100_000) + &"]".repeat(100_000))),
        Used(&["parameters_size"]),
    );
    json("a note nested 100,000 deep", line("\"n\"", &("[".repeat(100_000) + &"]".repeat(100_000))), Used(&[]));
    json("an id nested 100,000 deep", line("\"j\"", &("[".repeat(100_000) + &"]".repeat(100_000))), Dead("bad_id"));
    json("spaces everywhere", line("{\"k\":\"v\"}", " { \t\"k\" : \"v\"\r } "), Used(&[]));
}
