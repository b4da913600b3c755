//! What goes wrong in one simulation, and when.

use std::fmt;
use std::time::Duration;

use tidemark::log::memory::Fault;

use crate::draw::Draw;

/// The stages that are simulated, by their order.
pub(crate) const STAGES: [&str; 3] = ["tail", "watch", "judge"];

/// What goes wrong with a transaction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Wrong {
    /// See [`Fault`].
    Fault(Fault),
    /// It takes so long, ms.
    Slow(u64),
    /// The process ends before anything of it is written.
    CrashBefore,
    /// The process ends when it is committed, before it hears of it.
    CrashAfter,
    /// The process ends, and so much of it becomes visible.
    CrashTorn(usize),
    /// The process ends, and it hangs.
    CrashHang,
}

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mishap {
    /// Of the transactions of a stage, the one after so many.
    Transaction { stage: usize, after: u64, wrong: Wrong },
    /// A process ends, and begins again after `away_ms`.
    Crash { process: usize, at_ms: u64, away_ms: u64 },
    /// A process stands still.
    Pause { process: usize, at_ms: u64, for_ms: u64 },
    /// One more process begins, and is asked to end after a while.
    Guest { at_ms: u64, for_ms: u64 },
    /// The group of a stage loses all its members.
    Oust { stage: usize, at_ms: u64 },
    /// The log does not answer a stage of a process.
    Away { stage: usize, process: usize, at_ms: u64, for_ms: u64 },
    /// Each reading of the log by a stage of a process takes long.
    Slow { stage: usize, process: usize, at_ms: u64, for_ms: u64, read_ms: u64 },
    /// The source cannot be read, after so many reads.
    Source { after: u64, times: u64 },
    /// A person accepts how a cause is, or silences it.
    Decision { at_ms: u64, cause: &'static str, is_silence: bool },
    /// Somebody writes a record of no kind into `tickets`.
    Stranger { partition: u32, at_ms: u64 },
}

/// All that goes wrong.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    /// Processes that run from the beginning.
    pub(crate) processes: usize,
    /// What goes wrong.
    pub(crate) mishaps: Vec<Mishap>,
}

impl Plan {
    /// Returns a plan in which nothing goes wrong.
    pub(crate) fn calm() -> Self {
        Self { processes: 1, mishaps: Vec::new() }
    }

    /// Draws a plan for a run that takes about `length`.
    pub(crate) fn drawn(seed: u64, length: Duration) -> Self {
        let mut draw = Draw::new(seed, 3);
        let draw = &mut draw;
        let processes = usize::try_from(draw.one_of(&[1, 1, 2, 2, 3])).unwrap();
        let length_ms = u64::try_from(length.as_millis()).unwrap() + 500;
        let count = draw.one_of(&[1, 2, 3, 5, 8, 12]);
        let mut mishaps: Vec<Mishap> = (0..count).map(|_| mishap(draw, processes, length_ms)).collect();
        // A twin that fences again and again is refused, rightly.
        let mut fences = 0;
        mishaps.retain(|mishap| {
            let is_fence = matches!(mishap, Mishap::Transaction { wrong: Wrong::Fault(Fault::Fence), .. });
            fences += usize::from(is_fence);
            !is_fence || fences <= 3
        });
        Self { processes, mishaps }
    }
}

fn mishap(draw: &mut Draw, processes: usize, length_ms: u64) -> Mishap {
    let stage = usize::try_from(draw.below(3)).unwrap();
    let process = usize::try_from(draw.below(processes as u64)).unwrap();
    let at_ms = draw.below(length_ms);
    match draw.below(100) {
        0..55 => Mishap::Transaction { stage, after: draw.below(25), wrong: wrong(draw) },
        55..65 => Mishap::Crash { process, at_ms, away_ms: draw.one_of(&[0, 50, 500, 8_000]) },
        65..75 => Mishap::Pause { process, at_ms, for_ms: draw.one_of(&[20, 300, 3_000, 7_000, 12_000]) },
        75..83 => Mishap::Guest { at_ms, for_ms: draw.one_of(&[50, 400, 2_000, 10_000]) },
        83..88 => Mishap::Oust { stage, at_ms },
        88..91 => Mishap::Away { stage, process, at_ms, for_ms: draw.one_of(&[5, 100, 1_500]) },
        91..93 => {
            Mishap::Slow { stage, process, at_ms, for_ms: draw.one_of(&[500, 5_000, 20_000]), read_ms: draw.one_of(&[20, 300, 2_000]) }
        }
        93..95 => Mishap::Decision { at_ms, cause: draw.one_of(&["error", "target", "size"]), is_silence: draw.chance(50) },
        95..98 => Mishap::Source { after: draw.below(20), times: draw.within(1, 3) },
        _ => Mishap::Stranger { partition: u32::try_from(draw.below(4)).unwrap(), at_ms },
    }
}

