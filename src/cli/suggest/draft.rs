//! From a profile to the commented TOML of a spec: every role but the target gets its most likely path.

use std::collections::{BTreeMap, HashSet};

use super::profile::{Profile, Seen};

/// A draft.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    /// The spec, with comments.
    pub(super) toml: String,
    /// What a person has to decide.
    pub(super) notes: Vec<String>,
}

/// Share of a path's values that make it of a kind.
const MOST: f64 = 0.9;
/// Categories of a text, at most.
const CATEGORIES: usize = 60;
/// Members from which a document is measured and not taken apart.
const MEMBERS: usize = 30;
/// Features that are drafted, at most; the others are left to the person.
const FEATURES: usize = 60;

/// What a path is read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    Time,
    Length,
    JsonSize,
    /// Names, ids, free text: nothing that drifts.
    Id,
    Mixed,
}

struct Leaf<'p> {
    path: &'p [String],
    seen: &'p Seen,
    kind: Kind,
}

impl Leaf<'_> {
    /// The path as a TOML value.
    fn quoted(&self) -> String {
        let text = |text: &str| toml::Value::String(text.to_owned()).to_string();
        if self.path.iter().any(|name| name.contains('.')) {
            let names: Vec<String> = self.path.iter().map(|name| text(name)).collect();
            return format!("[{}]", names.join(", "));
        }
        text(&self.path.join("."))
    }

    fn last(&self) -> String {
        self.path.last().map(|name| name.to_lowercase()).unwrap_or_default()
    }

    /// A place in a list of words: the first that the name has, of the whole path where the last name has none.
    fn rank(&self, words: &[&str]) -> Option<usize> {
        let (last, whole) = (self.last(), self.path.join("_").to_lowercase());
        let of = |name: &str| words.iter().position(|word| name.contains(word));
        of(&last).or_else(|| of(&whole).map(|rank| rank + words.len()))
    }
}

const ID_WORDS: [&str; 4] = ["ticket_id", "_id", "id", "key"];
const STATUS_WORDS: [&str; 5] = ["status", "state", "phase", "stage", "result"];
const DONE_WORDS: [&str; 14] = [
    "complete",
    "completed",
    "done",
    "closed",
    "finished",
    "delivered",
    "returned",
    "resolved",
    "success",
    "succeeded",
    "paid",
    "settled",
    "ended",
    "arrived",
];
const END_WORDS: [&str; 12] =
    ["complet", "finish", "end", "close", "deliver", "return", "resolv", "done", "arriv", "settle", "stop", "update"];
const TARGET_WORDS: [&str; 10] = ["actual", "duration", "elapsed", "minutes", "seconds", "_ms", "total", "cost", "price", "amount"];
const PREDICTION_WORDS: [&str; 6] = ["predict", "forecast", "estimat", "expected", "quote", "eta"];

