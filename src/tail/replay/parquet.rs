//! Rows of a Parquet file: one row group after the other, and of each only the columns that are wanted.
//!
//! A file that is cut, is something else, or was changed on purpose is an error: what it says of its lengths is held against
//! the bytes that are there before the decoder, which believes it, makes room for anything ([`super::room`],
//! [`super::thrift`]).

use std::fs::File;
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use polars_arrow::array::Array;
use polars_arrow::compute::concatenate::concatenate;
use polars_arrow::datatypes::{ArrowDataType, Field};
use polars_buffer::Buffer;
use polars_parquet::read::{
    BasicDecompressor, FileMetadata, PageReader, RowGroupMetadata, column_iter_to_arrays, infer_schema, read_metadata,
};

use super::ReplayError;
use super::room::{Room, items_of_row, weigh};
use super::thrift::is_footer;
use crate::tail::normalise::{Columns, Normalised, Normaliser, Unreadable};

/// A column's name and values.
pub(crate) type Column = (String, Box<dyn Array>);

/// Row groups, one after the other.
pub(super) struct Groups {
    file: File,
    metadata: FileMetadata,
    /// Columns that are wanted.
    fields: Vec<Field>,
    /// The row group that is read next.
    next: usize,
    progress: Arc<AtomicU64>,
}

impl Groups {
    /// Opens a file of which the columns are wanted that `wants` says so of.
    pub(super) fn open(path: &Path, mut file: File, wants: &dyn Fn(&str) -> bool, progress: Arc<AtomicU64>) -> Result<Self, ReplayError> {
        let failed = |reason: String| ReplayError::Unreadable { file: path.to_owned(), row: 0, reason };
        let (metadata, schema) = guarded(|| {
            check_footer(&mut file)?;
            file.rewind().map_err(|error| error.to_string())?;
            let metadata = read_metadata(&mut file).map_err(|error| error.to_string())?;
            let schema = infer_schema(&metadata).map_err(|error| error.to_string())?;
            Ok((metadata, schema))
        })
        .map_err(|reason| {
            failed(format!("its end, where Parquet says what is in it, is not to be read; was it copied whole? ({reason})"))
        })?;
        let rows = metadata.row_groups.iter().try_fold(0_usize, |rows, group| rows.checked_add(group.num_rows()));
        if rows != Some(metadata.num_rows) {
            return Err(failed(format!("it says that it has {} rows, and its row groups say otherwise", metadata.num_rows)));
        }
        if metadata.num_rows == 0 {
            return Err(ReplayError::Empty { file: path.to_owned() });
        }
        let fields: Vec<Field> = schema.iter_values().filter(|field| wants(&field.name)).map(plain).collect();
        if fields.is_empty() {
            let columns: Vec<&str> = schema.iter_names().map(AsRef::as_ref).collect();
            return Err(failed(format!("the spec reads none of its columns: {}", columns.join(", "))));
        }
        Ok(Self { file, metadata, fields, next: 0, progress })
    }

    /// Returns the number of rows of the next group.
    fn next_rows(&self) -> Option<usize> {
        self.metadata.row_groups.get(self.next).map(RowGroupMetadata::num_rows)
    }

    /// Passes over the next group.
    fn pass(&mut self) {
        self.next += 1;
    }

    /// Reads the next group and its number of rows; `None` when there is none. `row` is the last that was read before.
    pub(super) fn read(&mut self, path: &Path, row: u64) -> Result<Option<(usize, Vec<Column>)>, ReplayError> {
        let Some(group) = self.metadata.row_groups.get(self.next) else {
            return Ok(None);
        };
        let failed = |reason: String| ReplayError::Unreadable { file: path.to_owned(), row, reason };
        let (file, fields) = (&mut self.file, &self.fields);
        let columns = guarded(|| {
            let mut room = Room::of(file.metadata().map_err(|error| error.to_string())?.len());
            fields.iter().map(|field| read_column(file, group, field, &mut room)).collect::<Result<Vec<_>, _>>()
        })
        .map_err(failed)?;
        let rows = group.num_rows();
        if let Some((name, array)) = columns.iter().find(|(_, array)| array.len() != rows) {
            return Err(failed(format!("the column {name} has {} values for {rows} rows", array.len())));
        }
        self.next += 1;
        self.progress.fetch_max(group.full_byte_range().end, Ordering::Relaxed);
        Ok(Some((rows, columns)))
    }
}

/// Rows, one after the other.
pub(super) struct ParquetRows {
    groups: Groups,
    columns: Option<Columns>,
    /// Rows of the present group, and how many of them were read.
    rows: usize,
    read: usize,
    /// Rows that were read.
    pub(super) number: u64,
}

impl ParquetRows {
    pub(super) fn open(path: &Path, file: File, normaliser: &Normaliser, progress: Arc<AtomicU64>) -> Result<Self, ReplayError> {
        let groups = Groups::open(path, file, &|name| normaliser.reads_column(name), progress)?;
        Ok(Self { groups, columns: None, rows: 0, read: 0, number: 0 })
    }

