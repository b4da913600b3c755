//! Sets up the log of the process itself: text or JSON on standard error, without secrets whoever writes them.

use std::io::{self, IsTerminal, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::secrets::Secrets;
use crate::config::{LogFormat, Logging};
use crate::metrics;

/// What a command says that ends by itself, unless somebody has set `log.filter`.
pub const QUIET: &str = "error";

/// Starts logging. A second call in one process changes nothing.
pub fn start(logging: &Logging, secrets: Secrets, no_color: Option<&str>) {
    let filter = EnvFilter::try_new(&logging.filter).unwrap_or_else(|_| EnvFilter::new("info"));
    // A line that cannot be written has nobody to be told to: by default that is told on standard error, and panics where that fails.
    let base = tracing_subscriber::fmt().log_internal_errors(false).with_env_filter(filter).with_writer(Scrubbed(secrets));
    let coloured = std::io::stderr().is_terminal() && no_color.is_none_or(str::is_empty);
    // The error says that somebody (a test) has set a subscriber: theirs stays.
    drop(match logging.format {
        LogFormat::Text => base.with_ansi(coloured).with_target(false).try_init(),
        LogFormat::Json => base.json().flatten_event(true).with_ansi(false).try_init(),
    });
}

/// Standard error, without secrets: drivers and servers say what they like.
struct Scrubbed(Secrets);

impl<'w> MakeWriter<'w> for Scrubbed {
    type Writer = Line<'w>;
    fn make_writer(&'w self) -> Line<'w> {
        Line(&self.0)
    }
}

/// One event: the formatter writes it whole, in one call.
struct Line<'w>(&'w Secrets);

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let line = String::from_utf8_lossy(bytes);
        io::stderr().write_all(self.0.scrub(&line).as_bytes()).inspect_err(|_| metrics::log_line_lost())?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
