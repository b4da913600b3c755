//! One partition of `tickets`: record after record in, derived records out. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::outputs::{Batch, Output, To, Told, Written};
use super::place::{Metadata, Place};
use crate::alert::Alert;
use crate::features::Encoder;
use crate::log::Delivered;
use crate::model::shelf::Shelf;
use crate::spec::Spec;
use crate::summary::Summary;
use crate::ticket::{Break, CHAIN, Chain, Control, KIND, Mark, TICKET, Ticket};
use crate::topics::Topics;
use crate::window::{Counting, Pushed, Shape, Window};

/// What all partitions share.
#[derive(Clone)]
pub(super) struct Plan {
    pub(super) spec: Arc<Spec>,
    pub(super) fingerprint: Arc<str>,
    pub(super) model_json: Arc<str>,
    pub(super) topics: Arc<Topics>,
    pub(super) encoder: Arc<Encoder>,
    pub(super) shape: Shape,
    pub(super) shelf: Shelf,
}

impl Plan {
    pub(super) fn new(spec: Arc<Spec>, topics: Arc<Topics>, encoder: Encoder, shape: Shape, shelf: Shelf) -> Self {
        let fingerprint = spec.fingerprint().into();
        let model_json = serde_json::Value::from(spec.model.as_str()).to_string().into();
        Self { spec, fingerprint, model_json, topics, encoder: Arc::new(encoder), shape, shelf }
    }

    fn to(&self, partition: u32) -> To<'_> {
        To { topics: &self.topics, spec: &self.spec.name, model_json: &self.model_json, partition }
    }
}

/// A baseline to count with; `None` where one cannot be counted with: then slices have rows only.
pub(super) type Usable = Option<Arc<Counting>>;

/// The baselines at hand, by version.
pub(super) type Known = BTreeMap<u64, Usable>;

/// What a record needs before it can be taken. Nothing has happened yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// This version of the baseline.
    Baseline(u64),
    /// The window as it is at this record, counted under this version, from the log: the rows are no longer in memory.
    Reread(Option<u64>),
}

/// What happened since it was last asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) tickets: u64,
    pub(super) late: u64,
    pub(super) repeats: u64,
    pub(super) outside: u64,
    pub(super) strangers: u64,
    /// Kinds of the breaks, in order.
    pub(super) breaks: Vec<&'static str>,
    /// MongoDB's commit time of the newest ticket, seconds since 1970.
    pub(super) committed_s: Option<u32>,
}

/// A partition and its window.
#[derive(Debug)]
pub(super) struct Partition {
    number: u32,
    pub(super) place: Place,
    pub(super) window: Window,
    pub(super) written: [Written; 3],
    pub(super) tally: Tally,
    /// Where the first ticket of each slice stood: from the earliest on, the log gives the window back.
    firsts: BTreeMap<i64, Place>,
    /// Just after the last mark: what came since is still to be published.
    since_mark: Place,
    controls: Vec<Control>,
}

impl Partition {
    /// Begins at a place, with an empty window that counts under `counting`.
    pub(super) fn at(plan: &Plan, partition: u32, place: Place, counting: Option<Arc<Counting>>) -> Self {
        let mut window = Window::new(Arc::clone(&plan.encoder), plan.shape, counting);
        if let Some(mark) = &place.mark {
            window.mark(mark);
        }
        if let Some(floor_ms) = place.floor_ms {
            window.raise_floor(floor_ms);
        }
        Self {
            number: partition,
            window,
            written: Default::default(),
            tally: Tally::default(),
            firsts: BTreeMap::new(),
            since_mark: place.clone(),
            controls: Vec::new(),
            place,
        }
    }

    /// Returns the place from which the log gives back all that is in memory.
    pub(super) fn restore_place(&self) -> &Place {
        let earliest = self.firsts.values().min_by_key(|place| place.offset);
        earliest.filter(|first| first.offset < self.since_mark.offset).unwrap_or(&self.since_mark)
    }

    /// Returns the metadata of a commit of the present place.
    pub(super) fn metadata(&self, plan: &Plan) -> Metadata {
        Metadata {
            fingerprint: plan.fingerprint.to_string(),
            restore: self.restore_place().clone(),
            place: self.place.clone(),
            written: [0, 1, 2].map(|at| self.written[at].bound),
        }
    }

    /// Takes the next record.
    ///
    /// # Errors
    /// [`Need`] when something has to be fetched first; then nothing has changed.
    pub(super) fn step(&mut self, plan: &Plan, record: &Delivered, known: &Known, batch: Option<&mut Batch>) -> Result<(), Need> {
        let mut told = Step { plan, batch, sequence: 0 };
        match record.header(KIND) {
            _ if record.header(CHAIN).is_none() => self.tally.strangers += 1,
            Some(TICKET_KIND) => self.ticket(record, &mut told),
            _ => self.control(record, known, &mut told)?,
        }
        self.place.offset = record.offset + 1;
        Ok(())
    }

