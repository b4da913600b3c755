//! Any text as a watch spec and as a configuration: faults are told and nothing panics, a spec without faults can be run, and a
//! password is never shown.
#![no_main]

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use libfuzzer_sys::fuzz_target;
use tidemark::baseline::builder::Builder;
use tidemark::config::load::{Sources, load_all};
use tidemark::config::show::{has_password, redact_uri, redact_webhook, shown};
use tidemark::features::Encoder;
use tidemark::spec::Spec;
use tidemark::tail::mongo::stages;
use tidemark::tail::normalise::{Normaliser, Unreadable};

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(spec) = Spec::from_toml(text)
        && spec.faults().is_empty()
    {
        assert!(Encoder::new(&spec).is_ok(), "a spec without faults can be run");
        let _builder = Builder::new(&spec, 0, 86_400_000);
        let normaliser = Normaliser::new(&spec);
        let _ticket = normaliser.from_json(br#"{"a": {"b": [1, "2"]}, "status": "COMPLETED"}"#, 1, &mut Unreadable::default());
        let _asked = (stages(&spec), spec.fingerprint(), spec.causes());
    }
    let nothing = BTreeMap::new();
    let read = |_: &Path| -> io::Result<String> { Err(io::Error::other("no file is read")) };
    let sources =
        Sources { file: Some((PathBuf::from("tidemark.toml"), text.to_owned())), environment: &nothing, flags: Vec::new(), read: &read };
    let (loaded, faults) = load_all(&sources);
    let told: Vec<String> = faults.iter().map(ToString::to_string).collect();
    assert!(told.iter().all(|fault| !fault.is_empty()));
    let _shown = (shown(&loaded), loaded.config.topic_plan());
    if has_password(text) {
        assert!(!has_password(&redact_uri(text)) || redact_uri(text) != text);
    }
    let _webhook = redact_webhook(text);
});
