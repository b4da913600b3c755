//! Rows of a Parquet file: one row group after the other, and of each only the columns that the spec reads.
//!
//! A file that is cut or is something else is an error. One whose bytes were changed on purpose can make the decoder ask
//! for more memory than there is, which ends the process: replay files of your own.

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
use crate::tail::normalise::{Columns, Normalised, Normaliser, Unreadable};

/// Rows, one after the other.
pub(super) struct ParquetRows {
    file: File,
    metadata: FileMetadata,
    /// Columns that the spec reads.
    fields: Vec<Field>,
    /// The row group that is read next.
    next_group: usize,
    columns: Option<Columns>,
    /// Rows of the present group, and how many of them were read.
    rows: usize,
    read: usize,
    /// Rows that were read.
    pub(super) number: u64,
    progress: Arc<AtomicU64>,
}

impl ParquetRows {
    pub(super) fn open(path: &Path, mut file: File, normaliser: &Normaliser, progress: Arc<AtomicU64>) -> Result<Self, ReplayError> {
        let failed = |reason: String| ReplayError::Unreadable { file: path.to_owned(), row: 0, reason };
        file.rewind().map_err(|error| failed(error.to_string()))?;
        let (metadata, schema) = guarded(|| {
            let metadata = read_metadata(&mut file).map_err(|error| error.to_string())?;
            let schema = infer_schema(&metadata).map_err(|error| error.to_string())?;
            Ok((metadata, schema))
        })
        .map_err(|reason| {
            failed(format!("its end, where Parquet says what is in it, is not to be read; was it copied whole? ({reason})"))
        })?;
        if metadata.num_rows == 0 {
            return Err(ReplayError::Empty { file: path.to_owned() });
        }
        let fields: Vec<Field> = schema.iter_values().filter(|field| normaliser.reads_column(&field.name)).map(plain).collect();
        if fields.is_empty() {
            let columns: Vec<&str> = schema.iter_names().map(AsRef::as_ref).collect();
            return Err(failed(format!("the spec reads none of its columns: {}", columns.join(", "))));
        }
        Ok(Self { file, metadata, fields, next_group: 0, columns: None, rows: 0, read: 0, number: 0, progress })
    }

    /// Passes over rows; groups that are passed over whole are not read.
    pub(super) fn skip(&mut self, path: &Path, normaliser: &Normaliser, rows: u64) -> Result<(), ReplayError> {
        while let Some(group) = self.metadata.row_groups.get(self.next_group) {
            let rows_of_group = group.num_rows() as u64;
            if self.number + rows_of_group > rows {
                break;
            }
            self.number += rows_of_group;
            self.next_group += 1;
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
        let Some(group) = self.metadata.row_groups.get(self.next_group) else {
            return Ok(false);
        };
        let failed = |reason: String| ReplayError::Unreadable { file: path.to_owned(), row: self.number, reason };
        let (file, fields) = (&mut self.file, &self.fields);
        let columns =
            guarded(|| fields.iter().map(|field| read_column(file, group, field)).collect::<Result<Vec<_>, _>>()).map_err(failed)?;
        let rows = group.num_rows();
        if let Some((name, array)) = columns.iter().find(|(_, array)| array.len() != rows) {
            return Err(failed(format!("the column {name} has {} values for {rows} rows", array.len())));
        }
        let twice = |name: String| failed(format!("two of its columns are read at the place of {name}"));
        self.columns = Some(normaliser.columns(columns).map_err(twice)?);
        (self.rows, self.read) = (rows, 0);
        self.next_group += 1;
        let end = group.full_byte_range().end;
        self.progress.fetch_max(end, Ordering::Relaxed);
        Ok(true)
    }
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

fn read_column(file: &mut File, group: &RowGroupMetadata, field: &Field) -> Result<(String, Box<dyn Array>), String> {
    let name = field.name.to_string();
    let said = |what: String| format!("the column {name}: {what}");
    let length = file.metadata().map_err(|error| error.to_string())?.len();
    let Some(chunks) = group.columns_under_root_iter(&field.name) else {
        return Err(said("is not in every row group".to_owned()));
    };
    let (mut pages, mut types) = (Vec::new(), Vec::new());
    for chunk in chunks {
        let range = chunk.byte_range();
        if range.end > length || range.start > range.end {
            return Err(said(format!("lies beyond the end of the file, at byte {}", range.end)));
        }
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(range.start)).map_err(|error| said(error.to_string()))?;
        file.take(range.end - range.start).read_to_end(&mut bytes).map_err(|error| said(error.to_string()))?;
        let reader = PageReader::new(Cursor::new(Buffer::from_vec(bytes)), chunk, Vec::new(), usize::MAX);
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
