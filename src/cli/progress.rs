//! Says on standard error how far a command is: a line that moves on a terminal, else one line a step.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How far a command is.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    doing: String,
    rows: u64,
}

/// A step whose end is known.
const BAR: &str = "{spinner} {msg} {bar:24} {pos}/{len} rows, {per_sec}, {eta} left";
/// Rows between two updates of the line.
const EVERY: u64 = 1_024;

impl Progress {
    /// Begins, silently.
    pub(super) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {pos} rows") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { bar, doing: String::new(), rows: 0 }
    }

    /// Begins the next step.
    pub(super) fn step(&mut self, doing: &str) {
        self.end_step();
        doing.clone_into(&mut self.doing);
        self.rows = 0;
        if let Some(bar) = &self.bar {
            bar.set_position(0);
            bar.set_message(doing.to_owned());
        }
    }

    /// Counts a row of the step.
    pub(super) fn row(&mut self) {
        self.rows += 1;
        if let Some(bar) = self.bar.as_ref().filter(|_| self.rows.is_multiple_of(EVERY)) {
            bar.set_position(self.rows);
        }
    }

    /// Says how many rows of the step are done, of how many; with the rate, and with the time that is left.
    pub(super) fn rows(&mut self, rows: u64, total: Option<u64>) {
        self.rows = rows;
        let Some(bar) = &self.bar else { return };
        if let (None, Some(total)) = (bar.length(), total) {
            bar.set_length(total);
            if let Ok(style) = ProgressStyle::with_template(BAR) {
                bar.set_style(style);
            }
        }
        bar.set_position(rows);
    }

    fn end_step(&mut self) {
        if self.doing.is_empty() {
            return;
        }
        let rows = if self.rows == 0 { String::new() } else { format!(": {} rows", self.rows) };
        let line = format!("{}{rows}", self.doing);
        match &self.bar {
            Some(bar) => bar.println(line),
            // Nobody is left to be told when standard error is closed.
            None => drop(writeln!(std::io::stderr(), "{line}")),
        }
        self.doing.clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end_step();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
