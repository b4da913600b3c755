//! BSON as compact extended JSON (MongoDB Extended JSON v2), into whatever takes bytes.
//!
//! Numbers are written as Python's `json.dumps` writes them, so that a size is the one that data scientists count.

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bson::RawBsonRef;
use bson::spec::BinarySubtype;
use sha2::{Digest, Sha256};

use super::time::to_rfc3339;
use super::{MAX_DEPTH, Why};

/// Which of the two forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Every type is told: `{"$numberInt":"5"}`.
    Canonical,
    /// Numbers are plain, dates are readable.
    Relaxed,
}

/// Takes the bytes.
pub(super) trait Sink {
    fn put(&mut self, bytes: &[u8]);
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Counts them.
#[derive(Debug, Default)]
pub(super) struct Count(pub(super) u64);

impl Sink for Count {
    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len() as u64;
    }
}

/// Hashes and counts them, and keeps the first.
#[derive(Debug)]
pub(super) struct Cut {
    pub(super) kept: Vec<u8>,
    pub(super) bytes: u64,
    pub(super) sha: Sha256,
    limit: usize,
}

impl Cut {
    pub(super) fn at(limit: usize) -> Self {
        Self { kept: Vec::new(), bytes: 0, sha: Sha256::new(), limit }
    }

    /// Returns what was kept, cut between two characters.
    pub(super) fn text(&self) -> &str {
        match std::str::from_utf8(&self.kept) {
            Ok(text) => text,
            Err(error) => std::str::from_utf8(&self.kept[..error.valid_up_to()]).unwrap_or_default(),
        }
    }
}

impl Sink for Cut {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.sha.update(bytes);
        let room = self.limit - self.kept.len();
        self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

/// Writes a JSON string: `"` and `\` escaped, control characters as `\n` or `\u001f`, everything else as it is.
pub(super) fn put_text(sink: &mut impl Sink, text: &str) {
    sink.put(b"\"");
    put_escaped(sink, text);
    sink.put(b"\"");
}

/// Writes a JSON string without its quotes.
pub(super) fn put_escaped(sink: &mut impl Sink, text: &str) {
    let bytes = text.as_bytes();
    let mut start = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        sink.put(&bytes[start..at]);
        start = at + 1;
        match byte {
            b'"' => sink.put(b"\\\""),
            b'\\' => sink.put(b"\\\\"),
            0x08 => sink.put(b"\\b"),
            0x0c => sink.put(b"\\f"),
            b'\n' => sink.put(b"\\n"),
            b'\r' => sink.put(b"\\r"),
            b'\t' => sink.put(b"\\t"),
            _ => sink.put(format!("\\u{byte:04x}").as_bytes()),
        }
    }
    sink.put(&bytes[start..]);
}

/// The shortest text of a double that reads back the same, in Python's form: `1.0`, `1e+16`, `1e-05`.
pub(super) struct DoubleText {
    text: [u8; 40],
    length: usize,
}

impl DoubleText {
    pub(super) fn of(number: f64) -> Self {
        let mut digits = [0_u8; 40];
        let mut room = &mut digits[..];
        write!(room, "{number:e}").expect("a double in scientific form has at most 25 characters");
        let used = 40 - room.len();
        let scientific = std::str::from_utf8(&digits[..used]).unwrap_or_default();
        let (sign, scientific) = scientific.strip_prefix('-').map_or(("", scientific), |rest| ("-", rest));
        let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
        let exponent: i32 = exponent.parse().unwrap_or_default();
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));

        let mut text = [0_u8; 40];
        let mut room = &mut text[..];
        let written = match usize::try_from(exponent) {
            Ok(exponent) if exponent < 16 && exponent < fraction.len() => {
                write!(room, "{sign}{whole}{}.{}", &fraction[..exponent], &fraction[exponent..])
            }
            Ok(exponent) if exponent < 16 => {
                write!(room, "{sign}{whole}{fraction}{:0<zeros$}.0", "", zeros = exponent - fraction.len())
            }
            Err(_) if exponent >= -4 => {
                let zeros = usize::try_from(-exponent - 1).unwrap_or_default();
                write!(room, "{sign}0.{:0<zeros$}{whole}{fraction}", "")
            }
            _ => {
                let point = if fraction.is_empty() { "" } else { "." };
                let exponent_sign = if exponent < 0 { '-' } else { '+' };
                write!(room, "{sign}{whole}{point}{fraction}e{exponent_sign}{:02}", exponent.unsigned_abs())
            }
        };
        written.expect("a double in Python's form has at most 25 characters");
        let length = 40 - room.len();
        Self { text, length }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.text[..self.length]
    }
}

/// Writes a double.
pub(super) fn put_double(sink: &mut impl Sink, number: f64, form: Form) {
    let name = if number.is_nan() {
        "NaN"
    } else if number.is_finite() {
        if form == Form::Relaxed {
            sink.put(DoubleText::of(number).bytes());
        } else {
            sink.put(b"{\"$numberDouble\":\"");
            sink.put(DoubleText::of(number).bytes());
            sink.put(b"\"}");
        }
        return;
    } else if number > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    };
    sink.put(format!("{{\"$numberDouble\":\"{name}\"}}").as_bytes());
}

