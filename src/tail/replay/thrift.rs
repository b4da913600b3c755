//! Parquet's footers and page headers, walked before they are decoded: the decoder believes what they say of their lengths.
//!
//! The decoder makes room for as many items as a list says that it has, and reads a field by its number whatever its type is.
//! Here each field that it reads must be of its own type, and a list must not have more items than there are bytes left; then
//! both walk the same way, and what is asked for is bounded by what is there.

/// A field by what the specification says it is (github.com/apache/parquet-format, `parquet.thrift`).
#[derive(Clone, Copy)]
enum Kind {
    Bool,
    Byte,
    /// Of 16, 32 or 64 bits: they look the same.
    Integer,
    /// An integer that the caller wants to know.
    Noted(usize),
    Binary,
    Integers,
    Binaries,
    Structs(Shape),
    Struct(Shape),
}

/// The fields of a structure, by number. A field that is not here is passed over as what it says it is.
type Shape = &'static [(i16, Kind)];

use Kind::{Binaries, Binary, Bool, Byte, Integer, Integers, Noted, Struct, Structs};

const NONE: Shape = &[];
const KEY_VALUE: Shape = &[(1, Binary), (2, Binary)];
const TIME: Shape = &[(1, Bool), (2, Struct(&[(1, Struct(NONE)), (2, Struct(NONE)), (3, Struct(NONE))]))];
const LOGICAL_TYPE: Shape = &[
    (1, Struct(NONE)),
    (2, Struct(NONE)),
    (3, Struct(NONE)),
    (4, Struct(NONE)),
    (5, Struct(&[(1, Integer), (2, Integer)])),
    (6, Struct(NONE)),
    (7, Struct(TIME)),
    (8, Struct(TIME)),
    (10, Struct(&[(1, Byte), (2, Bool)])),
    (11, Struct(NONE)),
    (12, Struct(NONE)),
    (13, Struct(NONE)),
    (14, Struct(NONE)),
    (15, Struct(NONE)),
    (16, Struct(&[(1, Byte)])),
    (17, Struct(&[(1, Binary)])),
    (18, Struct(&[(1, Binary), (2, Integer)])),
];
const SCHEMA_ELEMENT: Shape = &[
    (1, Integer),
    (2, Integer),
    (3, Integer),
    (4, Binary),
    (5, Integer),
    (6, Integer),
    (7, Integer),
    (8, Integer),
    (9, Integer),
    (10, Struct(LOGICAL_TYPE)),
];
const STATISTICS: Shape =
    &[(1, Binary), (2, Binary), (3, Integer), (4, Integer), (5, Binary), (6, Binary), (7, Bool), (8, Bool), (9, Integer)];
const COLUMN_METADATA: Shape = &[
    (1, Integer),
    (2, Integers),
    (3, Binaries),
    (4, Integer),
    (5, Integer),
    (6, Integer),
    (7, Integer),
    (8, Structs(KEY_VALUE)),
    (9, Integer),
    (10, Integer),
    (11, Integer),
    (12, Struct(STATISTICS)),
    (13, Structs(&[(1, Integer), (2, Integer), (3, Integer)])),
    (14, Integer),
    (15, Integer),
];
const COLUMN_CHUNK: Shape = &[
    (1, Binary),
    (2, Integer),
    (3, Struct(COLUMN_METADATA)),
    (4, Integer),
    (5, Integer),
    (6, Integer),
    (7, Integer),
    (8, Struct(NONE)),
    (9, Binary),
];
const ROW_GROUP: Shape = &[
    (1, Structs(COLUMN_CHUNK)),
    (2, Integer),
    (3, Integer),
    (4, Structs(&[(1, Integer), (2, Bool), (3, Bool)])),
    (5, Integer),
    (6, Integer),
    (7, Integer),
];
const FOOTER: Shape = &[
    (1, Integer),
    (2, Structs(SCHEMA_ELEMENT)),
    (3, Integer),
    (4, Structs(ROW_GROUP)),
    (5, Structs(KEY_VALUE)),
    (6, Binary),
    (7, Structs(&[(1, Struct(NONE))])),
    (8, Struct(NONE)),
    (9, Binary),
];

const UNPACKED: usize = 0;
const PACKED: usize = 1;
const VALUES: usize = 2;
const ENCODING: usize = 3;
const WORDS: usize = 4;
const PAGE_HEADER: Shape = &[
    (1, Integer),
    (2, Noted(UNPACKED)),
    (3, Noted(PACKED)),
    (4, Integer),
    (5, Struct(&[(1, Noted(VALUES)), (2, Noted(ENCODING)), (3, Integer), (4, Integer), (5, Struct(STATISTICS))])),
    (6, Struct(NONE)),
    (7, Struct(&[(1, Noted(WORDS)), (2, Integer), (3, Bool)])),
    (
        8,
        Struct(&[
            (1, Noted(VALUES)),
            (2, Integer),
            (3, Integer),
            (4, Noted(ENCODING)),
            (5, Integer),
            (6, Integer),
            (7, Bool),
            (8, Struct(STATISTICS)),
        ]),
    ),
];

/// `DELTA_BYTE_ARRAY`, the encoding whose values repeat the beginning of the one before.
const DELTA_BYTE_ARRAY: i64 = 7;

