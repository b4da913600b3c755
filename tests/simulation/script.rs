//! What one simulation is about: the tickets that complete, how they are cut into slices and judged, and what has to come of it.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tidemark::baseline::builder::{Builder, Making};
use tidemark::clock::{DAY_MS, HOUR_MS};
use tidemark::config::{ClockMode, Config, Decision};
use tidemark::spec::Spec;
use tidemark::tail::Event;
use tidemark::tail::normalise::{DeadLetter, DeadReason, Normalised};
use tidemark::tail::source::{HistoryPlace, Opened, Place, Resume, Source, SourceError};
use tidemark::ticket::{FieldValue, Ticket, TicketId, Transition};

use crate::draw::Draw;
use crate::world::Line;

/// 3 March 2025, UTC: the first slice.
const BEGIN_MS: i64 = 1_740_960_000_000;
/// How the source is named in the position.
const FINGERPRINT: &str = "script";

/// How tickets come.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// From a file.
    Replay,
    /// From a change stream.
    Stream,
    /// From a change stream, after the collection's history.
    History,
}

/// When the second baseline comes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Switch {
    Never,
    /// At a place of the stream.
    Awaited,
    /// Whenever it is, ms.
    At(u64),
}

/// A ticket that has to be there: key, completion in ms since 1970, commit.
pub(crate) type Expected = (Vec<u8>, i64, Option<(u32, u32)>);

/// A scenario.
pub(crate) struct Script {
    pub(crate) config: Config,
    pub(crate) spec: Arc<Spec>,
    pub(crate) switch: Switch,
    kind: Kind,
    pub(crate) events: Vec<Event>,
    /// How the position stands before the first event, and after each.
    states: Vec<(Place, Option<HistoryPlace>)>,
    /// When each event is there.
    releases: Vec<Duration>,
    /// What has to be in `tickets`, in order.
    pub(crate) tickets: Vec<Expected>,
    /// How many prediction errors come of them at the least; `None` when the last mark tells that all are there.
    pub(crate) errors: Option<usize>,
    /// The details of the dead letters, each of which tells one.
    pub(crate) dead: Vec<String>,
}

pub(crate) fn spec() -> Arc<Spec> {
    static SPEC: OnceLock<Arc<Spec>> = OnceLock::new();
    Arc::clone(SPEC.get_or_init(|| Arc::new(Spec::from_toml(include_str!("parcels.toml")).unwrap())))
}

/// Returns baseline 1 or 2 as its record holds it.
pub(crate) fn baseline(version: u64) -> Bytes {
    static BASELINES: OnceLock<[Bytes; 2]> = OnceLock::new();
    let made = BASELINES.get_or_init(|| [1, 2].map(make_baseline));
    made[usize::try_from(version).unwrap() - 1].clone()
}

fn make_baseline(version: u64) -> Bytes {
    let (from_ms, to_ms) = (BEGIN_MS - 8 * DAY_MS, BEGIN_MS - 3 * DAY_MS);
    let mut draw = Draw::new(version, 7);
    let mut builder = Builder::new(&spec(), from_ms, to_ms).unwrap();
    for n in 0..480 {
        let at_ms = from_ms + n * (to_ms - from_ms) / 480;
        builder.push(&ticket(&mut draw, &format!("B{n}"), at_ms, version == 2));
    }
    let making = Making { version, created_at_ms: 0, window_days: &[1], predecessor: None };
    Bytes::from(serde_json::to_vec(&builder.build(&making).unwrap()).unwrap())
}

fn ticket(draw: &mut Draw, id: &str, completed_at_ms: i64, is_odd: bool) -> Ticket {
    let sizes: &[&str] = if is_odd { &["M", "L", "L", "XL"] } else { &["S", "S", "S", "M", "L"] };
    let size = if draw.chance(4) { FieldValue::Missing } else { FieldValue::Text(draw.one_of(sizes).to_owned()) };
    let weight = FieldValue::Number(draw.within(1, 9) as f64 / if is_odd { 1.0 } else { 2.0 });
    let actual = draw.within(20, 60) as f64 * if is_odd { 1.5 } else { 1.0 };
    let off = draw.within(1, 9) as f64 * if is_odd { 4.0 } else { 1.0 };
    Ticket {
        id: TicketId::from_text(id),
        completed_at_ms,
        event_at_ms: completed_at_ms,
        commit: None,
        transition: Transition::Replay,
        actual,
        predicted: (!draw.chance(5)).then_some(actual + off),
        model_version: None,
        fields: vec![size, weight],
    }
}

