//! What the process counts and measures: every metric's name stands here, and stages call verbs.
//!
//! The names under `orchestration_ml_drift_` are older than tidemark and read by its neighbours. A gauge that has never
//! been set is absent, not 0.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use ::metrics::{
    SetRecorderError, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram, set_global_recorder,
};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

/// Upper bounds of the buckets of every time, in seconds.
const SECONDS: [f64; 14] = [0.0001, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 1.0, 4.0, 16.0];

/// Why nothing will be counted.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The buckets are refused.
    #[error("preparing the metrics' recorder: {0}")]
    Build(#[from] BuildError),
    /// Somebody was faster.
    #[error("installing the metrics' recorder: this process already has one: {0}")]
    Second(#[from] SetRecorderError<PrometheusRecorder>),
}

/// Begins to count, once a process; the handle renders what was counted.
///
/// # Errors
/// [`InstallError::Second`] when it was called before.
pub fn install() -> Result<PrometheusHandle, InstallError> {
    let recorder = recorder()?;
    let handle = recorder.handle();
    set_global_recorder(recorder)?;
    describe();
    begin_at_zero();
    gauge!("tidemark_process_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(handle)
}

/// Shows the counters that page somebody before they first count: an increase is seen only from a value that was there.
fn begin_at_zero() {
    counter!("tidemark_tail_gaps_total").increment(0);
    for kind in BREAKS {
        counter!("tidemark_watch_chain_breaks_total", "kind" => kind).increment(0);
    }
}

fn recorder() -> Result<PrometheusRecorder, BuildError> {
    Ok(PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?.build_recorder())
}

fn describe() {
    describe_gauge!("tidemark_process_info", "Always 1; the label says which version runs.");

    describe_gauge!("orchestration_ml_drift_overall_status", "The last verdict: 0 stable, 1 warning, 2 critical; absent before the first.");
    describe_gauge!("orchestration_ml_drift_feature_max_psi", "Largest population stability index of a feature, longest window.");
    describe_gauge!("tidemark_judge_anchor_max_psi", "The same of a cause against the first baseline; absent while that one is in force.");
    describe_gauge!("orchestration_ml_drift_prediction_ratio", "Mean absolute error over the baseline's, longest window that has data.");
    describe_gauge!("orchestration_ml_drift_target_pvalue", "Kolmogorov-Smirnov p-value of the target, longest window.");
    describe_gauge!("orchestration_ml_drift_check_timestamp", Unit::Seconds, "Event time of the last verdict, since 1970.");

    describe_counter!("tidemark_strangers_total", Unit::Count, "Records that are not ours, passed over, by topic and by who met them.");
    describe_counter!("tidemark_tail_tickets_total", Unit::Count, "Completed tickets committed to the log.");
    describe_counter!("tidemark_tail_dead_letters_total", Unit::Count, "Documents that could not be used, by reason.");
    describe_counter!("tidemark_tail_unreadable_fields_total", Unit::Count, "Fields read as missing, by field and reason.");
    describe_counter!("tidemark_tail_marks_total", Unit::Count, "Ends of slices committed to the log.");
    describe_counter!("tidemark_tail_gaps_total", Unit::Count, "Times MongoDB had forgotten what came next.");
    describe_counter!("tidemark_tail_transactions_total", Unit::Count, "Transactions by outcome.");
    describe_histogram!("tidemark_tail_transaction_seconds", Unit::Seconds, "From begin to committed.");
    describe_counter!("tidemark_tail_refused_decisions_total", Unit::Count, "Baselines and decisions that were not for this spec.");
    describe_gauge!("tidemark_tail_lag_seconds", Unit::Seconds, "How far the committed position is behind MongoDB's clock.");
    describe_gauge!("tidemark_tail_oplog_used_ratio", "How much of MongoDB's oplog has passed the position: 1 is where it forgets.");
    describe_gauge!("tidemark_tail_history_left_rows", Unit::Count, "About how much of the collection's history is still to be read.");
    describe_gauge!("tidemark_tail_leader_state", "1 while this process leads the tail, 0 while it stands by.");

    describe_counter!("tidemark_watch_tickets_total", Unit::Count, "Tickets taken into slices.");
    describe_counter!("tidemark_watch_late_tickets_total", Unit::Count, "Tickets that came after their slice's mark.");
    describe_counter!("tidemark_watch_repeated_tickets_total", Unit::Count, "Tickets whose id and completion were there before.");
    describe_counter!("tidemark_watch_chain_breaks_total", Unit::Count, "Records that do not follow their predecessor, by kind.");
    describe_counter!("tidemark_watch_transactions_total", Unit::Count, "Transactions by outcome.");
    describe_histogram!("tidemark_watch_transaction_seconds", Unit::Seconds, "From begin to committed.");
    describe_gauge!("tidemark_watch_lag_records", Unit::Count, "Records of tickets not yet read, by partition.");
    describe_gauge!("tidemark_watch_lag_seconds", Unit::Seconds, "How far the committed tickets are behind MongoDB's clock, by partition.");
    describe_gauge!("tidemark_watch_window_rows", Unit::Count, "Rows held in memory.");
    describe_gauge!("tidemark_watch_window_bytes", Unit::Bytes, "Memory of the rows held.");

    describe_counter!("tidemark_judge_verdicts_total", Unit::Count, "Verdicts by status.");
    describe_histogram!("tidemark_judge_verdict_seconds", Unit::Seconds, "Time to come to one verdict.");
    describe_counter!("tidemark_judge_alerts_total", Unit::Count, "Alerts by kind.");
    describe_counter!("tidemark_judge_triggers_total", Unit::Count, "Retraining triggers by type.");
    describe_gauge!("tidemark_judge_state", "1 for the state the judge is in, 0 for the others.");
    describe_gauge!("tidemark_judge_mark_seconds", Unit::Seconds, "End of the last slice judged, since 1970.");

    describe_counter!("tidemark_http_too_often_total", Unit::Count, "Requests turned away because their client came too often.");
    describe_counter!("tidemark_serve_requests_total", Unit::Count, "Requests for predictions by endpoint and HTTP status.");
    describe_histogram!("tidemark_serve_request_seconds", Unit::Seconds, "From a request's head to its answer, by endpoint.");
    describe_counter!("tidemark_serve_predictions_total", Unit::Count, "Predictions by endpoint and by who answered.");
    describe_gauge!("tidemark_serve_model_version", "Version of the model that answers; absent while rules do.");
    describe_counter!("tidemark_serve_follow_failures_total", Unit::Count, "Looks at Production that found nothing usable, by model.");
    describe_counter!("tidemark_serve_load_lookups_total", Unit::Count, "Workers looked up, by whether the answer was remembered.");

    describe_counter!("tidemark_audit_runs_total", Unit::Count, "Audits beside the tail, by outcome: clean, differs, failed.");
    describe_gauge!("tidemark_audit_findings", Unit::Count, "What the last audit that met it found, by kind.");
    describe_counter!("tidemark_log_lines_lost_total", Unit::Count, "Lines of the log that standard error did not take: a full disk.");
    describe_counter!("tidemark_webhook_deliveries_total", Unit::Count, "Deliveries to the webhook by outcome.");
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Visible to readers.
    Committed,
    /// Never to be visible.
    Aborted,
    /// Not known before it is read back.
    Unknown,
    /// Another process has taken over.
    Fenced,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Aborted => "aborted",
            Self::Unknown => "unknown",
            Self::Fenced => "fenced",
        }
    }
}