/// Drafts a spec.
pub(super) fn draft(profile: &Profile, database: &str, collection: &str) -> Draft {
    let leaves = leaves(profile);
    let mut notes = Vec::new();
    let best = |words: &[&str], fits: &dyn Fn(&Leaf) -> bool| {
        leaves
            .iter()
            .filter(|leaf| fits(leaf))
            .filter_map(|leaf| Some((leaf.rank(words)?, leaf.path.len(), leaf)))
            .min_by_key(|(r, l, _)| (*r, *l))
    };
    let id = best(&ID_WORDS, &|leaf| leaf.seen.is_unique() && leaf.seen.present == profile.documents && leaf.path.len() == 1);
    let id = id.map_or_else(|| "\"_id\"".to_owned(), |(_, _, leaf)| leaf.quoted());
    let status = best(&STATUS_WORDS, &|leaf| leaf.kind == Kind::Text && leaf.seen.texts > 0).map(|(_, _, leaf)| leaf);
    let completed: Vec<String> = status
        .into_iter()
        .flat_map(|leaf| leaf.seen.categories.keys())
        .filter(|value| value.to_lowercase().split(|c: char| !c.is_alphanumeric()).any(|word| DONE_WORDS.contains(&word)))
        .filter(|value| !value.to_lowercase().contains("not"))
        .cloned()
        .collect();
    let completed_at = best(&END_WORDS, &|leaf| leaf.kind == Kind::Time).map(|(_, _, leaf)| leaf);
    let completed_at = completed_at.or_else(|| leaves.iter().find(|leaf| leaf.kind == Kind::Time));
    let predictions: Vec<&Leaf> = {
        let mut found: Vec<_> = leaves
            .iter()
            .filter(|leaf| leaf.kind == Kind::Number && !leaf.last().contains("version"))
            .filter_map(|leaf| Some((leaf.rank(&PREDICTION_WORDS)?, leaf)))
            .collect();
        // Of two in a document of predictions, the one that is named like a target.
        found.sort_by_key(|(rank, leaf)| (*rank, leaf.rank(&TARGET_WORDS).unwrap_or(usize::MAX)));
        found.into_iter().map(|(_, leaf)| leaf).collect()
    };
    let version = leaves.iter().find(|leaf| leaf.last().contains("model_version"));

    let name = slug(collection, '-');
    let mut toml = format!(
        "# A draft of a watch spec, from {} documents of {collection}. Name the target, correct the rest, and check it:\n\
         #   tidemark config check --spec THIS-FILE\n\n\
         name = {name:?}\nmodel = \"{name}-predictor\"\n\n[source]\ndatabase = {}\ncollection = {}\n\n",
        profile.documents,
        quoted(database),
        quoted(collection),
    );
    toml.push_str("# A document is completed when `status` has one of these values.\n[ticket]\n");
    toml.push_str(&format!("id = {id}\n"));
    match status {
        Some(leaf) => {
            let values: Vec<String> =
                leaf.seen.categories.iter().take(20).map(|(value, count)| format!("{} ({count})", quoted(value))).collect();
            toml.push_str(&format!("# In the sample: {}\nstatus = {}\n", values.join(", "), leaf.quoted()));
        }
        None => {
            notes.push("no field looks like a status: name ticket.status and ticket.completed".to_owned());
            toml.push_str("# No field looks like a status: name it.\nstatus = \"status\"\n");
        }
    }
    if status.is_some() && completed.is_empty() {
        notes.push("no status says that it means completed: name ticket.completed".to_owned());
    }
    toml.push_str(&format!("completed = [{}]\n", completed.iter().map(|value| quoted(value)).collect::<Vec<_>>().join(", ")));
    let others: Vec<String> = leaves.iter().filter(|leaf| leaf.kind == Kind::Time).map(Leaf::quoted).collect();
    match completed_at {
        Some(leaf) => toml.push_str(&format!("# Times: {}\ncompleted_at = {}\n\n", others.join(", "), leaf.quoted())),
        None => {
            notes.push("no field looks like a time: name ticket.completed_at".to_owned());
            toml.push_str("# No field looks like a time: name it.\ncompleted_at = \"completed_at\"\n\n");
        }
    }
    toml.push_str(&target(&leaves, completed_at));
    notes.push("name the target: target.paths, or target.between".to_owned());
    toml.push_str("# The document's own prediction of the target: the first value above 0. Must be in the target's unit.\n[prediction]\n");
    toml.push_str(&format!("paths = [{}]\n", predictions.iter().map(|leaf| leaf.quoted()).collect::<Vec<_>>().join(", ")));
    toml.push_str(&version.map_or_else(|| "# model_version = \"…\"\n".to_owned(), |leaf| format!("model_version = {}\n", leaf.quoted())));

    let is_role = |leaf: &Leaf| {
        let is = |role: Option<&Leaf>| role.is_some_and(|role| role.path == leaf.path);
        is(status) || is(completed_at) || is(version) || leaf.quoted() == id
    };
    toml.push_str(&features(&leaves, profile, &is_role));
    Draft { toml, notes }
}