    fn ticket(&mut self, record: &Delivered, step: &mut Step<'_>) {
        // The place before this record, should it open a slice: only what `follow` changes in passing is copied.
        let before = self.place.chain.as_ref().map(|chain| (chain.seq, chain.hash));
        let followed = follow(&mut self.place.chain, record);
        let (was_known, was_broken, was_short) = (self.place.is_known, self.place.is_broken, self.place.short_until_ms);
        let restorable = matches!(followed, Followed::Next);
        let taken = self.settle(followed, record, step);
        if !taken || self.place.is_foreign {
            return;
        }
        let ticket = match Ticket::decode(&step.plan.spec, record.value.as_deref().unwrap_or_default()) {
            Ok(ticket) => ticket,
            Err(error) => {
                self.broken(record, step, &format!("record {} of the chain cannot be read: {error}", step.sequence), "unreadable");
                return;
            }
        };
        let start_ms = step.plan.shape.slice_of(ticket.event_at_ms);
        self.tally.tickets += 1;
        self.tally.committed_s = ticket.commit.map(|(seconds, _)| seconds).or(self.tally.committed_s);
        let mut production = None;
        match self.window.push(&ticket) {
            Pushed::Repeat => {
                self.tally.repeats += 1;
                return;
            }
            Pushed::Outside => self.tally.outside += 1,
            Pushed::New { late, opened, scored } => {
                production = scored;
                self.tally.late += u64::from(late);
                if opened {
                    let chain = match (&self.place.chain, before) {
                        (Some(chain), Some((seq, hash))) if restorable => Some(Chain { id: chain.id.clone(), seq, hash }),
                        _ => None,
                    };
                    let mut first = Place { offset: record.offset, chain, ..self.place.clone() };
                    (first.is_known, first.is_broken, first.short_until_ms) = (was_known, was_broken, was_short);
                    self.firsts.entry(start_ms).or_insert(first);
                    if self.firsts.len() > step.plan.shape.bound().saturating_mul(2) {
                        // Scattered times open slices without end, and the window lets go of the farthest.
                        let window = &self.window;
                        self.firsts.retain(|start_ms, _| window.holds(*start_ms));
                    }
                }
            }
        }
        if let Some(batch) = &mut step.batch {
            let (to, written) = (step.plan.to(self.number), &mut self.written[Output::Errors as usize]);
            batch.prediction_error(&to, written, step.sequence, &ticket);
            if let (Some(predicted), Some(series)) = (production, self.window.production_series()) {
                batch.production_error(&to, written, step.sequence, &ticket, (series, predicted));
            }
        }
    }

    fn control(&mut self, record: &Delivered, known: &Known, step: &mut Step<'_>) -> Result<(), Need> {
        let mut chain = self.place.chain.clone();
        let followed = follow(&mut chain, record);
        let control = match &followed {
            Followed::Skip(_) => None,
            _ => serde_json::from_slice::<Control>(record.value.as_deref().unwrap_or_default()).ok(),
        };
        let version = match &control {
            Some(Control::Mark(mark)) if !self.place.is_foreign => Some(mark.baseline),
            Some(Control::Baseline { version, .. }) if !self.place.is_foreign => Some(Some(*version)),
            _ => None,
        };
        // A window that is being restored counts under the version that will be in force at its end, from the beginning.
        if let Some(version) = version
            && step.batch.is_some()
        {
            self.prepare(version, known)?;
        }
        self.place.chain = chain;
        let taken = self.settle(followed, record, step);
        if !taken {
            return Ok(());
        }
        let Some(control) = control else {
            let kind = String::from_utf8_lossy(record.header(KIND).unwrap_or_default()).into_owned();
            let reason = format!("record {} of the chain is of kind {kind:?}, which cannot be read", step.sequence);
            self.broken(record, step, &reason, "unreadable");
            return Ok(());
        };
        if let Control::ChainStart { fingerprint, .. } = &control {
            self.chain_start(fingerprint, step.plan);
        }
        if self.place.is_foreign {
            return Ok(());
        }
        match &control {
            Control::Mark(mark) => self.mark(*mark, record, known, step),
            Control::Baseline { version, .. } => self.switch(Some(*version), known, step),
            Control::Gap { id, from_ms, to_ms, reason } if self.number == 0 => {
                // Its copies in the other partitions have the same id: one alert is enough.
                let spec = &step.plan.spec.name;
                let alert = Alert::Gap {
                    spec: spec.clone(),
                    control: id.clone(),
                    from_ms: *from_ms,
                    to_ms: *to_ms,
                    reason: reason.clone(),
                    recommendations: vec![
                        "Completions between the bounds may be missing from the log: compare with `tidemark audit`.".to_owned(),
                        "Give MongoDB a larger oplog, or let tidemark be away for less long.".to_owned(),
                    ],
                };
                let told = Told { alert, id: format!("{spec}-gap-{id}"), time_ms: *to_ms, subject: "gap".to_owned() };
                self.tell(step, &told);
            }
            _ => {}
        }
        if matches!(control, Control::Mark(_)) {
            self.since_mark = Place { offset: record.offset + 1, ..self.place.clone() };
        } else {
            self.controls.push(control);
        }
        Ok(())
    }

