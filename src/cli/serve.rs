//! `tidemark serve`: predictions over HTTP, until a signal asks for the end.

use std::sync::Arc;
use std::time::Duration;

use crate::cli::exit::{Exit, Failure};
use crate::cli::run::stop_on_signals;
use crate::cli::session::Session;
use crate::metrics;
use crate::serve::ServeError;
use crate::serve::api::{self, Serving};
use crate::stage::{Health, Stop};

/// Answers predictions over HTTP: how long a ticket will take, whether it is unusual, how long a worker's queue is
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tidemark serve                         on the loopback, port 8080
  tidemark serve --listen 0.0.0.0:8080   for other hosts; there is no password, so keep it inside
  curl -s localhost:8080/v1/predictions/duration -H 'content-type: application/json' -d '{\"ticket\": {\"task_type\": \"BUILD\"}}'

/v1/openapi.json describes every answer. Follows Production without a restart. Ends on SIGTERM or SIGINT after the answers under way.")]
pub struct ServeArgs {
    /// Where to listen [key: serve.listen]
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
}

/// Answers.
///
/// # Errors
/// Exit 2 for a faulty configuration or an address that is taken.
pub(super) fn run(arguments: &ServeArgs, session: &mut Session) -> Result<Exit, Failure> {
    let mut config = session.config()?.clone();
    if let Some(listen) = &arguments.listen {
        listen.clone_into(&mut config.serve.listen);
    }
    if config.serve.listen.is_empty() {
        return Err(Failure::new(Exit::Usage, "serve.listen is empty: give an address like 127.0.0.1:8080 with --listen or the key"));
    }
    let spec = Arc::new(session.spec()?);
    // Without enhanced scheduling the registry is not even prepared.
    let registry = if config.serve.enhanced_scheduling { session.registry()? } else { None };
    let (stop, health) = (Stop::default(), Health::default());
    let recorder = metrics::install().map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    let serving = Serving { config: &config, spec: &spec, registry, stop: &stop, health: &health };
    let server = api::start(&serving, recorder).map_err(|error| Failure::new(exit_of(&error), error.to_string()))?;
    let signals = stop_on_signals(&stop)?;
    if let Some(address) = server.address() {
        tracing::info!(%address, spec = spec.name, "serves predictions");
    }
    while !stop.wait(Duration::from_secs(60)) {}
    server.stop();
    drop(signals);
    tracing::info!("stopped");
    Ok(Exit::Ok)
}

fn exit_of(error: &ServeError) -> Exit {
    match error {
        ServeError::Thread(_) => Exit::Failed,
        ServeError::Mongodb(_) => Exit::Unreachable,
        ServeError::Listen { .. } | ServeError::Spec(_) => Exit::Usage,
    }
}