fn target(leaves: &[Leaf], completed_at: Option<&Leaf>) -> String {
    let mut text =
        "# The right answer: the first path that is there, else the time between two fields. Put the unit into its name.\n".to_owned();
    let is_positive = |leaf: &&Leaf| leaf.kind == Kind::Number && leaf.seen.numbers.iter().all(|number| *number >= 0.0);
    let mut found: Vec<&Leaf> = leaves.iter().filter(is_positive).collect();
    found.sort_by_key(|leaf| leaf.rank(&TARGET_WORDS).unwrap_or(usize::MAX));
    text.push_str("# Candidates (from smallest to largest in the sample):\n");
    for leaf in found.iter().take(8) {
        let (low, high) = range(&leaf.seen.numbers);
        text.push_str(&format!("#   paths = [{}]  # {low} to {high}\n", leaf.quoted()));
    }
    if let Some(end) = completed_at {
        for start in leaves.iter().filter(|leaf| leaf.kind == Kind::Time && leaf.path != end.path).take(4) {
            text.push_str(&format!("#   between = {{ from = {}, to = {} }}  # ms\n", start.quoted(), end.quoted()));
        }
    }
    text.push_str("[target]\nname = \"target\"\npaths = []\n# Outside [min, max] a document is a dead letter.\nmin = 1.0\nmax = 1e12\n\n");
    text
}

fn range(numbers: &[f64]) -> (f64, f64) {
    numbers.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), number| (low.min(*number), high.max(*number)))
}

fn features(leaves: &[Leaf], profile: &Profile, is_role: &dyn Fn(&Leaf) -> bool) -> String {
    let mut fields = "\n# The fields that a record holds. Nothing else leaves MongoDB.\n".to_owned();
    let mut features = "# The features, in the model's order. `default` is what the model is given for a missing or unseen value.\n\
                        # Take out what is known only at the end: it would tell the model the answer.\n"
        .to_owned();
    let mut left_out = Vec::new();
    let mut names: HashSet<String> = HashSet::new();
    let mut number = 0;
    for leaf in leaves.iter().filter(|leaf| !is_role(leaf)) {
        let rare = leaf.seen.present * 20 < profile.documents;
        let tells = leaf.kind == Kind::Number && leaf.last().contains("actual");
        let why = match leaf.kind {
            _ if rare => Some("in fewer than one document of 20"),
            _ if tells => Some("looks like the answer"),
            Kind::Id => Some("an id or free text"),
            Kind::Mixed => Some("of several types"),
            _ if number == FEATURES => Some("more than enough"),
            _ => None,
        };
        if let Some(why) = why {
            left_out.push(format!("#   {}: {why}\n", leaf.quoted()));
            continue;
        }
        number += 1;
        let name = unique(&slug(&leaf.path.join("_"), '_'), &mut names);
        let (kind, encoder, default, table) = encoding(leaf);
        fields.push_str(&format!("[[field]]\nname = \"{name}\"\npaths = [{}]\nkind = \"{kind}\"\n\n", leaf.quoted()));
        features.push_str(&format!(
            "[[feature]]\nname = \"{name}\"\nfield = \"{name}\"\nencoder = \"{encoder}\"\ndefault = {default:?}\n{table}\n"
        ));
    }
    if !left_out.is_empty() {
        features.push_str(&format!("# Left out:\n{}", left_out.concat()));
    }
    format!("{fields}{features}")
}