/// Completed tickets were committed to the log.
pub fn tickets_sent(tickets: u64) {
    counter!("tidemark_tail_tickets_total").increment(tickets);
}

/// Documents became dead letters.
pub fn dead_letters_sent(reason: &'static str, letters: u64) {
    counter!("tidemark_tail_dead_letters_total", "reason" => reason).increment(letters);
}

/// Fields were read as missing. `field` is a name of the spec, so there are few.
pub fn fields_unreadable(field: &str, reason: &'static str, times: u64) {
    counter!("tidemark_tail_unreadable_fields_total", "field" => field.to_owned(), "reason" => reason).increment(times);
}

/// Slices were ended.
pub fn marks_sent(marks: u64) {
    counter!("tidemark_tail_marks_total").increment(marks);
}

/// So much of the oplog has passed the position.
pub fn tail_oplog_used(ratio: f64) {
    gauge!("tidemark_tail_oplog_used_ratio").set(ratio);
}

/// About so many rows of the history are still to be read.
pub fn tail_history_left(rows: u64) {
    gauge!("tidemark_tail_history_left_rows").set(rows as f64);
}

/// MongoDB had forgotten what came next.
pub fn gap_sent() {
    counter!("tidemark_tail_gaps_total").increment(1);
}

/// A transaction of tail ended.
pub fn tail_transacted(outcome: Outcome, took: Duration) {
    counter!("tidemark_tail_transactions_total", "outcome" => outcome.name()).increment(1);
    histogram!("tidemark_tail_transaction_seconds").record(took);
}

