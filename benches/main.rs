//! The figures of the README: each beside its baseline, from the same run, median of at least five.
//!
//! `script/bench [NAME…] [--runs N] [--output json] [--list]`. Goals are ratios against the baseline wherever one exists, because machines differ.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark speaks to a terminal")]
#![expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "times and places that are in range by construction")]
mod figures;
#[expect(dead_code, unused_imports, clippy::unwrap_used, reason = "the tests use the rest")]
#[path = "../tests/support/mod.rs"]
mod support;

use std::process::ExitCode;

use figures::{ALL, Figure};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let json = arguments.windows(2).any(|pair| pair == ["--output", "json"]);
    let value_of = |flag: &str| arguments.windows(2).find(|pair| pair[0] == flag).map(|pair| pair[1].clone());
    let runs = match value_of("--runs").map_or(Ok(5), |text| text.parse::<usize>()) {
        Ok(runs) if runs > 0 => runs,
        _ => {
            eprintln!("--runs takes a number above 0");
            return ExitCode::from(2);
        }
    };
    if arguments.iter().any(|a| a == "--list") {
        for (name, what, _) in ALL {
            println!("{name:<16} {what}");
        }
        return ExitCode::SUCCESS;
    }
    let mut wanted = Vec::new();
    let mut skip = false;
    for argument in &arguments {
        if std::mem::take(&mut skip) {
            continue;
        }
        if argument.starts_with("--") {
            skip = true;
        } else if ALL.iter().any(|(name, ..)| name == argument) {
            wanted.push(argument.as_str());
        } else {
            eprintln!("no figure named {argument:?}; --list names them");
            return ExitCode::from(2);
        }
    }
    let mut figures = Vec::new();
    for (name, what, measure) in ALL {
        if wanted.is_empty() || wanted.contains(name) {
            eprintln!("{name}: {what} ({runs} runs)");
            let measured = measure(runs);
            if !json {
                measured.iter().for_each(Figure::print);
            }
            figures.extend(measured);
        }
    }
    if json {
        println!("{}", figures.iter().map(Figure::json).collect::<serde_json::Value>());
    }
    ExitCode::SUCCESS
}