    /// Makes sure that `version` can be put in force without waiting.
    fn prepare(&self, version: Option<u64>, known: &Known) -> Result<(), Need> {
        if version == self.place.version && version == self.window.version() {
            return Ok(());
        }
        if let Some(version) = version
            && self.window.version() != Some(version)
            && !known.contains_key(&version)
        {
            return Err(Need::Baseline(version));
        }
        if counted(version, known) != self.window.version() && !self.window.has_all_rows() {
            return Err(Need::Reread(version));
        }
        Ok(())
    }

    fn switch(&mut self, version: Option<u64>, known: &Known, step: &Step<'_>) {
        self.place.version = version;
        self.window.touch();
        // A window that was read from the log for this very switch counts under the version already.
        if step.batch.is_some() && self.window.version() != version {
            let counting = version.and_then(|version| known.get(&version).cloned().flatten());
            if counting.as_ref().map(|counting| counting.version()) != self.window.version() {
                self.window.recount(counting).expect("rows were looked for before the switch");
            }
        }
    }

    fn chain_start(&mut self, fingerprint: &str, plan: &Plan) {
        let is_foreign = *fingerprint != *plan.fingerprint;
        if is_foreign != self.place.is_foreign {
            // A window begins at a change of spec.
            let place = Place { offset: self.place.offset, chain: self.place.chain.clone(), is_foreign, ..Place::default() };
            let (written, tally) = (std::mem::take(&mut self.written), std::mem::take(&mut self.tally));
            *self = Self { written, tally, ..Self::at(plan, self.number, place, None) };
        }
    }

    fn mark(&mut self, mark: Mark, record: &Delivered, known: &Known, step: &mut Step<'_>) {
        if self.place.is_known {
            let last = self.place.mark;
            let out_of_order = last.is_some_and(|last| mark.number != last.number + 1 || mark.end_ms <= last.end_ms);
            if out_of_order {
                let reason = format!("mark {} at {} ms follows mark {last:?}", mark.number, mark.end_ms);
                self.broken(record, step, &reason, "mark");
            }
            if mark.baseline != self.place.version {
                let reason = format!("mark {} names baseline {:?}, but {:?} is in force", mark.number, mark.baseline, self.place.version);
                self.broken(record, step, &reason, "version");
            }
        }
        if mark.baseline != self.place.version {
            self.switch(mark.baseline, known, step);
        }
        self.place.is_known = true;
        self.place.mark = Some(mark);
        self.window.mark(&mark);
        self.place.floor_ms = Some(self.window.floor_ms());
        self.place.short_until_ms = match self.place.short_until_ms {
            Some(i64::MAX) => Some(mark.end_ms.saturating_add(step.plan.shape.longest_ms)),
            Some(until_ms) if mark.end_ms >= until_ms => None,
            until => until,
        };
        // A replace without a pre-image may look for its like up to an hour before its own slice, and a slice earlier.
        let reach_ms = step.plan.shape.slice_ms.saturating_add(crate::clock::HOUR_MS);
        let needed_ms = self.window.floor_ms().saturating_sub(reach_ms);
        self.firsts.retain(|start_ms, _| *start_ms >= needed_ms);
        let (slices, controls) = (self.window.changed(), std::mem::take(&mut self.controls));
        let Some(batch) = &mut step.batch else { return };
        let summary = Summary {
            spec: step.plan.spec.name.clone(),
            fingerprint: step.plan.fingerprint.to_string(),
            version: self.window.version(),
            partition: self.number,
            sequence: step.sequence,
            mark,
            slices,
            controls,
            incomplete: self.place.short_until_ms.is_some(),
            more: false,
        };
        batch.summary(&step.plan.to(self.number), &mut self.written[Output::Summaries as usize], summary);
    }

