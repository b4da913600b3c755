//! What is wrong with a configuration: all of it at once, by key, with what is allowed.

use std::fmt;

use serde::Serialize;

use super::Config;
use super::keys::KEYS;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The key, or what stands in its place.
    pub key: String,
    /// Where the value came from.
    pub origin: String,
    /// What is wrong; a secret's value is never in it.
    pub problem: String,
    /// What is allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed: Option<String>,
    /// The nearest valid key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nearest: Option<String>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.key, self.origin, self.problem)?;
        if let Some(allowed) = &self.allowed {
            write!(f, "; allowed: {allowed}")?;
        }
        if let Some(nearest) = &self.nearest {
            write!(f, "; did you mean {nearest}?")?;
        }
        Ok(())
    }
}

/// All that is wrong.
#[derive(Debug, thiserror::Error)]
#[error("the configuration has {} fault{}; correct each and run `tidemark config check`:\n  {}", .0.len(), if .0.len() == 1 { "" } else { "s" }, .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  "))]
pub struct Faults(pub Vec<Fault>);

/// Similarity from which a name is taken for another one misspelt.
const MISSPELT: f64 = 0.8;

/// Returns the name most like `wrong`, when one is like it at all.
pub fn nearest<'n>(wrong: &str, names: impl Iterator<Item = &'n str>) -> Option<String> {
    let ranked = names.map(|name| (strsim::jaro_winkler(wrong, name).max(strsim::normalized_damerau_levenshtein(wrong, name)), name));
    let best = ranked.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 >= MISSPELT).then(|| best.1.to_owned())
}

/// Returns the valid key most like `wrong`; a key of the right name in the wrong section counts.
#[must_use]
pub fn nearest_key(wrong: &str) -> Option<String> {
    let last = wrong.rsplit('.').next().unwrap_or(wrong);
    let mut same = KEYS.iter().filter(|key| key.name.rsplit('.').next() == Some(last));
    if let (Some(only), None) = (same.next(), same.next()) {
        return Some(only.name.to_owned());
    }
    nearest(wrong, KEYS.iter().map(|key| key.name))
}

/// librdkafka properties that exactly-once delivery rests on, and those that have a key of their own: nobody may set them otherwise.
pub const RESERVED_PROPERTIES: [&str; 26] = [
    "acks",
    "auto.offset.reset",
    "bootstrap.servers",
    "delivery.report.only.error",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.gapless.guarantee",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "group.protocol",
    "isolation.level",
    // Else a connection that is lost during a commit would go unnoticed. Those closed for idleness are not reported anyway.
    "log.connection.close",
    "log.queue",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "message.max.bytes",
    "message.send.max.retries",
    "metadata.broker.list",
    "partition.assignment.strategy",
    "partitioner",
    "request.required.acks",
    "retries",
    // By its backoff a commit is known to have been sent once.
    "retry.backoff.max.ms",
    "retry.backoff.ms",
    "transactional.id",
];

/// Returns what is wrong between keys that are each fine. `origin` says where a key's value came from.
#[must_use]
pub fn between_keys(config: &Config, origin: &dyn Fn(&str) -> String) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut wrong = |key: &str, problem: String, allowed: String| {
        faults.push(Fault { key: key.to_owned(), origin: origin(key), problem, allowed: Some(allowed), nearest: None });
    };
    let judge = &config.judge;
    for (warning, critical, low, high) in [
        ("judge.psi_warning", "judge.psi_critical", judge.psi_warning, judge.psi_critical),
        ("judge.ks_warning", "judge.ks_critical", judge.ks_warning, judge.ks_critical),
        ("judge.mae_ratio_warning", "judge.mae_ratio_critical", judge.mae_ratio_warning, judge.mae_ratio_critical),
        ("judge.ks_p_critical", "judge.ks_p_warning", judge.ks_p_critical, judge.ks_p_warning),
    ] {
        if low > high {
            wrong(warning, format!("{low} is above {critical} = {high}"), format!("at most {high}, or a larger {critical}"));
        }
    }
    for (key, days) in
        [("judge.error_days", &judge.error_days), ("judge.target_days", &judge.target_days), ("judge.feature_days", &judge.feature_days)]
    {
        for day in days.iter().filter(|day| !config.window.days.contains(day)) {
            wrong(
                key,
                format!("no window has {day} days"),
                format!("days of window.days = {:?}, or add {day} to window.days", config.window.days),
            );
        }
    }
    let longest = i64::from(config.window.days.iter().copied().max().unwrap_or(0));
    let lateness_days = (config.window.lateness_ms + crate::clock::DAY_MS - 1) / crate::clock::DAY_MS;
    let needed = longest + lateness_days + 1;
    if i64::from(config.kafka.tickets_retention_days) < needed {
        wrong(
            "kafka.tickets_retention_days",
            format!(
                "{} days are too few: a watcher that starts anew reads the longest window, the lateness and a day",
                config.kafka.tickets_retention_days
            ),
            format!("at least {needed}"),
        );
    }
    if config.webhook.secret.is_some() && config.webhook.url.is_none() {
        wrong("webhook.secret", "a signature without a webhook.url to send to".to_owned(), "set webhook.url, or neither".to_owned());
    }
    faults
}
