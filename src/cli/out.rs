//! Where a command's answer goes: standard output, as text or JSON, coloured on a terminal only.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use super::exit::Failure;

/// Form of a command's answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For a person.
    #[default]
    Text,
    /// For a program.
    Json,
    /// One self-contained page (`check` only).
    Html,
}

/// A colour that says how grave something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// All is well.
    Good,
    /// Look at it.
    Warning,
    /// Act.
    Critical,
    /// Beside the point.
    Faint,
    /// A heading.
    Strong,
}

/// Standard output, or what stands in its place in a test.
pub struct Out {
    to: Box<dyn Write + Send>,
    coloured: bool,
    /// The form asked for.
    pub format: Format,
}

impl Out {
    /// Returns standard output. `no_color` is the environment's `NO_COLOR`.
    #[must_use]
    pub fn stdout(format: Format, no_color: Option<&str>) -> Self {
        let stdout = io::stdout();
        let coloured = stdout.is_terminal() && no_color.is_none_or(str::is_empty);
        Self { to: Box::new(stdout), coloured, format }
    }

    /// Returns an output that keeps what is written, for tests.
    #[cfg(test)]
    pub(crate) fn buffer(format: Format) -> (Self, Buffer) {
        let buffer = Buffer::default();
        (Self { to: Box::new(buffer.clone()), coloured: false, format }, buffer)
    }

    /// Writes one line.
    ///
    /// # Errors
    /// [`Failure::BrokenPipe`] when the reader has gone.
    pub fn line(&mut self, text: impl AsRef<str>) -> Result<(), Failure> {
        self.to.write_all(text.as_ref().as_bytes())?;
        self.to.write_all(b"\n")?;
        Ok(self.to.flush()?)
    }

    /// Writes text as it is.
    ///
    /// # Errors
    /// [`Failure::BrokenPipe`] when the reader has gone.
    pub fn raw(&mut self, text: &[u8]) -> Result<(), Failure> {
        self.to.write_all(text)?;
        Ok(self.to.flush()?)
    }

    /// Writes a value as indented JSON.
    ///
    /// # Errors
    /// [`Failure::BrokenPipe`] when the reader has gone.
    pub fn json<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value).expect("answers have texts as keys");
        self.line(text)
    }

    /// Writes a value as one line of JSON.
    ///
    /// # Errors
    /// [`Failure::BrokenPipe`] when the reader has gone.
    pub fn json_line<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Failure> {
        let text = serde_json::to_string(value).expect("answers have texts as keys");
        self.line(text)
    }

    /// Returns `text` in a tone, where there is colour.
    #[must_use]
    pub fn tone(&self, tone: Tone, text: &str) -> String {
        if !self.coloured {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Good => "32",
            Tone::Warning => "33",
            Tone::Critical => "1;31",
            Tone::Faint => "2",
            Tone::Strong => "1",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }

    /// Writes rows under a head, each column as wide as its widest cell. Widths are counted in characters.
    ///
    /// # Errors
    /// [`Failure::BrokenPipe`] when the reader has gone.
    pub fn table(&mut self, head: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
        let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
        for row in rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let padded = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect::<Vec<_>>();
            padded.join("  ").trim_end().to_owned()
        };
        let head = line(&mut head.iter().copied());
        let head = self.tone(Tone::Strong, &head);
        self.line(head)?;
        for row in rows {
            let text = line(&mut row.iter().map(String::as_str));
            self.line(text)?;
        }
        Ok(())
    }
}

/// Returns `text` without control characters: what comes out of a topic or a document may not steer a terminal.
#[must_use]
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// What a command wrote in a test.
#[cfg(test)]
#[derive(Clone, Default)]
pub(crate) struct Buffer(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

#[cfg(test)]
impl Buffer {
    /// Returns it as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

#[cfg(test)]
impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let (mut out, text) = Out::buffer(Format::Text);
        out.table(&["A", "LONG"], &[vec!["äöü".to_owned(), "x".to_owned()], vec!["b".to_owned(), String::new()]]).unwrap();
        assert_eq!(text.text(), "A    LONG\näöü  x\nb\n");
    }

    #[test]
    fn a_reader_that_has_gone_is_no_failure() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::Error::from(io::ErrorKind::BrokenPipe))
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut out = Out { to: Box::new(Gone), coloured: false, format: Format::Text };
        let failure = out.line("x").unwrap_err();
        assert!(matches!(failure, Failure::BrokenPipe));
        assert_eq!(failure.exit(), super::super::exit::Exit::Ok);
    }
}
