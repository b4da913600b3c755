//! The `tidemark` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    let environment = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect();
    tidemark::cli::main(std::env::args_os(), environment).into()
}
