//! A ticket's features: from its fields to a compact row, and from a row to one cell a feature.
//!
//! A row holds *fields*: a category code for each text field that a feature reads, a number for every other. Features are
//! functions of one field, so a row serves every baseline, whatever its learned tables say.

use crate::baseline::Cell;
use crate::clock::HOUR_MS;
use crate::spec::{self, FieldKind, Spec};
use crate::ticket::FieldValue;

/// Code of an absent or unreadable text.
pub const MISSING_CODE: u8 = 255;
/// Code of a text that no table lists.
pub const UNSEEN_CODE: u8 = 254;
/// Texts that the tables of one field may list together.
pub const MAX_CATEGORIES: usize = 254;

/// Stands for an absent number in [`Row::numbers`]: a NaN with a payload of its own. A ticket's own NaN is stored without one.
const MISSING_BITS: u64 = 0x7ff8_0000_6162_7365;

/// The fields of one ticket that features read.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// Category codes, one a text field, in the order of [`Encoder::code_fields`].
    pub codes: Vec<u8>,
    /// Numbers, one for every other field, in the order of [`Encoder::number_fields`]; read them with [`number`].
    pub numbers: Vec<f64>,
}

/// Returns what an element of [`Row::numbers`] means: `None` is missing, which is not the same as NaN.
#[must_use]
pub fn number(stored: f64) -> Option<f64> {
    (stored.to_bits() != MISSING_BITS).then_some(stored)
}

/// Returns how a number is stored in [`Row::numbers`].
#[must_use]
pub fn stored(number: Option<f64>) -> f64 {
    match number {
        None => f64::from_bits(MISSING_BITS),
        Some(number) if number.is_nan() => f64::NAN,
        Some(number) => number,
    }
}

/// What a text is to a feature's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Category {
    /// Absent or unreadable.
    Missing,
    /// Not in the table.
    Unseen,
    /// A row of the feature's table.
    Row(usize),
}

/// A spec whose features cannot be computed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncoderError {
    /// The field is not in the spec.
    #[error("feature {feature} reads field {field}, which the spec does not have")]
    NoField {
        /// The feature.
        feature: String,
        /// The field it names.
        field: String,
    },
    /// A table needs a text, everything else a number.
    #[error("feature {feature} cannot be computed from field {field}: its encoder needs {needs}")]
    WrongKind {
        /// The feature.
        feature: String,
        /// The field it names.
        field: String,
        /// What kind it has to be.
        needs: &'static str,
    },
    /// More texts than a code can tell apart.
    #[error("the tables of field {field} list {texts} texts together; at most {MAX_CATEGORIES} fit")]
    TooManyCategories {
        /// The field.
        field: String,
        /// Distinct texts, in either case.
        texts: usize,
    },
}

/// The functions from ticket to row and from row to cells, compiled from a spec.
#[derive(Clone, Debug)]
pub struct Encoder {
    codes: Vec<CodeField>,
    numbers: Vec<NumberField>,
    features: Vec<Source>,
}

#[derive(Clone, Debug)]
struct CodeField {
    field: usize,
    name: String,
    categories: Categories,
}

#[derive(Clone, Debug)]
struct NumberField {
    field: usize,
    name: String,
}

/// Where a feature comes from.
#[derive(Clone, Debug)]
enum Source {
    /// By code: the feature's value, where its table lists the text.
    Table { code: usize, rows: Vec<Option<usize>>, values: Vec<f64>, default: f64 },
    /// By code: the row of the feature's table, whose value the baseline has learned.
    Learned { code: usize, rows: Vec<Option<usize>>, default: f64 },
    /// The number itself.
    Value { number: usize, default: f64 },
    /// The hour of a time.
    Hour { number: usize, default: f64 },
}

/// Texts folded to lower case, by length in bytes: an ASCII text is found without an allocation.
#[derive(Clone, Debug, Default)]
struct Categories {
    by_length: Vec<Vec<(Box<str>, u8)>>,
    texts: Vec<String>,
}

impl Categories {
    fn add(&mut self, text: &str) {
        let folded = text.to_lowercase();
        if self.texts.contains(&folded) {
            return;
        }
        let code = u8::try_from(self.texts.len()).unwrap_or(u8::MAX); // more than MAX_CATEGORIES are refused by the caller
        if self.by_length.len() <= folded.len() {
            self.by_length.resize(folded.len() + 1, Vec::new());
        }
        self.by_length[folded.len()].push((folded.as_str().into(), code));
        self.texts.push(folded);
    }

    fn position(&self, text: &str) -> Option<usize> {
        let folded = text.to_lowercase();
        self.texts.iter().position(|known| *known == folded)
    }