    /// Acts on what the chain says of a record; returns whether the record is to be taken.
    fn settle(&mut self, followed: Followed, record: &Delivered, step: &mut Step<'_>) -> bool {
        step.sequence = self.place.chain.as_ref().map_or(0, |chain| chain.seq);
        match followed {
            Followed::Next => {
                self.place.is_broken = false;
                true
            }
            Followed::Start => {
                self.place.is_broken = false;
                // The next mark opens a count of its own, unless this is the log's very beginning.
                self.place.is_known = self.place.mark.is_none() && self.place.version.is_none();
                true
            }
            Followed::Middle => {
                self.place.is_broken = false;
                self.place.short_until_ms = Some(i64::MAX);
                true
            }
            Followed::Adopted(why) => {
                self.place.is_known &= !matches!(why, Break::Other { .. } | Break::Missing { .. });
                if matches!(why, Break::Missing { .. }) {
                    self.place.short_until_ms = Some(i64::MAX);
                }
                self.broken(record, step, &why.to_string(), name(&why));
                true
            }
            Followed::Skip(why) => {
                self.broken(record, step, &why.to_string(), name(&why));
                false
            }
        }
    }

    fn broken(&mut self, record: &Delivered, step: &mut Step<'_>, reason: &str, kind: &'static str) {
        self.tally.breaks.push(kind);
        if std::mem::replace(&mut self.place.is_broken, true) {
            return;
        }
        let (spec, sequence, partition) = (&step.plan.spec.name, step.sequence, self.number);
        let alert = Alert::BrokenChain {
            spec: spec.clone(),
            partition,
            sequence,
            reason: format!("at offset {} of partition {partition}: {reason}", record.offset),
            recommendations: vec![
                "Find out who else writes to the tickets topic, or which records it lost: `tidemark audit` compares it with MongoDB."
                    .to_owned(),
                "Verdicts go on from the record found; windows that cover the place may lack or repeat tickets.".to_owned(),
            ],
        };
        let time_ms = self.place.mark.map_or(record.timestamp_ms, |mark| mark.end_ms);
        let id = format!("{spec}-chain-{partition}-{sequence}-{kind}-{}", record.offset);
        let told = Told { alert, id, time_ms, subject: format!("tickets[{partition}]") };
        self.tell(step, &told);
    }

    fn tell(&mut self, step: &mut Step<'_>, told: &Told) {
        if let Some(batch) = &mut step.batch {
            batch.alert(&step.plan.to(self.number), &mut self.written[Output::Alerts as usize], step.sequence, told);
        }
    }
}

const TICKET_KIND: &[u8] = TICKET.as_bytes();

/// What one record is taken with.
struct Step<'a> {
    plan: &'a Plan,
    /// `None` while restoring: what it would write is written already.
    batch: Option<&'a mut Batch>,
    /// The record's sequence.
    sequence: u64,
}

/// Where a record stands to the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Followed {
    /// The next of it.
    Next,
    /// The first of a chain.
    Start,
    /// The first that we see, in the middle of a chain: the log no longer reaches back.
    Middle,
    /// Not the next; the chain goes on from it.
    Adopted(Break),
    /// No part of it.
    Skip(Break),
}

fn follow(chain: &mut Option<Chain>, record: &Delivered) -> Followed {
    let broken = match chain.as_mut().map(|chain| chain.follow(record)) {
        Some(Ok(())) => return Followed::Next,
        Some(Err(broken)) => Some(broken),
        None => None,
    };
    let Some(theirs) = record.header(CHAIN).and_then(Chain::parse) else {
        let header = String::from_utf8_lossy(record.header(CHAIN).unwrap_or_default()).chars().take(100).collect();
        return Followed::Skip(broken.unwrap_or(Break::Unreadable(header)));
    };
    let is_start = {
        let mut fresh = Chain::begin(&theirs.id);
        theirs.seq == 1 && fresh.follow(record).is_ok()
    };
    let is_new = chain.as_ref().is_none_or(|chain| chain.id != theirs.id);
    let followed = match broken {
        Some(repeat @ Break::Repeat { .. }) => return Followed::Skip(repeat),
        _ if is_start && is_new && (broken.is_none() || record.header(KIND) == Some(b"chain-start")) => Followed::Start,
        Some(broken) => Followed::Adopted(broken),
        None => Followed::Middle,
    };
    *chain = Some(theirs);
    followed
}

fn name(broken: &Break) -> &'static str {
    match broken {
        Break::Stranger => "stranger",
        Break::Unreadable(_) => "unreadable",
        Break::Repeat { .. } => "repeat",
        Break::Missing { .. } => "missing",
        Break::Hash { .. } => "hash",
        Break::Other { .. } => "other",
    }
}

fn counted(version: Option<u64>, known: &Known) -> Option<u64> {
    let version = version?;
    known.get(&version)?.as_ref().map(|counting| counting.version())
}