fn token((seconds, increment): (u32, u32), nth: u32) -> Bytes {
    let document = bson::rawdoc! { "_data": format!("82{seconds:08X}{increment:08X}{nth:08X}") };
    Bytes::copy_from_slice(document.as_bytes())
}

fn seconds(ms: i64) -> u32 {
    u32::try_from(ms.div_euclid(1_000)).unwrap()
}

/// A completion before it is known how it comes.
struct Completion {
    at_ms: i64,
    /// When it is committed.
    commit_ms: i64,
    what: What,
}

enum What {
    Ticket(Ticket),
    Dead(Option<String>, String),
    Idle,
}

/// The slices and what completes in them, in order of commit.
fn completions(draw: &mut Draw, slice_ms: i64, most: usize) -> Vec<Completion> {
    let slices = i64::try_from(draw.within(10, 36)).unwrap();
    let odd_from = i64::try_from(draw.below(20)).unwrap();
    let odd_to = odd_from + i64::try_from(draw.within(3, 10)).unwrap();
    let busy = draw.within(2, 9);
    let (dead, late, again) = (draw.one_of(&[0, 4, 15]), draw.one_of(&[0, 5, 15]), draw.one_of(&[0, 5, 15]));
    let mut all: Vec<Completion> = Vec::new();
    let mut known: Vec<Ticket> = Vec::new();
    for slice in 0..slices {
        for _ in 0..draw.below(busy * 2) {
            if all.len() >= most {
                break;
            }
            let number = all.len();
            // Some complete right after another, and share its transaction.
            let begins_ms = BEGIN_MS + slice * slice_ms;
            let before = all.last().filter(|_| draw.chance(25)).map(|last| last.at_ms.max(begins_ms));
            let at_ms = before.unwrap_or_else(|| begins_ms + i64::try_from(draw.below(slice_ms.unsigned_abs())).unwrap());
            let commit_ms = at_ms + i64::try_from(draw.below(4_000)).unwrap();
            if draw.chance(3) {
                all.push(Completion { at_ms, commit_ms, what: What::Idle });
                continue;
            }
            if draw.chance(dead) {
                let id = (!draw.chance(20)).then(|| format!("D{number}"));
                all.push(Completion { at_ms, commit_ms, what: What::Dead(id, format!("letter {number}")) });
                continue;
            }
            let completed_at_ms = if draw.chance(late) { at_ms - slice_ms * i64::try_from(draw.within(1, 4)).unwrap() } else { at_ms };
            let its = if draw.chance(again) && !known.is_empty() {
                let old = &known[usize::try_from(draw.below(known.len() as u64)).unwrap()];
                if draw.chance(50) {
                    // A replace without a pre-image: the same completion, seen once more.
                    Ticket { transition: Transition::Assumed, ..old.clone() }
                } else {
                    let id = String::from_utf8(old.id.key().into_owned()).unwrap();
                    ticket(draw, &id, completed_at_ms, (odd_from..odd_to).contains(&slice))
                }
            } else {
                ticket(draw, &format!("T{number}"), completed_at_ms, (odd_from..odd_to).contains(&slice))
            };
            // Nothing is committed before it completes.
            let commit_ms = commit_ms.max(its.completed_at_ms);
            known.push(its.clone());
            all.push(Completion { at_ms, commit_ms, what: What::Ticket(its) });
        }
    }
    all.sort_by_key(|completion| (completion.commit_ms, completion.at_ms));
    all
}

