//! Lays the layers over each other: default, file, environment, flags; each stronger than the one before it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Config;
use super::faults::{Fault, Faults, RESERVED_PROPERTIES, between_keys, nearest, nearest_key};
use super::keys::{KEYS, Key, Kind, find, may_be_an_argument};

/// Where a value came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", content = "name", rename_all = "snake_case")]
pub enum Origin {
    /// Nobody set it.
    #[default]
    Default,
    /// The configuration file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// A file that an environment variable or a flag names.
    SecretFile(String),
    /// A flag.
    Flag(String),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::SecretFile(name) => write!(f, "the file that {name} names"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// A flag as it was given.
#[derive(Clone, Debug)]
pub struct Flag {
    /// The key it sets.
    pub key: String,
    /// The flag's own name, for people.
    pub name: String,
    /// Its value.
    pub value: FlagValue,
}

/// What a flag gives.
#[derive(Clone, Debug)]
pub enum FlagValue {
    /// The value itself.
    Text(String),
    /// A file that holds it.
    File(PathBuf),
}

/// What there is to load.
pub struct Sources<'s> {
    /// The configuration file and its text.
    pub file: Option<(PathBuf, String)>,
    /// The environment.
    pub environment: &'s BTreeMap<String, String>,
    /// Flags, the strongest last.
    pub flags: Vec<Flag>,
    /// Reads the file of a secret.
    pub read: &'s dyn Fn(&Path) -> io::Result<String>,
}

/// A configuration, and how it came to be.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What is in force.
    pub config: Config,
    /// Origins of the keys that are not at their default.
    pub origins: BTreeMap<String, Origin>,
    /// What deserves a word and is no fault.
    pub notes: Vec<String>,
}

impl Loaded {
    /// Returns where a key's value came from.
    #[must_use]
    pub fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or_default()
    }
}

/// Loads, and returns what could be used beside everything that is wrong. A faulty value leaves the layer below in force.
#[must_use]
pub fn load_all(sources: &Sources<'_>) -> (Loaded, Vec<Fault>) {
    let mut layers = Layers::default();
    if let Some((path, text)) = &sources.file {
        layers.file(path, text);
    }
    layers.environment(sources);
    for flag in &sources.flags {
        layers.flag(flag, sources.read);
    }
    layers.finish()
}

/// Loads a configuration without faults.
///
/// # Errors
/// [`Faults`] with every fault there is.
pub fn load(sources: &Sources<'_>) -> Result<Loaded, Faults> {
    let (loaded, faults) = load_all(sources);
    if faults.is_empty() { Ok(loaded) } else { Err(Faults(faults)) }
}

/// Environment names under `TIDEMARK_` that belong to the command line itself, and to the repository's scripts.
pub const COMMAND_ENVIRONMENT: [&str; 6] =
    ["TIDEMARK_CONFIG", "TIDEMARK_OUTPUT", "TIDEMARK_LOG", "TIDEMARK_SERVERS", "TIDEMARK_SERVERS_DATA", "TIDEMARK_FAULT"];

#[derive(Default)]
struct Layers {
    values: BTreeMap<String, (toml::Value, Origin)>,
    faults: Vec<Fault>,
    notes: Vec<String>,
}

impl Layers {
    fn fault(&mut self, key: &str, origin: &Origin, problem: impl Into<String>, allowed: Option<String>) {
        self.faults.push(Fault { key: key.to_owned(), origin: origin.to_string(), problem: problem.into(), allowed, nearest: None });
    }

    fn set(&mut self, key: &Key, value: &toml::Value, origin: Origin) {
        match key.kind.accept(value) {
            Some(accepted) => {
                self.values.insert(key.name.to_owned(), (accepted, origin));
            }
            None if key.kind.is_secret() => {
                let is_text = matches!(value, toml::Value::String(_));
                let problem = if is_text { "the text is not one (it is secret and not shown)" } else { "not a text" };
                self.fault(key.name, &origin, problem, Some(key.kind.allowed()));
            }
            None => self.fault(key.name, &origin, format!("{} is not allowed", told(key.kind, value)), Some(key.kind.allowed())),
        }
    }

    fn set_text(&mut self, key: &Key, text: &str, origin: Origin) {
        match key.kind.parse(text) {
            Some(value) => self.set(key, &value, origin),
            None => self.fault(key.name, &origin, format!("{:?} cannot be read", cut(text)), Some(key.kind.allowed())),
        }
    }

    fn property(&mut self, name: &str, value: &toml::Value, origin: Origin) {
        let full = format!("kafka.properties.{name}");
        if RESERVED_PROPERTIES.contains(&name) {
            let reason = if name == "bootstrap.servers" || name == "metadata.broker.list" {
                "has a key of its own: kafka.bootstrap_servers"
            } else {
                "is set by tidemark: exactly-once delivery rests on it"
            };
            self.fault(&full, &origin, reason, Some("remove it".to_owned()));
            return;
        }
        let text = match value {
            toml::Value::String(text) => text.clone(),
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Boolean(flag) => flag.to_string(),
            _ => {
                self.fault(&full, &origin, "is not a text, a whole number, true or false", Some(Kind::Properties.allowed()));
                return;
            }
        };
        self.values.insert(full, (toml::Value::String(text), origin));
    }

