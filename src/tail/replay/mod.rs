//! Tickets read from a file, row by row: NDJSON, plain or packed, and Parquet, by the rules that documents are read by.

mod lines;
mod pace;
mod parquet;
mod raw;
mod room;
mod slowdown;
mod source;
mod thrift;

use std::fs::File;
use std::io::{self, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use pace::{Pace, Speed};
pub(crate) use raw::RawRows;
pub use slowdown::Slowdown;
pub use source::{ReplayPlan, ReplaySource};

use lines::{Kind, Line, Lines};
use parquet::ParquetRows;

use super::normalise::{DeadLetter, DeadReason, Normalised, Normaliser, Projected, Unreadable};
use crate::spec::Spec;

/// Why a file cannot be read, or not any further.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// It cannot be opened.
    #[error("cannot open {}: {source}", name(file))]
    Open {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// There is nothing in it.
    #[error("{} has no rows: one JSON object a line is expected (plain, .gz or .zst), or Parquet", name(file))]
    Empty {
        /// The file.
        file: PathBuf,
    },
    /// It ends before its end.
    #[error("{} is cut short: it ends in the middle of its packed data, after line {line}; copy it again", name(file))]
    CutShort {
        /// The file.
        file: PathBuf,
        /// The last whole line, from 1.
        line: u64,
    },
    /// It cannot be read on.
    #[error("cannot read {} after row {row}: {reason}", name(file))]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The last row that was read, from 1.
        row: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// Not one object a line.
    #[error("{} is one JSON array; one object a line is expected: `jq -c '.[]'` makes it so", name(file))]
    Array {
        /// The file.
        file: PathBuf,
    },
    /// Its name says Parquet, its content does not.
    #[error("{} is not a Parquet file, whatever its name says", name(file))]
    NotParquet {
        /// The file.
        file: PathBuf,
    },
}

fn name(file: &Path) -> String {
    if is_stdin(file) { "standard input".to_owned() } else { file.display().to_string() }
}

/// Whether the file is `-`, standard input.
#[must_use]
pub fn is_stdin(file: &Path) -> bool {
    file == Path::new("-")
}

/// A row of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its number, from 1: of a line, blank ones included, or of a row.
    pub number: u64,
    /// What it turned out to be.
    pub normalised: Normalised,
}

/// How far a file has been read, for a person who waits; to be looked at from anywhere.
#[derive(Clone, Debug)]
pub struct Progress {
    read: Arc<AtomicU64>,
    total: Option<u64>,
}

impl Progress {
    /// Returns the share of the file's bytes that have been read, between 0 and 1; `None` when its length is not known.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a share for the eye")]
    pub fn share(&self) -> Option<f64> {
        let total = self.total.filter(|&total| total > 0)?;
        Some((self.read.load(Ordering::Relaxed) as f64 / total as f64).min(1.0))
    }
}

/// The rows of a file, in its order. After an error there are none.
pub struct Replay {
    file: PathBuf,
    normaliser: Normaliser,
    slowdown: Option<Slowdown>,
    rows: Rows,
    unreadable: Unreadable,
    progress: Progress,
    is_over: bool,
}

enum Rows {
    Lines(Lines),
    Parquet(Box<ParquetRows>),
}

impl Replay {
    /// Opens a file, or standard input when it is `-`. What it is its first bytes say.
    ///
    /// # Errors
    /// [`ReplayError`]: not there, empty, or not what its name says.
    pub fn open(file: &Path, spec: &Spec) -> Result<Self, ReplayError> {
        let read = Arc::new(AtomicU64::new(0));
        let normaliser = Normaliser::new(spec);
        let (input, total) = look_into(file, &read)?;
        let rows = match input {
            Input::Lines(lines) => Rows::Lines(lines),
            Input::Parquet(opened) => Rows::Parquet(Box::new(ParquetRows::open(file, opened, &normaliser, Arc::clone(&read))?)),
        };
        Ok(Self {
            file: file.to_owned(),
            normaliser,
            slowdown: None,
            rows,
            unreadable: Unreadable::default(),
            progress: Progress { read, total },
            is_over: false,
        })
    }

    /// Slows some completed tickets down.
    #[must_use]
    pub fn with_slowdown(mut self, slowdown: Slowdown) -> Self {
        self.slowdown = Some(slowdown);
        self
    }

    /// Returns the counts of unreadable fields so far, and begins to count anew.
    pub fn take_unreadable(&mut self) -> Unreadable {
        std::mem::take(&mut self.unreadable)
    }

    /// Returns how far the file has been read, now and later.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Passes over the first `rows` rows without looking at them.
    ///
    /// # Errors
    /// [`ReplayError`]; a file that has fewer rows is unreadable after its last.
    pub fn skip_rows(&mut self, rows: u64) -> Result<(), ReplayError> {
        let lines = match &mut self.rows {
            Rows::Lines(lines) => lines,
            Rows::Parquet(parquet) => return parquet.skip(&self.file, &self.normaliser, rows),
        };
        while lines.number < rows {
            match lines.next() {
                Ok(Some(_)) => {}
                Ok(None) => {
                    let reason = format!("it has fewer than the {rows} rows that were read before");
                    return Err(ReplayError::Unreadable { file: self.file.clone(), row: lines.number, reason });
                }
                Err(error) => return Err(stopped(&self.file, lines.number, &error)),
            }
        }
        Ok(())
    }

