//! Reading rows of columns: each value as the BSON it would have been in MongoDB.

use std::borrow::Cow;

use bson::spec::BinarySubtype;
use bson::{Binary, Bson, DateTime, Document, RawBson};
use polars_arrow::array::{
    Array, BinaryViewArray, BooleanArray, FixedSizeBinaryArray, FixedSizeListArray, ListArray, PrimitiveArray, StructArray, Utf8ViewArray,
};
use polars_arrow::datatypes::{ArrowDataType, TimeUnit};
use polars_arrow::types::NativeType;

use super::Why;
use super::bson::scalar_of;
use super::extjson::{Count, Form, Sink, put_value};
use super::paths::{Paths, ROOT};
use super::value::{Found, Scalar};
use crate::clock::DAY_MS;

/// Columns of one spec, each at the place where it is read.
pub(crate) struct Columns {
    at: Vec<(usize, Box<dyn Array>)>,
}

impl Columns {
    /// Finds the places of `columns`: by name, by a dotted name that is a whole path, and below a structure by its members.
    ///
    /// # Errors
    /// A column's name, when another one is read at the same place.
    pub(super) fn find(paths: &Paths, columns: Vec<(String, Box<dyn Array>)>) -> Result<Self, String> {
        let mut found = Self { at: Vec::new() };
        for (name, array) in columns {
            if let Some(place) = place_of(paths, &name) {
                found.add(paths, place, array).map_err(|()| name)?;
            }
        }
        Ok(found)
    }

    fn add(&mut self, paths: &Paths, place: usize, array: Box<dyn Array>) -> Result<(), ()> {
        if let Some(structure) = array.as_any().downcast_ref::<StructArray>()
            && paths.goes_on(place)
        {
            for (field, values) in structure.fields().iter().zip(structure.values()) {
                if let Some(below) = paths.below(place, field.name.as_str(), &mut 0) {
                    self.add(paths, below, values.clone())?;
                }
            }
        }
        if self.at.iter().any(|&(other, _)| other == place) {
            return Err(());
        }
        self.at.push((place, array));
        Ok(())
    }

    /// Fills the slots of everything that the row has.
    pub(super) fn row<'a>(&'a self, row: usize, slots: &mut [Option<ColumnValue<'a>>]) {
        for (place, array) in &self.at {
            if !array.is_null(row) {
                slots[*place] = Some(ColumnValue { array: array.as_ref(), row });
            }
        }
    }
}

/// Returns a row of columns as the document that it would have been in MongoDB. A dotted name is a path; what is null is left
/// out, and so is what BSON has no type for.
pub(crate) fn document_of(columns: &[(String, Box<dyn Array>)], row: usize) -> Document {
    let mut document = Document::new();
    for (name, array) in columns {
        let Some(value) = bson(array.as_ref(), row).filter(|value| *value != Bson::Null) else { continue };
        let mut names = name.split('.');
        let last = names.next_back().unwrap_or_default();
        let mut inner = Some(&mut document);
        for name in names {
            inner =
                inner.and_then(|inner| inner.entry(name.to_owned()).or_insert_with(|| Bson::Document(Document::new())).as_document_mut());
        }
        if let Some(inner) = inner {
            inner.insert(last, value);
        }
    }
    document
}

/// Returns where a column is read: a name below the root, or the text of a whole path.
pub(super) fn place_of(paths: &Paths, name: &str) -> Option<usize> {
    paths.below(ROOT, name, &mut 0).or_else(|| paths.distinct().find(|(path, _)| path.to_string() == name).map(|(_, place)| place))
}

/// A value of a column, not null.
#[derive(Clone, Copy)]
pub(super) struct ColumnValue<'a> {
    array: &'a dyn Array,
    row: usize,
}

impl<'a> Found<'a> for ColumnValue<'a> {
    fn scalar(self) -> Scalar<'a> {
        if let Some(texts) = self.array.as_any().downcast_ref::<Utf8ViewArray>() {
            return Scalar::Text(Cow::Borrowed(texts.value(self.row)));
        }
        match self.array.dtype().to_storage() {
            ArrowDataType::Struct(_) => Scalar::Other("a document"),
            ArrowDataType::List(_) | ArrowDataType::LargeList(_) | ArrowDataType::FixedSizeList(..) => Scalar::Other("a list"),
            _ => bson(self.array, self.row).map_or(Scalar::Other("of a type that MongoDB does not have"), scalar_of),
        }
    }

    fn items(self) -> Result<u64, Why> {
        list(self.array, self.row).map(|(_, range)| range.len() as u64).ok_or(Why::WrongType)
    }

    fn json_bytes(self) -> Result<u64, Why> {
        let mut count = Count::default();
        put_value(&mut count, self.raw()?.as_raw_bson_ref(), Form::Relaxed)?;
        Ok(count.0)
    }

    fn put_canonical(self, sink: &mut impl Sink) -> Result<(), Why> {
        put_value(sink, self.raw()?.as_raw_bson_ref(), Form::Canonical)
    }
}

