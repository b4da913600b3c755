//! What is in force and where each value came from; secrets are masked by the types' own serialisation.

use std::collections::BTreeMap;

use secrecy::{ExposeSecret, SecretString};
use serde::{Serialize, Serializer};

use super::keys::{KEYS, Kind};
use super::load::{Loaded, Origin};

/// What stands in the place of a secret.
pub const MASK: &str = "***";

/// Options of a connection string that say nothing secret.
const HARMLESS_OPTIONS: [&str; 16] = [
    "appname",
    "authmechanism",
    "authsource",
    "compressors",
    "connecttimeoutms",
    "directconnection",
    "loadbalanced",
    "maxpoolsize",
    "readconcernlevel",
    "readpreference",
    "replicaset",
    "retrywrites",
    "serverselectiontimeoutms",
    "ssl",
    "tls",
    "w",
];

/// Returns a URI without user, password and every option that may be secret.
#[must_use]
pub fn redact_uri(uri: &str) -> String {
    let Some((scheme, rest)) = uri.split_once("://") else { return MASK.to_owned() };
    let (before, options) = rest.split_once('?').map_or((rest, None), |(before, options)| (before, Some(options)));
    // The last @ before the options: an unescaped one inside the password must not end it early.
    let (user, place) = before.rsplit_once('@').map_or(("", before), |(_, place)| (MASK, place));
    let at = if user.is_empty() { "" } else { "@" };
    let mut text = format!("{scheme}://{user}{at}{place}");
    if options.is_some_and(|options| options.contains('@')) {
        // A password with an unescaped ? looks like options.
        return format!("{scheme}://{MASK}");
    }
    for (number, option) in options.into_iter().flat_map(|options| options.split('&')).enumerate() {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let shown = if HARMLESS_OPTIONS.contains(&name.to_ascii_lowercase().as_str()) { value } else { MASK };
        text.push(if number == 0 { '?' } else { '&' });
        text.push_str(&format!("{name}={shown}"));
    }
    text
}

/// Returns scheme and host of a URL: the path of a webhook is often its secret.
#[must_use]
pub fn redact_webhook(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return MASK.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (place, path) = rest.split_at(end);
    let host = place.rsplit_once('@').map_or(place, |(_, host)| host);
    if path.contains('@') || (path.is_empty() && host == place) {
        return format!("{scheme}://{}", if path.contains('@') { MASK } else { host });
    }
    format!("{scheme}://{host}/{MASK}")
}

/// Whether a URI carries a password.
#[must_use]
pub fn has_password(uri: &str) -> bool {
    let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    rest.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
}

#[expect(clippy::ref_option, reason = "serde hands over a reference to the field")]
pub(super) fn masked<S: Serializer>(secret: &Option<SecretString>, serializer: S) -> Result<S::Ok, S::Error> {
    secret.as_ref().map(|_| MASK).serialize(serializer)
}

#[expect(clippy::ref_option, reason = "serde hands over a reference to the field")]
pub(super) fn masked_uri<S: Serializer>(uri: &Option<SecretString>, serializer: S) -> Result<S::Ok, S::Error> {
    uri.as_ref().map(|uri| redact_uri(uri.expose_secret())).serialize(serializer)
}

#[expect(clippy::ref_option, reason = "serde hands over a reference to the field")]
pub(super) fn masked_url<S: Serializer>(url: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    url.as_deref().map(redact_uri).serialize(serializer)
}

#[expect(clippy::ref_option, reason = "serde hands over a reference to the field")]
pub(super) fn masked_webhook<S: Serializer>(url: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    url.as_deref().map(redact_webhook).serialize(serializer)
}

pub(super) fn masked_properties<S: Serializer>(properties: &BTreeMap<String, SecretString>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(properties.keys().map(|name| (name, MASK)))
}

/// One line of `config show`.
#[derive(Debug, Serialize)]
pub struct Shown {
    /// The key.
    pub key: String,
    /// Its value, masked; `None` when it has none.
    pub value: Option<toml::Value>,
    /// Where it came from.
    pub origin: Origin,
    /// What can set it.
    pub environment: Vec<String>,
    /// The commands that read it.
    pub used_by: &'static [&'static str],
}

/// Returns every key with its value in force.
#[must_use]
pub fn shown(loaded: &Loaded) -> Vec<Shown> {
    let table = toml::Table::try_from(&loaded.config).expect("a configuration has only texts, numbers, lists and tables");
    let mut lines = Vec::with_capacity(KEYS.len());
    for key in KEYS {
        let value = find(&table, key.name);
        if key.kind == Kind::Properties {
            let names = value.as_ref().and_then(toml::Value::as_table).into_iter().flat_map(toml::Table::keys);
            let before = lines.len();
            for name in names {
                let full = format!("{}.{name}", key.name);
                lines.push(Shown {
                    value: Some(toml::Value::String(MASK.to_owned())),
                    origin: loaded.origin(&full),
                    environment: vec![format!("{}_{}", key.own_environment(), name.replace('.', "_").to_uppercase())],
                    used_by: key.used_by,
                    key: full,
                });
            }
            if lines.len() > before {
                continue;
            }
        }
        lines.push(Shown {
            key: key.name.to_owned(),
            value: value.filter(|value| value.as_table().is_none_or(|table| !table.is_empty())),
            origin: loaded.origin(key.name),
            environment: key.environment(),
            used_by: key.used_by,
        });
    }
    lines
}

fn find(table: &toml::Table, key: &str) -> Option<toml::Value> {
    let mut names = key.split('.');
    let mut value = table.get(names.next()?)?;
    for name in names {
        value = value.get(name)?;
    }
    Some(value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_string_is_shown_without_its_password() {
        for (uri, shown) in [
            ("mongodb://localhost:27017", "mongodb://localhost:27017"),
            ("mongodb://u:hunter2@a:1,b:2/db?replicaSet=rs0", "mongodb://***@a:1,b:2/db?replicaSet=rs0"),
            (
                "mongodb+srv://u:hunter2@a/?tlsCertificateKeyFilePassword=hunter2&w=1",
                "mongodb+srv://***@a/?tlsCertificateKeyFilePassword=***&w=1",
            ),
            ("mongodb://u:hunter2@x@a:1", "mongodb://***@a:1"),
            ("mongodb://u:hun?ter2@a:1/", "mongodb://***"),
            ("hunter2", "***"),
        ] {
            assert_eq!(redact_uri(uri), shown);
        }
    }

    #[test]
    fn a_webhook_is_shown_by_its_host_alone() {
        for (url, shown) in [
            ("https://hooks.example/services/T0/hunter2", "https://hooks.example/***"),
            ("https://u:hunter2@hooks.example", "https://hooks.example/***"),
            ("https://hooks.example?token=hunter2", "https://hooks.example/***"),
            ("https://u:hun/ter2@hooks.example", "https://***"),
            ("http://127.0.0.1:9000", "http://127.0.0.1:9000"),
        ] {
            assert_eq!(redact_webhook(url), shown);
        }
    }

    #[test]
    fn a_password_is_seen_wherever_it_stands() {
        assert!(has_password("mongodb://u:p@h"));
        assert!(has_password("u:p@h"));
        assert!(!has_password("mongodb://h:27017,i:27017"));
        assert!(!has_password("mongodb://u@h:27017"));
    }
}
