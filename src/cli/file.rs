//! Lines of a file, whatever it is packed in: the first bytes tell plain, gzip and zstd apart.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::exit::{Exit, Failure};

/// The longest line that is read: a document of MongoDB at its largest, as JSON.
const LONGEST: u64 = 64 * 1024 * 1024;
/// Bytes that are read at once.
const CHUNK: usize = 1 << 18;

/// Lines of a file, one at a time.
pub(super) struct Lines {
    path: PathBuf,
    reader: Box<dyn BufRead>,
    line: Vec<u8>,
    number: u64,
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lines({} at {})", self.path.display(), self.number)
    }
}

impl Lines {
    /// Opens a file.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let wrong = |error: &std::io::Error| {
            Failure::new(Exit::BadInput, format!("cannot open {}: {error}; give a file of NDJSON, plain, gzip or zstd", path.display()))
        };
        let mut file = File::open(path).map_err(|error| wrong(&error))?;
        let mut magic = [0; 4];
        let length = file.read(&mut magic).map_err(|error| wrong(&error))?;
        file.seek(SeekFrom::Start(0)).map_err(|error| wrong(&error))?;
        let reader: Box<dyn BufRead> = match &magic[..length] {
            [0x1f, 0x8b, ..] => Box::new(BufReader::with_capacity(CHUNK, flate2::read::MultiGzDecoder::new(BufReader::new(file)))),
            [0x28, 0xb5, 0x2f, 0xfd] => {
                let decoder = zstd::stream::read::Decoder::new(file).map_err(|error| wrong(&error))?;
                Box::new(BufReader::with_capacity(CHUNK, decoder))
            }
            b"PAR1" => {
                return Err(Failure::new(Exit::BadInput, format!("{} is Parquet; give it as NDJSON, plain, gzip or zstd", path.display())));
            }
            _ => Box::new(BufReader::with_capacity(CHUNK, file)),
        };
        Ok(Self { path: path.to_owned(), reader, line: Vec::new(), number: 0 })
    }

    /// Returns the next line that is not blank, with its number from 1.
    pub(super) fn next(&mut self) -> Result<Option<(u64, &[u8])>, Failure> {
        loop {
            self.line.clear();
            let read = self.reader.by_ref().take(LONGEST).read_until(b'\n', &mut self.line);
            let bytes = read.map_err(|error| {
                let place = format!("{} after line {}", self.path.display(), self.number);
                Failure::new(Exit::BadInput, format!("cannot read {place}: {error}; is the file whole?"))
            })?;
            if bytes == 0 {
                return Ok(None);
            }
            self.number += 1;
            if bytes as u64 == LONGEST && !self.line.ends_with(b"\n") {
                let place = format!("line {} of {}", self.number, self.path.display());
                return Err(Failure::new(
                    Exit::BadInput,
                    format!("{place} is longer than {LONGEST} bytes; is it NDJSON, one document a line?"),
                ));
            }
            if self.line.iter().any(|byte| !byte.is_ascii_whitespace()) {
                return Ok(Some((self.number, self.line.trim_ascii())));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn all(path: &Path) -> Result<Vec<(u64, String)>, Failure> {
        let mut lines = Lines::open(path)?;
        let mut found = Vec::new();
        while let Some((number, line)) = lines.next()? {
            found.push((number, String::from_utf8(line.to_vec()).unwrap()));
        }
        Ok(found)
    }

    #[test]
    fn a_file_is_read_whatever_it_is_packed_in() {
        let directory = tempfile::tempdir().unwrap();
        let text = b"{\"a\":1}\r\n\n  \n{\"a\":2}";
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(text).unwrap();
        for (name, bytes) in
            [("plain", text.to_vec()), ("gzip", gzip.finish().unwrap()), ("zstd", zstd::stream::encode_all(&text[..], 1).unwrap())]
        {
            let path = directory.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(all(&path).unwrap(), [(1, "{\"a\":1}".to_owned()), (4, "{\"a\":2}".to_owned())], "{name}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_bad_input() {
        let directory = tempfile::tempdir().unwrap();
        let mut torn = zstd::stream::encode_all(&[b'x'; 10_000][..], 1).unwrap();
        torn.truncate(torn.len() - 3);
        for (name, bytes) in [("torn", torn), ("parquet", b"PAR1...".to_vec())] {
            let path = directory.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(all(&path).unwrap_err().exit(), Exit::BadInput, "{name}");
        }
        assert_eq!(all(&directory.path().join("none")).unwrap_err().exit(), Exit::BadInput);
    }
}
