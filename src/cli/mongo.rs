//! MongoDB as commands use it: one client on one runtime, patient for seconds, in words that hold no secret.

use std::future::Future;
use std::time::Duration;

use mongodb::Client;
use mongodb::options::{ClientOptions, ReadConcern};
use secrecy::ExposeSecret;
use tokio::runtime::Runtime;

use crate::config::Config;
use crate::config::show::redact_uri;
pub(super) use crate::history::said;

use super::exit::{Exit, Failure};

/// How long a server may take to be found, unless the connection string says otherwise.
const PATIENCE: Duration = Duration::from_secs(5);

/// A client and the runtime it lives on.
pub(super) struct Connection {
    /// The client.
    pub(super) client: Client,
    /// Where, without secrets.
    pub(super) address: String,
    runtime: Runtime,
}

impl Connection {
    /// Waits for the client's answer.
    pub(super) fn wait<T>(&self, answer: impl Future<Output = T>) -> T {
        self.runtime.block_on(answer)
    }

    /// Turns what the driver says into a failure: what was attempted, where, what to do.
    pub(super) fn failure(&self, doing: &str, error: &mongodb::error::Error) -> Failure {
        Failure::new(
            Exit::Unreachable,
            format!("cannot {doing} at {}: {}; `tidemark config check --connect` tries each step", self.address, said(error)),
        )
    }
}

/// Makes a runtime of one thread.
pub(super) fn runtime() -> Result<Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot start a runtime: {error}")))
}

/// Makes a client for `mongodb.uri`. Reads are majority reads.
pub(super) fn connect(config: &Config) -> Result<Connection, Failure> {
    let Some(uri) = &config.mongodb.uri else {
        return Err(Failure::new(
            Exit::Usage,
            "mongodb.uri is not set: set MONGODB_URI, MONGODB_URI_FILE, --mongodb-uri or the key in the configuration file",
        ));
    };
    let address = redact_uri(uri.expose_secret());
    let runtime = runtime()?;
    let options = runtime.block_on(async { ClientOptions::parse(uri.expose_secret()).await });
    let mut options = options.map_err(|error| {
        Failure::new(Exit::Unreachable, format!("cannot resolve {address}: {}; check host names and DNS", said(&error)))
    })?;
    options.app_name.get_or_insert_with(|| "tidemark".to_owned());
    options.server_selection_timeout.get_or_insert(PATIENCE);
    options.connect_timeout.get_or_insert(PATIENCE);
    options.read_concern = Some(ReadConcern::majority());
    let made = {
        let _inside = runtime.enter();
        Client::with_options(options)
    };
    let client = made.map_err(|error| Failure::new(Exit::Usage, format!("cannot use {address}: {}", said(&error))))?;
    Ok(Connection { client, address, runtime })
}
