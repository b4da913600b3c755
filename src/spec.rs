//! The watch spec: what a collection's tickets look like and which features a model reads, as data.
//!
//! Read from TOML (`config/execution-tickets.toml` is the commented example). From it follow the change-stream projection,
//! the record's fields, the window's columns, the baseline and the alerts' causes.

mod faults;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use faults::Fault;

/// A path into a document: names from the root. A name may contain dots; in TOML a path is written `"a.b"` or `["a", "b.c"]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "PathText", into = "Vec<String>")]
pub struct Path(Vec<String>);

#[derive(Deserialize)]
#[serde(untagged)]
enum PathText {
    Dotted(String),
    Names(Vec<String>),
}

impl TryFrom<PathText> for Path {
    type Error = String;
    fn try_from(text: PathText) -> Result<Self, String> {
        let names: Vec<String> = match text {
            PathText::Dotted(dotted) => dotted.split('.').map(str::to_owned).collect(),
            PathText::Names(names) => names,
        };
        if names.is_empty() || names.iter().any(String::is_empty) {
            return Err("a path has at least one name, and none is empty".to_owned());
        }
        Ok(Self(names))
    }
}

impl From<Path> for Vec<String> {
    fn from(path: Path) -> Self {
        path.0
    }
}

impl Path {
    /// Returns the path of one name at the root.
    #[must_use]
    pub(crate) fn named(name: &str) -> Self {
        Self(vec![name.to_owned()])
    }

    /// Returns the names from the root.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.0
    }
}

impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

/// Everything tidemark knows about one collection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Name of the spec: part of every key and metric label.
    pub name: String,
    /// Name of the model whose predictions are judged.
    pub model: String,
    /// Where the documents are.
    pub source: Source,
    /// What makes a document a completed ticket.
    pub ticket: TicketSpec,
    /// The right answer.
    pub target: Target,
    /// The ticket's own prediction.
    pub prediction: Prediction,
    /// Tickets out of the ordinary; when absent, the contract's model, labelled by its rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anomaly: Option<Anomaly>,
    /// Fields that a record holds, in order.
    #[serde(rename = "field")]
    pub fields: Vec<Field>,
    /// Features, in the model's order.
    #[serde(rename = "feature")]
    pub features: Vec<Feature>,
}

/// Database and collection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Database; `MONGODB_DATABASE` wins.
    pub database: String,
    /// Collection.
    pub collection: String,
}

/// Identity and completion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TicketSpec {
    /// The ticket's id.
    pub id: Path,
    /// The field that tells completion.
    pub status: Path,
    /// Its values that mean completed.
    pub completed: Vec<String>,
    /// When the ticket completed.
    pub completed_at: Path,
}

/// The right answer: the first path that is present, else the time between two fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Name for people and records, with its unit: `duration_ms`.
    pub name: String,
    /// Where it is.
    pub paths: Vec<Path>,
    /// Fallback: `to − from` in ms.
    pub between: Option<Between>,
    /// Smallest plausible value, inclusive; always above 0.
    #[serde(default = "one")]
    pub min: f64,
    /// Largest plausible value, inclusive.
    pub max: f64,
}

fn one() -> f64 {
    1.0
}

/// Two times.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Between {
    /// Start.
    pub from: Path,
    /// End.
    pub to: Path,
}

/// The ticket's own prediction: the first path whose value is above 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prediction {
    /// Where it may be.
    pub paths: Vec<Path>,
    /// Where the predicting model's version is.
    pub model_version: Option<Path>,
}

/// Tickets out of the ordinary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Anomaly {
    /// Name of the model that finds them.
    #[serde(default = "anomaly_model")]
    pub model: String,
    /// The text field that says of a ticket whether it was one; the contract's rules say it where there is none.
    pub label: Option<String>,
    /// Its values that mean so, in either case.
    #[serde(default = "anomalous")]
    pub anomalous: Vec<String>,
}

/// Name of the anomaly model, unless the spec gives another.
const ANOMALY_MODEL: &str = "ticket-anomaly-detector";

fn anomaly_model() -> String {
    ANOMALY_MODEL.to_owned()
}

fn anomalous() -> Vec<String> {
    vec!["true".to_owned(), "1".to_owned()]
}

/// A field of the record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Field {
    /// Name in the record: letters, digits and `_`.
    pub name: String,
    /// Where it is: the first path that is present and not null.
    pub paths: Vec<Path>,
    /// How it is read.
    pub kind: FieldKind,
}

/// How a field is read from a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FieldKind {
    /// A string, trimmed by nothing, folded by nobody; a number or boolean becomes its text.
    Text,
    /// Any BSON or JSON number.
    Number,
    /// A BSON date, integer of ms, or RFC 3339 text; becomes ms since 1970.
    Time,
    /// Length of a list.
    Length,
    /// Bytes of a document as compact relaxed extended JSON.
    JsonSize,
}

/// A feature of the model, one column of the window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Feature {
    /// Name.
    pub name: String,
    /// The field it is a function of.
    pub field: String,
    /// Which function.
    pub encoder: Encoder,
    /// Table of the `table` encoder, and of the aggregates: text, matched in either case, to number.
    #[serde(default)]
    pub table: Vec<Entry>,
    /// What the model is given when the value is missing or unseen.
    pub default: f64,
    /// Cause in alerts; columns of one cause are functions of one field. The feature's own name when absent.
    pub cause: Option<String>,
}

/// A row of a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The text.
    pub text: String,
    /// Its number.
    pub value: f64,
}

/// The function from field to feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoder {
    /// A text's number in the table; one bin a distinct number of the table.
    Table,
    /// The number itself; binned by the baseline's values.
    Value,
    /// Hour of day, UTC, of a time; 24 bins.
    Hour,
    /// Mean target of the text's category in the training split. `table` names the categories, as for `Table`.
    TargetMean,
    /// Population standard deviation of the target, likewise.
    TargetStd,
    /// Completed of all documents with a target, likewise.
    SuccessRate,
}

impl Encoder {
    /// Whether it is learned on the training split.
    #[must_use]
    pub fn is_learned(self) -> bool {
        matches!(self, Self::TargetMean | Self::TargetStd | Self::SuccessRate)
    }
}

impl Spec {
    /// Reads a spec from TOML text. All faults are found by `config check`, not here.
    ///
    /// # Errors
    /// The TOML error, with line and column.
    pub fn from_toml(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// Returns 16 hex digits that differ when anything in the spec differs.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let json = serde_json::to_vec(self).expect("a spec has only texts, numbers and lists");
        Sha256::digest(json)[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Returns the cause of each feature, in the model's order.
    #[must_use]
    pub fn cause(&self, feature: usize) -> &str {
        let feature = &self.features[feature];
        feature.cause.as_deref().unwrap_or(&feature.name)
    }

    /// Returns the features of each cause; causes by name.
    #[must_use]
    pub fn causes(&self) -> BTreeMap<&str, Vec<usize>> {
        let mut causes: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for feature in 0..self.features.len() {
            causes.entry(self.cause(feature)).or_default().push(feature);
        }
        causes
    }

    /// Returns the name of the model that finds tickets out of the ordinary.
    #[must_use]
    pub fn anomaly_model(&self) -> &str {
        self.anomaly.as_ref().map_or(ANOMALY_MODEL, |anomaly| &anomaly.model)
    }

    /// Returns the place of a field in [`Spec::fields`].
    #[must_use]
    pub fn field(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|field| field.name == name)
    }
}
