//! Hostile tickets are used, are dead letters, or have not completed: as each says, and never anything else.

use std::collections::{BTreeMap, HashSet};

use bson::{RawBson, RawDocument, RawDocumentBuf};
use tidemark::spec::Spec;
use tidemark::tail::normalise::{KEPT_BYTES, Normalised, Normaliser, Unreadable, canonical_json};
use tidemark::ticket::Ticket;

use crate::support::hostile::{Body, Expected, Hostile, hostile_documents};

fn spec() -> Spec {
    Spec::from_toml(include_str!("../config/execution-tickets.toml")).unwrap()
}

/// Compares what became of a document with what must.
fn hold(spec: &Spec, hostile: &Hostile, normalised: &Normalised, unreadable: &Unreadable) {
    let name = hostile.name;
    let fields: Vec<&str> = unreadable.iter().map(|(at, _, _)| spec.fields[at].name.as_str()).collect();
    match (&hostile.expected, normalised) {
        (Expected::Used(expected), Normalised::Completed(_)) => assert_eq!(fields, *expected, "{name}"),
        (Expected::DeadInTail(_), Normalised::Completed(_)) | (Expected::NotCompleted, Normalised::Other(_)) => {}
        (Expected::Dead(reason), Normalised::Dead(dead)) => assert_eq!(dead.reason.name(), *reason, "{name}: {}", dead.detail),
        (expected, other) => panic!("{name}: {expected:?} was expected, not {other:?}"),
    }
    hold_record(spec, name, normalised);
}

/// What is written can be read, and leaves at home what is not its.
fn hold_record(spec: &Spec, name: &str, normalised: &Normalised) {
    match normalised {
        Normalised::Completed(ticket) => {
            let mut value = Vec::new();
            ticket.encode(spec, &mut value);
            let read = Ticket::decode(spec, &value).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(format!("{read:?}"), format!("{ticket:?}"), "{name}");
            assert!(ticket.id.json().len() <= 1024 && ticket.actual > 0.0 && ticket.actual.is_finite(), "{name}");
        }
        Normalised::Dead(dead) => {
            let record: serde_json::Value = serde_json::from_slice(&dead.encode()).unwrap();
            assert_eq!(record["reason"], dead.reason.name(), "{name}");
            assert!(dead.fields.text.len() <= KEPT_BYTES && !dead.fields.text.contains("hunter2"), "{name}");
            assert!(dead.id.as_ref().is_none_or(|id| id.json().len() <= 1024), "{name}");
        }
        Normalised::Other(_) => {}
    }
}

#[test]
fn there_are_many_kinds_and_each_has_a_name() {
    let all = hostile_documents();
    let names: HashSet<&str> = all.iter().map(|hostile| hostile.name).collect();
    assert_eq!(names.len(), all.len());
    assert!(all.len() >= 60, "{}", all.len());
}

#[test]
fn every_hostile_document_becomes_what_it_must() {
    let spec = spec();
    let normaliser = Normaliser::new(&spec);
    for hostile in hostile_documents() {
        let mut unreadable = Unreadable::default();
        let normalised = match &hostile.body {
            Body::Document(document) => normaliser.from_bson(&RawDocumentBuf::try_from(document).unwrap(), &mut unreadable),
            Body::Bson(bytes) => normaliser.from_bson(RawDocument::from_bytes(bytes).unwrap(), &mut unreadable),
            Body::Json(line) => normaliser.from_json(line, 1, &mut unreadable),
        };
        hold(&spec, &hostile, &normalised, &unreadable);
    }
}

#[test]
fn a_hostile_document_is_the_same_as_a_line_of_mongoexport() {
    let spec = spec();
    let normaliser = Normaliser::new(&spec);
    for hostile in hostile_documents() {
        let Body::Document(document) = &hostile.body else { continue };
        let raw = RawBson::Document(RawDocumentBuf::try_from(document).unwrap());
        let line = canonical_json(raw.as_raw_bson_ref()).unwrap();
        let (mut from_bson, mut from_json) = (Unreadable::default(), Unreadable::default());
        let expected = normaliser.from_bson(raw.as_raw_bson_ref().as_document().unwrap(), &mut from_bson);
        let mut normalised = normaliser.from_json(line.as_bytes(), 1, &mut from_json);
        hold(&spec, &hostile, &normalised, &from_json);
        if let Normalised::Dead(dead) = &mut normalised {
            dead.position = None;
        }
        assert_eq!(format!("{normalised:?}"), format!("{expected:?}"), "{}", hostile.name);
        assert_eq!(from_json, from_bson, "{}", hostile.name);
    }
}

