//! `tidemark completions`: a script for a shell.

use clap::Args;
use clap_complete::Shell;

use super::exit::{Exit, Failure};
use super::out::Out;

/// Which shell.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidemark completions bash > /etc/bash_completion.d/tidemark
  tidemark completions zsh > \"${fpath[1]}/_tidemark\"
  tidemark completions fish > ~/.config/fish/completions/tidemark.fish")]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn run(which: Completions, command: &mut clap::Command, out: &mut Out) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(which.shell, command, "tidemark", &mut script);
    out.raw(&script)?;
    Ok(Exit::Ok)
}
