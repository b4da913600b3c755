//! Reading a line of JSON, plain or extended: one pass, texts borrowed, nothing built that nobody asked for.

use std::borrow::Cow;
use std::fmt;

use bson::{Bson, RawBson};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::bson::scalar_of;
use super::extjson::{Count, Form, Sink, put_double, put_escaped, put_integer, put_text, put_value};
use super::paths::{Paths, ROOT};
use super::value::{Found, Scalar};
use super::{MAX_DEPTH, Why};

/// A value as its text, without spaces around it; known to be JSON, of any depth.
#[derive(Clone, Copy, Debug)]
pub(super) struct JsonValue<'a>(&'a str);

/// Fills the slots of everything that the line has.
///
/// # Errors
/// What makes the line no JSON object: syntax, UTF-8, or a name that is read is there twice.
pub(super) fn walk<'a>(paths: &Paths, line: &'a [u8], slots: &mut [Option<JsonValue<'a>>]) -> Result<(), String> {
    let text = std::str::from_utf8(line).map_err(|error| format!("no UTF-8 at byte {}", error.valid_up_to()))?;
    below(paths, ROOT, text, slots)
}

fn below<'a>(paths: &Paths, place: usize, object: &'a str, slots: &mut [Option<JsonValue<'a>>]) -> Result<(), String> {
    let mut json = serde_json::Deserializer::from_str(object);
    let read = json.deserialize_map(Level { paths, place, slots: &mut *slots }).and_then(|()| json.end());
    // The line is one of many; its number is told elsewhere.
    read.map_err(|error| error.to_string().replace(" at line 1 column ", " at byte "))
}

struct Level<'p, 's, 'a> {
    paths: &'p Paths,
    place: usize,
    slots: &'s mut [Option<JsonValue<'a>>],
}

impl<'a> Visitor<'a> for Level<'_, '_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        use serde::de::Error;
        let mut next = 0;
        while let Some(found) = map.next_key_seed(Name { paths: self.paths, place: self.place, next: &mut next })? {
            let Some(found) = found else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if self.slots[found].is_some() {
                return Err(A::Error::custom("a name is there twice"));
            }
            let value = map.next_value::<&'a RawValue>()?.get();
            self.slots[found] = Some(JsonValue(value));
            if self.paths.goes_on(found) && value.starts_with('{') {
                below(self.paths, found, value, self.slots).map_err(A::Error::custom)?;
            }
        }
        Ok(())
    }
}

/// Reads a name as its place, if it has one.
struct Name<'p, 'n> {
    paths: &'p Paths,
    place: usize,
    next: &'n mut usize,
}

impl<'de> DeserializeSeed<'de> for Name<'_, '_> {
    type Value = Option<usize>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_, '_> {
    type Value = Option<usize>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }
    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.paths.below(self.place, name, self.next))
    }
}

impl<'a> Found<'a> for JsonValue<'a> {
    fn scalar(self) -> Scalar<'a> {
        match self.0.as_bytes().first() {
            Some(b'"') => text(self.0).map_or(Scalar::Malformed, Scalar::Text),
            Some(b'n') => Scalar::Null,
            Some(b't') => Scalar::Bool(true),
            Some(b'f') => Scalar::Bool(false),
            Some(b'[') => Scalar::Other("a list"),
            Some(b'{') => extended(self.0).map_or(Scalar::Other("a document"), scalar_of),
            _ => match self.0.parse::<i64>() {
                Ok(number) => Scalar::Integer(number),
                Err(_) => self.0.parse().map_or(Scalar::Malformed, Scalar::Number),
            },
        }
    }

    fn items(self) -> Result<u64, Why> {
        struct Items;
        impl<'de> Visitor<'de> for Items {
            type Value = u64;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<u64, A::Error> {
                let mut items = 0;
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    items += 1;
                }
                Ok(items)
            }
        }
        if !self.0.starts_with('[') {
            return Err(Why::WrongType);
        }
        serde_json::Deserializer::from_str(self.0).deserialize_seq(Items).map_err(|_| Why::Malformed)
    }

    fn json_bytes(self) -> Result<u64, Why> {
        if let Some(bytes) = plain_bytes(self.0)? {
            return Ok(bytes);
        }
        let mut count = Count::default();
        put(&mut count, self.0, Form::Relaxed, 0)?;
        Ok(count.0)
    }

    fn put_canonical(self, sink: &mut impl Sink) -> Result<(), Why> {
        put(sink, self.0, Form::Canonical, 0)
    }
}

/// Returns the text of a JSON string, if it is one of Unicode: JSON can also write half a surrogate pair.
fn text(quoted: &str) -> Option<Cow<'_, str>> {
    let inner = quoted.get(1..quoted.len() - 1)?;
    if inner.contains('\\') { serde_json::from_str::<String>(quoted).ok().map(Cow::Owned) } else { Some(Cow::Borrowed(inner)) }
}