/// A baseline or a decision was refused a place in the stream; the log says why.
pub fn decision_refused() {
    counter!("tidemark_tail_refused_decisions_total").increment(1);
}

/// Until where all of the change stream is committed, ms since 1970; 0 while this process does not lead.
static TAIL_REACHES_MS: AtomicI64 = AtomicI64::new(0);

/// All of the change stream is committed until then, ms since 1970 of MongoDB's clock. What that lags is computed by [`refresh`]: it
/// grows while nothing can be committed.
pub fn tail_reaches(cluster_ms: i64) {
    TAIL_REACHES_MS.store(cluster_ms, Ordering::Relaxed);
}

/// Sets what depends on when it is looked at. Call it before the metrics are rendered.
pub fn refresh(now_ms: i64) {
    let reaches_ms = TAIL_REACHES_MS.load(Ordering::Relaxed);
    if reaches_ms > 0 {
        tail_lags(now_ms.saturating_sub(reaches_ms).max(0) as f64 / 1_000.0);
    }
}

fn tail_lags(seconds: f64) {
    gauge!("tidemark_tail_lag_seconds").set(seconds);
}

/// This process leads the tail now.
pub fn tail_leads() {
    gauge!("tidemark_tail_leader_state").set(1.0);
}

/// This process stands by: what lags is the leader's to say.
pub fn tail_stands_by() {
    gauge!("tidemark_tail_leader_state").set(0.0);
    if TAIL_REACHES_MS.swap(0, Ordering::Relaxed) > 0 {
        tail_lags(0.0);
    }
}

/// What a batch of `tickets` was: taken, of these late, and repeats that were not taken.
pub fn tickets_watched(taken: u64, late: u64, repeats: u64) {
    counter!("tidemark_watch_tickets_total").increment(taken);
    counter!("tidemark_watch_late_tickets_total").increment(late);
    counter!("tidemark_watch_repeated_tickets_total").increment(repeats);
}

/// The kinds of breaks, as [`chain_broke`] takes them: the variants of [`crate::ticket::Break`], then a mark out of order and
/// a mark that names another baseline than the one in force.
pub const BREAKS: [&str; 8] = ["stranger", "unreadable", "repeat", "missing", "hash", "other", "mark", "version"];

/// A record does not follow its predecessor, in one of the [`BREAKS`].
pub fn chain_broke(kind: &'static str) {
    counter!("tidemark_watch_chain_breaks_total", "kind" => kind).increment(1);
}

/// A transaction of watch ended.
pub fn watch_transacted(outcome: Outcome, took: Duration) {
    counter!("tidemark_watch_transactions_total", "outcome" => outcome.name()).increment(1);
    histogram!("tidemark_watch_transaction_seconds").record(took);
}

/// How many records of a partition of `tickets` watch has not read.
pub fn watch_lags(partition: u32, records: u64) {
    gauge!("tidemark_watch_lag_records", "partition" => partition.to_string()).set(records as f64);
}

/// A stage passed over records of a topic (its name without the prefix) that are not ours.
pub fn strangers_passed_over(stage: &'static str, topic: &'static str, records: u64) {
    if records > 0 {
        counter!("tidemark_strangers_total", "stage" => stage, "topic" => topic).increment(records);
    }
}

