//! Processes that train, killed while they answer what the judge and people ask for: every request has one answer, and its version,
//! its baseline and Production agree.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bson::{Document, doc};
use mongodb::Client;
use tidemark::baseline::Baseline;
use tidemark::model_event::ModelEvent;
use tidemark::registry::Registry;
use tidemark::trigger::{Trigger, TriggerChange, TriggerType};

use super::campaign::{Dice, Seeds, Story, run};
use super::check::Checker;
use super::flow;
use super::kills::Run;
use crate::e2e::{completed_at, halves};
use crate::support::mlflow::Mlflow;
use crate::support::mongo::runtime;
use crate::support::{Deployment, kafka, mongo};

/// What people ask for in one run.
const REQUESTS: usize = 4;
/// Runs of the test that every change has to pass.
const SEEDS: u64 = 1;
/// Flights before March that the first model learns from.
const LEARNT: usize = 6_000;
/// Flights of March that live through the stages, and from which on they take twice as long.
const LIVED: usize = 8_000;
const SLOW_FROM: usize = 3_000;
const MODEL: &str = "ticket-duration-predictor";
/// What writes answers has a transactional id of its own.
const STAGES: [&str; 2] = ["train", "baseline"];

fn lived() -> Vec<Document> {
    let mut flights = halves().1[..LIVED].to_vec();
    flights.sort_by_key(completed_at);
    flow::slow(&mut flights[SLOW_FROM..], 2);
    flights
}

/// Asks for a training as a person does, by a document.
fn ask(deployment: &Deployment, number: usize) {
    let uri = &mongo().uri;
    let request = doc! {
        "_id": format!("request-{number}"),
        "trigger_type": "manual",
        "model_name": MODEL,
        "priority": 4,
        "reason": "chaos",
        "timestamp": bson::DateTime::now(),
    };
    let requests = async {
        let client = Client::with_uri_str(uri).await.expect("a valid connection string");
        client.database(&deployment.prefix).collection::<Document>("ml_retraining_triggers").insert_one(request).await
    };
    runtime().block_on(requests).expect("MongoDB takes a request");
}

/// What the topics say of requests and answers.
struct Told {
    triggers: Vec<Trigger>,
    outcomes: Vec<ModelEvent>,
    applied: BTreeSet<String>,
    baselines: Vec<Baseline>,
}

impl Told {
    fn read(checker: &Checker) -> Self {
        let json = |topic: &str| -> Vec<serde_json::Value> {
            let records = checker.records(topic, 0);
            records.iter().map(|record| serde_json::from_slice(record.value.as_deref().expect("a value")).expect("JSON")).collect()
        };
        let events = json(&checker.topics.model_events);
        let applied = events.iter().filter(|event| event["kind"] == "applied");
        let outcomes = events.iter().filter(|event| event["kind"] == "outcome");
        Self {
            triggers: json(&checker.topics.retraining_triggers)
                .into_iter()
                .map(|it| serde_json::from_value(it).expect("a trigger"))
                .collect(),
            outcomes: outcomes.map(|event| serde_json::from_value(event.clone()).expect("an outcome")).collect(),
            applied: applied.map(|event| event["id"].as_str().expect("an id").to_owned()).collect(),
            baselines: json(&checker.topics.baselines).into_iter().map(|it| serde_json::from_value(it).expect("a baseline")).collect(),
        }
    }

    fn of(&self, change: TriggerChange) -> impl Iterator<Item = &Trigger> {
        self.triggers.iter().filter(move |trigger| trigger.change == change)
    }

    /// Ids of outcomes, and how often each is there.
    fn answers(&self) -> BTreeMap<&str, usize> {
        let mut answers = BTreeMap::new();
        for outcome in &self.outcomes {
            let ModelEvent::Outcome { id, .. } = outcome else { continue };
            *answers.entry(id.as_str()).or_default() += 1;
        }
        answers
    }

    /// Whether so many requests of people are there, and all that was asked for is answered, and done in the registry.
    fn is_done(&self, requests: usize) -> bool {
        let answers = self.answers();
        let asked = self.of(TriggerChange::Raised).filter(|trigger| trigger.trigger_type == TriggerType::Manual).count();
        asked >= requests
            && self.of(TriggerChange::Due).all(|due| answers.contains_key(due.answer_id().as_str()))
            && answers.keys().all(|id| self.applied.contains(*id))
    }

    /// Versions that were promoted, in order.
    fn promoted(&self) -> Vec<u64> {
        self.outcomes.iter().filter_map(|outcome| if let ModelEvent::Outcome { version, .. } = outcome { *version } else { None }).collect()
    }