/// Writes an integer: in canonical form its name tells whether it fits in 32 bits.
pub(super) fn put_integer(sink: &mut impl Sink, number: i64, name: &str, form: Form) {
    match form {
        Form::Relaxed => sink.put(number.to_string().as_bytes()),
        Form::Canonical => sink.put(format!("{{\"{name}\":\"{number}\"}}").as_bytes()),
    }
}

/// Writes a value. What was written before an error stays written.
///
/// # Errors
/// [`Why::TooDeep`] and [`Why::Malformed`].
pub(super) fn put_value(sink: &mut impl Sink, value: RawBsonRef<'_>, form: Form) -> Result<(), Why> {
    put_at_depth(sink, value, form, 0)
}

fn put_at_depth(sink: &mut impl Sink, value: RawBsonRef<'_>, form: Form, depth: usize) -> Result<(), Why> {
    /// The last day for which the relaxed form has a readable date is 9999-12-31.
    const READABLE_UNTIL_MS: i64 = 253_402_300_800_000;
    match value {
        RawBsonRef::Double(number) => put_double(sink, number, form),
        RawBsonRef::String(text) => put_text(sink, text),
        RawBsonRef::Array(array) => {
            if depth == MAX_DEPTH {
                return Err(Why::TooDeep);
            }
            sink.put(b"[");
            for (i, item) in array.into_iter().enumerate() {
                if i > 0 {
                    sink.put(b",");
                }
                put_at_depth(sink, item.map_err(|_| Why::Malformed)?, form, depth + 1)?;
            }
            sink.put(b"]");
        }
        RawBsonRef::Document(document) => put_document(sink, document, form, depth)?,
        RawBsonRef::Boolean(true) => sink.put(b"true"),
        RawBsonRef::Boolean(false) => sink.put(b"false"),
        RawBsonRef::Null => sink.put(b"null"),
        RawBsonRef::RegularExpression(regex) => {
            sink.put(b"{\"$regularExpression\":{\"pattern\":");
            put_text(sink, regex.pattern.as_str());
            sink.put(b",\"options\":");
            put_text(sink, regex.options.as_str());
            sink.put(b"}}");
        }
        RawBsonRef::JavaScriptCode(code) => {
            sink.put(b"{\"$code\":");
            put_text(sink, code);
            sink.put(b"}");
        }
        RawBsonRef::JavaScriptCodeWithScope(code) => {
            sink.put(b"{\"$code\":");
            put_text(sink, code.code);
            sink.put(b",\"$scope\":");
            put_document(sink, code.scope, form, depth)?;
            sink.put(b"}");
        }
        RawBsonRef::Int32(number) => put_integer(sink, i64::from(number), "$numberInt", form),
        RawBsonRef::Int64(number) => put_integer(sink, number, "$numberLong", form),
        RawBsonRef::Timestamp(time) => {
            sink.put(format!("{{\"$timestamp\":{{\"t\":{},\"i\":{}}}}}", time.time, time.increment).as_bytes());
        }
        RawBsonRef::Binary(binary) => put_binary(sink, binary.bytes, binary.subtype),
        RawBsonRef::ObjectId(id) => sink.put(format!("{{\"$oid\":\"{id}\"}}").as_bytes()),
        RawBsonRef::DateTime(date) => {
            let ms = date.timestamp_millis();
            if form == Form::Relaxed && (0..READABLE_UNTIL_MS).contains(&ms) {
                sink.put(format!("{{\"$date\":\"{}\"}}", to_rfc3339(ms)).as_bytes());
            } else {
                sink.put(format!("{{\"$date\":{{\"$numberLong\":\"{ms}\"}}}}").as_bytes());
            }
        }
        RawBsonRef::Symbol(text) => {
            sink.put(b"{\"$symbol\":");
            put_text(sink, text);
            sink.put(b"}");
        }
        RawBsonRef::Decimal128(number) => sink.put(format!("{{\"$numberDecimal\":\"{number}\"}}").as_bytes()),
        RawBsonRef::Undefined => sink.put(b"{\"$undefined\":true}"),
        RawBsonRef::MaxKey => sink.put(b"{\"$maxKey\":1}"),
        RawBsonRef::MinKey => sink.put(b"{\"$minKey\":1}"),
        // Its parts are private to the bson crate, which writes them itself.
        RawBsonRef::DbPointer(pointer) => sink.put(&serde_json::to_vec(&pointer).map_err(|_| Why::Malformed)?),
    }
    Ok(())
}

