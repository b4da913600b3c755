//! Layers, faults and secrets of the configuration, key by key.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::Config;
use super::faults::Fault;
use super::keys::{KEYS, Kind};
use super::load::{Flag, FlagValue, Loaded, Origin, Sources, load_all};
use super::show::shown;

const DEFAULTS: &str = include_str!("../../config/tidemark.toml");

fn loaded(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> (Loaded, Vec<Fault>) {
    let environment: BTreeMap<String, String> = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let flags = flags
        .iter()
        .map(|(key, value)| Flag { key: (*key).to_owned(), name: "--set".to_owned(), value: FlagValue::Text((*value).to_owned()) })
        .collect();
    let read = |path: &Path| match path.to_str() {
        Some("/secrets/uri") => Ok("mongodb://u:hunter2@filed:1\n".to_owned()),
        Some("/secrets/password") => Ok("hunter2\n".to_owned()),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    };
    load_all(&Sources { file: Some((PathBuf::from("t.toml"), file.to_owned())), environment: &environment, flags, read: &read })
}

fn value(loaded: &Loaded, key: &str) -> Option<toml::Value> {
    shown(loaded).into_iter().find(|line| line.key == key).and_then(|line| line.value)
}

/// Four different values that a kind takes, as text.
fn samples(kind: Kind) -> [String; 3] {
    let texts = |a: &str, b: &str, c: &str| [a.to_owned(), b.to_owned(), c.to_owned()];
    match kind {
        Kind::Text => texts("one", "two", "three"),
        Kind::Flag => texts("true", "false", "true"),
        Kind::Integer(min, max) => [(max - 2).max(min), (max - 1).max(min), max].map(|n| n.to_string()),
        Kind::Number(min, max) => [min + (max - min) * 0.5, min + (max - min) * 0.25, min + (max - min) * 0.75].map(|n| n.to_string()),
        Kind::Choice(words) => texts(words[0], words[1], words[0]),
        Kind::Slice => texts("60000", "1800000", "7200000"),
        Kind::Days => texts("[1]", "[1, 3]", "[7]"),
        Kind::Servers => texts("a:1", "b:2,c:3", "[::1]:4"),
        Kind::Prefix => texts("a", "b.c", "d-e_f"),
        Kind::Address => texts("127.0.0.1:1", "localhost:2", "[::1]:3"),
        Kind::Url => texts("http://a", "http://b:1", "https://c"),
        Kind::MongodbUri => texts("mongodb://a", "mongodb://b", "mongodb://c"),
        Kind::Secret => texts("12345678", "23456789", "34567890"),
        Kind::Properties => texts("", "", ""),
        Kind::Filter => texts("info", "warn", "debug"),
    }
}

fn as_toml(key: &str, kind: Kind, text: &str) -> String {
    let value = kind.parse(text).expect("a sample can be read");
    match key.split_once('.') {
        Some((section, name)) => format!("[{section}]\n{name} = {value}\n"),
        None => format!("{key} = {value}\n"),
    }
}

fn exact(loaded: &Loaded, key: &super::keys::Key) -> String {
    use secrecy::ExposeSecret;
    match key.kind {
        Kind::Secret => {
            let secret = match key.name {
                "webhook.secret" => &loaded.config.webhook.secret,
                "mlflow.token" => &loaded.config.mlflow.token,
                "mlflow.password" => &loaded.config.mlflow.password,
                other => panic!("{other} is a secret that this test does not know"),
            };
            secret.as_ref().map(|s| s.expose_secret().to_owned())
        }
        _ => value(loaded, key.name).map(|v| v.to_string()),
    }
    .unwrap_or_default()
}

#[test]
fn every_key_takes_flag_over_environment_over_file_over_default() {
    for key in KEYS.iter().filter(|key| key.kind != Kind::Properties) {
        let [in_file, in_environment, as_flag] = samples(key.kind);
        let file = as_toml(key.name, key.kind, &in_file);
        let own = key.own_environment();
        let flags: &[(&str, &str)] = if key.kind == Kind::Secret { &[] } else { &[(key.name, as_flag.as_str())] };
        let other = [key.contract.unwrap_or("UNUSED")].map(|name| (name, in_environment.as_str()));

        let only_file = loaded(&file, &[], &[]).0;
        assert_eq!(only_file.origin(key.name), Origin::File(PathBuf::from("t.toml")), "{}", key.name);
        let environment = loaded(&file, &[(&own, &in_environment)], &[]).0;
        assert_eq!(environment.origin(key.name), Origin::Environment(own.clone()), "{}", key.name);
        assert_eq!(loaded("", &[], &[]).0.origin(key.name), Origin::Default);
        if !flags.is_empty() {
            let all = loaded(&file, &[(&own, &in_environment)], flags).0;
            assert_eq!(all.origin(key.name), Origin::Flag("--set".to_owned()), "{}", key.name);
            assert_ne!(exact(&all, key), exact(&environment, key), "{}", key.name);
        }
        if let Some(contract) = key.contract {
            let theirs = loaded(&file, &other, &[]).0;
            assert_eq!(theirs.origin(key.name), Origin::Environment(contract.to_owned()));
            assert_eq!(exact(&theirs, key), exact(&environment, key));
            let both = loaded("", &[(contract, &in_file), (&own, &in_environment)], &[]).0;
            assert_eq!(both.origin(key.name), Origin::Environment(own.clone()), "ours wins over the contract's");
        }
        assert_ne!(exact(&only_file, key), exact(&environment, key), "{}", key.name);
    }
}

#[test]
fn the_commented_file_is_the_default() {
    let (ours, faults) = loaded(DEFAULTS, &[], &[]);
    assert_eq!(faults, vec![]);
    let table = |config: &Config| toml::Table::try_from(config).unwrap();
    assert_eq!(table(&ours.config), table(&Config::default()));
    // Every key stands in it, those without a default in a comment.
    for key in KEYS {
        let name = key.name.rsplit('.').next().unwrap();
        let stands = DEFAULTS.lines().any(|line| {
            let line = line.trim_start_matches("# ");
            line.starts_with(&format!("{name} = ")) || line == format!("[{}]", key.name)
        });
        assert!(stands, "{}", key.name);
        if let Some(contract) = key.contract {
            assert!(DEFAULTS.contains(contract), "{contract}");
        }
    }
}

#[test]
fn every_value_of_the_configuration_has_a_key() {
    let table = toml::Table::try_from(Config::default()).unwrap();
    for (section, inner) in &table {
        match inner {
            toml::Value::Table(inner) => {
                for name in inner.keys() {
                    let full = format!("{section}.{name}");
                    assert!(KEYS.iter().any(|key| key.name == full), "{full}");
                }
            }
            _ => assert!(KEYS.iter().any(|key| key.name == section), "{section}"),
        }
    }
}

#[test]
fn every_fault_kind_is_found_by_key_with_what_is_allowed() {
    for (file, key, says) in [
        ("[kafka]\npartitions = 0", "kafka.partitions", "0 is not allowed; allowed: a whole number from 1 to 1000"),
        ("[kafka]\npartitions = \"4\"", "kafka.partitions", "a whole number"),
        ("[kafka]\npartitions = 4.0", "kafka.partitions", "4.0 is not allowed"),
        ("[kafka]\npartitons = 4", "kafka.partitons", "did you mean kafka.partitions?"),
        ("[kafak]\npartitions = 4", "kafak", "did you mean kafka?"),
        ("[tail]\npartitions = 4", "tail.partitions", "did you mean kafka.partitions?"),
        ("psi_critical = 0.3", "psi_critical", "did you mean judge.psi_critical?"),
        ("[nonsense]\nx = 1", "nonsense", "no such key"),
        ("kafka = 3", "kafka", "no such key"),
        ("[kafka]\ntopic_prefix = \"a b\"", "kafka.topic_prefix", "letters, digits"),
        ("[kafka]\nbootstrap_servers = \"localhost\"", "kafka.bootstrap_servers", "host:port"),
        ("[kafka.properties]\nacks = \"1\"", "kafka.properties.acks", "exactly-once delivery rests on it"),
        ("[kafka.properties]\n\"bootstrap.servers\" = \"a:1\"", "kafka.properties.bootstrap.servers", "kafka.bootstrap_servers"),
        ("[kafka.properties]\n\"sasl.password\" = []", "kafka.properties.sasl.password", "is not a text"),
        ("[tail]\nstart = \"later\"", "tail.start", "now or history"),
        ("[window]\nslice_ms = 3700000", "window.slice_ms", "divisor of a day"),
        ("[window]\ndays = [7, 1]", "window.days", "ascending"),
        ("[window]\ndays = []", "window.days", "ascending"),
        ("[window]\ndays = [1, 14]", "judge.error_days", "no window has 3 days"),
        ("[judge]\npsi_critical = nan", "judge.psi_critical", "nan is not allowed"),
        ("[judge]\npsi_warning = 0.3", "judge.psi_warning", "at most 0.25"),
        ("[judge]\nks_p_critical = 0.5", "judge.ks_p_critical", "at most 0.05"),
        ("[judge]\nfeature_days = [5]", "judge.feature_days", "no window has 5 days"),
        ("[judge]\nretrain_on_single_cause = 1", "judge.retrain_on_single_cause", "true or false"),
        ("[kafka]\ntickets_retention_days = 8", "kafka.tickets_retention_days", "at least 9"),
        ("[webhook]\nsecret = \"12345678\"", "webhook.secret", "without a webhook.url"),
        ("[webhook]\nsecret = \"short\"\nurl = \"http://a\"", "webhook.secret", "8 to 4096 characters"),
        ("[webhook]\nurl = \"ftp://a\"", "webhook.url", "http"),
        ("[mlflow]\ntracking_uri = \"localhost:5000\"", "mlflow.tracking_uri", "http"),
        ("[http]\nlisten = \"9464\"", "http.listen", "host:port"),
        ("[log]\nfilter = \"a=b=c\"", "log.filter", "tracing filter"),
        ("[mongodb]\nuri = \"localhost\"", "mongodb.uri", "mongodb://"),
        ("[mongodb]\nuri = 3", "mongodb.uri", "not a text"),
        ("instance = \"a\\u0000b\"", "instance", "control characters"),
        ("a = = b", "file", "is not TOML in line 1"),
    ] {
        let (_, faults) = loaded(file, &[], &[]);
        let said: Vec<String> = faults.iter().filter(|fault| fault.key == key).map(ToString::to_string).collect();
        assert!(said.iter().any(|text| text.contains(says)), "{file}: {faults:?}");
        assert!(said.iter().all(|text| text.contains("(file t.toml)") || text.contains("(default)")), "{said:?}");
    }
}

#[test]
fn all_faults_are_listed_at_once() {
    let file = "[kafka]\npartitions = 0\nreplicaton = 1\n[judge]\npsi_warning = 0.9\n";
    let (_, faults) = loaded(file, &[("ML_DRIFT_PSI_THRESHOLD", "much"), ("TIDEMARK_KAFKA_PARTITONS", "3")], &[("tail.strat", "now")]);
    let mut keys: Vec<&str> = faults.iter().map(|fault| fault.key.as_str()).collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        ["TIDEMARK_KAFKA_PARTITONS", "judge.psi_critical", "judge.psi_warning", "kafka.partitions", "kafka.replicaton", "tail.strat"]
    );
}

