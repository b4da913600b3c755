//! The audit beside a running tail: every so often, told by metrics and in the health.

use std::time::Duration;

use super::findings::Kind;
use super::run::{Around, AuditError, Request, run};
use crate::clock::{now_ms, rfc3339};
use crate::metrics;
use crate::stage::{Context, State};

/// The part of [`crate::stage::Health`] that this speaks for.
const PART: &str = "audit";

/// Audits until the stop is asked for; the first time after one interval. Whether the log differs changes no readiness: the stream goes
/// on, and a person has to look.
///
/// # Errors
/// [`AuditError`], except that a server did not answer: then the next time comes.
pub fn audit_continuously(context: &Context) -> Result<(), AuditError> {
    let every = Duration::from_secs(u64::from(context.config.audit.every_seconds));
    context.health.set(PART, State::Ready(format!("audits every {} s", context.config.audit.every_seconds)));
    while !context.stop.wait(every) {
        let around = Around { config: &context.config, spec: &context.spec, log: context.log.as_ref(), stop: &context.stop };
        match run(&Request::default(), &around, &mut |_| {}) {
            Ok(report) => {
                metrics::audited(if report.clean { "clean" } else { "differs" });
                // What is found no more is 0 again.
                for kind in Kind::ALL {
                    metrics::audit_found(kind.name(), report.wrong.count(kind) + report.notes.count(kind));
                }
                let when = rfc3339(now_ms());
                if report.clean {
                    context.health.set(PART, State::Ready(format!("the log kept its promise at {when}")));
                } else {
                    tracing::error!("the log differs from MongoDB; `tidemark audit` shows it\n{}", report.wrong);
                    context.health.set(PART, State::Ready(format!("the log differed from MongoDB at {when}: run `tidemark audit`")));
                }
            }
            Err(AuditError::Stopped) => return Ok(()),
            Err(error @ (AuditError::Mongodb { .. } | AuditError::Log(_) | AuditError::Refused(_))) => {
                metrics::audited("failed");
                tracing::warn!(%error, "no audit this time");
            }
            Err(error @ AuditError::NotConfigured(_)) => return Err(error),
        }
    }
    Ok(())
}
