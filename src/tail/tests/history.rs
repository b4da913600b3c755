//! The collection's history, with more keys in the stream beside it than are remembered.

use super::*;
use crate::log::memory::slow::SlowLog;

/// What the position stands at before the first event, and after each.
type States = Vec<(Place, Option<HistoryPlace>)>;

/// Rows and what the stream brings, in one order; goes on wherever the position stands.
struct Mixed {
    all: Arc<Vec<Event>>,
    states: Arc<States>,
    piece: usize,
    next: usize,
}

impl Source for Mixed {
    fn is_replay(&self) -> bool {
        false
    }

    fn open(&mut self, from: Option<&Resume>) -> Result<Opened, SourceError> {
        let stands =
            |(place, history): &(Place, Option<HistoryPlace>)| from.is_none_or(|from| (&from.place, &from.history) == (place, history));
        self.next = self.states.iter().position(stands).expect("a position of ours");
        let (place, history) = self.states[self.next].clone();
        Ok(Opened { place, fingerprint: "mixed".into(), history })
    }

    fn read(&mut self, most: usize, _timeout: Duration, into: &mut Vec<Event>) -> Result<(), SourceError> {
        let end = (self.next + self.piece.min(most)).min(self.all.len());
        into.extend(self.all[self.next..end].iter().cloned());
        self.next = end;
        Ok(())
    }
}

fn letter(number: u32, id: Option<TicketId>) -> Normalised {
    let mut letter = DeadLetter::bare(id, DeadReason::BadId, format!("document {number}"));
    letter.document = Some(TicketId::from_json(number.to_string()));
    Normalised::Dead(Box::new(letter))
}

/// What document `number` turned out to be: each tenth is of no use, each twentieth has no id.
fn document(number: u32, commit: Option<(u32, u32)>) -> Normalised {
    let id = format!("T{number}");
    match number % 20 {
        0 => letter(number, None),
        10 => letter(number, Some(TicketId::from_text(&id))),
        _ => {
            let mut ticket = ticket(&id, i64::from(BEGIN + number) * 1_000, commit);
            ticket.transition = if commit.is_some() { Transition::Insert } else { Transition::History };
            Normalised::Completed(ticket)
        }
    }
}

const STREAMED: u32 = 120;

/// Documents of which the stream brings all, and of which the history shows each so many documents later; between them those of old.
fn mixed(lag: u32) -> (Arc<Vec<Event>>, Arc<States>) {
    let row = |number: u32| {
        let last = bson::rawdoc! { "_id": i64::from(number) };
        Event::Row { normalised: document(number, None), last: Bytes::copy_from_slice(last.as_bytes()) }
    };
    let mut events = Vec::new();
    for number in 1..=STREAMED + lag {
        if number <= STREAMED {
            let time = (BEGIN + number, 1);
            let after = Place::Stream { token: token(time.0, 1, number), time, index: 1 };
            events.push(Event::Ticket { normalised: document(number, Some(time)), after });
        }
        if number > lag {
            events.extend([row(number - lag), row(number - lag + 1_000)]);
        }
    }
    events.extend([Event::HistoryRead, Event::End]);
    let begin = Place::Stream { token: token(0, 0, 0), time: (BEGIN, 0), index: 0 };
    let mut states = vec![(begin, Some(HistoryPlace { since: (BEGIN, 0), last: None, rows: 0, completed_from_ms: None }))];
    for event in &events {
        let (mut place, mut history) = states.last().unwrap().clone();
        match event {
            Event::Ticket { after, .. } => place = after.clone(),
            Event::Row { last, .. } => {
                history = history.map(|history| HistoryPlace { last: Some(last.clone()), rows: history.rows + 1, ..history });
            }
            _ => history = None,
        }
        states.push((place, history));
    }
    (Arc::new(events), Arc::new(states))
}

#[test]
fn a_history_beside_more_than_is_remembered_brings_each_once() {
    let faults = [Fault::Torn { visible: 3 }, Fault::Torn { visible: 17 }, Fault::UnknownVisible, Fault::Abort];
    let faults = faults.into_iter().flat_map(|fault| [2, 3, 5, 8].map(|after| Some((after, fault))));
    let mut expected: Vec<String> = Vec::new();
    for (numbers, transition) in [(1..=STREAMED, "insert"), (1_001..=1_000 + STREAMED, "history")] {
        expected.extend(numbers.map(|number| match document(number, None) {
            Normalised::Completed(_) => format!("T{number} {transition}"),
            _ => format!("document {number}"),
        }));
    }
    expected.sort();
    // What the stream brought just now is on its way into the log when the history shows it.
    for (lag, piece) in [(0, 1), (40, 1), (40, 9), (0, 1_000), (40, 1_000)] {
        let (all, states) = mixed(lag);
        for fault in faults.clone().chain([None]) {
            let log = MemoryLog::new();
            let mut context = context(&log, 3, |config| config.tail.transaction_rows = 20);
            let mut slow = SlowLog::new(&log, usize::MAX);
            slow.delay = Duration::from_millis(2);
            context.log = Arc::new(slow);
            if let Some((after, fault)) = fault {
                log.inject(TAIL, after, fault);
            }
            super::super::run(&context, Box::new(Mixed { all: all.clone(), states: states.clone(), piece, next: 0 })).unwrap();
            let [tickets, dead] = both(&log, 3);
            let value = |line: &String| line.split_once(' ').and_then(|(_, value)| serde_json::from_str::<serde_json::Value>(value).ok());
            let mut found: Vec<String> = Vec::new();
            for value in tickets.iter().flatten().filter(|line| line.starts_with("ticket ")).filter_map(value) {
                found.push(format!("{} {}", value["id"].as_str().unwrap(), value["transition"].as_str().unwrap()));
            }
            found.extend(dead.iter().flatten().filter_map(value).map(|value| value["detail"].as_str().unwrap().to_owned()));
            found.sort();
            let odd: Vec<&String> = found.chunk_by(|a, b| a == b).filter(|same| same.len() > 1).map(|same| &same[0]).collect();
            assert!(odd.is_empty(), "{lag} later, pieces of {piece}, {fault:?}: twice: {odd:?}");
            assert_eq!(found, expected, "{lag} later, pieces of {piece}, {fault:?}");
        }
    }
}
