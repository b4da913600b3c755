use std::path::Path;
use std::sync::OnceLock;

use crate::spec::Spec;

use super::*;

fn pool() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(|| {
        let spec = Spec::from_toml(include_str!("../../config/execution-tickets.toml")).unwrap();
        Pool::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("data/flights-demo.ndjson.zst"), &spec).unwrap()
    })
}

#[test]
#[ignore]
fn explore() {
    let judge = Judge::default();
    for draw in Draw::ALL {
        for rate in [1.0, 0.1, 0.02] {
            let begun = std::time::Instant::now();
            for seed in 0..2 {
                let plan = Plan { draw, rate, change: None };
                let found = year(pool(), plan, &judge, seed).unwrap();
                let shown: Vec<String> = found.iter().map(|o| format!("{} {} {}h", o.cause, o.level.name(), o.hours)).collect();
                eprintln!("{} {rate} {seed}: {shown:?}", draw.name());
            }
            eprintln!("{:?}", begun.elapsed());
        }
    }
}