/// Small numbers that look random and are always the same (Marsaglia's xorshift64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }

    fn byte(&mut self) -> u8 {
        const LIKELY: [u8; 12] = [0, 1, 2, 4, 0x10, 0x7f, 0x80, 0xff, b'"', b'\\', b'{', b'$'];
        if self.below(2) == 0 { LIKELY[self.below(LIKELY.len())] } else { u8::try_from(self.below(256)).unwrap() }
    }

    /// Changes, inserts, removes, repeats or cuts a little.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            if bytes.is_empty() {
                return;
            }
            let at = self.below(bytes.len());
            match self.below(6) {
                0 | 1 => bytes[at] = self.byte(),
                2 => bytes[at] ^= 1 << self.below(8),
                3 => bytes.insert(at, self.byte()),
                4 => {
                    bytes.remove(at);
                }
                _ => {
                    let end = (at + self.below(16)).min(bytes.len());
                    let piece = bytes[at..end].to_vec();
                    let to = self.below(bytes.len());
                    bytes.splice(to..to, piece);
                }
            }
        }
        if self.below(50) == 0 {
            bytes.truncate(self.below(bytes.len() + 1));
        }
    }
}

#[test]
fn no_mutation_of_a_hostile_document_breaks_the_reader_and_all_are_counted() {
    const MUTATIONS: usize = 40_000;
    const SMALL: usize = 4_096;
    let spec = spec();
    let normaliser = Normaliser::new(&spec);
    let mut seeds: Vec<(bool, Vec<u8>)> = Vec::new();
    for hostile in hostile_documents() {
        match hostile.body {
            Body::Document(document) => {
                let raw = RawDocumentBuf::try_from(&document).unwrap();
                seeds.push((false, canonical_json(RawBson::Document(raw.clone()).as_raw_bson_ref()).unwrap().into_bytes()));
                seeds.push((true, raw.into_bytes()));
            }
            Body::Bson(bytes) => seeds.push((true, bytes)),
            Body::Json(line) => seeds.push((false, line)),
        }
    }
    seeds.retain(|(_, bytes)| bytes.len() <= SMALL);
    let mut dice = Dice(0x7469_6465_6d61_726b);
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for _ in 0..MUTATIONS {
        let (is_bson, mut bytes) = seeds[dice.below(seeds.len())].clone();
        dice.mutate(&mut bytes);
        let mut unreadable = Unreadable::default();
        let normalised = if is_bson {
            if dice.below(4) > 0 && bytes.len() >= 5 {
                let length = u32::try_from(bytes.len()).unwrap();
                bytes[..4].copy_from_slice(&length.to_le_bytes());
                *bytes.last_mut().unwrap() = 0;
            }
            match RawDocument::from_bytes(&bytes) {
                Ok(document) => normaliser.from_bson(document, &mut unreadable),
                Err(_) => {
                    *counts.entry("no document").or_default() += 1;
                    continue;
                }
            }
        } else {
            normaliser.from_json(&bytes, 1, &mut unreadable)
        };
        hold_record(&spec, "a mutation", &normalised);
        let kind = match normalised {
            Normalised::Completed(_) => "completed",
            Normalised::Other(_) => "other",
            Normalised::Dead(dead) => dead.reason.name(),
        };
        *counts.entry(kind).or_default() += 1;
    }
    assert_eq!(counts.values().sum::<usize>(), MUTATIONS);
    for kind in ["completed", "other", "undecodable", "bad_id", "no_actual", "no_completed_at", "no document"] {
        assert!(counts.get(kind).is_some_and(|&count| count > 100), "{kind}: {counts:?}");
    }
}