#[test]
fn a_faulty_value_leaves_the_layer_below_in_force() {
    let (loaded, faults) = loaded("[kafka]\npartitions = 7", &[("TIDEMARK_KAFKA_PARTITIONS", "many")], &[]);
    assert_eq!(faults.len(), 1);
    assert_eq!(loaded.config.kafka.partitions, 7);
}

#[test]
fn the_environment_is_read_as_people_write_it() {
    let environment = [
        ("TIDEMARK_JUDGE_RETRAIN_ON_SINGLE_CAUSE", "False"),
        ("ML_BACKFILL_ERRORS", "1"),
        ("TIDEMARK_WINDOW_DAYS", "1,3,7,14"),
        ("MLFLOW_TRACKING_URI", ""),
        ("ML_DRIFT_PSI_THRESHOLD", " 0.5 "),
        ("TIDEMARK_PORT_9464_TCP", "tcp://10.0.0.1:9464"),
        ("TIDEMARK_HTTP_SERVICE_HOST", "10.0.0.1"),
        ("TIDEMARK_XYZZY_PLUGH_FROTZ", "1"),
        ("HOME", "/root"),
    ];
    let (loaded, faults) = loaded("", &environment, &[]);
    assert_eq!(faults, vec![]);
    assert!(!loaded.config.judge.retrain_on_single_cause);
    assert!(loaded.config.backfill.errors);
    assert_eq!(loaded.config.window.days, [1, 3, 7, 14]);
    assert_eq!(loaded.config.mlflow.tracking_uri, None);
    assert!((loaded.config.judge.psi_critical - 0.5).abs() < 1e-12);
    assert_eq!(loaded.notes, ["TIDEMARK_XYZZY_PLUGH_FROTZ is set and means nothing to tidemark"]);
}