impl Script {
    /// Draws a scenario with at most so many completions.
    pub(crate) fn drawn(seed: u64, most: usize) -> Self {
        let mut draw = Draw::new(seed, 2);
        let draw = &mut draw;
        let mut config = Config::default();
        config.kafka.partitions = u32::try_from(draw.within(1, 4)).unwrap();
        config.tail.transaction_rows = draw.one_of(&[1, 5, 20, 100]);
        config.window.days = vec![1];
        config.window.slice_ms = draw.one_of(&[HOUR_MS, 3 * HOUR_MS, 6 * HOUR_MS, 6 * HOUR_MS, 12 * HOUR_MS]);
        config.window.lateness_ms = draw.one_of(&[0, 600_000, HOUR_MS]);
        config.window.max_rows = draw.one_of(&[2_000_000, 2_000_000, 30]);
        let judge = &mut config.judge;
        judge.decision = Decision::Thresholds;
        (judge.error_days, judge.target_days, judge.feature_days) = (vec![1], vec![1], vec![1]);
        judge.min_rows = 6;
        (judge.error_looks, judge.target_looks, judge.feature_looks) = (2, 3, 2);
        (judge.warning_looks, judge.close_looks) = (4, 2);
        let kind = draw.one_of(&[Kind::Replay, Kind::Stream, Kind::Stream, Kind::History]);
        config.tail.clock = if kind == Kind::Stream && draw.chance(50) { ClockMode::Auto } else { ClockMode::Commit };
        let switch = match draw.below(4) {
            0 => Switch::Awaited,
            1 => Switch::At(draw.below(4_000)),
            _ => Switch::Never,
        };
        let all = completions(draw, config.window.slice_ms, most);
        let end_ms = BEGIN_MS + 50 * config.window.slice_ms;
        // All of the history is committed before the stream begins.
        let history = if kind == Kind::History { all.len() / 3 } else { 0 };
        let since = (all.get(history).map_or(seconds(BEGIN_MS), |completion| seconds(completion.commit_ms)) - 1, 1);
        let mut events = if kind == Kind::Replay { replayed(all) } else { streamed(draw, all, history, end_ms) };
        if switch == Switch::Awaited {
            let at = events.len() / 3 + usize::try_from(draw.below(events.len() as u64 / 2 + 1)).unwrap();
            events.insert(at.min(events.len() - 1), Event::AwaitBaseline { version: 2 });
        }
        let begin = match kind {
            Kind::Replay => (Place::Rows(0), None),
            Kind::Stream | Kind::History => {
                let place = Place::Stream { token: token(since, 0), time: since, index: 0 };
                (place, (kind == Kind::History).then_some(HistoryPlace { since, last: None, rows: 0, completed_from_ms: None }))
            }
        };
        let states = states(begin, &events);
        let span_ms = draw.one_of(&[0, 0, 400, 1_500, 5_000]);
        let count = u32::try_from(events.len()).unwrap();
        let releases = (0..count).map(|nth| Duration::from_millis(span_ms) * nth / count).collect();
        let (tickets, dead) = truth(&events);
        // The last mark stands behind all tickets of a stream, if there is one.
        let errors = (kind == Kind::Replay || config.tail.clock == ClockMode::Auto).then(|| predicted(&events));
        Self { config, spec: spec(), switch, kind, events, states, releases, tickets, errors, dead }
    }

    /// Whether its tickets come from a file, and tell the time themselves.
    pub(crate) fn is_replay(&self) -> bool {
        self.kind == Kind::Replay
    }

    /// Returns some time in the middle of it, ms since 1970.
    pub(crate) fn middle_ms(&self) -> i64 {
        BEGIN_MS + 15 * self.config.window.slice_ms
    }

    /// Returns where the position stands when all is read.
    pub(crate) fn last(&self) -> &(Place, Option<HistoryPlace>) {
        self.states.last().unwrap()
    }

    /// Returns how long the last event is waited for.
    pub(crate) fn length(&self) -> Duration {
        *self.releases.last().unwrap()
    }
}

fn replayed(all: Vec<Completion>) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    for completion in all {
        let after = Place::Rows(events.len() as u64 + 1);
        let normalised = match completion.what {
            What::Ticket(ticket) => Normalised::Completed(Ticket { transition: Transition::Replay, ..ticket }),
            What::Dead(id, detail) => letter(id, detail, None, Some(format!("line {}", events.len()))),
            What::Idle => Normalised::Other(None),
        };
        events.push(Event::Ticket { normalised, after });
    }
    events.push(Event::End);
    events
}

