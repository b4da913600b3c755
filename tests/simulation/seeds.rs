//! One seed: its scenario, its plan, and, when it fails, the shortest story that still does.

use std::sync::Arc;

use crate::check::{Clean, clean, faults, judged};
use crate::plan::{Mishap, Plan};
use crate::run::{empty_log, run};
use crate::script::Script;
use crate::world::Tally;

/// Completions of a scenario at most.
const MOST: usize = 300;
/// Seeds in a row that share a scenario, so that its clean pass is made once.
pub(crate) const SHARE: u64 = 8;

/// A scenario, and what the first stage makes of it when nothing goes wrong.
pub(crate) struct Scenario {
    seed: u64,
    script: Arc<Script>,
    clean: Clean,
}

impl Scenario {
    /// Draws the scenario of a seed.
    pub(crate) fn of(seed: u64) -> Result<Self, Vec<String>> {
        Self::sized(seed / SHARE, MOST)
    }

    fn sized(seed: u64, most: usize) -> Result<Self, Vec<String>> {
        let script = Arc::new(Script::drawn(seed, most));
        let clean = clean(&script)?;
        Ok(Self { seed, script, clean })
    }

    /// Whether it is the scenario of that seed.
    pub(crate) fn is_of(&self, seed: u64) -> bool {
        self.seed == seed / SHARE
    }

    fn plan(&self, seed: u64) -> Plan {
        Plan::drawn(seed, self.script.length())
    }
}

/// What came of one run.
pub(crate) struct Came {
    pub(crate) violations: Vec<String>,
    pub(crate) traced: (u64, u64),
    pub(crate) tally: Tally,
    story: Vec<String>,
}

fn under(scenario: &Scenario, plan: &Plan, seed: u64, with_story: bool) -> Came {
    let outcome = run(&scenario.script, plan, &[0, 1, 2], empty_log(&scenario.script), seed, with_story);
    let mut violations = outcome.violations;
    if violations.is_empty() {
        violations = faults(&scenario.script, &outcome.log, &scenario.clean);
    }
    let mut tally = outcome.tally;
    judged(&outcome.log, &mut tally);
    *tally.entry("tickets").or_default() += scenario.script.tickets.len() as u64;
    *tally.entry("turns").or_default() += outcome.traced.1;
    Came { violations, traced: outcome.traced, tally, story: outcome.story }
}

/// Runs one seed.
pub(crate) fn simulate(scenario: &Scenario, seed: u64) -> Came {
    under(scenario, &scenario.plan(seed), seed, false)
}

/// Returns the story of a seed that fails, as short as it can be made.
pub(crate) fn story(seed: u64) -> Result<String, Vec<String>> {
    let mut scenario = Scenario::of(seed)?;
    let mut plan = scenario.plan(seed);
    let fails = |scenario: &Scenario, plan: &Plan| !under(scenario, plan, seed, false).violations.is_empty();
    // Without what does not matter.
    let mut at = 0;
    while at < plan.mishaps.len() {
        let mut fewer = plan.clone();
        fewer.mishaps.remove(at);
        if fails(&scenario, &fewer) {
            plan = fewer;
        } else {
            at += 1;
        }
    }
    while plan.processes > 1 {
        let fewer = Plan { processes: plan.processes - 1, ..plan.clone() };
        if !fails(&scenario, &fewer) {
            break;
        }
        plan = fewer;
    }
    // With fewer tickets: half as many, then three quarters.
    let mut most = scenario.script.events.len();
    for share in [50, 50, 50, 75, 75, 90] {
        let fewer = most * share / 100;
        if let Ok(smaller) = Scenario::sized(seed / SHARE, fewer)
            && fails(&smaller, &plan)
        {
            (scenario, most) = (smaller, fewer);
        }
    }
    let came = under(&scenario, &plan, seed, true);
    let config = &scenario.script.config;
    let mut lines = vec![format!(
        "seed {seed}: {} events, {} partitions, slices of {} h, {} process{}",
        scenario.script.events.len(),
        config.kafka.partitions,
        config.window.slice_ms / 3_600_000,
        plan.processes,
        if plan.processes == 1 { "" } else { "es" }
    )];
    lines.extend(plan.mishaps.iter().map(Mishap::to_string).map(|mishap| format!("  {mishap}")));
    lines.push("what happens:".to_owned());
    lines.extend(came.story.iter().map(|line| format!("  {line}")));
    lines.push("what is wrong:".to_owned());
    lines.extend(came.violations.iter().map(|violation| format!("  {violation}")));
    Ok(lines.join("\n"))
}