/// Returns the BSON value that an object stands for in extended JSON; `None` when it is an object and nothing else.
fn extended(object: &str) -> Option<Bson> {
    if !object[1..].trim_ascii_start().starts_with("\"$") {
        return None;
    }
    match serde_json::from_str(object) {
        Ok(Bson::Document(_)) | Err(_) => None,
        Ok(value) => Some(value),
    }
}

/// Returns the length of the value's compact JSON in one flat pass; `None` when some object may be extended JSON.
fn plain_bytes(json: &str) -> Result<Option<u64>, Why> {
    let bytes = json.as_bytes();
    let (mut at, mut count, mut depth) = (0, 0_u64, 0_usize);
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' => at += 1,
            b'"' => {
                let end = string_end(bytes, at);
                if bytes[at + 1] == b'$' {
                    return Ok(None);
                }
                count += string_bytes(&json[at..end])?;
                at = end;
            }
            b'-' | b'0'..=b'9' => {
                let length = bytes[at..].iter().take_while(|byte| matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')).count();
                put_number(&mut Counted(&mut count), &json[at..at + length], Form::Relaxed)?;
                at += length;
            }
            other => {
                match other {
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth -= 1,
                    _ => {}
                }
                if depth > MAX_DEPTH {
                    return Err(Why::TooDeep);
                }
                count += 1;
                at += 1;
            }
        }
    }
    Ok(Some(count))
}

struct Counted<'c>(&'c mut u64);

impl Sink for Counted<'_> {
    fn put(&mut self, bytes: &[u8]) {
        *self.0 += bytes.len() as u64;
    }
}

/// Returns the place behind the closing quote of the string that begins at `start`.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn string_bytes(quoted: &str) -> Result<u64, Why> {
    let text = text(quoted).ok_or(Why::Malformed)?;
    let Cow::Owned(text) = text else {
        return Ok(quoted.len() as u64);
    };
    let mut count = Count(2);
    put_escaped(&mut count, &text);
    Ok(count.0)
}

/// Writes a number: an integer keeps its digits, whatever their number; anything else is a double.
fn put_number(sink: &mut impl Sink, digits: &str, form: Form) -> Result<(), Why> {
    if digits.bytes().any(|byte| matches!(byte, b'.' | b'e' | b'E')) {
        put_double(sink, digits.parse().map_err(|_| Why::Malformed)?, form);
        return Ok(());
    }
    let digits = if digits == "-0" { "0" } else { digits };
    if form == Form::Relaxed {
        sink.put(digits.as_bytes());
        return Ok(());
    }
    match digits.parse::<i64>() {
        Ok(number) => {
            let name = if i32::try_from(number).is_ok() { "$numberInt" } else { "$numberLong" };
            put_integer(sink, number, name, form);
        }
        Err(_) => put_double(sink, digits.parse().map_err(|_| Why::Malformed)?, form),
    }
    Ok(())
}

/// Writes a value as what it stands for in extended JSON.
fn put(sink: &mut impl Sink, json: &str, form: Form, depth: usize) -> Result<(), Why> {
    match json.as_bytes().first() {
        Some(b'"') => put_text(sink, &text(json).ok_or(Why::Malformed)?),
        Some(b'n' | b't' | b'f') => sink.put(json.as_bytes()),
        Some(b'[' | b'{') if depth == MAX_DEPTH => return Err(Why::TooDeep),
        Some(b'[') => {
            sink.put(b"[");
            for (i, item) in list(json)?.into_iter().enumerate() {
                if i > 0 {
                    sink.put(b",");
                }
                put(sink, item.get(), form, depth + 1)?;
            }
            sink.put(b"]");
        }
        Some(b'{') => {
            if let Some(value) = extended(json) {
                let raw = RawBson::try_from(value).map_err(|_| Why::Malformed)?;
                return put_value(sink, raw.as_raw_bson_ref(), form);
            }
            sink.put(b"{");
            for (i, (name, value)) in entries(json)?.into_iter().enumerate() {
                if i > 0 {
                    sink.put(b",");
                }
                put_text(sink, &name);
                sink.put(b":");
                put(sink, value.get(), form, depth + 1)?;
            }
            sink.put(b"}");
        }
        _ => put_number(sink, json, form)?,
    }
    Ok(())
}

fn list(json: &str) -> Result<Vec<&RawValue>, Why> {
    serde_json::from_str(json).map_err(|_| Why::Malformed)
}

fn entries(json: &str) -> Result<Vec<(String, &RawValue)>, Why> {
    struct Entries;
    impl<'de> Visitor<'de> for Entries {
        type Value = Vec<(String, &'de RawValue)>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut entries = Vec::new();
            while let Some(entry) = map.next_entry()? {
                entries.push(entry);
            }
            Ok(entries)
        }
    }
    serde_json::Deserializer::from_str(json).deserialize_map(Entries).map_err(|_| Why::Malformed)
}
