//! Whether the log keeps its promise: decided from the topics and MongoDB, never from what a process of ours counts.
//!
//! [`Follower`], [`Buckets`] and [`Ledger`] are values in, findings out; [`run`] reads the two sides and asks where they differ.
//! Whoever knows by other means what completed (a simulation) hands it to [`check`].
//!
//! One pass over each side fills 65,536 buckets of (count, sum of H(id, `completed_at`)); a further one looks at the unequal buckets
//! only. Memory is bounded whatever the number of tickets.

mod buckets;
mod continuous;
mod findings;
mod follower;
mod ledger;
mod mongo;
mod run;

pub use buckets::{BUCKETS, Buckets, Chosen, Key};
pub use continuous::audit_continuously;
pub use findings::{Findings, Found, Kind};
pub use follower::{Beginning, DeadLine, Follower, Gap, Line, TicketLine};
pub use ledger::{Differences, Fact, Ledger, Open};
pub use run::{Around, AuditError, Lag, Progress, Report, Request, run};

use crate::log::Delivered;
use crate::topics::Topics;

/// What is held against each other by [`check`].
pub struct Sides<'s> {
    /// Names of the topics, for the words.
    pub topics: &'s Topics,
    /// Partitions of `tickets` and of `dead-letters`.
    pub partitions: u32,
    /// Everything that completed, as whoever wrote it knows.
    pub facts: &'s [Fact<'s>],
    /// The committed records of `tickets`, those of one partition in order.
    pub tickets: &'s [Delivered],
    /// The same of `dead-letters`.
    pub dead_letters: &'s [Delivered],
}

/// Holds a whole log against all that is to be in it: nothing is still to come, and nothing was before it began.
///
/// A completion that the log lacks is [`Kind::Missing`] unless one of its gap records holds it; one that only the log has is
/// [`Kind::Gone`], or [`Kind::Altered`] when the facts have another of the same ticket. [`Findings::wrong`] says which of the
/// findings break the promise.
#[must_use]
pub fn check(sides: &Sides<'_>) -> Findings {
    let Sides { topics, partitions, facts, tickets, dead_letters } = *sides;
    let mut ledger = Ledger::of(Chosen::all());
    facts.iter().for_each(|fact| ledger.fact(fact));
    let mut followers = [Follower::of_tickets(&topics.tickets, partitions), Follower::of_dead_letters(&topics.dead_letters, partitions)];
    for (follower, records) in followers.iter_mut().zip([tickets, dead_letters]) {
        records.iter().filter_map(|record| follower.take(record)).for_each(|line| ledger.line(line));
    }
    let [tickets, dead_letters] = followers;
    let (mut findings, gaps) = tickets.end();
    findings.merge(dead_letters.end().0);
    let differences = ledger.compare((&topics.tickets, &topics.dead_letters));
    findings.merge(differences.findings);
    for open in &differences.only_in_mongodb {
        findings.note(lost_as(open, &gaps), || open.to_string());
    }
    for open in &differences.only_in_log {
        findings.note(if open.has_another { Kind::Altered } else { Kind::Gone }, || open.to_string());
    }
    findings
}

/// What it is when the log lacks something that is not still to come.
fn lost_as(open: &Open, gaps: &[Gap]) -> Kind {
    let is_told = |ms: i64| gaps.iter().any(|gap| (gap.from_ms..gap.to_ms).contains(&ms));
    match open.completed_at_ms {
        Some(ms) if is_told(ms) => Kind::InGap,
        Some(_) if open.has_another => Kind::Altered,
        Some(_) => Kind::Missing,
        None => Kind::MissingDeadLetter,
    }
}

#[cfg(test)]
mod tests;
