//! How much memory a Parquet file may ask for: a share of its own length, weighed before anything is unpacked.

use std::io::Cursor;

use polars_arrow::datatypes::ArrowDataType;
use polars_buffer::Buffer;
use polars_parquet::parquet::compression::{Compression, DecompressionContext};
use polars_parquet::parquet::encoding::delta_byte_array;
use polars_parquet::parquet::page::{CompressedPage, Page, split_buffer};
use polars_parquet::read::{ColumnChunkMetadata, PageReader, PhysicalType, decompress};

use super::thrift::page_header;

/// What a row group may unpack to however short its file is: a column of a million equal values is a few bytes long.
const AT_LEAST: u64 = 256 << 20;
/// What it may unpack to for each byte of its file. Tickets have ids, which repeat little: honest files stay below 10.
const FOR_A_BYTE: u64 = 64;
/// What it may unpack to at most: all of it is held at once.
const AT_MOST: u64 = 8 << 30;

/// Bytes that one row group may still unpack to.
#[derive(Debug)]
pub(super) struct Room {
    all: u64,
    left: u64,
}

impl Room {
    /// Returns the room for one row group of a file of that length.
    pub(super) fn of(file_bytes: u64) -> Self {
        let all = file_bytes.saturating_mul(FOR_A_BYTE).clamp(AT_LEAST, AT_MOST);
        Self { all, left: all }
    }

    /// Takes room.
    ///
    /// # Errors
    /// There is no more: says so.
    pub(super) fn take(&mut self, bytes: u64) -> Result<(), String> {
        let Some(left) = self.left.checked_sub(bytes) else {
            return Err(format!(
                "says that it unpacks to more than the {} MB that a row group of a file of this length may; write it with smaller row groups",
                self.all >> 20
            ));
        };
        self.left = left;
        Ok(())
    }
}

/// Returns how many items a row has at least, null or not: a list of fixed length always has all of its own.
pub(super) fn items_of_row(dtype: &ArrowDataType) -> u64 {
    match dtype.to_storage() {
        ArrowDataType::FixedSizeList(items, length) => items_of_row(&items.dtype).saturating_mul((*length as u64).max(1)),
        ArrowDataType::List(items) | ArrowDataType::LargeList(items) => items_of_row(&items.dtype),
        ArrowDataType::Struct(fields) => fields.iter().map(|field| items_of_row(&field.dtype)).max().unwrap_or(1),
        _ => 1,
    }
}

/// Takes the room that a column chunk needs when it is decoded, by what its pages say, which must agree with the footer.
///
/// # Errors
/// What does not agree, or that there is not so much room.
pub(super) fn weigh(chunk: &ColumnChunkMetadata, bytes: &Buffer<u8>, rows: u64, items: u64, room: &mut Room) -> Result<(), String> {
    let descriptor = &chunk.descriptor().descriptor;
    let values = u64::try_from(chunk.num_values()).map_err(|_| "says that it has less than no values".to_owned())?;
    if descriptor.max_rep_level == 0 && values != rows {
        return Err(format!("says that it has {values} values for {rows} rows"));
    }
    let width = match descriptor.primitive_type.physical_type {
        PhysicalType::FixedLenByteArray(width) => (width as u64).max(16),
        _ => 16,
    };
    // A list has an offset, and everything may have a bit that says whether it is null.
    let lists = u64::try_from(descriptor.max_rep_level).unwrap_or(0);
    room.take(values.max(rows.saturating_mul(items)).saturating_mul(width + 8 * lists + 1))?;

    let mut at = 0;
    let mut found = 0_u64;
    let mut shares_prefixes = false;
    while found < values {
        let header = bytes.get(at..).and_then(page_header).ok_or("has a page whose header is not to be read")?;
        room.take(if chunk.compression() == Compression::Uncompressed { 0 } else { header.unpacked })?;
        // Each word of a dictionary takes four bytes at least.
        if header.words.saturating_mul(4) > header.unpacked.max(header.packed) {
            return Err(format!("has a dictionary of {} words in {} bytes", header.words, header.unpacked));
        }
        room.take(header.words.saturating_mul(width))?;
        shares_prefixes |= header.shares_prefixes;
        found = found.saturating_add(header.values);
        at = usize::try_from(header.header_bytes.saturating_add(header.packed))
            .ok()
            .and_then(|length| at.checked_add(length))
            .unwrap_or(usize::MAX);
        if at > bytes.len() {
            return Err("has a page that is longer than it is itself".to_owned());
        }
    }
    if found != values {
        return Err(format!("has {found} values in its pages, and says that there are {values}"));
    }
    if shares_prefixes { weigh_texts(chunk, bytes, room) } else { Ok(()) }
}

/// Texts that repeat the beginning of the one before can be of any length: takes the room for each.
fn weigh_texts(chunk: &ColumnChunkMetadata, bytes: &Buffer<u8>, room: &mut Room) -> Result<(), String> {
    let said = |error: &dyn std::fmt::Display| error.to_string();
    let mut context = DecompressionContext::Unset;
    for page in PageReader::new(Cursor::new(bytes.clone()), chunk, Vec::new(), bytes.len()) {
        let page = page.map_err(|error| said(&error))?;
        if !matches!(page, CompressedPage::Data(_)) {
            continue;
        }
        let Page::Data(page) = decompress(page, &mut Vec::new(), &mut context).map_err(|error| said(&error))? else { continue };
        if page.encoding() != polars_parquet::parquet::encoding::Encoding::DeltaByteArray {
            continue;
        }
        let parts = split_buffer(&page).map_err(|error| said(&error))?;
        for text in delta_byte_array::Decoder::try_new(parts.values).map_err(|error| said(&error))? {
            room.take(text.map_err(|error| said(&error))?.len() as u64)?;
        }
    }
    Ok(())
}
