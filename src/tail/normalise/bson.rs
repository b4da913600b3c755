//! Reading a document as MongoDB has it: one pass over the raw bytes, nothing decoded that nobody asked for.

use std::borrow::Cow;

use bson::{Bson, RawBsonRef, RawDocument};

use super::Why;
use super::extjson::{Count, Form, Sink, put_value};
use super::paths::Paths;
use super::value::{Found, Scalar};

/// A value of a raw document; `None` when its bytes are not what its type says.
#[derive(Clone, Copy, Debug)]
pub(super) struct BsonValue<'a>(pub(super) Option<RawBsonRef<'a>>);

/// Fills the slots of everything below `place` that `document` has.
///
/// # Errors
/// What makes the bytes no document: they end early, or a name that is read is there twice.
pub(super) fn walk<'a>(paths: &Paths, place: usize, document: &'a RawDocument, slots: &mut [Option<BsonValue<'a>>]) -> Result<(), String> {
    let mut next = 0;
    for element in document.iter_elements() {
        let element = element.map_err(|error| error.to_string())?;
        let Some(found) = paths.below(place, element.key().as_str(), &mut next) else {
            continue;
        };
        if slots[found].is_some() {
            return Err(format!("the name {:?} is there twice", element.key().as_str()));
        }
        let value = element.value().ok();
        slots[found] = Some(BsonValue(value));
        if let Some(RawBsonRef::Document(inner)) = value
            && paths.goes_on(found)
        {
            walk(paths, found, inner, slots)?;
        }
    }
    Ok(())
}

impl<'a> Found<'a> for BsonValue<'a> {
    fn scalar(self) -> Scalar<'a> {
        let Some(value) = self.0 else {
            return Scalar::Malformed;
        };
        match value {
            RawBsonRef::Null | RawBsonRef::Undefined => Scalar::Null,
            RawBsonRef::Boolean(value) => Scalar::Bool(value),
            RawBsonRef::Int32(number) => Scalar::Integer(i64::from(number)),
            RawBsonRef::Int64(number) => Scalar::Integer(number),
            RawBsonRef::Double(number) => Scalar::Number(number),
            RawBsonRef::Decimal128(number) => number.to_string().parse().map_or(Scalar::Malformed, Scalar::Number),
            RawBsonRef::DateTime(date) => Scalar::Date(date.timestamp_millis()),
            RawBsonRef::String(text) | RawBsonRef::Symbol(text) => Scalar::Text(Cow::Borrowed(text)),
            RawBsonRef::Array(_) => Scalar::Other("a list"),
            RawBsonRef::Document(_) => Scalar::Other("a document"),
            RawBsonRef::ObjectId(_) => Scalar::Other("an ObjectId"),
            RawBsonRef::Binary(_) => Scalar::Other("binary data"),
            RawBsonRef::Timestamp(_) => Scalar::Other("a replication timestamp"),
            RawBsonRef::RegularExpression(_) => Scalar::Other("a regular expression"),
            RawBsonRef::JavaScriptCode(_) | RawBsonRef::JavaScriptCodeWithScope(_) => Scalar::Other("code"),
            RawBsonRef::DbPointer(_) => Scalar::Other("a DBPointer"),
            RawBsonRef::MinKey | RawBsonRef::MaxKey => Scalar::Other("a key bound"),
        }
    }

    fn items(self) -> Result<u64, Why> {
        match self.0 {
            Some(RawBsonRef::Array(array)) => {
                let mut items = 0;
                for item in RawDocument::from_bytes(array.as_bytes()).map_err(|_| Why::Malformed)?.iter_elements() {
                    item.map_err(|_| Why::Malformed)?;
                    items += 1;
                }
                Ok(items)
            }
            Some(_) => Err(Why::WrongType),
            None => Err(Why::Malformed),
        }
    }

    fn json_bytes(self) -> Result<u64, Why> {
        let mut count = Count::default();
        put_value(&mut count, self.0.ok_or(Why::Malformed)?, Form::Relaxed)?;
        Ok(count.0)
    }

    fn put_canonical(self, sink: &mut impl Sink) -> Result<(), Why> {
        put_value(sink, self.0.ok_or(Why::Malformed)?, Form::Canonical)
    }
}

/// Returns what a value that stands alone is.
pub(super) fn scalar_of<'a>(value: Bson) -> Scalar<'a> {
    match value {
        Bson::Null | Bson::Undefined => Scalar::Null,
        Bson::Boolean(value) => Scalar::Bool(value),
        Bson::Int32(number) => Scalar::Integer(i64::from(number)),
        Bson::Int64(number) => Scalar::Integer(number),
        Bson::Double(number) => Scalar::Number(number),
        Bson::Decimal128(number) => number.to_string().parse().map_or(Scalar::Malformed, Scalar::Number),
        Bson::DateTime(date) => Scalar::Date(date.timestamp_millis()),
        Bson::String(text) | Bson::Symbol(text) => Scalar::Text(Cow::Owned(text)),
        Bson::Array(_) => Scalar::Other("a list"),
        Bson::Document(_) => Scalar::Other("a document"),
        Bson::ObjectId(_) => Scalar::Other("an ObjectId"),
        Bson::Binary(_) => Scalar::Other("binary data"),
        Bson::Timestamp(_) => Scalar::Other("a replication timestamp"),
        Bson::RegularExpression(_) => Scalar::Other("a regular expression"),
        Bson::JavaScriptCode(_) | Bson::JavaScriptCodeWithScope(_) => Scalar::Other("code"),
        Bson::DbPointer(_) => Scalar::Other("a DBPointer"),
        Bson::MinKey | Bson::MaxKey => Scalar::Other("a key bound"),
    }
}