fn letter(id: Option<String>, detail: String, document: Option<u32>, position: Option<String>) -> Normalised {
    let mut letter = DeadLetter::bare(id.map(|id| TicketId::from_text(&id)), DeadReason::NoActual, detail);
    letter.document = document.map(|number| TicketId::from_json(number.to_string()));
    letter.position = position;
    Normalised::Dead(Box::new(letter))
}

fn streamed(draw: &mut Draw, all: Vec<Completion>, history: usize, end_ms: i64) -> Vec<Event> {
    let mut stream = Vec::new();
    let mut rows = Vec::new();
    let mut unusable = Vec::new();
    let (mut last, mut index, mut increment) = ((0, 0), 0, 0);
    for (nth, completion) in (0..).zip(all) {
        let second = seconds(completion.commit_ms);
        // Several tickets of one transaction share a cluster time.
        let shares = second <= last.0 + 5 && draw.chance(50);
        if !shares {
            increment = if last.0 == second.max(last.0) { increment + 1 } else { 1 };
        }
        let time = if shares { last } else { (second.max(last.0), increment) };
        index = if time == last { index + 1 } else { 1 };
        last = time;
        let after = Place::Stream { token: token(time, nth), time, index };
        let row = bson::rawdoc! { "_id": i64::from(nth) };
        let row = Bytes::copy_from_slice(row.as_bytes());
        let is_row = usize::try_from(nth).unwrap() < history;
        match completion.what {
            What::Ticket(ticket) if is_row => {
                rows.push(Event::Row {
                    normalised: Normalised::Completed(Ticket { transition: Transition::History, ..ticket }),
                    last: row,
                });
            }
            What::Ticket(ticket) => {
                let transition = if ticket.transition == Transition::Assumed { Transition::Assumed } else { Transition::Update };
                let normalised = Normalised::Completed(Ticket { commit: Some(time), transition, ..ticket });
                stream.push(Event::Ticket { normalised, after });
            }
            What::Dead(id, detail) if is_row => {
                let normalised = letter(id, detail, Some(nth), None);
                unusable.push(normalised.clone());
                rows.push(Event::Row { normalised, last: row });
            }
            What::Dead(id, detail) => stream.push(Event::Ticket { normalised: letter(id, detail, Some(nth), None), after }),
            What::Idle if is_row => {}
            What::Idle => stream.push(match unusable.pop() {
                // A document of the history was written once more, and is of no use still.
                Some(normalised) => Event::Ticket { normalised, after },
                None => Event::Idle { after },
            }),
        }
    }
    let mut events = Vec::new();
    if history > 0 {
        // Chunks of rows between what the stream brings meanwhile; some rows were touched meanwhile, so the stream has them, too.
        let mut meanwhile = stream.drain(..stream.len() / 4).collect::<Vec<_>>().into_iter();
        for row in rows {
            if draw.chance(40) {
                events.extend(meanwhile.next());
            }
            events.push(row);
        }
        events.extend(meanwhile);
        events.push(Event::HistoryRead);
    }
    events.extend(stream);
    let time = (seconds(end_ms).max(last.0 + 1), 1);
    events.push(Event::Idle { after: Place::Stream { token: token(time, 0), time, index: 0 } });
    events
}

fn states(begin: (Place, Option<HistoryPlace>), events: &[Event]) -> Vec<(Place, Option<HistoryPlace>)> {
    let mut states = vec![begin];
    for event in events {
        let (mut place, mut history) = states.last().unwrap().clone();
        match event {
            Event::Ticket { after, .. } | Event::Idle { after } => place = after.clone(),
            Event::Row { last, .. } => {
                if let Some(history) = &mut history {
                    history.last = Some(last.clone());
                    history.rows += 1;
                }
            }
            Event::HistoryRead => history = None,
            Event::AwaitBaseline { .. } | Event::End => {}
        }
        states.push((place, history));
    }
    states
}

/// Returns of how many completions a prediction error comes: a window counts one once, as it was first.
fn predicted(events: &[Event]) -> usize {
    let mut seen = BTreeSet::new();
    let is_predicted = |event: &&Event| {
        let Event::Ticket { normalised: Normalised::Completed(ticket), .. } = event else { return false };
        seen.insert((ticket.id.key().into_owned(), ticket.completed_at_ms)) && ticket.predicted.is_some()
    };
    events.iter().filter(is_predicted).count()
}