    /// Passes over rows; groups that are passed over whole are not read.
    pub(super) fn skip(&mut self, path: &Path, normaliser: &Normaliser, rows: u64) -> Result<(), ReplayError> {
        while let Some(rows_of_group) = self.groups.next_rows() {
            if self.number + rows_of_group as u64 > rows {
                break;
            }
            self.number += rows_of_group as u64;
            self.groups.pass();
        }
        if self.number < rows {
            if !self.next_rows(path, normaliser)? {
                let reason = format!("it has fewer than the {rows} rows that were read before");
                return Err(ReplayError::Unreadable { file: path.to_owned(), row: self.number, reason });
            }
            self.read = usize::try_from(rows - self.number).unwrap_or(self.rows);
            self.number = rows;
        }
        Ok(())
    }

    /// Returns the next row; `None` at the end.
    pub(super) fn next(
        &mut self,
        path: &Path,
        normaliser: &Normaliser,
        unreadable: &mut Unreadable,
    ) -> Result<Option<Normalised>, ReplayError> {
        while self.read == self.rows {
            if !self.next_rows(path, normaliser)? {
                return Ok(None);
            }
        }
        let Some(columns) = &self.columns else {
            return Ok(None);
        };
        self.number += 1;
        let row = normaliser.read_row(columns, self.read, self.number, unreadable);
        self.read += 1;
        Ok(Some(row))
    }

    /// Reads the next row group; `false` when there is none.
    fn next_rows(&mut self, path: &Path, normaliser: &Normaliser) -> Result<bool, ReplayError> {
        let Some((rows, columns)) = self.groups.read(path, self.number)? else {
            return Ok(false);
        };
        let twice = |name: String| {
            let reason = format!("two of its columns are read at the place of {name}");
            ReplayError::Unreadable { file: path.to_owned(), row: self.number, reason }
        };
        self.columns = Some(normaliser.columns(columns).map_err(twice)?);
        (self.rows, self.read) = (rows, 0);
        Ok(true)
    }
}

/// Holds a footer against the bytes that are there, before the decoder believes it.
fn check_footer(file: &mut File) -> Result<(), String> {
    let failed = |error: std::io::Error| error.to_string();
    let length = file.metadata().map_err(failed)?.len();
    let mut end = [0; 8];
    let at_end = length.checked_sub(8).ok_or("it is too short")?;
    file.seek(SeekFrom::Start(at_end)).map_err(failed)?;
    file.read_exact(&mut end).map_err(failed)?;
    let footer_bytes = u64::from(u32::from_le_bytes([end[0], end[1], end[2], end[3]]));
    let at_footer = at_end.checked_sub(footer_bytes).ok_or("its footer is longer than it is itself")?;
    let mut footer = Vec::new();
    file.seek(SeekFrom::Start(at_footer)).map_err(failed)?;
    file.take(footer_bytes).read_to_end(&mut footer).map_err(failed)?;
    if is_footer(&footer) { Ok(()) } else { Err("its footer is none".to_owned()) }
}

/// A column as it is stored: categories are texts.
fn plain(field: &Field) -> Field {
    let mut plain = field.clone();
    if let ArrowDataType::Dictionary(_, values, _) = field.dtype() {
        plain.dtype = match values.as_ref() {
            ArrowDataType::Utf8 | ArrowDataType::LargeUtf8 => ArrowDataType::Utf8View,
            ArrowDataType::Binary | ArrowDataType::LargeBinary => ArrowDataType::BinaryView,
            other => other.clone(),
        };
        plain.metadata = None;
    }
    plain
}

fn read_column(file: &mut File, group: &RowGroupMetadata, field: &Field, room: &mut Room) -> Result<Column, String> {
    let name = field.name.to_string();
    let said = |what: String| format!("the column {name}: {what}");
    let length = file.metadata().map_err(|error| error.to_string())?.len();
    let Some(chunks) = group.columns_under_root_iter(&field.name) else {
        return Err(said("is not in every row group".to_owned()));
    };
    let items = items_of_row(&field.dtype);
    let (mut pages, mut types) = (Vec::new(), Vec::new());
    for chunk in chunks {
        let range = chunk.byte_range();
        if range.end > length || range.start > range.end {
            return Err(said(format!("lies beyond the end of the file, at byte {}", range.end)));
        }
        room.take(range.end - range.start).map_err(said)?;
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(range.start)).map_err(|error| said(error.to_string()))?;
        file.take(range.end - range.start).read_to_end(&mut bytes).map_err(|error| said(error.to_string()))?;
        let bytes = Buffer::from_vec(bytes);
        weigh(chunk, &bytes, group.num_rows() as u64, items, room).map_err(said)?;
        let longest_page = bytes.len();
        let reader = PageReader::new(Cursor::new(bytes), chunk, Vec::new(), longest_page);
        pages.push(BasicDecompressor::new(reader, Vec::new()));
        types.push(&chunk.descriptor().descriptor.primitive_type);
    }
    let (arrays, _) = column_iter_to_arrays(pages, types, field.clone(), None).map_err(|error| said(error.to_string()))?;
    let parts: Vec<&dyn Array> = arrays.iter().map(AsRef::as_ref).collect();
    let array = concatenate(&parts).map_err(|error| said(error.to_string()))?;
    Ok((name, array))
}

/// Runs what reads a stranger's bytes: the decoder gives up on some broken files by a panic.
fn guarded<T>(read: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| Err("the decoder gave up on its bytes".to_owned()))
}
