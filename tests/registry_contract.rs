//! What every registry promises; run on the directory and on MLflow.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemark::registry::{Published, Registry, RegistryError, Stage};

use crate::support::publications::publication;

/// Room for every file of the tests.
pub(crate) const LIMIT: u64 = 1 << 20;

type Case = fn(&Arc<dyn Registry>, &str);

/// The promises. Each gets a model's name of its own.
const CASES: &[(&str, Case)] = &[
    ("a_model_that_nobody_published_has_nothing", nothing),
    ("a_version_holds_what_was_published", holds),
    ("a_key_makes_one_version_whatever_is_published_with_it", once),
    ("two_that_publish_one_key_at_once_get_one_version", at_once),
    ("promotion_archives_the_former_and_can_go_back", promotion),
    ("a_tag_is_written_over_and_the_registrys_own_are_not", tags),
    ("only_what_was_published_is_loaded", loads),
    ("names_that_could_leave_their_place_are_refused", names),
    ("more_than_one_request_takes_is_published", much),
];

/// Holds a registry to all of them.
pub(crate) fn hold(registry: &Arc<dyn Registry>) {
    for (sentence, case) in CASES {
        let (registry, model) = (Arc::clone(registry), sentence.replace('_', "-"));
        // A failure names its thread.
        let thread = std::thread::Builder::new().name((*sentence).to_owned()).spawn(move || case(&registry, &model));
        assert!(thread.expect("a thread").join().is_ok(), "{sentence}");
    }
}

fn nothing(registry: &Arc<dyn Registry>, model: &str) {
    assert_eq!(registry.versions(model).expect("versions are listed"), []);
    assert_eq!(registry.production(model).expect("Production is read"), None);
    assert!(matches!(registry.load(model, 1, &["model/MLmodel"], LIMIT), Err(RegistryError::NotFound { .. })));
    assert!(matches!(registry.promote(model, 1, "why"), Err(RegistryError::NotFound { .. })));
    assert!(matches!(registry.set_tag(model, 1, "a", "b"), Err(RegistryError::NotFound { .. })));
}

fn holds(registry: &Arc<dyn Registry>, model: &str) {
    let wanted = publication(model, "trigger-1/since-onset");
    let published = registry.publish(&wanted).expect("it is published");
    assert_eq!(published.version, 1);
    let [version] = &registry.versions(model).expect("versions are listed")[..] else { panic!("one version") };
    assert_eq!((version.number, version.stage, version.run_id.as_ref()), (1, Stage::None, Some(&published.run_id)));
    assert_eq!(version.description, wanted.description);
    assert!(version.aliases.is_empty() && version.created_ms > 1_500_000_000_000, "{version:?}");
    for (key, value) in [
        ("tidemark.key", "trigger-1/since-onset"),
        ("tidemark.candidate", "since-onset"),
        ("tidemark.data_from", "2013-03-11T11:06:40.000Z"),
        ("tidemark.baseline", "flights@3"),
        ("tidemark.onset", "2013-03-14T22:26:40.000Z"),
        ("tidemark.holdout_to", "2013-03-17T06:00:00.000Z"),
    ] {
        assert_eq!(version.tags.get(key).map(String::as_str), Some(value), "{key}");
    }
    let paths: Vec<&str> = wanted.artifacts.keys().map(String::as_str).filter(|path| path.starts_with("model/")).collect();
    let loaded = registry.load(model, 1, &paths, LIMIT).expect("it is loaded");
    assert_eq!(loaded.len(), 7);
    for (path, bytes) in loaded {
        assert_eq!(bytes, wanted.artifacts[&path], "{path}");
    }
}

fn once(registry: &Arc<dyn Registry>, model: &str) {
    let first = registry.publish(&publication(model, "a")).expect("it is published");
    let second = registry.publish(&publication(model, "b")).expect("it is published");
    assert_eq!((first.version, second.version), (1, 2));
    assert_eq!(registry.publish(&publication(model, "a")).expect("it is published"), first);
    let mut other = publication(model, "a");
    other.artifacts.insert("model/model.onnx".to_owned(), b"other".to_vec());
    assert_eq!(registry.publish(&other).expect("it is published"), first, "the key decides");
    let elsewhere = registry.publish(&publication(&format!("{model}-2"), "a")).expect("it is published");
    assert_eq!(elsewhere.version, 1, "another model counts for itself");
    assert_eq!(registry.versions(model).expect("versions are listed").len(), 2);
    assert_eq!(registry.load(model, 1, &["model/model.onnx"], LIMIT).expect("it is loaded").len(), 1);
}

fn at_once(registry: &Arc<dyn Registry>, model: &str) {
    let trainers: Vec<_> = (0..4_u8)
        .map(|trainer| {
            let (registry, mut candidate) = (Arc::clone(registry), publication(model, "key"));
            // Two hold the same, two do not.
            candidate.artifacts.insert("model/extra".to_owned(), vec![trainer.min(2)]);
            std::thread::spawn(move || registry.publish(&candidate).expect("it is published"))
        })
        .collect();
    let ended: Vec<Published> = trainers.into_iter().map(|trainer| trainer.join().expect("no trainer failed")).collect();
    assert!(ended.windows(2).all(|pair| pair[0] == pair[1]), "{ended:?}");
    let versions = registry.versions(model).expect("versions are listed");
    assert_eq!(versions.iter().map(|version| version.number).collect::<Vec<_>>(), [ended[0].version]);
    registry.promote(model, ended[0].version, "it is the one").expect("it is promoted");
    assert_eq!(registry.load(model, ended[0].version, &["model/extra", "model/MLmodel"], LIMIT).expect("it is loaded").len(), 2);
}