/// Kind, encoder, default and table of a feature.
fn encoding(leaf: &Leaf) -> (&'static str, &'static str, f64, String) {
    match leaf.kind {
        Kind::Time => ("time", "hour", 12.0, String::new()),
        Kind::Length => ("length", "value", 0.0, String::new()),
        Kind::JsonSize => ("json_size", "value", 0.0, String::new()),
        Kind::Number => ("number", "value", median(&leaf.seen.numbers), String::new()),
        Kind::Text | Kind::Id | Kind::Mixed => {
            // Texts are matched in either case; the most frequent come first.
            let mut folded: BTreeMap<String, (usize, &str)> = BTreeMap::new();
            for (text, count) in &leaf.seen.categories {
                let entry = folded.entry(text.to_lowercase()).or_insert((0, text));
                entry.0 += count;
            }
            let mut ranked: Vec<(usize, &str)> = folded.into_values().collect();
            ranked.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
            let rows: Vec<String> =
                ranked.iter().enumerate().map(|(n, (_, text))| format!("    {{ text = {}, value = {n}.0 }},\n", quoted(text))).collect();
            ("text", "table", 0.0, format!("table = [\n{}]\n", rows.concat()))
        }
    }
}

fn median(numbers: &[f64]) -> f64 {
    let mut finite: Vec<f64> = numbers.iter().copied().filter(|number| number.is_finite()).collect();
    finite.sort_unstable_by(f64::total_cmp);
    finite.get(finite.len() / 2).copied().unwrap_or(0.0)
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn slug(text: &str, between: char) -> String {
    let mut slug = String::new();
    for c in text.chars().map(|c| c.to_ascii_lowercase()) {
        let c = if c.is_ascii_alphanumeric() { c } else { between };
        if c != between || !(slug.is_empty() || slug.ends_with(between)) {
            slug.push(c);
        }
        if slug.len() == 80 {
            break;
        }
    }
    let slug = slug.trim_matches(between);
    if slug.is_empty() { "field".to_owned() } else { slug.to_owned() }
}

fn unique(name: &str, names: &mut HashSet<String>) -> String {
    let taken = ["target", "error", "clusters"].contains(&name);
    let mut candidate = if taken { format!("{name}_field") } else { name.to_owned() };
    let mut number = 2;
    while !names.insert(candidate.clone()) {
        candidate = format!("{name}_{number}");
        number += 1;
    }
    candidate
}

/// The paths that hold values. Below a document that is measured whole there are none.
fn leaves(profile: &Profile) -> Vec<Leaf<'_>> {
    let measured: Vec<&[String]> = profile
        .paths
        .iter()
        .filter(|(_, seen)| seen.documents > 0 && seen.members.len() > MEMBERS)
        .map(|(path, _)| path.as_slice())
        .collect();
    let is_below = |path: &[String]| measured.iter().any(|above| path.len() > above.len() && path.starts_with(above));
    let whole = |path: &[String]| measured.contains(&path);
    profile
        .paths
        .iter()
        .filter(|(path, seen)| !is_below(path) && (seen.documents == 0 || whole(path)))
        .map(|(path, seen)| Leaf { path, seen, kind: kind(path, seen) })
        .collect()
}

#[expect(clippy::cast_precision_loss, reason = "shares of a sample")]
fn kind(path: &[String], seen: &Seen) -> Kind {
    let most = |count: usize| count as f64 >= MOST * seen.present as f64;
    let name = path.last().map(|name| name.to_lowercase()).unwrap_or_default();
    let names_a_time = ["_at", "at", "time", "date", "timestamp", "_ts", "when"].iter().any(|word| name.ends_with(word));
    if most(seen.times) || (most(seen.instants) && names_a_time) {
        return Kind::Time;
    }
    if most(seen.documents) {
        return Kind::JsonSize;
    }
    if most(seen.lists) {
        return Kind::Length;
    }
    if most(seen.numbers.len()) {
        let names_an_id = name == "id" || name.ends_with("_id");
        return if names_an_id { Kind::Id } else { Kind::Number };
    }
    if most(seen.texts + seen.flags) {
        let few = !seen.has_many_texts && seen.categories.len() <= CATEGORIES;
        // As many texts as documents are names, however few documents there are.
        return if few && seen.categories.len() * 2 <= seen.present.max(4) { Kind::Text } else { Kind::Id };
    }
    if most(seen.ids) { Kind::Id } else { Kind::Mixed }
}

#[cfg(test)]
mod tests {
    use super::super::profile::Value;
    use super::*;
    use crate::spec::Spec;

