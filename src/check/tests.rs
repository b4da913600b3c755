use crate::baseline::builder::{Builder, Making};
use crate::clock::HOUR_MS;
use crate::summary::Summary;
use crate::ticket::{FieldValue, Mark, Ticket, TicketId, Transition};

use super::*;

const START: i64 = 15_700 * DAY_MS;
const END: i64 = START + 28 * DAY_MS;
const AT: i64 = END + 7 * DAY_MS;

fn spec() -> Spec {
    Spec::from_toml(include_str!("../../config/execution-tickets.toml")).unwrap()
}

/// A ticket every six minutes; in the window tasks and errors may be others.
fn tickets(spec: &Spec, from_ms: i64, to_ms: i64, task: &str, error: f64) -> Vec<Ticket> {
    let times = (0..).map(|i| (i, from_ms + i * 360_000)).take_while(|(_, ms)| *ms < to_ms);
    let made = times.map(|(i, ms)| {
        let mut fields = vec![FieldValue::Missing; spec.fields.len()];
        fields[spec.field("task_type").unwrap()] = FieldValue::Text(if i % 3 == 0 { task.to_owned() } else { "TEST".to_owned() });
        fields[spec.field("retry_count").unwrap()] = FieldValue::Number((i % 2) as f64);
        let actual = 60_000.0 + (i * 7_919 % 10_007) as f64;
        Ticket {
            id: TicketId::from_text(&ms.to_string()),
            completed_at_ms: ms,
            event_at_ms: ms,
            commit: None,
            transition: Transition::Replay,
            actual,
            predicted: Some(actual + error * (500.0 + (i * 31 % 997) as f64)),
            model_version: None,
            fields,
        }
    });
    made.collect()
}

fn baseline(spec: &Spec) -> Baseline {
    let mut builder = Builder::new(spec, START, END).unwrap();
    tickets(spec, START, END, "BUILD", 1.0).iter().for_each(|ticket| builder.push(ticket));
    builder.build(&Making { version: 2, created_at_ms: 0, window_days: &[1, 3, 7], predecessor: None }).unwrap()
}

fn slices(spec: &Spec, baseline: &Baseline, tickets: &[Ticket]) -> Vec<Slice> {
    let mut counter = Counter::new(spec, baseline, HOUR_MS, (AT - 7 * DAY_MS, AT)).unwrap();
    tickets.iter().for_each(|ticket| counter.push(ticket));
    counter.slices()
}

fn report(spec: &Spec, baseline: &Baseline, slices: &[Slice], judge: &Judge) -> Report {
    check(&Question { spec, baseline, slices, at_ms: AT, days: 7, judge, late_since: None })
}

#[test]
fn counts_of_other_bins_than_the_baselines_say_nothing_and_end_nothing() {
    let spec = spec();
    let strange = Slice { start_ms: AT - HOUR_MS, rows: 1_000, columns: vec![vec![1_000]], target: vec![1_000], ..Slice::default() };
    let seen = look(&baseline(&spec), &spec, &strange, 7, &Judge::default());
    assert!(seen.judged && seen.causes.iter().all(|cause| !cause.over_warning), "{seen:?}");
}

#[test]
fn a_quiet_window_is_ok_and_a_changed_one_says_what_changed() {
    let spec = spec();
    let baseline = baseline(&spec);
    let quiet = slices(&spec, &baseline, &tickets(&spec, END, AT, "BUILD", 1.0));
    let quiet = report(&spec, &baseline, &quiet, &Judge::default());
    assert_eq!((quiet.status, quiet.rows, quiet.recommendations.len()), (Some(Level::Ok), 1_680, 1));
    assert!(quiet.calibrated && quiet.error.mae_ms_by_days.len() == 3);

    let drifted = slices(&spec, &baseline, &tickets(&spec, END, AT, "DEPLOY", 2.0));
    let drifted = report(&spec, &baseline, &drifted, &Judge::default());
    assert_eq!(drifted.status, Some(Level::Critical), "{}", drifted.summary);
    let causes = &drifted.causes;
    assert_eq!(
        (causes["task_type"].level, causes["error"].level, causes["retry_count"].level),
        (Level::Critical, Level::Critical, Level::Ok)
    );
    assert!(causes["task_type"].carriers.iter().any(|carrier| carrier.category == "DEPLOY"), "{:?}", causes["task_type"].carriers);
    assert!(drifted.recommendations.iter().any(|deed| deed.starts_with("task_type: PSI ")), "{:?}", drifted.recommendations);
    let json = serde_json::to_value(&drifted).unwrap();
    for path in ["/features/retry_count/psi_log_p", "/target/ks_hist_log_p", "/error/welch_log_p", "/causes/error/calibrated_p"] {
        assert!(json.pointer(path).is_some_and(serde_json::Value::is_number), "{path}");
    }
}