impl ColumnValue<'_> {
    fn raw(self) -> Result<RawBson, Why> {
        RawBson::try_from(bson(self.array, self.row).ok_or(Why::WrongType)?).map_err(|_| Why::Malformed)
    }
}

fn value<T: NativeType>(array: &dyn Array, row: usize) -> Option<T> {
    array.as_any().downcast_ref::<PrimitiveArray<T>>().map(|values| values.value(row))
}

fn list(array: &dyn Array, row: usize) -> Option<(&dyn Array, std::ops::Range<usize>)> {
    let any = array.as_any();
    if let Some(lists) = any.downcast_ref::<ListArray<i64>>() {
        let (start, end) = lists.offsets().start_end(row);
        return Some((lists.values().as_ref(), start..end));
    }
    if let Some(lists) = any.downcast_ref::<ListArray<i32>>() {
        let (start, end) = lists.offsets().start_end(row);
        return Some((lists.values().as_ref(), start..end));
    }
    let lists = any.downcast_ref::<FixedSizeListArray>()?;
    let size = lists.size();
    Some((lists.values().as_ref(), row * size..(row + 1) * size))
}

/// Returns the value as BSON; `None` of a type that BSON does not have. A null inside a structure is left out, because a
/// column cannot tell it from a member that is absent.
fn bson(array: &dyn Array, row: usize) -> Option<Bson> {
    if array.is_null(row) {
        return Some(Bson::Null);
    }
    let any = array.as_any();
    let dtype = array.dtype().to_storage();
    Some(match dtype {
        ArrowDataType::Null => Bson::Null,
        ArrowDataType::Boolean => Bson::Boolean(any.downcast_ref::<BooleanArray>()?.value(row)),
        ArrowDataType::Int8 => Bson::Int32(value::<i8>(array, row)?.into()),
        ArrowDataType::Int16 => Bson::Int32(value::<i16>(array, row)?.into()),
        ArrowDataType::Int32 => Bson::Int32(value(array, row)?),
        ArrowDataType::Int64 => Bson::Int64(value(array, row)?),
        ArrowDataType::UInt8 => Bson::Int32(value::<u8>(array, row)?.into()),
        ArrowDataType::UInt16 => Bson::Int32(value::<u16>(array, row)?.into()),
        ArrowDataType::UInt32 => Bson::Int64(value::<u32>(array, row)?.into()),
        ArrowDataType::UInt64 => {
            let number: u64 = value(array, row)?;
            #[expect(clippy::cast_precision_loss, reason = "BSON has no integer as large")]
            i64::try_from(number).map_or(Bson::Double(number as f64), Bson::Int64)
        }
        ArrowDataType::Float32 => Bson::Double(value::<f32>(array, row)?.into()),
        ArrowDataType::Float64 => Bson::Double(value(array, row)?),
        ArrowDataType::Decimal(_, scale) | ArrowDataType::Decimal32(_, scale) | ArrowDataType::Decimal64(_, scale) => {
            let digits: i128 = value(array, row)?;
            let text = format!("{digits}E-{scale}");
            match text.parse() {
                Ok(decimal) => Bson::Decimal128(decimal),
                Err(_) => Bson::Double(text.parse().ok()?),
            }
        }
        ArrowDataType::Timestamp(unit, _) => {
            let ticks: i64 = value(array, row)?;
            let ms = match unit {
                TimeUnit::Second => ticks.saturating_mul(1000),
                TimeUnit::Millisecond => ticks,
                TimeUnit::Microsecond => ticks.div_euclid(1000),
                TimeUnit::Nanosecond => ticks.div_euclid(1_000_000),
            };
            Bson::DateTime(DateTime::from_millis(ms))
        }
        ArrowDataType::Date32 => Bson::DateTime(DateTime::from_millis(i64::from(value::<i32>(array, row)?) * DAY_MS)),
        ArrowDataType::Date64 => Bson::DateTime(DateTime::from_millis(value(array, row)?)),
        ArrowDataType::Utf8View => Bson::String(any.downcast_ref::<Utf8ViewArray>()?.value(row).to_owned()),
        ArrowDataType::BinaryView => binary(any.downcast_ref::<BinaryViewArray>()?.value(row)),
        ArrowDataType::FixedSizeBinary(_) => binary(any.downcast_ref::<FixedSizeBinaryArray>()?.value(row)),
        ArrowDataType::List(_) | ArrowDataType::LargeList(_) | ArrowDataType::FixedSizeList(..) => {
            let (items, range) = list(array, row)?;
            Bson::Array(range.map(|item| bson(items, item)).collect::<Option<_>>()?)
        }
        ArrowDataType::Struct(_) => {
            let structure = any.downcast_ref::<StructArray>()?;
            let mut document = Document::new();
            for (field, values) in structure.fields().iter().zip(structure.values()) {
                if !values.is_null(row) {
                    document.insert(field.name.as_str(), bson(values.as_ref(), row)?);
                }
            }
            Bson::Document(document)
        }
        _ => return None,
    })
}

fn binary(bytes: &[u8]) -> Bson {
    Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes: bytes.to_vec() })
}