fn promotion(registry: &Arc<dyn Registry>, model: &str) {
    for key in ["a", "b", "c"] {
        registry.publish(&publication(model, key)).expect("it is published");
    }
    assert_eq!(registry.production(model).expect("Production is read"), None);
    for number in [1, 1, 3, 1, 2] {
        registry.promote(model, number, &format!("reason {number}")).expect("it is promoted");
        assert_eq!(registry.production(model).expect("Production is read"), Some(number));
    }
    let versions = registry.versions(model).expect("versions are listed");
    let shown: Vec<_> = versions.iter().map(|version| (version.stage, version.aliases.concat())).collect();
    let archived = (Stage::Archived, String::new());
    assert_eq!(shown, [archived.clone(), (Stage::Production, "Production".to_owned()), archived]);
    assert_eq!(versions[1].tags["tidemark.promotion_reason"], "reason 2");
    assert!(matches!(registry.promote(model, 9, "why"), Err(RegistryError::NotFound { .. })));
    assert_eq!(registry.production(model).expect("Production is read"), Some(2), "a failed promotion moves nothing");
}

fn tags(registry: &Arc<dyn Registry>, model: &str) {
    registry.publish(&publication(model, "a")).expect("it is published");
    registry.set_tag(model, 1, "tidemark.outcome", "refused").expect("it is tagged");
    registry.set_tag(model, 1, "tidemark.outcome", "promoted: it's better, 8 % (p < 0.01)").expect("it is tagged");
    let versions = registry.versions(model).expect("versions are listed");
    assert_eq!(versions[0].tags["tidemark.outcome"], "promoted: it's better, 8 % (p < 0.01)");
    for own in ["tidemark.key", "tidemark.content", "tidemark.sha256/model/model.onnx"] {
        assert!(matches!(registry.set_tag(model, 1, own, "x"), Err(RegistryError::Invalid { .. })), "{own}");
    }
}

fn loads(registry: &Arc<dyn Registry>, model: &str) {
    let wanted = publication(model, "a");
    registry.publish(&wanted).expect("it is published");
    let size = wanted.artifacts["model/model.onnx"].len() as u64;
    assert!(registry.load(model, 1, &["model/model.onnx"], size).is_ok());
    let kind = |paths: &[&str], limit| match registry.load(model, 1, paths, limit) {
        Ok(_) => "ok",
        Err(RegistryError::Corrupt { .. }) => "corrupt",
        Err(RegistryError::Invalid { .. }) => "invalid",
        Err(error) => panic!("{error}"),
    };
    assert_eq!(kind(&["model/model.onnx"], size - 1), "corrupt", "above the limit");
    let larger = wanted.artifacts["model/MLmodel"].len() as u64;
    assert_eq!(kind(&["model/MLmodel"], larger), "ok");
    assert_eq!(kind(&["model/MLmodel", "model/model.onnx"], larger), "corrupt", "the limit is for all of them");
    assert_eq!(kind(&["model/none"], LIMIT), "corrupt", "never published");
    assert_eq!(kind(&["report.json"], LIMIT), "invalid", "not the model's");
    assert_eq!(kind(&["model/../../../etc/passwd"], LIMIT), "invalid");
    assert!(matches!(registry.load(model, 2, &["model/MLmodel"], LIMIT), Err(RegistryError::NotFound { .. })));
}

fn names(registry: &Arc<dyn Registry>, _model: &str) {
    for name in ["../x", "a/b", "a' OR name != '", "a?b=c", ""] {
        assert!(matches!(registry.publish(&publication(name, "k")), Err(RegistryError::Invalid { .. })), "{name}");
        assert!(matches!(registry.versions(name), Err(RegistryError::Invalid { .. })), "{name}");
        assert!(matches!(registry.production(name), Err(RegistryError::Invalid { .. })), "{name}");
        assert!(matches!(registry.promote(name, 1, ""), Err(RegistryError::Invalid { .. })), "{name}");
        assert!(matches!(registry.set_tag(name, 1, "a", "b"), Err(RegistryError::Invalid { .. })), "{name}");
        assert!(matches!(registry.load(name, 1, &["model/a"], 1), Err(RegistryError::Invalid { .. })), "{name}");
    }
    let mut wrong = publication("m", "k");
    wrong.artifacts.insert("../x".to_owned(), Vec::new());
    assert!(matches!(registry.publish(&wrong), Err(RegistryError::Invalid { .. })));
    assert!(matches!(registry.publish(&publication("m", "k' OR '1")), Err(RegistryError::Invalid { .. })));
}

fn much(registry: &Arc<dyn Registry>, model: &str) {
    let mut candidate = publication(model, "k");
    candidate.params = (0..250).map(|index| (format!("param {index}"), "é".repeat(7_000))).collect();
    candidate.metrics = (0..2_500_u32).map(|index| (format!("metric {index}"), f64::from(index))).collect();
    candidate.tags = (0..150).map(|index| (format!("tag {index}"), "x".repeat(6_000))).collect::<BTreeMap<_, _>>();
    candidate.artifacts.insert("model/large".to_owned(), vec![7; 5 << 20]);
    candidate.artifacts.insert("model/empty".to_owned(), Vec::new());
    let published = registry.publish(&candidate).expect("it is published");
    assert_eq!(registry.publish(&candidate).expect("it is published"), published);
    let loaded = registry.load(model, 1, &["model/large", "model/empty"], 5 << 20).expect("it is loaded");
    assert_eq!((loaded["model/large"].len(), loaded["model/empty"].len()), (5 << 20, 0));
    assert!(registry.versions(model).expect("versions are listed")[0].tags["tag 149"].starts_with("xxx"));
}
