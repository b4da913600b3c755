//! Files of every kind, whole and broken.

use std::io::Write;

use super::*;
use crate::ticket::FieldValue;

const LINE: &str = r#"{"ticket_id":"a","status":"COMPLETED","completed_at":1362898861000,"actual_duration_ms":60000}"#;

fn spec() -> Spec {
    Spec::from_toml(include_str!("../../../config/execution-tickets.toml")).unwrap()
}

fn write(name: &str, content: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name);
    std::fs::write(&file, content).unwrap();
    (folder, file)
}

fn read(name: &str, content: &[u8]) -> Result<Vec<Row>, ReplayError> {
    let (_folder, file) = write(name, content);
    Replay::open(&file, &spec())?.collect()
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn zstd_long(content: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(28).unwrap();
    encoder.long_distance_matching(true).unwrap();
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn numbers(rows: &[Row]) -> Vec<u64> {
    rows.iter().map(|row| row.number).collect()
}

#[test]
fn plain_gzip_and_zstd_hold_the_same_rows_whatever_the_file_is_called() {
    let text = format!("\u{feff}{LINE}\r\n\n  \n{LINE}\nnot json\n{LINE}");
    let plain = read("tickets.ndjson", text.as_bytes()).unwrap();
    assert_eq!(numbers(&plain), [1, 4, 5, 6]);
    assert!(matches!(&plain[2].normalised, Normalised::Dead(dead) if dead.position.as_deref() == Some("line 5")));
    assert_eq!(plain.iter().filter(|row| matches!(row.normalised, Normalised::Completed(_))).count(), 3);
    assert_eq!(read("tickets", &gzip(text.as_bytes())).unwrap(), plain);
    assert_eq!(read("tickets.gz", &zstd_long(text.as_bytes())).unwrap(), plain);
    let members = [gzip(format!("{LINE}\n").as_bytes()), gzip(LINE.as_bytes())].concat();
    assert_eq!(numbers(&read("two.gz", &members).unwrap()), [1, 2]);
    let frames = [zstd_long(format!("{LINE}\n").as_bytes()), zstd_long(LINE.as_bytes())].concat();
    assert_eq!(numbers(&read("two.zst", &frames).unwrap()), [1, 2]);
}

#[test]
fn a_packed_file_that_is_cut_says_after_which_line() {
    let text: String = (0..50_000).map(|i| format!("{}\n", LINE.replace("\"a\"", &format!("\"{}\"", i * 7919 % 50_000)))).collect();
    for packed in [gzip(text.as_bytes()), zstd_long(text.as_bytes())] {
        let (_folder, file) = write("cut", &packed[..packed.len() / 2]);
        let mut rows = 0;
        let mut error = None;
        for row in Replay::open(&file, &spec()).unwrap() {
            match row {
                Ok(_) => rows += 1,
                Err(stopped) => error = Some(stopped),
            }
        }
        match error {
            Some(ReplayError::CutShort { line, .. }) => assert_eq!(line, rows),
            other => panic!("not cut short: {other:?}"),
        }
        assert!(rows > 0);
    }
    let mut broken = zstd_long(text.as_bytes());
    let middle = broken.len() / 2;
    broken[middle..middle + 50].fill(0xff);
    assert!(matches!(read("broken.zst", &broken), Err(ReplayError::Unreadable { .. })));
}

#[test]
fn what_is_no_file_of_rows_is_said_plainly() {
    let message = |result: Result<Vec<Row>, ReplayError>| result.unwrap_err().to_string();
    assert!(message(read("empty.ndjson", b"")).contains("has no rows"));
    assert!(message(read("empty.gz", &gzip(b""))).contains("has no rows"));
    assert!(message(read("array.json", b"[\n{}]")).contains("jq -c"));
    assert!(message(read("tickets.parquet", LINE.as_bytes())).contains("is not a Parquet file"));
    let folder = tempfile::tempdir().unwrap();
    assert!(message(Replay::open(folder.path(), &spec()).map(|_| Vec::new())).contains("a directory"));
    let missing = folder.path().join("nowhere.ndjson");
    let error = message(Replay::open(&missing, &spec()).map(|_| Vec::new()));
    assert!(error.starts_with("cannot open ") && error.contains("nowhere.ndjson"), "{error}");
}

#[test]
fn rows_that_were_read_before_are_skipped_and_too_few_are_refused() {
    let (_folder, file) = write("tickets.ndjson", format!("{LINE}\n\n{LINE}\n{LINE}\n").as_bytes());
    let mut replay = Replay::open(&file, &spec()).unwrap();
    replay.skip_rows(3).unwrap();
    assert_eq!(numbers(&replay.collect::<Result<Vec<_>, _>>().unwrap()), [4]);
    let error = Replay::open(&file, &spec()).unwrap().skip_rows(9).unwrap_err().to_string();
    assert!(error.contains("fewer than the 9 rows"), "{error}");
}

#[test]
fn a_fingerprint_is_of_the_content_and_progress_ends_at_one() {
    let (_one, one) = write("a", LINE.as_bytes());
    let (_same, same) = write("b", LINE.as_bytes());
    let (_other, other) = write("a", b"{}");
    assert_eq!(fingerprint(&one).unwrap(), fingerprint(&same).unwrap());
    assert_ne!(fingerprint(&one).unwrap(), fingerprint(&other).unwrap());
    let replay = Replay::open(&one, &spec()).unwrap();
    let progress = replay.progress();
    assert_eq!(replay.count(), 1);
    assert_eq!(progress.share(), Some(1.0));
}

#[test]
fn unreadable_fields_are_counted_until_they_are_taken() {
    let line = LINE.replace("\"ticket_id\"", "\"risk_band\":[],\"ticket_id\"");
    let (_folder, file) = write("tickets.ndjson", format!("{line}\n{line}\n").as_bytes());
    let mut replay = Replay::open(&file, &spec()).unwrap();
    assert_eq!(replay.by_ref().count(), 2);
    assert_eq!(replay.take_unreadable().iter().map(|(_, why, count)| (why.name(), count)).collect::<Vec<_>>(), [("wrong_type", 2)]);
    assert!(replay.take_unreadable().is_empty());
}

const STRUCTURED: &[u8] = include_bytes!("../../../tests/golden/tickets.parquet");
const FLAT: &[u8] = include_bytes!("../../../tests/golden/tickets-flat.parquet");

fn field(row: &Row, name: &str) -> FieldValue {
    match &row.normalised {
        Normalised::Completed(ticket) => ticket.fields[spec().field(name).unwrap()].clone(),
        other => panic!("not completed: {other:?}"),
    }
}

#[test]
fn a_parquet_file_of_structures_is_read_like_the_documents_it_was_made_of() {
    let rows = read("tickets.parquet", STRUCTURED).unwrap();
    assert_eq!(numbers(&rows), [1, 2, 3, 4, 5]);
    let Normalised::Completed(first) = &rows[0].normalised else { panic!("{:?}", rows[0]) };
    assert_eq!((first.id.json(), first.completed_at_ms, first.actual), ("\"t0\"", 1_362_898_861_500, 60_000.5));
    assert_eq!(first.predicted, Some(50_000.0));
    assert_eq!(field(&rows[0], "risk_band"), FieldValue::Missing);
    assert_eq!(field(&rows[1], "risk_band"), FieldValue::Text("high".to_owned()));
    assert_eq!(field(&rows[1], "qos_delivery"), FieldValue::Text("exactly_once".to_owned()));
    assert_eq!(field(&rows[1], "qos_durability"), FieldValue::Missing);
    assert_eq!(field(&rows[1], "sla_timeout_ms"), FieldValue::Number(300_001.0));
    assert_eq!(field(&rows[1], "capabilities"), FieldValue::Number(1.0));
    assert_eq!(field(&rows[2], "capabilities"), FieldValue::Missing);
    assert_eq!(field(&rows[1], "retry_count"), FieldValue::Number(1.0));
    assert_eq!(field(&rows[1], "created_at"), FieldValue::Number(1_362_898_800_500.0));
    let parameters = r#"{"k":"v","n":1.5,"list":[1,2]}"#;
    assert_eq!(field(&rows[1], "parameters_size"), FieldValue::Number(parameters.len() as f64));
    assert!(matches!(&rows[3].normalised, Normalised::Other(Some(_))));
    match &rows[4].normalised {
        Normalised::Dead(dead) => {
            assert_eq!((dead.reason, dead.position.as_deref()), (DeadReason::NoCompletedAt, Some("row 5")));
            assert!(!dead.fields.text.contains("hunter2"));
        }
        other => panic!("no dead letter: {other:?}"),
    }
}

#[test]
fn a_parquet_file_of_dotted_columns_is_read_as_well() {
    let rows = read("flat", FLAT).unwrap();
    assert_eq!(field(&rows[0], "sla_timeout_ms"), FieldValue::Number(5.0));
    assert_eq!(field(&rows[0], "qos_durability"), FieldValue::Text("persistent".to_owned()));
    assert_eq!(field(&rows[0], "created_at"), FieldValue::Number(1_362_873_600_000.0));
    assert_eq!(field(&rows[0], "parameters_size"), FieldValue::Number(44.0));
    assert!(matches!(&rows[0].normalised, Normalised::Completed(ticket) if ticket.id.json() == r#"{"$numberLong":"1"}"#));
    assert!(matches!(&rows[1].normalised, Normalised::Dead(dead) if dead.reason == DeadReason::NoActual));
}

#[test]
fn rows_of_parquet_are_skipped_within_and_over_row_groups() {
    let (_folder, file) = write("tickets.parquet", STRUCTURED);
    for skipped in 0..=5 {
        let mut replay = Replay::open(&file, &spec()).unwrap();
        replay.skip_rows(skipped).unwrap();
        let rows: Vec<Row> = replay.collect::<Result<_, _>>().unwrap();
        assert_eq!(numbers(&rows), (skipped + 1..=5).collect::<Vec<_>>());
    }
    let error = Replay::open(&file, &spec()).unwrap().skip_rows(6).unwrap_err().to_string();
    assert!(error.contains("fewer than the 6 rows"), "{error}");
}

#[test]
fn a_broken_parquet_file_is_an_error_and_never_a_panic() {
    assert!(matches!(read("cut.parquet", &STRUCTURED[..STRUCTURED.len() / 2]), Err(ReplayError::Unreadable { row: 0, .. })));
    let other = include_str!("../../../config/parcel-deliveries.toml").replace("\"carrier\"", "\"haulier\"");
    let (_folder, file) = write("flat.parquet", FLAT);
    let error = Replay::open(&file, &Spec::from_toml(&other).unwrap()).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("the spec reads none of its columns: ticket_id, status"), "{error}");
    for end in (4..STRUCTURED.len()).step_by(997) {
        assert!(read("cut.parquet", &STRUCTURED[..end]).is_err(), "cut at {end}");
    }
}

/// Files whose lengths somebody changed on purpose: large numbers over and instead of what is there, the footer's own length
/// made to fit.
fn changed(file: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    const OVER: [&[u8]; 4] = [&[0x7e], &[0xfe, 0xff, 0xff, 0xff, 0x0f], &[0xfe, 0xff, 0x7f], &[0xff; 8]];
    const INSTEAD: [&[u8]; 3] =
        [&[0xfe, 0xff, 0xff, 0xff, 0x0f], &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], &[0xfc, 0xff, 0xff, 0xff, 0xff, 0x07]];
    let at_end = file.len() - 8;
    let footer_bytes = u32::from_le_bytes(file[at_end..at_end + 4].try_into().unwrap());
    let at_footer = at_end - footer_bytes as usize;
    let over = (4..file.len() - 8).flat_map(move |at| {
        OVER.iter().map(move |number| {
            let mut changed = file.to_vec();
            let end = (at + number.len()).min(at_end);
            changed[at..end].copy_from_slice(&number[..end - at]);
            changed
        })
    });
    let instead = (at_footer..at_end).flat_map(move |at| {
        INSTEAD.iter().map(move |number| {
            let mut changed = [&file[..at], number, &file[at + 1..]].concat();
            let longer = footer_bytes + u32::try_from(number.len()).unwrap() - 1;
            let at_length = changed.len() - 8;
            changed[at_length..at_length + 4].copy_from_slice(&longer.to_le_bytes());
            changed
        })
    });
    over.chain(instead)
}

#[test]
fn a_parquet_file_that_was_changed_on_purpose_asks_for_no_impossible_memory() {
    // An allocation that fails ends the process, so this one runs in a process of its own, which has a gigabyte.
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let address_space = limits.lines().find(|line| line.starts_with("Max address space")).unwrap();
    if address_space.split_whitespace().nth(3) == Some("unlimited") {
        let (_, module) = module_path!().split_once("::").unwrap();
        let name = format!("{module}::a_parquet_file_that_was_changed_on_purpose_asks_for_no_impossible_memory");
        let limited = std::process::Command::new("sh")
            .args(["-c", "ulimit -v 1048576; exec \"$0\" --exact \"$1\""])
            .arg(std::env::current_exe().unwrap())
            .arg(name)
            .envs([("MALLOC_ARENA_MAX", "1"), ("RUST_BACKTRACE", "0")])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&limited.stdout);
        assert!(limited.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&limited.stderr));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("changed.parquet");
    let refusals = [
        "its footer is none",
        "may; write it with smaller",
        "values for",
        "values in its pages",
        "a dictionary of",
        "row groups say otherwise",
    ];
    let mut refused = [0; 6];
    let (mut read, mut files) = (0, 0);
    for file in changed(STRUCTURED).step_by(29).chain(changed(FLAT)) {
        std::fs::write(&path, &file).unwrap();
        files += 1;
        match Replay::open(&path, &spec()).and_then(Iterator::collect::<Result<Vec<Row>, _>>) {
            Ok(rows) => read += usize::from(rows.len() < 10),
            Err(error) => {
                let error = error.to_string();
                refusals.iter().zip(&mut refused).filter(|(words, _)| error.contains(*words)).for_each(|(_, times)| *times += 1);
            }
        }
    }
    assert!(files > 10_000 && read > 100 && refused.iter().all(|times| *times > 0), "{files} files, {read} read, refused: {refused:?}");
}

#[test]
fn a_row_is_the_same_document_whatever_file_it_is_in() {
    let rows = |name: &str, content: &[u8]| -> Vec<(u64, serde_json::Value)> {
        let (_folder, file) = write(name, content);
        let mut rows = RawRows::open(&file).unwrap();
        let mut found = Vec::new();
        while let Some((number, row)) = rows.next().unwrap() {
            found.push((number, row.json().unwrap()));
        }
        found
    };
    let lines = format!("\u{feff}{LINE}\n\n{LINE}");
    let plain = rows("tickets", lines.as_bytes());
    assert_eq!(plain.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(rows("tickets", &gzip(lines.as_bytes())), plain);
    let structured = rows("tickets.parquet", STRUCTURED);
    assert_eq!(structured.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert_eq!(structured[1].1["qos"], serde_json::json!({ "delivery_mode": "exactly_once", "consistency": "strong" }));
    assert_eq!(structured[1].1["parameters"]["list"], serde_json::json!([1, 2]));
    assert!(structured[0].1["completed_at"].get("$date").is_some() && structured[0].1.get("risk_band").is_none());
    let flat = rows("flat", FLAT);
    assert_eq!(
        (&flat[0].1["sla"], &flat[1].1["qos"]),
        (&serde_json::json!({ "timeout_ms": 5 }), &serde_json::json!({ "durability": "transient" }))
    );
}
