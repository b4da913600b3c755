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

const USAGE: &str = "script/bench [NAME…] [--runs N] [--output text|json] [--list]

  NAME…          figures to measure; all when none is named
  --runs N       runs of each (default 5); their median is the figure
  --output json  a list of name, value, unit, baseline, ratio, goal, holds
  --list         the names, and what each measures";

/// What the arguments ask for.
struct Asked {
    runs: usize,
    json: bool,
    /// Empty: all.
    names: Vec<String>,
}

/// Reads the arguments; `Err` is what to say instead of measuring, and how to exit.
fn read(arguments: impl Iterator<Item = String>) -> Result<Asked, (String, ExitCode)> {
    let wrong = |said: String| (format!("{said}\n\n{USAGE}"), ExitCode::from(2));
    let mut asked = Asked { runs: 5, json: false, names: Vec::new() };
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            // Cargo's own word.
            "--bench" => {}
            "-h" | "--help" => return Err((USAGE.to_owned(), ExitCode::SUCCESS)),
            "--list" => {
                let lines: Vec<String> = ALL.iter().map(|(name, what, _)| format!("{name:<16} {what}")).collect();
                return Err((lines.join("\n"), ExitCode::SUCCESS));
            }
            "--runs" => match arguments.next().and_then(|text| text.parse().ok()).filter(|runs| *runs > 0) {
                Some(runs) => asked.runs = runs,
                None => return Err(wrong("--runs takes a number above 0".to_owned())),
            },
            "--output" => match arguments.next().as_deref() {
                Some("json") => asked.json = true,
                Some("text") => asked.json = false,
                _ => return Err(wrong("--output takes text or json".to_owned())),
            },
            name if ALL.iter().any(|(known, ..)| *known == name) => asked.names.push(argument),
            _ if argument.starts_with('-') => return Err(wrong(format!("there is no flag {argument:?}"))),
            _ => return Err(wrong(format!("there is no figure {argument:?}; --list names them"))),
        }
    }
    Ok(asked)
}

fn main() -> ExitCode {
    let Asked { runs, json, names } = match read(std::env::args().skip(1)) {
        Ok(asked) => asked,
        Err((said, code)) => {
            if code == ExitCode::SUCCESS {
                println!("{said}")
            } else {
                eprintln!("{said}")
            }
            return code;
        }
    };
    let mut figures = Vec::new();
    for (name, what, measure) in ALL {
        if names.is_empty() || names.iter().any(|wanted| wanted == name) {
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