/// What a page says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageHeader {
    /// Its own bytes.
    pub(super) header_bytes: u64,
    /// Bytes that follow it.
    pub(super) packed: u64,
    /// Bytes that these unpack to.
    pub(super) unpacked: u64,
    /// Values of a data page.
    pub(super) values: u64,
    /// Values of a dictionary.
    pub(super) words: u64,
    /// Whether its values repeat the beginning of the one before.
    pub(super) shares_prefixes: bool,
}

/// Whether a footer is what a footer has to be.
pub(super) fn is_footer(bytes: &[u8]) -> bool {
    Walk { rest: bytes, noted: [None; 5] }.structure(FOOTER, DEEPEST).is_some()
}

/// Reads the header at the beginning of `bytes`; `None` when it is none.
pub(super) fn page_header(bytes: &[u8]) -> Option<PageHeader> {
    let mut walk = Walk { rest: bytes, noted: [None; 5] };
    walk.structure(PAGE_HEADER, DEEPEST)?;
    let number = |at: usize| u64::try_from(walk.noted[at].unwrap_or(0)).ok();
    Some(PageHeader {
        header_bytes: (bytes.len() - walk.rest.len()) as u64,
        packed: number(PACKED)?,
        unpacked: number(UNPACKED)?,
        values: number(VALUES)?,
        words: number(WORDS)?,
        shares_prefixes: walk.noted[ENCODING] == Some(DELTA_BYTE_ARRAY),
    })
}

/// The deepest nesting; the specification needs six.
const DEEPEST: u8 = 32;

/// Thrift's compact protocol, as far as to pass over it.
struct Walk<'b> {
    rest: &'b [u8],
    noted: [Option<i64>; 5],
}

impl Walk<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn pass(&mut self, bytes: u64) -> Option<()> {
        self.rest = self.rest.get(usize::try_from(bytes).ok()?..)?;
        Some(())
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn integer(&mut self) -> Option<i64> {
        let number = self.number()?;
        Some((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
    }

    fn structure(&mut self, shape: Shape, depth: u8) -> Option<()> {
        let mut id: i16 = 0;
        loop {
            let head = self.byte()?;
            let wire = head & 0x0f;
            if wire == 0 {
                return Some(());
            }
            id = match head >> 4 {
                0 => i16::try_from(self.integer()?).ok()?,
                more => id.checked_add(more.into())?,
            };
            let kind = shape.iter().find(|(known, _)| *known == id).map(|(_, kind)| *kind);
            self.value(wire, kind, depth.checked_sub(1)?)?;
        }
    }

    fn value(&mut self, wire: u8, kind: Option<Kind>, depth: u8) -> Option<()> {
        match (wire, kind) {
            (1 | 2, None | Some(Bool)) => Some(()),
            (3, None | Some(Byte)) => self.pass(1),
            (4..=6, None | Some(Integer)) => self.integer().map(drop),
            (4..=6, Some(Noted(at))) => {
                self.noted[at] = Some(self.integer()?);
                Some(())
            }
            (7, None) => self.pass(8),
            (8, None | Some(Binary)) => {
                let bytes = self.number()?;
                self.pass(bytes)
            }
            (9 | 10, None) => self.list(None, depth),
            (9, Some(Integers)) => self.list(Some(Integer), depth),
            (9, Some(Binaries)) => self.list(Some(Binary), depth),
            (9, Some(Structs(shape))) => self.list(Some(Struct(shape)), depth),
            (12, None) => self.structure(NONE, depth),
            (12, Some(Struct(shape))) => self.structure(shape, depth),
            // Parquet has no maps.
            _ => None,
        }
    }

    fn list(&mut self, kind: Option<Kind>, depth: u8) -> Option<()> {
        let head = self.byte()?;
        let items = match head >> 4 {
            15 => self.number()?,
            few => few.into(),
        };
        // Each takes a byte at least.
        if items > self.rest.len() as u64 {
            return None;
        }
        for _ in 0..items {
            match head & 0x0f {
                // In a list a truth is a byte.
                1 | 2 if matches!(kind, None | Some(Bool)) => self.pass(1)?,
                wire => self.value(wire, kind, depth.checked_sub(1)?)?,
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_longer_than_its_footer_is_none() {
        // Field 2, a list of structures that are over at once.
        let list = |items: &[u8], rest: usize| [&[0x29], items, &vec![0; rest][..], &[0]].concat();
        assert!(is_footer(&list(&[0x3c], 3)));
        assert!(is_footer(&list(&[0xfc, 0x90, 0x01], 0x90)));
        assert!(!is_footer(&list(&[0xfc, 0xff, 0xff, 0xff, 0xff, 0x07], 200)));
        assert!(!is_footer(&list(&[0x3c], 2)[..4]));
        // The same as a text, and as a list of numbers.
        assert!(!is_footer(&[0x28, 0x01, 0x00, 0x00]));
        assert!(!is_footer(&[0x29, 0x15, 0x02, 0x00]));
        // A field that nobody knows may be anything.
        assert!(is_footer(&[0xa8, 0x01, 0x00, 0x00]));
    }

    #[test]
    fn a_page_header_says_its_sizes() {
        let header = [0x15, 0x00, 0x15, 0x54, 0x15, 0x28, 0x2c, 0x15, 0x0a, 0x15, 0x0e, 0x00, 0x00, 0xff];
        let expected = PageHeader { header_bytes: 13, packed: 20, unpacked: 42, values: 5, words: 0, shares_prefixes: true };
        assert_eq!(page_header(&header), Some(expected));
        assert_eq!(page_header(&[0x15, 0x00, 0x15, 0x53, 0x00]), None, "a negative size");
    }
}
