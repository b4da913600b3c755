//! A stage may know earlier stages and the shared words, never a later one; and the core knows no effects.

use std::fs;
use std::path::{Path, PathBuf};

/// Modules by layer, in flow order. A file may name its own layer and those above it in this list.
const LAYERS: &[&[&str]] = &[
    &[
        "clock",
        "threads",
        "fault",
        "config",
        "spec",
        "ticket",
        "topics",
        "log",
        "registry",
        "summary",
        "stage",
        "metrics",
        "model_event",
        "cloudevent",
        "alert",
        "status",
        "trigger",
    ],
    &["features", "model", "drift", "baseline", "baseline_topic"],
    &["tail"],
    &["history"],
    &["window"],
    &["watch"],
    &["backfill", "audit"],
    &["judge"],
    &["train"],
    &["check", "quiet", "outbox", "webhook", "trigger_documents", "serve"],
    &["pipeline"],
    &["cli"],
];

/// Modules that are values in, decisions out.
const PURE: &[&str] = &["features", "drift", "window", "summary", "baseline"];
/// What no pure module may name.
const EFFECTS: &[&str] = &[
    "tokio",
    "rdkafka",
    "mongodb",
    "reqwest",
    "std::fs",
    "std::thread",
    "std::time",
    "crate::clock::now",
    "crate::threads",
    "crate::log",
    "crate::stage",
];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn files(below: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(below).expect("a folder of the source") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// Returns (module, file, code without tests and comments) of every file below a module of lib.rs.
fn modules() -> Vec<(String, PathBuf, String)> {
    let mut all = Vec::new();
    files(&source(), &mut all);
    all.into_iter()
        .filter_map(|path| {
            let inside = path.strip_prefix(source()).expect("below src").to_owned();
            let first = inside.components().next()?.as_os_str().to_str()?.trim_end_matches(".rs").to_owned();
            let is_test = matches!(path.file_stem().and_then(|stem| stem.to_str()), Some("tests" | "properties"))
                || path.parent().is_some_and(|folder| folder.ends_with("tests"));
            if is_test || matches!(first.as_str(), "lib" | "main") {
                return None;
            }
            let text = fs::read_to_string(&path).expect("a readable file");
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            let code = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
            Some((first, inside, code))
        })
        .collect()
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

#[test]
fn no_module_names_a_later_layer() {
    let mut faults = Vec::new();
    for (module, file, code) in modules() {
        let Some(own) = layer(&module) else {
            faults.push(format!("{}: module {module} has no layer; give it one in tests/layers.rs", file.display()));
            continue;
        };
        for (at, _) in code.match_indices("crate::") {
            let named: String = code[at + "crate::".len()..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if layer(&named).is_some_and(|other| other > own) {
                faults.push(format!("{}: names crate::{named}, which comes later", file.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_core_knows_no_effects() {
    let mut faults = Vec::new();
    for (module, file, code) in modules() {
        if PURE.contains(&module.as_str()) {
            for effect in EFFECTS.iter().filter(|effect| code.contains(**effect)) {
                faults.push(format!("{}: names {effect}", file.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
