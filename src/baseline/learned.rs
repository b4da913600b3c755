//! What the training split teaches: the target's mean and spread, and the share that completed, by category.

use crate::features::Encoder;
use crate::spec::{self, Spec};

use super::Cell;
use super::builder::{CODES, Moments};

/// Returns what a learned feature gives each row of its table; empty for a feature that is not learned.
///
/// - Shapes: `codes` and `actual` are `[rows]`, of the text field that the feature reads; `others` counts, by code, tickets with a
///   target that did not complete.
/// - A category without a ticket gets the feature's default.
#[must_use]
pub(crate) fn learned(spec: &Spec, encoder: &Encoder, feature: usize, codes: &[u8], actual: &[f64], others: &[u64; CODES]) -> Vec<f64> {
    let spec = &spec.features[feature];
    if !spec.encoder.is_learned() {
        return Vec::new();
    }
    // A table that gives each of its rows that row's number tells which row a code belongs to.
    let row_numbers: Vec<f64> = (0..spec.table.len()).map(|row| row as f64).collect();
    let code_of = |row: usize| (0..=u8::MAX).find(|code| encoder.code_cell(feature, *code, &row_numbers) == Cell::Number(row as f64));
    let by_code = Sums::by_code(codes, actual);
    (0..spec.table.len())
        .map(|row| {
            let Some(code) = code_of(row) else { return spec.default };
            let sums = &by_code[usize::from(code)];
            let seen = sums.rows + others[usize::from(code)];
            match spec.encoder {
                spec::Encoder::SuccessRate if seen > 0 => sums.rows as f64 / seen as f64,
                spec::Encoder::TargetMean if sums.rows > 0 => sums.mean,
                spec::Encoder::TargetStd if sums.rows > 0 => sums.std,
                _ => spec.default,
            }
        })
        .collect()
}

/// The target over one code's tickets.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    rows: u64,
    mean: f64,
    std: f64,
}

impl Sums {
    fn by_code(codes: &[u8], actual: &[f64]) -> Vec<Self> {
        let mut by_code = vec![Vec::new(); CODES];
        for (code, actual) in codes.iter().zip(actual) {
            by_code[usize::from(*code)].push(*actual);
        }
        let of = |values: &Vec<f64>| {
            let moments = Moments::of(values);
            Self { rows: values.len() as u64, mean: moments.mean, std: moments.std }
        };
        by_code.iter().map(of).collect()
    }
}