/// How far watch is behind MongoDB's clock with the newest ticket it committed.
pub fn watch_lags_seconds(partition: u32, seconds: f64) {
    gauge!("tidemark_watch_lag_seconds", "partition" => partition.to_string()).set(seconds);
}

/// The partition is somebody else's now.
pub fn watch_gave_up(partition: u32) {
    gauge!("tidemark_watch_lag_records", "partition" => partition.to_string()).set(0.0);
}

/// How large the rows in memory are.
pub fn window_holds(rows: u64, bytes: u64) {
    gauge!("tidemark_watch_window_rows").set(rows as f64);
    gauge!("tidemark_watch_window_bytes").set(bytes as f64);
}

/// The five numbers that neighbours read, of one verdict. `None` leaves what was said before.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Verdict {
    /// 0 stable, 1 warning, 2 critical; `None` before the first verdict.
    pub status: Option<u8>,
    /// Largest PSI of a feature.
    pub max_psi: Option<f64>,
    /// Largest PSI of a cause against the first baseline; `None` while that one is in force.
    pub anchor_psi: Option<f64>,
    /// MAE ratio.
    pub mae_ratio: Option<f64>,
    /// KS p-value of the target.
    pub target_p: Option<f64>,
    /// End of the slice, ms since 1970.
    pub end_ms: i64,
}

/// The judge came to a verdict.
pub fn judged(verdict: &Verdict, took: Duration) {
    histogram!("tidemark_judge_verdict_seconds").record(took);
    gauge!("tidemark_judge_mark_seconds").set(verdict.end_ms as f64 / 1000.0);
    let numbers = [
        ("orchestration_ml_drift_feature_max_psi", verdict.max_psi),
        ("tidemark_judge_anchor_max_psi", verdict.anchor_psi),
        ("orchestration_ml_drift_prediction_ratio", verdict.mae_ratio),
        ("orchestration_ml_drift_target_pvalue", verdict.target_p),
    ];
    for (name, number) in numbers {
        if let Some(number) = number {
            gauge!(name).set(number);
        }
    }
    let Some(status) = verdict.status else { return };
    gauge!("orchestration_ml_drift_overall_status").set(f64::from(status));
    gauge!("orchestration_ml_drift_check_timestamp").set(verdict.end_ms as f64 / 1000.0);
    let name = match status {
        0 => "stable",
        1 => "warning",
        _ => "critical",
    };
    counter!("tidemark_judge_verdicts_total", "status" => name).increment(1);
}

/// The states of `tidemark_judge_state`.
pub const JUDGE_STATES: [&str; 5] = ["no_baseline", "filling", "settling", "uncalibrated", "judging"];

/// The judge is in one of [`JUDGE_STATES`].
pub fn judge_is(state: &str) {
    for known in JUDGE_STATES {
        gauge!("tidemark_judge_state", "state" => known).set(if known == state { 1.0 } else { 0.0 });
    }
}

/// An alert was committed.
pub fn alert_raised(kind: &'static str) {
    counter!("tidemark_judge_alerts_total", "kind" => kind).increment(1);
}

/// A retraining trigger was committed.
pub fn trigger_raised(kind: &'static str) {
    counter!("tidemark_judge_triggers_total", "type" => kind).increment(1);
}

/// Standard error did not take a line.
pub fn log_line_lost() {
    counter!("tidemark_log_lines_lost_total").increment(1);
}

/// A delivery to the webhook ended: `delivered`, `retried` or `given_up`.
pub fn webhook_ended(outcome: &'static str) {
    counter!("tidemark_webhook_deliveries_total", "outcome" => outcome).increment(1);
}

/// An audit ended: `clean`, `differs` or `failed`.
pub fn audited(outcome: &'static str) {
    counter!("tidemark_audit_runs_total", "outcome" => outcome).increment(1);
}

/// An audit found so many of a kind.
pub fn audit_found(kind: &'static str, count: u64) {
    gauge!("tidemark_audit_findings", "kind" => kind).set(count as f64);
}

/// A request for predictions was answered.
pub fn request_answered(endpoint: &'static str, status: u16, took: Duration) {
    counter!("tidemark_serve_requests_total", "endpoint" => endpoint, "status" => status.to_string()).increment(1);
    histogram!("tidemark_serve_request_seconds", "endpoint" => endpoint).record(took.as_secs_f64());
}

