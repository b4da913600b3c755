//! Laws that hold for any counts: symmetry, additivity over any partitioning, invariance to order.

use proptest::prelude::*;

use crate::baseline::Baseline;
use crate::baseline::builder::{Builder, Making};
use crate::clock::{DAY_MS, HOUR_MS};
use crate::config::Judge;
use crate::features::{Encoder, Row};
use crate::spec::Spec;
use crate::summary::Slice;
use crate::ticket::{FieldValue, Ticket, TicketId, Transition};
use crate::window::{Counting, Outcome};

use super::ks::ks;
use super::look;
use super::psi::{parts, psi};

fn two_histograms() -> impl Strategy<Value = (Vec<u64>, Vec<u64>)> {
    (1_usize..30).prop_flat_map(|bins| (prop::collection::vec(0_u64..5_000, bins), prop::collection::vec(0_u64..5_000, bins)))
}

fn spec() -> Spec {
    Spec::from_toml(include_str!("../../config/execution-tickets.toml")).unwrap()
}

fn ticket(spec: &Spec, (hour, retries, actual, known): (i64, u8, u32, bool)) -> Ticket {
    let mut fields = vec![FieldValue::Missing; spec.fields.len()];
    let mut set = |name: &str, value: FieldValue| fields[spec.field(name).unwrap()] = value;
    set("retry_count", FieldValue::Number(f64::from(retries)));
    set("created_at", FieldValue::Number((hour * HOUR_MS) as f64));
    set("task_type", if known { FieldValue::Text("build".to_owned()) } else { FieldValue::Text("new".to_owned()) });
    Ticket {
        id: TicketId::from_text("x"),
        completed_at_ms: hour * HOUR_MS,
        event_at_ms: hour * HOUR_MS,
        commit: None,
        transition: Transition::Replay,
        actual: f64::from(actual),
        predicted: known.then_some(1_000.0),
        model_version: None,
        fields,
    }
}

fn baseline(spec: &Spec) -> Baseline {
    let mut builder = Builder::new(spec, 0, 28 * DAY_MS).unwrap();
    for hour in 0..28 * 24 {
        builder
            .push(&ticket(spec, (hour, u8::try_from(hour % 5).unwrap(), 1 + u32::try_from(hour * 7_919 % 1_013).unwrap(), hour % 11 > 0)));
    }
    builder.build(&Making { version: 1, created_at_ms: 0, window_days: &[7], predecessor: None }).unwrap()
}

proptest! {
    #[test]
    fn psi_and_ks_are_symmetric_and_never_negative((a, b) in two_histograms()) {
        match (psi(&a, &b), psi(&b, &a)) {
            (Some(there), Some(back)) => {
                prop_assert!(there.psi >= -1e-12 && (there.psi - back.psi).abs() <= 1e-12 * there.psi.abs().max(1.0));
                prop_assert!(there.ln_p() <= 0.0 && there.ln_p().is_finite());
                prop_assert!((parts(&a, &b).iter().sum::<f64>() - there.psi).abs() <= 1e-9 * there.psi.abs().max(1.0));
                let (there, back) = (ks(&a, &b).unwrap(), ks(&b, &a).unwrap());
                prop_assert_eq!(there, back);
                prop_assert!((0.0..=1.0).contains(&there.distance) && there.ln_p() <= 0.0 && there.ln_p().is_finite());
            }
            (None, None) => prop_assert!(a.iter().sum::<u64>() == 0 || b.iter().sum::<u64>() == 0),
            other => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn psi_does_not_see_the_order_of_bins((a, b) in two_histograms(), turn in 0_usize..30) {
        let turned = |counts: &[u64]| { let mut c = counts.to_vec(); c.rotate_left(turn % counts.len()); c };
        if let (Some(one), Some(other)) = (psi(&a, &b), psi(&turned(&a), &turned(&b))) {
            prop_assert!((one.psi - other.psi).abs() <= 1e-12 * one.psi.max(1.0));
        }
    }

    /// The same tickets, in any order, cut into any slices and partitions, give the same bits.
    #[test]
    fn a_look_is_a_function_of_the_tickets_alone(
        tickets in prop::collection::vec((28_i64 * 24..35 * 24, 0_u8..8, 1_u32..2_000, any::<bool>()), 1..300),
        places in prop::collection::vec(0_usize..7, 300),
        keys in prop::collection::vec(any::<u32>(), 300),
    ) {
        let spec = spec();
        let baseline = baseline(&spec);
        let encoder = Encoder::new(&spec).unwrap();
        let names: Vec<&str> = spec.features.iter().map(|feature| feature.name.as_str()).collect();
        let counting = Counting::new(&encoder, &names, &spec.fingerprint(), &baseline).unwrap();
        let mut row = Row::default();
        let mut add = |of: &(i64, u8, u32, bool), slice: &mut Slice| {
            let ticket = ticket(&spec, *of);
            encoder.encode(&ticket.fields, &mut row);
            let outcome = Outcome { completed_at_ms: ticket.completed_at_ms, actual: ticket.actual, predicted: ticket.predicted, predicted_by: 0, late: false };
            counting.add(&encoder, &row, outcome, slice);
        };
        let mut whole = Slice::default();
        tickets.iter().for_each(|ticket| add(ticket, &mut whole));

        let mut shuffled: Vec<_> = tickets.iter().zip(&places).zip(&keys).collect();
        shuffled.sort_by_key(|(_, key)| **key);
        let mut slices = vec![Slice::default(); 7];
        shuffled.iter().for_each(|((ticket, place), _)| add(ticket, &mut slices[**place]));
        let mut sum = Slice::default();
        slices.iter().for_each(|slice| sum.add(slice));
        let extra = slices[0].clone();
        sum.add(&extra);
        sum.subtract(&extra);

        prop_assert_eq!(&sum, &whole);
        let judge = Judge::default();
        let (one, other) = (look(&baseline, &spec, &whole, 7, &judge), look(&baseline, &spec, &sum, 7, &judge));
        prop_assert_eq!(serde_json::to_string(&one).unwrap(), serde_json::to_string(&other).unwrap());
    }
}