    fn code(&self, text: &str) -> u8 {
        if !text.is_ascii() {
            return self.position(text).and_then(|at| u8::try_from(at).ok()).unwrap_or(UNSEEN_CODE);
        }
        let Some(candidates) = self.by_length.get(text.len()) else { return UNSEEN_CODE };
        candidates.iter().find(|(known, _)| known.eq_ignore_ascii_case(text)).map_or(UNSEEN_CODE, |(_, code)| *code)
    }
}

impl Encoder {
    /// Compiles the features of `spec`.
    ///
    /// # Errors
    /// [`EncoderError`], the first that is found.
    pub fn new(spec: &Spec) -> Result<Self, EncoderError> {
        let mut codes: Vec<CodeField> = Vec::new();
        let mut numbers: Vec<NumberField> = Vec::new();
        for feature in &spec.features {
            let at = spec
                .field(&feature.field)
                .ok_or_else(|| EncoderError::NoField { feature: feature.name.clone(), field: feature.field.clone() })?;
            let is_text = spec.fields[at].kind == FieldKind::Text;
            if is_text != reads_text(feature.encoder) {
                let needs = if is_text { "a number or a time" } else { "a text" };
                return Err(EncoderError::WrongKind { feature: feature.name.clone(), field: feature.field.clone(), needs });
            }
            if is_text {
                let place = codes.iter().position(|known| known.field == at).unwrap_or_else(|| {
                    codes.push(CodeField { field: at, name: feature.field.clone(), categories: Categories::default() });
                    codes.len() - 1
                });
                for entry in &feature.table {
                    codes[place].categories.add(&entry.text);
                }
            } else if !numbers.iter().any(|known| known.field == at) {
                numbers.push(NumberField { field: at, name: feature.field.clone() });
            }
        }
        if let Some(field) = codes.iter().find(|field| field.categories.texts.len() > MAX_CATEGORIES) {
            return Err(EncoderError::TooManyCategories { field: field.name.clone(), texts: field.categories.texts.len() });
        }
        let features = spec.features.iter().map(|feature| source(feature, &codes, &numbers)).collect();
        Ok(Self { codes, numbers, features })
    }

    /// Returns the names of the text fields, in the order of [`Row::codes`].
    #[must_use]
    pub fn code_fields(&self) -> impl ExactSizeIterator<Item = &str> {
        self.codes.iter().map(|field| field.name.as_str())
    }

    /// Returns the names of the other fields, in the order of [`Row::numbers`].
    #[must_use]
    pub fn number_fields(&self) -> impl ExactSizeIterator<Item = &str> {
        self.numbers.iter().map(|field| field.name.as_str())
    }

    /// Returns the number of features.
    #[must_use]
    pub fn features(&self) -> usize {
        self.features.len()
    }

    /// Writes a ticket's row into `row`, whose buffers are used again.
    pub fn encode(&self, fields: &[FieldValue], row: &mut Row) {
        row.codes.clear();
        row.numbers.clear();
        for field in &self.codes {
            row.codes.push(match &fields[field.field] {
                FieldValue::Missing => MISSING_CODE,
                FieldValue::Number(_) => UNSEEN_CODE,
                FieldValue::Text(text) => field.categories.code(text),
            });
        }
        for field in &self.numbers {
            row.numbers.push(match &fields[field.field] {
                FieldValue::Number(number) => stored(Some(*number)),
                FieldValue::Missing | FieldValue::Text(_) => stored(None),
            });
        }
    }

    /// Returns what a row's text is to the table of `feature`; `None` for a feature that reads a number.
    #[must_use]
    pub fn category(&self, feature: usize, row: &Row) -> Option<Category> {
        match &self.features[feature] {
            Source::Table { code, rows, .. } | Source::Learned { code, rows, .. } => Some(category(rows, row.codes[*code])),
            Source::Value { .. } | Source::Hour { .. } => None,
        }
    }

    /// Returns the cell of one feature. `learned` is what the baseline gives each row of the feature's table
    /// ([`crate::baseline::Column::learned`]); it is not looked at for a feature that is not learned.
    #[must_use]
    pub fn cell(&self, feature: usize, row: &Row, learned: &[f64]) -> Cell {
        match self.place(feature) {
            Place::Code(at) => self.code_cell(feature, row.codes[at], learned),
            Place::Number(at) => self.number_cell(feature, number(row.numbers[at])),
        }
    }

    /// Writes one cell a feature into `out`. `learned` has one list a feature, empty for those that are not learned.
    pub fn cells<L: AsRef<[f64]>>(&self, row: &Row, learned: &[L], out: &mut Vec<Cell>) {
        out.clear();
        out.extend(learned.iter().enumerate().map(|(feature, learned)| self.cell(feature, row, learned.as_ref())));
    }