#[test]
fn a_secret_comes_from_a_file_that_the_environment_names() {
    use secrecy::ExposeSecret;
    let environment = [("MONGODB_URI_FILE", "/secrets/uri"), ("TIDEMARK_KAFKA_PROPERTIES_SASL_PASSWORD_FILE", "/secrets/password")];
    let (found, faults) = loaded("", &environment, &[]);
    assert_eq!(faults, vec![]);
    assert_eq!(found.config.mongodb.uri.as_ref().unwrap().expose_secret(), "mongodb://u:hunter2@filed:1");
    assert_eq!(found.config.kafka.properties["sasl.password"].expose_secret(), "hunter2");
    assert_eq!(found.origin("mongodb.uri"), Origin::SecretFile("MONGODB_URI_FILE".to_owned()));
    let faults = loaded("", &[("MONGODB_URI_FILE", "/secrets/none"), ("TIDEMARK_WEBHOOK_SECRET_FILE", "/secrets/none")], &[]).1;
    assert_eq!(faults.len(), 2, "{faults:?}");
    let faults = loaded("", &[("MONGODB_URI_FILE", "/secrets/uri"), ("MONGODB_URI", "mongodb://a")], &[]).1;
    assert!(faults[0].to_string().contains("both MONGODB_URI and MONGODB_URI_FILE are set"), "{faults:?}");
}

