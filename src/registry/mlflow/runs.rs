//! The run of a publication: found by its tags or created, then filled.

use serde_json::{Value, json};

use super::artifacts::Artifacts;
use super::http::{Http, encoded};
use super::wire::{ExperimentAnswer, ExperimentId, Nothing, Run, RunAnswer, Runs, cut, tags};
use crate::registry::stamp::{self, CONTENT, KEY, Stamp};
use crate::registry::{Publication, RegistryError};

/// MLflow's bounds on one `log-batch`.
const BATCH_METRICS: usize = 1_000;
const BATCH_PARAMS: usize = 100;
const BATCH_TAGS: usize = 100;
/// MLflow takes a request of 1,000,000 bytes; this is what its items may have in JSON, all escapes counted.
const BATCH_BYTES: usize = 800_000;
/// The longest value of a parameter that MLflow keeps.
const PARAM_CHARACTERS: usize = 6_000;
/// Times that a refused batch is sent again: of two who write the same to one run at once, MLflow refuses one, as though what it sent
/// were wrong (its database's unique constraint); what is there already it takes.
const CROSSINGS: u32 = 2;
/// Runs of one key: one, or a few after crashes and races.
const RUNS: u32 = 1_000;

/// Returns the id of an experiment, which is created when nobody has.
pub(super) fn experiment(attempted: &str, http: &Http, name: &str) -> Result<String, RegistryError> {
    if let Some(id) = find_experiment(attempted, http, name)? {
        return Ok(id);
    }
    match http.post::<ExperimentId>(attempted, "/api/2.0/mlflow/experiments/create", &json!({ "name": name })) {
        Ok(created) => Ok(created.experiment_id),
        // Somebody was faster.
        Err(RegistryError::Conflict { .. }) => find_experiment(attempted, http, name)?
            .ok_or_else(|| RegistryError::conflict(attempted, format!("experiment {name:?} is there and is not; try again"))),
        Err(error) => Err(error),
    }
}

