//! What is asked for: one ticket or worker, or a batch of them, out of a body that may be anything.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::problem::Problem;

/// Characters of a worker's id, at most.
const MAX_WORKER_CHARACTERS: usize = 256;

/// One, or a batch: the answer has the form of the question.
#[derive(Debug, PartialEq)]
pub(super) enum Asked<T> {
    /// One.
    One(T),
    /// A batch, in order.
    Many(Vec<T>),
}

impl<T> Asked<T> {
    /// Answers each, in order; the first that cannot be answered ends it. `answer` is told where the entry stands.
    pub(super) fn try_map<U>(self, names: &Names, mut answer: impl FnMut(&str, T) -> Result<U, Problem>) -> Result<Asked<U>, Problem> {
        match self {
            Self::One(one) => answer(&format!("/{}", names.one), one).map(Asked::One),
            Self::Many(many) => {
                let all = many.into_iter().enumerate().map(|(at, one)| answer(&format!("/{}/{at}", names.many), one));
                all.collect::<Result<Vec<_>, _>>().map(Asked::Many)
            }
        }
    }

    /// Returns how many are asked for.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(many) => many.len(),
        }
    }
}

/// What the members of the body are called.
#[derive(Debug)]
pub(super) struct Names {
    /// Of one.
    pub(super) one: &'static str,
    /// Of a batch.
    pub(super) many: &'static str,
}

/// Tickets.
pub(super) const TICKETS: Names = Names { one: "ticket", many: "tickets" };
/// Workers.
pub(super) const WORKERS: Names = Names { one: "worker_id", many: "worker_ids" };

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TicketBody<'b> {
    #[serde(borrow, default)]
    ticket: Option<&'b RawValue>,
    #[serde(borrow, default)]
    tickets: Option<Vec<&'b RawValue>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WorkerBody<'b> {
    #[serde(borrow, default)]
    worker_id: Option<Cow<'b, str>>,
    #[serde(borrow, default)]
    worker_ids: Option<Vec<Cow<'b, str>>>,
}

/// Reads the tickets of a body, each as its JSON text.
pub(super) fn tickets(body: &[u8], max_batch: usize) -> Result<Asked<&str>, Problem> {
    let action = "send {\"ticket\": {…}} or {\"tickets\": [{…}, …]}, each ticket as MongoDB holds it";
    is_object(body, action)?;
    let body: TicketBody<'_> = serde_json::from_slice(body).map_err(|error| unreadable(&error, action))?;
    let many = body.tickets.map(|many| many.into_iter().map(RawValue::get).collect());
    one_of(body.ticket.map(RawValue::get), many, &TICKETS, max_batch, action)
}

/// Reads the workers of a body.
pub(super) fn workers(body: &[u8], max_batch: usize) -> Result<Asked<String>, Problem> {
    let action = "send {\"worker_id\": \"…\"} or {\"worker_ids\": [\"…\", …]}";
    is_object(body, action)?;
    let body: WorkerBody<'_> = serde_json::from_slice(body).map_err(|error| unreadable(&error, action))?;
    let many = body.worker_ids.map(|many| many.into_iter().map(Cow::into_owned).collect());
    let asked = one_of(body.worker_id.map(Cow::into_owned), many, &WORKERS, max_batch, action)?;
    asked.try_map(&WORKERS, |place, worker| match worker.chars().count() {
        1..=MAX_WORKER_CHARACTERS => Ok(worker),
        count => {
            Err(Problem::bad_request(place, format!("a worker's id has 1 to {MAX_WORKER_CHARACTERS} characters, not {count}"), action))
        }
    })
}

/// A derived reader takes a list for an object, member by member.
fn is_object(body: &[u8], action: &str) -> Result<(), Problem> {
    if body.trim_ascii_start().starts_with(b"{") {
        return Ok(());
    }
    Err(Problem::bad_request("body", "the body is not a JSON object".to_owned(), action))
}

fn unreadable(error: &serde_json::Error, action: &str) -> Problem {
    Problem::bad_request("body", format!("the body cannot be read: {error}"), action)
}

fn one_of<T>(one: Option<T>, many: Option<Vec<T>>, names: &Names, max_batch: usize, action: &str) -> Result<Asked<T>, Problem> {
    match (one, many) {
        (Some(one), None) => Ok(Asked::One(one)),
        (None, Some(many)) if many.len() > max_batch => Err(Problem::batch_too_large(&format!("/{}", names.many), many.len(), max_batch)),
        (None, Some(many)) => Ok(Asked::Many(many)),
        (Some(_), Some(_)) => Err(Problem::bad_request("body", format!("both {} and {} are there", names.one, names.many), action)),
        (None, None) => Err(Problem::bad_request("body", format!("neither {} nor {} is there", names.one, names.many), action)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(problem: Problem) -> String {
        serde_json::to_string(&problem).unwrap()
    }

    #[test]
    fn one_or_a_batch_is_read_as_it_stands() {
        assert_eq!(tickets(br#"{"ticket": {"a": 1}}"#, 2).unwrap(), Asked::One(r#"{"a": 1}"#));
        assert_eq!(tickets(br#"{"tickets": [{}, 7]}"#, 2).unwrap(), Asked::Many(vec!["{}", "7"]));
        assert_eq!(workers(br#"{"worker_ids": ["a", "\u0062"]}"#, 2).unwrap(), Asked::Many(vec!["a".to_owned(), "b".to_owned()]));
    }

    #[test]
    fn what_cannot_be_read_is_told_where_and_what_to_send() {
        for (body, says) in [
            (&b"{"[..], "EOF"),
            (b"[]", "not a JSON object"),
            (b"[{}]", "not a JSON object"),
            (b"{}", "neither ticket nor tickets"),
            (br#"{"ticket": {}, "tickets": []}"#, "both ticket and tickets"),
            (br#"{"tickets": [{}, {}, {}]}"#, "3 entries in one request; at most 2"),
            (br#"{"ticket": {}, "ticket": {}}"#, "duplicate field"),
            (br#"{"tocket": {}}"#, "unknown field"),
            (b"{\xff", "the body cannot be read"),
        ] {
            let problem = said(tickets(body, 2).unwrap_err());
            assert!(problem.contains(says) && problem.contains("\"action\":\""), "{problem}");
        }
        for body in [&br#"{"worker_id": ""}"#[..], br#"{"worker_id": 7}"#, br#"{"worker_ids": ["a", ""]}"#] {
            assert!(workers(body, 2).is_err());
        }
        assert!(said(workers(br#"{"worker_ids": ["a", ""]}"#, 2).unwrap_err()).contains("/worker_ids/1"));
    }
}
