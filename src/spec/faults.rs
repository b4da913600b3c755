//! What is wrong with a spec beyond its TOML: all of it at once, by key.

use std::collections::{BTreeMap, HashSet};

use super::{Encoder, Feature, FieldKind, Path, Spec};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where: `feature.risk_weight.table`.
    pub key: String,
    /// What is wrong.
    pub problem: String,
    /// What is allowed.
    pub allowed: Option<String>,
    /// The nearest valid name, for one that is unknown.
    pub nearest: Option<String>,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.key, self.problem)?;
        if let Some(allowed) = &self.allowed {
            write!(f, "; allowed: {allowed}")?;
        }
        if let Some(nearest) = &self.nearest {
            write!(f, "; did you mean {nearest}?")?;
        }
        Ok(())
    }
}

/// Categories of one table, at most: a code is one byte, and the bins for missing, non-finite and unseen need codes too.
const MAX_CATEGORIES: usize = 250;
/// Fields and features, each, at most.
const MAX_COLUMNS: usize = 250;
/// Causes that are there without a feature.
const OWN_CAUSES: [&str; 3] = ["target", "error", "clusters"];

impl Spec {
    /// Returns everything that is wrong with the spec; a spec without faults can be run.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        let mut found = Found::default();
        found.names(self);
        found.ticket(self);
        found.target(self);
        found.paths("prediction.paths", &self.prediction.paths);
        found.path("prediction.model_version", self.prediction.model_version.as_ref());
        found.anomaly(self);
        found.fields(self);
        found.features(self);
        found.causes(self);
        found.0
    }
}

#[derive(Default)]
struct Found(Vec<Fault>);

impl Found {
    fn add(&mut self, key: impl Into<String>, problem: impl Into<String>) {
        self.0.push(Fault { key: key.into(), problem: problem.into(), allowed: None, nearest: None });
    }

    fn add_allowed(&mut self, key: impl Into<String>, problem: impl Into<String>, allowed: &str) {
        self.0.push(Fault { key: key.into(), problem: problem.into(), allowed: Some(allowed.to_owned()), nearest: None });
    }

    fn names(&mut self, spec: &Spec) {
        let anomaly = spec.anomaly.as_ref().map(|anomaly| ("anomaly.model", &anomaly.model));
        for (key, name) in [("name", &spec.name), ("model", &spec.model)].into_iter().chain(anomaly) {
            let is_good = !name.is_empty() && name.len() <= 100 && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
            if !is_good {
                self.add_allowed(key, format!("{name:?} is no name"), "1 to 100 letters, digits, `-`, `_` and `.`");
            }
        }
        let database = &spec.source.database;
        if database.is_empty() || database.len() > 63 || database.contains(['/', '\\', '.', ' ', '"', '$', '\0']) {
            self.add_allowed(
                "source.database",
                format!("{database:?} is no database of MongoDB"),
                "1 to 63 bytes without / \\ . \" $ and space",
            );
        }
        let collection = &spec.source.collection;
        if collection.is_empty() || collection.contains(['$', '\0']) || collection.starts_with("system.") {
            self.add_allowed(
                "source.collection",
                format!("{collection:?} is no collection of tickets"),
                "not empty, without $, not `system.…`",
            );
        }
    }

    fn ticket(&mut self, spec: &Spec) {
        let ticket = &spec.ticket;
        self.path("ticket.id", Some(&ticket.id));
        self.path("ticket.status", Some(&ticket.status));
        self.path("ticket.completed_at", Some(&ticket.completed_at));
        if ticket.completed.is_empty() {
            self.add("ticket.completed", "no status means completed, so no ticket would ever be seen");
        }
        let mut seen = HashSet::new();
        for status in &ticket.completed {
            if status.is_empty() {
                self.add("ticket.completed", "an empty status");
            } else if !seen.insert(status) {
                self.add("ticket.completed", format!("{status:?} is there twice"));
            }
        }
    }

