//! A slow-down put into a replay on purpose, so that there is a drift of known size and date to be found.

use crate::spec::Spec;
use crate::tail::normalise::from_rfc3339;
use crate::ticket::{FieldValue, Ticket};

/// Some tickets take longer, for some time.
#[derive(Clone, Debug, PartialEq)]
pub struct Slowdown {
    /// Place of the field in [`Spec::fields`].
    pub field: usize,
    /// Its texts whose tickets are slowed down.
    pub texts: Vec<String>,
    /// Completed at or after this, ms since 1970.
    pub from_ms: i64,
    /// Completed before this, ms since 1970.
    pub until_ms: i64,
    /// How many times as long; the result is rounded half up.
    pub factor: f64,
}

impl Slowdown {
    /// Returns the slow-down of the demonstration: DEPLOY, TRANSFORM and EXECUTE take 1.6 times as long from 1 July to
    /// 15 August 2013. `None` when the spec has no field `task_type`.
    #[must_use]
    pub fn of_the_demo(spec: &Spec) -> Option<Self> {
        Some(Self {
            field: spec.field("task_type")?,
            texts: ["DEPLOY", "TRANSFORM", "EXECUTE"].map(str::to_owned).into(),
            from_ms: from_rfc3339("2013-07-01T00:00:00Z")?,
            until_ms: from_rfc3339("2013-08-15T00:00:00Z")?,
            factor: 1.6,
        })
    }

    /// Slows `ticket` down if it is one of those.
    pub fn apply(&self, ticket: &mut Ticket) {
        let is_meant = (self.from_ms..self.until_ms).contains(&ticket.completed_at_ms)
            && matches!(ticket.fields.get(self.field), Some(FieldValue::Text(text)) if self.texts.contains(text));
        if is_meant {
            ticket.actual = (ticket.actual * self.factor + 0.5).floor();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ticket::{TicketId, Transition};

    #[test]
    fn only_the_named_tickets_of_the_time_are_slowed_down_and_rounded_half_up() {
        let spec = Spec::from_toml(include_str!("../../../config/execution-tickets.toml")).unwrap();
        let slowdown = Slowdown::of_the_demo(&spec).unwrap();
        let actual = |task: &str, completed: &str, actual: f64| {
            let mut fields = vec![FieldValue::Missing; spec.fields.len()];
            fields[slowdown.field] = FieldValue::Text(task.to_owned());
            let completed_at_ms = from_rfc3339(completed).unwrap();
            let mut ticket = Ticket {
                id: TicketId::from_text("a"),
                completed_at_ms,
                event_at_ms: completed_at_ms,
                commit: None,
                transition: Transition::Replay,
                actual,
                predicted: None,
                model_version: None,
                fields,
            };
            slowdown.apply(&mut ticket);
            Some(ticket.actual)
        };
        assert_eq!(actual("DEPLOY", "2013-07-01T00:00:00Z", 5.0), Some(8.0));
        assert_eq!(actual("TRANSFORM", "2013-08-14T23:59:59.999Z", 1_000_003.0), Some(1_600_005.0));
        assert_eq!(actual("EXECUTE", "2013-07-20T00:00:00Z", 2.5), Some(4.0));
        assert_eq!(actual("EXECUTE", "2013-08-15T00:00:00Z", 5.0), Some(5.0));
        assert_eq!(actual("EXECUTE", "2013-06-30T23:59:59.999Z", 5.0), Some(5.0));
        assert_eq!(actual("BUILD", "2013-07-20T00:00:00Z", 5.0), Some(5.0));
    }
}