#[test]
fn bare_thresholds_need_no_evidence() {
    let spec = spec();
    let baseline = baseline(&spec);
    let slices = slices(&spec, &baseline, &tickets(&spec, END, AT, "DEPLOY", 1.3));
    let bare = Judge { decision: Decision::Thresholds, ..Judge::default() };
    let report = report(&spec, &baseline, &slices, &bare);
    assert_eq!((report.status, report.decision), (Some(Level::Critical), "thresholds"), "task_type alone has four columns");
}

#[test]
fn too_few_tickets_give_no_verdict_and_say_so() {
    let spec = spec();
    let baseline = baseline(&spec);
    let slices = slices(&spec, &baseline, &tickets(&spec, END, END + 4 * HOUR_MS, "DEPLOY", 9.0));
    let report = report(&spec, &baseline, &slices, &Judge::default());
    assert_eq!((report.status, report.rows), (None, 40));
    assert_eq!(report.summary, "no verdict: 40 tickets in the window, at least 50 are needed");
}

#[test]
fn a_completion_counts_once() {
    let spec = spec();
    let baseline = baseline(&spec);
    let mut twice = tickets(&spec, END, AT, "BUILD", 1.0);
    let once = report(&spec, &baseline, &slices(&spec, &baseline, &twice), &Judge::default());
    twice.extend(twice.clone());
    let slices = slices(&spec, &baseline, &twice);
    assert_eq!(slices.iter().map(|slice| slice.repeats).sum::<u64>(), 1_680);
    assert_eq!(report(&spec, &baseline, &slices, &Judge::default()), once);
}

#[test]
fn a_window_ends_with_a_slice_and_begins_after_the_baseline() {
    let spec = spec();
    let baseline = baseline(&spec);
    assert_eq!(window(AT, 7, HOUR_MS, &baseline), Ok((END, AT)));
    let off = window(AT + 60_000, 7, HOUR_MS, &baseline).unwrap_err().to_string();
    assert!(off.contains(&rfc3339(AT)) && off.contains(&rfc3339(AT + HOUR_MS)), "{off}");
    let early = window(AT - HOUR_MS, 7, HOUR_MS, &baseline).unwrap_err();
    assert!(matches!(&early, CheckError::Overlaps { earliest, .. } if *earliest == rfc3339(AT)), "{early}");
    assert_eq!(window(AT, 0, HOUR_MS, &baseline), Err(CheckError::NoDays));
}

#[test]
fn a_check_from_the_log_uses_what_the_mark_used() {
    let spec = spec();
    let baseline = baseline(&spec);
    let all = tickets(&spec, END, AT, "BUILD", 1.0);
    let (ours, theirs): (Vec<Ticket>, Vec<Ticket>) = all.iter().cloned().partition(|ticket| ticket.completed_at_ms % 720_000 == 0);
    let summary = |partition: u32, end_ms: i64, slices: Vec<Slice>| Summary {
        spec: spec.name.clone(),
        fingerprint: spec.fingerprint(),
        version: Some(2),
        partition,
        sequence: 1,
        mark: Mark { number: 9, end_ms, partitions: 2, baseline: Some(2) },
        slices,
        controls: vec![],
        incomplete: false,
        more: false,
    };
    let mut log = FromLog::new((END, AT), &spec.fingerprint(), 2);
    log.push(&summary(0, AT - HOUR_MS, slices(&spec, &baseline, &ours[..800])));
    log.push(&summary(0, AT, slices(&spec, &baseline, &ours)));
    assert!(!log.is_ended(), "one of two partitions");
    log.push(&summary(1, AT, slices(&spec, &baseline, &theirs[3..])));
    log.push(&summary(1, AT + HOUR_MS, slices(&spec, &baseline, &theirs)));
    assert!(log.is_ended() && !log.is_incomplete());
    assert_eq!(log.late_since(), 3);
    let used: Vec<Ticket> = ours.into_iter().chain(theirs.into_iter().skip(3)).collect();
    let expected = report(&spec, &baseline, &slices(&spec, &baseline, &used), &Judge::default());
    assert_eq!(report(&spec, &baseline, &log.slices(), &Judge::default()), expected);
}

#[test]
fn the_page_stands_alone_and_nothing_in_it_is_taken_for_markup() {
    let mut spec = spec();
    spec.name = "<script>alert('x')</script>".to_owned();
    let baseline = baseline(&spec);
    let slices = slices(&spec, &baseline, &tickets(&spec, END, AT, "DEPLOY", 2.0));
    let page = page(&report(&spec, &baseline, &slices, &Judge::default()));
    assert!(page.contains("&lt;script&gt;") && !page.contains("<script"));
    assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("src="));
    assert_eq!(page.matches("<svg").count(), 17, "fifteen features, the target and the clusters");
    assert_eq!(page.matches("<figure").count(), page.matches("</figure>").count());
}