    fn target(&mut self, spec: &Spec) {
        let target = &spec.target;
        self.column_name("target.name", &target.name);
        if target.paths.is_empty() && target.between.is_none() {
            self.add("target.paths", "neither a path nor `between` says where the target is");
        }
        self.paths("target.paths", &target.paths);
        if let Some(between) = &target.between {
            self.path("target.between.from", Some(&between.from));
            self.path("target.between.to", Some(&between.to));
            if between.from == between.to {
                self.add("target.between", format!("from {} to itself is always 0", between.from));
            }
        }
        for (key, value) in [("target.min", target.min), ("target.max", target.max)] {
            if !value.is_finite() || value <= 0.0 {
                self.add_allowed(key, format!("{value} is out of range"), "above 0 and finite");
            }
        }
        if target.min > target.max {
            self.add("target.min", format!("{} is above target.max, {}", target.min, target.max));
        }
    }

    fn anomaly(&mut self, spec: &Spec) {
        let Some(anomaly) = &spec.anomaly else { return };
        if anomaly.model == spec.model {
            self.add("anomaly.model", format!("{} is the model of the predictions", spec.model));
        }
        let Some(label) = &anomaly.label else { return };
        let kind = spec.field(label).map(|field| spec.fields[field].kind);
        if kind != Some(FieldKind::Text) {
            self.add_allowed("anomaly.label", format!("{label:?} is no text field of the spec"), "the name of a [[field]] of kind text");
        }
        if anomaly.anomalous.is_empty() {
            self.add("anomaly.anomalous", "no value of the label means an anomaly, so there would never be one");
        }
    }

    fn fields(&mut self, spec: &Spec) {
        self.count("field", spec.fields.len());
        let mut seen = HashSet::new();
        for (i, field) in spec.fields.iter().enumerate() {
            let key = keyed("field", i, &field.name);
            self.column_name(&format!("{key}.name"), &field.name);
            if !field.name.is_empty() && !seen.insert(&field.name) {
                self.add(format!("{key}.name"), "two fields have this name");
            }
            if field.paths.is_empty() {
                self.add(format!("{key}.paths"), "no path says where the field is");
            }
            self.paths(&format!("{key}.paths"), &field.paths);
        }
    }

    fn features(&mut self, spec: &Spec) {
        self.count("feature", spec.features.len());
        let mut seen = HashSet::new();
        for (i, feature) in spec.features.iter().enumerate() {
            let key = keyed("feature", i, &feature.name);
            self.column_name(&format!("{key}.name"), &feature.name);
            if !feature.name.is_empty() && !seen.insert(&feature.name) {
                self.add(format!("{key}.name"), "two features have this name");
            }
            if !feature.default.is_finite() {
                self.add_allowed(format!("{key}.default"), format!("{} is no number for a model", feature.default), "finite");
            }
            if let Some(field) = spec.field(&feature.field) {
                self.encoder(&key, feature, spec.fields[field].kind);
            } else {
                let names = spec.fields.iter().map(|field| field.name.as_str());
                self.0.push(Fault {
                    key: format!("{key}.field"),
                    problem: format!("there is no field {:?}", feature.field),
                    allowed: None,
                    nearest: crate::config::faults::nearest(&feature.field, names),
                });
            }
            self.table(&key, feature);
        }
    }

    fn encoder(&mut self, key: &str, feature: &Feature, kind: FieldKind) {
        let (name, allowed, is_fit) = match feature.encoder {
            Encoder::Table => ("table", "text", kind == FieldKind::Text),
            Encoder::TargetMean => ("target_mean", "text", kind == FieldKind::Text),
            Encoder::TargetStd => ("target_std", "text", kind == FieldKind::Text),
            Encoder::SuccessRate => ("success_rate", "text", kind == FieldKind::Text),
            Encoder::Hour => ("hour", "time", kind == FieldKind::Time),
            Encoder::Value => {
                ("value", "number, length, json_size", matches!(kind, FieldKind::Number | FieldKind::Length | FieldKind::JsonSize))
            }
        };
        if !is_fit {
            let problem = format!("the encoder {name} cannot take the field {}, which is of kind {}", feature.field, kind_name(kind));
            self.add_allowed(format!("{key}.encoder"), problem, &format!("fields of kind {allowed}"));
        }
    }

