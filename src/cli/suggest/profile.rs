//! What the documents of a sample hold, path by path.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use bson::{Bson, Document};

use crate::tail::normalise::{from_rfc3339, is_plausible};

/// Nesting that is looked at.
const DEPTH: usize = 6;
/// Paths that are kept.
const PATHS: usize = 5_000;
/// Distinct texts of a path that are kept.
const TEXTS: usize = 200;

/// A value, as far as a draft cares.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Flag(bool),
    Number(f64),
    Text(String),
    /// A date of BSON or extended JSON.
    Time,
    /// An object id and the like: it tells documents apart and means nothing.
    Id(String),
    List,
    Document(Vec<(String, Value)>),
}

impl Value {
    /// Reads plain or extended JSON.
    pub(super) fn of_json(json: &serde_json::Value) -> Self {
        match json {
            serde_json::Value::Null => Self::Null,
            serde_json::Value::Bool(flag) => Self::Flag(*flag),
            serde_json::Value::Number(number) => Self::Number(number.as_f64().unwrap_or(f64::NAN)),
            serde_json::Value::String(text) => Self::Text(text.clone()),
            serde_json::Value::Array(_) => Self::List,
            serde_json::Value::Object(members) => {
                let mut names = members.iter();
                match (names.next(), names.next()) {
                    (Some((name, value)), None) if name.starts_with('$') => Self::of_extended(name, value),
                    _ => Self::Document(members.iter().map(|(name, value)| (name.clone(), Self::of_json(value))).collect()),
                }
            }
        }
    }

    fn of_extended(name: &str, value: &serde_json::Value) -> Self {
        match name {
            "$date" => Self::Time,
            "$numberInt" | "$numberLong" | "$numberDouble" | "$numberDecimal" => {
                Self::Number(value.as_str().and_then(|text| text.parse().ok()).unwrap_or(f64::NAN))
            }
            _ => Self::Id(value.to_string()),
        }
    }

    /// Reads a BSON document.
    pub(super) fn of_document(document: &Document) -> Vec<(String, Self)> {
        document.iter().map(|(name, value)| (name.clone(), Self::of_bson(value))).collect()
    }

    #[expect(clippy::cast_precision_loss, reason = "a draft looks at sizes only")]
    fn of_bson(value: &Bson) -> Self {
        match value {
            Bson::Null | Bson::Undefined => Self::Null,
            Bson::Boolean(flag) => Self::Flag(*flag),
            Bson::Int32(number) => Self::Number(f64::from(*number)),
            Bson::Int64(number) => Self::Number(*number as f64),
            Bson::Double(number) => Self::Number(*number),
            Bson::Decimal128(number) => Self::Number(number.to_string().parse().unwrap_or(f64::NAN)),
            Bson::String(text) | Bson::Symbol(text) => Self::Text(text.clone()),
            Bson::DateTime(_) => Self::Time,
            Bson::Array(_) => Self::List,
            Bson::Document(document) => Self::Document(Self::of_document(document)),
            other => Self::Id(other.to_string()),
        }
    }
}

/// What a path holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// Documents that have it and not null.
    pub(super) present: usize,
    pub(super) flags: usize,
    pub(super) numbers: Vec<f64>,
    pub(super) texts: usize,
    /// Texts with their number; of too many none is kept.
    pub(super) categories: BTreeMap<String, usize>,
    pub(super) has_many_texts: bool,
    /// Dates, and texts that are RFC 3339.
    pub(super) times: usize,
    /// Numbers that may be ms since 1970.
    pub(super) instants: usize,
    pub(super) ids: usize,
    pub(super) lists: usize,
    pub(super) documents: usize,
    /// Names of the members, of a document.
    pub(super) members: BTreeSet<String>,
    distinct: BTreeSet<u64>,
}

impl Seen {
    /// Whether no two documents have the same.
    pub(super) fn is_unique(&self) -> bool {
        self.present > 1 && self.distinct.len() == self.present
    }

    fn add(&mut self, value: &Value) {
        self.present += 1;
        let mut note = |hashed: &dyn Fn(&mut DefaultHasher)| {
            let mut hasher = DefaultHasher::new();
            hashed(&mut hasher);
            self.distinct.insert(hasher.finish());
        };
        match value {
            Value::Null => {}
            Value::Flag(flag) => {
                note(&|hasher| flag.hash(hasher));
                self.flags += 1;
                *self.categories.entry(flag.to_string()).or_default() += 1;
            }
            Value::Number(number) => {
                note(&|hasher| number.to_bits().hash(hasher));
                self.numbers.push(*number);
                // From 2001 on: smaller numbers are lengths of time more often than times.
                #[expect(clippy::cast_possible_truncation, reason = "compared with its own truncation")]
                let whole = *number as i64;
                self.instants += usize::from(*number >= 1e12 && number.fract() == 0.0 && is_plausible(whole));
            }
            Value::Text(text) => {
                note(&|hasher| text.hash(hasher));
                self.texts += 1;
                self.times += usize::from(from_rfc3339(text).is_some());
                if !self.has_many_texts {
                    *self.categories.entry(text.clone()).or_default() += 1;
                    self.has_many_texts = self.categories.len() > TEXTS;
                }
            }
            Value::Id(text) => {
                note(&|hasher| text.hash(hasher));
                self.ids += 1;
            }
            Value::Time => self.times += 1,
            Value::List => self.lists += 1,
            Value::Document(members) => {
                self.documents += 1;
                self.members.extend(members.iter().map(|(name, _)| name.clone()));
            }
        }
    }
}

/// All paths of a sample.
#[derive(Clone, Debug, Default)]
pub(super) struct Profile {
    /// Documents in the sample.
    pub(super) documents: usize,
    /// By path, in the order of their first document.
    pub(super) paths: Vec<(Vec<String>, Seen)>,
    places: BTreeMap<Vec<String>, usize>,
}

impl Profile {
    /// Takes a document.
    pub(super) fn add(&mut self, members: &[(String, Value)]) {
        self.documents += 1;
        self.walk(&mut Vec::new(), members);
    }

    fn walk(&mut self, path: &mut Vec<String>, members: &[(String, Value)]) {
        for (name, value) in members {
            if *value == Value::Null || name.is_empty() || name.starts_with('$') {
                continue;
            }
            path.push(name.clone());
            if let Some(at) = self.place(path) {
                self.paths[at].1.add(value);
                if let (Value::Document(inner), true) = (value, path.len() < DEPTH) {
                    self.walk(path, inner);
                }
            }
            path.pop();
        }
    }

    fn place(&mut self, path: &[String]) -> Option<usize> {
        if let Some(at) = self.places.get(path) {
            return Some(*at);
        }
        if self.paths.len() == PATHS {
            return None;
        }
        self.places.insert(path.to_vec(), self.paths.len());
        self.paths.push((path.to_vec(), Seen::default()));
        Some(self.paths.len() - 1)
    }
}