    fn drafted(lines: impl IntoIterator<Item = serde_json::Value>, collection: &str) -> Draft {
        let mut profile = Profile::default();
        for line in lines {
            let Value::Document(members) = Value::of_json(&line) else { panic!("{line}") };
            profile.add(&members);
        }
        draft(&profile, "db", collection)
    }

    fn trips() -> Vec<serde_json::Value> {
        (0..400_u32)
            .map(|n| {
                serde_json::json!({
                    "_id": { "$oid": format!("{n:024x}") },
                    "phase": (["RETURNED", "RIDING", "RETURNED_LATE", "LOST"][n as usize % 4]),
                    "returned": { "at": format!("2024-05-{:02}T10:00:00+02:00", n % 28 + 1) },
                    "picked_up": { "at": { "$date": { "$numberLong": "1714557600000" } } },
                    "ride": { "minutes": n % 50 + 1 },
                    "quote": { "minutes": n % 40 + 5, "distance_km": 0.5 * f64::from(n % 9) },
                    "rider": { "kind": if n % 3 == 0 { "member" } else { "casual" }, "name": format!("rider {n}") },
                    "weather": { "temp.c": n % 30 },
                    "accessories": ["helmet"],
                    "electric": n % 2 == 0,
                    "target": n % 7,
                    "odd": if n % 2 == 0 { serde_json::json!(1) } else { serde_json::json!("one") },
                    "rare": if n == 0 { serde_json::json!(1) } else { serde_json::Value::Null },
                })
            })
            .collect()
    }

    #[test]
    fn a_draft_is_a_spec_that_lacks_its_target_alone() {
        let draft = drafted(trips(), "Bike Trips");
        let mut spec = Spec::from_toml(&draft.toml).unwrap_or_else(|error| panic!("{error}\n{}", draft.toml));
        let faults: Vec<String> = spec.faults().iter().map(|fault| fault.key.clone()).collect();
        assert_eq!(faults, ["target.paths"], "{}", draft.toml);
        spec = Spec::from_toml(&draft.toml.replace("\npaths = []\n# Outside", "\npaths = [\"ride.minutes\"]\n# Outside")).unwrap();
        assert_eq!(spec.faults(), []);
        assert_eq!(spec.name, "bike-trips");
        assert_eq!(spec.ticket.id.to_string(), "_id");
        assert_eq!(spec.ticket.status.to_string(), "phase");
        assert_eq!(spec.ticket.completed, ["RETURNED", "RETURNED_LATE"]);
        assert_eq!(spec.ticket.completed_at.to_string(), "returned.at");
        assert_eq!(spec.prediction.paths[0].to_string(), "quote.minutes");
        let names: Vec<&str> = spec.features.iter().map(|feature| feature.name.as_str()).collect();
        for name in ["picked_up_at", "quote_distance_km", "rider_kind", "weather_temp_c", "accessories", "electric", "target_field"] {
            assert!(names.contains(&name), "{name}: {names:?}");
        }
        for name in ["rider_name", "odd", "rare", "returned_at", "phase"] {
            assert!(!names.contains(&name), "{name}: {names:?}");
        }
        assert!(draft.toml.contains("#   paths = [\"ride.minutes\"]  # 1 to 50\n"), "{}", draft.toml);
    }

    #[test]
    fn a_document_of_many_names_is_measured_whole() {
        let lines = (0..100_u32).map(|n| serde_json::json!({ "id": n, "parameters": { format!("p{n}"): n } }));
        let draft = drafted(lines, "x");
        assert!(draft.toml.contains("kind = \"json_size\""), "{}", draft.toml);
        assert!(!draft.toml.contains("parameters.p1"), "{}", draft.toml);
    }

    #[test]
    fn what_is_not_found_is_said() {
        let draft = drafted((0..9).map(|n| serde_json::json!({ "n": n })), "x");
        assert_eq!(draft.notes.len(), 3, "{:?}", draft.notes);
        Spec::from_toml(&draft.toml).unwrap();
    }
}
