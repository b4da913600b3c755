//! Lines of a file: plain, gzip or zstd, told apart by their first bytes.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

/// The longest line that is held in memory: a document of 16 MB, the most that MongoDB holds, written wastefully.
const MAX_LINE_BYTES: usize = 64 * 1024 * 1024;

/// What the first bytes of a file say it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Empty,
    Plain,
    Gzip,
    Zstd,
    Parquet,
}

impl Kind {
    pub(super) const MAGIC_BYTES: usize = 4;

    pub(super) fn of(first: &[u8]) -> Self {
        match first {
            [] => Self::Empty,
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Self::Zstd,
            b"PAR1" => Self::Parquet,
            _ => Self::Plain,
        }
    }
}

/// Counts the bytes that go through, for progress.
pub(super) struct Counting<R> {
    inner: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Reads the first bytes of `input` and returns what it is, with an input that still has them.
pub(super) fn look<R: Read + Send + 'static>(mut input: R, read: &Arc<AtomicU64>) -> io::Result<(Kind, Box<dyn Read + Send>)> {
    let mut first = Vec::with_capacity(Kind::MAGIC_BYTES);
    input.by_ref().take(Kind::MAGIC_BYTES as u64).read_to_end(&mut first)?;
    let kind = Kind::of(&first);
    let counting = Counting { inner: Cursor::new(first).chain(input), read: Arc::clone(read) };
    Ok((kind, Box::new(counting)))
}

/// A line.
pub(super) enum Line<'a> {
    /// Without its line feed.
    Whole(&'a [u8]),
    /// One that is not held: its length and hash.
    TooLong { bytes: u64, sha256: [u8; 32] },
}

/// Lines, one after the other.
pub(super) struct Lines {
    input: Box<dyn BufRead + Send>,
    line: Vec<u8>,
    /// Lines that were read whole.
    pub(super) number: u64,
}

impl Lines {
    /// Unpacks `input` as its kind says.
    pub(super) fn unpack(kind: Kind, input: Box<dyn Read + Send>) -> io::Result<Self> {
        const BUFFER_BYTES: usize = 256 * 1024;
        let input: Box<dyn BufRead + Send> = match kind {
            Kind::Gzip => Box::new(BufReader::with_capacity(BUFFER_BYTES, flate2::bufread::MultiGzDecoder::new(BufReader::new(input)))),
            Kind::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::new(input)?;
                // Packed with --long: up to 2 GiB of window, which costs memory only when the frame says so.
                decoder.window_log_max(31)?;
                Box::new(BufReader::with_capacity(BUFFER_BYTES, decoder))
            }
            Kind::Empty | Kind::Plain | Kind::Parquet => Box::new(BufReader::with_capacity(BUFFER_BYTES, input)),
        };
        Ok(Self { input, line: Vec::new(), number: 0 })
    }

    /// Returns the next line; `None` at the end. A last line without line feed is a line.
    pub(super) fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        self.line.clear();
        let read = self.input.by_ref().take(MAX_LINE_BYTES as u64 + 1).read_until(b'\n', &mut self.line)?;
        if read == 0 {
            return Ok(None);
        }
        if self.line.last() == Some(&b'\n') {
            self.line.pop();
        } else if self.line.len() > MAX_LINE_BYTES {
            let line = self.skip_rest()?;
            self.number += 1;
            return Ok(Some(line));
        }
        self.number += 1;
        Ok(Some(Line::Whole(self.last())))
    }

    /// Returns the last line once more, if it was whole.
    pub(super) fn last(&self) -> &[u8] {
        if self.number == 1 { self.line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&self.line) } else { &self.line }
    }

    /// Reads on to the end of a line that is too long.
    fn skip_rest(&mut self) -> io::Result<Line<'static>> {
        let mut sha = Sha256::new();
        sha.update(&self.line);
        let mut bytes = self.line.len() as u64;
        self.line = Vec::new();
        loop {
            let piece = self.input.fill_buf()?;
            let end = piece.iter().position(|&byte| byte == b'\n');
            let (part, used) = end.map_or((piece, piece.len()), |at| (&piece[..at], at + 1));
            sha.update(part);
            bytes += part.len() as u64;
            let is_last = end.is_some() || piece.is_empty();
            self.input.consume(used);
            if is_last {
                return Ok(Line::TooLong { bytes, sha256: sha.finalize().into() });
            }
        }
    }
}

/// Returns a fingerprint of a file: of its length and its first 64 KiB, so that a replay goes on only in the file it began.
pub(super) fn fingerprint(file: &mut File) -> io::Result<String> {
    const LOOKED_AT: u64 = 64 * 1024;
    let mut sha = Sha256::new();
    sha.update(file.metadata()?.len().to_le_bytes());
    let mut first = Vec::new();
    file.take(LOOKED_AT).read_to_end(&mut first)?;
    sha.update(&first);
    Ok(sha.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect())
}
