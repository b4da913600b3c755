//! Sets up the log of the process itself: text or JSON on standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, Logging};

/// What a command says that ends by itself, unless somebody has set `log.filter`.
pub const QUIET: &str = "error";

/// Starts logging. A second call in one process changes nothing.
pub fn start(logging: &Logging, no_color: Option<&str>) {
    let filter = EnvFilter::try_new(&logging.filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let base = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let coloured = std::io::stderr().is_terminal() && no_color.is_none_or(str::is_empty);
    // The error says that somebody (a test) has set a subscriber: theirs stays.
    drop(match logging.format {
        LogFormat::Text => base.with_ansi(coloured).with_target(false).try_init(),
        LogFormat::Json => base.json().flatten_event(true).with_ansi(false).try_init(),
    });
}