fn wrong(draw: &mut Draw) -> Wrong {
    let visible = usize::try_from(draw.below(30)).unwrap();
    match draw.below(12) {
        0 => Wrong::Fault(Fault::Abort),
        1 => Wrong::Fault(Fault::UnknownVisible),
        2 => Wrong::Fault(Fault::UnknownLost),
        3 | 4 => Wrong::Fault(Fault::Torn { visible }),
        5 => Wrong::Fault(Fault::Hang),
        6 => Wrong::Fault(Fault::Fence),
        7 => Wrong::Slow(draw.one_of(&[30, 200, 1_500])),
        8 => Wrong::CrashBefore,
        9 => Wrong::CrashAfter,
        10 => Wrong::CrashTorn(visible),
        _ => Wrong::CrashHang,
    }
}

impl Mishap {
    /// Returns its kind, for the tally.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Transaction { wrong, .. } => match wrong {
                Wrong::Fault(Fault::Abort) => "transactions aborted",
                Wrong::Fault(Fault::UnknownVisible) => "replies of commits lost",
                Wrong::Fault(Fault::UnknownLost) => "transactions and replies lost",
                Wrong::Fault(Fault::Torn { .. }) => "transactions torn",
                Wrong::Fault(Fault::Hang) => "transactions hanging",
                Wrong::Fault(Fault::Fence) => "producers fenced",
                Wrong::Slow(_) => "transactions slow",
                Wrong::CrashBefore => "crashes before a commit",
                Wrong::CrashAfter => "crashes after a commit",
                Wrong::CrashTorn(_) => "crashes in a torn transaction",
                Wrong::CrashHang => "crashes in a hanging transaction",
            },
            Self::Crash { .. } => "crashes anywhere",
            Self::Pause { .. } => "pauses",
            Self::Guest { .. } => "members that come and go",
            Self::Oust { .. } => "groups emptied",
            Self::Away { .. } => "calls of the log that fail",
            Self::Slow { .. } => "readings of the log that are slow",
            Self::Source { .. } => "calls of the source that fail",
            Self::Decision { .. } => "decisions of people",
            Self::Stranger { .. } => "strangers' records",
        }
    }
}

impl fmt::Display for Mishap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transaction { stage, after, wrong } => {
                write!(f, "transaction {} of {}: ", after + 1, STAGES[*stage])?;
                match wrong {
                    Wrong::Fault(Fault::Abort) => f.write_str("aborted"),
                    Wrong::Fault(Fault::UnknownVisible) => f.write_str("committed, but the reply is lost"),
                    Wrong::Fault(Fault::UnknownLost) => f.write_str("lost, and so is the reply"),
                    Wrong::Fault(Fault::Torn { visible }) => write!(f, "torn, {visible} records are visible, and the reply is lost"),
                    Wrong::Fault(Fault::Hang) => f.write_str("hangs"),
                    Wrong::Fault(Fault::Fence) => f.write_str("another process takes its name"),
                    Wrong::Slow(ms) => write!(f, "takes {ms} ms"),
                    Wrong::CrashBefore => f.write_str("the process ends before it"),
                    Wrong::CrashAfter => f.write_str("the process ends just after it"),
                    Wrong::CrashTorn(visible) => write!(f, "the process ends in it, {visible} records are visible"),
                    Wrong::CrashHang => f.write_str("the process ends in it, and it hangs"),
                }
            }
            Self::Crash { process, at_ms, away_ms } => {
                write!(f, "process {process} ends at {at_ms} ms, and begins again {away_ms} ms later")
            }
            Self::Pause { process, at_ms, for_ms } => write!(f, "process {process} stands still at {at_ms} ms for {for_ms} ms"),
            Self::Guest { at_ms, for_ms } => write!(f, "one more process joins at {at_ms} ms for {for_ms} ms"),
            Self::Oust { stage, at_ms } => write!(f, "the group of {} loses its members at {at_ms} ms", STAGES[*stage]),
            Self::Away { stage, process, at_ms, for_ms } => {
                write!(f, "the log does not answer {} of process {process} at {at_ms} ms for {for_ms} ms", STAGES[*stage])
            }
            Self::Slow { stage, process, at_ms, for_ms, read_ms } => {
                write!(f, "each reading by {} of process {process} takes {read_ms} ms, at {at_ms} ms for {for_ms} ms", STAGES[*stage])
            }
            Self::Source { after, times } => write!(f, "the source fails {times} times after {after} reads"),
            Self::Decision { at_ms, cause, is_silence } => {
                write!(f, "a person {} {cause} at {at_ms} ms", if *is_silence { "silences" } else { "accepts" })
            }
            Self::Stranger { partition, at_ms } => write!(f, "a stranger writes into partition {partition} at {at_ms} ms"),
        }
    }
}