/// A request was turned away because its client comes too often.
pub fn came_too_often() {
    counter!("tidemark_http_too_often_total").increment(1);
}

/// One prediction was made.
pub fn predicted(endpoint: &'static str, source: &'static str) {
    counter!("tidemark_serve_predictions_total", "endpoint" => endpoint, "source" => source).increment(1);
}

/// Another version of a model answers. `model` is a name of the configuration, so there are few.
pub fn serves_model(model: &str, version: u64) {
    gauge!("tidemark_serve_model_version", "model" => model.to_owned()).set(version as f64);
}

/// Production could not be followed.
pub fn model_not_followed(model: &str) {
    counter!("tidemark_serve_follow_failures_total", "model" => model.to_owned()).increment(1);
}

/// A worker was looked up.
pub fn load_looked_up(is_remembered: bool) {
    counter!("tidemark_serve_load_lookups_total", "remembered" => if is_remembered { "yes" } else { "no" }).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(act: impl FnOnce()) -> String {
        let recorder = recorder().unwrap();
        let handle = recorder.handle();
        ::metrics::with_local_recorder(&recorder, || {
            describe();
            act();
        });
        handle.render()
    }

    #[test]
    fn the_neighbours_find_their_five_numbers() {
        let verdict = Verdict {
            status: Some(2),
            max_psi: Some(0.31),
            anchor_psi: Some(0.4),
            mae_ratio: Some(1.75),
            target_p: Some(0.004),
            end_ms: 7_000,
        };
        let text = rendered(|| judged(&verdict, Duration::from_millis(1)));
        for line in [
            "orchestration_ml_drift_overall_status 2",
            "orchestration_ml_drift_feature_max_psi 0.31",
            "tidemark_judge_anchor_max_psi 0.4",
            "orchestration_ml_drift_prediction_ratio 1.75",
            "orchestration_ml_drift_target_pvalue 0.004",
            "orchestration_ml_drift_check_timestamp 7",
            "tidemark_judge_verdicts_total{status=\"critical\"} 1",
            "tidemark_judge_verdict_seconds_bucket{le=\"0.001\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn the_status_is_absent_before_the_first_verdict() {
        let text = rendered(|| judged(&Verdict { end_ms: 7_000, ..Verdict::default() }, Duration::ZERO));
        assert!(!text.contains("orchestration_ml_drift_"), "{text}");
        assert!(text.contains("tidemark_judge_mark_seconds 7"), "{text}");
    }

    #[test]
    fn the_judge_is_in_one_state_at_a_time() {
        let text = rendered(|| {
            judge_is("filling");
            judge_is("judging");
        });
        assert!(text.contains("tidemark_judge_state{state=\"judging\"} 1"), "{text}");
        assert!(text.contains("tidemark_judge_state{state=\"filling\"} 0"), "{text}");
    }

    #[test]
    fn every_metric_has_a_help_text() {
        let text = rendered(|| {
            tickets_sent(1);
            dead_letters_sent("no_id", 1);
            fields_unreadable("risk_band", "wrong_type", 1);
            marks_sent(1);
            gap_sent();
            tail_transacted(Outcome::Committed, Duration::ZERO);
            tail_lags(0.5);
            tail_history_left(7);
            tail_leads();
            tickets_watched(3, 2, 1);
            chain_broke("missing");
            watch_transacted(Outcome::Fenced, Duration::ZERO);
            watch_lags(0, 5);
            window_holds(1, 2);
            judged(&Verdict { status: Some(0), ..Verdict::default() }, Duration::ZERO);
            judge_is("judging");
            alert_raised("opened");
            trigger_raised("drift");
            request_answered("duration", 200, Duration::ZERO);
            came_too_often();
            predicted("duration", "model");
            serves_model("m", 3);
            model_not_followed("m");
            load_looked_up(true);
            log_line_lost();
            webhook_ended("delivered");
            audited("clean");
            audit_found("missing", 1);
        });
        for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let name = line.split(' ').next().unwrap();
            assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help text");
        }
    }
}