    fn table(&mut self, key: &str, feature: &Feature) {
        let key = format!("{key}.table");
        let needs_table = feature.encoder == Encoder::Table || feature.encoder.is_learned();
        if !needs_table {
            if !feature.table.is_empty() {
                self.add(key, "its encoder takes no table");
            }
            return;
        }
        if feature.table.is_empty() {
            self.add(key, "its encoder needs a table with at least one category");
            return;
        }
        if feature.table.len() > MAX_CATEGORIES {
            self.add_allowed(&key, format!("{} categories", feature.table.len()), &format!("at most {MAX_CATEGORIES}"));
        }
        let mut seen = HashSet::new();
        for entry in &feature.table {
            if !entry.value.is_finite() {
                self.add_allowed(&key, format!("{:?} has the value {}", entry.text, entry.value), "finite");
            }
            if !seen.insert(entry.text.to_lowercase()) {
                self.add(&key, format!("{:?} is there twice: texts are matched in either case", entry.text));
            }
        }
    }

    /// Columns of one cause must be functions of one field, or its alarms could not be told apart.
    fn causes(&mut self, spec: &Spec) {
        let mut fields: BTreeMap<&str, &str> = BTreeMap::new();
        for (i, feature) in spec.features.iter().enumerate() {
            let cause = spec.cause(i);
            let key = format!("{}.cause", keyed("feature", i, &feature.name));
            if OWN_CAUSES.contains(&cause) {
                self.add(&key, format!("{cause:?} is a cause of its own and takes no feature"));
            } else if feature.cause.is_some() {
                self.column_name(&key, cause);
            }
            let first = *fields.entry(cause).or_insert(&feature.field);
            if first != feature.field {
                self.add(&key, format!("the cause {cause:?} has features of the fields {first} and {}", feature.field));
            }
        }
    }

    fn count(&mut self, key: &str, columns: usize) {
        if columns == 0 {
            self.add(key, format!("there is no {key}, so there is nothing to watch"));
        } else if columns > MAX_COLUMNS {
            self.add_allowed(key, format!("there are {columns}"), &format!("at most {MAX_COLUMNS}"));
        }
    }

    fn column_name(&mut self, key: &str, name: &str) {
        let is_good = !name.is_empty() && name.len() <= 100 && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !is_good {
            self.add_allowed(key, format!("{name:?} is no name of a column"), "1 to 100 letters, digits and `_`");
        }
    }

    fn paths(&mut self, key: &str, paths: &[Path]) {
        let mut seen = HashSet::new();
        for path in paths {
            self.path(key, Some(path));
            if !seen.insert(path.names()) {
                self.add(key, format!("{path} is there twice"));
            }
        }
    }

    fn path(&mut self, key: &str, path: Option<&Path>) {
        /// MongoDB nests no deeper.
        const MAX_NAMES: usize = 100;
        let Some(path) = path else { return };
        for name in path.names() {
            if name.starts_with('$') || name.contains('\0') {
                self.add_allowed(key, format!("the path {path} has the name {name:?}"), "names that do not begin with $");
            }
        }
        if path.names().len() > MAX_NAMES {
            self.add_allowed(key, format!("a path of {} names", path.names().len()), &format!("at most {MAX_NAMES}"));
        }
    }
}

fn keyed(list: &str, place: usize, name: &str) -> String {
    if name.is_empty() { format!("{list}[{place}]") } else { format!("{list}.{name}") }
}