    fn next_row(&mut self) -> Result<Option<Row>, ReplayError> {
        let lines = match &mut self.rows {
            Rows::Lines(lines) => lines,
            Rows::Parquet(parquet) => {
                let normalised = parquet.next(&self.file, &self.normaliser, &mut self.unreadable)?;
                return Ok(normalised.map(|normalised| Row { number: parquet.number, normalised }));
            }
        };
        loop {
            let number = lines.number + 1;
            let line = match lines.next() {
                Ok(Some(line)) => line,
                Ok(None) if number == 1 => return Err(ReplayError::Empty { file: self.file.clone() }),
                Ok(None) => return Ok(None),
                Err(error) => return Err(stopped(&self.file, number - 1, &error)),
            };
            let normalised = match line {
                Line::Whole(text) if text.trim_ascii().is_empty() => continue,
                Line::Whole(text) if number == 1 && text.trim_ascii_start().starts_with(b"[") => {
                    return Err(ReplayError::Array { file: self.file.clone() });
                }
                Line::Whole(text) => self.normaliser.from_json(text, number, &mut self.unreadable),
                Line::TooLong { bytes, sha256 } => too_long(number, bytes, &sha256),
            };
            return Ok(Some(Row { number, normalised }));
        }
    }
}

impl Iterator for Replay {
    type Item = Result<Row, ReplayError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let mut row = self.next_row();
        self.is_over = !matches!(row, Ok(Some(_)));
        if let (Ok(Some(Row { normalised: Normalised::Completed(ticket), .. })), Some(slowdown)) = (&mut row, &self.slowdown) {
            slowdown.apply(ticket);
        }
        row.transpose()
    }
}

/// What a file turned out to be.
enum Input {
    Lines(Lines),
    Parquet(File),
}

/// Opens a file, or standard input when it is `-`, and looks at its first bytes; returns its length too, where it has one.
fn look_into(file: &Path, read: &Arc<AtomicU64>) -> Result<(Input, Option<u64>), ReplayError> {
    let failed = |source| ReplayError::Open { file: file.to_owned(), source };
    let (kind, input, total) = if is_stdin(file) {
        let (kind, input) = lines::look(io::stdin(), read).map_err(failed)?;
        (kind, input, None)
    } else {
        let opened = File::open(file).map_err(failed)?;
        let about = opened.metadata().map_err(failed)?;
        if about.is_dir() {
            return Err(failed(io::Error::new(io::ErrorKind::IsADirectory, "a directory, not a file")));
        }
        let (kind, input) = lines::look(opened, read).map_err(failed)?;
        (kind, input, about.is_file().then_some(about.len()))
    };
    let says_parquet = file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("parquet"));
    let input = match kind {
        Kind::Empty => return Err(ReplayError::Empty { file: file.to_owned() }),
        _ if says_parquet && kind != Kind::Parquet => return Err(ReplayError::NotParquet { file: file.to_owned() }),
        Kind::Parquet if is_stdin(file) => {
            let reason = "Parquet is read from its end; give the name of a file".to_owned();
            return Err(ReplayError::Unreadable { file: file.to_owned(), row: 0, reason });
        }
        Kind::Parquet => Input::Parquet(File::open(file).map_err(failed)?),
        _ => Input::Lines(Lines::unpack(kind, input).map_err(failed)?),
    };
    Ok((input, total))
}

fn stopped(file: &Path, line: u64, error: &io::Error) -> ReplayError {
    let file = file.to_owned();
    match error.kind() {
        io::ErrorKind::UnexpectedEof => ReplayError::CutShort { file, line },
        _ => ReplayError::Unreadable { file, row: line, reason: error.to_string() },
    }
}

fn too_long(number: u64, bytes: u64, sha256: &[u8]) -> Normalised {
    let sha256 = sha256.iter().map(|byte| format!("{byte:02x}")).collect();
    Normalised::Dead(Box::new(DeadLetter {
        id: None,
        reason: DeadReason::TooLarge,
        detail: format!("a line of {bytes} bytes"),
        document: None,
        position: Some(format!("line {number}")),
        fields: Projected { text: String::new(), bytes, sha256 },
        completed_at_ms: None,
    }))
}

/// Returns a fingerprint by which a replay knows its file again; of standard input there is none.
///
/// # Errors
/// [`ReplayError::Open`].
pub fn fingerprint(file: &Path) -> Result<String, ReplayError> {
    if is_stdin(file) {
        return Ok("stdin".to_owned());
    }
    let mut opened = File::open(file).map_err(|source| ReplayError::Open { file: file.to_owned(), source })?;
    let fingerprint = opened.rewind().and_then(|()| lines::fingerprint(&mut opened));
    fingerprint.map_err(|source| ReplayError::Open { file: file.to_owned(), source })
}

#[cfg(test)]
mod tests;