fn find_experiment(attempted: &str, http: &Http, name: &str) -> Result<Option<String>, RegistryError> {
    let path = format!("/api/2.0/mlflow/experiments/get-by-name?experiment_name={}", encoded(name));
    let found = match http.get::<ExperimentAnswer>(attempted, &path) {
        Ok(answer) => answer.experiment,
        Err(RegistryError::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    if found.lifecycle_stage == "deleted" {
        return Err(RegistryError::conflict(
            attempted,
            format!(
                "experiment {name:?} was deleted; restore it (`mlflow experiments restore --experiment-id {}`) or set MLFLOW_EXPERIMENT_NAME to another",
                found.experiment_id
            ),
        ));
    }
    Ok(Some(found.experiment_id))
}

/// Returns the run that holds this publication, half filled perhaps; creates it when there is none.
///
/// A run of the same key with other content is never written to: parameters cannot be changed, and files would be mixed.
/// Of several with the same content, made by two at once, the one with the smallest id counts.
pub(super) fn find_or_create(
    attempted: &str,
    http: &Http,
    experiment: &str,
    publication: &Publication,
    stamp: &Stamp,
) -> Result<Run, RegistryError> {
    if let Some(run) = find(attempted, http, experiment, &publication.key, &stamp.content)? {
        return Ok(run);
    }
    // Everything that a later look-up needs is there from the first moment; the rest of the tags follows in batches.
    let body = json!({
        "experiment_id": experiment,
        "run_name": publication.run_name,
        "start_time": publication.start_ms,
        "tags": [{ "key": KEY, "value": publication.key }, { "key": CONTENT, "value": stamp.content }],
    });
    let created: RunAnswer = http.post(attempted, "/api/2.0/mlflow/runs/create", &body)?;
    Ok(find(attempted, http, experiment, &publication.key, &stamp.content)?.unwrap_or(created.run))
}

fn find(attempted: &str, http: &Http, experiment: &str, key: &str, content: &str) -> Result<Option<Run>, RegistryError> {
    let mut runs = of_key(attempted, http, experiment, key)?;
    runs.retain(|run| run.tag(CONTENT) == Some(content));
    Ok(runs.into_iter().min_by(|a, b| a.info.run_id.cmp(&b.info.run_id)))
}

fn of_key(attempted: &str, http: &Http, experiment: &str, key: &str) -> Result<Vec<Run>, RegistryError> {
    let body = json!({
        "experiment_ids": [experiment],
        "filter": format!("tags.`{KEY}` = '{key}'"),
        "run_view_type": "ACTIVE_ONLY",
        "max_results": RUNS,
    });
    Ok(http.post::<Runs>(attempted, "/api/2.0/mlflow/runs/search", &body)?.runs)
}

/// Returns a run by its id.
pub(super) fn get(attempted: &str, http: &Http, run_id: &str) -> Result<Run, RegistryError> {
    Ok(http.get::<RunAnswer>(attempted, &format!("/api/2.0/mlflow/runs/get?run_id={}", encoded(run_id)))?.run)
}

/// Writes everything that belongs to a run, and closes it. Repeating it changes nothing.
pub(super) fn fill(attempted: &str, http: &Http, run: &Run, publication: &Publication, stamp: &Stamp) -> Result<(), RegistryError> {
    let run_id = &run.info.run_id;
    let artifacts = Artifacts::of_run(attempted, http, &run.info.artifact_uri)?;
    let mut all = stamp.run_tags.clone();
    let of_mlflow =
        [("source.name", "tidemark"), ("source.type", "JOB"), ("user", "tidemark"), ("note.content", publication.description.as_str())];
    all.extend(of_mlflow.map(|(key, value)| (format!("mlflow.{key}"), value.to_owned())));
    log(attempted, http, run_id, "tags", tags(&all), BATCH_TAGS)?;
    let params = publication.params.iter().map(|(key, value)| json!({ "key": key, "value": cut(value, PARAM_CHARACTERS) })).collect();
    log(attempted, http, run_id, "params", params, BATCH_PARAMS)?;
    log_metrics(attempted, http, run_id, publication)?;
    for (path, bytes) in &publication.artifacts {
        artifacts.upload(attempted, path, bytes)?;
    }
    let body = json!({ "run_id": run_id, "status": "FINISHED", "end_time": publication.end_ms });
    http.post::<Nothing>(attempted, "/api/2.0/mlflow/runs/update", &body).map(drop)
}

/// Logs the metrics, unless they are there.
///
/// MLflow leaves out a value that it has; but MLflow 2 does not know NaN again, and refuses the whole batch. The run holds
/// this publication's content and no other, so what has the names has the values.
fn log_metrics(attempted: &str, http: &Http, run_id: &str, publication: &Publication) -> Result<(), RegistryError> {
    let metrics = publication
        .metrics
        .iter()
        .map(|(key, value)| json!({ "key": key, "value": stamp::number(*value), "timestamp": publication.end_ms, "step": 0 }))
        .collect();
    let Err(error) = log(attempted, http, run_id, "metrics", metrics, BATCH_METRICS) else { return Ok(()) };
    if matches!(error, RegistryError::Invalid { .. }) {
        let there = get(attempted, http, run_id)?;
        if publication.metrics.keys().all(|key| there.has_metric(key)) {
            return Ok(());
        }
    }
    Err(error)
}

fn log(attempted: &str, http: &Http, run_id: &str, kind: &str, items: Vec<Value>, most: usize) -> Result<(), RegistryError> {
    for batch in batches(items, most) {
        let body = json!({ "run_id": run_id, kind: batch });
        let mut crossed = 0;
        while let Err(error) = http.post::<Nothing>(attempted, "/api/2.0/mlflow/runs/log-batch", &body) {
            if !matches!(error, RegistryError::Invalid { .. }) || crossed == CROSSINGS {
                return Err(error);
            }
            crossed += 1;
        }
    }
    Ok(())
}

/// Cuts items into requests that MLflow takes: by number, and by size.
fn batches(items: Vec<Value>, most: usize) -> Vec<Vec<Value>> {
    let mut batches: Vec<Vec<Value>> = Vec::new();
    let mut bytes = 0;
    for item in items {
        // MLflow measures the text with every other character escaped as six.
        let size: usize = item.to_string().chars().map(|c| if c.is_ascii() { 1 } else { 12 }).sum();
        match batches.last_mut() {
            Some(last) if last.len() < most && bytes + size <= BATCH_BYTES => {
                bytes += size;
                last.push(item);
            }
            _ => {
                bytes = size;
                batches.push(vec![item]);
            }
        }
    }
    batches
}

/// Takes away the runs of a key that are not its version's: begun by a process that died, or that lost a race.
///
/// MLflow keeps deleted runs; one that was deleted while its process still writes to it tells that process so.
pub(super) fn tidy(attempted: &str, http: &Http, experiment: &str, key: &str, keep: &str) -> Result<(), RegistryError> {
    for run in of_key(attempted, http, experiment, key)?.into_iter().filter(|run| run.info.run_id != keep) {
        match http.post::<Nothing>(attempted, "/api/2.0/mlflow/runs/delete", &json!({ "run_id": run.info.run_id })) {
            // Another one tidies too.
            Ok(_) | Err(RegistryError::NotFound { .. } | RegistryError::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_keep_to_number_and_size() {
        let lengths = |items: Vec<Value>, most| batches(items, most).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lengths(vec![json!(1); 250], 100), [100, 100, 50]);
        assert_eq!(lengths(Vec::new(), 100), [0_usize; 0]);
        let long = json!({ "key": "k", "value": "x".repeat(300_000) });
        assert_eq!(lengths(vec![long; 5], 100), [2, 2, 1]);
        let wide = json!("é".repeat(6_000));
        assert_eq!(lengths(vec![wide; 20], 100), [11, 9], "escaped characters count as many");
    }
}
