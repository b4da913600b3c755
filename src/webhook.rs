//! Posts alerts and triggers to a URL: signed, at least once, in order, beside the stream.
//!
//! The body is the CloudEvent as JSON (structured mode). `tidemark-signature` is `v1=` and the hex HMAC-SHA256, under the
//! configured secret, of `tidemark-timestamp`, a dot, and the body. A receiver drops what is too old and what carries an
//! event id (`tidemark-event-id`) that it has seen.

use std::time::Duration;

use hmac::{Hmac, Mac};
use reqwest::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

use crate::clock::now_ms;
use crate::cloudevent::CloudEvent;
use crate::log::{Delivered, LogError};
use crate::metrics;
use crate::outbox::{self, Ended, Failure, Route};
use crate::stage::Context;

/// Time in which a receiver has to answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Attempts for one event: about ten minutes.
const ATTEMPTS: u32 = 15;
/// On the very first start, events of the last hour are posted, not the whole past.
const FIRST_START_MS: i64 = 3_600_000;

/// Which events are posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feed {
    /// Those of `alerts`.
    Alerts,
    /// Those of `retraining-triggers`.
    Triggers,
}

/// Why the webhook cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// The log.
    #[error("the webhook cannot read the log: {0}")]
    Log(#[from] LogError),
    /// The HTTP client.
    #[error("making the webhook's HTTP client: {0}")]
    Client(String),
    /// The runtime.
    #[error("making the webhook's runtime: {0}")]
    Runtime(#[source] std::io::Error),
}

/// Posts one feed until asked to stop. Returns at once when no URL is configured.
///
/// # Errors
/// [`WebhookError`]. A receiver that fails is no error: it is retried, and counted.
pub fn run(context: &Context, feed: Feed) -> Result<(), WebhookError> {
    let Some(url) = context.config.webhook.url.clone() else { return Ok(()) };
    let mut sender = Sender::new(url, context.config.webhook.secret.clone())?;
    let prefix = &context.config.kafka.topic_prefix;
    let (part, topic, group) = match feed {
        Feed::Alerts => ("webhook-alerts", &context.topics.alerts, format!("{prefix}.webhook.alerts")),
        Feed::Triggers => ("webhook-triggers", &context.topics.retraining_triggers, format!("{prefix}.webhook.triggers")),
    };
    let route = Route { part, topic: topic.clone(), group, attempts: Some(ATTEMPTS), first_start_ms: Some(FIRST_START_MS) };
    let mut count = |ended| {
        metrics::webhook_ended(match ended {
            Ended::Delivered => "delivered",
            Ended::Retried => "retried",
            Ended::GivenUp => "given_up",
        });
    };
    Ok(outbox::carry(context, &route, &mut |record| sender.deliver(record), &mut count)?)
}

/// Posts events, one at a time.
struct Sender {
    runtime: tokio::runtime::Runtime,
    client: reqwest::Client,
    url: String,
    secret: Option<SecretString>,
}

impl Sender {
    fn new(url: String, secret: Option<SecretString>) -> Result<Self, WebhookError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(WebhookError::Runtime)?;
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(TIMEOUT)
            .timeout(TIMEOUT)
            .user_agent(concat!("tidemark/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| WebhookError::Client(error.without_url().to_string()))?;
        Ok(Self { runtime, client, url, secret })
    }

    fn deliver(&mut self, record: &Delivered) -> Result<(), Failure> {
        let event = CloudEvent::from_record(record).map_err(|error| Failure::Never(error.to_string()))?;
        let body = event.structured().to_string();
        let timestamp = (now_ms() / 1000).to_string();
        let mut request = self
            .client
            .post(&self.url)
            .header("content-type", "application/cloudevents+json")
            .header("tidemark-event-id", header_value(&event.id))
            .header("tidemark-timestamp", &timestamp);
        if let Some(secret) = &self.secret {
            request = request.header("tidemark-signature", signature(secret, &timestamp, &body));
        }
        let answer = self.runtime.block_on(async { request.body(body).send().await.map(|answer| answer.status()) });
        match answer {
            Ok(status) => judge(status),
            // The URL is often a secret: it stays out of logs.
            Err(error) if error.is_builder() => Err(Failure::Never(format!("the request cannot be made: {}", error.without_url()))),
            Err(error) => Err(Failure::Again(reason(&error.without_url()))),
        }
    }
}

/// Says what failed, with its causes.
fn reason(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(deeper) = cause {
        text = format!("{text}: {deeper}");
        cause = deeper.source();
    }
    text
}

/// What an answer means. A redirect is refused: whoever gets the events is who was configured.
fn judge(status: StatusCode) -> Result<(), Failure> {
    if status.is_success() {
        return Ok(());
    }
    let reason = format!("the receiver answered {status}");
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::REQUEST_TIMEOUT {
        return Err(Failure::Again(reason));
    }
    Err(Failure::Never(reason))
}

/// Event ids are our own, but a header takes visible ASCII only.
fn header_value(id: &str) -> String {
    id.chars().map(|c| if c.is_ascii_graphic() { c } else { '_' }).collect()
}

fn signature(secret: &SecretString, timestamp: &str, body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose_secret().as_bytes()).expect("HMAC takes keys of any length");
    mac.update(timestamp.as_bytes());
    mac.update(b".");
    mac.update(body.as_bytes());
    let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("v1={hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_what_any_library_computes() {
        // python3 -c 'import hmac;print(hmac.new(b"key",b"1700000000.{}","sha256").hexdigest())'
        let signed = signature(&SecretString::from("key"), "1700000000", "{}");
        assert_eq!(signed, format!("v1={PYTHON}"));
    }

    const PYTHON: &str = "9d713ed406bb7076d4123f0dc2c39d2df5c654ed4b0cd56b52c8b4c940bd63ae";

    #[test]
    fn what_may_pass_is_tried_again_and_what_will_not_is_given_up() {
        assert_eq!(judge(StatusCode::OK), Ok(()));
        assert_eq!(judge(StatusCode::ACCEPTED), Ok(()));
        for status in [500, 502, 503, 429, 408] {
            assert!(matches!(judge(StatusCode::from_u16(status).unwrap()), Err(Failure::Again(_))), "{status}");
        }
        for status in [301, 307, 400, 401, 404, 410] {
            assert!(matches!(judge(StatusCode::from_u16(status).unwrap()), Err(Failure::Never(_))), "{status}");
        }
    }
}