#[test]
fn a_property_without_quotes_is_the_same_property() {
    use secrecy::ExposeSecret;
    let (found, faults) = loaded("[kafka.properties]\nsasl.password = \"hunter2\"\n\"client.id\" = 7\n", &[], &[]);
    assert_eq!(faults, vec![]);
    assert_eq!(found.config.kafka.properties["sasl.password"].expose_secret(), "hunter2");
    assert_eq!(found.config.kafka.properties["client.id"].expose_secret(), "7");
}

#[test]
fn a_secret_in_the_command_line_is_refused() {
    for (key, value) in [
        ("mongodb.uri", "mongodb://u:hunter2@h"),
        ("webhook.secret", "hunter2hunter2"),
        ("kafka.properties.sasl.password", "hunter2"),
        ("mlflow.tracking_uri", "http://u:hunter2@h"),
    ] {
        let (found, faults) = loaded("", &[], &[(key, value)]);
        assert_eq!(faults.len(), 1, "{key}");
        let said = faults[0].to_string();
        assert!(said.contains("can be read by every user") && said.contains("_FILE"), "{said}");
        assert!(!said.contains("hunter2") && found.origins.is_empty());
    }
    assert_eq!(loaded("", &[], &[("mongodb.uri", "mongodb://h")]).1, vec![]);
}

#[test]
fn a_secret_is_in_no_fault_and_no_answer() {
    let broken = [
        "[mongodb]\nuri = \"mongo://u:hunter2@h\"",
        "[mongodb]\nuri = \"mongodb://u:hunter2@x@h\"",
        "[mongodb]\nuri = \"mongodb://u:hunter2@h",
        "[mongodb]\nuri = { hunter2 = 1 }",
        "[webhook]\nsecret = \"hunter2\"",
        "[webhook]\nurl = \"htp://u:hunter2@h/hunter2\"",
        "[mlflow]\ntracking_uri = \"u:hunter2@h\"",
        "[kafka.properties]\n\"sasl.password\" = [\"hunter2\"]",
        "[kafka]\nproperties = \"hunter2\"",
    ];
    for file in broken {
        let (_, faults) = loaded(file, &[], &[]);
        assert!(!faults.is_empty(), "{file}");
        assert!(!format!("{faults:?}").contains("hunter2"), "{faults:?}");
    }
    let fine = "[mongodb]\nuri = \"mongodb://u:hunter2@h\"\n[webhook]\nsecret = \"hunter2hunter2\"\nurl = \"https://h/hunter2\"\n\
                [mlflow]\ntracking_uri = \"http://u:hunter2@h\"\n[kafka.properties]\n\"sasl.password\" = \"hunter2\"";
    let (found, faults) = loaded(fine, &[], &[]);
    assert_eq!(faults, vec![]);
    let answer = serde_json::to_string(&shown(&found)).unwrap();
    assert!(!answer.contains("hunter2"), "{answer}");
    assert!(answer.contains("mongodb://***@h") && answer.contains("https://h/***"), "{answer}");
}