    fn file(&mut self, path: &Path, text: &str) {
        let origin = Origin::File(path.to_owned());
        let table = match text.parse::<toml::Table>() {
            Ok(table) => table,
            Err(error) => {
                // The error's own form quotes the line, which may hold a secret.
                let place = error.span().map_or_else(String::new, |span| {
                    let before = text.get(..span.start).unwrap_or(text);
                    let line = before.matches('\n').count() + 1;
                    let column = before.rsplit('\n').next().map_or(0, |rest| rest.chars().count()) + 1;
                    format!(" in line {line}, column {column}")
                });
                self.fault("file", &origin, format!("is not TOML{place}"), Some("TOML 1.0, as in config/tidemark.toml".to_owned()));
                return;
            }
        };
        for (name, value) in &table {
            match (find(name), value) {
                (Some(key), _) => self.set(key, value, origin.clone()),
                (None, toml::Value::Table(section)) if is_section(name) => self.section(name, section, &origin),
                (None, _) => self.unknown(name, &origin),
            }
        }
    }

    fn section(&mut self, section: &str, table: &toml::Table, origin: &Origin) {
        for (name, value) in table {
            let full = format!("{section}.{name}");
            match (find(&full), value) {
                (Some(key), toml::Value::Table(properties)) if key.kind == Kind::Properties => {
                    for (property, text) in flattened(properties, "") {
                        self.property(&property, &text, origin.clone());
                    }
                }
                (Some(key), _) => self.set(key, value, origin.clone()),
                (None, _) => self.unknown(&full, origin),
            }
        }
    }

    fn unknown(&mut self, name: &str, origin: &Origin) {
        let is_top = !name.contains('.');
        let sections = KEYS.iter().filter_map(|key| key.name.split_once('.')).map(|(section, _)| section);
        let guess = nearest_key(name).or_else(|| is_top.then(|| nearest(name, sections)).flatten());
        self.faults.push(Fault {
            key: name.to_owned(),
            origin: origin.to_string(),
            problem: "no such key".to_owned(),
            allowed: None,
            nearest: guess,
        });
    }

    fn environment(&mut self, sources: &Sources<'_>) {
        // An empty variable is an unset one: that is how compose files and shells say "none".
        let set: BTreeMap<&str, &str> =
            sources.environment.iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let mut known: Vec<String> = COMMAND_ENVIRONMENT.iter().map(|&name| name.to_owned()).collect();
        for key in KEYS {
            let mut names = key.environment();
            known.extend(names.iter().cloned());
            known.extend(names.iter().map(|name| format!("{name}_FILE")));
            names.reverse();
            for name in names {
                let from_file = format!("{name}_FILE");
                match (set.get(name.as_str()), set.get(from_file.as_str()).filter(|_| key.kind.is_secret())) {
                    (Some(_), Some(_)) => {
                        let problem = format!("both {name} and {from_file} are set");
                        self.fault(key.name, &Origin::Environment(name), problem, Some("one of them".to_owned()));
                    }
                    (Some(text), None) => self.set_text(key, text, Origin::Environment(name)),
                    (None, Some(path)) => self.secret_file(key, Path::new(path), from_file, sources.read),
                    (None, None) => {}
                }
            }
        }
        let prefix = "TIDEMARK_KAFKA_PROPERTIES_";
        for (&name, &text) in &set {
            let Some(property) = name.strip_prefix(prefix) else { continue };
            let (property, is_file) = property.strip_suffix("_FILE").map_or((property, false), |property| (property, true));
            let property = property.to_lowercase().replace('_', ".");
            let text = if is_file {
                match (sources.read)(Path::new(text)) {
                    Ok(text) => text.trim_end_matches(['\r', '\n']).to_owned(),
                    Err(error) => {
                        let origin = Origin::SecretFile(name.to_owned());
                        self.fault(&format!("kafka.properties.{property}"), &origin, format!("cannot read {text}: {error}"), None);
                        continue;
                    }
                }
            } else {
                text.to_owned()
            };
            self.property(&property, &toml::Value::String(text), Origin::Environment(name.to_owned()));
        }
        for &name in set.keys() {
            let ours = name.starts_with("TIDEMARK_") && !name.starts_with(prefix);
            // Kubernetes writes TIDEMARK_PORT… and TIDEMARK_SERVICE_… into every pod beside a service of that name.
            let kubernetes = name.contains("_SERVICE_") || name.contains("_PORT");
            if !ours || kubernetes || known.iter().any(|k| k == name) {
                continue;
            }
            // What all of them share says nothing about which one was meant.
            let meant = name.trim_start_matches("TIDEMARK_");
            let guess = nearest(meant, known.iter().filter_map(|known| known.strip_prefix("TIDEMARK_")));
            match guess.map(|guess| format!("TIDEMARK_{guess}")) {
                Some(guess) => self.faults.push(Fault {
                    key: name.to_owned(),
                    origin: "environment".to_owned(),
                    problem: "no such key".to_owned(),
                    allowed: None,
                    nearest: Some(guess),
                }),
                None => self.notes.push(format!("{name} is set and means nothing to tidemark")),
            }
        }
    }