    /// Returns what the model is given for a cell of `feature`: its number, or the default for a missing or unseen one.
    #[must_use]
    pub fn input(&self, feature: usize, cell: Cell) -> f64 {
        match (cell, &self.features[feature]) {
            (Cell::Number(number), _) if number.is_finite() => number,
            (
                _,
                Source::Table { default, .. }
                | Source::Learned { default, .. }
                | Source::Value { default, .. }
                | Source::Hour { default, .. },
            ) => *default,
        }
    }

    /// Returns where in a row a feature is read.
    pub(crate) fn place(&self, feature: usize) -> Place {
        match &self.features[feature] {
            Source::Table { code, .. } | Source::Learned { code, .. } => Place::Code(*code),
            Source::Value { number, .. } | Source::Hour { number, .. } => Place::Number(*number),
        }
    }

    /// Returns the cell that a category code gives.
    pub(crate) fn code_cell(&self, feature: usize, code: u8, learned: &[f64]) -> Cell {
        let (rows, values) = match &self.features[feature] {
            Source::Table { rows, values, .. } => (rows, values.as_slice()),
            Source::Learned { rows, .. } => (rows, learned),
            Source::Value { .. } | Source::Hour { .. } => return Cell::Missing,
        };
        match category(rows, code) {
            Category::Missing => Cell::Missing,
            Category::Unseen => Cell::Unseen,
            Category::Row(at) => values.get(at).map_or(Cell::Unseen, |value| Cell::Number(*value)),
        }
    }

    /// Returns the cell that a number gives.
    pub(crate) fn number_cell(&self, feature: usize, number: Option<f64>) -> Cell {
        match (number, &self.features[feature]) {
            (None, _) => Cell::Missing,
            (Some(time_ms), Source::Hour { .. }) => Cell::Number(hour(time_ms)),
            (Some(number), _) => Cell::Number(number),
        }
    }
}

/// Where in a row a feature is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In [`Row::codes`].
    Code(usize),
    /// In [`Row::numbers`].
    Number(usize),
}

/// Returns the hour of day, UTC, of a time in ms since 1970; a time that is not finite stays what it is.
#[must_use]
pub fn hour(time_ms: f64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "3,600,000 and 24 are exact")]
    const HOUR: f64 = HOUR_MS as f64;
    if time_ms.is_finite() { (time_ms / HOUR).floor().rem_euclid(24.0) } else { time_ms }
}

fn reads_text(encoder: spec::Encoder) -> bool {
    match encoder {
        spec::Encoder::Table | spec::Encoder::TargetMean | spec::Encoder::TargetStd | spec::Encoder::SuccessRate => true,
        spec::Encoder::Value | spec::Encoder::Hour => false,
    }
}

fn category(rows: &[Option<usize>], code: u8) -> Category {
    match code {
        MISSING_CODE => Category::Missing,
        code => rows.get(usize::from(code)).copied().flatten().map_or(Category::Unseen, Category::Row),
    }
}