    fn check(&self, mlflow: &Mlflow, story: &mut Story) {
        for (id, count) in self.answers().iter().filter(|(_, count)| **count != 1) {
            story.violation(format!("request {id} has {count} answers"));
        }
        let mut asked = BTreeMap::<String, usize>::new();
        self.of(TriggerChange::Due).for_each(|due| *asked.entry(due.answer_id()).or_default() += 1);
        let answers = self.answers();
        for id in asked.keys().filter(|id| !answers.contains_key(id.as_str())) {
            story.violation(format!("request {id} has no answer"));
        }
        for id in answers.keys().filter(|id| !asked.contains_key(**id)) {
            story.violation(format!("answer {id} has no request"));
        }
        let versions: Vec<u64> = self.baselines.iter().map(|baseline| baseline.version).collect();
        if versions != (1..=versions.len() as u64).collect::<Vec<_>>() {
            story.violation(format!("baselines are not numbered one after the other: {versions:?}"));
        }
        for outcome in &self.outcomes {
            let ModelEvent::Outcome { id, baseline, version, .. } = outcome else { continue };
            let its = baseline.and_then(|number| self.baselines.iter().find(|baseline| baseline.version == number));
            if baseline.is_some() && its.is_none() {
                story.violation(format!("{id} brings baseline {baseline:?}, which is not there"));
            }
            if version.is_some() && its.and_then(|its| its.scored_by.as_ref()).map(|model| model.version) != *version {
                story.violation(format!("{id} promotes version {version:?}, its baseline is another's"));
            }
        }
        let registry = mlflow.registry();
        let last = self.baselines.last().and_then(|baseline| baseline.scored_by.as_ref()).map(|model| model.version);
        let production = registry.production(MODEL).expect("MLflow answers");
        if production != last {
            story.violation(format!("version {production:?} is in Production, the last baseline is that of {last:?}"));
        }
        let versions = registry.versions(MODEL).expect("MLflow answers");
        let keys: BTreeSet<&str> = versions.iter().map(|version| version.tags["tidemark.key"].as_str()).collect();
        if keys.len() != versions.len() {
            story.violation(format!("{} versions of {} candidates", versions.len(), keys.len()));
        }
        for key in keys {
            let runs = mlflow.runs(key).len();
            if runs != 1 {
                story.violation(format!("{runs} runs of candidate {key}"));
            }
        }
    }
}

fn trainings(seed: u64, story: &mut Story) {
    let mlflow = Mlflow::start();
    let (mut deployment, checker) =
        flow::empty(&format!("trainings-{seed}-{}", std::process::id()), &flow::On::broker(&kafka().bootstrap_servers));
    deployment.set("MLFLOW_TRACKING_URI", &mlflow.uri);
    deployment.set("MLFLOW_EXPERIMENT_NAME", "tests");
    deployment.set("ML_DATA_VOLUME_TRIGGER_THRESHOLD", "1000000");
    let learnt = halves().0;
    deployment.insert(&learnt[learnt.len() - LEARNT..]);
    deployment.command(&["train"]);
    let mut dice = Dice::new(seed);
    let slots = flow::perhaps_seated(&mut dice, flow::trainers());
    let mut run = Run::new(seed, (&STAGES, [1, 1, 2, 4]), deployment, dice, slots, story);
    let judging = run.deployment.start("judging", &["run", "--stages", "tail,watch,judge"]);
    run.start(true);
    if !run.comes(1, || checker.tail_streams()) {
        return run.story.violation("tail did not begin");
    }
    let flights = lived();
    for (number, part) in flights.chunks(LIVED.div_ceil(REQUESTS)).enumerate() {
        run.deployment.insert(part);
        ask(&run.deployment, number);
        run.story.tell(format!("request {number}"));
        let wait = run.dice.roll(8_000);
        std::thread::sleep(Duration::from_millis(wait as u64));
        run.reap();
        run.kill_some();
        if !run.comes(3, || Told::read(&checker).is_done(number + 1)) {
            let says: Vec<String> = run.slots.iter().flat_map(|slot| &slot.process).map(crate::support::Process::last_words).collect();
            return run.story.violation(format!("not all that was asked for is answered\n{}", says.join("\n")));
        }
    }
    let last = crate::e2e::last_mark(&flights);
    if !run.comes(0, || checker.judged_until() >= Some(last) && Told::read(&checker).is_done(REQUESTS)) {
        return run.story.violation(format!("judged until {:?} of {last}", checker.judged_until()));
    }
    run.slots.clear();
    judging.kill();
    let told = Told::read(&checker);
    told.check(&mlflow, story);
    checker.audit(LEARNT + LIVED, story);
    checker.once(story);
    let (answers, promoted) = (told.outcomes.len(), told.promoted());
    story.note(format!("{answers} answers, promoted: {promoted:?}"));
}

#[test]
fn whoever_trains_and_is_killed_every_request_has_one_answer() {
    run(Seeds::or(SEEDS), "kills", trainings);
}
