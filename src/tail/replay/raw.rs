//! Rows of a file as they are, before any spec says what to read of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use serde_json::Value;

use super::lines::{Line, Lines};
use super::parquet::{Column, Groups};
use super::{Input, ReplayError, look_into, stopped};
use crate::tail::normalise::document_of;

/// The rows of a file, in its order.
pub(crate) struct RawRows {
    file: PathBuf,
    input: RawInput,
    number: u64,
}

enum RawInput {
    Lines(Lines),
    Parquet { groups: Box<Groups>, columns: Vec<Column>, rows: usize, read: usize },
}

/// A row, not read yet.
pub(crate) enum RawRow<'r> {
    /// A line of text.
    Line(&'r [u8]),
    /// A row of columns.
    Columns {
        /// The row group's columns.
        columns: &'r [Column],
        /// The row's place in them.
        row: usize,
    },
}

impl RawRow<'_> {
    /// Returns the row as plain or extended JSON.
    ///
    /// # Errors
    /// Why it is none.
    pub(crate) fn json(&self) -> Result<Value, String> {
        match self {
            Self::Line(text) => serde_json::from_slice(text).map_err(|error| error.to_string()),
            Self::Columns { columns, row } => serde_json::to_value(document_of(columns, *row)).map_err(|error| error.to_string()),
        }
    }
}

impl RawRows {
    /// Opens a file, or standard input when it is `-`. What it is its first bytes say.
    ///
    /// # Errors
    /// [`ReplayError`]: not there, empty, or not what its name says.
    pub(crate) fn open(file: &Path) -> Result<Self, ReplayError> {
        let read = Arc::new(AtomicU64::new(0));
        let input = match look_into(file, &read)?.0 {
            Input::Lines(lines) => RawInput::Lines(lines),
            Input::Parquet(opened) => {
                let groups = Box::new(Groups::open(file, opened, &|_| true, read)?);
                RawInput::Parquet { groups, columns: Vec::new(), rows: 0, read: 0 }
            }
        };
        Ok(Self { file: file.to_owned(), input, number: 0 })
    }

    /// Returns the next row that is not blank, with its number from 1; `None` at the end.
    ///
    /// # Errors
    /// [`ReplayError`]; a line longer than any document is one.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, RawRow<'_>)>, ReplayError> {
        match &mut self.input {
            RawInput::Lines(lines) => {
                loop {
                    match lines.next().map_err(|error| stopped(&self.file, self.number, &error))? {
                        None => return Ok(None),
                        Some(Line::TooLong { bytes, .. }) => {
                            let reason = format!("the next line has {bytes} bytes; one document a line is expected");
                            return Err(ReplayError::Unreadable { file: self.file.clone(), row: self.number, reason });
                        }
                        Some(Line::Whole(text)) => {
                            self.number += 1;
                            if !text.trim_ascii().is_empty() {
                                break;
                            }
                        }
                    }
                }
                Ok(Some((self.number, RawRow::Line(lines.last()))))
            }
            RawInput::Parquet { groups, columns, rows, read } => {
                while read == rows {
                    match groups.read(&self.file, self.number)? {
                        None => return Ok(None),
                        Some(group) => (*rows, *columns, *read) = (group.0, group.1, 0),
                    }
                }
                *read += 1;
                self.number += 1;
                Ok(Some((self.number, RawRow::Columns { columns, row: *read - 1 })))
            }
        }
    }
}
