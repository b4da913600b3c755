//! The spec is data: the same rules hold for tickets and for parcels.

use bson::{Bson, Document, RawBson, RawDocumentBuf, doc};
use tidemark::spec::{FieldKind, Path, Spec};
use tidemark::tail::normalise::{Normalised, Normaliser, Unreadable, canonical_json};
use tidemark::ticket::{FieldValue, Ticket};

use crate::support::{hostile, parcels};

/// Each spec with a document that has every field.
fn specs() -> [(Spec, Document); 2] {
    let tickets = Spec::from_toml(include_str!("../config/execution-tickets.toml")).unwrap();
    [(tickets, hostile::plain("a")), (parcels::spec(), parcels::parcel(0))]
}

/// Sets the value at a path, or removes it.
fn put(document: &mut Document, path: &Path, value: Option<Bson>) {
    let (last, above) = path.names().split_last().unwrap();
    let mut at = document;
    for name in above {
        if !matches!(at.get(name), Some(Bson::Document(_))) {
            at.insert(name.clone(), Document::new());
        }
        at = at.get_document_mut(name).unwrap();
    }
    match value {
        Some(value) => _ = at.insert(last.clone(), value),
        None => _ = at.remove(last),
    }
}

fn read(spec: &Spec, document: &Document) -> (Normalised, Unreadable) {
    let raw = RawDocumentBuf::try_from(document).unwrap();
    let normaliser = Normaliser::new(spec);
    let (mut from_bson, mut from_json) = (Unreadable::default(), Unreadable::default());
    let normalised = normaliser.from_bson(&raw, &mut from_bson);
    let line = canonical_json(RawBson::Document(raw).as_raw_bson_ref()).unwrap();
    let mut again = normaliser.from_json(line.as_bytes(), 1, &mut from_json);
    if let Normalised::Dead(dead) = &mut again {
        dead.position = None;
    }
    assert_eq!(format!("{again:?}"), format!("{normalised:?}"), "from JSON and from BSON alike");
    assert_eq!(from_json, from_bson);
    (normalised, from_bson)
}

fn reason(spec: &Spec, document: &Document) -> &'static str {
    match read(spec, document).0 {
        Normalised::Completed(_) => "completed",
        Normalised::Other(_) => "other",
        Normalised::Dead(dead) => dead.reason.name(),
    }
}

fn ticket(spec: &Spec, document: &Document) -> (Ticket, Unreadable) {
    match read(spec, document) {
        (Normalised::Completed(ticket), unreadable) => (ticket, unreadable),
        (other, _) => panic!("not completed: {other:?}"),
    }
}

#[test]
fn both_specs_are_without_fault_and_differ_in_name_and_fingerprint() {
    let [(tickets, _), (parcels, _)] = specs();
    assert_eq!((tickets.faults(), parcels.faults()), (vec![], vec![]));
    assert_ne!(tickets.fingerprint(), parcels.fingerprint());
}

#[test]
fn a_whole_document_has_every_field_and_keeps_all_in_its_record() {
    for (spec, document) in specs() {
        let (ticket, unreadable) = ticket(&spec, &document);
        assert!(unreadable.is_empty());
        assert!(ticket.fields.iter().all(|value| *value != FieldValue::Missing), "{}: {:?}", spec.name, ticket.fields);
        assert!(ticket.predicted.is_some());
        let mut value = Vec::new();
        ticket.encode(&spec, &mut value);
        assert_eq!(Ticket::decode(&spec, &value).unwrap(), ticket);
    }
}

#[test]
fn id_completion_and_target_kill_and_nothing_else_does() {
    let useless = || Some(Bson::from(vec![true]));
    for (spec, whole) in specs() {
        let with = |path: &Path, value: Option<Bson>| {
            let mut document = whole.clone();
            put(&mut document, path, value);
            document
        };
        for absent in [None, Some(Bson::Null)] {
            assert_eq!(reason(&spec, &with(&spec.ticket.id, absent.clone())), "bad_id");
            assert_eq!(reason(&spec, &with(&spec.ticket.status, absent.clone())), "other");
            assert_eq!(reason(&spec, &with(&spec.ticket.completed_at, absent)), "no_completed_at");
        }
        assert_eq!(reason(&spec, &with(&spec.ticket.completed_at, useless())), "no_completed_at");
        for value in [useless(), Some(0.into()), Some(f64::NAN.into()), Some((spec.target.max * 1.01).into()), Some("60".into())] {
            assert_eq!(reason(&spec, &with(&spec.target.paths[0], value)), "no_actual");
        }
        let edge = ticket(&spec, &with(&spec.target.paths[0], Some(spec.target.max.into()))).0.actual;
        assert!((edge - spec.target.max).abs() < f64::EPSILON);

        for (at, field) in spec.fields.iter().enumerate() {
            let mut document = whole.clone();
            for path in &field.paths {
                put(&mut document, path, Some(doc! { "of": "no use" }.into()));
            }
            let (ticket, unreadable) = ticket(&spec, &document);
            if field.kind == FieldKind::JsonSize {
                assert_eq!(ticket.fields[at], FieldValue::Number(15.0), "a document has a size");
                continue;
            }
            assert_eq!(ticket.fields[at], FieldValue::Missing, "{}.{}", spec.name, field.name);
            assert_eq!(
                unreadable.iter().map(|(field, why, count)| (field, why.name(), count)).collect::<Vec<_>>(),
                [(at, "wrong_type", 1)]
            );
        }
    }
}

#[test]
fn a_projection_brings_what_is_read_and_nothing_else() {
    for (spec, document) in specs() {
        let mut projected = Document::new();
        for path in Normaliser::new(&spec).paths() {
            let names = path.names();
            let mut at = Some(&document);
            for name in &names[..names.len() - 1] {
                at = at.and_then(|document| document.get_document(name).ok());
            }
            if let Some(value) = at.and_then(|document| document.get(&names[names.len() - 1])) {
                put(&mut projected, path, Some(value.clone()));
            }
        }
        assert_eq!(read(&spec, &projected), read(&spec, &document));
        assert!(!projected.to_string().contains("secret"));
    }
}

#[test]
fn a_month_of_parcels_is_read_by_its_own_spec() {
    const PARCELS: u64 = 20_000;
    let spec = parcels::spec();
    let normaliser = Normaliser::new(&spec);
    let mut unreadable = Unreadable::default();
    let (mut completed, mut others) = (0, 0);
    for number in 0..PARCELS {
        let document = parcels::parcel(number);
        match normaliser.from_bson(&RawDocumentBuf::try_from(&document).unwrap(), &mut unreadable) {
            Normalised::Completed(ticket) => {
                completed += 1;
                assert_eq!(ticket.model_version.as_deref(), Some("eta-7"));
                assert!(ticket.id.json().starts_with("{\"$oid\":\""));
                let handed_over = FieldValue::Number((parcels::FIRST_MS + i64::try_from(number).unwrap() * 120_000) as f64);
                assert_eq!(ticket.fields[spec.field("handed_over_at").unwrap()], handed_over);
            }
            Normalised::Other(row) => {
                others += 1;
                assert!(row.is_some(), "a lost parcel has a target too");
            }
            Normalised::Dead(dead) => panic!("{dead:?}"),
        }
    }
    assert_eq!((completed, others), (PARCELS / 10 * 9, PARCELS / 10));
    assert!(unreadable.is_empty());
}