fn kind_name(kind: FieldKind) -> &'static str {
    match kind {
        FieldKind::Text => "text",
        FieldKind::Number => "number",
        FieldKind::Time => "time",
        FieldKind::Length => "length",
        FieldKind::JsonSize => "json_size",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Entry;

    fn good() -> Spec {
        Spec::from_toml(include_str!("../../config/execution-tickets.toml")).unwrap()
    }

    fn faults(spoil: impl FnOnce(&mut Spec)) -> Vec<String> {
        let mut spec = good();
        spoil(&mut spec);
        spec.faults().iter().map(ToString::to_string).collect()
    }

    fn path(text: &str) -> Path {
        Path::try_from(crate::spec::PathText::Dotted(text.to_owned())).unwrap()
    }

    #[test]
    fn the_spec_of_the_execution_tickets_has_none() {
        assert_eq!(good().faults(), []);
    }

    #[test]
    fn each_fault_is_told_by_its_key() {
        type Spoil = fn(&mut Spec);
        fn anomaly(model: &str, label: &str, anomalous: &[&str]) -> Option<crate::spec::Anomaly> {
            let anomalous = anomalous.iter().map(ToString::to_string).collect();
            Some(crate::spec::Anomaly { model: model.into(), label: Some(label.into()), anomalous })
        }
        let cases: [(Spoil, &str); 30] = [
            (|s| s.anomaly = anomaly("a b", "risk_band", &["x"]), "anomaly.model: \"a b\" is no name"),
            (|s| s.anomaly = anomaly("ticket-duration-predictor", "risk_band", &["x"]), "anomaly.model: ticket-duration-predictor is"),
            (|s| s.anomaly = anomaly("a", "retry_count", &["x"]), "anomaly.label: \"retry_count\" is no text field"),
            (|s| s.anomaly = anomaly("a", "risk_band", &[]), "anomaly.anomalous: no value"),
            (|s| s.name = "a b".into(), "name: \"a b\" is no name"),
            (|s| s.model = String::new(), "model: \"\" is no name"),
            (|s| s.source.database = "a.b".into(), "source.database: "),
            (|s| s.source.collection = "$x".into(), "source.collection: "),
            (|s| s.ticket.completed.clear(), "ticket.completed: no status"),
            (|s| s.ticket.completed.push("COMPLETED".into()), "ticket.completed: \"COMPLETED\" is there twice"),
            (|s| s.ticket.id = path("$id"), "ticket.id: the path $id"),
            (|s| (s.target.paths.clear(), s.target.between = None).1, "target.paths: neither"),
            (|s| s.target.between.as_mut().unwrap().from = path("completed_at"), "target.between: from completed_at to itself"),
            (|s| s.target.min = 0.0, "target.min: 0 is out of range"),
            (|s| s.target.max = f64::NAN, "target.max: NaN is out of range"),
            (|s| s.target.max = 0.5, "target.min: 1 is above target.max, 0.5"),
            (|s| s.prediction.paths.push(path("estimated_duration_ms")), "prediction.paths: estimated_duration_ms is there twice"),
            (|s| s.fields[0].name = "risk-band".into(), "field.risk-band.name: \"risk-band\" is no name of a column"),
            (|s| s.fields[1].name = "risk_band".into(), "field.risk_band.name: two fields have this name"),
            (|s| s.fields[0].paths.clear(), "field.risk_band.paths: no path"),
            (|s| s.features[1].name = "risk_weight".into(), "feature.risk_weight.name: two features have this name"),
            (|s| s.features[0].name = String::new(), "feature[0].name: \"\" is no name of a column"),
            (|s| s.features[0].default = f64::INFINITY, "feature.risk_weight.default: inf"),
            (
                |s| s.features[0].field = "risk_bend".into(),
                "feature.risk_weight.field: there is no field \"risk_bend\"; did you mean risk_band?",
            ),
            (
                |s| s.features[0].field = "created_at".into(),
                "feature.risk_weight.encoder: the encoder table cannot take the field created_at, which is of kind time; allowed: fields of kind text",
            ),
            (|s| s.features[0].table.clear(), "feature.risk_weight.table: its encoder needs a table"),
            (
                |s| s.features[14].table = vec![Entry { text: "x".into(), value: 1.0 }],
                "feature.hour_of_day.table: its encoder takes no table",
            ),
            (|s| s.features[0].table.push(Entry { text: "HIGH".into(), value: 2.0 }), "feature.risk_weight.table: \"HIGH\" is there twice"),
            (|s| s.features[0].table[0].value = f64::NAN, "feature.risk_weight.table: \"critical\" has the value NaN"),
            (
                |s| s.features[14].cause = Some("risk_band".into()),
                "feature.hour_of_day.cause: the cause \"risk_band\" has features of the fields risk_band and created_at",
            ),
        ];
        for (spoil, expected) in cases {
            let found = faults(spoil);
            assert!(found.iter().any(|fault| fault.starts_with(expected)), "{expected}: {found:?}");
        }
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let found = faults(|spec| {
            spec.features[14].cause = Some("error".into());
            spec.features[14].field = "nothing_like_it".into();
            spec.target.min = -1.0;
            spec.fields.truncate(0);
        });
        for key in ["feature.hour_of_day.cause: ", "feature.hour_of_day.field: ", "target.min: ", "field: there is no field"] {
            assert!(found.iter().any(|fault| fault.starts_with(key)), "{key}: {found:?}");
        }
        let many = faults(|spec| spec.features[0].table = (0..300).map(|i| Entry { text: i.to_string(), value: 0.0 }).collect());
        assert_eq!(many, ["feature.risk_weight.table: 300 categories; allowed: at most 250"]);
    }
}