fn source(feature: &spec::Feature, codes: &[CodeField], numbers: &[NumberField]) -> Source {
    let default = feature.default;
    let by_number = || numbers.iter().position(|known| known.name == feature.field).expect("every number field was collected");
    match feature.encoder {
        spec::Encoder::Value => return Source::Value { number: by_number(), default },
        spec::Encoder::Hour => return Source::Hour { number: by_number(), default },
        _ => {}
    }
    let code = codes.iter().position(|known| known.name == feature.field).expect("every text field was collected");
    let categories = &codes[code].categories;
    let mut rows = vec![None; categories.texts.len()];
    for (row, entry) in feature.table.iter().enumerate() {
        let at = categories.position(&entry.text).expect("every text of the table was added");
        rows[at].get_or_insert(row);
    }
    if feature.encoder.is_learned() {
        return Source::Learned { code, rows, default };
    }
    Source::Table { code, rows, values: feature.table.iter().map(|entry| entry.value).collect(), default }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Spec {
        Spec::from_toml(include_str!("../config/execution-tickets.toml")).unwrap()
    }

    fn fields(spec: &Spec, given: &[(&str, FieldValue)]) -> Vec<FieldValue> {
        let mut fields = vec![FieldValue::Missing; spec.fields.len()];
        for (name, value) in given {
            fields[spec.field(name).unwrap()] = value.clone();
        }
        fields
    }

    fn cells(given: &[(&str, FieldValue)]) -> Vec<(String, Cell)> {
        let spec = spec();
        let encoder = Encoder::new(&spec).unwrap();
        let learned: Vec<Vec<f64>> = spec
            .features
            .iter()
            .map(|f| if f.encoder.is_learned() { (0..f.table.len()).map(|i| 100.0 + i as f64).collect() } else { vec![] })
            .collect();
        let mut row = Row::default();
        encoder.encode(&fields(&spec, given), &mut row);
        let mut out = Vec::new();
        encoder.cells(&row, &learned, &mut out);
        spec.features.iter().map(|f| f.name.clone()).zip(out).collect()
    }

    fn cell(cells: &[(String, Cell)], name: &str) -> Cell {
        cells.iter().find(|(n, _)| n == name).unwrap().1
    }

    fn text(text: &str) -> FieldValue {
        FieldValue::Text(text.to_owned())
    }

    #[test]
    fn names_are_matched_in_either_case() {
        for name in ["deploy", "DEPLOY", "Deploy"] {
            let cells = cells(&[("task_type", text(name))]);
            assert_eq!(cell(&cells, "task_type_encoded"), Cell::Number(1.0), "{name}");
            assert_eq!(cell(&cells, "avg_duration_by_task"), Cell::Number(101.0), "{name}");
        }
        // A Kelvin sign folds to an ASCII k: folding is Unicode's, not ASCII's.
        let spec = Spec { fields: spec().fields, ..spec() };
        let mut with_k = spec.clone();
        with_k.features[0].table[0].text = "kilo".to_owned();
        let encoder = Encoder::new(&with_k).unwrap();
        let mut row = Row::default();
        encoder.encode(&fields(&with_k, &[("risk_band", text("\u{212A}ILO"))]), &mut row);
        assert_eq!(encoder.category(0, &row), Some(Category::Row(0)));
    }

    #[test]
    fn a_column_derived_from_a_missing_or_unseen_field_is_missing_or_unseen_itself() {
        let given = cells(&[("task_type", text("DANCE"))]);
        for name in ["task_type_encoded", "avg_duration_by_task", "success_rate_by_task", "std_duration_by_task"] {
            assert_eq!(cell(&given, name), Cell::Unseen, "{name}");
        }
        for name in ["risk_weight", "avg_duration_by_risk", "hour_of_day", "retry_count"] {
            assert_eq!(cell(&given, name), Cell::Missing, "{name}");
        }
    }

    #[test]
    fn a_missing_number_is_not_a_nan() {
        let given = cells(&[("retry_count", FieldValue::Number(f64::NAN))]);
        assert!(matches!(cell(&given, "retry_count"), Cell::Number(n) if n.is_nan()));
        assert_eq!(cell(&given, "sla_timeout_ms"), Cell::Missing);
        let payload = f64::from_bits(MISSING_BITS);
        let given = cells(&[("retry_count", FieldValue::Number(payload))]);
        assert!(matches!(cell(&given, "retry_count"), Cell::Number(n) if n.is_nan()), "no NaN of a ticket passes for missing");
    }

    #[test]
    fn the_hour_is_utc_and_holds_before_1970() {
        let at = |ms: f64| cell(&cells(&[("created_at", FieldValue::Number(ms))]), "hour_of_day");
        assert_eq!(at(1_357_037_940_000.0), Cell::Number(10.0));
        assert_eq!(at(0.0), Cell::Number(0.0));
        assert_eq!(at(-1.0), Cell::Number(23.0));
        assert!(matches!(at(f64::INFINITY), Cell::Number(n) if n.is_infinite()));
    }

    #[test]
    fn the_model_is_given_the_default_for_what_is_not_there() {
        let spec = spec();
        let encoder = Encoder::new(&spec).unwrap();
        let hour = spec.features.iter().position(|f| f.name == "hour_of_day").unwrap();
        assert_eq!(encoder.input(hour, Cell::Missing).to_bits(), 12f64.to_bits());
        assert_eq!(encoder.input(hour, Cell::Number(f64::NAN)).to_bits(), 12f64.to_bits());
        assert_eq!(encoder.input(hour, Cell::Number(3.0)).to_bits(), 3f64.to_bits());
    }

    #[test]
    fn a_feature_that_cannot_be_computed_is_refused_by_name() {
        let mut wrong = spec();
        wrong.features[0].field = "nowhere".to_owned();
        assert!(matches!(Encoder::new(&wrong), Err(EncoderError::NoField { field, .. }) if field == "nowhere"));
        let mut wrong = spec();
        wrong.features[0].field = "retry_count".to_owned();
        assert!(matches!(Encoder::new(&wrong), Err(EncoderError::WrongKind { needs: "a text", .. })));
        let mut wrong = spec();
        wrong.features[0].table = (0..255).map(|i| spec::Entry { text: format!("t{i}"), value: f64::from(i) }).collect();
        assert!(matches!(Encoder::new(&wrong), Err(EncoderError::TooManyCategories { .. })));
    }
}
