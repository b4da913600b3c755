//! What the rules may ask of a value, whether it comes from BSON or from JSON.

use std::borrow::Cow;

use super::Why;
use super::extjson::Sink;
use super::time::{from_rfc3339, is_plausible, to_rfc3339};

/// A value that was found at a place.
pub(super) trait Found<'a>: Copy {
    /// Returns what it is.
    fn scalar(self) -> Scalar<'a>;

    /// Returns the number of items of a list.
    ///
    /// # Errors
    /// [`Why::WrongType`] of anything else; [`Why::Malformed`].
    fn items(self) -> Result<u64, Why>;

    /// Returns the length of the compact relaxed extended JSON.
    ///
    /// # Errors
    /// [`Why::TooDeep`], [`Why::Malformed`].
    fn json_bytes(self) -> Result<u64, Why>;

    /// Writes compact canonical extended JSON: the same for the same value, wherever it comes from.
    ///
    /// # Errors
    /// [`Why::TooDeep`], [`Why::Malformed`].
    fn put_canonical(self, sink: &mut impl Sink) -> Result<(), Why>;
}

/// A value as far as the rules tell values apart.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scalar<'a> {
    Null,
    Bool(bool),
    Integer(i64),
    /// A double, or a decimal as the nearest double.
    Number(f64),
    /// Ms since 1970, from a type that is a time.
    Date(i64),
    Text(Cow<'a, str>),
    /// Anything else, by what to call it.
    Other(&'static str),
    Malformed,
}

impl Scalar<'_> {
    /// Returns the number, if it is one, finite or not.
    #[expect(clippy::cast_precision_loss, reason = "numbers are doubles from here on")]
    pub(super) fn number(&self) -> Result<f64, Why> {
        match *self {
            Self::Integer(number) => Ok(number as f64),
            Self::Number(number) => Ok(number),
            Self::Malformed => Err(Why::Malformed),
            _ => Err(Why::WrongType),
        }
    }

    /// Returns the time in ms since 1970, if it is one of the three forms and plausible.
    pub(super) fn time_ms(&self) -> Result<i64, Why> {
        let ms = match self {
            Self::Date(ms) | Self::Integer(ms) => *ms,
            Self::Number(number) => whole_ms(*number).ok_or(Why::NotATime)?,
            Self::Text(text) => from_rfc3339(text).ok_or(Why::NotATime)?,
            Self::Malformed => return Err(Why::Malformed),
            Self::Null | Self::Bool(_) | Self::Other(_) => return Err(Why::WrongType),
        };
        if is_plausible(ms) { Ok(ms) } else { Err(Why::NotATime) }
    }

    /// Says what was found, for a person; a long text is cut.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Bool(value) => format!("the boolean {value}"),
            Self::Integer(number) => format!("the number {number}"),
            Self::Number(number) => format!("the number {number}"),
            Self::Date(ms) => format!("the date {}", to_rfc3339(*ms)),
            Self::Text(text) => {
                let start: String = text.chars().take(60).collect();
                format!("the text {start:?}{}", if start.len() < text.len() { " …" } else { "" })
            }
            Self::Other(name) => (*name).to_owned(),
            Self::Malformed => "malformed".to_owned(),
        }
    }
}

/// Returns the integer part of a time of ms, where it has one.
pub(super) fn whole_ms(number: f64) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    #[expect(clippy::cast_possible_truncation, reason = "between -2^53 and 2^53")]
    (number.abs() < EXACT).then(|| number.floor() as i64)
}

/// Returns a number as a category's name: `5`, whether it was an integer or a double.
pub(super) fn number_text(number: f64) -> String {
    match whole_ms(number) {
        #[expect(clippy::float_cmp, clippy::cast_precision_loss, reason = "whether there is a fraction, exactly")]
        Some(whole) if whole as f64 == number => whole.to_string(),
        _ => number.to_string(),
    }
}
