//! The texts that must not appear anywhere, and their removal from what others say (a driver, a server, a log line).

use std::borrow::Cow;

use secrecy::ExposeSecret;

use super::Config;
use super::show::MASK;

/// Texts shorter than this are not searched for: they would match everywhere.
const SHORTEST: usize = 4;

/// The secrets of a configuration.
#[derive(Clone, Default)]
pub struct Secrets(Vec<String>);

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secrets({})", self.0.len())
    }
}

impl Secrets {
    /// Collects them.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let mut texts = Vec::new();
        if let Some(uri) = &config.mongodb.uri {
            texts.extend(in_uri(uri.expose_secret()));
        }
        if let Some(uri) = &config.mlflow.tracking_uri {
            texts.extend(in_uri(uri));
        }
        if let Some(url) = &config.webhook.url {
            texts.extend(in_uri(url));
            let path = url.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map(|(_, path)| path);
            texts.extend(path.map(str::to_owned));
        }
        texts.extend([&config.mlflow.token, &config.mlflow.password].into_iter().flatten().map(|secret| secret.expose_secret().to_owned()));
        texts.extend(config.webhook.secret.iter().map(|secret| secret.expose_secret().to_owned()));
        let named_so =
            |name: &str| ["password", "secret", "token", "jaas", ".pem", "credential", "oauth"].iter().any(|word| name.contains(word));
        let properties = config.kafka.properties.iter().filter(|(name, _)| named_so(name));
        texts.extend(properties.map(|(_, value)| value.expose_secret().to_owned()));
        texts.retain(|text| text.len() >= SHORTEST);
        // The longest first: a password inside a connection string must not leave the rest of it behind.
        texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
        texts.dedup();
        Self(texts)
    }

    /// Returns `text` without them.
    #[must_use]
    pub fn scrub<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut scrubbed = Cow::Borrowed(text);
        for secret in self.0.iter().filter(|secret| text.contains(secret.as_str())) {
            scrubbed = Cow::Owned(scrubbed.replace(secret.as_str(), MASK));
        }
        scrubbed
    }
}

/// The password in both its forms, and the values of options that may be secret.
fn in_uri(uri: &str) -> Vec<String> {
    let Some((_, rest)) = uri.split_once("://") else { return vec![uri.to_owned()] };
    let mut found = Vec::new();
    if let Some((user, _)) = rest.rsplit_once('@') {
        found.push(user.to_owned());
        if let Some((_, password)) = user.split_once(':') {
            found.push(password.to_owned());
            found.push(decoded(password));
        }
    }
    for option in rest.split_once('?').into_iter().flat_map(|(_, options)| options.split('&')) {
        let Some((name, value)) = option.split_once('=') else { continue };
        let name = name.to_ascii_lowercase();
        if ["password", "token", "secret", "properties", "key"].iter().any(|word| name.contains(word)) {
            found.push(value.to_owned());
            found.push(decoded(value));
        }
    }
    found
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|two| std::str::from_utf8(two).ok()).and_then(|two| u8::from_str_radix(two, 16).ok());
        match (first, hex) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_taken_out_of_what_others_say() {
        let mut config = Config::default();
        config.mongodb.uri = Some("mongodb://joe:hun%40ter2@h/?tlsCertificateKeyFilePassword=opensesame".into());
        config.webhook.url = Some("https://h/T0/B0/hooktoken".to_owned());
        config.webhook.secret = Some("signature".into());
        config.kafka.properties.insert("sasl.password".to_owned(), "kafkapass".into());
        config.kafka.properties.insert("security.protocol".to_owned(), "SASL_SSL".into());
        let secrets = Secrets::of(&config);
        let said = "joe:hun%40ter2 hun@ter2 opensesame hooktoken T0/B0/hooktoken signature kafkapass SASL_SSL";
        assert_eq!(secrets.scrub(said), "*** *** *** hooktoken *** *** *** SASL_SSL");
        assert!(matches!(secrets.scrub("nothing"), Cow::Borrowed(_)));
        assert_eq!(format!("{secrets:?}"), "Secrets(7)");
    }
}
