//! A duration model in a directory that stands in for MLflow.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tidemark::features::Encoder;
use tidemark::model::duration::{DurationModel, MODEL_FILE};
use tidemark::registry::{Lineage, LocalRegistry, Publication, Registry};
use tidemark::spec::Spec;
use tidemark::ticket::Ticket;
use tidemark::train::candidate::fit;
use tidemark::train::frame::Collecting;

/// Fits a model to the older four fifths of `tickets` and publishes it, without promoting it; returns its version.
pub(crate) fn publish(directory: &Path, spec: &Spec, tickets: &[Ticket]) -> (u64, DurationModel) {
    let mut collecting = Collecting::new(Arc::new(Encoder::new(spec).unwrap()));
    tickets.iter().for_each(|ticket| collecting.push(ticket));
    let frame = collecting.frame();
    let cut = tickets.len() * 4 / 5;
    let candidate = fit("test", &frame, spec, (0..cut, cut..tickets.len()), 1).unwrap();
    let publication = Publication {
        model: spec.model.clone(),
        model_description: String::new(),
        key: "k".to_owned(),
        run_name: "r".to_owned(),
        start_ms: 0,
        end_ms: 1,
        params: BTreeMap::new(),
        metrics: BTreeMap::new(),
        tags: BTreeMap::new(),
        description: String::new(),
        lineage: Lineage::default(),
        artifacts: BTreeMap::from([(MODEL_FILE.to_owned(), candidate.model.to_bytes(&spec.target.name).unwrap())]),
    };
    let version = LocalRegistry::new(directory).publish(&publication).unwrap().version;
    (version, candidate.model)
}