fn put_document(sink: &mut impl Sink, document: &bson::RawDocument, form: Form, depth: usize) -> Result<(), Why> {
    if depth == MAX_DEPTH {
        return Err(Why::TooDeep);
    }
    sink.put(b"{");
    for (i, entry) in document.iter().enumerate() {
        let (name, value) = entry.map_err(|_| Why::Malformed)?;
        if i > 0 {
            sink.put(b",");
        }
        put_text(sink, name.as_str());
        sink.put(b":");
        put_at_depth(sink, value, form, depth + 1)?;
    }
    sink.put(b"}");
    Ok(())
}

fn put_binary(sink: &mut impl Sink, bytes: &[u8], subtype: BinarySubtype) {
    /// A multiple of three, so that only the last piece is padded.
    const PIECE: usize = 768;
    sink.put(b"{\"$binary\":{\"base64\":\"");
    let mut encoded = [0_u8; PIECE / 3 * 4];
    for piece in bytes.chunks(PIECE) {
        let length = STANDARD.encode_slice(piece, &mut encoded).expect("three bytes are four characters");
        sink.put(&encoded[..length]);
    }
    sink.put(format!("\",\"subType\":\"{:02x}\"}}}}", u8::from(subtype)).as_bytes());
}

#[cfg(test)]
mod tests {
    use bson::{Bson, RawBson, bson, doc};

    use super::*;

    fn text(value: impl Into<Bson>, form: Form) -> String {
        let raw = RawBson::try_from(value.into()).unwrap();
        let mut out = Vec::new();
        put_value(&mut out, raw.as_raw_bson_ref(), form).unwrap();
        let mut count = Count::default();
        put_value(&mut count, raw.as_raw_bson_ref(), form).unwrap();
        assert_eq!(count.0, out.len() as u64);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn doubles_look_as_in_python() {
        for (number, python) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (-1.5, "-1.5"),
            (0.1, "0.1"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (0.000_012_345, "1.2345e-05"),
            (123_456_789.125, "123456789.125"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.234e22, "1.234e+22"),
            (9_007_199_254_740_993.0, "9007199254740992.0"),
            (1.797_693_134_862_315_7e308, "1.7976931348623157e+308"),
            (-2.225_073_858_507_201_4e-308, "-2.2250738585072014e-308"),
            (5e-324, "5e-324"),
        ] {
            assert_eq!(std::str::from_utf8(DoubleText::of(number).bytes()), Ok(python));
        }
    }

    #[test]
    fn both_forms_follow_the_specification() {
        let id = bson::oid::ObjectId::parse_str("57e193d7a9cc81b4027498b5").unwrap();
        let value = doc! {
            "i": 5, "l": 5_000_000_000_i64, "d": 1.5, "nan": f64::NAN, "s": "a\"\\\n\u{1}é\u{7f}", "n": null, "b": true,
            "o": id, "t": bson::DateTime::from_millis(1_362_898_800_000), "old": bson::DateTime::from_millis(-1),
            "list": [1, { "x": [] }], "bin": bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: vec![1, 2, 3, 4] },
            "dec": "1.50".parse::<bson::Decimal128>().unwrap(), "ts": bson::Timestamp { time: 7, increment: 8 },
        };
        assert_eq!(
            text(value.clone(), Form::Relaxed),
            concat!(
                r#"{"i":5,"l":5000000000,"d":1.5,"nan":{"$numberDouble":"NaN"},"s":"a\"\\\n\u0001é"#,
                "\u{7f}",
                r#"","n":null,"b":true,"o":{"$oid":"57e193d7a9cc81b4027498b5"},"t":{"$date":"2013-03-10T07:00:00Z"},"#,
                r#""old":{"$date":{"$numberLong":"-1"}},"list":[1,{"x":[]}],"bin":{"$binary":{"base64":"AQIDBA==","subType":"00"}},"#,
                r#""dec":{"$numberDecimal":"1.50"},"ts":{"$timestamp":{"t":7,"i":8}}}"#
            )
        );
        let canonical = text(value, Form::Canonical);
        assert!(canonical.starts_with(r#"{"i":{"$numberInt":"5"},"l":{"$numberLong":"5000000000"},"d":{"$numberDouble":"1.5"}"#));
        assert!(canonical.contains(r#""t":{"$date":{"$numberLong":"1362898800000"}}"#));
    }

    #[test]
    fn nesting_beyond_the_bound_is_refused_and_up_to_it_is_written() {
        let nested = |levels: usize| (0..levels).fold(bson!(1), |inner, _| bson!([inner]));
        assert_eq!(text(nested(MAX_DEPTH), Form::Relaxed).len(), 2 * MAX_DEPTH + 1);
        let raw = RawBson::try_from(nested(MAX_DEPTH + 1)).unwrap();
        assert_eq!(put_value(&mut Count::default(), raw.as_raw_bson_ref(), Form::Relaxed), Err(Why::TooDeep));
    }

    #[test]
    fn a_cut_keeps_whole_characters_and_counts_all() {
        let mut cut = Cut::at(4);
        cut.put("abcé".as_bytes());
        cut.put(b"more");
        assert_eq!((cut.text(), cut.bytes), ("abc", 9));
    }
}
