//! What MongoDB is asked for: the change stream's pipeline and the projection, as the spec says.

use bson::{Bson, Document, doc};

use crate::spec::{Path, Spec};

/// Events that end or move the collection; they must pass, or the stream would swallow its own end.
const ABOUT_THE_COLLECTION: [&str; 4] = ["drop", "rename", "dropDatabase", "invalidate"];

/// Returns the stages after `$changeStream`: first what may have completed, then nothing but the spec's fields.
///
/// No stage before the projection names `fullDocument`: an event above 16 MB would stop the stream for ever (10334).
pub(super) fn stages(spec: &Spec, paths: &[&Path]) -> Vec<Document> {
    let completed = completed(spec);
    let mut project = doc! { "operationType": 1, "clusterTime": 1, "documentKey._id": 1 };
    project.extend(projection(paths, "fullDocument."));
    project.extend(projection(&[&spec.ticket.status], "fullDocumentBeforeChange."));
    let mut stages = vec![may_complete(spec, &completed), doc! { "$project": project }];
    if let Some(status) = dotted(&spec.ticket.status) {
        stages.push(doc! { "$match": { "$or": [
            { "operationType": { "$nin": ["insert", "replace"] } },
            { format!("fullDocument.{status}"): { "$in": completed } },
        ] } });
    }
    stages
}

/// Returns stages that bring no more of each event than its place, its key, the ticket's id and status, and in `bytes` how large it
/// is. The first stage is that of [`stages`]: an event of one stream is one of the other.
pub(super) fn sizes(spec: &Spec) -> Vec<Document> {
    let bytes: Vec<Document> = ["$fullDocument", "$fullDocumentBeforeChange", "$updateDescription"]
        .iter()
        .map(|part| doc! { "$bsonSize": { "$ifNull": [part, {}] } })
        .collect();
    let mut project = doc! { "operationType": 1, "clusterTime": 1, "documentKey._id": 1, "bytes": { "$add": bytes } };
    project.extend(projection(&[&spec.ticket.id, &spec.ticket.status], "fullDocument."));
    vec![may_complete(spec, &completed(spec)), doc! { "$project": project }]
}

fn completed(spec: &Spec) -> Vec<Bson> {
    spec.ticket.completed.iter().map(|status| Bson::from(status.as_str())).collect()
}

fn may_complete(spec: &Spec, completed: &[Bson]) -> Document {
    let mut other: Vec<&str> = vec!["insert", "replace"];
    other.extend(ABOUT_THE_COLLECTION);
    doc! { "$match": { "$or": [
        { "operationType": { "$in": other } },
        { "operationType": "update", "$or": set_by_update(&spec.ticket.status, completed) },
    ] } }
}

/// The ways in which an update can have set the status: whole, or by a dotted name that is one name in `updatedFields`.
fn set_by_update(status: &Path, completed: &[Bson]) -> Vec<Document> {
    let names = status.names();
    if names.len() == 1
        && let Some(name) = dotted(status)
    {
        return vec![doc! { format!("updateDescription.updatedFields.{name}"): { "$in": completed } }];
    }
    (1..=names.len())
        .map(|joined| {
            let mut value = get_field(&names[..joined].join("."), "$updateDescription.updatedFields".into());
            for name in &names[joined..] {
                value = get_field(name, value);
            }
            doc! { "$expr": { "$in": [value, completed] } }
        })
        .collect()
}

fn get_field(name: &str, input: Bson) -> Bson {
    doc! { "$getField": { "field": { "$literal": name }, "input": input } }.into()
}

/// Returns the inclusive projection of `paths` below `prefix`; a name that a projection cannot spell takes its parent along.
pub(super) fn projection(paths: &[&Path], prefix: &str) -> Document {
    let mut shown: Vec<String> = paths
        .iter()
        .map(|path| {
            let plain: Vec<_> = path.names().iter().map(String::as_str).take_while(|name| is_plain(name)).collect();
            format!("{prefix}{}", plain.join("."))
        })
        .map(|path| path.trim_end_matches('.').to_owned())
        .collect();
    shown.sort();
    shown.dedup();
    let covered = |path: &String| shown.iter().any(|outer| path.strip_prefix(outer.as_str()).is_some_and(|rest| rest.starts_with('.')));
    shown.iter().filter(|path| !covered(path) && !path.is_empty()).map(|path| (path.clone(), Bson::from(1))).collect()
}

/// Returns the projection of a `find`; everything when a top-level name cannot be spelt.
pub(super) fn find_projection(paths: &[&Path]) -> Option<Document> {
    let spelt = paths.iter().all(|path| path.names().first().is_some_and(|name| is_plain(name)));
    spelt.then(|| projection(paths, ""))
}

/// Returns the predicate by which the server leaves out what is not completed, where it can be spelt.
pub(super) fn completed_filter(spec: &Spec) -> Document {
    dotted(&spec.ticket.status).map_or_else(Document::new, |status| doc! { status: { "$in": spec.ticket.completed.clone() } })
}

fn is_plain(name: &str) -> bool {
    !name.contains('.') && !name.starts_with('$')
}

fn dotted(path: &Path) -> Option<String> {
    path.names().iter().all(|name| is_plain(name)).then(|| path.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(names: &[&str]) -> Path {
        #[derive(serde::Deserialize)]
        struct P {
            p: Path,
        }
        toml::from_str::<P>(&format!("p = {names:?}")).unwrap().p
    }

    #[test]
    fn a_projection_names_no_path_below_another_and_takes_the_parent_of_a_name_with_a_dot() {
        let paths = [path(&["a", "b"]), path(&["a"]), path(&["c", "x.y"]), path(&["ab"])];
        let shown = projection(&paths.iter().collect::<Vec<_>>(), "fullDocument.");
        assert_eq!(shown.keys().collect::<Vec<_>>(), ["fullDocument.a", "fullDocument.ab", "fullDocument.c"]);
        assert_eq!(find_projection(&[&path(&["x.y"])]), None);
        assert_eq!(projection(&[&path(&["x.y"])], "fullDocument."), doc! { "fullDocument": 1 });
    }

    #[test]
    fn a_nested_status_may_be_set_by_each_of_its_dotted_names() {
        assert_eq!(set_by_update(&path(&["state", "phase"]), &["DONE".into()]).len(), 2);
        let plain = set_by_update(&path(&["status"]), &["DONE".into()]);
        assert_eq!(plain, [doc! { "updateDescription.updatedFields.status": { "$in": ["DONE"] } }]);
    }

    #[test]
    fn no_stage_before_the_projection_names_the_full_document() {
        let spec = Spec::from_toml(include_str!("../../../config/execution-tickets.toml")).unwrap();
        let stages = stages(&spec, &[&spec.ticket.id, &spec.ticket.status]);
        assert!(!stages[0].to_string().contains("fullDocument"));
        assert!(stages[1].contains_key("$project"));
    }
}