    fn secret_file(&mut self, key: &Key, path: &Path, name: String, read: &dyn Fn(&Path) -> io::Result<String>) {
        let origin = Origin::SecretFile(name);
        match read(path) {
            Ok(text) => self.set_text(key, text.trim_end_matches(['\r', '\n']), origin),
            Err(error) => {
                self.fault(key.name, &origin, format!("cannot read {}: {error}", path.display()), Some("a readable file".to_owned()));
            }
        }
    }

    fn flag(&mut self, flag: &Flag, read: &dyn Fn(&Path) -> io::Result<String>) {
        let origin = Origin::Flag(flag.name.clone());
        let property = flag.key.strip_prefix("kafka.properties.");
        let Some(key) = find(property.map_or(flag.key.as_str(), |_| "kafka.properties")) else {
            self.unknown(&flag.key, &origin);
            return;
        };
        match &flag.value {
            FlagValue::File(path) => self.secret_file(key, path, flag.name.clone(), read),
            FlagValue::Text(text) if !may_be_an_argument(key.kind, text) => {
                let name = property.map_or_else(
                    || key.own_environment(),
                    |name| format!("TIDEMARK_KAFKA_PROPERTIES_{}", name.replace('.', "_").to_uppercase()),
                );
                let way = format!("set {name}, or {name}_FILE to a file that holds it");
                self.fault(&flag.key, &origin, "a secret in the command line can be read by every user of this machine", Some(way));
            }
            FlagValue::Text(text) => self.set_text(key, text, origin),
        }
    }

    fn finish(self) -> (Loaded, Vec<Fault>) {
        let mut faults = self.faults;
        let mut table = toml::Table::new();
        let mut origins = BTreeMap::new();
        for (name, (value, origin)) in self.values {
            insert(&mut table, &name, value);
            origins.insert(name, origin);
        }
        let config = Config::deserialize_from(table);
        let between = between_keys(&config, &|key| origins.get(key).cloned().unwrap_or_default().to_string());
        // What a faulty key fell back to may not fit the others: that is no second fault.
        faults.extend(between.into_iter().filter(|fault| faults.is_empty() || origins.contains_key(&fault.key)).collect::<Vec<_>>());
        (Loaded { config, origins, notes: self.notes }, faults)
    }
}

impl Config {
    fn deserialize_from(table: toml::Table) -> Self {
        table.try_into().expect("every key in the table was accepted by its kind, and kinds agree with the types (a test holds that)")
    }
}

fn insert(table: &mut toml::Table, key: &str, value: toml::Value) {
    let Some((section, name)) = key.split_once('.') else {
        table.insert(key.to_owned(), value);
        return;
    };
    let inner = table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
    let inner = inner.as_table_mut().expect("a section is a table");
    match name.strip_prefix("properties.") {
        Some(property) => {
            let properties = inner.entry("properties").or_insert_with(|| toml::Value::Table(toml::Table::new()));
            properties.as_table_mut().expect("properties are a table").insert(property.to_owned(), value);
        }
        None => {
            inner.insert(name.to_owned(), value);
        }
    }
}

fn is_section(name: &str) -> bool {
    KEYS.iter().any(|key| key.name.split_once('.').is_some_and(|(section, _)| section == name))
}

/// `sasl.password = "x"` without quotes is a table in TOML, and means the property all the same.
fn flattened(table: &toml::Table, prefix: &str) -> Vec<(String, toml::Value)> {
    let mut flat = Vec::new();
    for (name, value) in table {
        let full = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            toml::Value::Table(inner) => flat.extend(flattened(inner, &full)),
            _ => flat.push((full, value.clone())),
        }
    }
    flat
}

fn told(kind: Kind, value: &toml::Value) -> String {
    let is_address = matches!(kind, Kind::Url);
    match value {
        toml::Value::String(_) if is_address => "the text (not shown: it may hold a password)".to_owned(),
        toml::Value::String(text) => format!("{:?}", cut(text)),
        toml::Value::Table(_) => "a table".to_owned(),
        other => cut(&other.to_string()),
    }
}

fn cut(text: &str) -> String {
    const SHOWN: usize = 80;
    let mut short: String = text.chars().take(SHOWN).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