type Truth = (Vec<Expected>, Vec<String>);

/// The stream wins over the history; all else appears once.
fn truth(events: &[Event]) -> Truth {
    let (mut tickets, mut dead, mut streamed) = (Vec::new(), Vec::new(), BTreeSet::new());
    for event in events {
        let (normalised, is_row) = match event {
            Event::Ticket { normalised, .. } => (normalised, false),
            Event::Row { normalised, .. } => (normalised, true),
            _ => continue,
        };
        let key = match normalised {
            Normalised::Completed(ticket) => Some(ticket.id.key().into_owned()),
            Normalised::Dead(letter) => {
                let document = || letter.document.as_ref().map(|id| [b"document ", id.json().as_bytes()].concat());
                letter.id.as_ref().map(|id| id.key().into_owned()).or_else(document)
            }
            Normalised::Other(_) => continue,
        };
        if is_row && key.as_ref().is_some_and(|key| streamed.contains(key)) {
            continue;
        }
        if !is_row {
            streamed.extend(key.clone());
        }
        match normalised {
            Normalised::Completed(ticket) => tickets.push((key.unwrap(), ticket.completed_at_ms, ticket.commit)),
            Normalised::Dead(letter) => dead.push(letter.detail.clone()),
            Normalised::Other(_) => {}
        }
    }
    (tickets, dead)
}

/// The source of a script, as one process reads it.
pub(crate) struct ScriptedSource {
    script: Arc<Script>,
    line: Line,
    next: usize,
}

impl ScriptedSource {
    pub(crate) fn new(script: &Arc<Script>, line: Line) -> Self {
        Self { script: Arc::clone(script), line, next: 0 }
    }

    fn call(&self, doing: &str) -> Result<(), SourceError> {
        let turns = &self.line.world.turns;
        turns.works(Duration::from_micros(50));
        turns.trace(doing.as_bytes());
        turns.step();
        if self.line.world.source_fails() {
            self.line.tell(|| format!("{doing} fails"));
            return Err(SourceError::Unavailable { doing: doing.to_owned(), reason: "nobody answers".to_owned() });
        }
        Ok(())
    }
}

impl Source for ScriptedSource {
    fn is_replay(&self) -> bool {
        self.script.is_replay()
    }

    fn open(&mut self, from: Option<&Resume>) -> Result<Opened, SourceError> {
        self.call("opening the source")?;
        let states = &self.script.states;
        self.next = match from {
            None => 0,
            Some(from) => {
                let found = states.iter().position(|(place, history)| *place == from.place && *history == from.history);
                found.unwrap_or_else(|| panic!("no place of the script: {from:?}"))
            }
        };
        let (place, history) = states[self.next].clone();
        self.line.tell(|| format!("the source goes on after {} of {} events", self.next, states.len() - 1));
        Ok(Opened { place, fingerprint: FINGERPRINT.to_owned(), history })
    }

    fn read(&mut self, most: usize, timeout: Duration, into: &mut Vec<Event>) -> Result<(), SourceError> {
        self.call("reading the source")?;
        let turns = &self.line.world.turns;
        let Some(release) = self.script.releases.get(self.next) else {
            // A source without news costs time, even if nobody wants to wait.
            turns.sleep(timeout.max(Duration::from_micros(200)));
            return Ok(());
        };
        let until = turns.now() + timeout.max(Duration::from_micros(200));
        if *release > turns.now() {
            turns.sleep(release.min(&until).saturating_sub(turns.now()));
        }
        let most = turns.draw(|draw| draw.within(1, most.clamp(1, 40) as u64));
        for _ in 0..most {
            if self.script.releases.get(self.next).is_none_or(|release| *release > turns.now()) {
                break;
            }
            let event = self.script.events[self.next].clone();
            let is_alone = matches!(event, Event::AwaitBaseline { .. });
            if is_alone && !into.is_empty() {
                break;
            }
            into.push(event);
            self.next += 1;
            if is_alone {
                self.line.world.publish_baseline(2);
                break;
            }
        }
        Ok(())
    }
}
