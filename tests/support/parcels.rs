//! Parcels, as the second spec has them: made up, always the same.

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, doc};
use tidemark::spec::Spec;

/// The spec of the parcels.
pub(crate) fn spec() -> Spec {
    Spec::from_toml(include_str!("../../config/parcel-deliveries.toml")).unwrap()
}

/// When the first parcel is handed over: 3 March 2025, 00:00 UTC.
pub(crate) const FIRST_MS: i64 = 1_740_960_000_000;

/// A number below `bound` that looks random and is always the same (splitmix64).
fn drawn(parcel: u64, what: u64, bound: u64) -> u64 {
    let mut x = parcel.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(what.wrapping_mul(0xbf58_476d_1ce4_e5b9));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ (x >> 31)) % bound
}

/// Returns a time as text with the offset of some depot.
fn at_depot(ms: i64, offset_hours: i64) -> String {
    let local = DateTime::from_millis(ms + offset_hours * 3_600_000).try_to_rfc3339_string().unwrap();
    format!("{}{}{:02}:00", local.trim_end_matches('Z'), if offset_hours < 0 { '-' } else { '+' }, offset_hours.abs())
}

/// Returns the `number`th parcel: one every two minutes, one in ten lost.
pub(crate) fn parcel(number: u64) -> Document {
    let handed_over_ms = FIRST_MS + i64::try_from(number).unwrap() * 120_000;
    let carrier = ["road", "Rail", "air", "bicycle"][usize::try_from(drawn(number, 1, 4)).unwrap()];
    let service = ["economy", "standard", "express"][usize::try_from(drawn(number, 2, 3)).unwrap()];
    let legs: Vec<Bson> = (0..=drawn(number, 3, 4)).map(|leg| Bson::from(doc! { "hub": format!("H{leg}") })).collect();
    let minutes = i32::try_from(60 + 300 * legs.len() as u64 + drawn(number, 4, 240)).unwrap();
    let is_lost = number % 10 == 9;
    let mut id = [0; 12];
    id[4..].copy_from_slice(&number.to_be_bytes());
    doc! {
        "_id": ObjectId::from_bytes(id),
        "carrier": carrier,
        "service": if number.is_multiple_of(2) { doc! { "level": service } } else { doc! { "level": "", "code": service } },
        "freight": { "weight.kg": (drawn(number, 5, 300) as f64) / 10.0, "declared_value": "secret" },
        "handed_over_at": at_depot(handed_over_ms, i64::try_from(drawn(number, 6, 5)).unwrap() - 2),
        "promise": { "eta_minutes": minutes + 30 - i32::try_from(drawn(number, 7, 60)).unwrap(), "model": "eta-7" },
        "transit": { "minutes": Bson::Int64(i64::from(minutes)), "legs": legs },
        "state": {
            "code": if is_lost { "lost" } else if number.is_multiple_of(7) { "left_with_neighbour" } else { "delivered" },
            "since": at_depot(handed_over_ms + i64::from(minutes) * 60_000, 1),
        },
    }
}
