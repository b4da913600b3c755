//! The simulation: tail, watch and judge as they are, over the log in memory, with every order of events and every mishap from one
//! seed. `script/simulate` runs it; without arguments it is a test.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]
#![expect(clippy::print_stdout, reason = "it is a command")]

mod check;
mod draw;
mod plan;
mod run;
mod script;
mod turns;
mod world;

use std::sync::Arc;

use crate::plan::Plan;
use crate::script::Script;

fn main() {
    let script = Arc::new(Script::drawn(1, 200));
    for _ in 0..2 {
        let begun = std::time::Instant::now();
        let outcome = run::run(&script, &Plan::calm(), &[0, 1, 2], run::empty_log(&script), 5, true);
        println!("{:?} {:?} {:?}", outcome.traced, outcome.violations, begun.elapsed());
        println!("{}", outcome.story.iter().take(40).cloned().collect::<Vec<_>>().join("\n"));
        let topics = tidemark::topics::Topics::new("tidemark");
        for topic in [&topics.status, &topics.alerts, &topics.summaries, &topics.retraining_triggers, &topics.positions] {
            println!("{topic} {}", run::records(&outcome.log, topic, 0).len());
        }
    }
}
